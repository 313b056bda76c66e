"""Parquet files: a field per column, read by row group; a missing value is refused with its column and row."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from minibatch.tools.sources import Options, Piece, rows_per_piece
from minibatch.tools.sources.arrow_columns import first_missing, metadata_of, refuse_unsupported, values


def open_source(text: str, options: Options) -> ParquetSource:
    """The rows of the file `text`, whose types have been found to be supported."""
    with opened(text) as file:
        refuse_unsupported(file.schema_arrow, repr(text))
        return ParquetSource(path=text, rows=file.metadata.num_rows, schema=file.schema_arrow)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """The rows of one Parquet file."""

    path: str
    rows: int
    schema: pa.Schema

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return metadata_of(self.schema)

    def describe(self) -> str:
        return f"Parquet of {self.rows:,} rows: {', '.join(f'{field.name} {field.type}' for field in self.schema)}"

    def batches(self) -> Iterator[Piece]:
        row = 0
        with opened(self.path) as file:
            for group in range(file.num_row_groups):
                about = file.metadata.row_group(group)
                step = rows_per_piece(about.total_byte_size / max(1, about.num_rows))
                for batch in file.iter_batches(step, row_groups=[group]):
                    missing = first_missing(batch)
                    if missing:
                        raise ValueError(
                            f"{self.path!r}: column {missing[1]!r} has no value (null) in row {row + missing[0]:,} "
                            "(counted from 0): fill it, or leave the row out"
                        )
                    yield {name: values(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
                    row += batch.num_rows


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
