"""Which outputs and fields a loss compares: `on(cross_entropy, "label")` makes a term's loss of a plain function."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minibatch.train.batches import TensorBatch, shapes_of
from minibatch.train.losses.shapes import checked_factors

Output = str | int | Sequence[str | int] | None


@dataclass(frozen=True)
class OfBatch:
    """An option that is a field of the batch, as `of_batch` makes it."""

    field: str


@dataclass(frozen=True)
class OfOutputs:
    """An option that is one of the model's outputs, as `of_outputs` makes it."""

    output: str | int


def of_batch(name: str) -> OfBatch:
    """For an option of `on`: its value is the field `name` of every batch.

    >>> from minibatch.train.losses import ctc
    >>> loss = on(ctc, "text", output="logits", input_lengths=of_batch("frames"))
    >>> batch = {"text": torch.tensor([[1]]), "frames": torch.tensor([1])}
    >>> loss({"logits": torch.zeros(1, 5, 2)}, batch)     # only the first of five steps counts: -log ½
    tensor([0.6931])
    """
    return OfBatch(name)


def of_outputs(output: str | int) -> OfOutputs:
    """For an option of `on`: its value is this output of the model (a key, an attribute or an index).

    >>> from minibatch.train.losses import contrastive
    >>> loss = on(contrastive, output=("query", "document"), temperature=of_outputs("temperature"))
    >>> loss.over
    'minibatch'
    """
    return OfOutputs(output)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """`function(outputs[output], batch[target], **options)`: a loss or a metric of a term, as `on` makes it."""

    function: Callable[..., Tensor]
    target: str | None = None
    output: Output = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def over(self) -> str:
        """What a term needs as `over=`: "minibatch" where values depend on the other samples, else "sample"."""
        over: str = getattr(self.function, "over", "sample")
        return over

    def __call__(self, outputs: Any, batch: TensorBatch) -> Tensor:
        arguments = all_chosen(outputs, self.output)
        if self.target is not None:
            arguments.append(batch[self.target])
        options = self.options
        for option in options.values():
            if isinstance(option, OfBatch | OfOutputs):
                options = {name: resolved(value, outputs, batch) for name, value in options.items()}
                break
        return self.function(*arguments, **options)


def on(
    function: Callable[..., Tensor], target: str | None = None, *, output: Output = None, **options: Any
) -> Compared:
    """The loss of a term: `function` of the model's output and the field `target`, with options.

    target: a field of the batch; None for a function of outputs alone. output: the key, attribute or index of one
    output where the model returns several, a tuple of them for a function of several, None for the whole output.
    An option may be `of_batch(name)` or `of_outputs(name)`: then it is taken from every batch, or from the outputs.

    >>> from minibatch.train.losses import gaussian_nll, huber
    >>> loss = on(huber, "box", beta=0.11)
    >>> loss(torch.ones(1, 4), {"box": torch.zeros(1, 4)})
    tensor([0.9450])
    >>> loss = on(gaussian_nll, "y", output=("mean", "variance"))
    >>> loss({"mean": torch.zeros(1), "variance": torch.ones(1)}, {"y": torch.ones(1)})
    tensor([0.5000])
    """
    return Compared(function=function, target=target, output=output, options=options)


@dataclass(frozen=True, kw_only=True)
class ClassWeight:
    """The weight of every sample by its class, as `class_weight` makes it."""

    target: str
    weights: tuple[float, ...]

    def __call__(self, batch: TensorBatch) -> Tensor:
        labels = batch[self.target].long()
        if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= len(self.weights)):
            raise ValueError(
                f"field {self.target!r} has labels from {int(labels.min())} to {int(labels.max())}, "
                f"class weights are given for 0 to {len(self.weights) - 1}"
            )
        return torch.tensor(self.weights, dtype=torch.float64)[labels]


def class_weight(target: str, weights: Sequence[float], *, normalize: bool = False) -> ClassWeight:
    """For `Term(weight=…)`: the weight of every sample by its class, `weights[batch[target]]`.

    With the denominator "weights" this is what torch's cross entropy with class weights and `mean` divides by, but for
    the whole minibatch. normalize: divided by their sum over the classes, which the denominator "weights" cancels, but
    "count" does not: with it this is HALCON's class-weighted loss.

    >>> class_weight("label", [1.0, 20.0])({"label": torch.tensor([1, 0])})
    tensor([20.,  1.], dtype=torch.float64)
    >>> class_weight("label", [1.0, 3.0], normalize=True)({"label": torch.tensor([1, 0])})
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    return ClassWeight(target=target, weights=tuple(checked_factors(weights, normalize=normalize)))


@dataclass(frozen=True, kw_only=True)
class Present:
    """Where a field has values, as `present` makes it."""

    target: str
    missing: float

    def __call__(self, batch: TensorBatch) -> Tensor:
        values: Tensor = batch[self.target]
        return ~values.isnan() if self.missing != self.missing else values != self.missing


def present(target: str, *, missing: float = float("nan")) -> Present:
    """For `Term(mask=…)`: where the field `target` is not `missing` (by default: is not NaN), bool (n, …).

    Give the loss the same `missing=`, so that gradients are 0 there instead of NaN; for elements of a sample, keep them
    apart with `reduce="none"`.

    >>> present("y")({"y": torch.tensor([1.0, float("nan")])})
    tensor([ True, False])
    >>> present("label", missing=-1)({"label": torch.tensor([[0, -1], [2, 3]])})
    tensor([[ True, False],
            [ True,  True]])
    """
    return Present(target=target, missing=missing)


def resolved(value: Any, outputs: Any, batch: TensorBatch) -> Any:
    """What an option stands for in this batch."""
    if isinstance(value, OfBatch):
        return batch[value.field]
    return chosen(outputs, value.output) if isinstance(value, OfOutputs) else value


def all_chosen(outputs: Any, output: Output) -> list[Any]:
    """The outputs that a function takes: all as one, one of them, or several."""
    if output is None:
        return [outputs]
    return [chosen(outputs, each) for each in ((output,) if isinstance(output, str | int) else output)]


def chosen(outputs: Any, output: str | int) -> Any:
    """One output of the model, by key, attribute or index."""
    try:
        if isinstance(output, str) and not isinstance(outputs, Mapping):
            return getattr(outputs, output)
        return outputs[output]
    except (KeyError, IndexError, AttributeError, TypeError):
        raise ValueError(f"the model has no output {output!r}: it returned {shapes_of(outputs)}") from None
