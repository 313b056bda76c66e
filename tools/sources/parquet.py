"""Parquet files, one or several of one schema: a field per column, read by row group; a missing value is refused with
its column and row. Several come in the order of their names."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from minibatch.tools.sources import Options, Piece, rows_per_piece
from minibatch.tools.sources.arrow_columns import fills_of, metadata_of, pieces, refuse_unsupported
from minibatch.tools.sources.patterns import matched

SUFFIXES = (".parquet", ".pq")


def recognises(text: str) -> bool:
    """Whether a folder holds Parquet files alone: beside other files one may be no more than their list."""
    others = [name for name in os.listdir(text) if not name.startswith((".", "_"))] if os.path.isdir(text) else []
    return all(name.lower().endswith(SUFFIXES) for name in others)


def open_source(text: str, options: Options) -> ParquetSource:
    """The rows of the files that `text` means, whose types have been found to be supported."""
    files = matched(text, SUFFIXES)
    groups: list[list[int]] = []
    schema = None
    for path in files:
        with opened(path) as file:
            schema = schema or file.schema_arrow
            if not file.schema_arrow.equals(schema):
                raise ValueError(f"{path!r} has other columns than {files[0]!r}: convert them one by one")
            groups.append([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
    if schema is None:
        raise ValueError(f"{text!r} holds no Parquet files ({', '.join(SUFFIXES)})")
    refuse_unsupported(schema, repr(files[0]))
    fills_of(options.fill, schema, repr(text))
    return ParquetSource(files=files, groups=groups, schema=schema, options=options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """The rows of Parquet files; `groups` has the rows of each row group of each file."""

    files: Sequence[str]
    groups: Sequence[Sequence[int]]
    schema: pa.Schema
    options: Options

    @property
    def rows(self) -> int:
        return sum(map(sum, self.groups))

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return metadata_of(self.schema)

    def describe(self) -> str:
        several = f" in {len(self.files):,} files" if len(self.files) > 1 else ""
        fields = ", ".join(f"{field.name} {field.type}" for field in self.schema)
        return f"Parquet of {self.rows:,} rows{several}: {fields}"

    def batches(self) -> Iterator[Piece]:
        for unit in self.units():
            yield from unit.batches()

    def units(self) -> Iterator[RowGroup]:
        for path, groups in zip(self.files, self.groups, strict=True):
            row = 0
            for group, rows in enumerate(groups):
                yield RowGroup(path=path, group=group, row=row, options=self.options)
                row += rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowGroup:
    """One row group of a file; its first row has number `row` there."""

    path: str
    group: int
    row: int
    options: Options

    def batches(self) -> Iterator[Piece]:
        with opened(self.path) as file:
            about = file.metadata.row_group(self.group)
            step = rows_per_piece(about.total_byte_size / max(1, about.num_rows))
            batches = file.iter_batches(step, row_groups=[self.group])
            fills = fills_of(self.options.fill, file.schema_arrow, repr(self.path))
            yield from pieces(batches, self.path, self.options.bad, fills, self.row)


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """The Parquet file at `path`; one that cannot be read is an error that names it."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path!r} cannot be read as Parquet, it was truncated or is something else: {error}"
        ) from error
