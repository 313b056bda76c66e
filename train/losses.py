"""Per-sample losses: each returns values (n,), one per sample, and never a reduction; terms.py does the sums.

`on(cross_entropy, "label")` makes of such a function the loss of a term: which output it is of, which field it is
compared with, and its options, all of which go into the run's saved configuration.

Functions take outputs and targets of n samples. Where a sample has several elements (an image, a vector), its loss is
their mean; with `reduce="none"` the elements stay (n, …), for weights and masks per element.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from minibatch.train.batches import TensorBatch, shapes_of

Reduce = Literal["mean", "sum", "none"]


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    missing: int | None = None,
) -> Tensor:
    """-log softmax(logits)[label] of every sample: (n,), or (n, …) for logits (n, classes, …).

    logits: floating (n, classes, …); labels: integers (n, …). class_weights: one factor per class, on the loss alone:
    to divide by the weights as torch's `mean` does, give them to the term as `weight=class_weight(…)` instead.
    label_smoothing: the share of the target that is spread evenly over all classes (Szegedy et al. 2016,
    arXiv:1512.00567, section 7). missing: a label whose loss and gradient are 0 (mask such samples in the term).
    Source: Bishop 2006, Pattern Recognition and Machine Learning, equation 4.108.

    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor([1.3863, 1.3863])
    """
    weights = None if class_weights is None else logits.new_tensor(list(class_weights))
    if weights is not None and len(weights) != logits.shape[1]:
        raise ValueError(f"class_weights has {len(weights)} numbers, the logits {logits.shape[1]} classes")
    if labels.ndim == logits.ndim - 1 and not labels.is_floating_point():
        try:
            return F.cross_entropy(
                logits,
                labels if labels.dtype is torch.int64 else labels.long(),
                weight=weights,
                ignore_index=-100 if missing is None else missing,
                reduction="none",
                label_smoothing=label_smoothing,
            )
        except (ValueError, RuntimeError):  # what torch says of other shapes
            if labels.shape == (*logits.shape[:1], *logits.shape[2:]):
                raise
    raise ValueError(
        "cross_entropy needs floating logits (n, classes, …) and integer labels (n, …), got "
        f"{shapes_of(logits)} and {shapes_of(labels)}"
    )


def mse(outputs: Tensor, targets: Tensor, *, reduce: Reduce = "mean") -> Tensor:
    """(output - target)², the mean over the elements of every sample: (n,). Bishop 2006, equation 1.2 without ½.

    >>> mse(torch.ones(2, 3), torch.zeros(2, 3))
    tensor([1., 1.])
    """
    _same_shape("mse", outputs, targets)
    return _per_sample((outputs - targets).square(), reduce)


def l1(outputs: Tensor, targets: Tensor, *, reduce: Reduce = "mean") -> Tensor:
    """|output - target|, the mean over the elements of every sample: (n,). Laplace 1774: the median's loss.

    >>> l1(torch.full((1, 2), -3.0), torch.zeros(1, 2))
    tensor([3.])
    """
    _same_shape("l1", outputs, targets)
    return _per_sample((outputs - targets).abs(), reduce)


def huber(outputs: Tensor, targets: Tensor, *, beta: float = 1.0, reduce: Reduce = "mean") -> Tensor:
    """x²/(2β) where |x| < β, else |x| - β/2, with x = output - target; the mean over a sample's elements: (n,).

    This is the form with slope 1 ("smooth L1", Girshick 2015, arXiv:1504.08083, equation 3), Huber's loss (Huber 1964)
    divided by β. beta: > 0.

    >>> huber(torch.tensor([[0.5], [3.0]]), torch.zeros(2, 1))
    tensor([0.1250, 2.5000])
    """
    if not beta > 0:
        raise ValueError(f"huber: beta={beta}, expected a number > 0 (for beta 0 use l1)")
    _same_shape("huber", outputs, targets)
    return _per_sample(F.smooth_l1_loss(outputs, targets, reduction="none", beta=beta), reduce)


def binary_cross_entropy(logits: Tensor, targets: Tensor, *, reduce: Reduce = "mean") -> Tensor:
    """-[y log σ(z) + (1 - y) log(1 - σ(z))] of logits z, targets 0 ≤ y ≤ 1; the mean over a sample's elements: (n,).

    Computed as max(z, 0) - z·y + log(1 + exp(-|z|)), which does not overflow. targets: bool, integer or floating.
    Source: Bishop 2006, equation 4.90.

    >>> binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[True, False]]))
    tensor([0.6931])
    """
    _same_shape("binary_cross_entropy", logits, targets)
    values = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return _per_sample(values, reduce)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """`function(outputs[output], batch[target], **options)`: a loss or a metric of a term, as `on` makes it."""

    function: Callable[..., Tensor]
    target: str
    output: str | int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, outputs: Any, batch: TensorBatch) -> Tensor:
        chosen = outputs if self.output is None else _chosen(outputs, self.output)
        return self.function(chosen, batch[self.target], **self.options)


def on(function: Callable[..., Tensor], target: str, *, output: str | int | None = None, **options: Any) -> Compared:
    """The loss of a term: `function` of the model's output and the field `target`, with options.

    output: the key, attribute or index of one output where the model returns several; None for the whole output.

    >>> loss = on(huber, "box", beta=0.11)
    >>> loss(torch.ones(1, 4), {"box": torch.zeros(1, 4)})
    tensor([0.9450])
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


def class_weight(target: str, weights: Sequence[float]) -> ClassWeight:
    """For `Term(weight=…)`: the weight of every sample by its class, `weights[batch[target]]`.

    With the denominator "weights" this is what torch's cross entropy with class weights and `mean` divides by, but for
    the whole minibatch.

    >>> class_weight("label", [1.0, 20.0])({"label": torch.tensor([1, 0])})
    tensor([20.,  1.], dtype=torch.float64)
    """
    return ClassWeight(target=target, weights=tuple(float(weight) for weight in weights))


def _chosen(outputs: Any, output: str | int) -> Any:
    if isinstance(output, str) and not isinstance(outputs, Mapping):
        return getattr(outputs, output)
    return outputs[output]


def _same_shape(name: str, outputs: Tensor, targets: Tensor) -> None:
    # (n, 1) against (n,) would broadcast to (n, n): the oldest silent error of this trade.
    if outputs.shape != targets.shape or outputs.ndim == 0:
        raise ValueError(
            f"{name} needs outputs and targets of one shape (n, …), got {shapes_of(outputs)} and {shapes_of(targets)}"
        )


def _per_sample(values: Tensor, reduce: Reduce) -> Tensor:
    if reduce not in ("mean", "sum", "none"):
        raise ValueError(f"reduce={reduce!r}: expected 'mean', 'sum' or 'none' (over the elements of a sample)")
    if reduce == "none" or values.ndim == 1:
        return values
    return values.flatten(1).mean(1) if reduce == "mean" else values.flatten(1).sum(1)
