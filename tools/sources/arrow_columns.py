"""Columns of Arrow tables, from whatever format, as what a data set takes; the rest is refused by name.

| Arrow type | becomes |
|---|---|
| numbers, bools, dates, timestamps, durations | an array (n,) |
| fixed_shape_tensor, fixed_size_list of those (nested too) | an array (n, *shape) |
| text and bytes of every form | a list of str or bytes |
| list, large_list, list views of all these, one level of lists inside too | `Ragged` |
| struct of `indices` and `values` with metadata `sparse_width` | `Sparse` |
| other structs, lists of structs | their members, with dotted names |

Dictionaries and run ends are decoded; other extension types count as what they are stored as.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from minibatch.ragged import Ragged
from minibatch.sparse import Sparse
from minibatch.tools.sources import BadRecord, Column, Piece
from minibatch.tools.sources.exported import as_exported, noted_metadata, noted_schema
from minibatch.tools.sources.field_types import assignments, refuse_unknown

# What is not supported, and what its owner can do. The first row that fits speaks.
ADVICE: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (types.is_null, "it holds no value at all: leave the column out"),
    (types.is_decimal, "cast it to float64, or to int64 in its smallest unit"),
    (types.is_time, "write it as a number, such as seconds since midnight"),
    (types.is_struct, "it has no members"),
    (types.is_map, "make each of its keys a column of its own"),
    (
        lambda type_: is_list(type_),
        "lists may hold numbers, text, bytes or structs of those, and lists of them: no lists deeper than two levels",
    ),
    (types.is_fixed_size_list, "its lists must have at least one element each, numbers or text"),
    (lambda type_: True, "cast it to numbers, text or bytes"),
)


def refuse_unsupported(schema: pa.Schema, where: str) -> None:
    """Raise ValueError for the first field of `schema` that no data set can hold, or without a name of its own."""
    for position, field in enumerate(schema):
        if not field.name:
            raise ValueError(f"{where}: column {position + 1} has no name: give it one")
    if noted_schema(schema) is not None:  # it was a data set
        return
    fields = [flat for field in schema for flat in flat_fields(field)]
    names = [field.name for field in fields]
    for field in fields:
        if names.count(field.name) > 1:
            raise ValueError(f"{where} has more than one column named {field.name!r}: rename them")
        if not is_sparse(field) and not supported(field.type):
            type_ = stored(field.type)
            advice = next(advice for fits, advice in ADVICE if fits(type_))
            raise ValueError(f"{where}: column {field.name!r} is {field.type}, which is not supported: {advice}")


def flat_fields(field: pa.Field) -> list[pa.Field]:
    """`field`, or the members of a struct under dotted names."""
    type_ = stored(field.type)
    if is_list(type_) and types.is_struct(stored(type_.value_type)) and not is_sparse(type_.value_field):
        members = [member.with_type(pa.list_(member.type)) for member in stored(type_.value_type)]
    elif types.is_struct(type_) and not is_sparse(field):
        members = list(type_)
    else:
        return [field]
    flat = [flat.with_name(f"{field.name}.{flat.name}") for member in members for flat in flat_fields(member)]
    return flat or [field]


def is_sparse(field: pa.Field) -> bool:
    """Whether `field` holds sparse vectors as a data set does: two lists, and their width in the metadata."""
    type_ = field.type
    if not types.is_struct(type_) or b"sparse_width" not in (field.metadata or {}):
        return False
    lists = [member.type for member in type_ if is_list(member.type)]
    return [member.name for member in type_] == ["indices", "values"] and len(lists) == 2


def stored(type_: pa.DataType) -> pa.DataType:
    """What values of `type_` are stored as, where it is an extension type other than Arrow's tensors."""
    while isinstance(type_, pa.BaseExtensionType) and not isinstance(type_, pa.FixedShapeTensorType):
        type_ = type_.storage_type
    return type_


def supported(type_: pa.DataType, lists: int = 2) -> bool:
    """Whether a column of this type can become a field, `lists` levels of lists included."""
    type_ = stored(type_)
    if types.is_dictionary(type_) or types.is_run_end_encoded(type_):
        return supported(type_.value_type, lists)
    if is_list(type_):
        return lists > 0 and supported(type_.value_type, lists - 1)
    if types.is_fixed_size_list(type_) or isinstance(type_, pa.FixedShapeTensorType):
        if types.is_fixed_size_list(type_) and type_.list_size == 0:
            return False
        inside = stored(type_.value_type)
        if holds_text(inside):
            return lists > 0 and not types.is_fixed_size_list(inside)
        return not is_list(inside) and supported(inside, lists)
    return is_number(type_) or is_text(type_) or is_binary(type_)


def is_number(type_: pa.DataType) -> bool:
    time = types.is_date(type_) or types.is_timestamp(type_) or types.is_duration(type_)
    return bool(time or types.is_integer(type_) or types.is_floating(type_) or types.is_boolean(type_))


