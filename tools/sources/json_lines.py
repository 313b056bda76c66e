"""JSON lines: an object per line, a field per key; keys of objects inside become dotted names, such as `user.age`.

| in all lines | field |
|---|---|
| whole numbers / numbers / true and false / text | int64 / float64 / bool / text |
| lists of those, also of different lengths | list field |
| lists of lists of those | list field, nested |

Types are settled over the whole file in a first pass: 1 in one line and 1.5 in another make float64, 1 and "a" are an
error. `--type FIELD=DTYPE` sets the dtype of the numbers; with a shape (`embedding=float32[768]`) lists of one length
become arrays. A key that is missing in a line, or null, is an error that names the line, unless `--fill FIELD=VALUE`
says what stands for it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types
from numpy.typing import NDArray

from minibatch.ragged import Ragged
from minibatch.tools.sources import BadRecord, Column, Options, Piece
from minibatch.tools.sources.field_types import FieldType, assignments, field_types, refuse_unknown
from minibatch.tools.sources.json_types import Lines, line_blocks, settled_types, taken

EXACT = 2.0**53  # whole numbers beyond it are rounded to float64


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonField:
    """A field and its type in the file (Arrow's), the one it is stored as, and what stands for a missing value."""

    name: str
    found: pa.DataType
    stored: FieldType
    fill: Any = None

    @property
    def depth(self) -> int:
        """How many lists lie around a value."""
        return 0 if not types.is_list(self.found) else 2 if types.is_list(self.found.value_type) else 1

    def __str__(self) -> str:
        return f"{self.name} {'list of ' * (self.depth if not self.stored.shape else 0)}{self.stored}"


def open_source(text: str, options: Options) -> JsonSource:
    """The objects of the file `text`, their types settled by a pass over all of it."""
    whole, rows = settled_types(text, options)
    given = field_types(options.type)
    fills = {name: fill_value(value) for name, value in assignments(options.fill, "--fill").items()}
    leaves = list(leaves_of(whole, ""))
    names = [name for name, _ in leaves]
    refuse_unknown(given, names, "--type", repr(text))
    refuse_unknown(fills, names, "--fill", repr(text))
    for name in names:
        if not name or names.count(name) > 1:
            raise ValueError(f"{text!r} has {'a key without a name' if not name else f'two fields named {name!r}'}")
    fields = [json_field(text, name, found, given.get(name), fills.get(name)) for name, found in leaves]
    return JsonSource(path=text, fields=fields, schema=schema_of(whole, fields), rows=rows, options=options)


def fill_value(text: str) -> Any:
    """The value that `text` means in JSON, or the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def leaves_of(type_: pa.DataType, path: str) -> Iterator[tuple[str, pa.DataType]]:
    """The fields below a struct, with dotted names."""
    for field in type_:
        name = f"{path}.{field.name}" if path else field.name
        if types.is_struct(field.type):
            yield from leaves_of(field.type, name)
        else:
            yield name, pa.string() if types.is_timestamp(field.type) else field.type


def json_field(path: str, name: str, found: pa.DataType, given: FieldType | None, fill: Any) -> JsonField:
    """The field `name`, if a data set can hold what was found for it."""
    where, inner, depth = f"{path!r}: field {name!r}", found, 0
    while types.is_list(inner):
        inner, depth = inner.value_type, depth + 1
    if types.is_timestamp(inner):
        inner = pa.string()
    if types.is_null(inner) and given is not None:
        inner = pa.string() if given.text else pa.bool_() if given.dtype == np.bool_ else pa.float64()
        depth += bool(given.shape) and not depth
    if types.is_null(inner):
        held = "empty lists only" if depth else "no value at all"
        raise ValueError(f"{where} holds {held}: give its type with --type {name}=DTYPE, or remove it")
    if types.is_struct(inner) or depth > 2:
        held = "lists of objects" if types.is_struct(inner) else f"lists of lists {depth} deep"
        raise ValueError(f"{where} holds {held}; expected numbers or text, in lists nested at most twice")
    is_text, is_bool = types.is_string(inner), types.is_boolean(inner)
    stored = given or FieldType(dtype=np.dtype(object if is_text else inner.to_pandas_dtype()))
    if stored.text != is_text or (stored.dtype == np.bool_) != is_bool:
        held = "text" if is_text else "true and false" if is_bool else "numbers"
        raise ValueError(f"--type {name}={stored}: {where} holds {held}")
    if stored.shape and (not depth or (depth == 2 and len(stored.shape) != 2)):
        held = f"{'lists of ' * (depth - 1)}lists" if depth else "single values"
        raise ValueError(f"--type {name}={stored}: {where} holds {held}, which do not have this shape")
    if not is_text and not is_bool and stored.dtype == np.uint64:
        inner = pa.uint64()
    if fill is not None and ((depth and fill != []) or (not depth and not fits(fill, stored))):
        raise ValueError(f"--fill {name}={fill}: expected {'an empty list, []' if depth else stored}")
    for _ in range(depth):
        inner = pa.list_(inner)
    return JsonField(name=name, found=inner, stored=stored, fill=fill)


def fits(value: Any, type_: FieldType) -> bool:
    """Whether a single JSON value has the type."""
    if type_.text or type_.dtype == np.bool_:
        return isinstance(value, str if type_.text else bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return type_.dtype.kind == "f" or (
        value == int(value) and np.iinfo(type_.dtype).min <= value <= np.iinfo(type_.dtype).max
    )


def schema_of(whole: pa.DataType, fields: Sequence[JsonField]) -> pa.Schema:
    """What Arrow is told to expect: the objects' type with the fields' types in it."""
    leaf = {field.name: field.found for field in fields}

    def rebuilt(type_: pa.DataType, path: str) -> list[pa.Field]:
        inside = []
        for field in type_:
            name = f"{path}.{field.name}" if path else field.name
            kind = pa.struct(rebuilt(field.type, name)) if types.is_struct(field.type) else leaf[name]
            inside.append(pa.field(field.name, kind))
        return inside

    return pa.schema(rebuilt(whole, ""))


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonSource:
    """The objects of one file of JSON lines."""

    path: str
    fields: Sequence[JsonField]
    schema: pa.Schema
    rows: int
    options: Options

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return {}

    def describe(self) -> str:
        return f"JSON lines of {self.rows:,} objects: {', '.join(map(str, self.fields))}"

    def batches(self) -> Iterator[Piece]:
        for unit in self.units():
            yield from unit.batches()

    def units(self) -> Iterator[JsonUnit]:
        """Blocks of lines, which several processes can read."""
        for lines in line_blocks(self.path):
            yield JsonUnit(source=self, lines=lines)

    def pieces(self, block: Lines) -> Iterator[Piece]:
        """The good objects of a block."""
        tables: list[pa.Table] = []
        good = taken(self.path, block, self.options, self.schema, tables.append)
        for lines, table in zip(good, tables, strict=True):
            if piece := self.piece(lines, table):
                yield piece

    def piece(self, lines: Lines, table: pa.Table) -> Piece:
        """The fields of a table; lines with a value that is missing or does not fit are told and left out."""
        table = flattened(table)
        numbers = np.asarray(lines.numbers)
        while table.num_rows:
            wrong: dict[int, str] = {}
            piece = {
                field.name: column_of(field, chunk_of(table.column(place)), lines, numbers, wrong)
                for place, field in enumerate(self.fields)
            }
            if not wrong:
                return piece
            for row in sorted(wrong):
                self.options.bad(BadRecord(self.path, f"line {numbers[row]}", wrong[row]))
            keep = np.ones(table.num_rows, np.bool_)
            keep[list(wrong)] = False
            table, numbers = table.filter(pa.array(keep)), numbers[keep]
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonUnit:
    """Some lines of a file of JSON lines."""

    source: JsonSource
    lines: Lines

    def batches(self) -> Iterator[Piece]:
        yield from self.source.pieces(self.lines)


def flattened(table: pa.Table) -> pa.Table:
    """The table with a column per key of its structs, to the last level."""
    while any(types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def chunk_of(column: pa.ChunkedArray) -> pa.Array:
    """A column that lies in one piece as that piece."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def column_of(
    field: JsonField, array: pa.Array, lines: Lines, numbers: NDArray[np.int64], wrong: dict[int, str]
) -> Column:
    """The values of one field; the rows in which one is missing or does not fit are noted in `wrong`."""
    if array.null_count and field.fill is None:
        for row in np.flatnonzero(np.asarray(array.is_null())):
            wrong.setdefault(int(row), f"{field.name!r} is missing or null; --fill {field.name}=VALUE fills it")
        return []
    if not field.depth:
        if array.null_count:
            array = pc.fill_null(array, pa.scalar(field.fill, array.type))
        column: Column = stored(field, array, np.arange(len(array)), lines, numbers, wrong)
        return column
    row_of = np.arange(len(array))
    offsets, array, row_of = opened_list(field, array, row_of, wrong)
    inner = None
    if field.depth == 2:
        inner, array, row_of = opened_list(field, array, row_of, wrong)
    if array.null_count:
        for place in np.flatnonzero(np.asarray(array.is_null())):
            wrong.setdefault(int(row_of[place]), f"a list in {field.name!r} holds null")
        return []
    values = stored(field, array, row_of, lines, numbers, wrong)
    if field.stored.shape:
        return shaped(field, values, offsets, inner, wrong)
    if isinstance(values, list):
        values = np.fromiter(values, object, len(values))
    return Ragged(values if inner is None else Ragged(values, inner), offsets)


