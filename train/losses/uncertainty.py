"""Learned weights of tasks: each task's loss is scaled by its own uncertainty, which is learned too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minibatch.train.batches import TensorBatch, shapes_of
from minibatch.train.losses.fields import OfOutputs, chosen
from minibatch.train.losses.shapes import wide

Kind = Literal["classification", "regression"]


class Uncertainty(nn.Module):
    """One learned log-variance s = log σ² per task: a module with the parameter `log_variances`, (tasks,), at first 0.

    Called with a number of samples it gives {task: (n,)}, every sample the same: outputs that a model can return beside
    its others, for `uncertain(loss, of_outputs(…), task)`. Leave its parameter out of weight decay.

    >>> head = Uncertainty(["class", "depth"])
    >>> head(2)["depth"]
    tensor([0., 0.], grad_fn=<ExpandBackward0>)
    """

    def __init__(self, tasks: Sequence[str], *, initial: float = 0.0) -> None:
        super().__init__()
        if isinstance(tasks, str) or not tasks or len(set(tasks)) != len(tasks):
            raise ValueError(f"tasks={tasks!r}: expected names of tasks, each once")
        self.tasks = tuple(tasks)
        self.log_variances = nn.Parameter(torch.full((len(self.tasks),), initial))

    def log_variance(self, task: str) -> Tensor:
        """The log-variance of one task: 0-dim."""
        if task not in self.tasks:
            raise ValueError(f"no task {task!r}: this head has {', '.join(self.tasks)}")
        return self.log_variances[self.tasks.index(task)]

    def forward(self, samples: int) -> dict[str, Tensor]:
        return {task: self.log_variance(task).expand(samples) for task in self.tasks}

    def extra_repr(self) -> str:
        return ", ".join(self.tasks)


@dataclass(frozen=True, kw_only=True)
class Uncertain:
    """A term's loss scaled by a learned uncertainty, as `uncertain` makes it."""

    loss: Any
    head: Uncertainty | OfOutputs
    task: str
    kind: Kind = "classification"

    def __post_init__(self) -> None:
        if self.kind not in ("classification", "regression"):
            raise ValueError(f"uncertain: kind={self.kind!r}, expected 'classification' or 'regression'")
        if not callable(self.loss):
            raise TypeError(f"uncertain: loss must be a function (outputs, batch) -> values, got {self.loss!r}")
        if isinstance(self.head, Uncertainty):
            self.head.log_variance(self.task)  # an unknown task is refused here

    @property
    def over(self) -> str:
        """As of the loss inside."""
        over: str = getattr(self.loss, "over", "sample")
        return over

    def __call__(self, outputs: Any, batch: TensorBatch) -> Tensor:
        values = wide(self.loss(outputs, batch))
        if isinstance(self.head, Uncertainty):
            s = self.head.log_variance(self.task)
        else:
            given = chosen(outputs, self.head.output)
            s = given if isinstance(given, Tensor) else chosen(given, self.task)
            if s.shape not in ((), (len(values),)):
                raise ValueError(
                    f"uncertain: the log-variance of task {self.task!r} is {shapes_of(s)}, expected one number per "
                    f"sample, ({len(values)},), or one for all, ()"
                )
            s = wide(s)
        if s.ndim:
            s = s.view(-1, *[1] * (values.ndim - 1))
        scale = torch.exp(-s)
        return (scale if self.kind == "classification" else 0.5 * scale) * values + 0.5 * s


def uncertain(loss: Any, head: Uncertainty | OfOutputs, task: str, *, kind: Kind = "classification") -> Uncertain:
    """The loss of a term, exp(-s)·loss + s/2 per value, with the learned log-variance s of `task`.

    loss: as of any term. head: an `Uncertainty` that is part of the model (so that its parameter is trained), or
    `of_outputs(…)` where the model returns it: one (n,) tensor, or a mapping from tasks. kind: "regression" has
    ½ exp(-s)·loss + s/2, for squared errors.

    With the denominators "weights" and "count", the mean over the samples that have the task is the paper's objective
    exp(-s)·L + log σ with L the mean over the same samples, whatever the minibatch lacks; a task of which it has none
    contributes nothing, not even s/2. With other denominators s/2 is divided as the losses are.
    A coefficient multiplies the whole. s = 0 at first: every loss starts with the weight 1 (regression: ½).
    Source: Kendall, Gal and Cipolla 2018, arXiv:1705.07115, equations 5, 7 and 10, with s = log σ².

    >>> from minibatch.train.losses import mse, on
    >>> head = Uncertainty(["depth"], initial=1.0)
    >>> loss = uncertain(on(mse, "y"), head, "depth", kind="regression")
    >>> loss(torch.zeros(1, 1), {"y": torch.full((1, 1), 2.0)})      # ½ · e⁻¹ · 4 + ½
    tensor([1.2358], grad_fn=<AddBackward0>)
    """
    return Uncertain(loss=loss, head=head, task=task, kind=kind)
