"""Sequences on lanes that run side by side, for recurrent nets whose gradients are truncated in time.

Nominal time counts tokens, all lanes of a step before the next step. A sequence goes to the lane that is free first, so
what stands where depends on data, seed and the number of lanes: minibatches are exact for every size that is a multiple
of it, and nothing is dropped when the size changes. `docs/sequences.md` has the rules.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch import ragged, timeline
from minibatch.axis import border
from minibatch.batch import Batch, Packed
from minibatch.errors import CheckpointError
from minibatch.fetch import Block, Fetcher, join
from minibatch.gathering import Column
from minibatch.kernels import pack
from minibatch.packing import is_text, refuse_other, refuse_other_lengths, refuse_size, without_holes
from minibatch.ragged import Ragged
from minibatch.sequences import Lengths, ordinal
from minibatch.timeline import MAX_TIME, Holes

SEEK_STEPS = 1 << 12
BLOCKS_HELD = 8


class LaneAxis:
    """Sequences on `lanes` side by side: minibatches are arrays (lanes, size / lanes), in which each lane goes on where
    it was."""

    def __init__(self, lengths: Lengths, fetch: Fetcher, holes: Holes, max_samples: int | None, lanes: int) -> None:
        if max_samples is not None:
            refuse_limit(max_samples, lanes)
        self._lengths = lengths
        self._shelf = Shelf(lengths, fetch)
        self._holes = holes
        self._end = MAX_TIME if max_samples is None else max_samples
        self._border = border(lengths.order)
        self._lanes = lanes
        self._begin()

    def _begin(self) -> None:
        self.time = 0
        self._next = 0  # the place of the sequence that is begun next
        # Of each lane: the place of its sequence, how many of its tokens are done, and how many are not.
        self._held, self._taken, self._left = np.zeros((3, self._lanes), np.int64)
        self._guess = 2 * self._lanes

    @property
    def _done(self) -> int:
        """The place before which all sequences are over."""
        return int(self._held[self._left > 0].min(initial=self._next))

    def next(self, minibatch_size: int, num_data_partitions: int, partition_index: int) -> Batch:
        """See `Axis.next`. Parts are runs of lanes."""
        refuse_size("truncated", "lanes", self._lanes, minibatch_size)
        begin, done_before = self.time, self._done
        steps = min(minibatch_size, max(0, self._end - begin)) // self._lanes
        steps, pieces, moved = self._advanced(steps)
        first, lanes = timeline.part(self._lanes, num_data_partitions, partition_index)
        pieces = pieces[:, (pieces[1] >= first) & (pieces[1] < first + lanes)]
        places, lane, start, skipped, counts = pieces[:, np.argsort(pieces[0])]
        block, present = self._shelf.pieces(places, skipped, counts)
        packed = packed_pieces(lane - first, start, skipped, counts, (lanes, steps))
        times, samples = begin + start * self._lanes + lane, int(counts.sum())
        if self._holes or len(present) < len(places):
            token_times = begin + np.arange(steps) * self._lanes + np.arange(first, first + lanes)[:, None]
            packed, block, times = without_holes(packed, block, present, times, token_times, self._holes)
            samples = int((packed.arrays[2] >= 0).sum())
        self._next, self._held, self._taken, self._left = moved
        self.time = begin + steps * self._lanes
        self._shelf.keep(self._held[self._left > 0])
        return Batch(
            block,
            0,
            len(block.rows),
            start=begin,
            nominal_time=begin,
            nominal_end=self.time,
            sweeps_ended=timeline.sweeps_ended(done_before, self._done, self._border),
            num_samples=samples,
            num_holes=int(counts.sum()) - samples,
            times=times,
            packed=packed,
        )

    def _advanced(self, steps: int) -> tuple[int, NDArray[np.int64], tuple[Any, ...]]:
        """All lanes moved on by `steps`, fewer at the end: how many there were, the pieces of `pack.advance_lanes`,
        int64 (5, pieces), and what then is next, held, taken and left."""
        while True:
            lengths = self._lengths.of(self._next, self._guess)
            ended = self._next + len(lengths) >= self._lengths.end
            held, taken, left = (values.copy() for values in (self._held, self._taken, self._left))
            filled = np.zeros(self._lanes, np.int64)
            pieces = np.empty((5, self._lanes + len(lengths)), np.int64)
            begun, count = pack.advance_lanes(steps, self._next, lengths, ended, held, taken, left, filled, pieces)
            if begun >= 0:
                break
            self._guess *= 2
        self._guess = max(2 * self._lanes, self._guess // 2 if 4 * begun < self._guess else self._guess)
        return int(filled.max()), pieces[:, :count], (self._next + begun, held, taken, left)

    def seek(self, time: int) -> None:
        """See `Axis.seek`: the lanes are run from the beginning, by lengths alone."""
        if time % self._lanes:
            raise ValueError(f"with lanes={self._lanes}, minibatches begin at multiples of that; got {time}")
        before = self.time, self._next, self._held, self._taken, self._left, self._guess
        left = time // self._lanes
        try:
            self._begin()
            while left > 0:
                steps, _, moved = self._advanced(min(left, SEEK_STEPS))
                if steps == 0:
                    break
                self._next, self._held, self._taken, self._left = moved
                left -= steps
            self.time = time
        except BaseException:  # Ctrl-C too: a position half way there would be silently wrong
            self.time, self._next, self._held, self._taken, self._left, self._guess = before
            raise

    def at(self, time: int, count: int) -> NDArray[np.int64]:
        """See `Axis.at`; lanes have no closed form."""
        raise ValueError('sequences="truncated" has no at(): batch.rows and batch.times say what a minibatch holds')

    def when(self, row: int, sweep: int) -> int:
        """See `Axis.when`; lanes have no closed form."""
        raise ValueError('sequences="truncated" has no when(): batch.rows and batch.times say what a minibatch holds')

    def state(self) -> dict[str, Any]:
        """See `Axis.state`; of each lane the place of its sequence, -1 for none, and how many tokens of it are done."""
        busy = self._left > 0
        lanes = np.stack([np.where(busy, self._held, -1), np.where(busy, self._taken, 0)], 1).tolist()
        return {"row_ordinal": self._next, "lanes": lanes}

    def restore(self, time: int, state: Any) -> None:
        """See `Axis.restore`."""
        lanes, place = state.get("lanes"), ordinal(state, "row_ordinal")
        refuse_other("lanes", self._lanes, len(lanes) if isinstance(lanes, list) else lanes)
        if not all(isinstance(lane, list) and [type(value) for value in lane] == [int, int] for lane in lanes):
            raise CheckpointError(f"the checkpoint is damaged: lanes must be pairs of integers, it has {lanes!r:.80}")
        held, taken = np.array(lanes, np.int64).T.copy()
        busy = held >= 0
        left = np.zeros(self._lanes, np.int64)
        fits = time % self._lanes == 0 and bool((held < place).all()) and len(set(held[busy].tolist())) == busy.sum()
        if fits:
            left[busy] = [self._lengths.one(each) for each in held[busy].tolist()] - taken[busy]
        if not fits or (left[busy] <= 0).any() or (taken[busy] <= 0).any():
            raise CheckpointError(
                f"the checkpoint is damaged: lanes {lanes!r:.80} do not go with row_ordinal {place}, nominal time "
                f"{time} and these sequences"
            )
        self.time, self._next, self._held, self._taken, self._left = time, place, held, taken, left


class Shelf:
    """Sequences that are under way, whole, so that each is gathered and transformed once, however long it is."""

    def __init__(self, lengths: Lengths, fetch: Fetcher) -> None:
        self._lengths = lengths
        self._fetch = fetch
        self._held: list[tuple[NDArray[np.int64], Block]] = []  # places, and those of them that no transform dropped

    def pieces(
        self, places: NDArray[np.int64], skipped: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> tuple[Block, NDArray[np.int64]]:
        """Elements skipped[i] … skipped[i] + counts[i] - 1 of the lists of the sequence at places[i], ascending, (n,).

        As a block of shorter sequences, and which of the n are in it, int64 (m,), ascending: transforms drop some.
        """
        known = np.concatenate([np.zeros(0, np.int64), *(asked for asked, _ in self._held)])
        missing = np.setdiff1d(places, known, assume_unique=True)
        if len(missing) or not self._held:
            self._held.append((missing, self._fetched(missing)))
        parts, found = [], []
        for _, block in self._held:
            _, at, index = np.intersect1d(places_of(block), places, assume_unique=True, return_indices=True)
            parts.append(cut(block, at, skipped[index], counts[index]))
            found.append(index)
        return ascending(parts), np.sort(np.concatenate(found))

    def keep(self, places: NDArray[np.int64]) -> None:
        """Drop all other sequences, sooner or later: those that share memory with one of these stay for a while."""
        self._held = [held for held in self._held if np.isin(held[0], places).any()]
        if len(self._held) > BLOCKS_HELD:  # each sequence is copied once for so many others that are begun after it
            asked = [asked[np.isin(asked, places)] for asked, _ in self._held]
            block = ascending([block.take(np.isin(places_of(block), places)) for _, block in self._held])
            self._held = [(np.concatenate(asked), block)]

    def _fetched(self, places: NDArray[np.int64]) -> Block:
        block = self._fetch.places(places)
        refuse_other_lengths(block, self._lengths.dataset.lengths(block.rows, self._lengths.names))
        return block


def cut(block: Block, index: NDArray[np.int64], skipped: NDArray[np.int64], counts: NDArray[np.int64]) -> Block:
    """The samples `index`, int64 (n,), of a block, of each list only so many elements behind those skipped; copied."""
    columns = {}
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    for name, column in block.columns.items():
        values = column.values
        if isinstance(values, Ragged) and not is_text(column):
            begins = values.offsets[index] + skipped
            inside = np.repeat(begins - offsets[:-1], counts) + np.arange(offsets[-1])
            columns[name] = Column(Ragged(ragged.take(values.values, inside), offsets), column.field)
        else:
            columns[name] = Column(ragged.take(values, index), column.field)
    return Block(block.stretch, block.rows[index], columns, places_of(block)[index])


def places_of(block: Block) -> NDArray[np.int64]:
    """Where on the axis of rows the samples of a block of `Fetcher.places` stand."""
    if block.times is None:
        raise AssertionError(f"a block of places that does not know them: {block.stretch}")
    return block.times


def ascending(parts: Sequence[Block]) -> Block:
    """The samples of all parts as one block, by their places."""
    if len(parts) == 1:
        return parts[0]
    block = join(parts, parts[0].stretch)
    order = np.argsort(places_of(block))
    return block if (np.diff(order) > 0).all() else block.take(order)


def packed_pieces(
    lanes: NDArray[np.int64],
    begins: NDArray[np.int64],
    done: NDArray[np.int64],
    counts: NDArray[np.int64],
    shape: tuple[int, int],
) -> Packed:
    """The tokens of pieces of sequences, as an array (lanes, steps); see `pack.lay_pieces`."""

    def make() -> list[NDArray[np.int32]]:
        arrays = [np.empty(shape, np.int32) for _ in range(3)]
        pack.lay_pieces(lanes, begins, done, counts, *arrays)
        return arrays

    return Packed(shape, make, done)


def refuse_limit(max_samples: int, lanes: int) -> None:
    """Raise `ValueError` unless the axis of `lanes` can end at `max_samples`."""
    if max_samples % lanes:
        down = max_samples // lanes * lanes
        raise ValueError(
            f"max_samples={max_samples} is no multiple of lanes={lanes}, at which minibatches end: "
            f"write {down} or {down + lanes}"
        )
