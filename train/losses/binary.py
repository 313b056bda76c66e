"""Binary cross entropy: yes or no, once or for many labels of a sample at a time."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minibatch.train.batches import shapes_of
from minibatch.train.losses.shapes import Reduce, along_classes, factors, known_targets, per_sample, same_shape, wide


def binary_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    pos_weight: float | Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    missing: float | None = None,
    reduce: Reduce = "mean",
) -> Tensor:
    """-[P·y log σ(z) + (1 - y) log(1 - σ(z))] of logits z, targets 0 ≤ y ≤ 1; the mean over a sample's elements: (n,).

    Computed as max(z, 0) - z·y + log(1 + exp(-|z|)) for P = 1, which does not overflow. logits: floating (n, …) or
    multilabel (n, labels, …); targets: bool, integer or floating of the same shape.

    pos_weight: P, one factor or one per label (cuda-convnet2's `posWeight`; 1 by default). label_smoothing ε: targets
    y (1 - ε) + ε/2. missing: a target (-1, NaN) whose loss and gradient are 0; mask such elements in the term, see
    `present`. reduce: cuda-convnet2's `cost.bce` and `cost.dce` have "sum". The other outputs of those two are metrics:
    `metrics.hamming`, and precision and recall by `metrics.Collected`.
    On the CPU a target outside of 0 to 1 is a ValueError; on a device it would have to be waited for, and passes.
    Source: Bishop 2006, equation 4.90; Krizhevsky 2014, cuda-convnet2, `BinomialCrossEntOperator` in layer.cuh.

    >>> binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[True, False]]))
    tensor([0.6931])
    >>> binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[1, -1]]), missing=-1, pos_weight=3.0, reduce="none")
    tensor([[2.0794, 0.0000]])
    """
    same_shape("binary_cross_entropy", logits, targets)
    logits, targets, known = binary_targets("binary_cross_entropy", wide(logits), targets, missing)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"binary_cross_entropy: label_smoothing={label_smoothing}, expected a share from 0 to 1")
    if label_smoothing:
        targets = targets * (1.0 - label_smoothing) + 0.5 * label_smoothing
    values = F.binary_cross_entropy_with_logits(
        logits, targets, reduction="none", pos_weight=per_label("pos_weight", pos_weight, logits)
    )
    return per_sample(values if known is None else values.where(known, 0.0), reduce)


def binary_targets(
    name: str, logits: Tensor, targets: Tensor, missing: float | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, targets of their dtype with 0 in place of `missing`, and where targets were given (None: everywhere)."""
    if not logits.is_floating_point():
        raise ValueError(f"{name} needs floating logits, got {shapes_of(logits)}")
    given = targets
    if not targets.is_floating_point() or targets.dtype.itemsize < logits.dtype.itemsize:
        targets = targets.to(logits.dtype)
    targets, known = known_targets(targets, targets.new_zeros(()), missing)
    if given.device.type == "cpu" and given.dtype is not torch.bool and targets.numel():
        least, most = (float(bound) for bound in targets.detach().aminmax())
        # With a NaN among them both bounds are NaN. It passes: a term may leave it out, or report its row.
        if least < 0.0 or most > 1.0:
            raise ValueError(
                f"{name}: targets from {least:g} to {most:g} ({shapes_of(given)}), expected 0 to 1"
                + (" (missing=… names a target that does not count)" if missing is None else f", or missing={missing}")
            )
    return logits, targets.to(logits.dtype), known


def per_label(name: str, numbers: float | Sequence[float] | None, logits: Tensor) -> Tensor | None:
    """One factor, or one per label of logits (n, labels, …), as a tensor that broadcasts with them."""
    if numbers is None:
        return None
    if not isinstance(numbers, Sequence):
        return factors(name, (numbers,), 1, logits)
    if logits.ndim < 2:
        raise ValueError(
            f"{name} has one number per label, so the logits must be (n, labels, …), got {shapes_of(logits)}"
        )
    return along_classes(factors(name, numbers, logits.shape[1], logits), logits)
