"""What `minibatch export` wrote, known by the schema that it notes: it comes back type for type, with its metadata.

Other formats know less than Arrow (Parquet has no seconds, NumPy no lists), so an export carries the schema of its data
set: Parquet and Arrow files as metadata of their schema, an `.npz` as an array of bytes.

In an `.npz` a field that NumPy can hold is one array. A list field is `NAME.offsets`, int64 (rows + 1,), and its
elements end to end, `NAME.values`; text and bytes are `NAME.offsets` and `NAME.bytes`, the text as UTF-8; a struct
(such as the indices and values of sparse vectors) is its members, `NAME.MEMBER`.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import IO, cast

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy

from minibatch.columns import metadata_of
from minibatch.tools.sources import PIECE_BYTES, Piece

NOTED = b"minibatch:schema"  # in the metadata of an Arrow schema: the schema of the data set, serialized, in base64
NOTED_ARRAY = "minibatch:schema"  # the array of an .npz that holds it


def with_note(schema: pa.Schema) -> pa.Schema:
    """`schema` as it is written to other formats: with a note of itself."""
    return schema.with_metadata({NOTED: base64.b64encode(schema.serialize().to_pybytes())})


def noted_schema(schema: pa.Schema) -> pa.Schema | None:
    """The schema of the data set that was exported to a file with this `schema`; None if it is no export.

    >>> exported = with_note(pa.schema({"x": pa.timestamp("s")}))
    >>> noted_schema(exported).types, noted_schema(pa.schema({"x": pa.int8()}))
    ([TimestampType(timestamp[s])], None)
    """
    note = (schema.metadata or {}).get(NOTED)
    if note is None:
        return None
    noted = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(note)))
    return noted if noted.names == schema.names else None  # other programs may have changed the columns


def noted_metadata(noted: pa.Schema) -> dict[str, dict[str, str]]:
    """What the data set noted beside its fields."""
    return {field.name: found for field in noted if (found := metadata_of(field))}


def as_exported(batch: pa.RecordBatch, noted: pa.Schema) -> pa.RecordBatch:
    """The rows of an exported file as they were in the data set."""
    columns = [as_noted(column, field.type) for column, field in zip(batch.columns, noted, strict=True)]
    return pa.record_batch(columns, schema=noted)


def as_noted(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column of an exported file as it was in the data set."""
    if column.type == kind:
        return column
    if isinstance(kind, pa.ExtensionType | pa.FixedShapeTensorType):
        storage = column.storage if isinstance(column, pa.ExtensionArray) else column
        return pa.ExtensionArray.from_storage(kind, storage.cast(kind.storage_type))
    return column.cast(kind)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedArchive:
    """The rows of an `.npz` that was exported; `read` opens one of its arrays, behind its header."""

    path: str
    rows: int
    schema: pa.Schema
    row_bytes: float
    read: Callable[[str], contextlib.AbstractContextManager[IO[bytes]]]

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return noted_metadata(self.schema)

    def describe(self) -> str:
        return f"an exported data set: {', '.join(f'{field.name} {field.type}' for field in self.schema)}"

    def batches(self) -> Iterator[Piece]:
        step = max(1, int(PIECE_BYTES // max(1.0, self.row_bytes)))
        with contextlib.ExitStack() as stack:

            def reader(name: str) -> IO[bytes]:
                return stack.enter_context(self.read(name))

            columns = {field.name: FieldReader(reader, field.name, field.type) for field in self.schema}
            for row in range(0, self.rows, step):
                count = min(step, self.rows - row)
                yield cast(Piece, {name: column.take(count) for name, column in columns.items()})


class FieldReader:
    """One field of an exported `.npz`, or a part of one, read from its beginning on."""

    def __init__(self, reader: Callable[[str], IO[bytes]], name: str, kind: pa.DataType) -> None:
        self.kind = kind
        self.storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
        self.inner: list[FieldReader] = []
        self.last = 0
        if is_varying(self.storage):
            self.offsets = reader(f"{name}.offsets")
            self.offsets.read(8)  # the first is 0
            if pa.types.is_list(self.storage) or pa.types.is_large_list(self.storage):
                self.inner = [FieldReader(reader, f"{name}.values", self.storage.value_type)]
            else:
                self.values = reader(f"{name}.bytes")
        elif pa.types.is_struct(self.storage):
            self.inner = [FieldReader(reader, f"{name}.{child.name}", child.type) for child in self.storage]
        else:
            self.values = reader(name)

    def take(self, rows: int) -> pa.Array:
        """The next `rows` rows as an Arrow array."""
        if pa.types.is_struct(self.storage):
            column = pa.StructArray.from_arrays([part.take(rows) for part in self.inner], fields=list(self.storage))
        elif is_varying(self.storage):
            column = self._take_varying(rows)
        else:
            column = fixed(self.storage, rows, lambda size: read_all(self.values, size))
        return column if self.kind == self.storage else pa.ExtensionArray.from_storage(self.kind, column)

    def _take_varying(self, rows: int) -> pa.Array:
        marks = np.frombuffer(read_all(self.offsets, 8 * rows), "<i8")
        offsets = np.concatenate([np.zeros(1, np.int64), marks - self.last])
        self.last = int(marks[-1]) if rows else self.last
        total = int(offsets[-1])
        if self.inner:
            wide = pa.types.is_large_list(self.storage)
            lists = pa.LargeListArray if wide else pa.ListArray
            return lists.from_arrays(
                pa.array(offsets, pa.int64() if wide else pa.int32()), self.inner[0].take(total), type=self.storage
            )
        wide = pa.types.is_large_string(self.storage) or pa.types.is_large_binary(self.storage)
        marks32 = offsets.astype(np.int64 if wide else np.int32)
        content = pa.py_buffer(read_all(self.values, total))
        return pa.Array.from_buffers(self.storage, rows, [None, pa.py_buffer(marks32), content])


def first_array(name: str, kind: pa.DataType) -> tuple[str, pa.DataType]:
    """The first array of a field in an `.npz`, and the type that it is of."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if pa.types.is_struct(kind):
        return first_array(f"{name}.{kind.field(0).name}", kind.field(0).type)
    return (f"{name}.offsets" if is_varying(kind) else name), kind


def shape_of(file: IO[bytes]) -> tuple[int, ...]:
    """The shape that the header of an array says; the file stands behind it then."""
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape: tuple[int, ...] = read(file)[0]
    return shape


def is_varying(kind: pa.DataType) -> bool:
    """Whether rows of this type have lengths of their own: lists, text, bytes."""
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def fixed(kind: pa.DataType, rows: int, read: Callable[[int], bytes]) -> pa.Array:
    """`rows` rows of a type of fixed shape, from the bytes that NumPy has for them."""
    if pa.types.is_fixed_size_list(kind):
        inside = fixed(kind.value_type, rows * kind.list_size, read)
        return pa.Array.from_buffers(kind, rows, [None], children=[inside])
    if pa.types.is_boolean(kind):
        return pa.array(np.frombuffer(read(rows), np.bool_))
    if pa.types.is_date32(kind):  # 64 bits in NumPy
        days = np.frombuffer(read(8 * rows), "<i8").astype("<i4")
        return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(days)])
    return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(read(rows * (kind.bit_width // 8)))])


def read_all(file: IO[bytes], size: int) -> bytes:
    """The next `size` bytes; raises EOFError if there are fewer."""
    parts: list[bytes] = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    if size:
        raise EOFError(f"it ends {size:,} bytes too early")
    return b"".join(parts)
