"""The chunks of a data set as the tables that kernels read: which rows each has, and at which addresses they lie.

A shard is mapped, and everything about it checked, when a row of it is first asked for.
"""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from minibatch.columns import Field, column_buffers
from minibatch.errors import DamagedDatasetError
from minibatch.kernels import gather
from minibatch.manifest import Manifest, Shard
from minibatch.storage import MANIFEST, file_identity, map_file


class Chunks:
    """The chunks of all shards as the tables that kernels read, filled shard by shard when rows are first needed."""

    def __init__(
        self, folder: Path, manifest: Manifest, fields: dict[str, Field], opened: tuple[int, ...] | None
    ) -> None:
        self.folder = folder
        self.fields = fields
        self._manifest = manifest
        self._opened = opened  # the identity of the manifest file
        shards = manifest.shards
        runs = np.array([run for shard in shards for run in shard.runs], np.int64).reshape(-1, 2)
        rows = np.repeat(runs[:, 0], runs[:, 1])
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows)])
        self._shard_of = np.repeat(np.arange(len(shards)), [shard.num_chunks for shard in shards])
        self._first_chunk = np.searchsorted(self._shard_of, np.arange(len(shards)))
        # At most two buckets a chunk on average: nearly every bucket then lies in one or two chunks.
        self.shift = max(0, int(self.starts[-1] // (2 * max(1, len(rows)))).bit_length() - 1)
        buckets = (int(self.starts[-1]) >> self.shift) + 2
        edges = np.arange(buckets, dtype=np.int64) << self.shift
        guess = np.searchsorted(self.starts, edges, side="right") - 1
        self.guess = np.minimum(guess, len(rows) - 1).astype(np.int32)
        # One table for the addresses of all fields, so that one kernel can gather them all.
        self.addresses = np.zeros((len(fields), len(rows)), np.uint64)
        others = {"first_bit": np.int64, "offsets": np.uint64, "offset_bytes": np.int64}
        self.tables: dict[str, dict[str, NDArray[Any]]] = {
            name: {"data": addresses, **{part: np.zeros(len(rows), dtype) for part, dtype in others.items()}}
            for name, addresses in zip(fields, self.addresses, strict=True)
        }
        self.mapped = np.zeros(len(rows), np.bool_)
        self._all_mapped = False
        self._held: list[pa.RecordBatch] = []  # mapped memory lives as long as these
        self._lock = threading.Lock()

    def locate(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The chunk of each row, int32 (n,), all of them mapped and checked when this returns."""
        chunks = np.empty(len(rows), np.int32)
        if len(rows) and not len(self.mapped):
            raise IndexError(f"row {rows[0]} of {self.folder}, which has no rows")
        bad = gather.locate(rows, self.starts, self.guess, self.shift, chunks)
        if bad >= 0:
            raise IndexError(f"row {rows[bad]} of {self.folder}, which has rows 0 … {self._manifest.rows - 1}")
        if not self._all_mapped:
            missing = np.unique(self._shard_of[chunks[~self.mapped[chunks]]])
            with self._lock:
                for shard in missing:
                    self._map(int(shard))
                self._all_mapped = bool(self.mapped.all())
        return chunks

    def map_shard(self, index: int) -> list[pa.RecordBatch]:
        """The chunks of shard `index`, mapped and checked.

        Raises `DamagedDatasetError`, also if another data set has taken the place of this one since it was opened.
        """
        batches = open_shard(self.folder, self._manifest.shards[index], self._manifest.schema)
        # A writer removes the old manifest first: while it is there, so were the shards that it lists.
        if file_identity(self.folder / MANIFEST) != self._opened:
            raise DamagedDatasetError(f"{self.folder} was written anew since it was opened: open it again")
        return batches

    def _map(self, index: int) -> None:
        first = int(self._first_chunk[index])
        if self.mapped[first]:
            return
        shard = self._manifest.shards[index]
        batches = self.map_shard(index)
        for number, batch in enumerate(batches):
            for field, column in zip(self.fields.values(), batch.columns, strict=True):
                buffers = column_buffers(column, field, f"{shard.file}, chunk {number}")
                for part, table in self.tables[field.name].items():
                    table[first + number] = getattr(buffers, part)
        self._held.extend(batches)
        self.mapped[first : first + len(batches)] = True

    def buffers(self, field: Field) -> dict[str, NDArray[Any]]:
        """The tables of one field: address of the data, first bit, address and width of offsets, each (chunks,)."""
        return self.tables[field.name]


def open_shard(folder: Path, shard: Shard, schema: pa.Schema) -> list[pa.RecordBatch]:
    """The chunks of one shard, mapped; what its file says must agree with the manifest.

    Raises `DamagedDatasetError` naming the file: another size, not an Arrow file, another schema, other chunks.
    """
    where = f"{shard.file} in {folder}"
    try:
        content = map_file(folder / shard.file, shard.bytes)
        reader = pa.ipc.open_file(content)
        if not reader.schema.equals(schema, check_metadata=True):
            raise DamagedDatasetError(
                f"{where} has the schema {reader.schema.names}: {reader.schema.types}, "
                f"the manifest says {schema.names}: {schema.types}"
            )
        if reader.num_record_batches != shard.num_chunks:
            raise DamagedDatasetError(
                f"{where} has {reader.num_record_batches} chunks, the manifest says {shard.num_chunks}"
            )
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        for i, (batch, rows) in enumerate(zip(batches, shard.chunks, strict=True)):
            batch.validate()
            if batch.num_rows != rows:
                raise DamagedDatasetError(f"{where}: chunk {i} has {batch.num_rows} rows, the manifest says {rows}")
            inside(batch, content, f"{where}: chunk {i}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DamagedDatasetError(
            f"{where} is not a readable Arrow file: {error}; run `minibatch check {folder}`"
        ) from error
    return batches


def inside(batch: pa.RecordBatch, content: pa.Buffer, where: str) -> None:
    """Raise unless every buffer that points into the mapped file also ends in it."""
    end = content.address + content.size
    for column in batch.columns:
        for buffer in column.buffers():
            if buffer is not None and content.address <= buffer.address < end < buffer.address + buffer.size:
                raise DamagedDatasetError(
                    f"{where}: a buffer reaches {buffer.address + buffer.size - end} bytes past the end"
                )
