"""CNTK's own forms of Adam, FSAdaGrad and RMSProp.

They take what CNTK gives its learners: the gradient of the *sum* over the step's samples, which is the gradient of
terms with denominator=None. How a rate per minibatch or per K samples becomes the number `lr` of a step is in rates.py,
as is how a time constant in samples becomes a momentum. Formulas: Source/Math/Matrix.cpp and CPUMatrixImpl.h.
"""

import math
from typing import TypedDict, Unpack

import torch
from torch.optim.optimizer import ParamsT

from minibatch.train.optimizers.adaptive import divide_by_means
from minibatch.train.optimizers.descent import (
    LIMITS,
    Descent,
    Group,
    Shared,
    States,
    Tensors,
    accumulate,
    average_squares,
    entries,
)

VARIANCE_TIME_CONSTANT = 720_000.0  # samples: CNTK's default, 2 hours of speech at 100 frames a second
ONCE = (0.0, 1.0, True)


class TimeConstants(TypedDict, total=False):
    """The options that `CntkAdam` and `FSAdagrad` share: as `Shared`, but nesterov is nothing for them."""

    momentum: float
    variance_momentum: float | None
    variance_time_constant: float
    unit_gain: bool
    weight_decay: float
    l1: float
    foreach: bool


class _TimeConstants(Descent):
    """A Descent whose "momentum" and "variance_momentum" may come from time constants in samples."""

    def __init__(
        self,
        params: ParamsT,
        own: Group,
        /,
        *,
        momentum: float = 0.0,
        variance_momentum: float | None = None,
        variance_time_constant: float = VARIANCE_TIME_CONSTANT,
        unit_gain: bool = True,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        foreach: bool = True,
    ) -> None:
        own = {**own, "variance_momentum": variance_momentum, "unit_gain": unit_gain}
        if variance_momentum is None:
            own["variance_time_constant"] = variance_time_constant
        super().__init__(params, own, momentum=momentum, weight_decay=weight_decay, l1=l1, foreach=foreach)

    def limits(self) -> dict[str, tuple[float, float, bool]]:
        return {
            **LIMITS,
            "momentum": ONCE,
            "variance_momentum": ONCE,
            "momentum_time_constant": (0.0, math.inf, True),
            "variance_time_constant": (0.0, math.inf, True),
        }

    def move(self, parameters: Tensors, directions: Tensors, states: States, group: Group, rate: float) -> None:
        # Momentum is part of these formulas already: nothing goes on top.
        super().move(parameters, directions, states, {**group, "momentum": 0.0}, rate)

    def variance_momentum(self, group: Group) -> float:
        value = group["variance_momentum"]
        if value is None:
            raise RuntimeError(
                f"{type(self).__name__}: variance_momentum depends on the samples of a step, which nobody has told. A "
                "Trainer does; in a loop of your own call minibatch.train.rates.set_rates before each step, or pass "
                "variance_momentum="
            )
        return float(value)

    def mean(self, parameters: Tensors, values: Tensors, states: States, group: Group) -> Tensors:
        """m ← μ·m + u·x for the state "mean", and u = 1 - μ with `unit_gain`, else 1."""
        momentum = group["momentum"]
        means = entries(states, "mean", parameters)
        accumulate(means, values, kept=momentum, gain=1.0 - momentum if group["unit_gain"] else 1.0)
        return means


