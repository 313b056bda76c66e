"""Two towers: each sample's pair against the pairs of all other samples of the minibatch."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibatch.train.batches import shapes_of
from minibatch.train.losses.shapes import same_shape, whole_minibatch, wide, without_autocast


class Temperature(nn.Module):
    """A learned temperature for `contrastive`: a module of one parameter, log_scale = -log(temperature), 0-dim.

    initial: the first temperature. least: never below it (0.01 is CLIP's limit of 100 on the scale); there only
    gradients that raise the temperature pass, so that it is not stuck. Give the module to the loss, and put it into the
    model, so that its parameter is trained; it is a scale, so leave it out of weight decay.
    Source: Radford et al. 2021, arXiv:2103.00020, section 2.5.

    >>> temperature = Temperature(0.1)
    >>> round(temperature().item(), 4)
    0.1
    """

    def __init__(self, initial: float = 0.07, *, least: float = 0.01) -> None:
        super().__init__()
        if not 0.0 < least <= initial < math.inf:
            raise ValueError(f"initial={initial}, least={least}: expected 0 < least ≤ initial")
        self.least = least
        self.log_scale = nn.Parameter(torch.tensor(-math.log(initial)))

    def forward(self) -> Tensor:
        scale: Tensor = _Bounded.apply(self.log_scale, -math.log(self.least))  # type: ignore[no-untyped-call]
        return torch.exp(-scale)


@whole_minibatch
def contrastive(
    first: Tensor,
    second: Tensor,
    keys: Tensor | None = None,
    *,
    temperature: float | Tensor | Callable[[], Tensor] = 0.07,
    normalize: bool = True,
    symmetric: bool = True,
    mask: Tensor | None = None,
) -> Tensor:
    """½ [-log softmax_j(s_ij)_i - log softmax_j(s_ji)_i] with s_ij = first_i · second_j / temperature: (n,).

    first, second: the outputs of two towers, (n, size); sample i of one belongs to sample i of the other, and all
    others of the minibatch are negatives. So values depend on the whole minibatch: the term needs over="minibatch".
    keys: integers (n,); samples with equal keys are not each other's negatives (the same document twice, say).
    temperature: a number, a `Temperature`, or a tensor: 0-dim, or (n,), one per row of s, all alike in most models.
    normalize: vectors are divided by their length. symmetric=False: only the first part, first against second.
    mask: bool (n,), false where a sample has no pair: it is nobody's negative, and its own value is to be masked in
    the term too.
    Source: van den Oord et al. 2018, arXiv:1807.03748, equation 4; both directions: Radford et al. 2021,
    arXiv:2103.00020, figure 3.

    >>> towers = torch.eye(2)
    >>> contrastive(towers, towers, temperature=1.0)            # log(1 + e⁻¹)
    tensor([0.3133, 0.3133])
    >>> contrastive(towers, towers, torch.tensor([7, 7]), temperature=1.0)
    tensor([0., 0.])
    """
    scores = _similarities("contrastive", first, second, normalize)
    scores = scores / _as_column(temperature, scores)
    out = _not_negatives("contrastive", scores, keys, mask)
    if out is not None:
        scores = scores.masked_fill(out, -torch.inf)
    hits = scores.diagonal()
    values = torch.logsumexp(scores, 1) - hits
    if not symmetric:
        return values
    return 0.5 * (values + torch.logsumexp(scores, 0) - hits)


@whole_minibatch
def contrastive_margin(
    first: Tensor,
    second: Tensor,
    keys: Tensor | None = None,
    *,
    margin: float = 0.2,
    negatives: Literal["max", "sum", "mean"] = "max",
    normalize: bool = True,
    symmetric: bool = True,
    mask: Tensor | None = None,
) -> Tensor:
    """Σ, max or mean over j ≠ i of max(0, margin + s_ij - s_ii) with s_ij = first_i · second_j: (n,).

    symmetric: plus the same with s_ji. negatives: "max" is the hardest one (Faghri et al. 2017, arXiv:1707.05612,
    equation 6), "sum" all of them (Kiros et al. 2014, arXiv:1411.2539, equation 8), "mean" their mean. Samples without
    a negative have the loss 0. The other arguments are those of `contrastive`.

    >>> contrastive_margin(torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]]), symmetric=False)
    tensor([0., 0.])
    >>> contrastive_margin(torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]]), margin=0.5, symmetric=False)
    tensor([0.1000, 0.0000])
    """
    if negatives not in ("max", "sum", "mean"):
        raise ValueError(f"contrastive_margin: negatives={negatives!r}, expected 'max', 'sum' or 'mean'")
    scores = _similarities("contrastive_margin", first, second, normalize)
    n = len(scores)
    out = torch.eye(n, dtype=torch.bool, device=scores.device)
    more = _not_negatives("contrastive_margin", scores, keys, mask)
    if more is not None:
        out = out | more
    hits = scores.diagonal()
    values = _over_negatives(F.relu(margin + scores - hits[:, None]), out, negatives)
    if symmetric:
        values = values + _over_negatives(F.relu(margin + scores.T - hits[:, None]), out, negatives)
    return values


class _Bounded(torch.autograd.Function):
    """min(x, bound), whose gradient passes at the bound where a step against it leads back below."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(max=bound)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient.where((x < ctx.bound) | (gradient > 0.0), 0.0), None


def _similarities(name: str, first: Tensor, second: Tensor, normalize: bool) -> Tensor:
    """first_i · second_j: (n, n)."""
    same_shape(name, first, second)
    if first.ndim != 2:
        raise ValueError(f"{name} needs the outputs of two towers, (n, size), got {shapes_of(first)}")
    dtype = torch.promote_types(wide(first).dtype, wide(second).dtype)
    first, second = first.to(dtype), second.to(dtype)
    if normalize:
        first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    with without_autocast(first):
        return first @ second.T


def _as_column(temperature: float | Tensor | Callable[[], Tensor], scores: Tensor) -> float | Tensor:
    if not isinstance(temperature, Tensor) and callable(temperature):
        temperature = temperature()
    if not isinstance(temperature, Tensor):
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"contrastive: temperature={temperature}, expected a finite number > 0")
        return temperature
    if temperature.ndim and temperature.shape not in ((len(scores),), (1,)):
        raise ValueError(
            f"contrastive: temperature has shape {tuple(temperature.shape)}, expected one number, or ({len(scores)},)"
        )
    return wide(temperature)[:, None] if temperature.ndim else temperature


def _not_negatives(name: str, scores: Tensor, keys: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Pairs (i, j), j ≠ i, that are no negatives: those of equal keys, and those with a sample that has no pair."""
    n = len(scores)
    for title, given in (("keys", keys), ("mask", mask)):
        if given is not None and given.shape != (n,):
            raise ValueError(f"{name}: {title} have shape {tuple(given.shape)}, expected ({n},), one per sample")
    if keys is None and mask is None:
        return None
    out = torch.zeros_like(scores, dtype=torch.bool)
    if keys is not None:
        out = out | (keys[:, None] == keys[None, :])
    if mask is not None:
        absent = mask == 0
        out = out | absent[None, :] | absent[:, None]
    return out & ~torch.eye(n, dtype=torch.bool, device=scores.device)


def _over_negatives(costs: Tensor, out: Tensor, negatives: str) -> Tensor:
    costs = costs.masked_fill(out, 0.0)
    if negatives == "max":
        return costs.amax(1) if len(costs) else costs.sum(1)
    total = costs.sum(1)
    return total if negatives == "sum" else total / (~out).sum(1).clamp(min=1)