def is_list(type_: pa.DataType) -> bool:
    views = types.is_list_view(type_) or types.is_large_list_view(type_)
    return bool(views or types.is_list(type_) or types.is_large_list(type_))


def is_text(type_: pa.DataType) -> bool:
    return bool(types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_))


def is_binary(type_: pa.DataType) -> bool:
    views = types.is_binary_view(type_) or types.is_fixed_size_binary(type_)
    return bool(views or types.is_binary(type_) or types.is_large_binary(type_))


def holds_text(type_: pa.DataType) -> bool:
    """Whether the elements inside all fixed-size lists of `type_` are text or bytes."""
    while types.is_fixed_size_list(type_):
        type_ = stored(type_.value_type)
    if types.is_dictionary(type_) or types.is_run_end_encoded(type_):
        return holds_text(type_.value_type)
    return is_text(type_) or is_binary(type_)


def metadata_of(schema: pa.Schema) -> dict[str, dict[str, str]]:
    """What the values alone do not say: what the fields' metadata note, and the time zone in which the owner reads an
    instant (it is stored as UTC)."""
    exported = noted_schema(schema)
    if exported is not None:
        return noted_metadata(exported)
    noted: dict[str, dict[str, str]] = {}
    for field in (flat for whole in schema for flat in flat_fields(whole)):
        found = {key.decode("utf-8", "replace"): value for key, value in (field.metadata or {}).items()}
        texts = {key: text for key, value in found.items() if (text := own_note(key, value)) is not None}
        if types.is_timestamp(field.type) and field.type.tz:
            texts["timezone"] = field.type.tz
        if texts:
            noted[field.name] = texts
    return noted


