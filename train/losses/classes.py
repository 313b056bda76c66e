"""Cross entropy: one class of several."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minibatch.train.batches import shapes_of
from minibatch.train.losses.shapes import along_classes, classes_and_labels, factors, refuse_labels, wide

# No label of any data set: torch's own default, -100, would pass over such labels without a word.
NO_LABEL = -(2**62)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    normalize: bool = False,
    label_smoothing: float = 0.0,
    clip: float | None = None,
    missing: int | None = None,
) -> Tensor:
    """-log softmax(logits)[label] of every sample: (n,), or (n, …) for logits (n, classes, …).

    logits: floating (n, classes, …); labels: integers (n, …), or probabilities of the classes, floating (n, classes,
    …), for which the loss is -Σ_c target_c · log softmax(logits)_c; the targets of a sample need not add up to 1.
    Half precision is computed, and returned, in float32. A label out of range is a ValueError on the CPU; on a device
    torch's own assertion stops the process, because a check would wait for the device.

    class_weights: one factor per class, on the loss alone: to divide by the weights as torch's `mean` does, give them
    to the term as `weight=class_weight(…)` instead. normalize: the factors are divided by their sum over the classes
    (HALCON's multinomial logistic loss). label_smoothing: the share of the target that is spread evenly over all
    classes (Szegedy et al. 2016, arXiv:1512.00567, section 7). clip: probabilities are kept ≥ clip, so that the loss is
    at most -log(clip) and has no gradient beyond (theanets: 1e-8). missing: a label whose loss and gradient are 0
    (mask such samples in the term).
    Source: Bishop 2006, Pattern Recognition and Machine Learning, equations 4.90 and 4.108.

    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor([1.3863, 1.3863])
    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([[0.5, 0.5, 0.0, 0.0]]))
    tensor([1.3863])
    >>> cross_entropy(torch.tensor([[0.0, 50.0]]), torch.tensor([0]), clip=1e-8)
    tensor([18.4207])
    """
    logits = wide(logits)
    soft = labels.is_floating_point()
    if soft and (labels.shape != logits.shape or logits.ndim < 2):
        raise ValueError(
            "cross_entropy needs floating logits (n, classes, …) and integer labels (n, …), or probabilities of the "
            f"shape of the logits, got {shapes_of(logits)} and {shapes_of(labels)}"
        )
    targets = labels.to(logits.dtype) if soft else classes_and_labels("cross_entropy", logits, labels)
    classes = logits.shape[1]
    weights = None
    if class_weights is not None:
        weights = factors("class_weights", class_weights, classes, logits, normalize=normalize)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: label_smoothing={label_smoothing}, expected a share from 0 to 1")
    ignored = NO_LABEL if missing is None else missing
    try:
        if clip is None:
            return F.cross_entropy(
                logits,
                targets,
                weight=weights,
                ignore_index=NO_LABEL if soft else ignored,
                reduction="none",
                label_smoothing=label_smoothing,
            )
        log_p = _clipped(logits, clip, label_smoothing)
        if soft:
            costs = targets * log_p if weights is None else targets * log_p * along_classes(weights, log_p)
            return -costs.sum(1)
        return F.nll_loss(log_p, targets, weight=weights, ignore_index=ignored, reduction="none")
    except (IndexError, RuntimeError) as error:
        if not soft:
            refuse_labels("cross_entropy", targets, classes, error, missing)
        raise


def _clipped(logits: Tensor, clip: float, label_smoothing: float) -> Tensor:
    """log softmax(logits), at least log(clip)."""
    if not 0.0 < clip < 1.0:
        raise ValueError(f"cross_entropy: clip={clip}, expected a probability between 0 and 1 (theanets: 1e-8)")
    if label_smoothing:
        raise ValueError(
            f"cross_entropy: clip={clip} and label_smoothing={label_smoothing} cannot be had together: smoothing is "
            "what keeps the logits bounded already"
        )
    return torch.log_softmax(logits, 1).clamp(min=math.log(clip))
