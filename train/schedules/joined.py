"""Schedules made of others: ramps, pieces laid end to end, products, sums, and values held for a while.

A part is a number or a schedule. Where a part watches a term or metric, so does the whole; see schedule.py.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minibatch.train.schedules.curves import checked_borders
from minibatch.train.schedules.schedule import (
    Schedule,
    Values,
    checked_number,
    checked_parts,
    checked_samples,
    settle,
    value_at,
    watched_by_any,
)


@dataclass(frozen=True)
class Warmup:
    """From `start`·rate linearly up to the rate of `then` within `samples`, and `then` from there on.

    `then` is a number or a schedule, which sees the same t (so the ramp replaces its beginning).
    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2.

    >>> rate = Warmup(samples=100, then=0.4)
    >>> rate(0), rate(50), rate(200)
    (0.0, 0.2, 0.4)
    """

    samples: int
    then: float | Schedule
    start: float = 0.0

    def __post_init__(self) -> None:
        (then,) = checked_parts("Warmup", (self.then,))
        settle(
            self,
            then=then,
            samples=checked_samples(self.samples, "Warmup: samples"),
            start=checked_number(self.start, "Warmup: start"),
        )

    @property
    def watches(self) -> str:
        return watched_by_any("Warmup", (self.then,))

    def __call__(self, t: int, values: Values = ()) -> float:
        rate = value_at(self.then, t, values)
        if t >= self.samples:
            return rate
        return rate * (self.start + (1.0 - self.start) * t / self.samples)


@dataclass(frozen=True)
class _OfParts:
    """A schedule made of several, which watches what one of them watches."""

    parts: Sequence[float | Schedule]

    def __post_init__(self) -> None:
        settle(self, parts=checked_parts(type(self).__name__, self.parts))

    @property
    def watches(self) -> str:
        return watched_by_any(type(self).__name__, self.parts)


@dataclass(frozen=True)
class Then(_OfParts):
    """`parts[i]` from `borders[i - 1]` up to `borders[i]`: one part more than borders, borders ascending, in samples.

    restart: whether a part sees the time since its own beginning (as if it were alone), or nominal time itself. A part
    that watches something and restarts sees only the validations since its beginning.

    >>> from minibatch.train.schedules import Cosine
    >>> rate = Then((0.1, Cosine(0.1, samples=100)), borders=(1000,))
    >>> rate(999), rate(1000), round(rate(1050), 12), rate(1100)
    (0.1, 0.1, 0.05, 0.0)
    """

    borders: Sequence[int]
    restart: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, borders=checked_borders("Then", "parts", len(self.parts), self.borders))

    def __call__(self, t: int, values: Values = ()) -> float:
        place = bisect_right(self.borders, t)
        part = self.parts[place]
        if place == 0 or not self.restart:
            return value_at(part, t, values)
        begin = self.borders[place - 1]
        return value_at(part, t - begin, values and _cut(self, values, begin, _since))


@dataclass(frozen=True)
class Scaled:
    """`factor` times the value of `schedule`: biases at twice the rate of the weights, say.

    >>> from minibatch.train.schedules import Steps
    >>> Scaled(Steps((0.1, 0.01), borders=(1000,)), factor=2)(0)
    0.2
    """

    schedule: float | Schedule
    factor: float

    def __post_init__(self) -> None:
        (schedule,) = checked_parts("Scaled", (self.schedule,))
        settle(self, schedule=schedule, factor=checked_number(self.factor, "Scaled: factor"))

    @property
    def watches(self) -> str:
        return watched_by_any("Scaled", (self.schedule,))

    def __call__(self, t: int, values: Values = ()) -> float:
        return value_at(self.schedule, t, values) * self.factor


@dataclass(frozen=True)
class Product(_OfParts):
    """The product of `parts`, all at the same nominal time: Product((Cosine(…), Plateau(1.0, …))).

    >>> Product((0.5, lambda t: t / 100))(40)
    0.2
    """

    def __call__(self, t: int, values: Values = ()) -> float:
        return math.prod(value_at(part, t, values) for part in self.parts)


@dataclass(frozen=True)
class Sum(_OfParts):
    """The sum of `parts`, all at the same nominal time.

    >>> Sum((0.5, lambda t: t / 100))(40)
    0.9
    """

    def __call__(self, t: int, values: Values = ()) -> float:
        return math.fsum(value_at(part, t, values) for part in self.parts)


@dataclass(frozen=True)
class Held:
    """The value that `schedule` had at the last multiple of `every` samples: it changes once per sweep, or data batch.

    >>> from minibatch.train.schedules import Linear
    >>> rate = Held(Linear(1.0, samples=100), every=25)
    >>> rate(24), rate(25), rate(49)
    (1.0, 0.75, 0.75)
    """

    schedule: float | Schedule
    every: int

    def __post_init__(self) -> None:
        (schedule,) = checked_parts("Held", (self.schedule,))
        settle(self, schedule=schedule, every=checked_samples(self.every, "Held: every", least=1))

    @property
    def watches(self) -> str:
        return watched_by_any("Held", (self.schedule,))

    def __call__(self, t: int, values: Values = ()) -> float:
        begin = t - t % self.every
        return value_at(self.schedule, begin, values and _cut(self, values, begin, _until))


def _since(values: Values, begin: int) -> Values:
    """The validations from `begin` on, timed from there."""
    return tuple((time - begin, value) for time, value in values if time >= begin)


def _until(values: Values, end: int) -> Values:
    """The validations up to `end`."""
    return tuple(pair for pair in values if pair[0] <= end)


def _cut(owner: Then | Held, values: Values, border: int, cut: Callable[[Values, int], Values]) -> Values:
    """cut(values, border), kept for as long as both stay: a schedule is called at every step, and validations are many
    steps apart. Only a tuple is kept, because it cannot change."""
    seen = owner.__dict__.get("_cut")
    if seen is None or seen[0] is not values or seen[1] != border:
        seen = (values if isinstance(values, tuple) else None, border, cut(values, border))
        owner.__dict__["_cut"] = seen
    result: Values = seen[2]
    return result
