"""The chunks of data sets as the tables that kernels read: which rows each has, and at which addresses they lie.

A shard is mapped, and everything about it checked, when a row of it is first asked for. Chunks that must be decoded
(compressed files, dictionaries, views, nulls that read as values) are decoded one by one, when a row is asked for.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch import storage
from minibatch.buffers import Nulls, checked_leaves, leaf_buffers, readable
from minibatch.columns import FIXED, Field
from minibatch.errors import DamagedDatasetError
from minibatch.holding import MOST_NEW, Holding
from minibatch.kernels import gather
from minibatch.limits import available_memory
from minibatch.manifest import Fingerprint, Manifest
from minibatch.shards import OpenShard, buffers_of, open_shard
from minibatch.storage import MANIFEST, advise, file_identity, map_file

CACHED_SHARE = 2  # data that take more than half of the memory are not counted on to stay in it
DECODED_SHARE = 8  # of the memory, for what is decoded; several processes read on one machine


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder of shards: what its manifest says, and the identity of that file (None without one)."""

    folder: Path
    manifest: Manifest
    opened: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class LeafTable:
    """Where one leaf of a field lies in each chunk: see `buffers.LeafBuffers`. All arrays are (chunks,)."""

    number: int
    data: NDArray[np.uint64]
    first_bits: NDArray[np.int64]
    offsets: tuple[NDArray[np.uint64], ...]
    offset_bytes: tuple[NDArray[np.int64], ...]


