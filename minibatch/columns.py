"""The table of supported types: how each Arrow column comes as arrays.

| Arrow type | comes as | layout |
|---|---|---|
| (u)int8 … 64, float16/32/64 | the same dtype | fixed |
| bool | bool | bits |
| date, time, timestamp, duration | int32 or int64; the unit stays in the schema | fixed |
| fixed_shape_tensor, fixed_size_list (nested too) of those | (n, *shape) | fixed or bits |
| lists of lists that Hugging Face notes to be arrays | (n, *shape) | fixed or bits |
| fixed_size_binary(w), uuid | uint8 (n, w) | fixed |
| string, binary, json | object: str or bytes | bytes |
| list of any of these, and lists of such lists | `Ragged` | list |
| struct of `indices` and `values`, with metadata `sparse_width`, | `Sparse` | sparse |
| and lists of it | `Ragged` of `Sparse` | sparse |
| struct | its fields, with dotted names; of a list of structs, lists | |

The large and view forms of strings, binaries and lists count as the plain ones; dictionary- and run-end-encoded columns
as their values; other extension types as what they are stored as (bool8 as int8). Anything else is refused when a data
set is opened, with the name of the field and what to do. Nulls: see `buffers.NullMask`.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from minibatch.errors import SchemaError

FIXED, BITS, BYTES, LIST, SPARSE = "fixed", "bits", "bytes", "list", "sparse"
ARROW_METADATA = "ARROW:"  # how Arrow itself notes extension types in a field's metadata
HUGGING_FACE_ARRAY = "datasets.features.features.Array"
SPARSE_WIDTH = "sparse_width"  # the field metadata that make a struct of indices and values a sparse vector
SPARSE_PARTS = ("indices", "values")
WIDTH = re.compile("[0-9]{1,18}")
VALID = ".valid"  # what is added to a field's name for the mask of its nulls


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """Where numbers lie: items of `dtype` and `shape` below `levels` of offsets; `path` leads there through structs."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    levels: int
    path: tuple[str, ...] = ()

    @property
    def bits(self) -> bool:
        """Whether the items are bit-packed."""
        return self.dtype == np.bool_

    @property
    def item_size(self) -> int:
        """Elements of an item."""
        return math.prod(self.shape)

    @property
    def item_bytes(self) -> int:
        """Bytes of an item once gathered."""
        return self.item_size * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class Field:
    """One named column: `dtype` of an element (object for text and bytes), `shape` of a row, and how it is stored.

    For lists `shape` is that of an element of the (innermost) list, and `depth` says how many levels of lists there
    are. `column` is the Arrow column that the field lies in; `leaves` say where (two for sparse vectors).
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    arrow_type: pa.DataType
    layout: str
    is_text: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    depth: int = 0
    width: int = 0
    column: str = ""
    leaves: tuple[Leaf, ...] = ()
    is_mask: bool = False

    @property
    def row_size(self) -> int:
        """Elements in a row (of a list: in an element of it)."""
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row once gathered; 0 where rows differ."""
        return 0 if self.varies else self.row_size * self.dtype.itemsize

    @property
    def varies(self) -> bool:
        """Whether rows differ in size: lists, sparse vectors, text and bytes."""
        return self.layout not in (FIXED, BITS)

    @property
    def is_bytes(self) -> bool:
        """Whether the elements are text or bytes."""
        return self.dtype == object

    def describe(self) -> list[Any]:
        """What the fingerprint takes from a field: name, logical type, shape and metadata; not the storage's
        details."""
        if self.is_bytes:
            logical = "text" if self.is_text else "bytes"
        else:
            element = element_type(self.arrow_type)
            logical = time_name(element) if pa.types.is_temporal(element) else self.dtype.name
        if self.layout == SPARSE:
            logical = f"sparse<{logical}>"
        for _ in range(self.depth):
            logical = f"list<{logical}>"
        return [self.name, logical, list(self.shape), dict(sorted(self.metadata.items()))]


def plain_type(kind: pa.DataType) -> pa.DataType:
    """`kind` without its encoding: plain strings, binaries and lists for large and view forms, values for
    dictionaries and runs, storage for extension types (tensors apart).

    >>> plain_type(pa.dictionary(pa.int8(), pa.large_string())), plain_type(pa.uuid())
    (DataType(string), FixedSizeBinaryType(fixed_size_binary[16]))
    """
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.FixedShapeTensorType):
        return plain_type(kind.storage_type)
    if pa.types.is_large_string(kind) or is_view(kind, "string"):
        return pa.string()
    if pa.types.is_large_binary(kind) or is_view(kind, "binary"):
        return pa.binary()
    if pa.types.is_large_list(kind) or is_view(kind, "list") or is_view(kind, "large_list"):
        return pa.list_(kind.value_field)
    return kind


