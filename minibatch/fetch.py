"""The rows of one stretch of the axis, gathered into buffers.

A block is gathered in one go, by kernels that hold no GIL, into memory that is used again when nothing looks at
it any more: touching fresh pages costs more than the gather itself (1.3 GB/s against 6, measured 2026-11).
"""

import mmap
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.columns import BITS, BYTES, Field
from minibatch.dataset import Dataset
from minibatch.kernels import gather
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
                region = self._free.popleft()
            except IndexError:  # another thread was faster
                break
            if size <= len(region) <= 2 * size + POOLED_BYTES:
                return self._root(region, size)
            self._free.append(region)
        try:
            region = mmap.mmap(-1, -(-size // POOLED_BYTES) * POOLED_BYTES)
        except (OSError, OverflowError, ValueError) as error:
            raise MemoryError(
                f"a block of {size:,} bytes cannot be allocated ({error}): ask for a smaller minibatch"
            ) from None
        if hasattr(mmap, "MADV_HUGEPAGE"):
            region.madvise(mmap.MADV_HUGEPAGE)
        return self._root(region, size)

    def _root(self, region: mmap.mmap, size: int) -> NDArray[np.uint8]:
        root = np.frombuffer(region, np.uint8, size)
        free, watched, name = self._free, self._watched, id(root)

        def recycle(reference: weakref.ref[NDArray[np.uint8]]) -> None:
            watched.pop(name, None)
            free.append(region)

        self._watched[name] = weakref.ref(root, recycle)
        return root


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
            out[i] = value.decode() if self.field.is_text else value
        return out


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
        lo, hi = np.searchsorted(self.times, [start, start + length]).tolist()
        return lo, hi

    def part(self, lo: int, hi: int) -> "Block":
        """Samples lo … hi - 1 as a block of their own, sharing memory."""
        times = None if self.times is None else self.times[lo:hi]
        columns = {name: column.part(lo, hi) for name, column in self.columns.items()}
        return Block(self.stretch, self.rows[lo:hi], columns, times)


def fetch_rows(
    dataset: Dataset, fields: list[Field], rows: NDArray[np.int64], pool: Pool | None = None
) -> dict[str, Column]:
    """The given rows of the given fields, gathered: int64 (n,), any order, repetitions allowed."""
    chunks = dataset.chunks.locate(rows)
    starts = dataset.chunks.starts
    sizes = [len(rows) * field.row_bytes for field in fields]
    aligned = np.concatenate([[0], np.cumsum([-(-size // 64) * 64 for size in sizes])]).tolist()
    memory = (pool or Pool()).take(aligned[-1])
    columns = {}
    for i, field in enumerate(fields):
        tables = dataset.chunks.buffers(field)
        if field.layout == BYTES:
            offsets = np.empty(len(rows) + 1, np.int64)
            gather.gather_lengths(rows, chunks, starts, tables["offsets"], tables["offset_bytes"], offsets)
            data = (pool or Pool()).take(int(offsets[-1]))
            address = np.uint64(data.ctypes.data)
            gather.gather_bytes(
                rows, chunks, starts, tables["offsets"], tables["offset_bytes"], tables["data"], offsets, address
            )
            columns[field.name] = Column(field, data, offsets)
            continue
        flat = memory[aligned[i] : aligned[i] + sizes[i]]
        if field.layout == BITS:
            gather.gather_bits(rows, chunks, starts, tables["data"], tables["first_bit"], field.row_size, flat)
        elif sizes[i]:
            address = np.uint64(flat.ctypes.data)
            gather.gather_fixed(rows, chunks, starts, tables["data"], field.row_bytes, address)
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
        except (ValueError, MemoryError):
            raise MemoryError(
                f"{stretch.samples:,} samples do not fit into memory: ask for a smaller minibatch"
            ) from None
        for i, run in enumerate(stretch.runs()):
            self.order.fill(run.start, rows[i * stretch.length : (i + 1) * stretch.length])
        times = None
        if self.holes:
            times = np.concatenate(
                [np.arange(run.start, run.stop) for run in stretch.runs()] or [np.zeros(0, np.int64)]
            )
            keep = self.holes.kept(times, rows)
            rows, times = rows[keep], times[keep]
        return Block(stretch, rows, fetch_rows(self.dataset, self.fields, rows, self.pool), times)


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