def opened_list(
    field: JsonField, array: pa.Array, row_of: NDArray[np.int64], wrong: dict[int, str]
) -> tuple[NDArray[np.int64], pa.Array, NDArray[np.int64]]:
    """The offsets of a list column, its elements, and the row in which each of these lies; null counts as empty."""
    if array.null_count and field.fill is None:
        for place in np.flatnonzero(np.asarray(array.is_null())):
            wrong.setdefault(int(row_of[place]), f"a list in {field.name!r} holds null")
    lengths = np.asarray(pc.fill_null(pc.list_value_length(array), 0)).astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return offsets, array.flatten(), np.repeat(row_of, lengths)


def stored(
    field: JsonField,
    array: pa.Array,
    row_of: NDArray[np.int64],
    lines: Lines,
    numbers: NDArray[np.int64],
    wrong: dict[int, str],
) -> Any:
    """The values of an array without nulls in the dtype of the field, or as a list of texts."""
    if field.stored.text:
        return array.to_pylist()
    values = np.asarray(array.to_numpy(zero_copy_only=False))
    if values.dtype.kind == "f" and np.abs(values).max(initial=0) >= EXACT:
        for place in np.flatnonzero(np.abs(values) >= EXACT):
            text = lines.texts[int(np.searchsorted(lines.numbers, numbers[row_of[place]]))]
            if values[place] in rounded_wholes(json.loads(text)):
                reason = (
                    f"{field.name!r} holds a whole number that float64 would round to {values[place]:.0f}: write it as "
                    f"text, or give --type {field.name}=uint64"
                )
                wrong.setdefault(int(row_of[place]), reason)
    dtype = field.stored.dtype
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        found = values.astype(dtype)
        unfit = np.isinf(found) & ~np.isinf(values) if dtype.kind == "f" else found != values
        if dtype.kind in "iu" and values.dtype.kind in "iu":
            limits = np.iinfo(dtype)
            unfit = (values < max(limits.min, np.iinfo(values.dtype).min)) | (
                values > min(limits.max, np.iinfo(values.dtype).max)
            )
    for place in np.flatnonzero(unfit):
        wrong.setdefault(int(row_of[place]), f"{field.name!r} holds {values[place]}, which is no {dtype}")
    return found


def rounded_wholes(value: Any) -> set[float]:
    """The floats nearest to those whole numbers in a JSON value that no float64 is equal to."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return set().union(*map(rounded_wholes, inside))
    whole = isinstance(value, int) and not isinstance(value, bool)
    return {float(value)} if whole and int(float(value)) != value else set()


def shaped(
    field: JsonField, values: Any, offsets: NDArray[np.int64], inner: NDArray[np.int64] | None, wrong: dict[int, str]
) -> Column:
    """Lists as an array (n, *shape); rows that have another shape are noted in `wrong`."""
    shape = field.stored.shape
    bad = np.diff(offsets) != (field.stored.size if inner is None else shape[0])
    if inner is not None:
        uneven = np.append(0, np.cumsum(np.diff(inner) != shape[1]))
        bad |= uneven[offsets[1:]] != uneven[offsets[:-1]]
    for row in np.flatnonzero(bad):
        wrong.setdefault(int(row), f"{field.name!r} has not the shape {list(shape)} that --type gives it")
    column: Column = [] if bad.any() else np.ascontiguousarray(values).reshape(len(offsets) - 1, *shape)
    return column