class CntkAdam(_TimeConstants):
    """p ← p - lr·c·m / (sqrt(v) + eps), c = sqrt(1 - β^t)/(1 - μ^t): Adam with its eps beside the uncorrected root.

    m ← μ·m + u·g, v ← β·v + (1-β)·g², μ `momentum`, β `variance_momentum`, u = 1 - μ with `unit_gain`, else 1; t counts
    the updates. With `adamax`, v ← max(β·v, |g|), c = 1/(1 - μ^t), and v itself for its root. torch.optim.Adam adds eps
    to the corrected root; Kingma and Ba 2015, arXiv:1412.6980, mention this form at the end of section 2.

    β is exp(-samples of the step / variance_time_constant) unless it is given. State: "mean", "variance", "step" (int).

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = CntkAdam([weight], lr=0.1, momentum=0.9, variance_momentum=0.999)
    >>> weight.grad = torch.full((1,), 5.0)
    >>> optimizer.step()
    >>> round(weight.item(), 4)
    0.9
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        eps: float = 1e-8,
        adamax: bool = False,
        **shared: Unpack[TimeConstants],
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "adamax": adamax}, **shared)

    def uphill(self, parameters: Tensors, gradients: Tensors, states: States, group: Group) -> Tensors:
        momentum, beta = group["momentum"], self.variance_momentum(group)
        variances = entries(states, "variance", parameters)
        if group["adamax"]:
            torch._foreach_mul_(variances, beta)
            torch._foreach_maximum_(variances, list(torch._foreach_abs(gradients)))
            directions = list(torch._foreach_add(variances, group["eps"]))
        else:
            average_squares(variances, gradients, beta)
            directions = list(torch._foreach_sqrt(variances))
            torch._foreach_add_(directions, group["eps"])
        corrections = []
        for state in states:
            state["step"] = state.get("step", 0) + 1
            root = 1.0 if group["adamax"] else math.sqrt(1.0 - beta ** state["step"])
            corrections.append(root / (1.0 - momentum ** state["step"]))
        means = self.mean(parameters, gradients, states, group)
        directions = list(torch._foreach_div(means, directions))
        torch._foreach_mul_(directions, corrections)
        return directions


class FSAdagrad(_TimeConstants):
    """p ← p - lr·m, m ← μ·m + u·g·min(sqrt(n / v), 10), with v the average of g² and n that of the step's samples.

    v ← β·v + (1-β)·g² and n ← β·n + (1-β)·samples, β `variance_momentum` as in `CntkAdam`; μ `momentum`, u = 1 - μ with
    `unit_gain`, else 1. Where v is 0, g stays as it is; without momentum m is the new value alone. Adam came out of the
    same idea; this is what adam_sgd(low_memory=True) meant in early CNTK. Needs the group entry "samples", which a
    Trainer sets. State: "variance", "count" (float), and "mean" with momentum.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = FSAdagrad([weight], lr=0.01, variance_momentum=0.999)
    >>> optimizer.param_groups[0]["samples"] = 4
    >>> weight.grad = torch.full((1,), 8.0)
    >>> optimizer.step()
    >>> round(weight.item(), 4)
    0.98
    """

    def __init__(self, params: ParamsT, lr: float, **shared: Unpack[TimeConstants]) -> None:
        super().__init__(params, {"lr": lr, "samples": None}, **shared)

    def uphill(self, parameters: Tensors, gradients: Tensors, states: States, group: Group) -> Tensors:
        beta = self.variance_momentum(group)
        if group["samples"] is None:
            raise RuntimeError(
                "FSAdagrad needs the number of samples of the step: a Trainer sets it; in a loop of your own call "
                'minibatch.train.rates.set_rates before each step, or set the group entry "samples"'
            )
        variances = entries(states, "variance", parameters)
        average_squares(variances, gradients, beta)
        scales = []
        for state in states:
            state["count"] = beta * state.get("count", 0.0) + (1.0 - beta) * group["samples"]
            scales.append(math.sqrt(state["count"]))
        # 1/sqrt(0) is infinite, and the limit 10 holds: g is 0 there too, so the product is CNTK's unchanged g.
        weights = list(torch._foreach_sqrt(variances))
        torch._foreach_reciprocal_(weights)
        torch._foreach_mul_(weights, scales)
        torch._foreach_clamp_max_(weights, 10.0)
        scaled = list(torch._foreach_mul(gradients, weights))
        return scaled if group["momentum"] == 0.0 else self.mean(parameters, scaled, states, group)


class CntkRMSprop(Descent):
    """p ← p - lr·g·a / mean(a), a = s / sqrt(v + 1e-6): RMSprop whose step sizes s grow and shrink as in Rprop.

    v ← gamma·v + (1-gamma)·g², which begins as the first g². s begins at 0.02; where g has the sign of the last one,
    s ← min(s·inc, max), elsewhere s ← max(s·dec, min). The mean is over the elements of each tensor, and left out
    without `normalize` (CNTK: need_ave_multiplier). Defaults: CNTK's own in its SGD block.
    State: "variance", "sign", "size", as the parameter.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = CntkRMSprop([weight], lr=0.1)
    >>> weight.grad = torch.tensor([3.0, 3.0])
    >>> optimizer.step()
    >>> weight.data
    tensor([0.7000, 0.7000])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        gamma: float = 0.99,
        inc: float = 1.2,
        dec: float = 0.75,
        max: float = 10.0,
        min: float = 0.1,
        normalize: bool = True,
        **shared: Unpack[Shared],
    ) -> None:
        own = {"lr": lr, "gamma": gamma, "inc": inc, "dec": dec, "max": max, "min": min, "normalize": normalize}
        super().__init__(params, own, **shared)

    def limits(self) -> dict[str, tuple[float, float, bool]]:
        above = dict.fromkeys(("inc", "dec", "max", "min"), (0.0, math.inf, True))
        return {**LIMITS, **above, "gamma": (0.0, 1.0, False)}

    def uphill(self, parameters: Tensors, gradients: Tensors, states: States, group: Group) -> Tensors:
        variances = entries(states, "variance", gradients, torch.square)
        average_squares(variances, gradients, group["gamma"])

        signs = entries(states, "sign", parameters)
        sizes = entries(states, "size", parameters, lambda parameter: torch.full_like(parameter, 0.02))
        now = list(torch._foreach_sign(gradients))
        agree = list(torch._foreach_mul(signs, now))
        torch._foreach_clamp_min_(agree, 0.0)  # 1 where the sign is that of the last gradient, else 0
        grown = list(torch._foreach_mul(sizes, group["inc"]))
        torch._foreach_clamp_max_(grown, group["max"])
        torch._foreach_mul_(sizes, group["dec"])
        torch._foreach_clamp_min_(sizes, group["min"])
        # A choice, not an interpolation: weights of exactly 0 and 1 give the bits of one side.
        torch._foreach_lerp_(sizes, grown, agree)
        torch._foreach_copy_(signs, now)

        multipliers = list(torch._foreach_add(variances, 1e-6))
        torch._foreach_sqrt_(multipliers)
        multipliers = list(torch._foreach_div(sizes, multipliers))
        directions = list(torch._foreach_mul(gradients, multipliers))
        if group["normalize"]:
            divide_by_means(directions, multipliers)
        return directions
