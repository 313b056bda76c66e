"""CSV and TSV rows of which bad ones are passed over: read as bytes, and each value converted on its own.

Only for the rest of a file in which something was found wrong; what is right gives the same values as in delimited.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.types as types

from minibatch.tools.sources import PIECE_BYTES, BadRecord
from minibatch.tools.sources.delimited import delimiter_of, line_of

if TYPE_CHECKING:
    from minibatch.tools.sources.delimited import DelimitedSource

MISSING = pa.array([each.encode() for each in pyarrow.csv.ConvertOptions().null_values], pa.binary())


def good_batches(source: DelimitedSource, done: int) -> Iterator[pa.RecordBatch]:
    """The good rows behind the first `done`, in batches of the source's schema; its `bad` hears of the others."""
    path, schema, bad = source.path, source.schema, source.options.bad
    broken: dict[int, str] = {}  # by the number of the record: the line of names is 1

    def skip(row: Any) -> str:
        broken[row.number] = f"Expected {row.expected_columns} columns, got {row.actual_columns}: {row.text}"
        return "skip"

    with pyarrow.csv.open_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=PIECE_BYTES),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=delimiter_of(path), newlines_in_values=True, invalid_row_handler=skip
        ),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(schema.names, pa.binary())),
    ) as reader:
        record = 2
        for batch in reader:
            records = np.arange(record, record + batch.num_rows + len(broken))
            records = records[~np.isin(records, list(broken))][: batch.num_rows]
            wrong = {number: reason for number, reason in broken.items() if number >= record}
            record = int(records[-1]) + 1 if len(records) else record
            columns = []
            for field, column in zip(schema, batch.columns, strict=True):
                converted, unfit = column_of(column, field, source.fills.get(field.name))
                columns.append(converted)
                for row, reason in unfit.items():
                    wrong.setdefault(int(records[row]), reason)
            for number in sorted(wrong):
                if number > done + 1:
                    bad(BadRecord(path, f"line {line_of(path, number)}", wrong[number]))
            keep = ~np.isin(records, list(wrong)) & (records > done + 1)
            yield pa.record_batch(columns, schema=schema).filter(pa.array(keep))
            broken = {number: reason for number, reason in broken.items() if number >= record}
    for number in sorted(broken):  # behind the last good row
        bad(BadRecord(path, f"line {line_of(path, number)}", broken[number]))


def column_of(column: pa.Array, field: pa.Field, fill: pa.Scalar | None) -> tuple[pa.Array, dict[int, str]]:
    """The bytes of a column as values of its type (null where they are none), and what is wrong: row → reason."""
    name, type_ = field.name, field.type
    wrong: dict[int, str] = {}
    if types.is_binary(type_):
        return column, wrong
    if types.is_string(type_):
        return each_cast(column, type_, lambda row, value: f"column {name!r} is not UTF-8 text", wrong), wrong
    missing = pc.is_in(column, value_set=MISSING)
    texts = each_cast(column, pa.string(), lambda row, value: f"column {name!r} is not UTF-8 text", wrong)
    texts = pc.utf8_trim_whitespace(pc.if_else(missing, pa.scalar(None, pa.string()), texts))
    values = each_cast(texts, type_, lambda row, value: f"column {name!r}: {value!r} is not {type_}", wrong)
    if fill is not None:
        return pc.if_else(missing, fill, values), wrong
    for row in np.flatnonzero(np.asarray(missing)):
        wrong.setdefault(int(row), f"column {name!r} has no value")
    return values, wrong


def each_cast(values: pa.Array, type_: pa.DataType, reason: Any, wrong: dict[int, str]) -> pa.Array:
    """`values` cast to `type_`, null where that cannot be; those rows are noted in `wrong`."""
    try:
        return values.cast(type_)
    except pa.ArrowInvalid:
        pass
    good = np.ones(len(values), np.bool_)
    for row, value in enumerate(values):
        try:
            value.cast(type_)
        except pa.ArrowInvalid:
            good[row] = False
            wrong.setdefault(row, reason(row, value.as_py()))
    return pc.if_else(pa.array(good), values, pa.scalar(None, values.type)).cast(type_)
