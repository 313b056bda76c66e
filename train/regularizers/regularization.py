"""The weight regularizers of a run at work: gradients in closed form, values, and what happens after the update.

They are applied once per step, after the microbatches: exact for any cut. A tensor costs the same however many
regularizers match it, because it is multiplied by the sum of their coefficients.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from minibatch.train.regularizers.coefficients import Regularizer, coefficient_at, of_kind
from minibatch.train.regularizers.weights import MaxNorm, WeightL1, WeightPenalty, WeightRegularizer

Number = float | Tensor
Shares = tuple[float, ...]


class Regularization:
    """Applies those of `regularizers` that are for weights to `parameters` by name; others are left to a Recorder.

    values: what each regularizer added to the objective in the last step, coefficient included, by name: floats where
    the weights are on the CPU, else 0-dim tensors that nobody has waited for. Summed in float64.

    Raises ValueError for a regularizer that matches no parameter. Parameters that do not require gradients count in
    the values and are left as they are.

    >>> from minibatch.train.regularizers import WeightL1, WeightL2
    >>> w = torch.nn.Parameter(torch.tensor([[3.0, -4.0]]))
    >>> regularization = Regularization([WeightL2(coefficient=0.1), WeightL1(coefficient=1.0)], {"w": w})
    >>> regularization.add_gradients(0), w.grad
    (9.5, tensor([[ 1.6000, -1.8000]]))
    >>> regularization.values
    {'weight_l2': 2.5, 'weight_l1': 7.0}
    """

    def __init__(self, regularizers: Sequence[Regularizer], parameters: Mapping[str, Tensor]) -> None:
        penalties = of_kind(regularizers, WeightPenalty)
        bounds = of_kind(regularizers, MaxNorm)
        members = {name: _matched(one, parameters) for name, one in of_kind(regularizers, WeightRegularizer).items()}
        self.values: dict[str, Number] = {}
        self._parts = [
            _Part(mine, members, parameters)
            for power in (2, 1)
            if (mine := {name: one for name, one in penalties.items() if one.power == power})
        ]
        self._order = list(penalties)
        self._bounds = [(one, [parameters[name] for name in members[key]]) for key, one in bounds.items()]
        self._places: dict[int, tuple[Optimizer, int]] = {}

    def __bool__(self) -> bool:
        """Whether `add_gradients` has anything to do."""
        return bool(self._parts)

    @property
    def acts_after_update(self) -> bool:
        """Whether `after_update` has anything to do."""
        return bool(self._bounds) or any(part.thresholds for part in self._parts)

    @torch.no_grad()
    def add_gradients(self, time: int | None = None) -> Number:
        """Add the gradients of all penalties at nominal `time` to those of the parameters; the sum of the values.

        The values are those before the update. time may be left out where all coefficients are numbers.
        Raises ValueError for a parameter with a sparse gradient, which a penalty would make dense.
        """
        total: Number = 0.0
        values: dict[str, Number] = {}
        for part in self._parts:
            part.add_gradients(time)
            for name, value in part.values(time).items():
                values[name] = value
                total = total + value
        self.values = {name: values[name] for name in self._order}
        return total

    @torch.no_grad()
    def after_update(self, time: int | None, optimizers: Sequence[Optimizer], finite: Tensor | None = None) -> None:
        """Soft thresholds and norm bounds, to be called after the optimizers' step of the step that began at `time`.

        optimizers: which own the parameters; thresholds use the rates of their groups. finite: a bool tensor () where
        the optimizers themselves decide on the device whether to skip the step; False leaves all weights alone.
        """
        for part in self._parts:
            for weights, threshold in part.thresholds_at(time):
                for weight in weights:
                    if weight.requires_grad:
                        _replace(weight, _soft(weight, self._rate(weight, optimizers) * threshold), finite)
        for bound, weights in self._bounds:
            limit = coefficient_at(bound, time)
            for weight in weights:
                if weight.requires_grad:
                    axes = [axis for axis in range(weight.ndim) if axis != bound.axis % weight.ndim]
                    norms = torch.linalg.vector_norm(weight, dim=axes, keepdim=True)
                    _replace(weight, weight * (limit / norms).clamp_(max=1.0), finite)

    def _rate(self, weight: Tensor, optimizers: Sequence[Optimizer]) -> Number:
        """The learning rate of the group that owns `weight`; groups are replaced, their numbers stay."""
        place = self._places.get(id(weight))
        if place is None:
            for optimizer in optimizers:
                for number, group in enumerate(optimizer.param_groups):
                    for parameter in group["params"]:
                        self._places[id(parameter)] = optimizer, number
            place = self._places[id(weight)]
        optimizer, number = place
        rate: Number = optimizer.param_groups[number]["lr"]
        return rate


class _Part:
    """Penalties of one power of |w|: which weights they are on, and how much each counts for each of them."""

    def __init__(
        self,
        penalties: Mapping[str, WeightPenalty],
        members: Mapping[str, Mapping[str, Tensor]],
        parameters: Mapping[str, Tensor],
    ) -> None:
        self.penalties = penalties
        self.power = next(iter(penalties.values())).power
        matched = [name for name in parameters if any(name in members[key] for key in penalties)]
        self.weights = [parameters[name] for name in matched]
        columns: list[Shares] = [
            tuple(
                one.scale(parameters[name], len(members[key])) if name in members[key] else 0.0
                for key, one in penalties.items()
            )
            for name in matched
        ]
        device = self.weights[0].device
        self.on_host = device.type == "cpu"
        self.norm_dtype = torch.float32 if device.type == "mps" else torch.float64
        self.scales = torch.tensor(columns, dtype=self.norm_dtype, device=device).T.contiguous()  # (penalties, weights)
        proximal = [isinstance(one, WeightL1) and one.proximal for one in penalties.values()]
        self.gradients = _grouped(self.weights, columns, [not late for late in proximal])
        self.thresholds = _grouped(self.weights, columns, proximal)
        self._constant = all(not callable(one.coefficient) for one in penalties.values())
        self._coefficients: Shares = ()
        self._on_device: tuple[Shares, Tensor] | None = None

    def coefficients(self, time: int | None) -> Shares:
        if not (self._constant and self._coefficients):
            self._coefficients = tuple(coefficient_at(one, time) for one in self.penalties.values())
        return self._coefficients

    def add_gradients(self, time: int | None) -> None:
        coefficients = self.coefficients(time)
        for weights, column in self.gradients:
            multiplier = self.power * _dot(coefficients, column)
            if multiplier == 0.0:
                continue
            weights, gradients = _with_gradients(weights)
            if not weights:
                continue
            if self.power == 2:
                torch._foreach_add_(gradients, weights, alpha=multiplier)
            else:
                torch._foreach_add_(gradients, torch._foreach_sign(weights), alpha=multiplier)

    def values(self, time: int | None) -> dict[str, Number]:
        norms = torch.stack(torch._foreach_norm(self.weights, self.power, dtype=self.norm_dtype))
        sums = self.scales @ (norms.square_() if self.power == 2 else norms)
        coefficients = self.coefficients(time)
        if self.on_host:
            return {key: c * v for key, c, v in zip(self.penalties, coefficients, sums.tolist(), strict=True)}
        if self._on_device is None or self._on_device[0] != coefficients:
            factors = torch.tensor(coefficients, dtype=sums.dtype).to(sums.device, non_blocking=True)
            self._on_device = coefficients, factors
        return dict(zip(self.penalties, (sums * self._on_device[1]).unbind(), strict=True))

    def thresholds_at(self, time: int | None) -> list[tuple[list[Tensor], float]]:
        """Groups of weights with the sum of coefficient · scale of their proximal penalties."""
        if not self.thresholds:
            return []
        coefficients = self.coefficients(time)
        return [(weights, _dot(coefficients, column)) for weights, column in self.thresholds]


def _matched(regularizer: WeightRegularizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters that a regularizer is for; ValueError if there is none."""
    least_axes = regularizer.least_axes
    candidates = {name: p for name, p in parameters.items() if p.ndim >= least_axes}
    found = {name: p for name, p in candidates.items() if regularizer.matches(name)}
    if not found:
        axes = {1: "", 2: " of two or more axes"}.get(least_axes, f" of {least_axes} or more axes")
        raise ValueError(f"{regularizer} matches no parameter{axes}; there are {', '.join(candidates) or 'none'}")
    return found


