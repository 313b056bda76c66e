"""Schedules given by one formula of nominal time; `samples` is always where the curve ends, and it stays there after.

All are frozen values, which go into the run's saved configuration. They serve for learning rates, momentum, decay, and
as coefficients of terms and regularizers. Borders are compared in integers: they are exact at any nominal time.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from minibatch.train.schedules.schedule import checked_number, checked_samples, settle

Shape = Literal["cosine", "linear"]


@dataclass(frozen=True)
class Constant:
    """The same rate for ever.

    >>> Constant(0.1)(10**9)
    0.1
    """

    rate: float

    def __post_init__(self) -> None:
        settle(self, rate=checked_number(self.rate, "Constant: rate"))

    def __call__(self, t: int) -> float:
        return self.rate


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
        rates = tuple(checked_number(rate, f"Steps: rate {i}") for i, rate in enumerate(self.rates))
        settle(self, rates=rates, borders=checked_borders("Steps", "rates", len(rates), self.borders))

    def __call__(self, t: int) -> float:
        return self.rates[bisect_right(self.borders, t)]


class _Curve:
    """What goes from `rate` towards `last` in `samples`; with `within`, it is `last` from t = samples on."""

    rate: float
    samples: int
    last: float

    def __post_init__(self) -> None:
        name = type(self).__name__
        settle(
            self,
            rate=checked_number(self.rate, f"{name}: rate"),
            samples=checked_samples(self.samples, f"{name}: samples", least=1),
            last=checked_number(self.last, f"{name}: last"),
        )

    def __call__(self, t: int) -> float:
        return self.last if t >= self.samples else self.within(t)

    def within(self, t: int) -> float:
        """The value at t < samples."""
        raise NotImplementedError


@dataclass(frozen=True)
class Linear(_Curve):
    """rate · (1 - p) + last · p with p = t / samples, from `rate` at t = 0 to `last` at t = samples.

    cuda-convnet2's `linear[base;tgtFactor]` is this with last = base / tgtFactor.

    >>> rate = Linear(1.0, samples=100, last=0.5)
    >>> rate(0), rate(50), rate(100), rate(1000)
    (1.0, 0.75, 0.5, 0.5)
    """

    rate: float
    samples: int
    last: float = 0.0

    def within(self, t: int) -> float:
        p = t / self.samples
        return self.rate * (1.0 - p) + self.last * p


@dataclass(frozen=True)
class Polynomial(_Curve):
    """last + (rate - last) · (1 - t / samples)^power, from `rate` at t = 0 to `last` at t = samples; power > 0.

    Source: Chen et al. 2017, arXiv:1606.00915, section 4.1.2 ("poly", power 0.9).

    >>> Polynomial(1.0, samples=100, power=2.0)(50)
    0.25
    """

    rate: float
    samples: int
    power: float = 1.0
    last: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, power=checked_number(self.power, "Polynomial: power", above=0))

    def within(self, t: int) -> float:
        return self.last + (self.rate - self.last) * float((1.0 - t / self.samples) ** self.power)


@dataclass(frozen=True)
class Cosine(_Curve):
    """Half a cosine from `rate` at t = 0 to `last` at t = samples, then constant.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, without restarts.

    >>> rate = Cosine(1.0, samples=100)
    >>> rate(0), round(rate(50), 12), rate(100), rate(1000)
    (1.0, 0.5, 0.0, 0.0)
    """

    rate: float
    samples: int
    last: float = 0.0

    def within(self, t: int) -> float:
        return self.last + (self.rate - self.last) * 0.5 * (1.0 + math.cos(math.pi * t / self.samples))


@dataclass(frozen=True)
class CosineRestarts(_Curve):
    """Half a cosine from `rate` towards `last`, begun again after `samples`, then after `factor` times more, and so on.

    factor: an integer ≥ 1, how many times longer each period is than the one before. shrink: what `rate` is multiplied
    by at each restart. Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5 (T_mult = factor, shrink 1).

    >>> rate = CosineRestarts(1.0, samples=100, factor=2)
    >>> rate(0), rate(100), round(rate(200), 12), rate(300)
    (1.0, 1.0, 0.5, 1.0)
    """

    rate: float
    samples: int
    factor: int = 1
    last: float = 0.0
    shrink: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        factor = checked_number(self.factor, "CosineRestarts: factor", least=1)
        if factor != int(factor):
            raise ValueError(f"CosineRestarts: factor={factor!r} is not an integer, so restarts would not be exact")
        settle(self, factor=int(factor), shrink=checked_number(self.shrink, "CosineRestarts: shrink", above=0))

    def __call__(self, t: int) -> float:
        if self.factor == 1:
            restarts, since = divmod(t, self.samples)
            period = self.samples
        else:
            restarts, since, period = 0, t, self.samples
            while since >= period:
                since -= period
                period *= self.factor
                restarts += 1
        rate = self.rate * self.shrink**restarts
        return float(self.last + (rate - self.last) * 0.5 * (1.0 + math.cos(math.pi * since / period)))


@dataclass(frozen=True)
class Exponential:
    """rate · factor^(t / samples): multiplied by `factor` every `samples`, smoothly, without end; factor > 0.

    cuda-convnet2's `exp[base;tgtFactor]` is this with factor = 1 / tgtFactor and the samples of the run.

    >>> Exponential(0.8, factor=0.5, samples=1000)(2000)
    0.2
    """

    rate: float
    factor: float
    samples: int

    def __post_init__(self) -> None:
        settle(
            self,
            rate=checked_number(self.rate, "Exponential: rate"),
            factor=checked_number(self.factor, "Exponential: factor", above=0),
            samples=checked_samples(self.samples, "Exponential: samples", least=1),
        )

    def __call__(self, t: int) -> float:
        return self.rate * float(self.factor ** (t / self.samples))


@dataclass(frozen=True)
class DiscreteExponential:
    """`levels` flat steps of equal length within `samples`: level i is rate · factor^(i / (levels - 1)).

    So the first is `rate`, the last rate · factor, for ever. Level i begins at t = i · samples / levels; with
    after_border=True only later than that. cuda-convnet2's `dexp[base;tgtFactor;numSteps]` is this with
    factor = 1 / tgtFactor, levels = numSteps ≥ 2 and after_border=True (its lr.cu compares with ≤).

    >>> rate = DiscreteExponential(0.01, factor=1 / 100, levels=3, samples=300)
    >>> [round(rate(t), 6) for t in (0, 99, 100, 200, 10**9)]
    [0.01, 0.01, 0.001, 0.0001, 0.0001]
    """

    rate: float
    factor: float
    levels: int
    samples: int
    after_border: bool = False

    def __post_init__(self) -> None:
        levels = checked_number(self.levels, "DiscreteExponential: levels", least=2)
        if levels != int(levels):
            raise ValueError(f"DiscreteExponential: levels={levels!r} is not an integer")
        settle(
            self,
            rate=checked_number(self.rate, "DiscreteExponential: rate"),
            factor=checked_number(self.factor, "DiscreteExponential: factor", above=0),
            levels=int(levels),
            samples=checked_samples(self.samples, "DiscreteExponential: samples", least=1),
        )

    def __call__(self, t: int) -> float:
        if self.after_border:
            level = -(-t * self.levels // self.samples) - 1  # the ceiling, minus 1
        else:
            level = t * self.levels // self.samples
        last = self.levels - 1
        level = min(max(level, 0), last)
        return self.rate * self.factor if level == last else self.rate * float(self.factor ** (level / last))


@dataclass(frozen=True)
class OneCycle(_Curve):
    """From `first` to `rate` within the first `rise` samples, then to `last` at `samples`, each along `shape`.

    shape: "cosine" (half a cosine each way) or "linear". For a momentum that goes the other way, give a `rate` below
    `first`. Source: Smith and Topin 2018, arXiv:1708.07120, section 3; torch's OneCycleLR is this with
    first = rate / div_factor and last = first / final_div_factor.

    >>> rate = OneCycle(1.0, samples=100, rise=30, first=0.04, last=0.0, shape="linear")
    >>> rate(0), rate(15), rate(30), rate(65), rate(100)
    (0.04, 0.52, 1.0, 0.5, 0.0)
    """

    rate: float
    samples: int
    rise: int
    first: float
    last: float
    shape: Shape = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(
            self, rise=checked_samples(self.rise, "OneCycle: rise"), first=checked_number(self.first, "OneCycle: first")
        )
        if self.rise > self.samples:
            raise ValueError(f"OneCycle: rise={self.rise} is longer than the whole cycle of {self.samples} samples")
        if self.shape not in ("cosine", "linear"):
            raise ValueError(f"OneCycle: shape={self.shape!r}: expected 'cosine' or 'linear'")

    def within(self, t: int) -> float:
        if t < self.rise:
            begin, end, p = self.first, self.rate, t / self.rise
        else:
            begin, end, p = self.rate, self.last, (t - self.rise) / (self.samples - self.rise)
        if self.shape == "linear":
            return begin * (1.0 - p) + end * p
        return end + (begin - end) * 0.5 * (1.0 + math.cos(math.pi * p))


def checked_borders(owner: str, what: str, count: int, borders: Sequence[int]) -> tuple[int, ...]:
    """Borders between `count` parts: integers ≥ 0, ascending, one fewer than parts."""
    checked = tuple(checked_samples(border, f"{owner}: border {i}") for i, border in enumerate(borders))
    if len(checked) + 1 != count or any(a >= b for a, b in pairwise(checked)):
        raise ValueError(
            f"{owner}: {count} {what} and borders {checked}; expected ascending borders and one "
            f"{what.removesuffix('s')} more than borders"
        )
    return checked
