"""The buffers of an Arrow column as addresses for kernels: checked, and copied only where they must be decoded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minibatch.columns import SPARSE, Field, Leaf, is_view
from minibatch.errors import DamagedDatasetError, SchemaError


@dataclass(frozen=True, kw_only=True)
class NullMask:
    """For `nulls=`: nulls of a field read as `fill`, and a bool field `<name>.valid` says where there were none.

    >>> NullMask(fill=0)
    NullMask(fill=0)
    """

    fill: Any = 0


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


def leaf_buffers(column: pa.Array, described: Field, where: str) -> list[LeafBuffers]:
    """The checked addresses of all leaves of the field `described` in `column`, which is `readable`; `where` names the
    chunk in errors. The addresses stay valid as long as `column` lives."""
    what = f"{where}, field {described.name!r}"
    return [buffers_of(column, described, leaf, what) for leaf in described.leaves]


def readable(column: pa.Array, described: Field, where: str, nulls: Nulls) -> pa.Array:
    """`column` as kernels can read it: itself in most cases, decoded or filled where it is encoded or has nulls.

    Of a struct, what lies below it at the field's path. Decoding makes a copy of the column in memory.
    """
    what = f"{where}, field {described.name!r}"
    path = () if described.layout == SPARSE else described.leaves[0].path
    lists: list[pa.Array] = []
    while path and not pa.types.is_struct(column.type):  # a list of structs becomes a list of one of their fields
        column = decoded(column, what)
        if pa.types.is_struct(column.type):
            break
        refuse_nulls(column, what)
        lists.append(column)
        column = column.values
    for name in path:
        column = decoded(column, what)
        number = column.type.get_field_index(name)
        column = column.flatten()[number] if column.null_count else column.field(number)
    for outer in reversed(lists):
        column = type(outer).from_arrays(outer.offsets, column)
    if described.is_mask:
        return pc.is_valid(column)
    policy = nulls.get(described.name)
    return filled(decoded(column, what), policy, what)


def decoded(column: pa.Array, what: str) -> pa.Array:
    """`column` without dictionary, runs or views; large forms stay, as kernels read both."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray) and not isinstance(kind, pa.FixedShapeTensorType):
        return decoded(column.storage, what)
    try:
        if pa.types.is_dictionary(kind):
            return decoded(column.dictionary_decode(), what)
        if pa.types.is_run_end_encoded(kind):
            return decoded(pc.run_end_decode(column), what)
        if is_view(kind, "string") or is_view(kind, "binary"):
            return column.cast(pa.large_string() if is_view(kind, "string") else pa.large_binary())
        if is_view(kind, "list") or is_view(kind, "large_list"):
            return decoded(column.cast(pa.large_list(kind.value_field)), what)
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            inner = decoded(column.values, what)
            if inner is not column.values and inner.type != column.values.type:
                return type(column).from_arrays(column.offsets, inner)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise SchemaError(f"{what} has type {kind}, which this release of Arrow cannot decode: {error}") from None
    return column


def filled(column: pa.Array, policy: Any, what: str) -> pa.Array:
    """`column` with what `policy` says in place of nulls, also inside lists; unchanged without a policy."""
    if policy is None:
        return column
    value = policy.fill if isinstance(policy, NullMask) else policy
    kind = column.type
    try:
        if isinstance(kind, pa.FixedShapeTensorType):
            storage = filled(column.storage, policy, what)
            return pa.ExtensionArray.from_storage(kind, storage)
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            if column.null_count:
                empty = [] if not pa.types.is_fixed_size_list(kind) else full(kind, value)
                column = pc.coalesce(column, pa.scalar(empty, kind))
            inner = column.values
            if inner.null_count or pa.types.is_nested(inner.type):
                inner = filled(inner, policy, what)
                if pa.types.is_fixed_size_list(kind):
                    start = column.offset * kind.list_size
                    part = inner.slice(start, len(column) * kind.list_size)
                    return pa.FixedSizeListArray.from_arrays(part, kind.list_size)
                return type(column).from_arrays(column.offsets, inner)
            return column
        return pc.coalesce(column, pa.scalar(value, kind)) if column.null_count else column
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError) as error:
        raise SchemaError(f"{what}: nulls cannot become {value!r} in {kind}: {error}") from None


