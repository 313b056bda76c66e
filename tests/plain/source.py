"""Plain twin of `MinibatchSource` on rows: nominal time walked one step at a time, with lists.

The specification in code: no blocks, no threads, no arrays. A minibatch is found by asking of every nominal time
whether it exists, which row stands there and whether it is a hole; borders are counted one by one; random numbers come
from `tests.plain.rng`. What the real source gives, whatever it read ahead, must equal this.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.plain.order import Order
from tests.plain.rng import absorb, draw, key, normal


def fields_of(rows: NDArray[np.int64]) -> dict[str, Any]:
    """What the data sets of the tests hold of the given rows: a field of every layout, telling which row it is."""
    return {
        "x": rows.astype(np.int64),
        "image": (rows[:, None, None] * 7 + np.arange(6).reshape(3, 2)).astype(np.uint8),
        "bit": (rows[:, None] >> np.arange(3) & 1).astype(bool),
        "name": np.array([f"row {row} " + "·" * (row % 4) for row in rows.tolist()], object),
        "code": np.array([bytes([row % 256]) * (row % 3) for row in rows.tolist()], object),
    }


@dataclass(frozen=True, kw_only=True)
class PlainBatch:
    """The samples of one part of the minibatch [nominal_time, nominal_end)."""

    nominal_time: int
    nominal_end: int
    sweeps_ended: int
    times: list[int]
    rows: list[int]


@dataclass(kw_only=True)
class PlainSource:
    """The axis that `order` lays out; `skip` has (start, stop) intervals of nominal time, `skip_rows` rows."""

    order: Order
    max_samples: int | None = None
    max_sweeps: int | None = None
    skip: list[tuple[int, int]] = field(default_factory=list)
    skip_rows: frozenset[int] = frozenset()
    nominal_time: int = 0

    def exists(self, t: int) -> bool:
        """Whether the axis has not ended before t."""
        if self.max_samples is not None and t >= self.max_samples:
            return False
        return self.max_sweeps is None or t // self.order.rows < self.max_sweeps

    def row(self, t: int) -> int:
        return self.order.row(t % self.order.rows, t // self.order.rows)

    def is_hole(self, t: int) -> bool:
        return any(start <= t < stop for start, stop in self.skip) or self.row(t) in self.skip_rows

    def next_minibatch(self, k: int, n: int = 1, i: int = 0) -> PlainBatch:
        begin = self.nominal_time
        axis = []
        while len(axis) < k and self.exists(begin + len(axis)):
            axis.append(begin + len(axis))
        self.nominal_time = begin + len(axis)
        times = [t for t in parts(axis, n)[i] if not self.is_hole(t)]
        return PlainBatch(
            nominal_time=begin,
            nominal_end=self.nominal_time,
            sweeps_ended=sum((t + 1) % self.order.rows == 0 for t in axis),
            times=times,
            rows=[self.row(t) for t in times],
        )


def parts(axis: list[int], n: int) -> list[list[int]]:
    """`axis` cut into n contiguous parts as equal as can be, longer ones first."""
    cut = []
    rest = axis
    for ranks_left in range(n, 0, -1):
        size = -(-len(rest) // ranks_left)
        cut.append(rest[:size])
        rest = rest[size:]
    return cut


class PlainDraws:
    """The random numbers that one operation gives to the sample at one nominal time, one after another."""

    def __init__(self, seed: int, operation: str, time: int) -> None:
        self.key = absorb(key(seed, "transform." + operation), time)
        self.used = 0

    def word(self) -> int:
        self.used += 1
        return draw(self.key, self.used - 1)

    def uniform(self) -> float:
        return (self.word() >> 11) / 2**53

    def integer(self, bound: int) -> int:
        return ((self.word() >> 32) * bound) >> 32

    def normals(self, count: int) -> list[float]:
        own = self.word()  # a stream of its own
        return [normal(own, j) for j in range(count)]
