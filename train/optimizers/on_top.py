"""Velocity on top of torch's own Rprop, Adadelta and Adam, as downhill (theanets) has it for every algorithm."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Adadelta, Adam, Optimizer, Rprop
from torch.optim.optimizer import ParamsT

from minibatch.train.optimizers.descent import coast


class _OnTop(Optimizer):
    """p ← p + v, v ← momentum·v + δ, where δ is what the optimizer below would have added to p.

    With nesterov, p ← p + momentum·v + δ for the new v. Source: downhill's `Optimizer._get_updates`. δ is found as the
    difference of p before and after, so its last bits are those of p. State: "velocity" beside that of the optimizer.
    """

    def __init__(self, params: ParamsT, *, momentum: float = 0.0, nesterov: bool = False, **options: Any) -> None:
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"{type(self).__name__}: momentum={momentum!r}, expected a number ≥ 0 and ≤ 1")
        if options.get("fused"):
            # A fused step may be skipped on the device, and nobody here would know that the velocity must rest.
            raise ValueError(f"{type(self).__name__}: fused=True has no velocity on top; use foreach")
        super().__init__(params, **options)
        for name, value in (("momentum", momentum), ("nesterov", nesterov)):
            self.defaults[name] = value
            for group in self.param_groups:
                group.setdefault(name, value)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; what `closure` returned, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        before = [[p.clone(memory_format=torch.preserve_format) for p in parameters] for _, parameters in moving]
        super().step()
        for (group, parameters), old in zip(moving, before, strict=True):
            states = [self.state[p] for p in parameters]
            if not parameters or (group["momentum"] == 0.0 and not any("velocity" in state for state in states)):
                continue
            changes = list(torch._foreach_sub(parameters, old))
            torch._foreach_copy_(parameters, old)
            coast(parameters, changes, states, group, gain=1.0)
        return loss


class RpropOnTop(_OnTop, Rprop):
    """torch.optim.Rprop with momentum and nesterov on top; other options are torch's.

    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = RpropOnTop([weight], lr=0.25, momentum=0.5)
    >>> for step in range(2):
    ...     weight.grad = torch.ones(1)
    ...     optimizer.step()
    >>> round(weight.item(), 4)                                        # 1 - 0.25 - (0.125 + 0.3)
    0.325
    """


class AdadeltaOnTop(_OnTop, Adadelta):
    """torch.optim.Adadelta with momentum and nesterov on top; other options are torch's."""


class AdamOnTop(_OnTop, Adam):
    """torch.optim.Adam with momentum and nesterov on top; other options are torch's."""
