"""What callers write, until it is known to fit: the schema that the first writes set, and the check of all others."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from minibatch.arrow_input import as_arrow, in_arrays, list_of, sparse_width
from minibatch.buffers import readable
from minibatch.columns import ARROW_METADATA, SPARSE_WIDTH, Field
from minibatch.errors import SchemaError
from minibatch.manifest import fields_of


class Incoming:
    """Takes what is written, and gives it back as columns of one schema: that of the first writes.

    Rows in which all lists of a field are empty Python lists tell no type: they wait for a write that does.
    """

    def __init__(self, metadata: Mapping[str, Mapping[str, str]], schema: pa.Schema | None = None) -> None:
        self.schema = schema
        self._metadata = {name: dict(entries) for name, entries in metadata.items()}
        self._waiting: list[dict[str, pa.Array]] = []
        self._widths: dict[str, int] = {}  # of sparse fields
        for field in schema or ():
            if SPARSE_WIDTH in (noted := metadata_of(field)):
                self._widths[field.name] = int(noted[SPARSE_WIDTH])

    @property
    def waiting_rows(self) -> int:
        """How many rows wait for a type."""
        return sum(length_of(part) for part in self._waiting)

    def take(self, fields: Mapping[str, Any], row: int) -> list[list[pa.Array]]:
        """The rows that can be stored now, those that have waited first: a list of columns in the order of the schema.

        `row` is the number of the first of these rows, for messages. A write that raises `SchemaError` adds nothing.
        """
        columns = {name: as_column(values, name) for name, values in fields.items()}
        widths = {name: width for name, values in fields.items() if (width := sparse_width(values)) is not None}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise SchemaError(f"the fields of one write must have equally many rows, got {lengths}")
        rows = length_of(columns)
        types = self._types(columns, row)
        self._check_widths(widths, row)
        if self.schema is None:
            unknown = set(self._metadata) - set(columns)
            if unknown:
                raise SchemaError(f"metadata for {sorted(unknown)}, but the fields are {sorted(columns)}")
            if any(is_untyped(kind) for kind in types.values()):
                if rows:
                    self._waiting.append({name: own(column) for name, column in columns.items()})
                    self._widths.update(widths)
                return []
            self.schema = self._make_schema(types, {**self._widths, **widths})
        self._widths.update(widths)
        waiting, self._waiting = self._waiting, []
        parts = [*waiting, columns] if rows else waiting
        return [[typed(part[field.name], field.type) for field in self.schema] for part in parts]

    def refuse_waiting(self) -> None:
        """Raise `SchemaError` if there are rows whose type nothing has told."""
        if self._waiting:
            untyped = sorted(name for name, kind in self._types(self._waiting[0], 0).items() if is_untyped(kind))
            raise SchemaError(
                f"all lists of {untyped} are empty, which tells no type: write arrays, such as np.zeros(0, np.int32)"
            )

    def _types(self, columns: Mapping[str, pa.Array], row: int) -> dict[str, pa.DataType]:
        """The type of each field as far as it is told, those of the schema or of the rows that wait first."""
        parts = [*self._waiting, columns]
        types = {name: column.type for name, column in parts[0].items()}
        if self.schema is not None:
            types = {field.name: field.type for field in self.schema}
        if set(columns) != set(types):
            raise SchemaError(f"expected the fields {list(types)} of the first write, got {list(columns)} (row {row})")
        for part in parts:
            for name, known in types.items():
                kind = part[name].type
                if not fits(kind, known):
                    if self.schema is not None or not fits(known, kind):
                        hint = "; write a Ragged where lengths vary" if fits(known, kind) else ""
                        raise SchemaError(
                            f"field {name!r} was {known} in the first write and is {kind} now (row {row}){hint}"
                        )
                    types[name] = kind
        return types

    def _check_widths(self, widths: Mapping[str, int], row: int) -> None:
        for name, width in widths.items():
            noted = self._metadata.get(name, {}).get(SPARSE_WIDTH)
            known = self._widths.get(name, int(noted) if noted is not None and noted.isdecimal() else width)
            if known != width:
                raise SchemaError(f"field {name!r} was {known} wide and is {width} wide now (row {row})")

    def _make_schema(self, types: Mapping[str, pa.DataType], widths: Mapping[str, int]) -> pa.Schema:
        """The schema of the data set; raises `SchemaError` for what cannot be stored or read again."""
        noted = {name: {SPARSE_WIDTH: str(width)} for name, width in widths.items()}
        try:
            schema = pa.schema(
                [
                    pa.field(name, kind, False, {**self._metadata.get(name, {}), **noted.get(name, {})} or None)
                    for name, kind in types.items()
                ]
            )
        except UnicodeEncodeError as error:
            raise SchemaError(f"names and metadata of fields are stored as UTF-8: {error}") from None
        fields_of(schema)
        return schema


def as_column(values: Any, name: str) -> pa.Array:
    """A column of `values`; an Arrow array is taken as it is, in plain form, if it has no nulls."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
        if isinstance(values, pa.ChunkedArray):  # more than its offsets can count
            raise SchemaError(f"field {name!r}: over 2 GiB in one write; write fewer rows at a time")
    if not isinstance(values, pa.Array):
        return as_arrow(values, name)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    row = first_null(values)
    if row is not None:
        raise SchemaError(f"field {name!r}: row {row} is null, or something in it: fill or drop missing values")
    return values


