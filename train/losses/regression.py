"""Losses of numbers against numbers: squares, absolute values, what lies between, and the cosine."""

import torch
import torch.nn.functional as F
from torch import Tensor

from minibatch.train.batches import shapes_of
from minibatch.train.losses.shapes import Reduce, known_targets, per_sample, same_shape, wide


def mse(outputs: Tensor, targets: Tensor, *, missing: float | None = None, reduce: Reduce = "mean") -> Tensor:
    """(output - target)², the mean over the elements of every sample: (n,). Bishop 2006, equation 1.2 without ½.

    missing: a target (often NaN) whose loss and gradient are 0; mask such elements in the term, see `present`.
    This is theanets' `mse`, and with reduce="sum" CNTK's `squared_error`.

    >>> mse(torch.ones(2, 3), torch.zeros(2, 3))
    tensor([1., 1.])
    """
    return per_sample(_difference("mse", outputs, targets, missing).square(), reduce)


def l1(outputs: Tensor, targets: Tensor, *, missing: float | None = None, reduce: Reduce = "mean") -> Tensor:
    """|output - target|, the mean over the elements of every sample: (n,). Laplace 1774: the median's loss.

    missing: see `mse`. This is theanets' `mae`; reduce="sum" is the formula of MindSpore's tutorial, whose L1Loss
    itself takes the mean.

    >>> l1(torch.full((1, 2), -3.0), torch.zeros(1, 2))
    tensor([3.])
    """
    return per_sample(_difference("l1", outputs, targets, missing).abs(), reduce)


def huber(
    outputs: Tensor, targets: Tensor, *, beta: float = 1.0, missing: float | None = None, reduce: Reduce = "mean"
) -> Tensor:
    """x²/(2β) where |x| < β, else |x| - β/2, with x = output - target; the mean over a sample's elements: (n,).

    This is the form with slope 1 ("smooth L1", Girshick 2015, arXiv:1504.08083, equation 3), Huber's loss (Huber 1964)
    divided by β. beta: > 0; HALCON's detection has 0.11 and reduce="sum". missing: see `mse`.

    >>> huber(torch.tensor([[0.5], [3.0]]), torch.zeros(2, 1))
    tensor([0.1250, 2.5000])
    """
    if not beta > 0:
        raise ValueError(f"huber: beta={beta}, expected a number > 0 (for beta 0 use l1)")
    difference = _difference("huber", outputs, targets, missing)
    zeros = difference.new_zeros(()).expand_as(difference)
    return per_sample(F.smooth_l1_loss(difference, zeros, reduction="none", beta=beta), reduce)


def overshoot(outputs: Tensor, targets: Tensor, *, missing: float | None = None, reduce: Reduce = "mean") -> Tensor:
    """max(0, output - target), the mean over the elements of every sample: (n,). The `hinge` of theanets 0.6.

    Outputs below their targets cost nothing. missing: see `mse`. For the usual hinge see `hinge`, `multiclass_hinge`.

    >>> overshoot(torch.tensor([[2.0, -5.0]]), torch.zeros(1, 2))
    tensor([1.])
    """
    return per_sample(torch.relu(_difference("overshoot", outputs, targets, missing)), reduce)


def sum_of_squares(outputs: Tensor, *, reduce: Reduce = "sum") -> Tensor:
    """Σ output² over the elements of every sample: (n,). cuda-convnet2's `cost.sum2`, without a target.

    >>> sum_of_squares(torch.full((1, 3), 2.0))
    tensor([12.])
    """
    if outputs.ndim == 0:
        raise ValueError(f"sum_of_squares needs outputs of shape (n, …), got {shapes_of(outputs)}")
    return per_sample(wide(outputs).square(), reduce)


def cosine(outputs: Tensor, targets: Tensor, *, eps: float = 1e-8) -> Tensor:
    """1 - o·t / (|o| |t|) of every sample, over all of its elements: (n,), from 0 (same direction) to 2.

    eps: the least length that a vector is divided by, so that the gradient of a zero vector is finite.
    Source: torch.nn.CosineEmbeddingLoss with target 1.

    >>> cosine(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]]))
    tensor([0., 1.])
    """
    same_shape("cosine", outputs, targets)
    if outputs.ndim < 2:
        raise ValueError(f"cosine needs vectors (n, size), got {shapes_of(outputs)}")
    return 1.0 - torch.cosine_similarity(wide(outputs).flatten(1), wide(targets).flatten(1), dim=1, eps=eps)


def _difference(name: str, outputs: Tensor, targets: Tensor, missing: float | None) -> Tensor:
    same_shape(name, outputs, targets)
    outputs = wide(outputs)
    if not targets.is_floating_point():
        targets = targets.to(outputs.dtype)
    targets, known = known_targets(targets, outputs.detach(), missing)
    difference = outputs - targets
    # Where a target is missing the stand-in may be rounded: float64 outputs against float32 targets.
    return difference if known is None else difference.where(known, 0.0)