def is_view(kind: pa.DataType, of: str) -> bool:
    """Whether `kind` is the view form of `of`; older releases of Arrow know some of them not."""
    test = getattr(pa.types, f"is_{of}_view", None)
    return test is not None and bool(test(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether rows of this type are plain numbers of a fixed number of bytes."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)) and (
        not pa.types.is_interval(kind)
    )


def element_type(kind: pa.DataType) -> pa.DataType:
    """The type of one element: what stands inside the tensor and list levels of `kind`, for sparse vectors a value."""
    kind = plain_type(kind)
    if isinstance(kind, pa.FixedShapeTensorType):
        return kind.value_type  # numbers or bools: lists in tensors are refused with the other types
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return element_type(kind.value_type)
    if pa.types.is_struct(kind):
        return element_type(kind.field("values").type)
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
    kind = plain_type(kind)
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation is not None and list(kind.permutation) != list(range(len(kind.shape))):
            raise SchemaError(
                f"field {name!r}: permuted tensors ({kind}) are not supported; store it in row-major order"
            )
        return tuple(kind.shape)
    if pa.types.is_fixed_size_list(kind):
        return (kind.list_size, *row_shape(kind.value_type, name))
    return (kind.byte_width,) if pa.types.is_fixed_size_binary(kind) else ()


def leaf_dtype(kind: pa.DataType) -> np.dtype[Any] | None:
    """The dtype of elements of this type; None if it has none."""
    kind = plain_type(kind)
    if pa.types.is_fixed_size_list(kind):
        return leaf_dtype(kind.value_type)
    if isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.value_type
    elif pa.types.is_fixed_size_binary(kind):
        return np.dtype(np.uint8)
    if pa.types.is_boolean(kind):
        return np.dtype(np.bool_)
    if not is_number(kind):
        return None
    return np.dtype(f"int{kind.bit_width}" if pa.types.is_temporal(kind) else kind.to_pandas_dtype())


def metadata_of(arrow_field: pa.Field) -> dict[str, str]:
    """The metadata of a field as text, without Arrow's own."""
    try:
        metadata = {key.decode(): value.decode() for key, value in (arrow_field.metadata or {}).items()}
    except UnicodeDecodeError as error:
        raise SchemaError(f"field {arrow_field.name!r}: its metadata are not text ({error})") from None
    return {key: value for key, value in metadata.items() if not key.startswith(ARROW_METADATA)}


def noted_shape(arrow_field: pa.Field) -> tuple[int, ...]:
    """The shape of what Hugging Face calls an Array2D … Array5D, which it stores as lists of lists; () of others."""
    if isinstance(arrow_field.type, pa.BaseExtensionType):  # where its library is imported
        name, shape = arrow_field.type.extension_name, list(getattr(arrow_field.type, "shape", ()))
    else:
        noted = arrow_field.metadata or {}
        name = noted.get(b"ARROW:extension:name", b"").decode(errors="replace")
        if not name.startswith(HUGGING_FACE_ARRAY):
            return ()
        try:
            shape, _ = json.loads(noted[b"ARROW:extension:metadata"])
        except (KeyError, ValueError, TypeError):
            return ()
    fixed = name.startswith(HUGGING_FACE_ARRAY) and isinstance(shape, list) and bool(shape)
    return tuple(shape) if fixed and all(type(size) is int and 0 < size < 2**31 for size in shape) else ()


def dtype_in_lists(kind: pa.DataType, levels: int) -> np.dtype[Any] | None:
    """The dtype of numbers below so many levels of lists; None for anything else."""
    for _ in range(levels):
        if not pa.types.is_list(kind):
            return None
        kind = plain_type(kind.value_type)
    return leaf_dtype(kind) if is_number(kind) or pa.types.is_boolean(kind) else None


def field_of(arrow_field: pa.Field) -> Field:
    """The `Field` of an Arrow field that is no struct, or the `SchemaError` that says why it cannot be trained on.

    >>> field_of(pa.field("x", pa.list_(pa.float32(), 3))).shape, field_of(pa.field("x", pa.list_(pa.int8()))).depth
    ((3,), 1)
    """
    fields = list(fields_in(arrow_field))
    if len(fields) != 1:
        raise SchemaError(f"field {arrow_field.name!r} is a struct of {[each.name for each in fields]}")
    return fields[0]


def fields_in(arrow_field: pa.Field, refused: dict[str, SchemaError] | None = None) -> Iterator[Field]:
    """The fields of an Arrow column: one, or those of a struct with dotted names.

    What cannot be trained on raises `SchemaError`; with `refused` the errors go there, by name, and the rest is given.
    """
    name = arrow_field.name
    try:
        place = Position(column=name, name=name, type=arrow_field.type, shape=noted_shape(arrow_field))
        yield from below(place, arrow_field.type, metadata_of(arrow_field), refused)
    except (SchemaError, UnicodeDecodeError) as error:
        if isinstance(error, UnicodeDecodeError):
            error = SchemaError(f"field {name!r}: a name inside of it is not text ({error})")
        if refused is None:
            raise error from None
        refused[name] = error


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place in the type of a column, below structs (`path`) and lists (`depth`), and the `name` that it has there.

    `type` is the type of that name, with its lists; `shape` is set where those lists all have the same lengths.
    """

    column: str
    name: str
    type: pa.DataType
    shape: tuple[int, ...] = ()
    path: tuple[str, ...] = ()
    depth: int = 0


def below(
    place: Position, kind: pa.DataType, metadata: dict[str, str], refused: dict[str, SchemaError] | None
) -> Iterator[Field]:
    """`fields_in` of what lies at a place and below it."""
    kind = plain_type(kind)
    if place.shape and (dtype := dtype_in_lists(kind, len(place.shape))) is not None:
        leaf = Leaf(dtype=dtype, shape=place.shape, levels=place.depth, path=place.path)
        yield field_at(place, (leaf,), dtype=dtype, shape=place.shape, arrow_type=kind, metadata=metadata)
    elif pa.types.is_list(kind) and place.depth < 2:
        yield from below(replace(place, depth=place.depth + 1), kind.value_type, metadata, refused)
    elif pa.types.is_struct(kind) and SPARSE_WIDTH not in metadata and kind.num_fields:
        for child in kind:
            path, name = (*place.path, child.name), f"{place.name}.{child.name}"
            inner = replace(place, name=name, path=path, type=child.type, shape=noted_shape(child))
            try:
                yield from below(inner, child.type, metadata_of(child), refused)
            except SchemaError as error:
                if refused is None:
                    raise
                refused[inner.name] = error
    elif pa.types.is_struct(kind) and SPARSE_WIDTH in metadata:
        yield sparse_field(place, kind, metadata)
    else:
        yield array_field(place, kind, metadata)


def array_field(place: Position, kind: pa.DataType, metadata: dict[str, str]) -> Field:
    """The field of what is no struct and stands in no more lists than `place` says."""
    is_text = pa.types.is_string(kind)
    if is_text or pa.types.is_binary(kind):
        leaf = Leaf(dtype=np.dtype(np.uint8), shape=(), levels=place.depth + 1, path=place.path)
        return field_at(place, (leaf,), dtype=np.dtype(object), arrow_type=kind, is_text=is_text, metadata=metadata)
    dtype, shape = leaf_dtype(kind), row_shape(kind, place.name)
    if dtype is None:
        raise SchemaError(
            f"field {place.name!r} has type {place.type}, which cannot be read as an array: convert it to numbers, "
            f"text, bytes, fixed-shape tensors, or lists of those nested at most once, or leave it out (fields=…)"
        )
    leaf = Leaf(dtype=dtype, shape=shape, levels=place.depth, path=place.path)
    return field_at(place, (leaf,), dtype=dtype, shape=shape, arrow_type=kind, metadata=metadata)


def sparse_field(place: Position, kind: pa.DataType, metadata: dict[str, str]) -> Field:
    """The field of a struct of indices and values."""
    parts = {child.name: plain_type(child.type) for child in kind}
    width = metadata[SPARSE_WIDTH]
    lists = set(parts) == set(SPARSE_PARTS) and all(pa.types.is_list(part) for part in parts.values())
    elements = [plain_type(parts[part].value_type) for part in SPARSE_PARTS] if lists else []
    dtypes = [leaf_dtype(element) for element in elements]
    lists = lists and all(is_number(each) or pa.types.is_boolean(each) for each in elements)
    if not lists or not pa.types.is_integer(elements[0]) or not WIDTH.fullmatch(width) or place.depth > 1:
        raise SchemaError(
            f"field {place.name!r} has {SPARSE_WIDTH} {width!r} and type {kind}: expected struct<indices: "
            f"list<integer>, values: list<number>> and a number, at most in one list"
        )
    leaves = tuple(
        Leaf(dtype=dtype, shape=(), levels=place.depth + 1, path=(*place.path, part))
        for part, dtype in zip(SPARSE_PARTS, dtypes, strict=True)
        if dtype is not None
    )
    return field_at(
        place, leaves, dtype=leaves[1].dtype, arrow_type=kind, metadata=metadata, width=int(width), layout=SPARSE
    )


def field_at(place: Position, leaves: tuple[Leaf, ...], *, layout: str = "", **rest: Any) -> Field:
    """A field that lies at a place, stored as its leaf says unless `layout` does."""
    first = leaves[0]
    plain = LIST if place.depth else BYTES if first.levels else BITS if first.bits else FIXED
    where: dict[str, Any] = {"name": place.name, "column": place.column, "depth": place.depth}
    return Field(**where, leaves=leaves, layout=layout or plain, **rest)


def mask_of(field: Field) -> Field:
    """The field `<name>.valid`: for each element of `field` whether it is not null."""
    path = field.leaves[0].path[:-1] if field.layout == SPARSE else field.leaves[0].path
    kind, shape = field.arrow_type, field.shape
    while pa.types.is_fixed_size_list(kind):
        kind = plain_type(kind.value_type)
    if pa.types.is_fixed_size_binary(kind):
        shape = shape[:-1]  # a value of so many bytes is there or not
    leaf = Leaf(dtype=np.dtype(np.bool_), shape=shape, levels=field.depth, path=path)
    place = Position(column=field.column, name=field.name + VALID, type=pa.bool_(), path=path, depth=field.depth)
    return field_at(place, (leaf,), dtype=leaf.dtype, shape=shape, arrow_type=pa.bool_(), is_mask=True)
