"""Rows → shards and manifest, so that a folder is a data set or says that it is not one.

Shards are written under a temporary name, synced and renamed; the manifest comes last. A writer killed at any moment
leaves a folder without a manifest, which `Dataset.open` calls unfinished and the next writer clears. What a writer left
is known by its lock file, which comes first and goes last: what lies there without one is somebody else's.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import xxhash

from minibatch.arguments import checked_integer
from minibatch.claim import STAGED, STAGED_SUFFIX, clear, release_folder, replace_dataset, take_folder, told
from minibatch.columns import ARROW_METADATA, BYTES, as_arrow, element_type
from minibatch.errors import DatasetError, SchemaError
from minibatch.manifest import Fingerprint, Manifest, Shard, fields_of, pack_chunks, write_manifest
from minibatch.storage import MANIFEST, sync_file, sync_folder

CHUNK_BYTES = 8 << 20
SHARD_BYTES = 512 << 20


class DatasetWriter:
    """Writes rows to a new data set in the folder `out`; use it as a context manager.

    `chunk_rows` is the number of rows of an Arrow record batch, the unit in which a windowed order moves data
    (default: about 8 MiB), `shard_rows` that of a file (default: about 512 MiB, whole chunks). `metadata` gives
    fields metadata, such as `{"label": {"classes": '["cat", "dog"]'}}`; `source` says what the data were made from. A
    complete data set in `out` is replaced only with `overwrite=True`, and stays until the new one is complete.

    The bytes on disk do not depend on how the rows are cut into calls of `write`. One exception: without `chunk_rows`
    (or `shard_rows`), texts and bytes count at their average length in the first call that has rows.

    Raises `WriterBusyError` while another process writes there, `DatasetError` where the folder holds other things,
    `SchemaError` for fields that do not fit, `OSError` where nothing can be written. Leaving the block by an exception
    leaves the folder unfinished.

    >>> import tempfile
    >>> import numpy as np
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
        if source is not None and not isinstance(source, str):
            raise TypeError(f"source must be a string or None, got {source!r}")
        self._chunk_rows = None if chunk_rows is None else checked_integer(chunk_rows, "chunk_rows", least=1)
        self._shard_rows = None if shard_rows is None else checked_integer(shard_rows, "shard_rows", least=1)
        self._metadata = checked_metadata(metadata or {})
        self._source = source
        self._schema: pa.Schema | None = None
        self._pending: list[list[pa.Array]] = []  # pieces of the chunk being filled: one list of columns per write
        self._pending_rows = 0
        self._shards: list[Shard] = []
        self._sink: Any = None
        self._file: Any = None
        self._chunks: list[int] = []
        self._shard_filled = 0
        self._lock = take_folder(self.folder, overwrite)
        self._replaces = (self.folder / MANIFEST).exists()

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

        The first call sets names, types and shapes. Rows of one call may span chunks and shards. Values are copied:
        the arrays may be changed as soon as the call returns. A call that is refused for its fields adds nothing, and
        the next one may do better; after any other failure, such as a full disk, the writer is closed.
        """
        if self._lock is None:
            raise ValueError(f"the writer of {self.folder} is closed")
        if not isinstance(fields, Mapping) or not all(isinstance(name, str) for name in fields):
            raise TypeError(f"write() expects fields by name, {{name: array, …}}, got {fields!r:.60}")
        if not fields:
            raise SchemaError("write() got no fields: expected {name: array, …}")
        columns = {name: as_arrow(values, name) for name, values in fields.items()}
        self._check(columns)
        rows = len(next(iter(columns.values())))
        if not rows:
            return  # the types are noted, if there are any
        ordered = [columns[name] for name in self._expected().names]
        chunk_rows, shard_rows = self._sizes(ordered, rows)
        start = 0
        with self._or_unfinished():
            while start < rows:
                room = min(chunk_rows, shard_rows - self._shard_filled) - self._pending_rows
                count = min(room, rows - start)
                self._pending.append([own(column.slice(start, count)) for column in ordered])
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
            raise DatasetError(
                f"nothing was written to {self.folder}: no write() had a row, or arrays that tell a type"
            )
        with self._or_unfinished():
            self._flush()
            self._end_shard()
            from minibatch import __version__

            manifest = Manifest(
                schema=self._schema,
                rows=self.rows,
                chunk_rows=self._chunk_rows or 1,
                shards=tuple(self._shards),
                fingerprint=self._fingerprint.hexdigest(),
                created_by=f"minibatch {__version__}",
                source=self._source,
            )
            if self._replaces:
                self._replaces = False  # from here on a failure leaves the folder unfinished
                replace_dataset(self.folder, [shard.file for shard in self._shards])
            write_manifest(self.folder, manifest)
        release_folder(self.folder, self._lock, finished=True)
        self._lock = None

    def abandon(self) -> None:
        """Stop without a manifest: the folder stays unfinished and says so, or keeps the data set it had."""
        if self._lock is None:
            return
        for open_file in (self._file, self._sink):
            if open_file is not None:
                with suppress(OSError, pa.ArrowException):  # the disk may be full: the folder is unfinished either way
                    open_file.close()
        self._file = self._sink = None
        if self._replaces:
            with suppress(OSError):  # else the next writer does it
                clear(self.folder, STAGED)
        release_folder(self.folder, self._lock, finished=self._replaces)
        self._lock = None

    @contextmanager
    def _or_unfinished(self) -> Iterator[None]:
        """Let nothing follow a failure in the block: what has reached the disk by then is not known."""
        try:
            yield
        except BaseException as error:
            self.abandon()
            if isinstance(error, OSError):
                raise told(error, self.folder, f"the data set is left unfinished after row {self.rows}") from error
            if isinstance(error, pa.ArrowException):
                raise DatasetError(
                    f"{self.folder}, after row {self.rows}: {error}; if a chunk has over 2 GiB of text or bytes, set a "
                    f"smaller chunk_rows"
                ) from error
            raise

    def _expected(self) -> pa.Schema:
        if self._schema is None:
            raise AssertionError("the schema is set by the first write")
        return self._schema

    def _check(self, columns: dict[str, pa.Array]) -> None:
        """All columns must have one length and be those of the first write."""
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise SchemaError(f"the fields of one write must have equally many rows, got {lengths}")
        untyped = {name for name, column in columns.items() if pa.types.is_null(column.type)}  # empty lists
        if self._schema is None:
            unknown = set(self._metadata) - set(columns)
            if unknown:
                raise SchemaError(f"metadata for {sorted(unknown)}, but the fields are {sorted(columns)}")
            if untyped:
                return
            try:
                schema = pa.schema(
                    [pa.field(name, column.type, False, self._metadata.get(name)) for name, column in columns.items()]
                )
            except UnicodeEncodeError as error:
                raise SchemaError(f"names and metadata of fields are stored as UTF-8: {error}") from None
            self._fingerprint = Fingerprint(fields_of(schema))
            self._schema = schema
            return
        if set(columns) != set(self._schema.names):
            raise SchemaError(
                f"expected the fields {self._schema.names} of the first write, got {list(columns)} (row {self.rows})"
            )
        for name, column in columns.items():
            first = self._schema.field(name).type
            if column.type != first and name not in untyped:
                raise SchemaError(
                    f"field {name!r} was {first} in the first write and is {column.type} now (row {self.rows})"
                )

    def _sizes(self, columns: list[pa.Array], rows: int) -> tuple[int, int]:
        """Rows of a chunk and of a shard; those not given are set by the bytes of a row, of the first rows written."""
        if self._chunk_rows is None or self._shard_rows is None:
            bits = 0
            for field, column in zip(self._fingerprint.fields, columns, strict=True):
                varying = field.layout == BYTES
                bits += 8 * column.nbytes // rows if varying else field.row_size * element_type(column.type).bit_width
            row_bytes = max(1, bits // 8)
            if self._chunk_rows is None:
                self._chunk_rows = max(1, CHUNK_BYTES // row_bytes)
                if self._shard_rows is not None:
                    self._chunk_rows = min(self._chunk_rows, self._shard_rows)
            if self._shard_rows is None:
                self._shard_rows = max(1, SHARD_BYTES // row_bytes // self._chunk_rows) * self._chunk_rows
        return self._chunk_rows, self._shard_rows

    def _flush(self) -> None:
        if self._pending:
            columns = zip(*self._pending, strict=True)
            self._write_chunk([pa.concat_arrays(pieces) if len(pieces) > 1 else pieces[0] for pieces in columns])
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
        self._shard_filled += len(columns[0])
        if self._shard_filled == self._shard_rows:
            self._end_shard()

    def _end_shard(self) -> None:
        if self._file is None:
            return
        self._file.close()
        self._sink.close()
        self._file = self._sink = None
        sync_file(self._partial)
        final = self._partial.with_suffix("")
        place = final.with_name(final.name + STAGED_SUFFIX) if self._replaces else final
        with pa.memory_map(str(self._partial)) as mapped:
            content = mapped.read_buffer()
            digest, size = xxhash.xxh3_128_hexdigest(content), content.size
        del content
        os.replace(self._partial, place)
        sync_folder(self.folder)
        self._shards.append(
            Shard(file=final.name, rows=self._shard_filled, bytes=size, digest=digest, runs=pack_chunks(self._chunks))
        )
        self._chunks, self._shard_filled = [], 0


def own(column: pa.Array) -> pa.Array:
    """A copy of `column` that shares no memory with the caller's arrays, and has nothing of the rows around a slice.

    Arrow writes buffers in multiples of 8 bytes: from a slice, the rows behind it would get into the file's padding.
    """
    return pa.concat_arrays([column, column.slice(0, 0)])


def checked_metadata(metadata: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """A copy of the fields' metadata; raises unless it has strings by name by field."""
    checked = {}
    for name, values in metadata.items():
        entries = dict(values) if isinstance(values, Mapping) else None
        if entries is None or not all(isinstance(part, str) for entry in entries.items() for part in entry):
            raise TypeError(f"metadata of field {name!r} must be strings by name, got {values!r:.60}")
        reserved = [key for key in entries if key.startswith(ARROW_METADATA)]
        if reserved:
            raise SchemaError(f"metadata of field {name!r}: names such as {reserved[0]!r} belong to Arrow itself")
        checked[name] = entries
    return checked