def full(kind: pa.DataType, value: Any) -> list[Any]:
    """A row of a fixed-size list type in which every element is `value`."""
    inner = kind.value_type
    return [full(inner, value) if pa.types.is_fixed_size_list(inner) else value] * kind.list_size


def refuse_nulls(column: pa.Array, what: str, of: str = "nulls") -> None:
    """Raise `SchemaError` if there are any."""
    if column.null_count:
        raise SchemaError(
            f"{what}: {column.null_count} {of}; say what they read as (nulls={{field: value}} or NullMask), or fill or "
            f"drop them when converting"
        )


def buffers_of(column: pa.Array, described: Field, leaf: Leaf, what: str) -> LeafBuffers:
    """The checked addresses of one leaf."""
    refuse_nulls(column, what)
    offsets: list[tuple[int, int]] = []
    path = list(leaf.path) if described.layout == SPARSE else []
    levels = leaf.levels - described.is_bytes  # text and bytes have their offsets beside their data
    while len(offsets) < levels:
        if pa.types.is_struct(column.type):
            column = column.field(column.type.get_field_index(path.pop(0)))
        refuse_nulls(column, what)
        marks, column = list_offsets(column, what)
        offsets.append(marks)
    if described.is_bytes:
        refuse_nulls(column, what, "null elements" if offsets else "nulls")
        marks, address = bytes_buffers(column, what)
        return LeafBuffers(data=address, offsets=(*offsets, marks))
    values, first = plain_storage(column), 0
    if offsets:
        refuse_nulls(values, what, "null elements")
    while pa.types.is_fixed_size_list(values.type):
        first = (first + values.offset) * values.type.list_size
        values = plain_storage(values.values)
        refuse_nulls(values, what, "null elements")
    count = len(column) * leaf.item_size
    if pa.types.is_fixed_size_binary(values.type):
        first, width = (first + values.offset) * values.type.byte_width, 1
    else:
        first, width = first + values.offset, leaf.dtype.itemsize
    buffer = values.buffers()[1]
    if count == 0:
        return LeafBuffers(data=0, offsets=tuple(offsets))
    needed = (first + count + 7) // 8 if leaf.bits else (first + count) * width
    if buffer is None or buffer.size < needed:
        has = 0 if buffer is None else buffer.size
        raise DamagedDatasetError(f"{what}: its buffer has {has} bytes, {len(column)} rows need {needed}")
    if leaf.bits:
        return LeafBuffers(data=buffer.address, first_bit=first, offsets=tuple(offsets))
    return LeafBuffers(data=buffer.address + first * width, offsets=tuple(offsets))


def plain_storage(column: pa.Array) -> pa.Array:
    """What holds the values of `column`: itself, or the storage of an extension type."""
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def list_offsets(column: pa.Array, what: str) -> tuple[tuple[int, int], pa.Array]:
    """Address and width of the offsets of a list column, checked to ascend inside its values, and those values."""
    width = 8 if pa.types.is_large_list(column.type) else 4
    inner = column.values
    if not len(column):
        return (0, width), inner
    buffer = column.buffers()[1]
    return checked_offsets(buffer, len(column), column.offset, width, len(inner), f"{len(inner)} elements", what), inner


def bytes_buffers(column: pa.Array, what: str) -> tuple[tuple[int, int], int]:
    """The offsets of a text or bytes column, checked to ascend inside the data, and the address of the data."""
    width = 8 if pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type) else 4
    if not len(column):
        return (0, width), 0
    _, offsets, data = column.buffers()
    size = 0 if data is None else data.size
    marks = checked_offsets(offsets, len(column), column.offset, width, size, f"{size} bytes of data", what)
    return marks, 0 if data is None else data.address


def checked_offsets(
    offsets: Any, rows: int, first: int, width: int, size: int, of: str, what: str
) -> tuple[int, int]:
    """Address and width of `rows` + 1 offsets from number `first` on, which must ascend within `size`."""
    needed = (first + rows + 1) * width
    if offsets is None or offsets.size < needed:
        raise DamagedDatasetError(
            f"{what}: its offsets need {needed} bytes, there are {0 if offsets is None else offsets.size}"
        )
    marks = np.frombuffer(offsets, f"<i{width}", rows + 1, first * width)
    if marks[0] < 0 or marks[-1] > size or (marks[1:] < marks[:-1]).any():
        raise DamagedDatasetError(f"{what}: its offsets do not ascend within its {of}")
    return offsets.address + first * width, width

