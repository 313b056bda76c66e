"""Several views of every sample (crops, mirrored ones), and the average of what the model says about them.

For testing, as cuda-convnet2's --multiview-test: four corners and the centre, each also mirrored (10 views, Krizhevsky
et al. 2012, section 4.1), or a grid of 3 × 3 (9). A `MultiView` stands in the place of `inputs`, so losses and metrics
of the averaged outputs are exact over a data set like those of any other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from minibatch.train.batches import Inputs, Samples, TensorBatch, forward_function
from minibatch.transforms import MultiCrop, Transform, apply, name_operations

Average = Literal["softmax", "sigmoid", "mean"]
View = Transform | Sequence[Transform]


@dataclass(frozen=True, kw_only=True)
class MultiView:
    """`inputs` of a model that is shown every sample in several views: outputs as of one view, averaged over all.

    views: a `MultiCrop`, or one transform (or sequence of them) for each view; their random numbers are keyed to the
    sample's nominal time, so they give the same in every run. then: transforms of every view after that. inputs: what
    the model is called with, as in `Trainer`.

    average: how floating-point outputs of the views become one. "softmax": logits (n, classes, …) become the logarithm
    of the mean of their probabilities, which cross entropy and accuracy take as logits again: log softmax of it is
    itself. "sigmoid": likewise for the logits of independent labels. "mean": of numbers. Or a mapping from the names
    (numbers) of several outputs to these. In float64.

    >>> views = MultiView(views=(lambda f, d: f, lambda f, d: {**f, "x": -f["x"]}), inputs="x", average="mean")
    >>> views(nn.Identity(), TensorBatch(Samples({"x": np.ones(3)}, time=0)))
    tensor([0., 0., 0.], dtype=torch.float64)
    """

    views: MultiCrop | Sequence[View]
    inputs: Inputs
    then: Sequence[Transform] = ()
    average: Average | Mapping[str | int, Average] = "softmax"

    def __post_init__(self) -> None:
        kinds = self.average.values() if isinstance(self.average, Mapping) else [self.average]
        for kind in kinds:
            if kind not in MEANS:
                raise ValueError(f"average={self.average!r}: expected one of {', '.join(map(repr, MEANS))}")
        if not isinstance(self.views, MultiCrop) and not len(self.views):
            raise ValueError("views=(): expected at least one")

    def __call__(self, model: nn.Module, batch: TensorBatch) -> Any:
        """The averaged outputs of the model, in the structure of its outputs."""
        forward = forward_function(self.inputs)
        outputs = []
        for fields in self.shown(batch):
            view = TensorBatch(Samples(fields, time=0))
            outputs.append(forward(model, view if batch.device is None else view.on(batch.device)))
        return _averaged(outputs, self.average)

    def shown(self, batch: TensorBatch) -> Iterator[dict[str, Any]]:
        """The fields (n, …) of each view, in order."""
        fields = {name: value.cpu().numpy() if isinstance(value, Tensor) else value for name, value in batch.items()}
        if isinstance(self.views, MultiCrop):
            cropped = self._applied([self.views], dict(fields), batch)[self.views.field]
            choices = ({**fields, self.views.field: cropped[:, number]} for number in range(cropped.shape[1]))
            steps: list[Sequence[Transform]] = [()] * cropped.shape[1]
        else:
            choices = (dict(fields) for _ in self.views)
            steps = [(view,) if callable(view) else tuple(view) for view in self.views]
        for chosen, transforms in zip(choices, steps, strict=True):
            yield self._applied([*transforms, *self.then], chosen, batch)

    def _applied(self, transforms: Sequence[Transform], fields: dict[str, Any], batch: TensorBatch) -> dict[str, Any]:
        found, times, _ = apply(name_operations(transforms), fields, 0, batch.times, batch.rows)
        if len(times) != batch.num_samples:
            raise ValueError(
                f"the views {transforms} dropped {batch.num_samples - len(times)} of {batch.num_samples} samples: a "
                "view is of every sample"
            )
        return found


def views_named(views: Literal["corners", "grid"], *, size: int, field: str) -> MultiCrop:
    """cuda-convnet2's views of images (n, height, width, …) in `field`: of its ImageNet or of its CIFAR provider.

    >>> views_named("grid", size=24, field="image")
    MultiCrop(size=24, views='grid', flips=False, field='image')
    """
    return MultiCrop(size=size, views=views, flips=views == "corners", field=field)


def mean_of_softmax(logits: Tensor) -> Tensor:
    """log of the mean over views of softmax(logits): float64 (n, classes, …) of logits (views, n, classes, …)."""
    if logits.ndim < 3:
        raise ValueError(
            f"average='softmax' needs logits (n, classes, …), the outputs have shape {tuple(logits.shape[1:])}: pass "
            "average='mean', or 'sigmoid' for independent labels"
        )
    logs = torch.log_softmax(logits.double(), dim=2)
    return torch.logsumexp(logs, dim=0) - float(np.log(len(logits)))


def mean_of_sigmoid(logits: Tensor) -> Tensor:
    """The logits of the mean over views of sigmoid(logits): float64 (n, …) of logits (views, n, …)."""
    yes = torch.logsumexp(nn.functional.logsigmoid(logits.double()), dim=0)
    no = torch.logsumexp(nn.functional.logsigmoid(-logits.double()), dim=0)
    return yes - no


def _averaged(outputs: Sequence[Any], average: Average | Mapping[str | int, Average]) -> Any:
    first = outputs[0]
    if isinstance(first, Mapping):
        return {name: _averaged([one[name] for one in outputs], _of(average, name)) for name in first}
    if isinstance(first, tuple | list):
        parts = [_averaged([one[i] for one in outputs], _of(average, i)) for i in range(len(first))]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if not isinstance(first, Tensor) or not first.is_floating_point() or not first.ndim:
        return first
    if isinstance(average, Mapping):
        raise ValueError(
            f"average={average} names several outputs, and the model has one: pass one of {', '.join(MEANS)}"
        )
    return MEANS[average](torch.stack(list(outputs)))


def _of(average: Average | Mapping[str | int, Average], name: str | int) -> Average | Mapping[str | int, Average]:
    if not isinstance(average, Mapping):
        return average
    if name not in average:
        raise ValueError(f"average={average} does not say how to average the output {name!r}")
    return average[name]


MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": mean_of_softmax,
    "sigmoid": mean_of_sigmoid,
    "mean": lambda values: values.double().mean(dim=0),
}
