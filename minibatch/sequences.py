"""Whole sequences on the nominal time axis: time counts their elements, minibatches are cut by CNTK's rule.

A sequence is a row; its logical length is that of its longest list, or of the one list that the source names. The order
of sequences is exact whatever the minibatch size; where minibatches are cut depends on it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch import timeline
from minibatch.axis import border
from minibatch.batch import Batch
from minibatch.dataset import Dataset
from minibatch.errors import CheckpointError, DatasetError
from minibatch.readahead import ReadAhead
from minibatch.timeline import MAX_TIME, Holes

AT_ONCE = 1 << 14  # lengths that are looked up together
MARKS_KEPT = 1 << 12  # of those, sums are remembered


class Lengths:
    """The logical lengths of sequences, by their place on the axis of rows, and the nominal times where they begin.

    Sums over long stretches are remembered every 2^14 places, so that a second search nearby is short.
    """

    def __init__(self, dataset: Dataset, order: Any, names: Sequence[str], end: int) -> None:
        self.dataset = dataset
        self.order = order
        self.names = tuple(names)
        self.end = end  # the place at which the axis ends
        self._border = border(order)
        self._window = (0, np.zeros(0, np.int64))
        self._sum = lru_cache(maxsize=MARKS_KEPT)(self._sum_of)

    def of(self, start: int, count: int) -> NDArray[np.int64]:
        """The lengths of the sequences at the places start … start + count - 1, fewer at the end: int64."""
        first, known = self._window
        stop = min(start + count, self.end)
        if not first <= start <= stop <= first + len(known):
            more = min(max(count, AT_ONCE), self.end - start)
            known = self._look_up(start, max(0, more))
            first = start
            self._window = (first, known)
        return known[start - first : stop - first]

    def _look_up(self, start: int, count: int) -> NDArray[np.int64]:
        return self.dataset.lengths(self.order.rows_at(start, count), self.names)

    def _sum_of(self, mark: int) -> int:
        start = mark * AT_ONCE
        return int(self._look_up(start, min(AT_ONCE, self.end - start)).sum())

    @property
    def sweep(self) -> int:
        """The sum of all lengths: how long a sweep takes; counted when first asked for."""
        if self._sweep is None:
            rows, total = len(self.dataset), 0
            for start in range(0, rows, AT_ONCE):
                total += int(self.dataset.lengths(np.arange(start, min(start + AT_ONCE, rows)), self.names).sum())
            if total == 0:
                raise DatasetError(f"all sequences of {self.dataset.name} are empty ({', '.join(self.names)})")
            self._sweep = total
        return self._sweep

    _sweep: int | None = None

    def begin(self, place: int) -> int:
        """The nominal time at which the sequence at `place` begins."""
        first, time = self._base(place // self._border)
        return time + self._between(first, place)

    def _base(self, sweep: int) -> tuple[int, int]:
        """The first place of a sweep, and the nominal time there."""
        return (sweep * self._border, sweep * self.sweep) if sweep else (0, 0)

    def _between(self, start: int, stop: int) -> int:
        """The sum of the lengths at the places start … stop - 1."""
        first, last = -(-start // AT_ONCE), stop // AT_ONCE
        if first >= last:
            return int(self._look_up(start, stop - start).sum())
        total = sum(self._sum(mark) for mark in range(first, last))
        head, tail = first * AT_ONCE - start, stop - last * AT_ONCE
        total += int(self._look_up(start, head).sum()) if head else 0
        return total + (int(self._look_up(stop - tail, tail).sum()) if tail else 0)

    def find(self, time: int) -> tuple[int, int]:
        """The first place whose sequence begins at or after `time`, and when it does.

        At the end of the axis: that place, and the time at which the last sequence ends.
        """
        sweep = time // self.sweep if self._border < MAX_TIME else 0
        place, begin = self._base(sweep)
        while place < self.end:
            mark, inside = divmod(place, AT_ONCE)
            if inside == 0 and begin + (whole := self._sum(mark)) < time:
                place, begin = min(place + AT_ONCE, self.end), begin + whole
                continue
            count = min(AT_ONCE - inside, self.end - place)
            ends = begin + np.cumsum(self._look_up(place, count))
            begins = np.concatenate([[begin], ends[:-1]])
            found = int(np.searchsorted(begins, time))
            if found < count:
                return place + found, int(begins[found])
            place, begin = place + count, int(ends[-1])
            if begin >= time:
                return place, begin
        return place, begin


class WholeAxis:
    """Minibatches of whole sequences: as many as fit into the size asked for, at least one."""

    def __init__(self, lengths: Lengths, reader: ReadAhead, holes: Holes, max_samples: int | None) -> None:
        self.time = 0
        self._place = 0  # on the axis of rows
        self._lengths = lengths
        self._reader = reader
        self._holes = holes
        self._max_samples = MAX_TIME if max_samples is None else max_samples
        self._border = border(lengths.order)
        self._guess = 64

    def next(self, minibatch_size: int, num_data_partitions: int, partition_index: int) -> Batch:
        """See `Axis.next`. Parts are runs of whole sequences, as equal in length as those allow."""
        begin, place = self.time, self._place
        marks = self._cut(minibatch_size)
        count = len(marks) - 1
        first, last = balanced(marks, num_data_partitions, partition_index)
        if num_data_partitions == 1:
            block, lo, hi = self._reader.read(place, count, max(1, count), gapless=True)
        else:
            block, lo, hi = self._reader.read_once(place + first, last - first)
        times = begin + marks[first:last]
        if block.times is not None:  # a transform found holes
            times = begin + marks[block.times[lo:hi] - place]
        samples = int(marks[last] - marks[first])
        if block.times is not None or self._holes:
            keep = self._holes.kept(times, block.rows[lo:hi])
            block, lo, hi = block.part(lo, hi).take(keep), 0, int(keep.sum())
            times = times[keep]
            samples = int(self._lengths.dataset.lengths(block.rows, self._lengths.names).sum())
        end = begin + int(marks[-1])
        ended = timeline.sweeps_ended(place, place + count, self._border)
        self.time, self._place = end, place + count
        return Batch(
            block,
            lo,
            hi,
            start=begin,
            nominal_time=begin,
            nominal_end=end,
            sweeps_ended=ended,
            num_samples=samples,
            times=times,
        )

    def _cut(self, size: int) -> NDArray[np.int64]:
        """Where the next sequences begin, counted from the first of them, and where the last one ends."""
        if self.time >= self._max_samples:
            return np.zeros(1, np.int64)
        while True:
            ends = np.cumsum(self._lengths.of(self._place, self._guess))
            count = whole_sequences(ends, size)
            if count < len(ends) or self._place + len(ends) >= self._lengths.end:
                break
            self._guess *= 2
        marks = np.concatenate([np.zeros(1, np.int64), ends[:count]])
        late = int(np.searchsorted(marks[:-1], self._max_samples - self.time)) if count else 0
        self._guess = max(64, 2 * count)
        return marks[: late + 1] if self._max_samples < MAX_TIME else marks

    def seek(self, time: int) -> None:
        """See `Axis.seek`; a time inside a sequence is that of the next one."""
        self._place, self.time = self._lengths.find(time)

    def at(self, time: int, count: int) -> NDArray[np.int64]:
        """See `Axis.at`: for each time the sequence that one of its elements belongs to."""
        return rows_over(self._lengths, time, count)

    def when(self, row: int, sweep: int) -> int:
        """See `Axis.when`: where its first element stands."""
        return self._lengths.begin(int(self._lengths.order.time_of(row, sweep)))

    def state(self) -> dict[str, Any]:
        """See `Axis.state`."""
        return {"row_ordinal": self._place}

    def restore(self, time: int, state: Any) -> None:
        """See `Axis.restore`."""
        self._place, self.time = ordinal(state, "row_ordinal"), time


def whole_sequences(ends: NDArray[np.int64], size: int) -> int:
    """How many sequences a minibatch takes of those that end at `ends`, int64 (n,), counted from its beginning.

    CNTK's rule: as many as `size` holds, and the first one always (empty ones before it do not count as that).

    >>> whole_sequences(np.array([3, 5, 9]), 6), whole_sequences(np.array([8, 9]), 6)
    (2, 1)
    """
    count = int(np.searchsorted(ends, size, side="right"))
    if len(ends) and (count == 0 or ends[count - 1] == 0):
        count = min(int(np.searchsorted(ends, 0, side="right")) + 1, len(ends))
    return count


def balanced(marks: NDArray[np.int64], parts: int, index: int) -> tuple[int, int]:
    """Which of the sequences between `marks`, int64 (n + 1,), are part `index` of `parts`: first, and behind the last.

    The cut behind part i is where the sum of lengths is nearest to (i + 1) / parts of the whole, the earlier of two.

    >>> marks = np.array([0, 5, 6, 7, 8, 10])
    >>> [balanced(marks, 2, i) for i in range(2)]
    [(0, 1), (1, 5)]
    """

    def cut(i: int) -> int:
        if i <= 0 or i >= parts:
            return 0 if i <= 0 else len(marks) - 1
        target = int(marks[-1]) * i  # everything times `parts`, so that integers are enough
        after = int(np.searchsorted(marks, -(-target // parts)))
        if after == 0:
            return 0
        before_gap = target - int(marks[after - 1]) * parts
        return after - 1 if before_gap <= int(marks[after]) * parts - target else after

    return cut(index), cut(index + 1)


def rows_over(lengths: Lengths, time: int, count: int) -> NDArray[np.int64]:
    """The rows whose elements stand at `count` nominal times from `time` on."""
    place, begin = lengths.find(time)
    while place > 0 and begin > time:  # the sequence before reaches over the time
        place -= 1
        begin -= int(lengths.of(place, 1)[0])
    pieces: list[NDArray[np.int64]] = []
    left = count + time - begin
    while left > 0 and place < lengths.end:
        some = lengths.of(place, AT_ONCE)
        rows = lengths.order.rows_at(place, len(some))
        pieces.append(np.repeat(rows, some)[:left])
        left -= len(pieces[-1])
        place += len(some)
    return np.concatenate([np.zeros(0, np.int64), *pieces])[time - begin :]


def ordinal(state: Any, name: str) -> int:
    """An entry of a checkpoint's state that counts rows."""
    value = state.get(name)
    if type(value) is not int or not 0 <= value <= MAX_TIME:
        raise CheckpointError(f"the state of a source of sequences has {name} {value!r}, expected an integer from 0")
    return value
