"""NumPy files: `.npy` becomes the field `x`, each array of an `.npz` its own field; the first axis counts the rows.

An `.npy` file is mapped and an `.npz` member streamed (unpacked on the way if it is compressed), so memory holds a
piece of each array and no more. Objects are never unpickled: an array of them is refused. Headers are those of
numpy.lib.format.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import zipfile
import zlib
from collections.abc import Generator, Iterator, Mapping
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy

from minibatch.tools.sources import Column, Options, Piece, rows_per_piece, unpacked
from minibatch.tools.sources.exported import NOTED_ARRAY, ExportedArchive, first_array, is_varying, shape_of

# What zipfile raises for a member: wrong checksum, damaged data, cut short, unknown method, password needed.
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """What the header of one `.npy` says, and the byte at which its values begin."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    begin: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """The byte after the last value: the size of the file."""
        return self.begin + self.shape[0] * self.row_bytes


def open_source(text: str, options: Options) -> ArraySource | ExportedArchive:
    """The arrays of the file `text`, their headers read and found to fit the file and each other."""
    headers = {}
    if text.lower().endswith(".npy"):
        with open(text, "rb") as file:
            headers["x"] = read_header(file, repr(text), os.fstat(file.fileno()).st_size)
    else:
        with opened_archive(text) as archive:
            if f"{NOTED_ARRAY}.npy" in archive.namelist():
                return open_exported(archive, text)
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name == info.filename:
                    raise ValueError(f"{text!r} holds {name!r}, which is no .npy array: was it written by np.savez?")
                if name in headers:
                    raise ValueError(f"{text!r} holds two arrays named {name!r}: save them under names of their own")
                with opened_member(archive, name, text) as member:
                    headers[name] = read_header(member, f"{text!r}, array {name!r}", info.file_size)
    if not headers:
        raise ValueError(f"{text!r} holds no arrays")
    first, *others = headers
    for name in others:
        if headers[name].shape[0] != headers[first].shape[0]:
            raise ValueError(
                f"{text!r}: array {name!r} has {headers[name].shape[0]:,} rows, {first!r} has "
                f"{headers[first].shape[0]:,}; all arrays need the same first axis, which counts the rows"
            )
    return ArraySource(path=text, headers=headers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArraySource:
    """The arrays of one `.npy` or `.npz` file, row by row."""

    path: str
    headers: dict[str, Header]

    @property
    def rows(self) -> int:
        return next(iter(self.headers.values())).shape[0]

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return {}

    def describe(self) -> str:
        fields = (f"{name} {header.dtype} {header.shape}" for name, header in self.headers.items())
        return f"{len(self.headers)} NumPy array{'s' * (len(self.headers) != 1)}: {', '.join(fields)}"

    def batches(self) -> Iterator[Piece]:
        step = rows_per_piece(sum(header.row_bytes for header in self.headers.values()))
        with contextlib.ExitStack() as stack:
            if self.path.lower().endswith(".npy"):
                arrays = {name: mapped_pieces(self.path, header, step) for name, header in self.headers.items()}
            else:
                archive = stack.enter_context(opened_archive(self.path))
                arrays = {
                    name: stack.enter_context(contextlib.closing(member_pieces(archive, self.path, name, header, step)))
                    for name, header in self.headers.items()
                }
            for _ in range(0, self.rows, step):
                yield {name: storable(next(pieces)) for name, pieces in arrays.items()}


def open_exported(archive: zipfile.ZipFile, path: str) -> ExportedArchive:
    """The data set that was exported to the archive at `path`."""
    with opened_member(archive, NOTED_ARRAY, path) as member:
        schema = pa.ipc.read_schema(pa.py_buffer(bytes(read_exactly(member, shape_of(member)[0]))))

    @contextlib.contextmanager
    def read(name: str) -> Iterator[IO[bytes]]:
        with opened_archive(path) as again, opened_member(again, name, path) as member:
            shape_of(member)
            yield member

    name, kind = first_array(schema.field(0).name, schema.field(0).type)
    with opened_member(archive, name, path) as member:
        rows = shape_of(member)[0] - is_varying(kind)
    size = os.path.getsize(path)
    return ExportedArchive(path=path, rows=rows, schema=schema, row_bytes=size / max(1, rows), read=read)


def read_header(file: IO[bytes], where: str, size: int) -> Header:
    """The header of the `.npy` of `size` bytes that begins here in `file`; refuses what no data set can hold."""
    try:
        version = npy.read_magic(file)
        if version > (2, 0):  # version 3 differs only in the names of structured fields, which are refused anyway
            raise ValueError(f"format version {version} is for structured arrays")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
    except (ValueError, SyntaxError) as error:  # NumPy parses the header as Python
        raise ValueError(f"{where} does not begin like a NumPy array: {error}") from error
    if dtype.hasobject:
        raise ValueError(
            f"{where} is an array of Python objects, ragged rows perhaps; objects are never unpickled: "
            "save numbers, text (dtype 'U') or bytes (dtype 'S'), with one shape for all rows"
        )
    if dtype.kind == "c":
        raise ValueError(f"{where} is complex ({dtype}): save its real and imaginary parts as two arrays")
    if dtype.kind == "V":
        raise ValueError(
            f"{where} is a structured array ({dtype}): save each of its fields as an array of its own in an .npz"
        )
    if dtype.kind == "f" and dtype.itemsize > 8:
        raise ValueError(f"{where} is {dtype}, which other machines cannot read: save it as float64")
    if not shape:
        raise ValueError(f"{where} is a single value of shape (); its first axis must count the rows: shape (rows, …)")
    if dtype.kind in "US" and len(shape) != 1:
        raise ValueError(f"{where} is text of shape {shape}: text is supported with one value per row, shape (rows,)")
    if min(shape[1:], default=1) <= 0 or dtype.itemsize == 0:
        raise ValueError(f"{where} has shape {shape} and dtype {dtype}: its rows hold no value at all")
    header = Header(shape=shape, fortran_order=fortran_order, dtype=dtype, begin=file.tell())
    if header.end != size:
        raise ValueError(f"{where} has {size:,} bytes, its header says {header.end:,}: it was truncated or appended to")
    return header


def mapped_pieces(file: Any, header: Header, step: int) -> Iterator[np.ndarray[Any, Any]]:
    """The array in `file` (a path or an open file), mapped, in pieces of `step` rows."""
    order: Any = "F" if header.fortran_order else "C"
    array = np.memmap(file, dtype=header.dtype, mode="r", offset=header.begin, shape=header.shape, order=order)
    for start in range(0, header.shape[0], step):
        yield array[start : start + step]


def member_pieces(
    archive: zipfile.ZipFile, path: str, name: str, header: Header, step: int
) -> Generator[np.ndarray[Any, Any], None, None]:
    """The array `name` of the `.npz` file `path`, in pieces of `step` rows; the last read compares its checksum."""
    with opened_member(archive, name, path) as member:
        if header.fortran_order and len(header.shape) > 1:
            # The values of a row lie apart.
            with unpacked(member) as file:
                yield from mapped_pieces(file, header, step)
            return
        read_exactly(member, header.begin)
        for start in range(0, header.shape[0], step):
            rows = min(step, header.shape[0] - start)
            values = read_exactly(member, rows * header.row_bytes)
            if start + rows == header.shape[0]:
                member.read(1)  # zipfile compares the checksum when it meets the end
            yield np.frombuffer(values, header.dtype).reshape(rows, *header.shape[1:])


def read_exactly(file: IO[bytes], size: int) -> bytearray:
    """The next `size` bytes of `file`, which may give less than asked for at a time."""
    values = bytearray(size)
    with memoryview(values) as view:
        filled = 0
        while filled < size:
            chunk = file.read(min(size - filled, 2**20))
            if not chunk:
                raise EOFError(f"it ends {size - filled:,} bytes too early")
            view[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
    return values


@contextlib.contextmanager
def opened_archive(path: str) -> Iterator[zipfile.ZipFile]:
    """The `.npz` file at `path`; a damaged one is an error that names it."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path!r} is no readable .npz file ({error}): it was truncated, or is something else"
        ) from error


@contextlib.contextmanager
def opened_member(archive: zipfile.ZipFile, name: str, path: str) -> Iterator[IO[bytes]]:
    """The bytes of the array `name`; whatever cannot be read of it is an error that names file and array."""
    try:
        with archive.open(f"{name}.npy") as member:
            yield member
    except UNREADABLE as error:
        raise ValueError(f"{path!r}, array {name!r} cannot be read: {error}") from error


def storable(array: np.ndarray[Any, Any]) -> Column:
    """`array` as a data set holds it: contiguous, in this machine's byte order; text and bytes as lists."""
    if array.dtype.kind in "US":
        values: list[Any] = array.tolist()
        return values
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
