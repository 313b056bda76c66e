"""CSV and TSV files with a line of names: a field per column, read in blocks by pyarrow.csv.

A column's type (int64, float64, bool, instants, text) is inferred from the first block and holds for the whole file,
or `--type COLUMN=DTYPE` says it: a value that does not fit is an error, and so is a missing one without `--fill`.
Numbers spelled NA, NaN, null or not at all count as missing; in a column of text every spelling is text.

pyarrow counts records, people count lines; they differ where a quoted value spans lines or a line is empty. So an error
looks up the line in the file.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.types as types

from minibatch.tools.sources import PIECE_BYTES, Options, Piece, refuse
from minibatch.tools.sources.arrow_columns import first_missing, metadata_of, refuse_unsupported, values
from minibatch.tools.sources.field_types import FieldType, assignments, field_types, refuse_unknown


def open_source(text: str, options: Options) -> DelimitedSource:
    """The rows of the file `text`, its columns' names and types read from the first block."""
    if not os.path.getsize(text):
        raise ValueError(f"{text!r} is empty: the first line must name the columns")
    given, fills = field_types(options.type), assignments(options.fill, "--fill")
    types_ = {name: arrow_type(name, type_) for name, type_ in given.items()}
    # Where bad rows are to be passed over, they must not hinder the opening.
    tolerant = options.bad is not refuse
    with opened(text, {} if tolerant else types_, tolerant=tolerant) as reader:
        refuse_headerless(text, reader.schema.names)
        first = next(iter(reader), None)
        schema = reader.schema
        for place, field in enumerate(schema):
            if field.name in types_:
                schema = schema.set(place, field.with_type(types_[field.name]))
            elif tolerant and types.is_binary(field.type):  # text that is not UTF-8 somewhere
                schema = schema.set(place, field.with_type(pa.string()))
        for flag, named in (("--type", given), ("--fill", fills)):
            refuse_unknown(named, schema.names, flag, repr(text))
        source = DelimitedSource(
            path=text,
            rows=0,
            schema=schema,
            fills={name: fill_value(name, value, schema.field(name).type) for name, value in fills.items()},
            halves=frozenset(name for name, type_ in given.items() if type_.dtype == "float16"),
            options=options,
        )
        if first is None:  # nothing but names
            return source
        if not tolerant:
            refuse_missing(text, source.filled(first), 0)
            refuse_undecodable(text, first)
        refuse_unsupported(schema, repr(text))
        blocks = max(1, os.path.getsize(text) / PIECE_BYTES)
        return dataclasses.replace(source, rows=round(first.num_rows * blocks))


def arrow_type(name: str, type_: FieldType) -> pa.DataType:
    """What pyarrow.csv is told to read a column as; it does not know half precision."""
    if type_.shape:
        raise ValueError(f"--type {name}={type_}: a column of a table holds single values, without a shape")
    if type_.text:
        return pa.string()
    return pa.float32() if type_.dtype == "float16" else pa.from_numpy_dtype(type_.dtype)


