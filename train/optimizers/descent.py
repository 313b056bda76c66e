"""What the optimizers of this package share: lists of parameters, velocity on top of any direction, checks.

Every operation takes a whole list of tensors (`torch._foreach_…`) or, with foreach=False, the same operation one tensor
after the other: the bits are the same. The choice is explicit and no default of the device. States are tensors and
plain numbers, so that a checkpoint can keep them by parameter name, and nothing here waits for the device.
"""

import math
from collections.abc import Callable, Mapping
from inspect import Parameter, Signature, signature
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

Group = dict[str, Any]
States = list[dict[str, Any]]
Tensors = list[Tensor]


class Shared(TypedDict, total=False):
    """The options of `Descent`, which a subclass's constructor takes as **shared and hands on."""

    momentum: float
    nesterov: bool
    weight_decay: float
    l1: float
    foreach: bool


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
    arXiv:1212.0901, equation 7. A subclass has `uphill`, and gives its own options with its constructor.

    Group entries of all: lr, momentum, nesterov, weight_decay (added to the gradient as weight_decay·p), l1 (after the
    update every element moves towards 0 by lr·l1, and stays there: CNTK's soft threshold) and foreach.
    State: "velocity", as the parameter, from the first update with momentum on.
    """

    __signature__: ClassVar[Signature]

    def __init__(
        self,
        params: ParamsT,
        own: Group,
        /,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        foreach: bool = True,
    ) -> None:
        shared = {
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "l1": l1,
            "foreach": foreach,
        }
        super().__init__(params, {**shared, **own})

    def __init_subclass__(cls) -> None:
        """Name in the signature of a class what its constructor hands on by **: `help` and `optimizer` read it."""
        super().__init_subclass__()
        _, *own = signature(cls.__init__).parameters.values()
        if own and own[-1].kind is Parameter.VAR_KEYWORD:
            known = {option.name for option in own}
            shared = signature(cls.__mro__[1]).parameters.values()
            own[-1:] = [o for o in shared if o.kind is Parameter.KEYWORD_ONLY and o.name not in known]
        cls.__signature__ = Signature(own)

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

    def uphill(self, parameters: Tensors, gradients: Tensors, states: States, group: Group) -> Tensors:
        """Where to go, uphill: one tensor per parameter. Must not change the gradients, and may return them.

        gradients: with decay. states: each empty before the first update of its parameter; see `entries`.
        """
        raise NotImplementedError

    def _at_hand(self, group: Group) -> tuple[Tensors, Tensors, States]:
        """Parameters with a gradient, these gradients, and the states."""
        parameters: Tensors = [p for p in group["params"] if p.grad is not None]
        gradients: Tensors = []
        states: States = []
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

    def _update(self, parameters: Tensors, gradients: Tensors, states: States, group: Group) -> None:
        gradients = with_decay(parameters, gradients, group)
        self.move(parameters, self.uphill(parameters, gradients, states, group), states, group, group["lr"])

    def move(self, parameters: Tensors, directions: Tensors, states: States, group: Group, rate: float) -> None:
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

    def _coast(self, parameters: Tensors, directions: Tensors, states: States, group: Group, rate: float) -> None:
        coast(parameters, directions, states, group, gain=-rate)


def coast(
    parameters: Tensors, directions: Tensors, states: States, group: Group, *, gain: float, rate: float = 1.0
) -> None:
    """v ← momentum·v + gain·d, then p ← p + rate·v, or with nesterov p ← p + rate·(momentum·v + gain·d); d directions.

    Together with where the learning rate is, in `gain` or in `rate`, this is every kind of velocity in the package.
    """
    velocities = entries(states, "velocity", parameters)
    accumulate(velocities, directions, kept=group["momentum"], gain=gain)
    if group["nesterov"]:
        torch._foreach_add_(parameters, velocities, alpha=rate * group["momentum"])
        torch._foreach_add_(parameters, directions, alpha=rate * gain)
    else:
        torch._foreach_add_(parameters, velocities, alpha=rate)


def entries(states: States, name: str, like: Tensors, begin: Callable[[Tensor], Tensor] = torch.zeros_like) -> Tensors:
    """The tensors `name` of the states, begin(like) where there is none yet: zeros, shaped and laid out as `like`."""
    for state, model in zip(states, like, strict=True):
        if name not in state:
            state[name] = begin(model)
    return [state[name] for state in states]


def accumulate(sums: Tensors, values: Tensors, *, kept: float, gain: float) -> None:
    """s ← kept·s + gain·x, in place: a velocity; with gain = 1 - kept a moving average."""
    torch._foreach_mul_(sums, kept)
    torch._foreach_add_(sums, values, alpha=gain)


def average_squares(averages: Tensors, values: Tensors, kept: float) -> None:
    """s ← kept·s + (1 - kept)·x², in place."""
    torch._foreach_mul_(averages, kept)
    torch._foreach_addcmul_(averages, values, values, value=1.0 - kept)


def with_decay(parameters: Tensors, gradients: Tensors, group: Group) -> Tensors:
    """The gradients with weight_decay·p added, as new tensors, or themselves without decay."""
    decay = group["weight_decay"]
    if not decay:
        return gradients
    return list(torch._foreach_add(gradients, parameters, alpha=decay))


def soften(parameters: Tensors, threshold: float) -> None:
    """Move every element towards 0 by `threshold`, and to 0 if it is nearer: the proximal step of an L1 penalty.

    >>> values = torch.tensor([-3.0, 0.5, 2.0])
    >>> soften([values], 1.0)
    >>> values
    tensor([-2.,  0.,  1.])
    """
    near = torch._foreach_clamp_min(parameters, -threshold)
    torch._foreach_clamp_max_(near, threshold)
    torch._foreach_sub_(parameters, list(near))
