"""The rows of one stretch of the axis, gathered into buffers.

A block is gathered in one go, by kernels that hold no GIL, into memory that is used again when nothing looks at
it any more: touching fresh pages costs more than the gather itself (1.3 GB/s against 6, measured 2026-11).
"""

import mmap
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.columns import BITS, BYTES, FIXED, Field
from minibatch.dataset import Dataset
from minibatch.errors import DamagedDatasetError
from minibatch.kernels import gather, permute
from minibatch.order import Order
from minibatch.timeline import Holes, Stretch

POOLED_BYTES = 1 << 20  # smaller blocks come from NumPy, which keeps small memory warm by itself
KEPT_REGIONS = 6


class Pool:
    """Memory for blocks: a region is given out again once no array over it is alive.

    Every array that a caller may hold keeps the region's root array alive (as its `base`), and a weak reference to the
    root says when the last of them is gone: nobody has to give anything back, and nothing held is ever overwritten.
    """

    def __init__(self) -> None:
        self._free: deque[mmap.mmap] = deque(maxlen=KEPT_REGIONS)
        self._watched: dict[int, weakref.ref[NDArray[np.uint8]]] = {}

    def take(self, size: int) -> NDArray[np.uint8]:
        """Uninitialised memory: uint8 (size,)."""
        if size < POOLED_BYTES:
            return np.empty(size, np.uint8)
        for _ in range(len(self._free)):
            try:
                region = self._free.pop()  # the last one used is still in the cache
            except IndexError:  # another thread was faster
                break
            if size <= len(region) <= 2 * size + POOLED_BYTES:
                return self._root(region, size)
            self._free.appendleft(region)
        try:
            region = anonymous(-(-size // POOLED_BYTES) * POOLED_BYTES)
        except (OSError, OverflowError, ValueError) as error:
            raise MemoryError(
                f"a block of {size:,} bytes cannot be allocated ({error}): ask for a smaller minibatch"
            ) from None
        return self._root(region, size)

    def _root(self, region: mmap.mmap, size: int) -> NDArray[np.uint8]:
        root = np.frombuffer(region, np.uint8, size)
        free, watched, name = self._free, self._watched, id(root)

        def recycle(reference: weakref.ref[NDArray[np.uint8]]) -> None:
            watched.pop(name, None)
            free.append(region)

        self._watched[name] = weakref.ref(root, recycle)
        return root


def anonymous(size: int) -> mmap.mmap:
    """Fresh memory of this process alone: a forked child gets a copy, where Python's default would share it."""
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows, which does not fork
        return mmap.mmap(-1, size)
    region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            region.madvise(mmap.MADV_HUGEPAGE)
    return region


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a block: `values` (n, *shape); for text and bytes the data, uint8, and `offsets` int64 (n + 1,)."""

    field: Field
    values: NDArray[Any]
    offsets: NDArray[np.int64] | None = None

    def part(self, start: int, stop: int) -> "Column":
        """Rows [start, stop) as a column of their own."""
        if self.offsets is None:
            return Column(self.field, self.values[start:stop])
        marks = self.offsets[start : stop + 1]
        return Column(self.field, self.values[marks[0] : marks[-1]], marks - marks[0])

    def view(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) as callers see them: a view for numbers, str or bytes objects for text and bytes."""
        if self.offsets is None:
            return self.values[start:stop]
        out = np.empty(stop - start, object)
        marks = self.offsets[start : stop + 1].tolist()
        for i in range(stop - start):
            value = self.values[marks[i] : marks[i + 1]].tobytes()
            out[i] = self._decoded(value) if self.field.is_text else value
        return out

    def _decoded(self, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise DamagedDatasetError(
                f"field {self.field.name!r} has text that is not UTF-8 ({error}): {value[:40]!r}; "
                f"store it as bytes, or run `minibatch check` on the data set"
            ) from None


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


def fetch_rows(
    dataset: Dataset, fields: list[Field], rows: NDArray[np.int64], pool: Pool | None = None
) -> dict[str, Column]:
    """The given rows of the given fields, gathered: int64 (n,), any order, repetitions allowed."""
    table = Gathering(dataset, fields)
    chunks = dataset.chunks.locate(rows)
    room = table.room(len(rows), pool or Pool())
    table.gather(rows, chunks, room)
    return table.columns(rows, chunks, room, pool or Pool())


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for the fixed-size fields of a block: one region, where each field begins in it, and those addresses."""

    memory: NDArray[np.uint8]
    begins: list[int]
    outs: NDArray[np.uint64]


class Gathering:
    """What gathering some fields of a data set needs to know, worked out once: which tables, how many bytes a row."""

    def __init__(self, dataset: Dataset, fields: list[Field]) -> None:
        self.dataset = dataset
        self.fields = fields
        numbers = {name: i for i, name in enumerate(dataset.fields)}
        fixed = [i for i, field in enumerate(fields) if field.layout == FIXED and field.row_bytes]
        self.fixed = fixed
        self.which = np.array([numbers[fields[i].name] for i in fixed], np.int64)
        self.row_bytes = np.array([fields[i].row_bytes for i in fixed], np.int64)

    def room(self, samples: int, pool: Pool) -> Room:
        """Memory for `samples` rows."""
        begins = [0, *accumulate(-(-samples * field.row_bytes // 64) * 64 for field in self.fields)]
        memory = pool.take(begins[-1])
        address = memory.__array_interface__["data"][0]
        return Room(memory, begins, np.array([address + begins[i] for i in self.fixed], np.uint64))

    def gather(self, rows: NDArray[np.int64], chunks: NDArray[np.int32], room: Room) -> None:
        """Fill the room with the rows of all fields of fixed size."""
        table = self.dataset.chunks
        gather.gather_fields(rows, chunks, table.starts, table.addresses, self.which, self.row_bytes, room.outs)

    def columns(self, rows: NDArray[np.int64], chunks: NDArray[np.int32], room: Room, pool: Pool) -> dict[str, Column]:
        """All fields as columns: those of fixed size, gathered before, and the others, gathered now."""
        starts = self.dataset.chunks.starts
        columns = {}
        for field, begin in zip(self.fields, room.begins, strict=False):
            tables = self.dataset.chunks.buffers(field)
            if field.layout == BYTES:
                offsets = np.empty(len(rows) + 1, np.int64)
                gather.gather_lengths(rows, chunks, starts, tables["offsets"], tables["offset_bytes"], offsets)
                data = pool.take(int(offsets[-1]))
                address = np.uint64(data.ctypes.data)
                gather.gather_bytes(
                    rows, chunks, starts, tables["offsets"], tables["offset_bytes"], tables["data"], offsets, address
                )
                columns[field.name] = Column(field, data, offsets)
                continue
            flat = room.memory[begin : begin + len(rows) * field.row_bytes]
            if field.layout == BITS:
                gather.gather_bits(rows, chunks, starts, tables["data"], tables["first_bit"], field.row_size, flat)
            columns[field.name] = Column(field, flat.view(field.dtype).reshape((len(rows), *field.shape)))
        return columns


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
        return Gathering(self.dataset, self.fields)

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
            return Block(stretch, rows, fetch_rows(self.dataset, self.fields, rows, self.pool), times)
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
