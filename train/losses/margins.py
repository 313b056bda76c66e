"""Hinge losses: no cost beyond a margin."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from minibatch.train.batches import shapes_of
from minibatch.train.losses.shapes import (
    Reduce,
    classes_and_labels,
    known_targets,
    per_sample,
    same_shape,
    score_of_label,
    wide,
    without_missing,
)


def hinge(
    scores: Tensor,
    targets: Tensor,
    *,
    margin: float = 1.0,
    squared: bool = False,
    missing: float | None = None,
    reduce: Reduce = "mean",
) -> Tensor:
    """max(0, margin - y·score) with y = 1 where the target is > 0, else -1; the mean over a sample's elements: (n,).

    scores: floating (n, …); targets of the same shape: bool, 0 and 1, or -1 and 1. squared: its square. missing: a
    target whose loss and gradient are 0. At the margin itself the gradient is 0.
    Source: Cortes and Vapnik 1995, Support-Vector Networks, equation 15; Bishop 2006, section 7.1.2.

    >>> hinge(torch.tensor([[0.25], [0.25], [2.0]]), torch.tensor([[True], [False], [True]]))
    tensor([0.7500, 1.2500, 0.0000])
    """
    same_shape("hinge", scores, targets)
    scores = wide(scores)
    targets, known = known_targets(targets, targets.new_zeros(()), missing)
    values = F.relu(margin - torch.where(targets > 0, scores, -scores))
    if squared:
        values = values.square()
    return per_sample(values if known is None else values.where(known, 0.0), reduce)


def multiclass_hinge(
    scores: Tensor,
    labels: Tensor,
    *,
    margin: float = 1.0,
    over_classes: Literal["max", "sum", "mean"] = "max",
    squared: bool = False,
    missing: int | None = None,
) -> Tensor:
    """max(0, margin + s_j - s_label) over the classes j ≠ label: (n,), or (n, …) for scores (n, classes, …).

    over_classes: "max" is the hinge of Crammer and Singer 2001 (JMLR 2, equation 8), and with margin=0 theanets 0.7's:
    max(0, max_k s_k - s_label). "sum" is that of Weston and Watkins 1999 (ESANN, equation 3), "mean" divides it by
    the number of all classes, as torch's multi_margin_loss does. squared: every max(0, …) is squared. missing: a label
    whose loss and gradient are 0. Equal largest scores share the gradient. Labels out of range: see `cross_entropy`.

    >>> multiclass_hinge(torch.tensor([[1.0, 3.0, 2.5]]), torch.tensor([1]))
    tensor([0.5000])
    >>> multiclass_hinge(torch.tensor([[1.0, 3.0, 2.5]]), torch.tensor([0]), over_classes="sum")
    tensor([5.5000])
    """
    if over_classes not in ("max", "sum", "mean"):
        raise ValueError(f"multiclass_hinge: over_classes={over_classes!r}, expected 'max', 'sum' or 'mean'")
    scores = wide(scores)
    labels, known = without_missing(classes_and_labels("multiclass_hinge", scores, labels), missing)
    if scores.shape[1] < 2:
        raise ValueError(f"multiclass_hinge needs two classes or more, got scores {shapes_of(scores)}; see hinge")
    hit = score_of_label("multiclass_hinge", scores, labels)
    others = F.relu(margin + scores - hit.unsqueeze(1))
    if squared:
        others = others.square()
    # Costs are ≥ 0, so a cost of 0 at the label itself changes neither the largest nor the sum.
    others = others.scatter(1, labels.unsqueeze(1), 0.0)
    values = others.amax(1) if over_classes == "max" else others.sum(1)
    if over_classes == "mean":
        values = values / scores.shape[1]
    return values if known is None else values.where(known, 0.0)
