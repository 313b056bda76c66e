"""Arrow columns as NumPy sees them: the table of supported types, and the buffers of a chunk without a copy.

| Arrow type | comes as | layout |
|---|---|---|
| (u)int8 … 64, float16/32/64 | the same dtype | fixed |
| bool | bool | bits |
| date, time, timestamp, duration | int32 or int64; the unit stays in the schema | fixed |
| fixed_shape_tensor, fixed_size_list (nested too) of those | (n, *shape) | fixed or bits |
| fixed_size_binary(w) | uint8 (n, w) | fixed |
| string, binary and their large forms | object: str or bytes | bytes |

Anything else is refused when a data set is opened, with the name of the field and what to do. Offsets and sizes are
checked here, before a kernel sees them.
"""

import math
from collections.abc import Iterable, Mapping, Set, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from minibatch.errors import DamagedDatasetError, SchemaError

FIXED, BITS, BYTES = "fixed", "bits", "bytes"
ARROW_METADATA = "ARROW:"  # how Arrow itself notes extension types in a field's metadata


@dataclass(frozen=True, kw_only=True)
class Field:
    """One named column: `dtype` of an element (object for text and bytes), `shape` of a row, and how it is stored."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    arrow_type: pa.DataType
    layout: str
    is_text: bool = False
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def row_size(self) -> int:
        """Elements in a row."""
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row once gathered; 0 for text and bytes, whose rows differ."""
        return 0 if self.layout == BYTES else self.row_size * self.dtype.itemsize

    def describe(self) -> list[Any]:
        """What the fingerprint takes from a field: name, logical type, shape and metadata; not the storage's
        details."""
        if self.layout == BYTES:
            logical = "text" if self.is_text else "bytes"
        else:
            element = element_type(self.arrow_type)
            logical = time_name(element) if pa.types.is_temporal(element) else self.dtype.name
        return [self.name, logical, list(self.shape), dict(sorted(self.metadata.items()))]


@dataclass(frozen=True, kw_only=True)
class ColumnBuffers:
    """Where one column of one chunk lies: addresses of mapped memory, checked to hold all of its rows.

    `data` is the address of the first row (of the byte that holds its first bit: `first_bit` says which);
    for text and bytes, `offsets` is the address of `rows + 1` offsets of `offset_bytes` bytes each into `data`.
    """

    data: int
    first_bit: int = 0
    offsets: int = 0
    offset_bytes: int = 0


def is_number(kind: pa.DataType) -> bool:
    """Whether rows of this type are plain numbers of a fixed number of bytes."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)) and (
        not pa.types.is_interval(kind)
    )


def element_type(kind: pa.DataType) -> pa.DataType:
    """The type of one element: what stands inside the tensor and list levels of `kind`."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return kind.value_type  # numbers or bools: lists in tensors are refused with the other types
    if pa.types.is_fixed_size_list(kind):
        return element_type(kind.value_type)
    return pa.uint8() if pa.types.is_fixed_size_binary(kind) else kind


def time_name(kind: pa.DataType) -> str:
    """The name of a type of dates or times in a fingerprint; not Arrow's own, whose spelling may change.

    >>> time_name(pa.timestamp("s", "Europe/Berlin")), time_name(pa.date32())
    ('timestamp[s, Europe/Berlin]', 'date32')
    """
    if pa.types.is_date(kind):
        return f"date{kind.bit_width}"  # of days if 32, of milliseconds if 64
    if pa.types.is_timestamp(kind):
        return f"timestamp[{kind.unit}, {kind.tz}]" if kind.tz else f"timestamp[{kind.unit}]"
    return f"{'time' if pa.types.is_time(kind) else 'duration'}[{kind.unit}]"


def row_shape(kind: pa.DataType, name: str) -> tuple[int, ...]:
    """The shape of one row of type `kind`."""
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation is not None and list(kind.permutation) != list(range(len(kind.shape))):
            raise SchemaError(
                f"field {name!r}: permuted tensors ({kind}) are not supported; store it in row-major order"
            )
        return tuple(kind.shape)
    if pa.types.is_fixed_size_list(kind):
        return (kind.list_size, *row_shape(kind.value_type, name))
    return (kind.byte_width,) if pa.types.is_fixed_size_binary(kind) else ()


