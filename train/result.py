"""What one step did: its interval of nominal time and the exact value of every term."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from minibatch.train.terms import Share

Number = float | Tensor


class StepResult(Mapping[str, float | None]):
    """`result["total_loss"]` and `result[name of a term]`: the values before the update, exact for the whole minibatch.

    A term that was absent (denominator 0) has the value None. Values stay on the device until they are looked at; the
    step itself waits for nothing. A result is falsy when there was no minibatch: the axis has ended.

    step: the number of this step, from 1. interval: [t0, t1) of nominal time. num_samples: how many samples it had.
    numerators, denominators, coefficients: of the terms, in the order of `names`; measures: what `mean` divides by.
    regularization: the part of weight regularizers in the total, regularizers: that of each by name. learning_rates:
    one per optimizer. updated: False where there was nothing to learn from. overflow: whether a scaled float16 gradient
    was too large, so that the update was left out and the scale halved. clipped: whether the norm was above the limit
    of clipping, None without one. streams: of several sources the name, the interval of its own axis and the number of
    samples of each.
    """

    __slots__ = (
        "_finite",
        "_grad_norm",
        "_spike",
        "clipped",
        "coefficients",
        "denominators",
        "interval",
        "learning_rates",
        "measures",
        "names",
        "num_samples",
        "numerators",
        "overflow",
        "regularization",
        "regularizers",
        "step",
        "streams",
        "updated",
    )

    def __init__(self, names: tuple[str, ...], step: int, interval: tuple[int, int], num_samples: int) -> None:
        self.names = names
        self.step = step
        self.interval = interval
        self.num_samples = num_samples
        self.numerators: tuple[Number, ...] = (0.0,) * len(names)
        self.denominators: tuple[float, ...] = (0.0,) * len(names)
        self.coefficients: tuple[float, ...] = (1.0,) * len(names)
        self.measures: tuple[float, ...] = (0.0,) * len(names)
        self.regularization: Number = 0.0
        self.regularizers: Mapping[str, Number] = {}
        self.learning_rates: tuple[float, ...] = ()
        self.updated = False
        self.overflow = False
        self.clipped: bool | Tensor | None = None
        self.streams: tuple[tuple[str, int, int, int], ...] = ()
        self._grad_norm: Number = 0.0
        self._finite: bool | Tensor = True
        self._spike: bool | Tensor = False

    @property
    def grad_norm(self) -> float:
        """The 2-norm of the whole gradient, before clipping."""
        if not isinstance(self._grad_norm, float):
            self._grad_norm = float(self._grad_norm)
        return self._grad_norm

    @property
    def norm(self) -> Number:
        """What `grad_norm` is, a float or a 0-dim tensor that nobody has waited for."""
        return self._grad_norm

    @property
    def finite(self) -> bool:
        """Whether loss and gradient were finite; if not, the step has changed nothing."""
        if not isinstance(self._finite, bool):
            self._finite = bool(self._finite)
        return self._finite

    @property
    def spike(self) -> bool:
        """Whether loss or gradient jumped, so that the update was left out."""
        if not isinstance(self._spike, bool):
            self._spike = bool(self._spike)
        return self._spike

    @property
    def total(self) -> Number:
        """What "total_loss" is, a float or a 0-dim tensor that nobody has waited for."""
        present = zip(self.coefficients, self.numerators, self.denominators, strict=True)
        return sum((c * x / d for c, x, d in present if d), 0.0) + self.regularization

    def take(self, shares: Sequence[Share]) -> None:
        """Take over what the terms have added up."""
        numerators, denominators, coefficients, measures = [], [], [], []
        for share in shares:
            numerators.append(share.numerator)
            denominators.append(share.denominator if share.total else 0.0)
            coefficients.append(share.coefficient)
            measures.append(share.counted if share.total else 0.0)
        self.numerators, self.denominators = tuple(numerators), tuple(denominators)
        self.coefficients, self.measures = tuple(coefficients), tuple(measures)

    def losses_are_finite(self) -> bool:
        """Whether the numerators of all terms are finite numbers."""
        return all(math.isfinite(float(numerator)) for numerator in self.numerators)

    def set_grad_norm(self, norm: Number) -> None:
        self._grad_norm = norm

    def set_spike(self, spike: bool | Tensor) -> None:
        self._spike = spike

    def set_finite(self, finite: bool | Tensor) -> None:
        self._finite = finite

    def __getitem__(self, name: str) -> float | None:
        if name == "total_loss":
            return float(self.total)
        try:
            at = self.names.index(name)
        except ValueError:
            raise KeyError(f"{name!r} is no term of this run; there are total_loss, {', '.join(self.names)}") from None
        denominator = self.denominators[at]
        return float(self.numerators[at]) / denominator if denominator else None

    def numbers(self) -> Iterator[Number | bool]:
        """Everything that may still be on the device, in the order of `take_numbers`."""
        yield from self.numerators
        yield from self.regularizers.values()
        yield from (
            self.regularization,
            self._grad_norm,
            self._finite,
            self._spike,
            False if self.clipped is None else self.clipped,
        )

    def take_numbers(self, values: Iterator[float]) -> None:
        """Take over the same numbers from the host."""
        self.numerators = tuple(next(values) for _ in self.names)
        self.regularizers = {name: next(values) for name in self.regularizers}
        self.regularization = next(values)
        self._grad_norm = next(values)
        self._finite = bool(next(values))
        self._spike = bool(next(values))
        self.updated = self.updated and self._finite and not self._spike
        clipped = bool(next(values))
        self.clipped = clipped if self.clipped is not None else None

    def mean(self, name: str) -> float | None:
        """The mean of a term over its samples, whatever its denominator is: what a validation measures of it.

        Σ w·m·loss / Σ w·m for terms that are divided by weights, else / Σ m; None where the term was absent.
        """
        at = self.names.index(name)
        return float(self.numerators[at]) / self.measures[at] if self.measures[at] else None

    @property
    def absent(self) -> tuple[str, ...]:
        """The terms whose denominator was 0: they had no samples in this minibatch."""
        return tuple(name for name, d in zip(self.names, self.denominators, strict=True) if not d)

    def __bool__(self) -> bool:
        return self.interval[1] > self.interval[0]

    def __iter__(self) -> Iterator[str]:
        yield "total_loss"
        yield from self.names

    def __len__(self) -> int:
        return 1 + len(self.names)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={'absent' if (v := self[name]) is None else format(v, '.6g')}" for name in self)
        return f"StepResult(step={self.step}, interval={self.interval}, {values})"


def fetch_all(results: Sequence[StepResult]) -> None:
    """Bring the values of many steps to the host together: one wait for the device, not one for each value."""
    waiting = [(result, norm) for result in results if isinstance(norm := result.norm, Tensor)]
    if not waiting:
        return
    values = iter(
        torch.stack(
            [
                torch.as_tensor(value, device=norm.device).to(torch.float64)
                for result, norm in waiting
                for value in result.numbers()
            ]
        ).tolist()
    )
    for result, _ in waiting:
        result.take_numbers(values)
