"""Arrow IPC files, Feather files (version 2) and Arrow streams: one file, a folder of them, or a pattern of names.

Compressed ones too. All files must have one schema; several come in the order of their names. Batches are read one at a
time and checked in full, because offsets of damaged files lead anywhere. A stream that ends between two batches cannot
be told from a whole one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from minibatch.tools.sources import Options, Piece, rows_per_piece
from minibatch.tools.sources.arrow_columns import fills_of, flat_fields, metadata_of, pieces, refuse_unsupported
from minibatch.tools.sources.exported import noted_schema
from minibatch.tools.sources.hf_features import Features, features_in
from minibatch.tools.sources.patterns import matched

SUFFIXES = (".arrow", ".arrows", ".feather", ".ipc")
FILE_MAGIC, FEATHER_1_MAGIC = b"ARROW1", b"FEA1"


def open_source(text: str, options: Options) -> ArrowSource:
    """The rows of the file `text`, of the files in the folder `text`, or of those that it is a pattern of."""
    files = matched(text, SUFFIXES)
    if not files:
        raise ValueError(f"{text!r} holds no files {', '.join(SUFFIXES)}")
    return arrow_source(text, files, options, "Arrow")


def arrow_source(
    path: str, files: Sequence[str], options: Options, what: str, features: Features | None = None
) -> ArrowSource:
    """The rows of `files`, their schemas found equal and supported; `what` names the format to the user."""
    schemas = [schema_of(file) for file in files]
    for file, schema in zip(files, schemas, strict=True):
        if not schema.equals(schemas[0]):
            other = [field for field in schema if field not in list(schemas[0])]
            raise ValueError(
                f"{file!r} has other columns than {files[0]!r}: "
                f"{', '.join(f'{field.name} {field.type}' for field in other) or 'in another order, or fewer'}"
            )
    found = features or features_in(schemas[0])
    schema = found.applied(pa.RecordBatch.from_pylist([], schema=schemas[0])).schema
    refuse_unsupported(schema, repr(files[0]))
    fills_of(options.fill, schema, repr(path))
    return ArrowSource(path=path, files=files, schema=schema, features=found, options=options, what=what)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrowSource:
    """The rows of some Arrow files, one after another."""

    path: str
    files: Sequence[str]
    schema: pa.Schema
    features: Features
    options: Options
    what: str

    @property
    def rows(self) -> None:
        """Not known before all batches are read."""

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        noted = metadata_of(self.schema)
        if noted_schema(self.schema) is not None:
            return noted
        for name, notes in self.features.notes.items():
            noted[name] = {**noted.get(name, {}), **notes}
        return {field: notes for field, notes in noted.items() if field in self.fields}

    @property
    def fields(self) -> list[str]:
        """The names of the fields, those of structs dotted."""
        return [flat.name for field in self.schema for flat in flat_fields(field)]

    def describe(self) -> str:
        count = f" of {len(self.files):,} files" if len(self.files) > 1 else ""
        return f"{self.what}{count}: {', '.join(f'{field.name} {field.type}' for field in self.schema)}"

    def inputs(self) -> Sequence[str]:
        return self.files

    def units(self) -> Iterator[ArrowSource]:
        for file in self.files:
            yield dataclasses.replace(self, files=[file])

    def batches(self) -> Iterator[Piece]:
        fills = fills_of(self.options.fill, self.schema, repr(self.path))
        for file in self.files:
            yield from pieces(self.applied(file), file, self.options.bad, fills)

    def applied(self, file: str) -> Iterator[pa.RecordBatch]:
        """The batches of one file, its features applied."""
        for batch in record_batches(file):
            try:
                yield self.features.applied(batch)
            except ValueError as error:
                raise ValueError(f"{file!r}: {error}") from error


def schema_of(path: str) -> pa.Schema:
    with opened(path) as reader:
        return reader.schema


def record_batches(path: str) -> Iterator[pa.RecordBatch]:
    """The batches of the file or stream at `path`, each in parts of about a piece, found to be what they say."""
    with opened(path) as reader:
        number = 0
        try:
            batches = (
                iter(reader)
                if isinstance(reader, pa.RecordBatchStreamReader)
                else (reader.get_batch(place) for place in range(reader.num_record_batches))
            )
            for batch in batches:
                batch.validate(full=True)
                step = rows_per_piece(batch.nbytes / max(1, batch.num_rows))
                for start in range(0, batch.num_rows, step):
                    yield batch.slice(start, step)
                number += 1
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{path!r} cannot be read: its batch {number:,} (counted from 0) is damaged: {error}"
            ) from error


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """A reader of the file or stream at `path`, told apart by their first bytes."""
    with open(path, "rb") as file:
        start = file.read(len(FILE_MAGIC))
    if start.startswith(FEATHER_1_MAGIC):
        raise ValueError(f"{path!r} is Feather version 1, which nobody writes any more: save it again as version 2")
    if not start:
        raise ValueError(f"{path!r} is empty: an Arrow file begins with ARROW1, a stream with its schema")
    with contextlib.ExitStack() as stack:
        mapped = stack.enter_context(pa.memory_map(os.fspath(path)))
        try:
            reader = pa.ipc.open_file(mapped) if start == FILE_MAGIC else pa.ipc.open_stream(mapped)
        except (pa.ArrowException, OSError) as error:
            what = "an Arrow file" if start == FILE_MAGIC else "an Arrow stream"
            raise ValueError(
                f"{path!r} cannot be read as {what}, it was truncated or is something else: {error}"
            ) from error
        yield stack.enter_context(reader)