def own_note(key: str, value: bytes) -> str | None:
    """A note of the owner's in a field's metadata as text; None for what Arrow, Parquet and data sets note there."""
    if key.startswith(("ARROW:", "PARQUET:")) or key == "sparse_width":
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def flattened(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`batch` with the members of structs, and lists of those, as columns under dotted names; a missing struct makes
    them missing."""
    columns: list[pa.Array] = []
    fields: list[pa.Field] = []

    def take(column: pa.Array, field: pa.Field) -> None:
        if isinstance(column, pa.ExtensionArray) and not isinstance(column.type, pa.FixedShapeTensorType):
            column = column.storage
        if types.is_struct(column.type) and column.type.num_fields and not is_sparse(field):
            for member, inside in zip(column.type, column.flatten(), strict=True):
                take(inside, member.with_name(f"{field.name}.{member.name}"))
        elif len(flat_fields(field)) > 1 or flat_fields(field)[0].name != field.name:
            for member, inside in members_of_lists(decoded(column)):
                take(inside, member.with_name(f"{field.name}.{member.name}"))
        else:
            columns.append(column)
            fields.append(field.with_type(column.type))

    for column, field in zip(batch.columns, batch.schema, strict=True):
        take(column, field)
    return pa.record_batch(columns, schema=pa.schema(fields))


def members_of_lists(column: pa.Array) -> Iterator[tuple[pa.Field, pa.Array]]:
    """The members of a column of lists of structs, each as a column of lists: as long as those, missing where they are.

    >>> column = pa.array([[{"a": 1}, {"a": 2}], None, []])
    >>> [(member.name, inside.to_pylist()) for member, inside in members_of_lists(column)]
    [('a', [[1, 2], None, []])]
    """
    offsets = np.zeros(len(column) + 1, np.int32)
    np.cumsum(np.asarray(column.value_lengths().fill_null(0)), out=offsets[1:])
    structs = decoded(column.flatten())
    for member, inside in zip(structs.type, structs.flatten(), strict=True):
        lists = pa.ListArray.from_arrays(pa.array(offsets), inside, mask=column.is_null())
        yield member.with_type(lists.type), lists


def fills_of(texts: tuple[str, ...], schema: pa.Schema, where: str) -> dict[str, pa.Scalar]:
    """What `--fill FIELD=VALUE` says, as values of the columns' types; raises ValueError where it fits none."""
    kinds = {flat.name: stored(flat.type) for field in schema for flat in flat_fields(field)}
    given = assignments(texts, "--fill")
    refuse_unknown(given, kinds, "--fill", where)
    fills = {}
    for name, value in given.items():
        type_ = kinds[name].value_type if types.is_dictionary(kinds[name]) else kinds[name]
        try:
            fills[name] = pa.scalar(value).cast(type_)
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(f"--fill {name}={value}: {value!r} is no {type_}, which the column is: {error}") from error
    return fills


def pieces(
    batches: Iterator[pa.RecordBatch],
    path: str,
    bad: Callable[[BadRecord], None],
    fills: Mapping[str, pa.Scalar] | None = None,
    row: int = 0,
) -> Iterator[Piece]:
    """The rows of `batches` as pieces; those with a missing value that `fills` does not fill go to `bad`.

    `path` and the number of the row stand in the errors; `row` is that of the first.
    """
    for batch in batches:
        exported = noted_schema(batch.schema)
        flat = flattened(batch) if exported is None else as_exported(batch, exported)
        for name, value in (fills or {}).items():
            place = flat.schema.get_field_index(name)
            column = decoded(flat.column(place))
            flat = flat.set_column(place, flat.schema.field(place).with_type(column.type), pc.fill_null(column, value))
        missing = {name: missing_rows(column) for name, column in zip(flat.schema.names, flat.columns, strict=True)}
        lost = np.zeros(len(batch), np.bool_)
        for places in missing.values():
            lost |= places
        for place in np.flatnonzero(lost).tolist():
            name = next(name for name, places in missing.items() if places[place])
            reason = f"column {name!r} has no value (null): fill it, or leave the row out"
            bad(BadRecord(path, f"row {row + place:,} (counted from 0)", reason))
        row += len(batch)
        if lost.any():
            flat = flat.filter(pa.array(~lost))
        if len(flat) and exported is not None:
            yield dict(zip(flat.schema.names, flat.columns, strict=True))
        elif len(flat):
            yield {
                field.name: sparse_of(column, field) if is_sparse(field) else values(column)
                for field, column in zip(flat.schema, flat.columns, strict=True)
            }


def first_missing(batch: pa.RecordBatch) -> tuple[int, str] | None:
    """The first row of `batch` in which a value is missing, and the column; None if all are there."""
    found = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        rows = np.flatnonzero(missing_rows(column))
        found += [(int(rows[0]), name)] if len(rows) else []
    return min(found, default=None)


def missing_rows(column: pa.Array) -> np.ndarray[Any, Any]:
    """In which rows of `column` the value, or a value inside it, is missing: bool (n,)."""
    column = decoded(column)
    missing: np.ndarray[Any, Any] = np.zeros(len(column), np.bool_)
    if column.null_count:
        missing |= np.asarray(column.is_null())
    if isinstance(column, pa.ExtensionArray):
        missing |= missing_rows(column.storage)
    elif types.is_struct(column.type):
        for inside in column.flatten():
            missing |= missing_rows(inside)
    elif types.is_fixed_size_list(column.type):
        inside = missing_rows(column.values)[column.offset * column.type.list_size :]
        missing |= inside[: len(column) * column.type.list_size].reshape(len(column), column.type.list_size).any(1)
    elif types.is_list(column.type):
        inside = missing_rows(column.flatten())
        if inside.any():
            lengths = np.asarray(column.value_lengths().fill_null(0))
            missing |= np.bincount(np.repeat(np.arange(len(column)), lengths)[inside], minlength=len(column)) > 0
    return missing


def decoded(column: pa.Array) -> pa.Array:
    """`column` without dictionary, run ends, extension types but tensors, and with plain lists for large ones."""
    while True:
        type_ = column.type
        if isinstance(column, pa.ExtensionArray) and not isinstance(type_, pa.FixedShapeTensorType):
            column = column.storage
        elif types.is_dictionary(type_):
            column = column.dictionary_decode()
        elif types.is_run_end_encoded(type_):
            column = pc.run_end_decode(column)
        elif is_list(type_) and not types.is_list(type_):
            column = column.cast(pa.list_(type_.value_type))
        else:
            return column


def values(column: pa.Array) -> Column:
    """The values of a supported `column` without missing ones: array (n, …), list of n str or n bytes, or Ragged."""
    column = decoded(column)
    type_ = column.type
    if is_text(type_) or is_binary(type_):
        listed: list[Any] = column.to_pylist()
        return listed
    if isinstance(type_, pa.FixedShapeTensorType):
        return np.ascontiguousarray(column.to_numpy_ndarray())
    if types.is_list(type_):
        return ragged(np.asarray(column.value_lengths()), values(column.flatten()))
    if types.is_fixed_size_list(type_):
        inside = values(column.flatten())
        if not isinstance(inside, np.ndarray):
            return ragged(np.full(len(column), type_.list_size), inside)
        return inside.reshape(len(column), type_.list_size, *inside.shape[1:])
    return np.asarray(column.to_numpy(zero_copy_only=False))


def ragged(lengths: np.ndarray[Any, Any], inside: Column) -> Ragged:
    """Lists of these lengths over the values `inside`, laid end to end."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Ragged(np.fromiter(inside, object, len(inside)) if isinstance(inside, list) else inside, offsets)


def sparse_of(column: pa.Array, field: pa.Field) -> Sparse:
    """The sparse vectors of a column that `is_sparse`."""
    indices, stored_values = (values(inside) for inside in column.flatten())
    if not isinstance(indices, Ragged) or not isinstance(stored_values, Ragged):
        raise AssertionError("is_sparse says that both members are lists")
    if not np.array_equal(indices.offsets, stored_values.offsets):
        raise ValueError(f"column {field.name!r}: a row has more indices than values, or less")
    return Sparse(indices.values, stored_values.values, indices.offsets, int(field.metadata[b"sparse_width"]))