def field_of(arrow_field: pa.Field) -> Field:
    """The `Field` of an Arrow field, or the `SchemaError` that says why its type cannot be trained on.

    >>> field_of(pa.field("x", pa.list_(pa.float32(), 3))).shape
    (3,)
    """
    name, kind = arrow_field.name, arrow_field.type
    try:
        metadata = {key.decode(): value.decode() for key, value in (arrow_field.metadata or {}).items()}
    except UnicodeDecodeError as error:
        raise SchemaError(f"field {name!r}: its metadata are not text ({error})") from None
    metadata = {key: value for key, value in metadata.items() if not key.startswith(ARROW_METADATA)}
    if (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    ):
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        return Field(
            name=name, dtype=np.dtype(object), shape=(), arrow_type=kind, layout=BYTES, is_text=text, metadata=metadata
        )
    shape = row_shape(kind, name)
    element = element_type(kind)
    if pa.types.is_boolean(element):
        return Field(name=name, dtype=np.dtype(np.bool_), shape=shape, arrow_type=kind, layout=BITS, metadata=metadata)
    if is_number(element):
        dtype = (
            np.dtype(f"int{element.bit_width}")
            if pa.types.is_temporal(element)
            else np.dtype(element.to_pandas_dtype())
        )
        return Field(name=name, dtype=dtype, shape=shape, arrow_type=kind, layout=FIXED, metadata=metadata)
    raise SchemaError(
        f"field {name!r} has type {kind}, which cannot be read as an array: convert it to numbers, "
        f"fixed-shape tensors, text or bytes, or leave it out"
    )


def column_buffers(column: pa.Array, described: Field, where: str) -> ColumnBuffers:
    """The checked addresses of `column`, the column `described` of one chunk; `where` names the chunk in errors.

    The addresses stay valid as long as `column` lives.
    """
    what = f"{where}, field {described.name!r}"
    if column.null_count:
        raise SchemaError(
            f"{what}: {column.null_count} nulls; fill or drop them when converting: trained fields have no nulls"
        )
    if described.layout == BYTES:
        return bytes_buffers(column, what)
    values, first = plain_storage(column), 0
    while pa.types.is_fixed_size_list(values.type):
        first = (first + values.offset) * values.type.list_size
        values = plain_storage(values.values)
        if values.null_count:
            raise SchemaError(f"{what}: {values.null_count} null elements; fill them when converting")
    count = len(column) * described.row_size
    if pa.types.is_fixed_size_binary(values.type):
        first, width = (first + values.offset) * values.type.byte_width, 1
    else:
        first, width = first + values.offset, described.dtype.itemsize
    buffer = values.buffers()[1]
    if count == 0:
        return ColumnBuffers(data=0)
    needed = (first + count + 7) // 8 if described.layout == BITS else (first + count) * width
    if buffer is None or buffer.size < needed:
        has = 0 if buffer is None else buffer.size
        raise DamagedDatasetError(f"{what}: its buffer has {has} bytes, {len(column)} rows need {needed}")
    if described.layout == BITS:
        return ColumnBuffers(data=buffer.address, first_bit=first)
    return ColumnBuffers(data=buffer.address + first * width)


def plain_storage(column: pa.Array) -> pa.Array:
    """What holds the values of `column`: itself, or the lists of a tensor."""
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def bytes_buffers(column: pa.Array, what: str) -> ColumnBuffers:
    """The checked addresses of a text or bytes column: offsets must ascend and stay inside the data."""
    rows = len(column)
    if rows == 0:
        return ColumnBuffers(data=0)
    width = 8 if pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type) else 4
    _, offsets, data = column.buffers()
    needed = (column.offset + rows + 1) * width
    if offsets is None or offsets.size < needed:
        raise DamagedDatasetError(
            f"{what}: its offsets need {needed} bytes, there are {0 if offsets is None else offsets.size}"
        )
    marks = np.frombuffer(offsets, f"<i{width}", rows + 1, column.offset * width)
    size = 0 if data is None else data.size
    if marks[0] < 0 or marks[-1] > size or (marks[1:] < marks[:-1]).any():
        raise DamagedDatasetError(f"{what}: its offsets do not ascend within its {size} bytes of data")
    start = offsets.address + column.offset * width
    return ColumnBuffers(data=0 if data is None else data.address, offsets=start, offset_bytes=width)


