"""Gradient descent with velocity, in the two conventions that agree only while the learning rate stays."""

from typing import Any, Literal, Unpack

from torch.optim.optimizer import ParamsT

from minibatch.train.optimizers.descent import Descent, Group, Shared, States, Tensors, coast

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

    >>> import torch
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
        velocity: Velocity = "inside",
        unit_gain: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, {"lr": lr, "velocity": velocity, "unit_gain": unit_gain}, **shared)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        velocity = self.param_groups[-1]["velocity"]
        if velocity not in ("inside", "outside"):
            raise ValueError(f"Momentum: velocity={velocity!r}, expected 'inside' or 'outside'")

    def uphill(self, parameters: Tensors, gradients: Tensors, states: States, group: Group) -> Tensors:
        return gradients

    def _coast(self, parameters: Tensors, directions: Tensors, states: States, group: Group, rate: float) -> None:
        gain = 1.0 - group["momentum"] if group["unit_gain"] else 1.0
        if group["velocity"] == "inside":
            coast(parameters, directions, states, group, gain=-rate * gain)
        else:
            coast(parameters, directions, states, group, gain=gain, rate=-rate)