def _grouped(
    weights: Sequence[Tensor], columns: Sequence[Shares], chosen: Sequence[bool]
) -> list[tuple[list[Tensor], Shares]]:
    """Weights that count alike, with how much they count for each penalty; 0 for penalties that are not chosen."""
    groups: dict[Shares, list[Tensor]] = {}
    for weight, column in zip(weights, columns, strict=True):
        shares = tuple(share if mine else 0.0 for share, mine in zip(column, chosen, strict=True))
        if any(shares):
            groups.setdefault(shares, []).append(weight)
    return [(members, shares) for shares, members in groups.items()]


def _with_gradients(weights: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The weights that are trained, and their gradients, which are made where there are none yet."""
    if not all(weight.requires_grad for weight in weights):
        weights = [weight for weight in weights if weight.requires_grad]
    gradients = []
    for weight in weights:
        grad = weight.grad
        if grad is None:
            grad = weight.grad = torch.zeros_like(weight)
        elif grad.is_sparse:
            raise ValueError(
                f"a weight regularizer matches a parameter of shape {tuple(weight.shape)} whose gradient is sparse (an "
                "embedding with sparse=True), and would touch every row in every step: leave it out by pattern=, or "
                "use sparse=False"
            )
        gradients.append(grad)
    return weights, gradients


def _dot(a: Shares, b: Shares) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _soft(weight: Tensor, threshold: Number) -> Tensor:
    """sign(w) · max(|w| - threshold, 0)."""
    if isinstance(threshold, Tensor):
        return weight.sign() * (weight.abs() - threshold).clamp_(min=0.0)
    return torch.nn.functional.softshrink(weight, threshold)


def _replace(weight: Tensor, new: Tensor, finite: Tensor | None) -> None:
    weight.copy_(new if finite is None else new.where(finite, weight))
