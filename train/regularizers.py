"""Regularizers: parts of the objective that depend on the parameters alone, chosen by patterns of parameter names.

They are added once per step, after the microbatches, with their gradients in closed form: exact for any cut.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class WeightL2:
    """coefficient · Σ w² over the parameters that match `pattern` and have two or more axes (so no biases, no gains).

    There is no ½: the gradient is 2 · coefficient · w. pattern: a shell pattern of qualified names. Source: theanets'
    `weight_l2`; Krogh and Hertz 1991, equation 4, with λ = 2 · coefficient.

    >>> WeightL2(coefficient=1e-4, pattern="layers.0.*").matches("layers.0.weight")
    True
    """

    coefficient: float
    pattern: str = "*"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.coefficient) and self.coefficient >= 0):
            raise ValueError(f"WeightL2: coefficient={self.coefficient!r}, expected a finite number ≥ 0")

    def matches(self, name: str) -> bool:
        return fnmatchcase(name, self.pattern)


class Regularization:
    """The regularizers of a run, applied to the parameters they match: each has Σ of the coefficients that match it."""

    def __init__(self, regularizers: Sequence[WeightL2], parameters: Mapping[str, Tensor]) -> None:
        weights = {name: p for name, p in parameters.items() if p.ndim >= 2}
        for regularizer in regularizers:
            if not any(regularizer.matches(name) for name in weights):
                raise ValueError(
                    f"{regularizer} matches no parameter of two or more axes; there are {', '.join(weights) or 'none'}"
                )
        self.groups: dict[float, list[Tensor]] = {}
        for name, parameter in weights.items():
            coefficient = math.fsum(r.coefficient for r in regularizers if r.matches(name))
            if coefficient:
                self.groups.setdefault(coefficient, []).append(parameter)

    @torch.no_grad()
    def add_gradients(self) -> Tensor | float:
        """Add 2 · coefficient · w to the gradients; the value Σ coefficient · w² before the update."""
        value: Tensor | float = 0.0
        for coefficient, weights in self.groups.items():
            for weight in weights:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            torch._foreach_add_(gradients, weights, alpha=2.0 * coefficient)
            norms = torch.stack(torch._foreach_norm(weights)).double()
            value = value + coefficient * norms.square().sum()
        return value
