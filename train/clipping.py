"""Clipping of gradients: global, per tensor, per element. In place, over whole lists, without waiting for the device.

A clip is a frozen value and is called with the list of all gradients (dense, of one device; of sparse ones their
values) and, where somebody has measured it already, their 2-norm. Several clips act one after the other, and `norm`
must be that of the gradients at hand: pass None to all but the first. NaN stays NaN: what is not finite is for the
guard to find.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Norm = float | Tensor | None


class Clip(Protocol):
    """What changes gradients in place; the smallest one:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Halve:
    ...     def __call__(self, gradients, norm=None, *, samples=None):
    ...         torch._foreach_mul_(gradients, 0.5)
    """

    def __call__(self, gradients: list[Tensor], norm: Norm = None, *, samples: int | None = None) -> None:
        """gradients: changed in place. norm: their 2-norm, float or (), or None. samples: of the step."""


@dataclass(frozen=True)
class _Limited:
    """What all clips here have: a limit, checked."""

    limit: float

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int | float) or not 0.0 < self.limit < math.inf:
            raise ValueError(f"{type(self).__name__}: limit={self.limit!r}, expected a finite number > 0")


@dataclass(frozen=True)
class ClipNorm(_Limited):
    """Scale all gradients together so that their joint 2-norm is at most `limit`, as torch's clip_grad_norm_ does.

    Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1.

    >>> gradient = torch.tensor([3.0, 4.0])
    >>> ClipNorm(1.0)([gradient])
    >>> gradient
    tensor([0.6000, 0.8000])
    """

    def __call__(self, gradients: list[Tensor], norm: Norm = None, *, samples: int | None = None) -> None:
        if not gradients:
            return
        if norm is None:
            norm = torch.linalg.vector_norm(torch.stack(norms(gradients)))
        if isinstance(norm, Tensor):
            torch._foreach_mul_(gradients, (self.limit / norm).clamp_(max=1.0))
        elif norm > self.limit:
            torch._foreach_mul_(gradients, self.limit / norm)


@dataclass(frozen=True)
class ClipTensorNorm(_Limited):
    """Scale each gradient tensor so that its own 2-norm is at most `limit`: theanets' max_gradient_norm.

    This changes the direction of the whole gradient. Source: downhill's `Optimizer._differentiate`,
    g · min(1, limit / |g|).

    >>> long, short = torch.tensor([3.0, 4.0]), torch.tensor([0.5])
    >>> ClipTensorNorm(1.0)([long, short])
    >>> long, short
    (tensor([0.6000, 0.8000]), tensor([0.5000]))
    """

    def __call__(self, gradients: list[Tensor], norm: Norm = None, *, samples: int | None = None) -> None:
        if gradients:
            scale_to(gradients, self.limit)


@dataclass(frozen=True)
class ClipElement(_Limited):
    """Cut every element off at ±limit: theanets' max_gradient_elem, which there goes before the norm's limit.

    >>> gradient = torch.tensor([-3.0, 0.5, float("nan")])
    >>> ClipElement(1.0)([gradient])
    >>> gradient
    tensor([-1.0000,  0.5000,     nan])
    """

    def __call__(self, gradients: list[Tensor], norm: Norm = None, *, samples: int | None = None) -> None:
        if gradients:
            cut(gradients, self.limit)


@dataclass(frozen=True)
class ClipPerSample(_Limited):
    """Clip at limit · samples, for gradients that are sums over samples: CNTK's gradient_clipping_threshold_per_sample.

    With `truncate` (CNTK's default) every element is cut off, else each tensor is scaled to that 2-norm. For gradients
    that are means, CNTK's threshold is `ClipElement(limit)` or `ClipTensorNorm(limit)`.

    >>> gradient = torch.tensor([-30.0, 5.0])
    >>> ClipPerSample(2.0)([gradient], samples=4)
    >>> gradient
    tensor([-8.,  5.])
    """

    truncate: bool = True

    def __call__(self, gradients: list[Tensor], norm: Norm = None, *, samples: int | None = None) -> None:
        if samples is None:
            raise TypeError("ClipPerSample must be called with samples=, the number of samples of the step")
        if gradients:
            (cut if self.truncate else scale_to)(gradients, self.limit * samples)


def norms(gradients: list[Tensor]) -> list[Tensor]:
    """The 2-norm of each tensor, each a tensor (), in float32 where the gradient has half its bits.

    >>> [norm.item() for norm in norms([torch.tensor([3.0, 4.0])])]
    [5.0]
    """
    if any(gradient.dtype in (torch.bfloat16, torch.float16) for gradient in gradients):
        dtype = torch.float64 if any(gradient.dtype == torch.float64 for gradient in gradients) else torch.float32
        return list(torch._foreach_norm(gradients, 2, dtype=dtype))
    return list(torch._foreach_norm(gradients))


def scale_to(gradients: list[Tensor], limit: float) -> None:
    """Multiply each tensor by min(1, limit / its 2-norm), in place."""
    scales = torch._foreach_reciprocal(norms(gradients))
    torch._foreach_mul_(scales, limit)
    torch._foreach_clamp_max_(scales, 1.0)
    torch._foreach_mul_(gradients, list(scales))


def cut(gradients: list[Tensor], limit: float) -> None:
    """Cut every element off at ±limit, in place; NaN stays."""
    torch._foreach_clamp_min_(gradients, -limit)
    torch._foreach_clamp_max_(gradients, limit)
