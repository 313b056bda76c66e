"""The buffers of an Arrow column as addresses for kernels: checked, and copied only where they must be decoded.

`readable` gives what lies below a field in plain form: one array for each leaf, lists of fixed-size lists of numbers,
bits, text or bytes, without nulls. Most columns have that form and are taken where they lie. `leaf_buffers` then checks
that their buffers hold all that the kernels will ask for; offsets are looked at one by one, values are not read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from minibatch.columns import SPARSE, Field, Leaf, element_type, is_view
from minibatch.errors import DamagedDatasetError, SchemaError


@dataclass(frozen=True, kw_only=True)
class NullMask:
    """For `nulls=`: nulls of a field read as `fill`, and a bool field `<name>.valid` says where there were none.

    The mask has the form of the field, an entry for each of its elements: (n, *shape), or a `Ragged` for lists. Without
    `fill` nulls read as 0, False or empty text.

    >>> NullMask(fill=-1)
    NullMask(fill=-1)
    """

    fill: Any = None


Nulls = Mapping[str, Any]  # what nulls of a field read as: a value, or a NullMask; others are errors


@dataclass(frozen=True, kw_only=True)
class LeafBuffers:
    """Where one leaf of one column of one chunk lies: addresses of memory, checked to hold all of its rows.

    `data` is the address of the first item (of the byte that holds its first bit: `first_bit` says which). `offsets`
    has for each level of lists, from the outside, the address of its offsets and how many bytes each takes; they count
    items from `data`, or lists of the next level.
    """

    data: int
    first_bit: int = 0
    offsets: tuple[tuple[int, int], ...] = ()


def readable(column: pa.Array, described: Field, where: str, nulls: Nulls) -> list[pa.Array]:
    """What kernels can read of `column`: for each leaf of the field `described` an array in plain form.

    Nulls read as `nulls` says: a null list, sparse vector or list of them as an empty one, anything else as the value.
    Raises `SchemaError` for other nulls, `DamagedDatasetError` for what cannot be decoded; `where` names the chunk.
    """
    what = f"{where}, field {described.name!r}"
    policy = nulls.get(described.name)
    fill = None if policy is None or described.is_mask else fill_of(described, policy)
    item = pc.is_valid if described.is_mask else Filling(fill, what)
    filled = Filled(described.is_mask or fill is not None, item, what)
    try:
        found = [decoded(column, leaf.path) for leaf in described.leaves]
        if described.shape:
            found = [arrays_below(found[0], described.leaves[0].levels, described.shape, what)]
        return [filled.of(each) for each in found]
    except pa.ArrowNotImplementedError as error:
        raise SchemaError(f"{what}: this release of Arrow cannot decode {column.type}: {error}") from None
    except pa.ArrowException as error:
        raise DamagedDatasetError(f"{what}: it cannot be decoded: {error}") from None


def decoded(column: pa.Array, path: tuple[str, ...]) -> pa.Array:
    """What lies at `path` below the structs of a column, at every level without what it is wrapped or encoded in:
    extension types, dictionaries, runs, views. Nulls stay.

    The column itself where there is nothing to do. Large forms stay too, as kernels read both. What is decoded is a
    copy, checked in full before.
    """
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return decoded(column.storage, path)
    if pa.types.is_dictionary(kind):
        column.dictionary.validate(full=True)
        return wide(decoded(column.dictionary, path)).take(column.indices)
    if pa.types.is_run_end_encoded(kind):
        column.validate(full=True)
        places = np.arange(column.offset, column.offset + len(column))
        runs = np.searchsorted(column.run_ends.to_numpy(), places, side="right")
        return wide(decoded(column.values, path)).take(pa.array(runs))
    if is_view(kind, "string") or is_view(kind, "binary"):
        column.validate(full=True)
        return column.cast(pa.large_string() if is_view(kind, "string") else pa.large_binary())
    if is_view(kind, "list") or is_view(kind, "large_list"):
        return in_order(column, path)
    if pa.types.is_struct(kind) and path:
        child = decoded(column.field(kind.get_field_index(path[0])), path[1:])
        if not column.null_count:
            return child
        return child.take(pa.array(np.arange(len(column)), mask=column.is_null().to_numpy(zero_copy_only=False)))
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return column
    values = column.values
    inner = decoded(values, path)
    return column if inner is values else rebuilt(column, inner)


def in_order(views: pa.Array, path: tuple[str, ...]) -> pa.Array:
    """Views of lists as lists: their elements one list behind the other."""
    views.validate(full=True)
    missing = views.is_null().to_numpy(zero_copy_only=False)
    sizes = np.where(missing, 0, views.sizes.to_numpy()).astype(np.int64)
    marks = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    places = np.repeat(views.offsets.to_numpy() - marks[:-1], sizes) + np.arange(marks[-1])
    offsets = pa.array(marks, mask=np.append(missing, False) if missing.any() else None)
    return pa.LargeListArray.from_arrays(offsets, decoded(views.values, path).take(pa.array(places)))


def arrays_below(column: pa.Array, levels: int, shape: tuple[int, ...], what: str) -> pa.Array:
    """`column` with lists that stand below `levels` others as arrays of `shape`, which all must have."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return column
    if levels:
        return rebuilt(column, arrays_below(column.values, levels - 1, shape, what))
    lengths = pc.fill_null(pc.list_value_length(column), shape[0]).to_numpy()
    if (lengths != shape[0]).any():
        row = int(np.argmax(lengths != shape[0]))
        raise DamagedDatasetError(f"{what}: row {row} has {lengths[row]} elements, its type says {shape[0]}")
    if not column.null_count:
        inner = elements(column)
    else:  # their elements become null themselves
        begins = np.repeat(column.offsets.to_numpy()[:-1], shape[0])
        places = begins + np.tile(np.arange(shape[0]), len(column))
        missing = np.repeat(column.is_null().to_numpy(zero_copy_only=False), shape[0])
        inner = column.values.take(pa.array(places, mask=missing))
    inner = arrays_below(inner, 0, shape[1:], what)
    return pa.Array.from_buffers(pa.list_(inner.type, shape[0]), len(column), [None], children=[inner])