def as_arrow(values: Any, name: str) -> pa.Array:
    """A column of `values`: an array (n, …), a list of n arrays of one shape and dtype, or n texts or bytes.

    Numbers are not copied. What has no place in a column is refused with the first row that has it: another shape or
    dtype, a missing value, a number that its neighbours would round. A list without rows tells no type: it becomes a
    column of Arrow's type null.

    >>> as_arrow(np.zeros((2, 3), np.float32), "x").type.shape
    [3]
    """
    array = as_numpy(values, name)
    if not len(array) and (array.dtype == object or not isinstance(values, np.ndarray)):
        return pa.nulls(0)
    if array.dtype == object or array.dtype.kind in "SU":
        return text_or_bytes(array, name)
    if array.dtype.kind not in "biufmM" or array.dtype.itemsize > 8:
        raise SchemaError(
            f"field {name!r} has dtype {array.dtype}: expected bool, integers, float16/32/64, dates, text or bytes"
        )
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    if array.dtype.kind in "mM":
        flat = from_times(array, name)
    else:
        flat = pa.array(array.reshape(-1)) if array.dtype == np.bool_ else from_numbers(array.reshape(-1))
    if array.ndim == 1:
        return flat
    kind = pa.fixed_shape_tensor(flat.type, array.shape[1:])
    storage = pa.FixedSizeListArray.from_buffers(kind.storage_type, len(array), [None], children=[flat])
    return pa.ExtensionArray.from_storage(kind, storage)


