"""The samples of one stretch of the axis: gathered by a kernel that holds no GIL, then transformed, as a block.

The axis here is that of rows: place after place of the order. For data of fixed shape that is nominal time; what
sequences make of it is in `minibatch.sequences`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch import ragged
from minibatch.ahead import Ahead, Place, scatter
from minibatch.dataset import Dataset, Part
from minibatch.errors import SchemaError
from minibatch.gathering import Column, Gathering
from minibatch.kernels import gather, permute
from minibatch.memory import Pool
from minibatch.order import Order
from minibatch.timeline import MAX_TIME, Holes, Stretch
from minibatch.transforms import DecodeImage, apply, hull
from minibatch.transforms.operations import Operations


@dataclass(frozen=True, slots=True)
class Block:
    """The samples of a stretch: `rows` int64 (n,), `columns` by name, and their `times` where some are holes."""

    stretch: Stretch
    rows: NDArray[np.int64]
    columns: dict[str, Column]
    times: NDArray[np.int64] | None = None

    def bounds(self, start: int, length: int) -> tuple[int, int] | None:
        """Where the samples at times [start, start + length) lie in the columns; None if they are not here."""
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

    def take(self, keep: NDArray[Any]) -> "Block":
        """The samples where `keep`, bool (n,), is true, or those numbered `keep`, int64 (m,); copied."""
        columns = {
            name: Column(ragged.take(column.values, keep), column.field) for name, column in self.columns.items()
        }
        return Block(self.stretch, self.rows[keep], columns, None if self.times is None else self.times[keep])

    @property
    def varies(self) -> bool:
        """Whether only the block itself tells how large samples are: what transforms made, and lists."""
        return any(column.field is None or column.field.varies for column in self.columns.values())

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample, on average, with its row number."""
        size = sum(column.values.nbytes for column in self.columns.values())
        return 8 + (-(-size // len(self.rows)) if len(self.rows) else 0)


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Gathers any stretch of the axis; knows no position, so it may be called from any thread."""

    dataset: Dataset
    names: list[str]
    order: Any
    holes: Holes
    pool: Pool
    operations: Operations = ()
    seed: int = 0

    @cached_property
    def _parts(self) -> list[tuple[Part, Gathering]]:
        parts = self.dataset.gatherings(self.names)
        scatter(self.order, [part.chunks for part, _ in parts], self.sample_bytes)
        return parts

    def prepare(self, stretch: Stretch) -> None:
        """Have the system bring in what comes after `stretch`; for a thread that nobody waits for."""
        if self._ahead is not None:
            self._ahead(stretch)

    @cached_property
    def _ahead(self) -> Ahead | None:
        order = getattr(self.order, "base", self.order)
        if not isinstance(order, Order):
            return None
        places = []
        for part, gathering in self._parts:
            names = tuple(field.name for field in gathering.fields.values())
            places.append(Place(chunks=part.chunks, names=names, picked=part.picked))
        return Ahead(order, places)

    @cached_property
    def _hull(self) -> int:
        return hull(self.operations)

    @cached_property
    def _undivided(self) -> set[str]:
        """Fields of bytes that the first operation reads where they lie, so that no object is made of each value."""
        first = [transform for _, transform in self.operations[:1]]
        return {transform.field for transform in first if isinstance(transform, DecodeImage)}

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample once gathered, with its row number; an estimate where rows differ in size."""
        fields = [self.dataset.fields[name] for name in self.names]
        size = 8 + sum(each.row_bytes for each in fields)
        if any(each.varies for each in fields):
            size += -(-self.dataset.stored_bytes // max(1, len(self.dataset)))
        return size

    def __call__(self, stretch: Stretch) -> Block:
        """The block of `stretch`."""
        if not self.operations:
            return self._gathered(stretch)
        if self._hull == 1:
            return self._transformed(self._gathered(stretch))
        # What is mixed with a sample may lie beside the stretch: whole neighbourhoods are transformed, then cut.
        pieces = []
        for run in stretch.runs():
            wide = self._transformed(self._gathered(self._widened(run)))
            bounds = wide.bounds(run.start, len(run))
            if bounds is None:
                raise AssertionError(f"{run} is not in {wide.stretch}")
            pieces.append(wide.part(*bounds))
        return join(pieces, stretch) if len(pieces) > 1 else replace(pieces[0], stretch=stretch)

    def places(self, places: NDArray[np.int64]) -> Block:
        """The samples at any places of the axis, int64 (n,), holes or not; its stretch says only how many."""
        stretch = Stretch(start=0, length=len(places), stride=max(1, len(places)), count=1)
        bounds = np.flatnonzero(np.diff(places, prepend=-2, append=-2) != 1).tolist()
        runs = [(int(places[a]), b - a) for a, b in pairwise(bounds)]
        if self._hull > 1 and runs:
            return join([self(Stretch(start=start, length=n, stride=n, count=1)) for start, n in runs], stretch)
        rows = np.concatenate([np.zeros(0, np.int64), *(self.order.rows_at(start, n) for start, n in runs)])
        columns = self.dataset.gather(rows, self._parts, self.pool)
        block = Block(stretch, rows, {name: columns[name] for name in self.names}, places)
        return self._transformed(block) if self.operations else block

    def _widened(self, run: range) -> Stretch:
        """The aligned neighbourhoods that a run of the axis touches; the last one ends where a finite axis does."""
        if not len(run):  # perhaps behind the end of the axis, where there is no neighbourhood
            return Stretch(start=run.start, length=0, stride=1, count=1)
        start = run.start // self._hull * self._hull
        stop = -(-run.stop // self._hull) * self._hull
        length = max(run.stop, min(stop, getattr(self.order, "end", MAX_TIME))) - start
        return Stretch(start=start, length=length, stride=max(1, length), count=1)

    def _transformed(self, block: Block) -> Block:
        times = block.times if block.times is not None else times_of(block.stretch)
        fields = {
            name: column.values if name in self._undivided else column.view(0, len(block.rows))
            for name, column in block.columns.items()
        }
        made, kept, rows = apply(self.operations, fields, self.seed, times, block.rows)
        return Block(block.stretch, rows, {name: Column(values) for name, values in made.items()}, kept)

    def _gathered(self, stretch: Stretch) -> Block:
        rows = empty(stretch.samples, np.int64)
        runs = (stretch.start, stretch.length, stretch.stride, stretch.count)
        part, gathering = self._parts[0]
        if isinstance(self.order, Order) and not self.holes and len(self._parts) == 1 and part.picked is None:
            chunks = empty(stretch.samples, np.int32)
            table, room = part.chunks, gathering.room(stretch.samples, self.pool)
            with table.reading():
                if gather.fetch(
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
                ):
                    return Block(stretch, rows, gathering.columns(rows, chunks, room, self.pool))
            del room  # a chunk that is not mapped: the rows are known, the rest is done anew
            return Block(stretch, rows, gathering.rows(rows, self.pool))
        if isinstance(self.order, Order):
            permute.rows_of_stretch(*self.order.parameters, *runs, rows)
        else:
            self.order.fill_stretch(stretch, rows)
        times = None
        if self.holes:
            times = times_of(stretch)
            keep = self.holes.kept(times, rows)
            rows, times = rows[keep], times[keep]
        columns = self.dataset.gather(rows, self._parts, self.pool)
        return Block(stretch, rows, {name: columns[name] for name in self.names}, times)


def empty(count: int, dtype: Any) -> NDArray[Any]:
    """Room for one number per sample, or the error that says that there is none."""
    try:
        return np.empty(count, dtype)
    except (ValueError, MemoryError):
        raise MemoryError(f"{count:,} samples do not fit into memory: ask for a smaller minibatch") from None


def times_of(stretch: Stretch) -> NDArray[np.int64]:
    """The times of a stretch, run after run: int64 (samples,)."""
    begins = stretch.start + stretch.stride * np.arange(stretch.count, dtype=np.int64)
    return np.asarray((begins[:, None] + np.arange(stretch.length, dtype=np.int64)).reshape(-1))


def join(parts: Sequence[Block], stretch: Stretch) -> Block:
    """Several blocks as one that holds `stretch`: the copy that a minibatch across block borders costs."""
    parts = [part for part in parts if len(part.rows)] or parts[:1]  # without samples nobody knows their shapes
    columns = {}
    if len({frozenset(part.columns) for part in parts}) > 1:
        raise SchemaError(f"a transform gave samples different fields: {[list(part.columns) for part in parts]}")
    for name, first in parts[0].columns.items():
        values = [part.columns[name].values for part in parts]
        if len({kind_of(value) for value in values}) > 1:
            raise SchemaError(
                f"field {name!r} has rows of different kinds in one minibatch, {[kind_of(v) for v in values]}: "
                f"a transform must give all samples one shape and dtype"
            )
        columns[name] = Column(ragged.join(values), first.field)
    times = [part.times for part in parts if part.times is not None]
    rows = np.concatenate([part.rows for part in parts])
    return Block(stretch, rows, columns, np.concatenate(times) if times else None)


def kind_of(values: Any) -> tuple[str, str, tuple[int, ...]]:
    """What the rows of arrays must have in common to be joined: dtype (of text, any length) and shape."""
    dtype = values.dtype.kind if values.dtype.kind in "SU" else str(values.dtype)
    return type(values).__name__, dtype, values.shape[1:] if isinstance(values, np.ndarray) else ()
