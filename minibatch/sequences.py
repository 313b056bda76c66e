"""Whole sequences on the nominal time axis: time counts their elements, minibatches are cut by CNTK's rule.

A sequence is a row; its logical length is that of its longest list, or of the one list that the source names. The order
of sequences is exact whatever the minibatch size; where minibatches are cut depends on it. An empty sequence comes
along with the one before it, so that nominal time alone says which sequence is next. `docs/sequences.md` has the rules.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
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

FIRST = 1 << 8  # lengths that are looked up after a jump, when nobody knows whether reading goes on
AT_ONCE = 1 << 14  # and when it does; sums are remembered of as many
SUMS_KEPT = 1 << 12
MOST_AT_ONCE = 1 << 31
PATIENCE = 1 << 22  # so many empty sequences in a row, in a mixture, are taken for no data at all


class Lengths:
    """The logical lengths of sequences, by their place on the axis of rows, and the nominal times where they begin.

    Going forward, lengths are looked up once, a window at a time. Sums over 2^14 places are remembered, so that a
    second search nearby is short.
    """

    def __init__(self, dataset: Dataset, order: Any, names: Sequence[str], end: int) -> None:
        self.dataset = dataset
        self.order = order
        self.names = tuple(names)
        self.end = end  # the place at which reading ends; searches know only the end of the order itself
        self._laid = int(getattr(order, "end", MAX_TIME))
        self._border = border(order)
        self._window = (0, np.zeros(1, np.int64))  # a place, and where the sequences from it on begin, counted from it
        self._sum = lru_cache(maxsize=SUMS_KEPT)(self._sum_of)

    def marks(self, place: int, elements: int) -> NDArray[np.int64]:
        """Where the sequences from `place` on begin, and where the last of them ends: int64 (n + 1,), from 0.

        So many of them that together they have more than `elements` elements; fewer only at the end of the axis.
        """
        while True:
            first, window = self._window
            at = place - first
            if 0 <= at < len(window):
                stop = int(window.searchsorted(window[at] + elements, "right"))
                if stop < len(window) or first + len(window) > self.end:
                    return np.asarray(window[at : stop + 1] - window[at])
            self._look_further(place)

    def of(self, place: int, count: int) -> NDArray[np.int64]:
        """The lengths of the sequences at the places place … place + count - 1, fewer at the end: int64 (n,)."""
        while True:
            first, window = self._window
            at, stop = place - first, min(place + count, self.end) - first
            if 0 <= at <= max(at, stop) < len(window):
                return np.diff(window[at : max(at, stop) + 1])
            self._look_further(place)

    def one(self, place: int) -> int:
        """The length of the sequence at `place`, whatever the limits of the source; 0 behind the end of the order."""
        return int(self._look_up(place, 1)[0]) if place < self._laid else 0

    def _look_further(self, place: int) -> None:
        """Let the window begin at `place`; and if it does so already, let it be longer."""
        first, window = self._window
        known = len(window) - 1
        if first <= place <= first + known and known:
            count = 4 * known if place == first else max(known, min(4 * known, AT_ONCE))
        else:
            count = FIRST
        count = max(0, min(count, self.end - place))
        if count > MOST_AT_ONCE:
            raise MemoryError(f"more than {MOST_AT_ONCE:,} sequences at once: ask for a smaller minibatch")
        marks = np.zeros(count + 1, np.int64)
        np.cumsum(self._look_up(place, count), out=marks[1:])
        if marks[-1] == 0:
            self._refuse_nothing(place, count)
        self._window = (place, marks)

    def _refuse_nothing(self, place: int, count: int) -> None:
        """Raise `DatasetError` if `count` empty sequences from `place` on mean that no other will ever come."""
        patience = 2 * len(self.dataset) if self._border < MAX_TIME else max(2 * len(self.dataset), PATIENCE)
        if count >= min(patience, max(1, self.end)):
            raise DatasetError(
                f"all sequences of {self.dataset.name} are empty, counted by the lists {list(self.names)}: "
                f'name another one with length_field=, or count rows with sequences="rows"'
            )

    def _look_up(self, place: int, count: int) -> NDArray[np.int64]:
        return self.dataset.lengths(self.order.rows_at(place, count), self.names)

    def _sum_of(self, number: int) -> int:
        place = number * AT_ONCE
        return int(self._look_up(place, min(AT_ONCE, self._laid - place)).sum())

    @cached_property
    def sweep(self) -> int:
        """The sum of all lengths: how long a sweep takes; counted when first asked for."""
        rows, total = len(self.dataset), 0
        for start in range(0, rows, AT_ONCE):
            total += int(self.dataset.lengths(np.arange(start, min(start + AT_ONCE, rows)), self.names).sum())
        if total == 0:
            self._refuse_nothing(0, MAX_TIME)
        return total

    def _base(self, sweep: int) -> tuple[int, int]:
        """The first place of a sweep, and the nominal time there."""
        return (sweep * self._border, sweep * self.sweep) if sweep else (0, 0)

    def begin(self, place: int) -> int:
        """The nominal time at which the sequence at `place` begins; a scan of its sweep up to there."""
        at, time = self._base(place // self._border)
        while at < place:
            number, inside = divmod(at, AT_ONCE)
            count = min(AT_ONCE - inside, place - at)
            time += self._sum(number) if count == AT_ONCE else int(self._look_up(at, count).sum())
            at += count
        return time

    def find(self, time: int) -> tuple[int, int, int]:
        """The place of the sequence that holds element number `time`, and the nominal times of its begin and its end.

        Where the order itself ends before: that place, and when that is, twice. A scan of the sweep up to there.
        """
        place, begin = self._base(time // self.sweep if self._border < MAX_TIME else 0)
        while place < self._laid:
            number, inside = divmod(place, AT_ONCE)
            count = min(AT_ONCE - inside, self._laid - place, self._border)
            if count < AT_ONCE or begin + self._sum(number) > time:
                marks = begin + np.concatenate([np.zeros(1, np.int64), np.cumsum(self._look_up(place, count))])
                found = int(marks.searchsorted(time, "right"))
                if found <= count:
                    return place + found - 1, int(marks[found - 1]), int(marks[found])
                begin = int(marks[-1])
            else:
                begin += self._sum(number)
            place += count
            if begin == 0:
                self._refuse_nothing(0, place)
        return place, begin, begin

    def rows_over(self, time: int, count: int) -> NDArray[np.int64]:
        """The rows whose elements stand at `count` nominal times from `time` on; fewer at the end: int64 (n,)."""
        place, begin, _ = self.find(time)
        left = count + time - begin
        pieces = [np.zeros(0, np.int64)]
        while left > 0 and place < self._laid:
            rows = self.order.rows_at(place, min(AT_ONCE, max(left, 16), self._laid - place))
            pieces.append(np.repeat(rows, self.dataset.lengths(rows, self.names))[:left])
            left -= len(pieces[-1])
            place += len(rows)
        return np.concatenate(pieces)[time - begin :]


class WholeAxis:
    """Minibatches of whole sequences: as many as fit into the size asked for, at least one."""

    def __init__(self, lengths: Lengths, reader: ReadAhead, holes: Holes, max_samples: int | None) -> None:
        self.time = 0
        self._place = 0  # on the axis of rows
        self._lengths = lengths
        self._reader = reader
        self._holes = holes
        self._end = MAX_TIME if max_samples is None else max_samples
        self._border = border(lengths.order)

    def next(self, minibatch_size: int, num_data_partitions: int, partition_index: int) -> Batch:
        """See `Axis.next`. Parts are runs of whole sequences, as equal in length as those allow."""
        begin, place = self.time, self._place
        marks = self._cut(minibatch_size)
        first, last = 0, len(marks) - 1
        end, after = begin + int(marks[-1]), place + last
        if num_data_partitions == 1:
            block, lo, hi = self._reader.read(place, last, max(1, last), gapless=True)
        else:
            first, last = balanced(marks, num_data_partitions, partition_index)
            block, lo, hi = self._reader.read_once(place + first, last - first)
        times = begin + marks[first:last]
        samples = int(marks[last] - marks[first])
        if block.times is not None or self._holes:  # the times of a block are places, fewer where a transform dropped
            index = np.arange(first, last) if block.times is None else block.times[lo:hi] - place
            times = begin + marks[index]
            keep = self._holes.kept(times, block.rows[lo:hi])
            if not keep.all():
                block, lo, hi = block.part(lo, hi).take(keep), 0, int(keep.sum())
                times = times[keep]
            samples = int((marks[index + 1] - marks[index])[keep].sum())
        ended = timeline.sweeps_ended(place, after, self._border)
        self.time, self._place = end, after
        return Batch(
            block,
            lo,
            hi,
            start=begin,
            nominal_time=begin,
            nominal_end=end,
            sweeps_ended=ended,
            num_samples=samples,
            num_holes=int(marks[last] - marks[first]) - samples,
            times=times,
        )

    def _cut(self, size: int) -> NDArray[np.int64]:
        """Where the sequences of the next minibatch begin, counted from the first, and where the last one ends."""
        left = self._end - self.time
        if left <= 0:
            return np.zeros(1, np.int64)
        marks = self._lengths.marks(self._place, size)
        taken = elements_taken(marks, size, left)
        if taken > size:  # then what follows the one sequence may be empty ones, which come along
            marks = self._lengths.marks(self._place, taken)
        return np.asarray(marks[: marks.searchsorted(taken, "right")])

    def seek(self, time: int) -> None:
        """See `Axis.seek`; a time inside a sequence is that of the next one."""
        place, begin, end = self._lengths.find(time) if time else (0, 0, 0)
        if begin < time < end:
            place, begin, _ = self._lengths.find(end)
        self._place, self.time = place, max(begin, time)

    def at(self, time: int, count: int) -> NDArray[np.int64]:
        """See `Axis.at`: for each time the sequence that one of its elements belongs to."""
        return self._lengths.rows_over(time, count)

    def when(self, row: int, sweep: int) -> int:
        """See `Axis.when`: where its first element stands."""
        return self._lengths.begin(int(self._lengths.order.time_of(row, sweep)))

    def state(self) -> dict[str, Any]:
        """See `Axis.state`."""
        return {"row_ordinal": self._place}

    def restore(self, time: int, state: Any) -> None:
        """See `Axis.restore`."""
        self._place, self.time = ordinal(state, "row_ordinal"), time


def elements_taken(marks: NDArray[np.int64], size: int, left: int) -> int:
    """How many elements a minibatch of `size` takes, all of whole sequences; `marks`, int64 (n + 1,), as `Lengths` has
    them, beyond `size`.

    CNTK's rule: those that fit, and the first in any case; none that begins `left` elements from here or later.

    >>> marks = np.array([0, 3, 8, 10])
    >>> elements_taken(marks, 9, 100), elements_taken(marks, 2, 100), elements_taken(marks, 9, 3)
    (8, 3, 3)
    """
    last = len(marks) - 1
    fitting = marks[marks.searchsorted(size, "right") - 1]
    first = marks[min(last, int(marks.searchsorted(0, "right")))]
    limit = marks[min(last, int(marks.searchsorted(left)))]
    return int(min(max(fitting, first), limit))


def balanced(marks: NDArray[np.int64], parts: int, index: int) -> tuple[int, int]:
    """Which of the sequences between `marks`, int64 (n + 1,), are part `index` of `parts`: first, and behind the last.

    The cut behind part i is where the sum of lengths is nearest to (i + 1) / parts of the whole, the earlier of two.

    >>> marks = np.array([0, 5, 6, 7, 8, 10])
    >>> [balanced(marks, 2, i) for i in range(2)]
    [(0, 1), (1, 5)]
    """

    def cut(i: int) -> int:
        if i in (0, parts):
            return i and len(marks) - 1
        target = int(marks[-1]) * i  # everything times `parts`, so that integers are enough
        after = int(marks.searchsorted(-(-target // parts)))
        before = max(0, after - 1)
        left, right = target - int(marks[before]) * parts, int(marks[after]) * parts - target
        return int(marks.searchsorted(marks[before])) if left <= right else after

    return cut(index), cut(index + 1)


def ordinal(state: Any, name: str) -> int:
    """An entry of a checkpoint's state that counts rows or elements."""
    value = state.get(name)
    if type(value) is not int or not 0 <= value <= MAX_TIME:
        raise CheckpointError(f"the state of a source of sequences has {name} {value!r}, expected an integer from 0")
    return value
