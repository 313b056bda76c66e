"""Rows → shards and manifest, so that a folder is a data set or says that it is not one.

Shards are written under a temporary name, synced and renamed; the manifest comes last. A writer killed at any moment
leaves a folder without a manifest, which `Dataset.open` calls unfinished and the next writer clears. What a writer left
is known by its lock file, which comes first and goes last: what lies there without one is somebody else's.

With `resume` the writer also keeps a journal, and the next one goes on behind the last shard that was finished.
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from minibatch.arguments import checked_integer
from minibatch.claim import clear_unfinished, release_folder, replace_dataset, take_folder, told
from minibatch.columns import BITS, FIXED, element_type
from minibatch.errors import DatasetError, SchemaError
from minibatch.incoming import Incoming, checked_metadata, field_columns, own
from minibatch.journal import Journal, Resumption, resume_folder, schema_line, shard_line
from minibatch.manifest import Fingerprint, Manifest, Shard, canonical, fields_of, write_manifest
from minibatch.shard_file import ShardFile
from minibatch.storage import MANIFEST

CHUNK_BYTES = 8 << 20
SHARD_BYTES = 512 << 20


class DatasetWriter:
    """Writes rows to a new data set in the folder `out`; use it as a context manager.

    `chunk_rows` is the number of rows of an Arrow record batch, the unit in which a windowed order moves data
    (default: about 8 MiB), `shard_rows` that of a file (default: about 512 MiB, whole chunks). `metadata` gives
    fields metadata, such as `{"label": {"classes": '["cat", "dog"]'}}`; `source` says what the data were made from. A
    complete data set in `out` is replaced only with `overwrite=True`, and stays until the new one is complete.

    `resume` describes what the rows are made from (anything JSON can hold, by name): if an earlier writer was given the
    same, with the same sizes, metadata and versions, and did not come to its end, its finished shards are verified and
    kept. `rows` then starts at their number, and `write` expects the rows behind them. `resumption` says what was
    found, and why nothing was kept where something else was there.

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
        resume: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(out)
        self.resumption: Resumption | None = None
        if source is not None and not isinstance(source, str):
            raise TypeError(f"source must be a string or None, got {source!r}")
        self._chunk_rows = None if chunk_rows is None else checked_integer(chunk_rows, "chunk_rows", least=1)
        self._shard_rows = None if shard_rows is None else checked_integer(shard_rows, "shard_rows", least=1)
        self._metadata = checked_metadata(metadata or {})
        self._source = source
        described = None if resume is None else self._described(resume)
        self._incoming = Incoming(self._metadata)
        self._fingerprint: Fingerprint | None = None  # from the first row on
        self._stored = 0  # rows taken, without those that wait in _incoming
        self._pending: list[list[pa.Array]] = []  # pieces of the chunk being filled: one list of columns per write
        self._pending_rows = 0
        self._shards: list[Shard] = []
        self._file: ShardFile | None = None
        self._journal: Journal | None = None
        self._marks: deque[tuple[int, Any]] = deque()
        self._lock = take_folder(self.folder, overwrite, keep=resume is not None)
        self._replaces = (self.folder / MANIFEST).exists()
        if described is not None:
            with self._or_unfinished():
                self._resume(described)

    @property
    def rows(self) -> int:
        """How many rows have been written, those of a writer that is continued too."""
        return self._stored + self._incoming.waiting_rows

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
        """Append rows: each field an array (n, …), a list of n arrays, texts or bytes, a Ragged, Sparse or Arrow array.

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
        parts = self._incoming.take(fields, self.rows)
        with self._or_unfinished():
            for columns in parts:
                self._append(columns)

    def mark(self, document: Any) -> None:
        """Note where the source of the rows stands now: what `resumption.mark` is for a writer that goes on from here.

        Only of use with `resume`: of many marks, each shard that is finished keeps the last one told before its end.
        """
        if self._journal is not None and self._lock is not None:
            self._marks.append((self.rows, document))

    def close(self) -> None:
        """Write what is left and the manifest; the folder is a complete data set from then on."""
        if self._lock is None:
            return
        schema = self._incoming.schema
        if schema is None:
            waiting = self._incoming.waiting_rows
            self.abandon()
            if waiting:
                self._incoming.refuse_waiting()
            raise DatasetError(
                f"nothing was written to {self.folder}: no write() had a row, or arrays that tell a type"
            )
        with self._or_unfinished():
            self._flush()
            self._end_shard()
            from minibatch import __version__

            manifest = Manifest(
                schema=schema,
                rows=self._stored,
                chunk_rows=self._chunk_rows or 1,
                shards=tuple(self._shards),
                fingerprint=(self._fingerprint or Fingerprint(fields_of(schema))).hexdigest(),
                created_by=f"minibatch {__version__}",
                source=self._source,
            )
            if self._replaces:
                self._replaces = False  # from here on a failure leaves the folder unfinished
                replace_dataset(self.folder, [shard.file for shard in self._shards])
            write_manifest(self.folder, manifest)
        if self._journal is not None:
            self._journal.close(finished=True)
        release_folder(self.folder, self._lock, finished=True)
        self._lock = None

    def abandon(self) -> None:
        """Stop without a manifest: the folder stays unfinished and says so, or keeps the data set it had.

        With `resume` it also keeps the shards that are finished.
        """
        if self._lock is None:
            return
        if self._file is not None:
            self._file.abandon()
            self._file = None
        kept = self._journal is not None and bool(self._shards)
        if self._journal is not None:
            self._journal.close(finished=False)
        if self._replaces and not kept:
            with suppress(OSError):  # else the next writer does it
                clear_unfinished(self.folder)
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

    def _described(self, resume: Mapping[str, Any]) -> dict[str, Any]:
        """What a later writer must have in common with this one to go on from its shards."""
        from minibatch import __version__

        described = {
            "what": dict(resume),
            "chunk_rows": self._chunk_rows,
            "shard_rows": self._shard_rows,
            "metadata": self._metadata,
            "source": self._source,
            "minibatch": __version__,
            "pyarrow": pa.__version__,
        }
        try:
            canonical(described)
        except (TypeError, ValueError) as error:
            raise TypeError(f"resume must be made of what JSON can hold ({error}), got {resume!r:.60}") from None
        return described

    def _resume(self, described: dict[str, Any]) -> None:
        """Go on behind the shards that an unfinished writer with the same description has finished."""
        self._journal, found, refused = resume_folder(self.folder, described)
        if found is None:
            self.resumption = Resumption(refused=refused)
            return
        self.resumption = found.resumption
        self._stored = found.resumption.rows
        self._incoming = Incoming(self._metadata, found.schema)
        self._fingerprint = found.fingerprint
        self._chunk_rows, self._shard_rows = found.chunk_rows, found.shard_rows
        self._shards = list(found.shards)
        if found.resumption.mark is not None:
            self._marks.append((found.resumption.mark_rows, found.resumption.mark))

    def _append(self, columns: list[pa.Array]) -> None:
        """Add rows that fit the schema."""
        rows = len(columns[0])
        chunk_rows, shard_rows = self._sizes(columns, rows)
        start = 0
        while start < rows:
            filled = self._file.rows if self._file is not None else 0
            room = min(chunk_rows, shard_rows - filled) - self._pending_rows
            count = min(room, rows - start)
            self._pending.append([own(column.slice(start, count)) for column in columns])
            self._pending_rows += count
            if count == room:
                self._flush()
            start += count
        self._stored += rows

    def _sizes(self, columns: list[pa.Array], rows: int) -> tuple[int, int]:
        """Rows of a chunk and of a shard; those not given are set by the bytes of a row, of the first rows written."""
        if self._chunk_rows is None or self._shard_rows is None:
            bits = 0
            for field, column in zip(self._expected(), columns, strict=True):
                described = fields_of(pa.schema([field]))
                fixed = len(described) == 1 and described[0].layout in (FIXED, BITS)
                bits += (
                    described[0].row_size * element_type(column.type).bit_width if fixed else 8 * column.nbytes // rows
                )
            row_bytes = max(1, bits // 8)
            if self._chunk_rows is None:
                self._chunk_rows = max(1, CHUNK_BYTES // row_bytes)
                if self._shard_rows is not None:
                    self._chunk_rows = min(self._chunk_rows, self._shard_rows)
            if self._shard_rows is None:
                self._shard_rows = max(1, SHARD_BYTES // row_bytes // self._chunk_rows) * self._chunk_rows
        return self._chunk_rows, self._shard_rows

    def _expected(self) -> pa.Schema:
        if self._incoming.schema is None:
            raise AssertionError("the schema is set before the first row is stored")
        return self._incoming.schema

    def _flush(self) -> None:
        """Write the rows that wait as a chunk; the shard ends with it if it is full."""
        if not self._pending:
            return
        columns = [
            pa.concat_arrays(pieces) if len(pieces) > 1 else pieces[0] for pieces in zip(*self._pending, strict=True)
        ]
        if self._fingerprint is None:
            self._fingerprint = Fingerprint(fields_of(self._expected()))
        if self._file is None:
            self._file = ShardFile(self.folder, len(self._shards), self._expected())
        fields = self._fingerprint.fields
        self._fingerprint.update(field_columns(columns, self._expected(), fields, f"row {self._stored}"))
        self._file.write(columns)
        self._pending, self._pending_rows = [], 0
        if self._file.rows == self._shard_rows:
            self._end_shard()

    def _end_shard(self) -> None:
        """Bring the shard to disk, and then note it in the journal."""
        if self._file is None:
            return
        self._shards.append(self._file.finish(staged=self._replaces))
        self._file = None
        if self._journal is None:
            return
        if len(self._shards) == 1:
            self._journal.append("schema", schema_line(self._expected(), self._chunk_rows or 1, self._shard_rows or 1))
        finished = sum(shard.rows for shard in self._shards)
        while len(self._marks) > 1 and self._marks[1][0] <= finished:
            self._marks.popleft()
        mark_rows, mark = self._marks[0] if self._marks and self._marks[0][0] <= finished else (0, None)
        self._journal.append("shard", shard_line(self._shards[-1], mark, mark_rows))
