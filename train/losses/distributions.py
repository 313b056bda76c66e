"""Losses of distributions: Kullback-Leibler divergence and the likelihood of a Gaussian."""

import math
from typing import Literal

import torch
from torch import Tensor

from minibatch.train.batches import shapes_of
from minibatch.train.losses.shapes import Reduce, known_targets, per_sample, same_shape, wide

LOG_2_PI = math.log(2.0 * math.pi)


def kl(
    logits: Tensor,
    targets: Tensor,
    *,
    clip: float | None = None,
    absolute: bool = False,
    reduce: Reduce = "sum",
) -> Tensor:
    """Σ_c t_c · log(t_c / q_c) with q = softmax(logits) over axis 1: (n,); the sum over all elements of a sample.

    logits: floating (n, classes, …), log-probabilities among them; targets: probabilities of the same shape, where
    t_c = 0 contributes 0. reduce="mean" divides by the number of elements; "none" keeps t·log(t/q), (n, classes, …).
    absolute: |t·log(t/q)| of every element, and clip: t and q are kept in [clip, 1 - clip]. theanets' `kl` is
    absolute=True, clip=1e-8, reduce="mean"; it is no divergence, because terms of both signs only add.
    Source: Kullback and Leibler 1951, equation 2.4; Bishop 2006, equation 1.113.

    >>> kl(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    tensor([0.6931])
    """
    same_shape("kl", logits, targets)
    if logits.ndim < 2 or not targets.is_floating_point():
        raise ValueError(
            f"kl needs logits and probabilities (n, classes, …), got {shapes_of(logits)} and {shapes_of(targets)}"
        )
    log_q = torch.log_softmax(wide(logits), 1)
    targets = wide(targets)
    if clip is not None:
        if not 0.0 < clip < 0.5:
            raise ValueError(f"kl: clip={clip}, expected a probability between 0 and ½ (theanets: 1e-8)")
        # In float32 1 - 1e-8 is 1, which is what theanets has, too.
        log_q = log_q.clamp(math.log(clip), math.log1p(-clip))
        targets = targets.clamp(clip, 1.0 - clip)
    values = torch.xlogy(targets, targets) - targets * log_q
    return per_sample(values.abs() if absolute else values, reduce)


def gaussian_nll(
    mean: Tensor,
    variance: Tensor,
    targets: Tensor,
    *,
    given: Literal["variance", "log_variance", "absolute"] = "variance",
    eps: float = 1e-6,
    full: bool = False,
    missing: float | None = None,
    reduce: Reduce = "mean",
) -> Tensor:
    """½ [log v + (target - mean)² / v] with the variance v of every element; the mean over a sample's elements: (n,).

    mean, targets: (n, …); variance: the same shape, or with axes of 1 where elements share one, as in (n, 1).
    given: what `variance` holds: "variance" v ≥ 0, of which at least eps is used, with torch's gradient (as if it had
    not been raised); "log_variance" log v; "absolute" c with v = |c| + eps. full: also ½ log 2π. missing: a target
    whose loss and gradient are 0. A likelihood is the sum over dimensions: reduce="sum".
    On the CPU a variance < 0 is a ValueError; on a device it would have to be waited for, and counts as eps.

    theanets' `gll` is given="absolute", eps=1e-3, full=True, reduce="sum", by the density in its documentation; its
    code takes the logarithm of the sum of precisions for the sum of their logarithms and η·Λ·η for η·Λ⁻¹·η.
    Source: Nix and Weigend 1994, equation 3; torch.nn.GaussianNLLLoss; Bishop 2006, equation 1.46.

    >>> gaussian_nll(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[1.0, 3.0]]))
    tensor([2.5000])
    >>> gaussian_nll(torch.zeros(1), torch.zeros(1), torch.zeros(1), given="log_variance", full=True)
    tensor([0.9189])
    """
    same_shape("gaussian_nll", mean, targets)
    fits = variance.ndim == mean.ndim and all(
        v in (1, m) for v, m in zip(variance.shape[1:], mean.shape[1:], strict=True)
    )
    if not fits or len(variance) != len(mean):
        raise ValueError(
            "gaussian_nll needs a mean (n, …) and a variance of its shape, or with axes of 1 behind the first, got "
            f"{shapes_of(mean)} and {shapes_of(variance)}"
        )
    if not eps >= 0.0:
        raise ValueError(f"gaussian_nll: eps={eps}, expected a number ≥ 0")
    mean, variance = wide(mean), wide(variance)
    if not targets.is_floating_point():
        targets = targets.to(mean.dtype)
    targets, known = known_targets(targets, mean.detach(), missing)
    squares = (mean - targets).square()
    if given == "log_variance":
        values = 0.5 * (variance + squares * torch.exp(-variance))
    elif given == "absolute":
        v = variance.abs() + eps
        values = 0.5 * (v.log() + squares / v)
    elif given == "variance":
        if variance.device.type == "cpu" and bool((variance < 0.0).any()):
            raise ValueError(
                f"gaussian_nll: a variance of {float(variance.min()):g}: expected numbers ≥ 0; say "
                'given="log_variance" or "absolute", or end the model in softplus'
            )
        # The value is raised, its gradient passes: else a variance below eps could never leave it.
        v = variance + (variance.detach().clamp(min=eps) - variance.detach())
        values = 0.5 * (v.log() + squares / v)
    else:
        raise ValueError(f"gaussian_nll: given={given!r}, expected 'variance', 'log_variance' or 'absolute'")
    if full:
        values = values + 0.5 * LOG_2_PI
    return per_sample(values if known is None else values.where(known, 0.0), reduce)
