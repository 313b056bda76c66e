"""The chunks of data sets as the tables that kernels read: which rows each has, and at which addresses they lie.

A shard is mapped, and everything about it checked, when a row of it is first asked for. Chunks that must be decoded
(compressed files, dictionaries, views, nulls that read as values) are decoded one by one, when a row is asked for.
"""

import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.buffers import Nulls, checked_leaves, leaf_buffers, readable
from minibatch.columns import Field
from minibatch.errors import DamagedDatasetError
from minibatch.kernels import gather
from minibatch.manifest import Fingerprint, Manifest
from minibatch.shards import OpenShard, open_shard
from minibatch.storage import MANIFEST, file_identity


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
        # One table for the addresses of all leaves, so that one kernel can gather them all.
        leaves = [(name, leaf) for name, field in fields.items() for leaf in field.leaves]
        self.addresses = np.zeros((len(leaves), len(rows)), np.uint64)
        self.leaves: dict[str, tuple[LeafTable, ...]] = dict.fromkeys(fields, ())
        for number, (name, leaf) in enumerate(leaves):
            table = LeafTable(
                number=number,
                data=self.addresses[number],
                first_bits=np.zeros(len(rows) if leaf.bits else 0, np.int64),
                offsets=tuple(np.zeros(len(rows), np.uint64) for _ in range(leaf.levels)),
                offset_bytes=tuple(np.zeros(len(rows), np.int64) for _ in range(leaf.levels)),
            )
            self.leaves[name] = (*self.leaves[name], table)
        self.mapped = rows == 0  # nobody asks for a chunk without rows
        self._used: dict[str, Field] = {}  # the fields that somebody reads: the others may be as they are
        self._all_mapped = False
        self._held: list[Any] = []  # mapped memory lives as long as these
        self._decoding: dict[int, OpenShard] = {}  # shards whose chunks are copied one by one
        self._lock = threading.Lock()

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
        with self._lock:
            new = {field.name: field for field in fields if field.name not in self._used}
            if new:
                self._used |= new
                self.mapped[:] = np.diff(self.starts) == 0
                self._all_mapped = False

    def locate(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The chunk of each row, int32 (n,), all of them mapped and checked when this returns."""
        chunks = np.empty(len(rows), np.int32)
        if len(rows) and not len(self.mapped):
            raise IndexError(f"row {rows[0]} of {self.name}, which has no rows")
        bad = gather.locate(rows, self.starts, self.guess, self.shift, chunks)
        if bad >= 0:
            raise IndexError(f"row {rows[bad]} of {self.name}, which has rows 0 … {self.rows - 1}")
        if not self._all_mapped:
            missing = np.unique(chunks[~self.mapped[chunks]])
            with self._lock:
                for chunk in missing.tolist():
                    if not self.mapped[chunk]:
                        self._map(chunk)
                self._all_mapped = bool(self.mapped.all())
        return chunks

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

    def _map(self, chunk: int) -> None:
        """Fill the tables for `chunk`, and for the others of its shard if none of them is copied by that."""
        index = int(self._shard_of[chunk])
        first = int(self._first_chunk[index])
        opened = self._decoding.get(index)
        if opened is not None:
            self._fill(opened, first, chunk - first)
            return
        opened = self.open(index)
        if not self._fill(opened, first, chunk - first):
            self._decoding[index] = opened
            return
        for number in range(len(opened)):
            if number != chunk - first:
                self._fill(opened, first, number)

    def _fill(self, opened: OpenShard, first: int, number: int) -> bool:
        """Fill the tables for one chunk; False if something of it had to be copied into memory."""
        batch = opened.chunk(number)
        direct, where = opened.is_mapped(batch.columns), f"{opened.where}, chunk {number}"
        if not direct and not self._decoding:
            warnings.warn(
                f"{opened.where} is compressed: chunks are decompressed into memory as they are read; "
                f"`minibatch convert` makes files that are read where they lie",
                stacklevel=2,
            )
        self._held.append(batch)
        for name, field in self._used.items():
            columns = readable(batch.column(field.column), field, where, self.nulls)
            self._held.append(columns)
            direct = direct and opened.is_mapped(columns)
            for table, buffers in zip(self.leaves[name], leaf_buffers(columns, field, where), strict=True):
                at = first + number
                table.data[at] = buffers.data
                if len(table.first_bits):
                    table.first_bits[at] = buffers.first_bit
                for level, (address, width) in enumerate(buffers.offsets):
                    table.offsets[level][at] = address
                    table.offset_bytes[level][at] = width
        self.mapped[first + number] = True
        return direct
