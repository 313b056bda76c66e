"""Maximum mean discrepancy: whether two sets of samples come of one distribution."""

from collections.abc import Sequence

import torch
from torch import Tensor

from minibatch.train.batches import shapes_of
from minibatch.train.losses.shapes import same_shape, whole_minibatch, wide, without_autocast


@whole_minibatch
def mmd(
    outputs: Tensor,
    targets: Tensor,
    *,
    bandwidths: Sequence[float] = (1.0,),
    unbiased: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Every sample's share of MMD² between outputs and targets: (n,); the mean over the minibatch is MMD².

    share_i = 1/n Σ_j [k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)],  k(a, b) = Σ_σ exp(-|a - b|²/σ)

    with outputs x and targets y, (n, …), each sample one vector. Every value depends on the whole minibatch: the term
    needs over="minibatch". Take the mean (denominator "weights" or "count") for MMD² itself.
    bandwidths: the σ of one or several Gaussian kernels; theanets has one, 1. (With σ = 2s² the kernel is the usual
    exp(-|a - b|²/2s²).) unbiased: j ≠ i and 1/(n-1), Gretton's U-statistic, which may be negative; 0 for one sample.
    mask: bool (n,), the samples that take part; the others get shares to be masked in the term too.
    Distances are of float32 products: about 1e-7 of the square of the largest distance from the common mean.
    Source: Gretton et al. 2012, A Kernel Two-Sample Test, JMLR 13, equations 4 and 5 with m = n; Li, Swersky and
    Zemel 2015, arXiv:1502.02761.

    >>> mmd(torch.tensor([[0.0], [0.0]]), torch.tensor([[0.0], [10.0]]))
    tensor([0., 1.])
    """
    same_shape("mmd", outputs, targets)
    if outputs.ndim < 2:
        raise ValueError(f"mmd needs vectors (n, size), got {shapes_of(outputs)}; write outputs[:, None] for numbers")
    if not bandwidths or not all(bandwidth > 0.0 for bandwidth in bandwidths):
        raise ValueError(f"mmd: bandwidths={bandwidths!r}, expected numbers > 0")
    n = len(outputs)
    x = wide(outputs).flatten(1)
    y = targets.to(x.dtype).flatten(1)
    if mask is not None and mask.shape != (n,):
        raise ValueError(f"mmd: mask has shape {tuple(mask.shape)}, expected ({n},), one per sample")
    # Moving both sets changes no distance, and near 0 the products lose least.
    middle = y.mean(0) if n else 0.0
    x, y = x - middle, y - middle
    with without_autocast(x):
        costs = _kernel(x, x, bandwidths) + _kernel(y, y, bandwidths)
        cross = _kernel(x, y, bandwidths)
    costs = costs - cross - cross.T
    counted = n if mask is None else mask.to(costs.dtype).sum()
    if mask is not None:
        costs = costs * mask.to(costs.dtype)
    if unbiased:
        costs = costs * (1.0 - torch.eye(n, dtype=costs.dtype, device=costs.device))
        counted = counted - 1
    least = counted.clamp(min=1.0) if isinstance(counted, Tensor) else max(counted, 1)
    return costs.sum(1) / least


def _kernel(a: Tensor, b: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """Σ_σ exp(-|a_i - b_j|²/σ): (n, n)."""
    squares = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2.0 * (a @ b.T)
    squares = squares.clamp(min=0.0)
    total = torch.exp(squares / -bandwidths[0])
    for bandwidth in bandwidths[1:]:
        total = total + torch.exp(squares / -bandwidth)
    return total
