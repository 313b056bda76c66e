"""A file of JSON lines, one a report: for other programs, and for `minibatch show` to know how fast a run was.

    {"step": 50, "t": 3200, "kind": "train", "steps": 50, "seconds": 0.61, "total_loss": 1.93, "class": 1.93,
     "grad_norm": 0.8, "lr": [0.01]}
    {"step": 50, "t": 3200, "kind": "valid", "samples": 348, "class": 1.41, "accuracy": 0.72}

The ledger has every step exactly; here are the means of the steps since the line before, each term over its samples,
as validations have it; the total loss is the objective, each step by its samples; and the clock.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minibatch.train.ledger import Lines
from minibatch.train.result import StepResult
from minibatch.train.validation import Validation

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer


class JsonLines:
    """Writes a report a line to `path`; a run that is resumed, or goes back, cuts off what lies after its checkpoint.

    seconds: of the clock since the line before, without validating and saving in so far as they come after it.
    """

    def __init__(self, path: Path) -> None:
        self._lines = Lines(path)
        self._step = 0  # the last one that has a line
        self._last = time.monotonic()

    def begin(self, trainer: "Trainer", target: int) -> None:
        self._lines.path.parent.mkdir(parents=True, exist_ok=True)
        self._lines.cut(trainer.step)
        self._step = trainer.step
        self._last = time.monotonic()

    def step(self, result: StepResult, target: int) -> None:
        self.steps([result], target)

    def steps(self, results: Sequence[StepResult], target: int) -> None:
        now, last = time.monotonic(), results[-1]
        if results[0].step <= self._step:  # the run went back to a checkpoint
            self._lines.cut(results[0].step - 1)
        self._step = last.step
        self._add(
            {
                "step": last.step,
                "t": last.interval[1],
                "kind": "train",
                "steps": len(results),
                "samples": last.interval[1] - results[0].interval[0],
                "seconds": round(now - self._last, 6),
                **means(results),
                "grad_norm": last.grad_norm,
                "lr": list(last.learning_rates),
            }
        )
        self._last = now

    def validation(self, validation: Validation) -> None:
        where = {"step": validation.step, "t": validation.nominal_time, "kind": "valid", "samples": validation.samples}
        self._add({**where, **validation})
        self._last = time.monotonic()

    def close(self) -> None:
        self._lines.flush()

    def _add(self, document: Mapping[str, Any]) -> None:
        self._lines.add(json.dumps({name: _plain(value) for name, value in document.items()}, allow_nan=False))
        self._lines.flush()


def means(results: Sequence[StepResult]) -> dict[str, float | None]:
    """Of several steps: each term over the samples of all of them, and the total loss, each step by its samples.

    A term is the mean of its values, in the unit of validations, whatever it is divided by in the objective; the total
    loss is the objective.

    >>> first, second = StepResult(("class",), 1, (0, 4), 4), StepResult(("class",), 2, (4, 6), 2)
    >>> first.numerators, first.denominators, first.measures = (4.0,), (1.0,), (4.0,)
    >>> second.numerators, second.denominators, second.measures = (8.0,), (1.0,), (2.0,)
    >>> means([first, second])
    {'total_loss': 5.333333333333333, 'class': 2.0}
    """
    return {name: total / divisor if divisor else None for name, (total, divisor) in sums(results).items()}


def sums(results: Sequence[StepResult]) -> dict[str, tuple[float, float]]:
    """What `means` divides: (sum, divisor) by name, to be added up over several log points."""
    samples = sum(result.num_samples for result in results)
    total = math.fsum((result["total_loss"] or 0.0) * result.num_samples for result in results)
    found = {"total_loss": (total, float(samples))}
    for place, name in enumerate(results[0].names):
        numerator = math.fsum(float(result.numerators[place]) for result in results)
        found[name] = (numerator, math.fsum(result.measures[place] for result in results))
    return found


def _plain(value: Any) -> Any:
    """A value for JSON; what JSON has no number for becomes text."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
