"""Gradient descent with velocity, in the two conventions that agree only while the learning rate stays."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from minibatch.train.optimizers.descent import Descent, Group, State, entries

Velocity = Literal["inside", "outside"]


class Momentum(Descent):
    """SGD with momentum, the learning rate inside or outside the velocity.

        inside    v ← μ·v - lr·u·g         p ← p + v          nesterov: p ← p + μ·v - lr·u·g
        outside   v ← μ·v + u·g            p ← p - lr·v       nesterov: p ← p - lr·(u·g + μ·v)

    where g is the gradient with weight_decay·p added, and u = 1 - μ with `unit_gain`, else 1. "outside" with u = 1 is
    torch.optim.SGD. When the rate drops tenfold, "inside" coasts on at the old speed for about 1/(1 - μ) steps.

    Sources: "inside" is HALCON's train_dl_model_batch, cuda-convnet2's `inc = mom·inc + eps·(grad/mini) - eps·wc·w`
    (weight_decay = wc), downhill's SGD and NAG of 2015, and with unit_gain CNTK's MomentumSGDLearner for dense
    gradients; "outside" with unit_gain is what CNTK does for sparse ones.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = Momentum([weight], lr=0.5, momentum=0.5, unit_gain=True)
    >>> for step in range(3):
    ...     weight.grad = torch.ones(1)
    ...     optimizer.step()
    >>> round(weight.item() - 1.0, 4)
    -1.0625
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        velocity: Velocity = "inside",
        unit_gain: bool = False,
        l1: float = 0.0,
        foreach: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "velocity": velocity,
            "unit_gain": unit_gain,
            "l1": l1,
            "foreach": foreach,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        velocity = self.param_groups[-1]["velocity"]
        if velocity not in ("inside", "outside"):
            raise ValueError(f"Momentum: velocity={velocity!r}, expected 'inside' or 'outside'")

    def uphill(
        self, parameters: list[Tensor], gradients: list[Tensor], states: list[State], group: Group
    ) -> list[Tensor]:
        return gradients

    def _update(self, parameters: list[Tensor], gradients: list[Tensor], states: list[State], group: Group) -> None:
        if group["unit_gain"]:
            group = {**group, "gain": 1.0 - group["momentum"]}
        super()._update(parameters, gradients, states, group)

    def move(
        self, parameters: list[Tensor], directions: list[Tensor], states: list[State], group: Group, rate: float
    ) -> None:
        gain = group.get("gain", 1.0)
        super().move(parameters, directions, states, group, rate * gain if group["velocity"] == "inside" else rate)

    def _coast(
        self, parameters: list[Tensor], directions: list[Tensor], states: list[State], group: Group, rate: float
    ) -> None:
        if group["velocity"] == "inside":
            super()._coast(parameters, directions, states, group, rate)
            return
        momentum, gain = group["momentum"], group.get("gain", 1.0)
        velocities = entries(states, "velocity", parameters)
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, directions, alpha=gain)
        if group["nesterov"]:
            torch._foreach_add_(parameters, velocities, alpha=-rate * momentum)
            torch._foreach_add_(parameters, directions, alpha=-rate * gain)
        else:
            torch._foreach_add_(parameters, velocities, alpha=-rate)
