"""Learning rates as functions of nominal time, in samples: nothing of a schedule has to be saved.

A schedule is any function `t -> rate`, called with the nominal time at the beginning of a step. Those here are frozen
values, so that they go into the run's saved configuration. They may also serve as coefficients of terms.

A parameter group with an entry "lr_scale" gets its multiple of the optimizer's rate.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Constant:
    """The same rate for ever.

    >>> Constant(0.1)(10**9)
    0.1
    """

    rate: float

    def __call__(self, t: int) -> float:
        return self.rate


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

    def __call__(self, t: int) -> float:
        rate = self.then(t) if callable(self.then) else self.then
        if t >= self.samples:
            return rate
        return rate * (self.start + (1.0 - self.start) * t / self.samples)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from `rate` at t = 0 to `last` at t = samples, then constant.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, without restarts.

    >>> rate = Cosine(1.0, samples=100)
    >>> rate(0), round(rate(50), 12), rate(100), rate(1000)
    (1.0, 0.5, 0.0, 0.0)
    """

    rate: float
    samples: int
    last: float = 0.0

    def __call__(self, t: int) -> float:
        if t >= self.samples:
            return self.last
        return self.last + (self.rate - self.last) * 0.5 * (1.0 + math.cos(math.pi * t / self.samples))


@dataclass(frozen=True)
class Steps:
    """`rates[i]` from `borders[i - 1]` up to `borders[i]`: one rate more than borders, borders ascending, in samples.

    >>> rate = Steps((0.1, 0.01), borders=(1000,))
    >>> rate(999), rate(1000)
    (0.1, 0.01)
    """

    rates: Sequence[float]
    borders: Sequence[int]

    def __post_init__(self) -> None:
        if len(self.rates) != len(self.borders) + 1 or list(self.borders) != sorted(set(self.borders)):
            raise ValueError(
                f"Steps: {len(self.rates)} rates and borders {tuple(self.borders)}; expected ascending borders and one "
                "rate more than borders"
            )

    def __call__(self, t: int) -> float:
        return self.rates[bisect_right(self.borders, t)]


@dataclass(frozen=True)
class Exponential:
    """rate · factor^(t / samples): multiplied by `factor` every `samples`, smoothly.

    >>> Exponential(0.8, factor=0.5, samples=1000)(2000)
    0.2
    """

    rate: float
    factor: float
    samples: int

    def __call__(self, t: int) -> float:
        return self.rate * float(self.factor ** (t / self.samples))
