"""Columns of Arrow tables, read from CSV or Parquet, as what a data set takes; the rest is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from minibatch.tools.sources import Column

# What is not supported, and what its owner can do. The first row that fits speaks.
ADVICE: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (types.is_null, "it holds no value at all: leave the column out"),
    (types.is_decimal, "cast it to float64, or to int64 in its smallest unit"),
    (types.is_time, "write it as a number, such as seconds since midnight"),
    (types.is_struct, "make each of its members a column of its own"),
    (types.is_map, "make each of its keys a column of its own"),
    (types.is_fixed_size_list, "only lists of numbers, at least one each, become arrays"),
    (lambda type_: "list" in str(type_), "cut or pad its lists to one length and store them as fixed_size_list"),
    (lambda type_: True, "cast it to numbers, text or bytes"),
)


def refuse_unsupported(schema: pa.Schema, where: str) -> None:
    """Raise ValueError for the first field of `schema` that no data set can hold, or without a name of its own."""
    for position, field in enumerate(schema):
        if not field.name:
            raise ValueError(f"{where}: column {position + 1} has no name: give it one")
        if schema.names.count(field.name) > 1:
            raise ValueError(f"{where} has more than one column named {field.name!r}: rename them")
        if not supported(field.type):
            advice = next(advice for fits, advice in ADVICE if fits(field.type))
            raise ValueError(f"{where}: column {field.name!r} is {field.type}, which is not supported: {advice}")


def supported(type_: pa.DataType) -> bool:
    """Whether a column of this type can become a field: numbers, instants, arrays of them of one shape, text, bytes."""
    if types.is_dictionary(type_):
        return supported(type_.value_type)
    while types.is_fixed_size_list(type_) or isinstance(type_, pa.FixedShapeTensorType):
        if types.is_fixed_size_list(type_) and type_.list_size == 0:
            return False
        type_ = type_.value_type
        if is_text(type_) or is_binary(type_):
            return False
    return (
        types.is_integer(type_)
        or types.is_floating(type_)
        or types.is_boolean(type_)
        or types.is_date(type_)
        or types.is_timestamp(type_)
        or types.is_duration(type_)
        or is_text(type_)
        or is_binary(type_)
    )


def is_text(type_: pa.DataType) -> bool:
    return bool(types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_))


def is_binary(type_: pa.DataType) -> bool:
    views = types.is_binary_view(type_) or types.is_fixed_size_binary(type_)
    return bool(views or types.is_binary(type_) or types.is_large_binary(type_))


def metadata_of(schema: pa.Schema) -> dict[str, dict[str, str]]:
    """What the values alone do not say: the time zone in which the owner reads an instant (it is stored as UTC)."""
    zones = {field.name: field.type.tz for field in schema if types.is_timestamp(field.type)}
    return {name: {"timezone": zone} for name, zone in zones.items() if zone}


def first_missing(batch: pa.RecordBatch) -> tuple[int, str] | None:
    """The first row of `batch` in which a value is missing, and the column; None if all are there."""
    found = [(missing_row(column), name) for name, column in zip(batch.schema.names, batch.columns, strict=True)]
    return min(((row, name) for row, name in found if row is not None), default=None)


def missing_row(column: pa.Array) -> int | None:
    """The first row of `column` whose value, or a value inside it, is missing."""
    if column.null_count:
        return int(pc.index(column.is_null(), True).as_py())
    if isinstance(column, pa.ExtensionArray):
        return missing_row(column.storage)
    if types.is_fixed_size_list(column.type):
        inside = missing_row(column.flatten())
        return None if inside is None else inside // column.type.list_size
    return None


def values(column: pa.Array) -> Column:
    """The values of a supported `column` without missing ones: array (n, …), or list of n str or n bytes."""
    type_ = column.type
    if types.is_dictionary(type_):
        return values(column.dictionary_decode())
    if is_text(type_) or is_binary(type_):
        listed: list[Any] = column.to_pylist()
        return listed
    if isinstance(type_, pa.FixedShapeTensorType):
        return np.ascontiguousarray(column.to_numpy_ndarray())
    if types.is_fixed_size_list(type_):
        inside = np.asarray(values(column.flatten()))
        return inside.reshape(len(column), type_.list_size, *inside.shape[1:])
    return np.asarray(column.to_numpy(zero_copy_only=False))
