"""The values of an iteration, from its steps: numerators over denominators, never means of means."""

from collections.abc import Mapping, Sequence

from minibatch.train.ledger import LedgerLine
from minibatch.train.result import StepResult


class Sums:
    """Adds up steps, as results or as lines of the ledger, of which at least one is a result.

    fixed: the terms that are not divided by what they count (weights or values) but by a number, or by nothing. Their
    means are those of the values all the same, as a validation measures them.

    >>> from minibatch.train.result import StepResult
    >>> sums = Sums()
    >>> for numerator, count in ((3.0, 2.0), (6.0, 1.0)):
    ...     step = StepResult(("err",), 1, (0, int(count)), int(count))
    ...     step.numerators, step.denominators, step.measures = (numerator,), (count,), (count,)
    ...     sums.add(step)
    >>> sums.values()
    {'loss': 3.0, 'err': 3.0}
    """

    def __init__(self, fixed: Sequence[str] = ()) -> None:
        self._fixed = frozenset(fixed)
        self._per_sample: dict[str, float] = {}  # how many values a sample has, of fixed terms
        self._steps: list[StepResult | LedgerLine] = []
        self._pairs: dict[str, tuple[float, float]] = {}
        self._penalty = 0.0
        self._samples = 0

    def add(self, step: StepResult | LedgerLine) -> None:
        """Take one step; its values are looked at later, in `values`, when they have come from the device."""
        self._steps.append(step)
        if len(self._steps) >= 1000 and (isinstance(step, StepResult) or not self._fixed):
            self._fold()

    def values(self) -> dict[str, float | None]:
        """The loss, with everything that regularizers add; and every term, None where it had no samples."""
        self._fold()
        means = {name: x / d if d else None for name, (x, d) in self._pairs.items()}
        error = means.get("err")
        penalty = self._penalty / self._samples if self._samples else 0.0
        return {"loss": None if error is None else error + penalty, **means}

    def _fold(self) -> None:
        for step in self._steps:
            if isinstance(step, StepResult):
                for name, count in zip(step.names, step.measures, strict=True):
                    if name in self._fixed and count:
                        self._per_sample[name] = count / step.num_samples
        for step in self._steps:
            pairs = _pairs(step)
            samples = step.num_samples if isinstance(step, StepResult) else step.samples
            for name, (x, d) in pairs.items():
                if d and name in self._fixed:
                    d = self._per_sample[name] * samples
                numerator, denominator = self._pairs.get(name, (0.0, 0.0))
                self._pairs[name] = numerator + x, denominator + d
            total = step["total_loss"] if isinstance(step, StepResult) else step.total_loss
            x, d = pairs["err"]
            self._penalty += ((total or 0.0) - (x / d if d else 0.0)) * samples
            self._samples += samples
        self._steps.clear()


def _pairs(step: StepResult | LedgerLine) -> Mapping[str, tuple[float, float]]:
    if isinstance(step, LedgerLine):
        return step.terms
    return {
        name: (float(x), float(d)) for name, x, d in zip(step.names, step.numerators, step.denominators, strict=True)
    }