def rebuilt(column: pa.Array, inner: pa.Array) -> pa.Array:
    """The lists or arrays of `column` with other elements."""
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        kind, buffers = pa.list_(inner.type, kind.list_size), column.buffers()[:1]
    else:
        kind = pa.large_list(inner.type) if pa.types.is_large_list(kind) else pa.list_(inner.type)
        buffers = column.buffers()[:2]
    return pa.Array.from_buffers(kind, len(column), buffers, offset=column.offset, children=[inner])


def elements(column: pa.Array) -> pa.Array:
    """The elements of all lists of a column, end to end; null lists have none.

    Without rows there are none, which Arrow's own `flatten` does not survive if offsets then begin behind 0.
    """
    return column.flatten() if len(column) else column.values.slice(0, 0)


def wide(column: pa.Array) -> pa.Array:
    """`column` with 64-bit offsets if it is of text or bytes: repeated ones of a dictionary may need them."""
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        return column.cast(pa.large_string() if pa.types.is_string(column.type) else pa.large_binary())
    return column


def fill_of(described: Field, policy: Any) -> pa.Scalar:
    """What the nulls of a field read as, as an element of its type; `SchemaError` if there is no such element.

    >>> from minibatch.columns import field_of
    >>> fill_of(field_of(pa.field("x", pa.list_(pa.float32()))), -1).as_py()
    -1.0
    """
    value = policy.fill if isinstance(policy, NullMask) else policy
    kind = element_type(described.arrow_type)
    if value is None:
        value = ("" if described.is_text else b"") if described.is_bytes else False if pa.types.is_boolean(kind) else 0
    try:
        scalar = pa.scalar(value, kind)
        exact = (
            described.is_bytes or pa.types.is_temporal(kind) or scalar.as_py() == value or pa.types.is_floating(kind)
        )
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise SchemaError(f"field {described.name!r}: its nulls cannot read as {value!r} in {kind}: {error}") from None
    if not exact or (described.is_bytes and not isinstance(value, str if described.is_text else bytes)):
        raise SchemaError(f"field {described.name!r}: its nulls cannot read as {value!r}: its elements are {kind}")
    return scalar