def from_numbers(flat: NDArray[Any]) -> pa.Array:
    """An Arrow array over the memory of a contiguous 1-D array of numbers."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(flat.dtype), len(flat), [None, pa.py_buffer(flat)])


def from_times(array: NDArray[Any], name: str) -> pa.Array:
    """The elements of datetime64 or timedelta64 values in row-major order; days become 32-bit dates."""
    unit, count = np.datetime_data(array.dtype)
    units = ("D", "s", "ms", "us", "ns") if array.dtype.kind == "M" else ("s", "ms", "us", "ns")
    if unit not in units or count != 1:
        kind = "datetime64" if array.dtype.kind == "M" else "timedelta64"
        raise SchemaError(
            f"field {name!r} has dtype {array.dtype}, expected the unit {', '.join(units)}: .astype('{kind}[s]')"
        )
    lost = np.isnat(array)
    if unit == "D":
        days = array.view(np.int64)
        lost |= days != days.astype(np.int32)
    if lost.any():
        place = np.argwhere(lost)[0].tolist()
        raise SchemaError(
            f"field {name!r}: row {place[0]} has {array[tuple(place)]!r}: missing times cannot be stored, nor days "
            f"beyond 32 bits"
        )
    return pa.array(array.reshape(-1))


def as_numpy(values: Any, name: str) -> NDArray[Any]:
    """`values` as one array with a row per sample; nothing is rounded, dropped or turned into text on the way."""
    what = f"field {name!r}"
    if isinstance(values, np.ndarray):
        if values.ndim == 0:
            raise SchemaError(f"{what}: expected an array with one row per sample, got the single value {values!r}")
        if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
            row = int(np.argwhere(np.ma.getmaskarray(values))[0, 0])
            raise SchemaError(f"{what}: row {row} is masked: fill or drop missing values")
        return np.asarray(values)
    if isinstance(values, str | bytes | bytearray | Mapping | Set) or not isinstance(values, Iterable):
        raise SchemaError(f"{what}: expected an array or a list with one row per sample, got {values!r:.60}")
    rows = list(values)
    if any(isinstance(row, str | bytes | bytearray | memoryview) for row in rows):
        rows = [bytes(row) if isinstance(row, bytearray | memoryview) else row for row in rows]
        return np.fromiter(rows, object, len(rows))
    if all(isinstance(row, np.ndarray) for row in rows):
        refuse_unlike(rows, what)
    try:
        array = np.asarray(rows)
    except ValueError as error:
        lengths = [len(row) if isinstance(row, Sized) else None for row in rows]
        other = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
        first = "" if other is None else f"row {other} has length {lengths[other]}, row 0 has {lengths[0]}: "
        raise SchemaError(f"{what}: {first}its rows do not make one array ({error})") from None
    if array.ndim == 1:
        refuse_rounded(rows, array, what)
    return array


def refuse_unlike(rows: list[NDArray[Any]], what: str) -> None:
    """Raise `SchemaError` for the first array that has another shape or dtype than the first one, or a masked value."""
    for i, row in enumerate(rows):
        if (row.shape, row.dtype) != (rows[0].shape, rows[0].dtype):
            raise SchemaError(
                f"{what}: row {i} is {row.dtype} of shape {row.shape}, row 0 is {rows[0].dtype} of shape "
                f"{rows[0].shape}: rows must have one shape and dtype"
            )
        if np.ma.is_masked(row):
            raise SchemaError(f"{what}: row {i} has masked values: fill or drop missing values")


def refuse_rounded(rows: list[Any], array: NDArray[Any], what: str) -> None:
    """Raise `SchemaError` for the first scalar that is not what it was once NumPy has found one dtype for all."""
    kinds = {isinstance(row, bool | np.bool_) for row in rows}
    if len(kinds) > 1:
        raise SchemaError(f"{what}: bools and other values in one list: give all rows one type")
    if array.dtype.kind != "f":
        return
    integers = [(i, row) for i, row in enumerate(rows) if isinstance(row, int | np.integer)]
    if rows and len(integers) == len(rows):
        raise SchemaError(f"{what}: its integers fit no dtype together: give an array of the dtype that is meant")
    for i, row in integers:
        if int(array[i]) != int(row):
            raise SchemaError(f"{what}: row {i} is {row}, which a {array.dtype} like its neighbours would round")


def unlike_rows(rows: list[Any]) -> str:
    """What is wrong with rows that are not all text or all bytes: the first one that is missing, or of another type."""
    first = rows[0]
    missing = next((i for i, row in enumerate(rows) if row is None), None)
    if missing is not None:
        return f"row {missing} is None"
    expected = str if isinstance(first, str) else bytes if isinstance(first, bytes) else type(first)
    other = next((i for i, row in enumerate(rows) if not isinstance(row, expected)), None)
    if other is not None:
        return f"row {other} is {type(rows[other]).__name__}, row 0 is {type(first).__name__}: give all rows one type"
    return f"its rows are objects of type {type(first).__name__}, which fit no dtype of numbers"


def text_or_bytes(array: NDArray[Any], name: str) -> pa.Array:
    """A string or binary column; every row must be text, or every row bytes."""
    what = f"field {name!r}"
    if array.ndim != 1:
        raise SchemaError(f"{what}: text and bytes must come as one value per row, got shape {array.shape}")
    rows = array.tolist()
    text = array.dtype.kind == "U" or (bool(rows) and isinstance(rows[0], str))
    if not all(isinstance(row, str if text else bytes) for row in rows):
        raise SchemaError(f"{what}: {unlike_rows(rows)}; missing values and nested lists cannot be stored")
    try:
        column = pa.array(rows, pa.string() if text else pa.binary())
    except UnicodeEncodeError as error:
        raise SchemaError(f"{what}: row {rows.index(error.object)} cannot be stored as UTF-8: {error}") from None
    if isinstance(column, pa.ChunkedArray):
        raise SchemaError(
            f"{what}: over 2 GiB in one write or chunk; write fewer rows at a time or set a smaller chunk_rows"
        )
    return column
