"""Focal losses: what is classified well already counts less."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minibatch.train.batches import shapes_of
from minibatch.train.losses.binary import binary_targets, per_label
from minibatch.train.losses.shapes import (
    Reduce,
    classes_and_labels,
    factors,
    per_sample,
    same_shape,
    score_of_label,
    wide,
    without_missing,
)


def focal(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    class_weights: Sequence[float] | None = None,
    normalize: bool = False,
    missing: int | None = None,
) -> Tensor:
    """-cw_c (1 - p_t)^γ log p_t with p = softmax(logits), t = c = the label: (n,), or (n, …) for (n, classes, …).

    logits: floating (n, classes, …), two classes or more; labels: integers (n, …). gamma: ≥ 0; 0 is cross entropy.
    class_weights: cw, one factor per class; normalize: divided by their sum. missing: a label whose loss and gradient
    are 0. HALCON's detection adds these up (denominator=None) with γ = 2. Labels out of range: see `cross_entropy`.

    1 - p_t is computed as the softmax of the other classes together, so values and gradients are finite and right for
    logits of any finite size.
    Source: Lin et al. 2017, arXiv:1708.02002, equation 5; HALCON, train_dl_model_batch, "Focal Loss".

    >>> focal(torch.zeros(1, 2), torch.tensor([1]))           # (1 - ½)² · log 2
    tensor([0.1733])
    >>> focal(torch.tensor([[0.0, 1e4], [0.0, 1e4]]), torch.tensor([0, 1]))
    tensor([10000.,     0.])
    """
    logits = wide(logits)
    labels, known = without_missing(classes_and_labels("focal", logits, labels), missing)
    if logits.shape[1] < 2:
        raise ValueError(f"focal needs two classes or more, got logits {shapes_of(logits)}; for one see sigmoid_focal")
    _refuse_gamma("focal", gamma)
    log_p = torch.log_softmax(logits, 1)
    log_hit = score_of_label("focal", log_p, labels)
    others = log_p.scatter(1, labels.unsqueeze(1), -torch.inf)
    values = -torch.exp(gamma * torch.logsumexp(others, 1)) * log_hit
    if class_weights is not None:
        values = values * factors("class_weights", class_weights, logits.shape[1], logits, normalize=normalize)[labels]
    return values if known is None else values.where(known, 0.0)


def sigmoid_focal(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = 2.0,
    class_weights: float | Sequence[float] | None = 0.5,
    missing: float | None = None,
    reduce: Reduce = "sum",
) -> Tensor:
    """-[cw y (1 - p)^γ log p + (1 - cw) (1 - y) p^γ log(1 - p)] with p = σ(logits), added up over a sample: (n,).

    logits: floating (n, …) or one per class (n, classes, …); targets: bool, or 0 ≤ y ≤ 1, of the same shape.
    class_weights: cw for the foreground and 1 - cw for the background, one number or one per class, in [0, 1]; None for
    a factor of 1 on both. gamma, missing: see `focal`. With one number cw is the α of Lin et al.
    Values and gradients are finite for logits of any finite size.
    Source: HALCON, create_dl_layer_loss_focal, whose default is 0.5 too; Lin et al. 2017, arXiv:1708.02002, section 3.

    >>> sigmoid_focal(torch.zeros(1, 1), torch.tensor([[1]]), class_weights=0.25)     # ¼ · (½)² · log 2
    tensor([0.0433])
    """
    same_shape("sigmoid_focal", logits, targets)
    _refuse_gamma("sigmoid_focal", gamma)
    logits, y, known = binary_targets("sigmoid_focal", wide(logits), targets, missing)
    foreground = per_label("class_weights", class_weights, logits)
    if foreground is not None:
        numbers = class_weights if isinstance(class_weights, Sequence) else (class_weights,)
        if any(number is None or number > 1.0 for number in numbers):
            raise ValueError(
                f"sigmoid_focal: class_weights={class_weights!r}: expected numbers from 0 to 1, because the background "
                "has the weight 1 - class_weights"
            )
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
    hit = torch.exp(gamma * log_q) * log_p * y
    miss = torch.exp(gamma * log_p) * log_q * (1.0 - y)
    values = -(hit + miss) if foreground is None else -(foreground * hit + (1.0 - foreground) * miss)
    return per_sample(values if known is None else values.where(known, 0.0), reduce)


def _refuse_gamma(name: str, gamma: float) -> None:
    if not 0.0 <= gamma < float("inf"):
        raise ValueError(f"{name}: gamma={gamma}, expected a finite number ≥ 0 (2 by default, 0 for cross entropy)")