@dataclass(frozen=True, slots=True)
class Filling:
    """Gives elements with `fill` in place of nulls; without one, nulls are an error."""

    fill: pa.Scalar | None
    what: str

    def __call__(self, column: pa.Array) -> pa.Array:
        if not column.null_count:
            return column
        if self.fill is None:
            raise null_error(column.null_count, self.what)
        if pa.types.is_fixed_size_binary(column.type):
            fill = pa.scalar(bytes([self.fill.as_py()]) * column.type.byte_width, column.type)
            return pc.fill_null(column, fill)
        return pc.fill_null(column, self.fill.cast(column.type))


def null_error(count: int, what: str) -> SchemaError:
    """What to raise for nulls that nothing is said of."""
    return SchemaError(
        f"{what}: {count} null{'s' * (count != 1)}; say what they read as (nulls={{field: value}} or NullMask), or "
        f"fill or drop them when converting"
    )


@dataclass(frozen=True, slots=True)
class Filled:
    """Takes the nulls out of decoded columns: `item` says what becomes of elements; with `forgiving`, null lists read
    as empty, and null arrays as arrays of nulls."""

    forgiving: bool
    item: Callable[[pa.Array], pa.Array]
    what: str

    def of(self, column: pa.Array) -> pa.Array:
        """`column` without nulls; itself where nothing is to be done."""
        is_array = pa.types.is_fixed_size_list(column.type)
        if not (is_array or pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            return self.item(column)
        if column.null_count and not self.forgiving:
            raise null_error(column.null_count, self.what)
        return self._array(column) if is_array else self._list(column)

    def _list(self, column: pa.Array) -> pa.Array:
        values = column.values
        # Elements that no list has may lie around, and be null: then they are left out.
        if column.null_count or (any_null(values) and len(values) != len(elements(column))):
            checked_offsets(column, len(values), f"{len(values)} elements", self.what)
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
            offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
            return pa.LargeListArray.from_arrays(pa.array(offsets), self.of(elements(column)))
        inner = self.of(values)
        return column if inner is values else rebuilt(column, inner)

    def _array(self, column: pa.Array) -> pa.Array:
        size = column.type.list_size
        values = elements(column)
        if column.null_count:  # what lies below null arrays may be anything
            places = np.arange(column.offset * size, (column.offset + len(column)) * size)
            missing = np.repeat(column.is_null().to_numpy(zero_copy_only=False), size)
            values = column.values.take(pa.array(places, mask=missing))
        inner = self.of(values)
        return pa.Array.from_buffers(pa.list_(inner.type, size), len(column), [None], children=[inner])


def any_null(column: pa.Array) -> bool:
    """Whether there is a null in a decoded column, at any level."""
    kind = column.type
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(column.null_count) or (nested and any_null(column.values))


def leaf_buffers(columns: list[pa.Array], described: Field, where: str) -> list[LeafBuffers]:
    """The checked addresses of all leaves of the field `described` in `columns`, which are `readable`; `where` names
    the chunk in errors. The addresses stay valid as long as `columns` live."""
    what = f"{where}, field {described.name!r}"
    found = [buffers_of(column, leaf, what) for column, leaf in zip(columns, described.leaves, strict=True)]
    if len(found) == 2:
        refuse_unequal(columns[0], columns[1], what)
    return found


def checked_leaves(batch: pa.RecordBatch, fields: list[Field], where: str, nulls: Nulls) -> list[list[pa.Array]]:
    """The leaves of each field in one chunk, with all that can be wrong with them looked at, sparse indices too."""
    found = []
    for field in fields:
        leaves = readable(batch.column(field.column), field, where, nulls)
        leaf_buffers(leaves, field, where)
        if field.layout == SPARSE:
            indices = leaves[0]
            while not pa.types.is_integer(indices.type):
                indices = elements(indices)
            refuse_indices(indices.to_numpy(), field, f"{where}, field {field.name!r}")
        found.append(leaves)
    return found


def refuse_indices(indices: NDArray[Any], field: Field, what: str) -> None:
    """Raise `DamagedDatasetError` if an index of a sparse field is not below its width."""
    most = indices.view(f"u{indices.itemsize}").max(initial=0)  # what is negative is large
    if len(indices) and int(most) >= field.width:
        bad = indices[(indices < 0) | (indices >= field.width)][0]
        raise DamagedDatasetError(f"{what}: it has the index {bad} in vectors of width {field.width}")


def buffers_of(column: pa.Array, leaf: Leaf, what: str) -> LeafBuffers:
    """The checked addresses of one leaf."""
    offsets: list[tuple[int, int]] = []
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        inner = column.values
        offsets.append(checked_offsets(column, len(inner), f"{len(inner)} elements", what))
        column = inner
    if len(offsets) < leaf.levels:  # text and bytes have their offsets beside their data
        data = column.buffers()[2]
        size = 0 if data is None else data.size
        offsets.append(checked_offsets(column, size, f"{size} bytes of data", what))
        return LeafBuffers(data=0 if data is None else data.address, offsets=tuple(offsets))
    rows, first = len(column), 0
    while pa.types.is_fixed_size_list(column.type):
        first = (first + column.offset) * column.type.list_size
        column = column.values
    first += column.offset
    count, width = rows * leaf.item_size, leaf.dtype.itemsize
    if pa.types.is_fixed_size_binary(column.type):
        first, width = first * column.type.byte_width, 1
    if count == 0:
        return LeafBuffers(data=0, offsets=tuple(offsets))
    buffer = column.buffers()[1]
    needed = (first + count + 7) // 8 if leaf.bits else (first + count) * width
    if buffer is None or buffer.size < needed:
        has = 0 if buffer is None else buffer.size
        raise DamagedDatasetError(f"{what}: its buffer has {has} bytes, {rows} rows need {needed}")
    if leaf.bits:
        return LeafBuffers(data=buffer.address, first_bit=first, offsets=tuple(offsets))
    return LeafBuffers(data=buffer.address + first * width, offsets=tuple(offsets))


def checked_offsets(column: pa.Array, size: int, of: str, what: str) -> tuple[int, int]:
    """Address and width of the offsets of a column of lists, text or bytes, checked to ascend within `size`."""
    kind = column.type
    width = 8 if pa.types.is_large_list(kind) or pa.types.is_large_string(kind) or pa.types.is_large_binary(kind) else 4
    if not len(column):
        return 0, width
    buffer = column.buffers()[1]
    first, needed = column.offset * width, (column.offset + len(column) + 1) * width
    if buffer is None or buffer.size < needed:
        has = 0 if buffer is None else buffer.size
        raise DamagedDatasetError(f"{what}: its offsets need {needed} bytes, there are {has}")
    marks = np.frombuffer(buffer, f"<i{width}", len(column) + 1, first)
    if marks[0] < 0 or marks[-1] > size or (marks[1:] < marks[:-1]).any():
        raise DamagedDatasetError(f"{what}: its offsets do not ascend within its {of}")
    return buffer.address + first, width


def refuse_unequal(indices: pa.Array, values: pa.Array, what: str) -> None:
    """Raise `DamagedDatasetError` unless each sparse vector has as many indices as values."""
    while pa.types.is_list(indices.type) or pa.types.is_large_list(indices.type):
        ours, theirs = (np.diff(column.offsets.to_numpy()) for column in (indices, values))
        if not np.array_equal(ours, theirs):
            row = int(np.argmax(ours != theirs))
            raise DamagedDatasetError(f"{what}: vector {row} has {ours[row]} indices for {theirs[row]} values")
        indices, values = elements(indices), elements(values)
