"""What callers write, as Arrow columns: arrays, lists of arrays, texts, bytes, `Ragged` and `Sparse`.

| given | stored as |
|---|---|
| array (n,) / (n, *shape) | numbers, bools, times / fixed_shape_tensor |
| list of n texts or bytes | string / binary |
| list of n 1-D arrays, or of n Python lists of numbers; `Ragged` | list, whatever their lengths |
| list of n arrays (rank from 2) of one shape / of one shape behind the first axis | tensor / list of fixed-size lists |
| `Sparse`; `Ragged` of it | struct of two lists, `indices` and `values`; list of those |
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set, Sized
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from minibatch.columns import SPARSE_PARTS
from minibatch.errors import SchemaError
from minibatch.ragged import Ragged
from minibatch.sparse import Sparse

MOST_ITEMS = 2**31 - 1  # that 32-bit offsets of one chunk can count


def as_arrow(values: Any, name: str) -> pa.Array:
    """A column of `values`, as the table above says.

    Numbers are not copied. What has no place in a column is refused with the first row that has it: another shape or
    dtype, a missing value, a number that its neighbours would round. What tells no type becomes a column of Arrow's
    type null (a list without rows) or list<null> (rows that are all empty Python lists).

    >>> as_arrow(np.zeros((2, 3), np.float32), "x").type.shape
    [3]
    """
    if isinstance(values, Ragged):
        return from_ragged(values, name)
    if isinstance(values, Sparse):
        return from_sparse(values, name)
    if isinstance(values, list | tuple) and (lists := as_lists(values, name)) is not None:
        return lists
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


def as_lists(rows: list[Any] | tuple[Any, ...], name: str) -> pa.Array | None:
    """The list column of rows that are 1-D arrays or Python lists, or arrays that differ in their first axis only;
    None for rows of other kinds."""
    what = f"field {name!r}"
    if not rows:
        return None
    if not all(isinstance(row, list | tuple) or is_array(row) for row in rows):
        return None
    arrays = all(isinstance(row, np.ndarray) for row in rows)
    if arrays:
        alike = all(row.shape == rows[0].shape and row.dtype == rows[0].dtype for row in rows)
        if rows[0].ndim > 1 and (alike or any(row.shape[1:] != rows[0].shape[1:] for row in rows)):
            return None  # a tensor, or what `as_numpy` refuses with the row that does not fit
    if any(len(row) and (isinstance(row[0], list | tuple) or is_array(row[0])) for row in rows if not is_array(row)):
        return nested_lists(rows, name)
    if any(len(row) and isinstance(row[0], str | bytes) for row in rows):
        return text_lists(rows, name)
    for i, row in enumerate(rows):
        if isinstance(row, np.ma.MaskedArray) and np.ma.is_masked(row):
            raise SchemaError(f"{what}: row {i} has masked values: fill or drop missing values")
    pieces = [as_numpy(row, f"{name}[{i}]") if len(row) or arrays else np.zeros(0) for i, row in enumerate(rows)]
    told = [i for i, piece in enumerate(pieces) if len(piece)] or [0] * arrays  # an empty row tells a dtype if an array
    if not told:
        return list_of([0] * len(rows), pa.nulls(0), name)
    first = pieces[told[0]]
    for i in told:
        if pieces[i].dtype == object:
            text_or_bytes(pieces[i], f"{name}[{i}]")  # which says what it has instead of numbers
        if pieces[i].shape[1:] != first.shape[1:] or (arrays and pieces[i].dtype != first.dtype):
            raise SchemaError(
                f"{what}: row {i} is {pieces[i].dtype} of shape {pieces[i].shape}, row {told[0]} is {first.dtype} of "
                f"shape {first.shape}: rows may differ in their first axis only"
            )
    return list_of([len(piece) for piece in pieces], flat(joined([pieces[i] for i in told], what), name), name)


def is_array(value: Any) -> bool:
    """Whether `value` is an array of at least one axis."""
    return isinstance(value, np.ndarray) and value.ndim > 0


def joined(pieces: list[NDArray[Any]], what: str) -> NDArray[Any]:
    """Rows end to end; integers and floats of Python lists may meet if no integer is rounded, bools and numbers not."""
    values = np.concatenate(pieces)
    kinds = {piece.dtype.kind for piece in pieces}
    if kinds <= set("iu") and values.dtype.kind == "f":
        raise SchemaError(f"{what}: its integers fit no dtype together: give arrays of the dtype that is meant")
    if len(kinds) > 1 and ("b" in kinds or values.dtype.kind not in "iuf"):
        raise SchemaError(f"{what}: bools, numbers and other values in one field: give all rows one type")
    if len(kinds) > 1 and values.dtype.kind == "f":
        for piece in pieces:
            if piece.dtype.kind in "iu" and (piece.astype(values.dtype).astype(piece.dtype) != piece).any():
                raise SchemaError(f"{what}: the integers {piece!r:.60} would be rounded to {values.dtype}")
    return values


def nested_lists(rows: list[Any] | tuple[Any, ...], name: str) -> pa.Array:
    """The column of rows that are lists of lists, or lists of arrays."""
    for i, row in enumerate(rows):
        if not all(isinstance(inner, list | tuple) or is_array(inner) for inner in row):
            raise SchemaError(f"field {name!r}: row {i} mixes lists and values: {row!r:.60}")
    inside = [inner for row in rows for inner in row]
    inner = flat(inside, f"{name}, lists inside of it")
    if pa.types.is_list(inner.type) and pa.types.is_list(inner.type.value_type):
        raise SchemaError(f"field {name!r}: lists may be nested once: lists of lists of numbers or text")
    return list_of([len(row) for row in rows], inner, name)


def text_lists(rows: list[Any] | tuple[Any, ...], name: str) -> pa.Array:
    """The column of rows that are lists of texts or of bytes."""
    texts = [text for row in rows for text in row]
    kind = str if any(isinstance(text, str) for text in texts) else bytes
    for i, row in enumerate(rows):
        for text in row:
            if not isinstance(text, kind):
                raise SchemaError(
                    f"field {name!r}: row {i} has {text!r:.60} beside values of type {kind.__name__}: give one type"
                )
    return list_of([len(row) for row in rows], text_or_bytes(np.fromiter(texts, object, len(texts)), name), name)


def list_of(lengths: Any, inner: pa.Array, name: str) -> pa.Array:
    """A list column over the elements `inner`, so many to each row."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if offsets[-1] > MOST_ITEMS:
        raise SchemaError(f"field {name!r}: {offsets[-1]:,} elements in one write, more than 2^31; write fewer rows")
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), inner)


