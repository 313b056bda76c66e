"""Plain twin of `minibatch.mixture`: docs/order.md section 5, block after block, in Python's unbounded integers.

Written from the text alone: it walks the axis from time 0 and keeps count. Only runs of whole blocks before the place
asked for may be stepped over at once, because nothing about them can change.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.plain.order import Order, perm
from tests.plain.rng import absorb, key

VERSION = 1
Weights = Mapping[str, int]


def source_seed(seed: int, name: str) -> int:
    """The seed of the own order of a source."""
    return key(seed, "mixture.source." + name)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Sources with their own orders (made with `source_seed`), weights by stage, and how many sweeps each may show."""

    orders: Mapping[str, Order]
    stages: Sequence[tuple[int, Weights]]  # the first begins at 0
    seed: int
    max_sweeps: Mapping[str, int] = field(default_factory=dict)

    def block(self, time: int, counts: Mapping[str, int]) -> list[str]:
        """The sources of the block that begins at `time`, permuted; none where nothing is left."""
        begin = max(stage for stage, _ in self.stages if stage <= time)
        weights = dict(self.stages)[begin]
        hand: list[str] = []
        for name in sorted(self.orders):
            weight = weights[name]
            if name in self.max_sweeps:
                weight = min(weight, self.max_sweeps[name] * self.orders[name].rows - counts[name])
            hand += [name] * weight
        own = absorb(key(self.seed, "mixture.block"), time)
        return [hand[perm(len(hand), own, p)] for p in range(len(hand))]

    def walk(self, start: int = 0) -> Iterator[tuple[int, str, int]]:
        """(nominal time, source, its own time) from nominal time `start` on, until the axis ends."""
        time, counts = 0, dict.fromkeys(self.orders, 0)
        borders = [stage for stage, _ in self.stages]
        while hand := self.block(time, counts):
            border = min((stage for stage in borders if stage > time), default=None)
            blocks = self.whole_blocks(time, counts, hand, start if border is None else min(start, border))
            if blocks:
                counts = {name: count + blocks * hand.count(name) for name, count in counts.items()}
                time += blocks * len(hand)
                continue
            for name in hand[: None if border is None else border - time]:
                if time >= start:
                    yield time, name, counts[name]
                counts[name] += 1
                time += 1

    def whole_blocks(self, time: int, counts: Mapping[str, int], hand: list[str], limit: int) -> int:
        """How many blocks like `hand` lie between `time` and `limit` in which no source comes near its last sweep."""
        blocks = max(0, limit - time) // len(hand)
        for name, sweeps in self.max_sweeps.items():
            if name in hand:
                left = sweeps * self.orders[name].rows - counts[name]
                blocks = min(blocks, left // hand.count(name) - 1)
        return max(0, blocks)

    def samples(self, start: int, count: int) -> list[tuple[str, int, int]]:
        """(source, sweep of it, row of it) at nominal times start … start + count − 1; fewer where the axis ends."""
        out = []
        for _, name, own in self.walk(start):
            if len(out) == count:
                break
            order = self.orders[name]
            sweep, place = divmod(own, order.rows)
            out.append((name, sweep, order.row(place, sweep)))
        return out

    @property
    def end(self) -> int | None:
        """The length of the axis: the twin counts it out; None if some source is never out."""
        if self.forever:
            return None
        return sum(1 for _ in self.walk())

    @property
    def forever(self) -> bool:
        last = self.stages[-1][1]
        return any(last[name] and name not in self.max_sweeps for name in self.orders)
