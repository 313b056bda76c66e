"""The samples of one stretch of the axis, gathered into a block by one kernel that holds no GIL."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from minibatch.columns import BYTES, Field
from minibatch.dataset import Dataset
from minibatch.gathering import Column, Gathering
from minibatch.kernels import gather, permute
from minibatch.memory import Pool
from minibatch.order import Order
from minibatch.timeline import Holes, Stretch


@dataclass(frozen=True, slots=True)
class Block:
    """The samples of a stretch: `rows` int64 (n,), `columns` by name, and their nominal `times` where there are
    holes."""

    stretch: Stretch
    rows: NDArray[np.int64]
    columns: dict[str, Column]
    times: NDArray[np.int64] | None = None

    def bounds(self, start: int, length: int) -> tuple[int, int] | None:
        """Where the samples at nominal times [start, start + length) lie in the columns; None if they are not here."""
        first = self.stretch.find(start, length)
        if first is None:
            return None
        if self.times is None:
            return first, first + length
        return int(self.times.searchsorted(start)), int(self.times.searchsorted(start + length))

    def part(self, lo: int, hi: int) -> "Block":
        """Samples lo … hi - 1 as a block of their own, sharing memory."""
        times = None if self.times is None else self.times[lo:hi]
        columns = {name: column.part(lo, hi) for name, column in self.columns.items()}
        return Block(self.stretch, self.rows[lo:hi], columns, times)


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Gathers any stretch of the axis; knows no position, so it may be called from any thread."""

    dataset: Dataset
    fields: list[Field]
    order: Order
    holes: Holes
    pool: Pool

    @cached_property
    def gathering(self) -> Gathering:
        return Gathering(self.dataset.chunks, self.fields)

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample once gathered, with its row number; an estimate for text and bytes."""
        size = 8 + sum(field.row_bytes for field in self.fields)
        if any(field.layout == BYTES for field in self.fields):
            stored = sum(shard.bytes for shard in self.dataset.manifest.shards)
            size += -(-stored // max(1, len(self.dataset)))
        return size

    def __call__(self, stretch: Stretch) -> Block:
        """The block of `stretch`."""
        try:
            rows = np.empty(stretch.samples, np.int64)
            chunks = np.empty(stretch.samples, np.int32)
        except (ValueError, MemoryError):
            raise MemoryError(
                f"{stretch.samples:,} samples do not fit into memory: ask for a smaller minibatch"
            ) from None
        runs = (stretch.start, stretch.length, stretch.stride, stretch.count)
        if self.holes:
            permute.rows_of_stretch(*self.order.parameters, *runs, rows)
            begins = stretch.start + stretch.stride * np.arange(stretch.count)
            times = (begins[:, None] + np.arange(stretch.length)).reshape(-1)
            keep = self.holes.kept(times, rows)
            rows, times = rows[keep], times[keep]
            return Block(stretch, rows, self.gathering.rows(rows, self.pool), times)
        table, gathering = self.dataset.chunks, self.gathering
        room = gathering.room(stretch.samples, self.pool)
        done = gather.fetch(
            *self.order.parameters,
            *runs,
            table.starts,
            table.guess,
            table.shift,
            table.mapped,
            table.addresses,
            gathering.which,
            gathering.row_bytes,
            room.outs,
            rows,
            chunks,
        )
        if not done:  # a shard that is seen for the first time
            chunks = table.locate(rows)
            gathering.gather(rows, chunks, room)
        return Block(stretch, rows, gathering.columns(rows, chunks, room, self.pool))


def join(parts: list[Block], stretch: Stretch) -> Block:
    """Several blocks as one that holds `stretch`: the copy that a minibatch across block borders costs."""
    columns = {}
    for name, first in parts[0].columns.items():
        pieces = [part.columns[name] for part in parts]
        offsets = None
        if first.offsets is not None:
            lengths = [np.diff(piece.offsets) for piece in pieces if piece.offsets is not None]
            offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(lengths))])
        columns[name] = Column(first.field, np.concatenate([piece.values for piece in pieces]), offsets)
    times = [part.times for part in parts if part.times is not None]
    rows = np.concatenate([part.rows for part in parts])
    return Block(stretch, rows, columns, np.concatenate(times) if times else None)
