"""Schedules that react to validation: pure functions of (nominal time, all values so far), without hidden state.

They count validations, not steps: how often that is decides `validate_every`. Nominal time plays no part in them; the
caller gives only the validations up to it. NaN, and a value that could not be measured, are never better.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from minibatch.arguments import checked_integer
from minibatch.train.schedules.schedule import Values, checked_number, settle

Mode = Literal["min", "max"]


@dataclass(frozen=True, kw_only=True)
class Newbob:
    """`rate` until a validation improves by less than `threshold`; multiplied by `factor` at this and each later one.

    watches: the name of a term or metric. An improvement is counted from the validation before, not from the best.
    mode: "min" if less is better, "max" if more is. relative: whether `threshold` is a share of the value before.
    stop: the improvement below which, once the rate falls, `finished` says so (None: as `threshold`).
    Source: QuickNet's `newbob` (ICSI, 0.5 % of frame accuracy in both places): mode="max", threshold=0.005.

    >>> rate = Newbob(rate=0.8, watches="accuracy", mode="max")
    >>> rate(300, ((100, 0.50), (200, 0.60), (300, 0.602)))
    0.4
    >>> rate(400, ((100, 0.50), (200, 0.60), (300, 0.602), (400, 0.65)))
    0.2
    """

    rate: float
    watches: str
    factor: float = 0.5
    threshold: float = 0.005
    mode: Mode = "min"
    relative: bool = False
    stop: float | None = None

    def __post_init__(self) -> None:
        _check_watching(self)
        settle(
            self,
            factor=checked_number(self.factor, "Newbob: factor", above=0, most=1),
            threshold=checked_number(self.threshold, "Newbob: threshold"),
            stop=None if self.stop is None else checked_number(self.stop, "Newbob: stop"),
        )

    def __call__(self, t: int, values: Values = ()) -> float:
        return float(self.rate * self.factor ** _remembered(self, values, self._falls)[0])

    def finished(self, values: Values) -> bool:
        """Whether the rate falls already and the last validation improved by less than `stop`: the run may end."""
        return bool(_remembered(self, values, self._falls)[1])

    def _falls(self, values: Values) -> tuple[int, bool]:
        """How often the rate has fallen, and whether `finished`."""
        stop = self.threshold if self.stop is None else self.stop
        falls, finished = 0, False
        before: float | None = None
        for _, measured in values:
            value = math.nan if measured is None else measured
            if before is not None:
                gain = before - value if self.mode == "min" else value - before
                share = abs(before) if self.relative else 1.0
                if falls or not gain >= self.threshold * share:
                    finished = falls > 0 and not gain >= stop * share
                    falls += 1
            before = value
        return falls, finished


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """`rate`, multiplied by `factor` whenever more than `patience` validations in a row were not better than the best.

    watches: the name of a term or metric. mode: "min" if less is better, "max" if more is. threshold: how much better
    counts, as a share of the best (relative=True: value < best · (1 - threshold), or > best · (1 + threshold)) or as a
    difference. cooldown: so many validations after a reduction do not count. least: the rate falls no lower; smallest:
    a fall by no more than this is left out. The same as torch's ReduceLROnPlateau with one `step` per validation.

    >>> rate = Plateau(rate=0.1, watches="loss", patience=1, factor=0.5)
    >>> rate(200, ((100, 1.0), (200, 1.1))), rate(300, ((100, 1.0), (200, 1.1), (300, 1.2)))
    (0.1, 0.05)
    """

    rate: float
    watches: str
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    relative: bool = True
    mode: Mode = "min"
    cooldown: int = 0
    least: float = 0.0
    smallest: float = 1e-8

    def __post_init__(self) -> None:
        _check_watching(self)
        factor = checked_number(self.factor, "Plateau: factor", above=0)
        if factor >= 1:
            raise ValueError(f"Plateau: factor={factor!r} does not reduce the rate; expected a number < 1")
        settle(
            self,
            factor=factor,
            patience=checked_integer(self.patience, "Plateau: patience", least=0),
            cooldown=checked_integer(self.cooldown, "Plateau: cooldown", least=0),
            threshold=checked_number(self.threshold, "Plateau: threshold", least=0),
            least=checked_number(self.least, "Plateau: least", least=0),
            smallest=checked_number(self.smallest, "Plateau: smallest", least=0),
        )

    def __call__(self, t: int, values: Values = ()) -> float:
        return float(_remembered(self, values, self._reduced))

    def _reduced(self, values: Values) -> float:
        rate, failures, cooling = self.rate, 0, 0
        best = math.inf if self.mode == "min" else -math.inf
        for _, value in values:
            if value is not None and self._is_better(value, best):
                best, failures = value, 0
            else:
                failures += 1
            if cooling:
                cooling, failures = cooling - 1, 0
            if failures > self.patience:
                lower = max(rate * self.factor, self.least)
                if rate - lower > self.smallest:
                    rate = lower
                cooling, failures = self.cooldown, 0
        return rate

    def _is_better(self, value: float, best: float) -> bool:
        sign = -1.0 if self.mode == "min" else 1.0
        if self.relative:
            best = best * (1.0 + sign * self.threshold)
        else:
            best = best + sign * self.threshold
        return value < best if self.mode == "min" else value > best


def _check_watching(schedule: Newbob | Plateau) -> None:
    """Check what all reacting schedules have."""
    name = type(schedule).__name__
    if not isinstance(schedule.watches, str) or not schedule.watches:
        raise ValueError(f"{name}: watches={schedule.watches!r}: expected the name of a term or metric")
    if schedule.mode not in ("min", "max"):
        raise ValueError(
            f"{name}: mode={schedule.mode!r}: expected 'min' (less of {schedule.watches!r} is better) or 'max'"
        )
    settle(schedule, rate=checked_number(schedule.rate, f"{name}: rate", least=0))


def _remembered(schedule: Newbob | Plateau, values: Values, function: Callable[[Values], Any]) -> Any:
    """function(values), not worked out again for the same values: a schedule is called at every step, and validations
    are many steps apart. Only a cache: what it holds never changes a result."""
    given = tuple(values)  # the same object if it is a tuple
    seen = schedule.__dict__.get("_last")
    if seen is None or (seen[0] is not given and seen[0] != given):
        seen = schedule.__dict__["_last"] = (given, function(given))
    return seen[1]
