"""Sequences laid end to end on one axis of tokens, which is cut into blocks.

Nominal time counts tokens. Which token stands where depends on data and seed alone, so minibatches are exact for every
size that is a multiple of the block. `docs/sequences.md` has the rules.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch import timeline
from minibatch.axis import border
from minibatch.batch import Batch, Packed
from minibatch.errors import CheckpointError, SchemaError
from minibatch.fetch import Block
from minibatch.gathering import Column
from minibatch.kernels import pack
from minibatch.ragged import Ragged
from minibatch.readahead import ReadAhead
from minibatch.sequences import Lengths, ordinal
from minibatch.timeline import MAX_TIME, Holes


class PackedAxis:
    """Sequences end to end on one axis, cut every `block` tokens: minibatches are arrays (size / block, block)."""

    def __init__(self, lengths: Lengths, reader: ReadAhead, holes: Holes, max_samples: int | None, block: int) -> None:
        self.time = 0
        self._place, self._offset = 0, 0  # the sequence that the next token is of, and how many of it are done
        self._lengths = lengths
        self._reader = reader
        self._holes = holes
        self._end = MAX_TIME if max_samples is None else max_samples
        self._block = block
        self._border = border(lengths.order)

    def next(self, minibatch_size: int, num_data_partitions: int, partition_index: int) -> Batch:
        """See `Axis.next`. Parts are runs of whole blocks."""
        refuse_size("packed", "block", self._block, minibatch_size)
        begin, place, offset = self.time, self._place, self._offset
        size = min(minibatch_size, max(0, self._end - begin))
        marks = self._lengths.marks(place, offset + size) if size else np.zeros(1, np.int64)
        size = max(0, min(size, int(marks[-1]) - offset))
        next_one = int(marks.searchsorted(offset + size, "right")) - 1
        first, blocks = timeline.part(-(-size // self._block), num_data_partitions, partition_index)
        start, stop = (offset + min(size, at * self._block) for at in (first, first + blocks))
        lo, hi = touched(marks, start, stop)
        if num_data_partitions == 1:
            block, first_row, last_row = self._reader.read(place + lo, hi - lo, max(1, next_one - lo), gapless=True)
        else:
            block, first_row, last_row = self._reader.read_once(place + lo, hi - lo)
        block = block.part(first_row, last_row)
        own = marks[lo : hi + 1] - marks[lo]
        packed = packed_tokens(own, start - int(marks[lo]), stop - start, (blocks, self._block))
        present = np.arange(hi - lo) if block.times is None else block.times - (place + lo)
        refuse_other_lengths(block, (own[1:] - own[:-1])[present])
        times, samples = begin - offset + marks[lo:hi], stop - start
        if self._holes or len(present) < hi - lo:
            token_times = begin - offset + start + np.arange(blocks * self._block).reshape(packed.shape)
            packed, block, times = without_holes(packed, block, present, times, token_times, self._holes)
            samples = int((packed.arrays[2] >= 0).sum())
        ended = timeline.sweeps_ended(place, place + next_one, self._border)
        self.time, self._place, self._offset = begin + size, place + next_one, offset + size - int(marks[next_one])
        return Batch(
            block,
            0,
            len(block.rows),
            start=begin,
            nominal_time=begin,
            nominal_end=begin + size,
            sweeps_ended=ended,
            num_samples=samples,
            num_holes=stop - start - samples,
            times=times,
            packed=packed,
        )

    def seek(self, time: int) -> None:
        """See `Axis.seek`: exact at every token."""
        place, begin, end = self._lengths.find(time) if time else (0, 0, 0)
        self._place, self._offset, self.time = place, time - begin if time < end else 0, time

    def at(self, time: int, count: int) -> NDArray[np.int64]:
        """See `Axis.at`: the sequence that each token is of."""
        return self._lengths.rows_over(time, count)

    def when(self, row: int, sweep: int) -> int:
        """See `Axis.when`: where its first token stands."""
        return self._lengths.begin(int(self._lengths.order.time_of(row, sweep)))

    def state(self) -> dict[str, Any]:
        """See `Axis.state`."""
        return {"row_ordinal": self._place, "token_offset": self._offset, "block": self._block}

    def restore(self, time: int, state: Any) -> None:
        """See `Axis.restore`."""
        refuse_other("block", self._block, state.get("block"))
        place, offset = ordinal(state, "row_ordinal"), ordinal(state, "token_offset")
        if offset and offset >= (length := self._lengths.one(place)):
            raise CheckpointError(
                f"the checkpoint is damaged: it has token_offset {offset} in the sequence at row_ordinal {place}, "
                f"which has {length} tokens"
            )
        self.time, self._place, self._offset = time, place, offset


def touched(marks: NDArray[np.int64], start: int, stop: int) -> tuple[int, int]:
    """Which of the sequences between `marks`, int64 (n + 1,), the tokens [start, stop) are of: first, and behind the
    last; empty ones behind them included, and before them where `start` is 0.

    >>> marks = np.array([0, 0, 3, 3, 5])
    >>> touched(marks, 0, 3), touched(marks, 3, 4), touched(marks, 4, 4)
    ((0, 3), (3, 4), (0, 0))
    """
    if stop == start:
        return 0, 0
    last = int(marks.searchsorted(stop, "right")) - 1
    return int(marks.searchsorted(start, "right")) - 1 if start else 0, last + (int(marks[last]) < stop)


def packed_tokens(marks: NDArray[np.int64], first: int, count: int, shape: tuple[int, int]) -> Packed:
    """The tokens first … first + count - 1 of the sequences between `marks`, as an array of that shape."""

    def make() -> list[NDArray[np.int32]]:
        arrays = [np.empty(shape, np.int32) for _ in range(3)]
        pack.mark_tokens(marks, first, count, shape[1], *(array.reshape(-1) for array in arrays))
        return arrays

    whole = count == shape[0] * shape[1]
    return Packed(shape, make, np.zeros(len(marks) - 1, np.int64), slice(first, first + count) if whole else None)


def refuse_size(mode: str, name: str, unit: int, size: int) -> None:
    """Raise `ValueError` unless `size` is a multiple of `unit`."""
    if size % unit:
        down, up = size // unit * unit, -(-size // unit) * unit
        raise ValueError(
            f"sequences={mode!r} takes minibatch sizes that are multiples of {name}={unit}, got {size}: "
            f"ask for {f'{down} or ' if down else ''}{up}"
        )


def refuse_other(name: str, mine: int, given: Any) -> None:
    """Raise `CheckpointError` unless the state has the same number of what `name` names."""
    if given != mine:
        raise CheckpointError(
            f"the checkpoint was made with {name}={given!r}, this source has {name}={mine}: open the source with the "
            f"same, or go to its nominal time alone with override=['sequences']"
        )


def refuse_other_lengths(block: Block, lengths: NDArray[np.int64]) -> None:
    """Raise `SchemaError` for the first row of a block in which a list field has another length than the sequence."""
    for name, column in block.columns.items():
        if isinstance(column.values, Ragged) and not is_text(column):
            found = column.values.lengths
            if not np.array_equal(found, lengths):
                bad = int(np.argmax(found != lengths))
                raise SchemaError(
                    f"field {name!r} of row {block.rows[bad]} has {found[bad]} elements, its sequence has "
                    f"{lengths[bad]}: lists that are laid end to end must have one length in each row; pick those "
                    f"with fields=…, or the one that counts with length_field=…"
                )


def is_text(column: Column) -> bool:
    """Whether a column holds one text per row, which is no list."""
    return column.field is not None and column.field.is_bytes and column.field.depth == 0


def without_holes(
    packed: Packed,
    block: Block,
    present: NDArray[np.int64],
    times: NDArray[np.int64],
    token_times: NDArray[np.int64],
    holes: Holes,
) -> tuple[Packed, Block, NDArray[np.int64]]:
    """What remains of the tokens, of the block of their sequences, and of the `times`, int64 (n,), of those.

    The block has the sequences `present`, int64 (m,), m <= n: a transform dropped the others. A sequence remains if one
    of its tokens here does, or if it has none and is no hole itself.
    """
    count = len(times)
    places = packed.arrays[2]
    rows = np.full(count + 1, -1, np.int64)  # the last one for place -1
    rows[present] = block.rows
    here = np.zeros(count + 1, np.bool_)
    here[present] = True
    tokens = here[places] & holes.kept(token_times.reshape(-1), rows[places].reshape(-1)).reshape(places.shape)
    empty = np.bincount(places[places >= 0], minlength=count) == 0
    sequences = np.bincount(places[tokens], minlength=count) > 0
    sequences |= empty & here[:-1] & holes.kept(times, rows[:-1])
    return packed.thinned(tokens, sequences), block.take(sequences[present]), times[sequences]