class Chunks:
    """The chunks of all shards as the tables that kernels read, filled when rows are first needed."""

    def __init__(self, places: Sequence[Place], fields: Mapping[str, Field], nulls: Nulls | None = None) -> None:
        self.places = tuple(places)
        self.fields = dict(fields)
        self.nulls = dict(nulls or {})
        self._shards = [(place, shard) for place in places for shard in place.manifest.shards]
        runs = np.array([run for _, shard in self._shards for run in shard.runs], np.int64).reshape(-1, 2)
        rows = np.repeat(runs[:, 0], runs[:, 1])
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows)])
        self._shard_of = np.repeat(np.arange(len(self._shards)), [shard.num_chunks for _, shard in self._shards])
        self._first_chunk = np.searchsorted(self._shard_of, np.arange(len(self._shards)))
        # At most two buckets a chunk on average: nearly every bucket then lies in one or two chunks.
        self.shift = max(0, int(self.starts[-1] // (2 * max(1, len(rows)))).bit_length() - 1)
        buckets = (int(self.starts[-1]) >> self.shift) + 2
        edges = np.arange(buckets, dtype=np.int64) << self.shift
        guess = np.searchsorted(self.starts, edges, side="right") - 1
        self.guess = np.minimum(guess, len(rows) - 1).astype(np.int32)
        # All addresses stand in one table: those of all leaves first, so that one kernel can gather them all.
        leaves = [(name, leaf) for name, field in fields.items() for leaf in field.leaves]
        levels = sum(leaf.levels for _, leaf in leaves)
        self._pointers = np.zeros((3 * len(leaves) + levels, len(rows)), np.uint64)
        self.addresses, self._begins, self._ends, offsets = np.split(
            self._pointers, np.cumsum([len(leaves), len(leaves), len(leaves)])
        )
        self.leaves: dict[str, tuple[LeafTable, ...]] = dict.fromkeys(fields, ())
        for number, (name, leaf) in enumerate(leaves):
            own, offsets = offsets[: leaf.levels], offsets[leaf.levels :]
            table = LeafTable(
                number=number,
                data=self.addresses[number],
                first_bits=np.zeros(len(rows) if leaf.bits else 0, np.int64),
                offsets=tuple(own),
                offset_bytes=tuple(np.zeros(len(rows), np.int64) for _ in own),
            )
            self.leaves[name] = (*self.leaves[name], table)
        self.mapped = rows == 0  # nobody asks for a chunk without rows
        self._used: dict[str, Field] = {}  # the fields that somebody reads: the others may be as they are
        self._all_mapped = False
        found = available_memory()
        room = found.available if found is not None else 1 << 62
        self._holding = Holding(self.mapped, room // DECODED_SHARE)
        # What the tables of shards were filled from: which file, and where it was mapped.
        self._known: dict[int, tuple[tuple[int, ...] | None, int]] = {}
        self._copied: set[int] = set()  # shards that have chunks to decode
        self._warned = False
        self.bytes = sum(shard.bytes for _, shard in self._shards)
        self.fits = self.bytes <= room // CACHED_SHARE  # into the memory that is left, with room for others
        self.exceeds = self.bytes > room
        self._scattered = False  # whether small rows are read here and there

    @property
    def rows(self) -> int:
        """The number of rows of all shards."""
        return int(self.starts[-1])

    @property
    def name(self) -> str:
        """The folders, for messages."""
        return ", ".join(str(place.folder) for place in self.places)

    def use(self, fields: Iterable[Field]) -> None:
        """Look at these fields too in every chunk that is mapped from now on."""
        with self._holding.lock:
            new = {field.name: field for field in fields if field.name not in self._used}
            if new:
                self._used |= new
                self._all_mapped = False
                self._holding.clear()
                self._known.clear()
                self.mapped[:] = np.diff(self.starts) == 0

    def reading(self) -> AbstractContextManager[None]:
        """In this context chunks that are mapped stay so, from first to last."""
        return self._holding.reading()

    def locate(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The chunk of each row, int32 (n,)."""
        chunks = np.empty(len(rows), np.int32)
        if len(rows) and not len(self.mapped):
            raise IndexError(f"row {rows[0]} of {self.name}, which has no rows")
        bad = gather.locate(rows, self.starts, self.guess, self.shift, chunks)
        if bad >= 0:
            raise IndexError(f"row {rows[bad]} of {self.name}, which has rows 0 … {self.rows - 1}")
        return chunks

    def pieces(self, rows: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.int32]]]:
        """Parts of `rows`, and the chunk of each row of them, int32; mapped and checked until the next part is asked
        for. There is one part, except where rows lie in more shards than can be mapped at a time."""
        chunks = self.locate(rows)
        left = [slice(0, len(rows))]
        while left:
            part = left.pop()
            with self.reading():
                if self._map_all(chunks[part]):
                    yield part, chunks[part]
                    continue
            middle = (part.start + part.stop) // 2
            left += [slice(middle, part.stop), slice(part.start, middle)]

    def _map_all(self, chunks: NDArray[np.int32]) -> bool:
        """Map those of `chunks` that are not; False if they are too many shards, or too much to decode, at a time."""
        if self._all_mapped:
            return True
        missing = np.unique(chunks[~self.mapped[chunks]])
        if len(missing) > MOST_NEW and len(np.unique(self._shard_of[missing])) > MOST_NEW:
            return False
        with self._holding.lock:
            copied = 0
            for chunk in missing.tolist():
                if not self.mapped[chunk]:
                    if copied > self._holding.room:
                        return False  # what this reading holds is let go when it ends: a part of it needs less
                    copied += self._map(chunk)
            self._all_mapped = bool(self.mapped.all())
        return True

    def open(self, index: int) -> OpenShard:
        """Shard `index`, mapped.

        Raises `DamagedDatasetError`, also if another data set has taken the place of this one since it was opened.
        """
        place, shard = self._shards[index]
        opened = open_shard(place.folder, shard, place.manifest.schema)
        # A writer removes the old manifest first: while it is there, so were the shards that it lists.
        if file_identity(place.folder / MANIFEST) != place.opened:
            raise DamagedDatasetError(f"{place.folder} was written anew since it was opened: open it again")
        return opened

    def fingerprint(self, names: Sequence[str] | None = None) -> str:
        """The digest of the content of the fields `names` (None: of all), read through once."""
        fields = [field for name, field in self.fields.items() if names is None or name in names]
        digest = Fingerprint(fields)
        for index in range(len(self._shards)):
            opened = self.open(index)
            for number, batch in enumerate(opened):
                digest.update(checked_leaves(batch, fields, f"{opened.where}, chunk {number}", self.nulls))
        return digest.hexdigest()

    def _map(self, chunk: int) -> int:
        """Fill the tables for `chunk`, and for the others of its shard if nothing of it is copied by that; how many
        bytes were."""
        index = int(self._shard_of[chunk])
        first = int(self._first_chunk[index])
        opened = self._holding.get(("copied", index))
        if opened is None:
            if self._map_again(index, first):
                return 0
            identity = self._identity(index)
            opened = self.open(index)
            wanted = self._fill(opened, first, chunk - first)
            others = (number for number in range(len(opened)) if number != chunk - first)
            # Once something of a shard was copied, its other chunks may be held already: they are left as they are.
            alike = index not in self._copied and wanted[0]
            if alike and all(self._fill(opened, first, number)[0] for number in others):
                self._hold_shard(index, first, opened.content)
                self._known[index] = (identity, opened.content.address)
                return 0
            self._copied.add(index)
            self._holding.hold(("copied", index), opened, slice(0))
        else:
            wanted = self._fill(opened, first, chunk - first)
        _, held, size = wanted
        self._holding.hold(("chunk", chunk), held, slice(chunk, chunk + 1), size)
        return size

    def _map_again(self, index: int, first: int) -> bool:
        """Map a shard whose tables were filled before, without looking into it; False if it is another file now."""
        known = self._known.pop(index, None)
        if known is None:
            return False
        place, shard = self._shards[index]
        content = map_file(place.folder / shard.file, shard.bytes)
        if self._identity(index) != known[0]:
            return False
        self._pointers[:, first : first + shard.num_chunks] += np.uint64((content.address - known[1]) % 2**64)
        self._hold_shard(index, first, content)
        self._known[index] = (known[0], content.address)
        return True

    def _identity(self, index: int) -> tuple[int, ...] | None:
        place, shard = self._shards[index]
        return file_identity(place.folder / shard.file)

    def _hold_shard(self, index: int, first: int, content: Any) -> None:
        if self.fits:
            advise(content.address, content.size, storage.HUGE_PAGES)
        elif self._scattered:
            advise(content.address, content.size, storage.SCATTERED)
        chunks = slice(first, first + self._shards[index][1].num_chunks)
        self._holding.hold(("shard", index), content, chunks)

    def _fill(self, opened: OpenShard, first: int, number: int) -> tuple[bool, list[Any], int]:
        """Fill the tables for one chunk; whether all of it is mapped, what was decoded, and how many bytes that is."""
        batch = opened.chunk(number)
        direct, where = opened.is_mapped(batch.columns), f"{opened.where}, chunk {number}"
        if not direct and not self._warned:
            self._warned = True
            warnings.warn(
                f"{opened.where} is compressed: chunks are decompressed into memory as they are read; "
                f"`minibatch convert` makes files that are read where they lie",
                stacklevel=2,
            )
        at, held, size = first + number, [batch], 0 if direct else batch.nbytes
        for name, field in self._used.items():
            columns = readable(batch.column(field.column), field, where, self.nulls)
            if not opened.is_mapped(columns):
                direct, size = False, size + sum(column.nbytes for column in columns)
            held.append(columns)
            found = zip(self.leaves[name], columns, leaf_buffers(columns, field, where), strict=True)
            for table, column, buffers in found:
                spans = [(each.address, each.address + each.size) for each in buffers_of(column)]
                self._begins[table.number, at] = min((begin for begin, _ in spans), default=0)
                self._ends[table.number, at] = max((end for _, end in spans), default=0)
                table.data[at] = buffers.data
                if len(table.first_bits):
                    table.first_bits[at] = buffers.first_bit
                for level, (address, width) in enumerate(buffers.offsets):
                    table.offsets[level][at] = address
                    table.offset_bytes[level][at] = width
        return direct, held, size

    def scatter(self) -> None:
        """Have the system read single pages where rows are touched, and nothing around them."""
        with self._holding.lock:
            self._scattered = True
            for content in self._holding.of("shard"):
                advise(content.address, content.size, storage.SCATTERED)

    def ask_for(self, chunks: Sequence[int], names: Sequence[str]) -> None:
        """Map these chunks and have the system read the fields `names` of them, without waiting for it. Chunks that
        would be decoded are left alone: two windows of them may be too many to hold."""
        mapped = [chunk for chunk in chunks if int(self._shard_of[chunk]) not in self._copied]
        for _ in self.pieces(self.starts[mapped]):
            self._advise(mapped, names, storage.COMING)

    def bring_in(self, chunks: Sequence[int], names: Sequence[str]) -> None:
        """Map these chunks, and all pages of the fields `names` of them; those that are decoded are left alone."""
        mapped = [chunk for chunk in chunks if int(self._shard_of[chunk]) not in self._copied]
        for _ in self.pieces(self.starts[mapped]):
            self._advise(mapped, names, storage.NOW)

    def ask_for_rows(self, rows: NDArray[np.int64], names: Sequence[str]) -> None:
        """Have the system read the fields `names` of these rows, all at once; those of fixed size."""
        fixed = [
            (self.leaves[name][0], self.fields[name].row_bytes) for name in names if self.fields[name].layout == FIXED
        ]
        for part, chunks in self.pieces(rows):
            within = (rows[part] - self.starts[chunks]).astype(np.uint64)
            for table, size in fixed:
                for address in (table.data[chunks] + within * np.uint64(size)).tolist():
                    advise(address, size, storage.COMING)

    def let_go(self, chunks: Sequence[int], names: Sequence[str]) -> None:
        """Take the fields `names` of these chunks out of the resident memory, and have the system forget them before
        anything else when it needs memory. They may still be read."""
        self._advise(chunks, names, storage.COLD)
        self._advise(chunks, names, storage.GONE)

    def _advise(self, chunks: Sequence[int], names: Sequence[str], advice: int | None) -> None:
        leaves = [table.number for name in names for table in self.leaves[name]]
        with self._holding.lock:  # what is mapped stays so meanwhile
            for chunk in chunks:
                if self._holding.get(("shard", int(self._shard_of[chunk]))) is not None:
                    for leaf in leaves:
                        begin, end = int(self._begins[leaf, chunk]), int(self._ends[leaf, chunk])
                        advise(begin, end - begin, advice)
