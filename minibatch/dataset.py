"""A folder of shards as one long sequence of rows.

Opening reads the manifest and looks at the files' sizes; a shard is mapped, and everything about it checked, when
a row of it is first asked for. No row is read before it is needed.
"""

import difflib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from minibatch.columns import Field, column_buffers
from minibatch.errors import DamagedDatasetError, SchemaError
from minibatch.kernels import gather
from minibatch.manifest import Manifest, Shard, fields_of, read_manifest
from minibatch.storage import MANIFEST, check_size, file_identity, map_file


class Dataset:
    """A data set on disk: `len()`, `fields`, `fingerprint`, and rows by number with `read`.

    >>> import tempfile
    >>> from minibatch import DatasetWriter
    >>> folder = tempfile.mkdtemp()
    >>> with DatasetWriter(folder) as writer:
    ...     writer.write({"x": np.arange(10) ** 2})
    >>> Dataset.open(folder).read([3, 1])["x"].tolist()
    [9, 1]
    """

    def __init__(self, folder: Path, manifest: Manifest, opened: tuple[int, ...] | None) -> None:
        self.folder = folder
        self._opened = opened  # the identity of the manifest file
        self.manifest = manifest
        self.schema = manifest.schema
        self.fingerprint = manifest.fingerprint
        self.fields: dict[str, Field] = {field.name: field for field in fields_of(manifest.schema)}
        self.chunks = Chunks(self)

    @classmethod
    def open(cls, path: "str | os.PathLike[str] | Dataset") -> "Dataset":
        """The data set in folder `path` (or `path` itself if it is one already).

        Raises `FileNotFoundError`, `UnfinishedDatasetError` (no manifest), `DamagedDatasetError` (files missing or of
        another size, a changed manifest) or `SchemaError` (a type that cannot be read), each saying what to do.
        """
        if isinstance(path, Dataset):
            return path
        folder = Path(path)
        opened = file_identity(folder / MANIFEST)
        manifest = read_manifest(folder)
        for shard in manifest.shards:
            check_size(folder / shard.file, shard.bytes)
        return cls(folder, manifest, opened)

    def map_shard(self, index: int) -> list[pa.RecordBatch]:
        """The chunks of shard `index`, mapped and checked.

        Raises `DamagedDatasetError`, also if another data set has taken the place of this one since it was opened.
        """
        batches = open_shard(self.folder, self.manifest.shards[index], self.schema)
        # A writer removes the old manifest first: while it is there, so were the shards that it lists.
        if file_identity(self.folder / MANIFEST) != self._opened:
            raise DamagedDatasetError(f"{self.folder} was written anew since it was opened: open it again")
        return batches

    def __len__(self) -> int:
        return self.manifest.rows

    def __repr__(self) -> str:
        return f"Dataset({str(self.folder)!r}, rows={len(self)}, fields={list(self.fields)})"

    def select(self, names: Sequence[str] | None) -> list[Field]:
        """The fields called `names`, in that order; all of them for None."""
        if names is None:
            return list(self.fields.values())
        if isinstance(names, str):
            raise TypeError(f"fields must be a sequence of names, got the string {names!r}: write [{names!r}]")
        for name in names:
            if name not in self.fields:
                close = difflib.get_close_matches(str(name), self.fields, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise SchemaError(f"no field {name!r} in {self.folder}: it has {list(self.fields)}{hint}")
        return [self.fields[name] for name in names]

    def read(self, rows: Any, fields: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """The given rows, in the given order: a dict of arrays (len(rows), *shape); object arrays for text and bytes.

        Raises `IndexError` for a row outside 0 … len − 1.
        """
        from minibatch.fetch import fetch_rows

        wanted = np.asarray(rows)
        if wanted.size == 0:
            wanted = wanted.astype(np.int64)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise TypeError(f"rows must be a sequence of integers, got {wanted.dtype} of shape {wanted.shape}")
        block = fetch_rows(self, self.select(fields), np.ascontiguousarray(wanted, np.int64))
        return {name: column.view(0, len(wanted)) for name, column in block.items()}


class Chunks:
    """The chunks of all shards as the tables that kernels read, filled shard by shard when rows are first needed."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        shards = dataset.manifest.shards
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
        empty = {"data": np.uint64, "first_bit": np.int64, "offsets": np.uint64, "offset_bytes": np.int64}
        self.tables: dict[str, dict[str, NDArray[Any]]] = {
            name: {part: np.zeros(len(rows), dtype) for part, dtype in empty.items()} for name in dataset.fields
        }
        # One table for the addresses of all fields, so that one kernel can gather them all.
        self.addresses = np.zeros((len(dataset.fields), len(rows)), np.uint64)
        for table, addresses in zip(self.tables.values(), self.addresses, strict=True):
            table["data"] = addresses
        self.mapped = np.zeros(len(rows), np.bool_)
        self._all_mapped = False
        self._held: list[pa.RecordBatch] = []  # mapped memory lives as long as these
        self._lock = threading.Lock()

    def locate(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The chunk of each row, int32 (n,), all of them mapped and checked when this returns."""
        chunks = np.empty(len(rows), np.int32)
        if len(rows) and not len(self.mapped):
            raise IndexError(f"row {rows[0]} of {self._dataset.folder}, which has no rows")
        bad = gather.locate(rows, self.starts, self.guess, self.shift, chunks)
        if bad >= 0:
            raise IndexError(f"row {rows[bad]} of {self._dataset.folder}, which has rows 0 … {len(self._dataset) - 1}")
        if not self._all_mapped:
            missing = np.unique(self._shard_of[chunks[~self.mapped[chunks]]])
            with self._lock:
                for shard in missing:
                    self._map(int(shard))
                self._all_mapped = bool(self.mapped.all())
        return chunks

    def _map(self, index: int) -> None:
        first = int(self._first_chunk[index])
        if self.mapped[first]:
            return
        shard = self._dataset.manifest.shards[index]
        batches = self._dataset.map_shard(index)
        for number, batch in enumerate(batches):
            for field, column in zip(self._dataset.fields.values(), batch.columns, strict=True):
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