def first_null(column: pa.Array) -> int | None:
    """The first row of an Arrow array in which a value is missing, or a value inside its value; None without any.

    >>> first_null(pa.array([[1], [], [2, None]])), first_null(pa.array([1, 2]))
    (2, None)
    """
    if column.null_count:
        return int(column.is_null().index(True).as_py())
    if isinstance(column, pa.ExtensionArray):
        return first_null(column.storage)
    kind = column.type
    if pa.types.is_struct(kind):
        found = [first_null(child) for child in column.flatten()]
        return min((row for row in found if row is not None), default=None)
    if pa.types.is_fixed_size_list(kind):
        inside = first_null(column.flatten())
        return None if inside is None else inside // kind.list_size
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inside = first_null(column.flatten())
        return None if inside is None else int(column.value_parent_indices()[inside].as_py())
    return None


def is_untyped(kind: pa.DataType) -> bool:
    """Whether Arrow's type `kind` leaves open what the values are: those of no rows, or of empty lists."""
    if pa.types.is_list(kind):
        return is_untyped(kind.value_type)
    return bool(pa.types.is_null(kind))


def fits(kind: pa.DataType, expected: pa.DataType) -> bool:
    """Whether a column of type `kind` is one of type `expected`, or can become it: because it holds no value, or as
    arrays that happen to have one shape are lists as well.

    >>> empty = pa.list_(pa.null())
    >>> fits(empty, pa.list_(pa.int8())), fits(empty, pa.int8()), fits(pa.null(), pa.int8())
    (True, False, True)
    """
    if kind == expected or pa.types.is_null(kind) or list_of_rows(kind) == expected:
        return True
    lists = pa.types.is_list(kind) and pa.types.is_list(expected)
    return is_untyped(kind) and lists and fits(kind.value_type, expected.value_type)


def list_of_rows(kind: pa.DataType) -> pa.DataType | None:
    """The type of lists, all of one length, that tensors of this type are; None for other types, and for vectors."""
    if not isinstance(kind, pa.FixedShapeTensorType) or len(kind.shape) < 2:
        return None
    inner = kind.value_type
    for size in reversed(kind.shape[1:]):
        inner = pa.list_(inner, size)
    return pa.list_(inner)


def typed(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column that `fits` the type `kind`, as one of it."""
    if column.type == kind:
        return column
    if pa.types.is_null(column.type):
        return pa.nulls(0, kind)
    if isinstance(column.type, pa.FixedShapeTensorType):
        first, *rest = column.type.shape
        inner = in_arrays(column.storage.flatten(), len(column) * first, rest)
        return list_of([first] * len(column), inner, "")
    return pa.ListArray.from_arrays(column.offsets, typed(column.flatten(), kind.value_type), type=kind)


def own(column: pa.Array) -> pa.Array:
    """A copy of `column` that shares no memory with the caller's arrays, and has nothing of the rows around a slice.

    Arrow writes buffers in multiples of 8 bytes: from a slice, the rows behind it would get into the file's padding.
    """
    return pa.concat_arrays([column, column.slice(0, 0)])


def field_columns(columns: list[pa.Array], schema: pa.Schema, fields: list[Field], where: str) -> list[list[pa.Array]]:
    """The leaves of each field in the columns of a schema, as a fingerprint takes them."""
    return [readable(columns[schema.get_field_index(field.column)], field, where, {}) for field in fields]


def length_of(columns: Mapping[str, pa.Array]) -> int:
    """How many rows the columns have."""
    return len(next(iter(columns.values())))


def metadata_of(field: pa.Field) -> dict[str, str]:
    """The metadata of a field as text."""
    return {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}


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