def from_ragged(ragged: Ragged, name: str) -> pa.Array:
    """The list column of a Ragged; its values are not copied."""
    return list_of(lengths_of(ragged, name), flat(ragged.values, name), name)


def lengths_of(values: Ragged | Sparse, name: str) -> NDArray[np.int64]:
    """The length of each row; offsets that do not ascend are refused with the row."""
    lengths = np.diff(values.offsets)
    if lengths.min(initial=0) < 0:
        raise SchemaError(f"field {name!r}: its offsets do not ascend at row {int(np.argmax(lengths < 0))}")
    return lengths


def flat(values: Any, name: str) -> pa.Array:
    """A column to stand inside a list: tensors as fixed-size lists, one for each axis."""
    inner = as_arrow(values, name)
    if not isinstance(inner, pa.FixedShapeTensorArray):
        return inner
    return in_arrays(inner.storage.values, len(inner), inner.type.shape)


def in_arrays(values: pa.Array, count: int, shape: Sequence[int]) -> pa.Array:
    """`values` in row-major order as `count` arrays of `shape`: fixed-size lists, one for each axis."""
    for axis in reversed(range(len(shape))):
        rows = count * math.prod(shape[:axis])
        values = pa.Array.from_buffers(pa.list_(values.type, shape[axis]), rows, [None], children=[values])
    return values


def from_sparse(sparse: Sparse, name: str) -> pa.Array:
    """The struct column of a Sparse: its indices and values as two lists."""
    lengths, indices = lengths_of(sparse, name), sparse.indices
    if len(indices) and (indices.min() < 0 or int(indices.max()) >= sparse.width):
        bad = int(np.argmax((indices < 0) | (indices >= sparse.width)))
        row = int(np.searchsorted(sparse.offsets, bad, side="right")) - 1
        raise SchemaError(f"field {name!r}: row {row} has index {indices[bad]}, expected 0 … {sparse.width - 1}")
    stored = indices.astype(np.int32 if sparse.width <= MOST_ITEMS else np.int64)
    parts = [list_of(lengths, as_arrow(part, name), name) for part in (stored, sparse.values)]
    return pa.StructArray.from_arrays(
        parts, fields=[pa.field(part, kind.type, False) for part, kind in zip(SPARSE_PARTS, parts, strict=True)]
    )


def sparse_width(values: Any) -> int | None:
    """How wide the sparse vectors among `values` are; None if they are something else."""
    while isinstance(values, Ragged):
        values = values.values
    return values.width if isinstance(values, Sparse) else None


def from_numbers(numbers: NDArray[Any]) -> pa.Array:
    """An Arrow array over the memory of a contiguous 1-D array of numbers."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), len(numbers), [None, pa.py_buffer(numbers)])


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
        single = [isinstance(row, np.ndarray) and row.ndim == 0 for row in rows]
        lengths = [
            len(row) if isinstance(row, Sized) and not alone else None for row, alone in zip(rows, single, strict=True)
        ]
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
