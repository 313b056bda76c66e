"""What the optimizers of this package share: lists of parameters, velocity on top of any direction, checks.

Every operation takes a whole list of tensors (`torch._foreach_…`) or, with foreach=False, the same operation one tensor
after the other: the bits are the same. The choice is explicit and no default of the device. States are tensors and
plain numbers, so that a checkpoint can keep them by parameter name, and nothing here waits for the device.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

Group = dict[str, Any]
State = dict[str, Any]

# What the numbers of a group may be: least, most, and whether the most itself is excluded.
LIMITS: Mapping[str, tuple[float, float, bool]] = {
    "lr": (0.0, math.inf, True),
    "momentum": (0.0, 1.0, False),
    "weight_decay": (0.0, math.inf, True),
    "l1": (0.0, math.inf, True),
    "halflife": (0.0, math.inf, False),
    "eps": (0.0, math.inf, True),
}


def ewma(halflife: float) -> float:
    """How much of a moving average is left after one update, if a half is left after `halflife` updates.

    >>> round(ewma(14), 4)
    0.9517
    """
    return math.exp(-math.log(2.0) / halflife) if halflife > 0 else 0.0


class Descent(Optimizer):
    """p ← p + v with v ← momentum·v - lr·d: the learning rate is inside the velocity, the direction d a subclass's.

    With nesterov, p ← p + momentum·v - lr·d for the new v. Without momentum, p ← p - lr·d. This is what downhill
    (theanets) puts on top of every algorithm; source: its `Optimizer._get_updates`, and Bengio et al. 2012,
    arXiv:1212.0901, equation 7. A subclass has `uphill`.

    Group entries of all: lr, momentum, nesterov, weight_decay (added to the gradient as weight_decay·p), l1 (after the
    update every element moves towards 0 by lr·l1, and stays there: CNTK's soft threshold) and foreach.
    State: "velocity", as the parameter, from the first update with momentum on.
    """

    #: An entry that the state of a parameter has as soon as it has been begun; None where there is nothing to begin.
    first: str | None = None

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        common = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "l1": 0.0, "foreach": True}
        super().__init__(params, {**common, **defaults})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does; its numbers are checked here."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        kind = type(self).__name__
        for name, (least, most, open_end) in self.limits().items():
            value = group.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{kind}: {name}={value!r}, expected a number")
            if not (least <= value < most or (value == most and not open_end)):
                end = f"< {most}" if open_end else f"≤ {most}"
                raise ValueError(f"{kind}: {name}={value!r}, expected a number ≥ {least} and {end}")
        for parameter in group["params"]:
            if not parameter.is_floating_point():
                raise TypeError(
                    f"{kind}: a parameter of {parameter.dtype} and shape {tuple(parameter.shape)}; real only"
                )

    def limits(self) -> dict[str, tuple[float, float, bool]]:
        """Which numbers a group may have: {entry: (least, most, whether the most is excluded)}."""
        return dict(LIMITS)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; what `closure` returned, if there is one.

        Raises RuntimeError for sparse gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters, gradients, states = self._at_hand(group)
            if not parameters:
                continue
            if group["foreach"]:
                self._update(parameters, gradients, states, group)
            else:
                for parameter, gradient, state in zip(parameters, gradients, states, strict=True):
                    self._update([parameter], [gradient], [state], group)
        return loss

    def begin(self, parameter: Tensor, gradient: Tensor, state: State, group: Group) -> None:
        """Fill the empty `state` of a parameter before its first update; gradient: with decay."""

    def uphill(
        self, parameters: list[Tensor], gradients: list[Tensor], states: list[State], group: Group
    ) -> list[Tensor]:
        """Where to go, uphill: one tensor per parameter. Must not change the gradients, and may return them."""
        raise NotImplementedError

    def _at_hand(self, group: Group) -> tuple[list[Tensor], list[Tensor], list[State]]:
        """Parameters with a gradient, these gradients, and the states."""
        parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        gradients: list[Tensor] = []
        states: list[State] = []
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            if gradient.is_sparse:
                raise RuntimeError(
                    f"{type(self).__name__} got a sparse gradient for a parameter of shape {tuple(parameter.shape)}; "
                    "make it with sparse=False, or use torch.optim.SGD or SparseAdam for it"
                )
            gradients.append(gradient)
            states.append(self.state[parameter])
        return parameters, gradients, states

    def _update(self, parameters: list[Tensor], gradients: list[Tensor], states: list[State], group: Group) -> None:
        gradients = with_decay(parameters, gradients, group)
        if self.first is not None:
            for parameter, gradient, state in zip(parameters, gradients, states, strict=True):
                if self.first not in state:
                    self.begin(parameter, gradient, state, group)
        self.move(parameters, self.uphill(parameters, gradients, states, group), states, group, group["lr"])

    def move(
        self, parameters: list[Tensor], directions: list[Tensor], states: list[State], group: Group, rate: float
    ) -> None:
        """Move the parameters by -rate·directions, with velocity on top, then towards 0 by lr·l1."""
        momentum = group["momentum"]
        moving = [index for index, state in enumerate(states) if "velocity" in state]
        if momentum != 0.0 or len(moving) == len(states):
            self._coast(parameters, directions, states, group, rate)
        elif not moving:
            torch._foreach_add_(parameters, directions, alpha=-rate)
        else:
            # Momentum has been turned off, and parameters without a gradient until now have never had a velocity.
            for index in range(len(states)):
                self.move([parameters[index]], [directions[index]], [states[index]], {**group, "l1": 0.0}, rate)
        if group["l1"]:
            soften(parameters, group["lr"] * group["l1"])

    def _coast(
        self, parameters: list[Tensor], directions: list[Tensor], states: list[State], group: Group, rate: float
    ) -> None:
        momentum = group["momentum"]
        velocities = entries(states, "velocity", parameters)
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, directions, alpha=-rate)
        if group["nesterov"]:
            torch._foreach_add_(parameters, velocities, alpha=momentum)
            torch._foreach_add_(parameters, directions, alpha=-rate)
        else:
            torch._foreach_add_(parameters, velocities)


def entries(states: list[State], name: str, like: list[Tensor]) -> list[Tensor]:
    """The tensors `name` of the states, zeros shaped as `like` where there is none yet."""
    for state, parameter in zip(states, like, strict=True):
        if name not in state:
            state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return [state[name] for state in states]


def with_decay(parameters: list[Tensor], gradients: list[Tensor], group: Group) -> list[Tensor]:
    """The gradients with weight_decay·p added, as new tensors, or themselves without decay."""
    decay = group["weight_decay"]
    if not decay:
        return gradients
    return list(torch._foreach_add(gradients, parameters, alpha=decay))


def soften(parameters: list[Tensor], threshold: float) -> None:
    """Move every element towards 0 by `threshold`, and to 0 if it is nearer: the proximal step of an L1 penalty.

    >>> values = torch.tensor([-3.0, 0.5, 2.0])
    >>> soften([values], 1.0)
    >>> values
    tensor([-2.,  0.,  1.])
    """
    near = torch._foreach_clamp_min(parameters, -threshold)
    torch._foreach_clamp_max_(near, threshold)
    torch._foreach_sub_(parameters, list(near))
