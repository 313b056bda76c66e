"""Sequences laid end to end: on one axis of tokens cut into blocks ("packed"), or on lanes that run side by side
("truncated", for recurrent nets).

Nominal time counts tokens. Which token stands where depends on data, seed and the block or the number of lanes, never
on the minibatch size: both are exact for every size that is a multiple of theirs.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch import timeline
from minibatch.axis import border
from minibatch.batch import Batch, Packed
from minibatch.errors import CheckpointError, SchemaError
from minibatch.fetch import Block, Fetcher
from minibatch.gathering import Column
from minibatch.kernels import pack
from minibatch.ragged import Ragged
from minibatch.readahead import ReadAhead
from minibatch.sequences import Lengths, ordinal, rows_over
from minibatch.timeline import MAX_TIME, Holes

SHAPES = "sequences={!r} needs minibatch sizes that are multiples of {}={}, got {}"


class PackedAxis:
    """Sequences end to end on one axis, cut every `block` tokens: minibatches are arrays (size / block, block)."""

    def __init__(
        self, lengths: Lengths, reader: ReadAhead, holes: Holes, max_samples: int | None, block: int
    ) -> None:
        self.time = 0
        self._place, self._offset = 0, 0  # the sequence that the next token is of, and how many of it are done
        self._lengths = lengths
        self._reader = reader
        self._holes = holes
        self._end = MAX_TIME if max_samples is None else max_samples
        self._block = block
        self._border = border(lengths.order)
        self._guess = 64

    def next(self, minibatch_size: int, num_data_partitions: int, partition_index: int) -> Batch:
        """See `Axis.next`. Parts are runs of whole blocks."""
        refuse_size("packed", "block", self._block, minibatch_size)
        begin, place = self.time, self._place
        size = min(minibatch_size, max(0, self._end - begin))
        marks = self._marks(self._offset + size)
        size = min(size, int(marks[-1]) - self._offset)
        ahead = int(np.searchsorted(marks, self._offset + size, side="right")) - 1
        rest = self._offset + size - int(marks[ahead])
        first, blocks = timeline.part(-(-size // self._block), num_data_partitions, partition_index)
        start, stop = (self._offset + min(size, at * self._block) for at in (first, first + blocks))
        lo = int(np.searchsorted(marks, start, side="right")) - 1 if stop > start else 0
        hi = int(np.searchsorted(marks, stop)) if stop > start else 0
        if num_data_partitions == 1:
            block, first_row, last_row = self._reader.read(place + lo, hi - lo, max(1, ahead - lo), gapless=True)
        else:
            block, first_row, last_row = self._reader.read_once(place + lo, hi - lo)
        packed = self._packed(stop - start, blocks, marks[lo : hi + 1] - marks[lo], start - int(marks[lo]))
        refuse_other_lengths(block, first_row, last_row, np.diff(marks[lo : hi + 1]))
        samples, origin = stop - start, begin - self._offset + int(marks[lo])
        if self._holes:
            packed = without(packed, self._holes, block.rows[first_row:last_row], begin + start - self._offset)
            samples = int((packed.places >= 0).sum())
        ended = timeline.sweeps_ended(place, place + ahead, self._border)
        self.time, self._place, self._offset = begin + size, place + ahead, rest
        return Batch(
            block,
            first_row,
            last_row,
            start=begin,
            nominal_time=begin,
            nominal_end=begin + size,
            sweeps_ended=ended,
            num_samples=samples,
            times=origin + marks[lo:hi] - marks[lo],
            packed=packed,
        )

    def _marks(self, tokens: int) -> NDArray[np.int64]:
        """Where the sequences from the present one on begin, so far that `tokens` tokens are covered, if there are so
        many; behind the last of them, where it ends."""
        while True:
            ends = np.cumsum(self._lengths.of(self._place, self._guess))
            if self._place + len(ends) >= self._lengths.end or (len(ends) and ends[-1] > tokens):
                return np.concatenate([np.zeros(1, np.int64), ends])
            self._guess *= 2

    def _packed(self, count: int, blocks: int, offsets: NDArray[np.int64], first: int) -> Packed:
        """The tokens first … first + count - 1 of the sequences between `offsets`, in so many blocks."""
        shape = (blocks, self._block)
        ids, positions = np.empty((2, *shape), np.int32)
        places = np.empty(shape, np.int64)
        if len(offsets) > 1:
            marks = np.ascontiguousarray(offsets)
            flat = (ids.reshape(-1), positions.reshape(-1), places.reshape(-1))
            pack.mark_tokens(marks, first, count, self._block, *flat)
        items: slice | NDArray[np.int64] = slice(first, first + count)
        if count < places.size:
            items = np.full(shape, -1, np.int64)
            items.reshape(-1)[:count] = np.arange(first, first + count)
        return Packed(ids, positions, places, items)

    def seek(self, time: int) -> None:
        """See `Axis.seek`: exact at every token."""
        place, begin = self._lengths.find(time)
        if begin > time:  # the token lies in the sequence before, or in one before empty ones
            place -= 1
            while (length := int(self._lengths.of(place, 1)[0])) == 0:
                place -= 1
            begin -= length
        self._place, self._offset, self.time = place, time - begin, time

    def at(self, time: int, count: int) -> NDArray[np.int64]:
        """See `Axis.at`: the sequence that each token is of."""
        return rows_over(self._lengths, time, count)

    def when(self, row: int, sweep: int) -> int:
        """See `Axis.when`: where its first token stands."""
        return self._lengths.begin(int(self._lengths.order.time_of(row, sweep)))

    def state(self) -> dict[str, Any]:
        """See `Axis.state`."""
        return {"row_ordinal": self._place, "token_offset": self._offset, "block": self._block}

    def restore(self, time: int, state: Any) -> None:
        """See `Axis.restore`."""
        refuse_other("block", self._block, state)
        place, offset = ordinal(state, "row_ordinal"), ordinal(state, "token_offset")
        self.time, self._place, self._offset = time, place, offset


class LaneAxis:
    """Sequences on `lanes` that run side by side: minibatches are arrays (lanes, size / lanes), in which each lane goes
    on where it was. A sequence goes to the lane that is free first, the lowest of several."""

    def __init__(self, lengths: Lengths, fetch: Fetcher, holes: Holes, max_samples: int | None, lanes: int) -> None:
        self.time = 0
        self._lengths = lengths
        self._fetch = fetch
        self._holes = holes
        self._end = MAX_TIME if max_samples is None else max_samples
        self._border = border(lengths.order)
        self._lanes = lanes
        self._next = 0  # the place of the sequence that is begun next
        self._held, self._taken, self._left = (np.full(lanes, value, np.int64) for value in (-1, 0, 0))
        self._guess = lanes

    def next(self, minibatch_size: int, num_data_partitions: int, partition_index: int) -> Batch:
        """See `Axis.next`. Parts are runs of lanes."""
        refuse_size("truncated", "lanes", self._lanes, minibatch_size)
        begin, place = self.time, self._next
        steps = min(minibatch_size, max(0, self._end - begin)) // self._lanes
        lanes, held, taken, left = self._advance(steps)
        begun, filled, assigned, where, begins = lanes
        steps = int(filled.max(initial=0))
        first, count = timeline.part(self._lanes, num_data_partitions, partition_index)
        mine = (where >= first) & (where < first + count)
        assigned, where, begins = assigned[mine], where[mine] - first, begins[mine]
        # A sequence that is already under way is numbered below 0 by its lane, a new one by its place from here on.
        old = assigned < 0
        places = np.where(old, self._held[np.where(old, -2 - assigned, 0)], place + assigned)
        done = np.where(old, self._taken[np.where(old, -2 - assigned, 0)], 0)
        block = self._fetch.places(places)
        lengths = self._lengths.dataset.lengths(block.rows, self._lengths.names)
        refuse_other_lengths(block, 0, len(block.rows), lengths)
        packed = self._packed((count, steps), where, begins, done, lengths)
        if self._holes:
            packed = without(packed, self._holes, block.rows, None)
        ended = timeline.sweeps_ended(place, place + begun, self._border)
        end = begin + steps * self._lanes
        self._settle(end, begun, held, taken, left)
        return Batch(
            block,
            0,
            len(block.rows),
            start=begin,
            nominal_time=begin,
            nominal_end=end,
            sweeps_ended=ended,
            num_samples=int((packed.places >= 0).sum()),
            times=begin + begins * self._lanes + where + first,
            packed=packed,
        )

    def _advance(self, steps: int) -> tuple[Any, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """All lanes moved on by `steps`: how many sequences were begun, steps filled, and the pieces (sequence, lane,
        first step); then what the lanes hold, how much of it is done and how much is left."""
        while True:
            lengths = self._lengths.of(self._next, self._guess)
            ended = self._next + len(lengths) >= self._lengths.end
            held = np.where(self._left > 0, -2 - np.arange(self._lanes), -1)
            taken, left = self._taken.copy(), self._left.copy()
            filled = np.zeros(self._lanes, np.int64)
            pieces = [np.empty(self._lanes + len(lengths), np.int64) for _ in range(3)]
            begun = pack.advance_lanes(steps, lengths, ended, held, taken, left, filled, *pieces)
            if begun >= 0:
                break
            self._guess *= 2
        used = int((self._left > 0).sum()) + int((lengths[:begun] > 0).sum())
        return (begun, filled, *(piece[:used] for piece in pieces)), held, taken, left

    def _settle(
        self, time: int, begun: int, held: NDArray[np.int64], taken: NDArray[np.int64], left: NDArray[np.int64]
    ) -> None:
        """Take over what `_advance` has found, at nominal time `time`."""
        before = self._held[np.maximum(-2 - held, 0)]
        self._held = np.where(held >= 0, self._next + held, np.where(held < -1, before, -1))
        self.time, self._next, self._taken, self._left = time, self._next + begun, taken, left

    def _packed(
        self,
        shape: tuple[int, int],
        lanes: NDArray[np.int64],
        begins: NDArray[np.int64],
        done: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Packed:
        """The tokens of the given pieces: one of each sequence, in lane `lanes` from step `begins` on."""
        ids, positions = np.zeros((2, *shape), np.int32)
        places, items = np.full((2, *shape), -1, np.int64)
        numbers = np.zeros(shape[0], np.int32)
        origins = np.cumsum(lengths) - lengths
        for i, (lane, start) in enumerate(zip(lanes.tolist(), begins.tolist(), strict=True)):
            count = min(int(lengths[i] - done[i]), shape[1] - start)
            numbers[lane] += 1
            span = slice(start, start + count)
            ids[lane, span] = numbers[lane]
            positions[lane, span] = np.arange(done[i], done[i] + count)
            places[lane, span] = i
            items[lane, span] = origins[i] + positions[lane, span]
        return Packed(ids, positions, places, items)

    def seek(self, time: int) -> None:
        """See `Axis.seek`: the lanes are run from the beginning, by lengths alone."""
        if time % self._lanes:
            raise ValueError(f"with {self._lanes} lanes, minibatches begin at multiples of that; got {time}")
        self.time, self._next = 0, 0
        self._held, self._taken, self._left = (np.full(self._lanes, value, np.int64) for value in (-1, 0, 0))
        while self.time < time:
            steps = min(time - self.time, self._lanes << 12) // self._lanes
            (begun, *_), held, taken, left = self._advance(steps)
            self._settle(self.time + steps * self._lanes, begun, held, taken, left)

    def at(self, time: int, count: int) -> NDArray[np.int64]:
        """See `Axis.at`; lanes have no closed form."""
        raise ValueError('sequences="truncated" has no at(): batch.rows and batch.times say what a minibatch holds')

    def when(self, row: int, sweep: int) -> int:
        """See `Axis.when`; lanes have no closed form."""
        raise ValueError('sequences="truncated" has no when(): batch.rows and batch.times say what a minibatch holds')

    def state(self) -> dict[str, Any]:
        """See `Axis.state`."""
        busy = self._left > 0
        lanes = np.stack([np.where(busy, self._held, -1), np.where(busy, self._taken, 0)], 1).tolist()
        return {"row_ordinal": self._next, "lanes": lanes}

    def restore(self, time: int, state: Any) -> None:
        """See `Axis.restore`."""
        lanes = state.get("lanes")
        refuse_other("lanes", self._lanes, {"lanes": len(lanes) if isinstance(lanes, list) else None})
        try:
            held, taken = np.array(lanes, np.int64).reshape(-1, 2).T
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"the state of the lanes is damaged: {error}") from None
        place = ordinal(state, "row_ordinal")
        if (held >= place).any() or (taken < 0).any():
            raise CheckpointError(f"the state of the lanes is damaged: {lanes!r:.60} with row_ordinal {place}")
        left = np.zeros(self._lanes, np.int64)
        busy = np.flatnonzero(held >= 0)
        for lane in busy.tolist():
            left[lane] = int(self._lengths.of(int(held[lane]), 1)[0]) - taken[lane]
        if (left[busy] <= 0).any():
            raise CheckpointError(f"the state of the lanes is damaged: {lanes!r:.60} are past their ends")
        self.time, self._next, self._held, self._taken, self._left = time, place, held.copy(), taken.copy(), left


def refuse_size(mode: str, name: str, unit: int, size: int) -> None:
    """Raise `ValueError` unless `size` is a multiple of `unit`."""
    if size % unit:
        raise ValueError(SHAPES.format(mode, name, unit, size))


def refuse_other(name: str, mine: int, state: Any) -> None:
    """Raise `CheckpointError` unless the state has the same number of what `name` names."""
    if state.get(name) != mine:
        raise CheckpointError(
            f"the checkpoint was made with {name}={state.get(name)!r}, this source has {mine}: open the source with "
            f"the same, or seek to the checkpoint's nominal time"
        )


def refuse_other_lengths(block: Block, lo: int, hi: int, lengths: NDArray[np.int64]) -> None:
    """Raise `SchemaError` for the first row in which a list field has another length than the sequence."""
    if block.times is not None and len(block.times) < block.stretch.samples:
        raise SchemaError("a transform dropped sequences, which packed minibatches cannot leave out: pack others")
    for name, column in block.columns.items():
        if isinstance(column.values, Ragged) and not is_text(column):
            found = np.diff(column.values.offsets[lo : hi + 1])
            if not np.array_equal(found, lengths):
                bad = int(np.argmax(found != lengths))
                raise SchemaError(
                    f"field {name!r} of row {block.rows[lo + bad]} has {found[bad]} elements, the sequence has "
                    f"{lengths[bad]}: packed lists must have one length; pick others with fields=… or length_field=…"
                )


def is_text(column: Column) -> bool:
    """Whether a column holds one text per row, which is no list."""
    return column.field is not None and column.field.is_bytes and column.field.depth == 0


def without(
    packed: Packed, holes: Holes, rows: NDArray[np.int64], time: int | None
) -> Packed:
    """`packed` without the tokens of skipped rows and, where the time of the first token is given, intervals."""
    shape = packed.places.shape
    times = np.full(packed.places.size, -1) if time is None else time + np.arange(packed.places.size)
    inside = packed.places >= 0
    owner = rows[np.maximum(packed.places, 0)] if len(rows) else np.zeros(shape, np.int64)
    keep = inside & holes.kept(times, owner.reshape(-1)).reshape(shape)
    items = packed.items
    if isinstance(items, slice):
        items = np.arange(items.start, items.stop).reshape(shape)
    return Packed(
        np.where(keep, packed.segment_ids, 0).astype(np.int32),
        np.where(keep, packed.positions, 0).astype(np.int32),
        np.where(keep, packed.places, -1),
        np.where(keep, items, -1),
    )