def fill_value(name: str, text: str, type_: pa.DataType) -> pa.Scalar:
    """The value of `--fill`, as the column's type."""
    try:
        return pa.scalar(text).cast(type_)
    except pa.ArrowException as error:
        raise ValueError(f"--fill {name}={text}: the column is {type_}, which {text!r} is not") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class DelimitedSource:
    """The rows of one CSV or TSV file; `rows` is estimated from the first block."""

    path: str
    rows: int
    schema: pa.Schema
    fills: Mapping[str, pa.Scalar]
    halves: frozenset[str]
    options: Options

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return metadata_of(self.schema)

    def describe(self) -> str:
        return f"text table with columns {', '.join(f'{field.name} {field.type}' for field in self.schema)}"

    @property
    def types(self) -> dict[str, pa.DataType]:
        return {field.name: field.type for field in self.schema}

    def batches(self) -> Iterator[Piece]:
        row = 0
        try:
            with opened(self.path, self.types) as reader:
                for batch in reader:
                    filled = self.filled(batch)
                    refuse_missing(self.path, filled, row)
                    refuse_unclosed(self.path, batch, row)
                    yield self.piece(filled)
                    row += batch.num_rows
        except ValueError:
            if self.options.bad is refuse:
                raise
            from minibatch.tools.sources.delimited_rows import good_batches

            yield from map(self.piece, good_batches(self, row))

    def filled(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with the values of `--fill` in place of missing ones."""
        for name, value in self.fills.items():
            place = batch.schema.get_field_index(name)
            batch = batch.set_column(place, name, pc.fill_null(batch.column(place), value))
        return batch

    def piece(self, batch: pa.RecordBatch) -> Piece:
        """The batch as what a data set takes."""
        piece = {name: values(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        for name in self.halves:
            single = np.asarray(piece[name])
            with np.errstate(over="ignore"):
                piece[name] = half = single.astype(np.float16)
            if (lost := np.isinf(half) & ~np.isinf(single)).any():
                raise ValueError(f"{self.path!r}, column {name!r}: {single[lost][0]} is beyond float16: choose float32")
        return piece


def delimiter_of(path: str) -> str:
    return "\t" if path.lower().endswith(".tsv") else ","


@contextlib.contextmanager
def opened(path: str, types: Mapping[str, pa.DataType], *, tolerant: bool = False) -> Iterator[Any]:
    """A reader of the record batches of `path`; what it cannot parse is an error that names file and line.

    `types` are those of the columns that are not to be inferred. A `tolerant` reader leaves out rows with too many or
    too few values.
    """
    try:
        with pyarrow.csv.open_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, block_size=PIECE_BYTES
            ),  # threads lose the row numbers
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter_of(path),
                newlines_in_values=True,
                invalid_row_handler=(lambda row: "skip") if tolerant else None,
            ),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict(types)),
        ) as reader:
            yield reader
    except pa.ArrowInvalid as error:
        raise parse_error(path, str(error)) from error


def parse_error(path: str, message: str) -> ValueError:
    """pyarrow's message about `path`, with the line for the row and the column's name for its number."""
    row = re.search(r"Row #(\d+): ", message)
    if row is None:
        return ValueError(f"{path!r} cannot be read as a table: {message}")
    where, what = f"{path!r}, line {line_of(path, int(row[1]))}", message[row.end() :].strip()
    column = re.search(r"In CSV column #(\d+)", message)
    if column is None:
        return ValueError(f"{where}: {what}")
    where = f"{where}, column {names_of(path)[int(column[1])]!r}"
    conflict = re.match(r"CSV conversion error to (\w+).*: invalid value '(.*)'", what, re.DOTALL)
    if conflict is None:
        return ValueError(f"{where}: {what}")
    return ValueError(
        f"{where}: {conflict[2]!r} is not {conflict[1]}, which the column is in the first rows or by --type: "
        "write the whole column as one type (1.0 instead of 1 makes it floating point), or choose one with --type"
    )


def refuse_headerless(path: str, names: list[str]) -> None:
    """Raise ValueError if every name is a number: then the first line is data."""
    if all(re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", name) for name in names):
        raise ValueError(
            f"{path!r}, line 1 holds numbers where the names of the columns should stand: put a line of names first"
        )


def refuse_undecodable(path: str, batch: pa.RecordBatch) -> None:
    """Raise ValueError for the first text of the file's first `batch` that is not UTF-8 (pyarrow makes it bytes)."""
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if types.is_binary(field.type):
            for row, value in enumerate(column.to_pylist()):
                try:
                    value.decode()
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"{path!r}, line {line_of(path, row + 2)}, column {field.name!r} is not UTF-8 text ({error}): "
                        "re-encode the file, for example with `iconv -f latin1 -t utf-8`"
                    ) from error


def refuse_missing(path: str, batch: pa.RecordBatch, row: int) -> None:
    """Raise ValueError for the first value missing in `batch`, which begins at `row` of the file, counted from 0."""
    missing = first_missing(batch)
    if missing:
        line = line_of(path, row + missing[0] + 2)
        raise ValueError(
            f"{path!r}, line {line}: column {missing[1]!r} has no value: fill it (--fill), or leave the line out"
        )


def refuse_unclosed(path: str, batch: pa.RecordBatch, row: int) -> None:
    """Raise ValueError if the last value of `batch` is the rest of the file: its quotation mark is never closed."""
    last = batch.columns[-1][-1].as_py() if batch.num_rows else None
    if isinstance(last, str) and last.endswith("\n"):
        with open(path, "rb") as file:
            file.seek(-min(os.path.getsize(path), len(last.encode())), os.SEEK_END)
            if file.read() == last.encode():
                line = line_of(path, row + batch.num_rows + 1)
                raise ValueError(f"{path!r}, line {line}: a quotation mark opens here and is never closed")


def line_of(path: str, record: int) -> int | str:
    """The line on which record number `record` begins; both count from 1, the line of names included."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter_of(path))
        seen, begins = 0, 1
        try:
            for cells in reader:
                seen += bool(cells)
                if seen == record:
                    return begins
                begins = reader.line_num + 1
        except csv.Error:  # a value longer than the csv module takes
            pass
    return f"of record {record}"


def names_of(path: str) -> list[str]:
    """The names in the first line."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(cells for cells in csv.reader(file, delimiter=delimiter_of(path)) if cells)
