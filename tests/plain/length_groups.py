"""Plain twin of `minibatch.length_groups`: docs/order.md section 6 with lists.

Written from the text alone: lay a window, sort it, cut it, shuffle the groups.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.plain.order import Full, Sequential, Windowed, perm
from tests.plain.rng import absorb, key

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """Rows of similar lengths side by side."""

    base: Full | Sequential | Windowed
    seed: int
    window_rows: int
    group: int
    length: Callable[[int], int]

    @property
    def rows(self) -> int:
        return self.base.rows

    def window(self, sweep: int, number: int) -> list[int]:
        """The rows of one window, group after group."""
        begin = number * self.window_rows
        places = range(begin, min(begin + self.window_rows, self.rows))
        laid = sorted((self.base.row(place, sweep) for place in places), key=self.length)  # stable: ties by place
        count = -(-len(laid) // self.group)
        own = absorb(key(self.seed, "order.groups", self.rows, sweep), number)
        chosen = [perm(count, own, slot) for slot in range(count)]
        sizes = [self.group] * count
        sizes[chosen[-1]] = len(laid) - self.group * (count - 1)
        groups, taken = [], 0
        for size in sizes:
            groups.append(laid[taken : taken + size])
            taken += size
        return [row for number in chosen for row in groups[number]]

    def sweep(self, sweep: int) -> list[int]:
        windows = -(-self.rows // self.window_rows)
        return [row for number in range(windows) for row in self.window(sweep, number)]

    def row(self, place: int, sweep: int) -> int:
        number, within = divmod(place, self.window_rows)
        return self.window(sweep, number)[within]
