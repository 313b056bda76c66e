"""Rows → shards and manifest, so that a folder is a data set or says that it is not one.

Shards are written under a temporary name, synced and renamed; the manifest comes last. A writer killed at any moment
leaves a folder without a manifest, which `Dataset.open` calls unfinished and the next writer clears.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import xxhash

from minibatch.columns import as_arrow
from minibatch.errors import DatasetError, SchemaError, WriterBusyError
from minibatch.manifest import Fingerprint, Manifest, Shard, fields_of, write_manifest
from minibatch.storage import LOCK, MANIFEST, sync_file, sync_folder
from minibatch.timeline import checked_integer

try:
    import fcntl
except ImportError:  # Windows has no flock; there the lock file alone says that somebody writes
    fcntl = None  # type: ignore[assignment]

CHUNK_BYTES = 8 << 20
SHARD_BYTES = 512 << 20
OURS = re.compile(r"shard-\d{5,}\.arrow(\.partial)?|manifest\.json\.partial|\.writing")


class DatasetWriter:
    """Writes rows to a new data set in the folder `out`; use it as a context manager.

    `chunk_rows` is the number of rows of an Arrow record batch, the unit in which a windowed order moves data
    (default: about 8 MiB), `shard_rows` that of a file (default: about 512 MiB, whole chunks). `metadata` gives
    fields metadata, such as `{"label": {"classes": '["cat", "dog"]'}}`; `source` says what the data were made from. A
    complete data set in `out` is replaced only with `overwrite=True`.

    Raises `WriterBusyError` while another process writes there, `DatasetError` where the folder holds other things,
    `SchemaError` for fields that do not fit. Leaving the block by an exception leaves the folder unfinished.

    >>> import tempfile
    >>> from minibatch import Dataset
    >>> folder = tempfile.mkdtemp()
    >>> with DatasetWriter(folder, chunk_rows=4) as writer:
    ...     writer.write({"x": np.arange(10), "name": ["a"] * 10})
    >>> len(Dataset.open(folder))
    10
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        chunk_rows: int | None = None,
        shard_rows: int | None = None,
        *,
        metadata: Mapping[str, Mapping[str, str]] | None = None,
        source: str | None = None,
        overwrite: bool = False,
    ) -> None:
        self.folder = Path(out)
        self.rows = 0
        self._chunk_rows = None if chunk_rows is None else checked_integer(chunk_rows, "chunk_rows", least=1)
        self._shard_rows = None if shard_rows is None else checked_integer(shard_rows, "shard_rows", least=1)
        self._metadata = {name: dict(values) for name, values in (metadata or {}).items()}
        self._source = source
        self._schema: pa.Schema | None = None
        self._pending: list[list[pa.Array]] = []  # pieces of the chunk being filled: one list of columns per write
        self._pending_rows = 0
        self._shards: list[Shard] = []
        self._sink: Any = None
        self._file: Any = None
        self._chunks: list[int] = []
        self._lock = take_folder(self.folder, overwrite)

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def write(self, fields: Mapping[str, Any]) -> None:
        """Append rows: each field an array (n, …), a list of n arrays of one shape, or n texts or bytes.

        The first call sets names, types and shapes. Rows of one call may span chunks and shards. Values are copied
        unless they fill whole chunks, so the arrays may be changed as soon as the call returns.
        """
        if self._lock is None:
            raise ValueError(f"the writer of {self.folder} is closed")
        if not fields:
            raise SchemaError("write() got no fields: expected {name: array, …}")
        columns = {str(name): as_arrow(values, str(name)) for name, values in fields.items()}
        self._check(columns)
        rows = len(next(iter(columns.values())))
        chunk_rows, shard_rows = self._sizes(list(columns.values()), rows)
        ordered = [columns[name] for name in self._expected().names]
        start = 0
        while start < rows:
            room = min(chunk_rows - self._pending_rows, shard_rows - sum(self._chunks) - self._pending_rows)
            count = min(room, rows - start)
            piece = [column.slice(start, count) for column in ordered]
            if count == room and not self._pending:
                self._write_chunk(piece)
            else:
                self._pending.append([own(column) for column in piece] if count < room else piece)
                self._pending_rows += count
                if count == room:
                    self._flush()
            start += count
        self.rows += rows

    def close(self) -> None:
        """Write what is left and the manifest; the folder is a complete data set from then on."""
        if self._lock is None:
            return
        if self._schema is None:
            self.abandon()
            raise DatasetError(f"nothing was written to {self.folder}: write() was never called")
        try:
            self._flush()
            self._end_shard()
            fingerprint = self._fingerprint.hexdigest()
            from minibatch import __version__

            manifest = Manifest(
                schema=self._schema,
                rows=self.rows,
                chunk_rows=self._chunk_rows or 1,
                shards=tuple(self._shards),
                fingerprint=fingerprint,
                created_by=f"minibatch {__version__}",
                source=self._source,
            )
            write_manifest(self.folder, manifest)
        except BaseException:
            self.abandon()
            raise
        release_folder(self.folder, self._lock, finished=True)
        self._lock = None

    def abandon(self) -> None:
        """Stop without a manifest: the folder stays unfinished and says so."""
        if self._lock is None:
            return
        try:
            if self._file is not None:
                self._file.close()
                self._sink.close()
        except (OSError, pa.ArrowException):
            pass  # the disk may be full: the folder is unfinished either way
        self._file = None
        release_folder(self.folder, self._lock, finished=False)
        self._lock = None

    def _expected(self) -> pa.Schema:
        if self._schema is None:
            raise AssertionError("the schema is set by the first write")
        return self._schema

    def _check(self, columns: dict[str, pa.Array]) -> None:
        """All columns must have one length and be those of the first write."""
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise SchemaError(f"the fields of one write must have equally many rows, got {lengths}")
        if self._schema is None:
            unknown = set(self._metadata) - set(columns)
            if unknown:
                raise SchemaError(f"metadata for {sorted(unknown)}, but the fields are {sorted(columns)}")
            self._schema = pa.schema(
                [pa.field(name, column.type, False, self._metadata.get(name)) for name, column in columns.items()]
            )
            self._fingerprint = Fingerprint(fields_of(self._schema))
            return
        if set(columns) != set(self._schema.names):
            raise SchemaError(f"expected the fields {self._schema.names} of the first write, got {list(columns)}")
        for name, column in columns.items():
            first = self._schema.field(name).type
            if column.type != first:
                raise SchemaError(
                    f"field {name!r} was {first} in the first write and is {column.type} now (row {self.rows})"
                )

    def _sizes(self, columns: list[pa.Array], rows: int) -> tuple[int, int]:
        """Rows of a chunk and of a shard; those not given are set from the bytes of the first rows written."""
        if self._chunk_rows is None:
            if not rows:
                return 1, 1
            row_bytes = max(1, sum(column.nbytes for column in columns) // rows)
            self._chunk_rows = max(1, CHUNK_BYTES // row_bytes)
            if self._shard_rows is not None:
                self._chunk_rows = min(self._chunk_rows, self._shard_rows)
        if self._shard_rows is None:
            if not rows:
                return self._chunk_rows, self._chunk_rows
            row_bytes = max(1, sum(column.nbytes for column in columns) // rows)
            self._shard_rows = max(1, SHARD_BYTES // row_bytes // self._chunk_rows) * self._chunk_rows
        return self._chunk_rows, self._shard_rows

    def _flush(self) -> None:
        if self._pending:
            self._write_chunk([pa.concat_arrays(list(pieces)) for pieces in zip(*self._pending, strict=True)])
            self._pending, self._pending_rows = [], 0

    def _write_chunk(self, columns: list[pa.Array]) -> None:
        schema = self._expected()
        if self._file is None:
            self._partial = self.folder / f"shard-{len(self._shards):05d}.arrow.partial"
            self._sink = pa.OSFile(str(self._partial), "wb")
            self._file = pa.ipc.new_file(self._sink, schema)
        self._fingerprint.update(columns)
        self._file.write_batch(pa.record_batch(columns, schema=schema))
        self._chunks.append(len(columns[0]))
        if sum(self._chunks) == self._shard_rows:
            self._end_shard()

    def _end_shard(self) -> None:
        if self._file is None:
            return
        self._file.close()
        self._sink.close()
        self._file = None
        sync_file(self._partial)
        final = self._partial.with_suffix("")
        with pa.memory_map(str(self._partial)) as mapped:
            content = mapped.read_buffer()
            digest, size = xxhash.xxh3_128_hexdigest(content), content.size
        del content
        os.replace(self._partial, final)
        sync_folder(self.folder)
        self._shards.append(
            Shard(file=final.name, rows=sum(self._chunks), bytes=size, digest=digest, chunks=tuple(self._chunks))
        )
        self._chunks = []


def own(column: pa.Array) -> pa.Array:
    """A copy of `column` that shares no memory with the caller's arrays."""
    return pa.concat_arrays([column, column.slice(0, 0)])


def take_folder(folder: Path, overwrite: bool) -> Any:
    """Make `folder` ours and empty, and return the lock that keeps others out."""
    if folder.exists() and not folder.is_dir():
        raise DatasetError(f"{folder} is a file; expected a folder to write a data set into")
    folder.mkdir(parents=True, exist_ok=True)
    others = sorted(p.name for p in folder.iterdir() if p.name != MANIFEST and not OURS.fullmatch(p.name))
    if others:
        raise DatasetError(f"{folder} holds other things ({', '.join(others[:3])} …): choose an empty or a new folder")
    lock = open(folder / LOCK, "w")  # noqa: SIM115  (held until the writer closes)
    if fcntl is not None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise WriterBusyError(
                f"another process is writing to {folder}: wait for it, or choose another folder"
            ) from None
    if (folder / MANIFEST).exists():
        if not overwrite:
            release_folder(folder, lock, finished=True)
            raise DatasetError(
                f"{folder} already holds a complete data set: choose another folder, or pass overwrite=True"
            )
        (folder / MANIFEST).unlink()  # first: from here on the folder is unfinished
        sync_folder(folder)
    for leftover in folder.iterdir():
        if leftover.name != LOCK:
            leftover.unlink()
    return lock


def release_folder(folder: Path, lock: Any, *, finished: bool) -> None:
    """Give up the lock; a finished folder keeps no trace of it."""
    if finished:
        (folder / LOCK).unlink(missing_ok=True)
    lock.close()
