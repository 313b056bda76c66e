"""Minibatch sizes as functions of nominal time: integers ≥ 1, looked up where a step begins.

`Trainer(minibatch_size=…)` takes a number or such a schedule: `Steps((32, 64), borders=(100_000,))`, `cntk_sizes`,
`Growing`. Because a minibatch is the next k samples of one axis, the order of the samples does not depend on them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from minibatch.train.schedules.cntk import cntk_list
from minibatch.train.schedules.curves import Constant, Steps
from minibatch.train.schedules.schedule import Schedule, Values, checked_number, checked_samples, settle, value_at


def size_at(minibatch_size: int | Schedule, t: int, values: Values = ()) -> int:
    """The minibatch size of the step that begins at nominal time `t`; a schedule must give an integer ≥ 1.

    >>> size_at(Steps((32, 64), borders=(1000,)), 1000)
    64
    """
    size = value_at(minibatch_size, t, values)
    if type(size) is int and size >= 1:  # the common case, without checks
        return size
    return checked_samples(size, f"the minibatch size that {minibatch_size!r} gives at nominal time {t}", least=1)


def checked_sizes(minibatch_size: int | Schedule) -> int | Schedule:
    """`minibatch_size` itself, where it is a number, `Constant` or `Steps` with every size checked beforehand.

    >>> checked_sizes(Steps((32, 0), borders=(1000,)))
    Traceback (most recent call last):
    ValueError: minibatch size 1 of the schedule (in samples) must be at least 1, got 0
    """
    if not callable(minibatch_size):
        return checked_samples(minibatch_size, "minibatch_size", least=1)
    if isinstance(minibatch_size, Constant):
        checked_samples(minibatch_size.rate, "the minibatch size", least=1)
    elif isinstance(minibatch_size, Steps):
        for place, size in enumerate(minibatch_size.rates):
            checked_samples(size, f"minibatch size {place} of the schedule", least=1)
    return minibatch_size


def cntk_sizes(sizes: int | Sequence[int] | Sequence[tuple[int, int]], epoch_size: int | None = None) -> Schedule:
    """CNTK's `minibatch_size_schedule`: sizes, or pairs (count, size), in units of `epoch_size` samples; see cntk_list.

    >>> size = cntk_sizes([(2, 64), (1, 256)], epoch_size=60_000)
    >>> size(119_999), size(120_000)
    (64, 256)
    """
    schedule = cntk_list(sizes, epoch_size)
    checked_sizes(schedule)
    return schedule


@dataclass(frozen=True, kw_only=True)
class Growing:
    """size · factor^i, rounded to an integer, from t = i · samples on; never above `largest`, never shrinking.

    factor: ≥ 1; worked out in exact fractions, so that it is the same everywhere. multiple_of: sizes are rounded to a
    multiple of this. Source: Smith et al. 2018, arXiv:1711.00489 (grow the batch instead of decaying the rate).

    >>> size = Growing(size=64, factor=2, samples=1000, largest=512)
    >>> [size(t) for t in (0, 999, 1000, 2000, 10**12)]
    [64, 64, 128, 256, 512]
    """

    size: int
    factor: float
    samples: int
    largest: int
    multiple_of: int = 1

    def __post_init__(self) -> None:
        settle(
            self,
            size=checked_samples(self.size, "Growing: size", least=1),
            factor=checked_number(self.factor, "Growing: factor", least=1),
            samples=checked_samples(self.samples, "Growing: samples", least=1),
            largest=checked_samples(self.largest, "Growing: largest", least=1),
            multiple_of=checked_samples(self.multiple_of, "Growing: multiple_of", least=1),
        )
        if self.largest < self.size:
            raise ValueError(f"Growing: largest={self.largest} is less than the first size, {self.size}")
        for name in ("size", "largest"):
            if getattr(self, name) % self.multiple_of:
                raise ValueError(f"Growing: {name}={getattr(self, name)} is no multiple of {self.multiple_of}")
        factor, sizes = Fraction(self.factor), [self.size]
        if factor > 1 and math.log(self.largest / self.size) > 1000 * math.log(self.factor):
            raise ValueError(f"Growing: factor={self.factor!r} reaches {self.largest} only after more than 1000 steps")
        exact = Fraction(self.size)
        while factor > 1 and sizes[-1] < self.largest:
            exact *= factor
            sizes.append(min(round(exact / self.multiple_of) * self.multiple_of, self.largest))
        self.__dict__["_sizes"] = sizes

    def __call__(self, t: int) -> int:
        sizes: list[int] = self.__dict__["_sizes"]
        return sizes[min(t // self.samples, len(sizes) - 1)]
