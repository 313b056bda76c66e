"""RMSprop and Adagrad with the small constant inside the root, where torch.optim has it outside."""

from typing import Unpack

import torch
from torch.optim.optimizer import ParamsT

from minibatch.train.optimizers.descent import (
    Descent,
    Group,
    Shared,
    States,
    Tensors,
    accumulate,
    average_squares,
    entries,
    ewma,
)


class GravesRMSprop(Descent):
    """p ← p - lr·g / sqrt(s - m² + eps), with m, s the moving averages of g and g².

    m ← γ·m + (1-γ)·g and s ← γ·s + (1-γ)·g², γ = exp(-ln 2 / halflife), half-life in updates; without `centered`, m is
    0. torch.optim.RMSprop adds eps outside the root. s - m² is kept from falling below 0 by rounding, which with a
    steady gradient would give NaN. State: "mean" (if centered) and "square", as the parameter.

    Source: Graves 2013, arXiv:1308.0850, equations 38 to 45, in the form of downhill's RMSProp.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = GravesRMSprop([weight], lr=0.1)
    >>> weight.grad = torch.ones(1)
    >>> optimizer.step()
    >>> round(weight.item(), 4)
    0.5336
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        *,
        halflife: float = 14.0,
        eps: float = 1e-8,
        centered: bool = True,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, {"lr": lr, "halflife": halflife, "eps": eps, "centered": centered}, **shared)

    def uphill(self, parameters: Tensors, gradients: Tensors, states: States, group: Group) -> Tensors:
        gamma = ewma(group["halflife"])
        squares = entries(states, "square", parameters)
        average_squares(squares, gradients, gamma)
        if group["centered"]:
            means = entries(states, "mean", parameters)
            accumulate(means, gradients, kept=gamma, gain=1.0 - gamma)
            roots = torch._foreach_addcmul(squares, means, means, value=-1.0)
            torch._foreach_clamp_min_(roots, 0.0)
            torch._foreach_add_(roots, group["eps"])
        else:
            roots = torch._foreach_add(squares, group["eps"])
        torch._foreach_sqrt_(roots)
        return list(torch._foreach_div(gradients, list(roots)))


class InsideAdagrad(Descent):
    """p ← p - lr·g / sqrt(G + eps), with G the sum of g² so far.

    torch.optim.Adagrad adds eps outside the root. With `normalize`, the rate is divided by the mean of 1/sqrt(G + eps)
    over the elements of each tensor, so that lr stays the size of a step: CNTK's need_ave_multiplier. State: "sum".

    Sources: Duchi et al. 2011, JMLR 12, in the form of downhill's ADAGRAD (eps 1e-8); CNTK's AdaGradLearner is
    eps=1e-16, normalize=True.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = InsideAdagrad([weight], lr=0.1)
    >>> weight.grad = torch.full((1,), 3.0)
    >>> optimizer.step()
    >>> round(weight.item(), 4)
    0.9
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        *,
        eps: float = 1e-8,
        normalize: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "normalize": normalize}, **shared)

    def uphill(self, parameters: Tensors, gradients: Tensors, states: States, group: Group) -> Tensors:
        sums = entries(states, "sum", parameters)
        torch._foreach_addcmul_(sums, gradients, gradients)
        roots = torch._foreach_add(sums, group["eps"])
        torch._foreach_sqrt_(roots)
        directions = list(torch._foreach_div(gradients, list(roots)))
        if group["normalize"]:
            torch._foreach_reciprocal_(roots)
            divide_by_means(directions, list(roots))
        return directions


def divide_by_means(tensors: Tensors, multipliers: Tensors) -> None:
    """Divide each tensor, in place, by the mean of its multipliers; the mean stays on the device."""
    for tensor, multiplier in zip(tensors, multipliers, strict=True):
        tensor.div_(multiplier.mean())
