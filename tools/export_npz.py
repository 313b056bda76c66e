"""A data set as one `.npz`, written array by array, so that memory holds a chunk at a time.

Which arrays a field becomes is told in tools/sources/exported.py, which reads them again.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import NDArray

from minibatch.columns import element_type, leaf_dtype, row_shape
from minibatch.errors import SchemaError
from minibatch.tools.sources.exported import NOTED_ARRAY, is_varying

Pick = Callable[[pa.Array], pa.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """One array of the file: the values that `pick` finds in a column of the data set, or how many each list has."""

    name: str
    column: str
    pick: Pick
    kind: str  # "fixed", "bytes" or "offsets"
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()


def write_npz(path: Path, schema: pa.Schema, batches: Callable[[], Iterable[pa.RecordBatch]]) -> None:
    """Write the rows that `batches()` gives to `path`; it is called once for each array.

    Raises `SchemaError` for nulls, and for a type or a name that has no place in an `.npz`.
    """
    members = [member for field in schema for member in members_of(field.name, field.type)]
    names = [member.name for member in members]
    twice = [name for name in names if names.count(name) > 1 or name == NOTED_ARRAY]
    if twice:
        raise SchemaError(f"the array {twice[0]!r} would occur more than once: leave out a field with --fields")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for member in members:
            items = sum(count_of(member, batch.column(member.column)) for batch in batches())
            items += member.kind == "offsets"
            with archive.open(zip_info(member.name), "w", force_zip64=True) as file:
                write_header(file, member.dtype, (items, *member.shape))
                for values in values_of(member, batches()):
                    file.write(np.ascontiguousarray(values, member.dtype).reshape(-1).view(np.uint8).data)
        with archive.open(zip_info(NOTED_ARRAY), "w") as file:
            noted = np.frombuffer(schema.serialize(), np.uint8)
            write_header(file, noted.dtype, noted.shape)
            file.write(noted.data)


def members_of(
    name: str, kind: pa.DataType, column: str | None = None, pick: Pick = lambda each: each
) -> Iterator[Member]:
    """The arrays that a field of this type becomes."""
    column = name if column is None else column

    def stored(given: pa.Array) -> pa.Array:
        found = pick(given)
        if found.null_count:
            raise SchemaError(f"field {column!r} has nulls, which an .npz cannot hold: export to .parquet or .arrow")
        return found.storage if isinstance(found, pa.ExtensionArray) else found

    plain = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if pa.types.is_struct(plain):
        for place, child in enumerate(plain):
            yield from members_of(f"{name}.{child.name}", child.type, column, inside(stored, place))
    elif is_varying(plain):
        marks = np.dtype("<i8")
        yield Member(name=f"{name}.offsets", column=column, pick=stored, kind="offsets", dtype=marks)
        if pa.types.is_list(plain) or pa.types.is_large_list(plain):
            yield from members_of(f"{name}.values", plain.value_type, column, lambda each: stored(each).flatten())
        else:
            yield Member(name=f"{name}.bytes", column=column, pick=stored, kind="bytes", dtype=np.dtype(np.uint8))
    else:
        found = leaf_dtype(plain)
        if found is None:
            raise SchemaError(f"field {column!r}: {kind} has no place in an .npz: export to .parquet or .arrow")
        shape = row_shape(kind, column)
        yield Member(name=name, column=column, pick=stored, kind="fixed", dtype=numpy_dtype(plain, found), shape=shape)


def inside(pick: Pick, place: int) -> Pick:
    """Member number `place` of the structs that `pick` finds."""
    return lambda each: pick(each).field(place)


def numpy_dtype(kind: pa.DataType, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of an array of elements of `kind`, which are stored as `dtype`: NumPy's own for times."""
    element = element_type(kind)
    if pa.types.is_date32(element):
        return np.dtype("<M8[D]")
    if pa.types.is_date64(element):
        return np.dtype("<M8[ms]")
    if pa.types.is_timestamp(element) or pa.types.is_duration(element):
        return np.dtype(f"<{'M' if pa.types.is_timestamp(element) else 'm'}8[{element.unit}]")
    return dtype.newbyteorder("<")


def count_of(member: Member, column: pa.Array) -> int:
    """How many items a chunk adds to an array."""
    found = member.pick(column)
    if member.kind == "bytes":
        marks = offsets_of(found)
        return int(marks[-1] - marks[0])
    return len(found)


def values_of(member: Member, batches: Iterable[pa.RecordBatch]) -> Iterator[NDArray[Any]]:
    """The items of an array, chunk by chunk."""
    last = 0
    if member.kind == "offsets":
        yield np.zeros(1, np.int64)
    for batch in batches:
        found = member.pick(batch.column(member.column))
        if member.kind == "fixed":
            yield flat(found, member.dtype)
            continue
        marks = offsets_of(found)
        if member.kind == "offsets":
            yield last + marks[1:] - marks[0]
            last += int(marks[-1] - marks[0])
        else:
            content = found.buffers()[2]
            yield (
                np.frombuffer(content, np.uint8)[marks[0] : marks[-1]] if content is not None else np.zeros(0, np.uint8)
            )


def offsets_of(column: pa.Array) -> NDArray[np.int64]:
    """Where each list, text or bytes begins, and the end of the last: int64 (rows + 1,)."""
    wide = pa.types.is_large_list(column.type) or pa.types.is_large_string(column.type)
    width = 8 if wide or pa.types.is_large_binary(column.type) else 4
    buffer = column.buffers()[1]
    if buffer is None or not buffer.size:
        return np.zeros(1, np.int64)
    return np.frombuffer(buffer, f"<i{width}", len(column) + 1, column.offset * width).astype(np.int64)


def flat(column: pa.Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The elements of a column of fixed shape, in row-major order."""
    while pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    if pa.types.is_boolean(column.type):
        return cast("NDArray[Any]", column.to_numpy(zero_copy_only=False))
    width = column.type.bit_width // 8
    raw = np.frombuffer(column.buffers()[1] or b"", np.uint8)[
        column.offset * width : (column.offset + len(column)) * width
    ]
    if pa.types.is_date32(column.type):
        return raw.view("<i4").astype("<i8").view(dtype)
    return raw.view(dtype)


def zip_info(name: str) -> zipfile.ZipInfo:
    """A member of the zip whose time is always the same, so that the same data give the same bytes."""
    return zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))


def write_header(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
