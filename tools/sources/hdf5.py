"""HDF5 files: each data set becomes a field, named by its path with dots for slashes; the first axis counts the rows.

Numbers and bools become arrays, fixed strings and strings of varying length text (bytes where they are not UTF-8 by
their own account), arrays of varying length (`vlen`) list fields. Data sets of one value (shape ()) are left out, and
so are those that other libraries hide beside the data (names of dimensions). All others must have the same number of
rows. Reads whole chunks where the file is chunked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from minibatch.errors import require
from minibatch.ragged import Ragged
from minibatch.tools.sources import Column, Options, Piece, rows_per_piece

TEXT_OF_VARYING_LENGTH = 64  # bytes assumed of one value whose size no header says


@dataclasses.dataclass(frozen=True, kw_only=True)
class Array:
    """One data set of the file: where it lies, and how its rows come (`number`, `text`, `bytes` or `list`)."""

    path: str
    form: str
    dtype: str
    shape: tuple[int, ...]
    row_bytes: int

    def __str__(self) -> str:
        return f"{self.form + ' of ' if self.form == 'list' else ''}{self.dtype} {self.shape}"


def open_source(text: str, options: Options) -> Hdf5Source:
    """The data sets of the file `text`, their types and shapes found to fit."""
    require("h5py", "convert", "reading HDF5")
    arrays: dict[str, Array] = {}
    skipped: list[str] = []
    with opened(text) as file:
        for path, data in datasets_in(file):
            if data.shape is None or not data.shape or is_scale(data):
                skipped.append(path)
                continue
            name = path.replace("/", ".")
            if name in arrays:
                raise ValueError(f"{text!r} has two data sets that become the field {name!r}: rename one")
            arrays[name] = described(data, path, f"{text!r}, data set {path!r}")
    if not arrays:
        raise ValueError(f"{text!r} holds no data sets with rows")
    first, *others = arrays.values()
    for other in others:
        if other.shape[0] != first.shape[0]:
            raise ValueError(
                f"{text!r}: {other.path!r} has {other.shape[0]:,} rows, {first.path!r} has {first.shape[0]:,}; all "
                "need the same first axis, which counts the rows: split the file"
            )
    return Hdf5Source(path=text, arrays=arrays, skipped=skipped, first=0, rows=first.shape[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hdf5Source:
    """Rows of the data sets of one HDF5 file, `rows` of them from `first` on."""

    path: str
    arrays: Mapping[str, Array]
    skipped: list[str]
    first: int
    rows: int

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return {}

    def describe(self) -> str:
        fields = ", ".join(f"{name} {array}" for name, array in self.arrays.items())
        left_out = f"; left out, because they have no rows: {', '.join(self.skipped)}" if self.skipped else ""
        return f"HDF5: {fields}{left_out}"

    def units(self) -> Iterator[Hdf5Source]:
        step = self.step()
        for start in range(self.first, self.first + self.rows, step):
            yield dataclasses.replace(self, first=start, rows=min(step, self.first + self.rows - start))

    def step(self) -> int:
        """How many rows make a piece: whole chunks of the file if it has chunks, so that none is read twice."""
        step = rows_per_piece(sum(array.row_bytes for array in self.arrays.values()))
        with opened(self.path) as file:
            chunks = [data.chunks[0] for array in self.arrays.values() if (data := file[array.path]).chunks]
        chunk = math.lcm(*chunks) if chunks else 1
        return max(1, step // chunk) * chunk if chunk <= 4 * step else step

    def batches(self) -> Iterator[Piece]:
        step = self.step()
        with opened(self.path) as file:
            for start in range(self.first, self.first + self.rows, step):
                stop = min(start + step, self.first + self.rows)
                yield {name: read(file, self.path, array, start, stop) for name, array in self.arrays.items()}


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """The HDF5 file at `path`; one that cannot be read is an error that names it."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path!r} cannot be read as HDF5, it was truncated or is something else: {error}") from error
    try:
        with file:
            yield file
    except (OSError, RuntimeError, KeyError, TypeError, UnicodeDecodeError) as error:  # what h5py says of damage
        raise ValueError(f"{path!r} cannot be read as HDF5, it is damaged: {error}") from error


def datasets_in(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """The data sets below `group` with their paths, sorted by name; links are followed, but not to other files."""
    import h5py

    for name in sorted(group):
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(f"{group.file.filename!r}: {above + name!r} lies in another file, {link.filename!r}")
        found = group[name]
        if isinstance(found, h5py.Dataset):
            yield above + name, found
        elif isinstance(found, h5py.Group) and not isinstance(link, h5py.SoftLink):
            yield from datasets_in(found, f"{above}{name}/")


def is_scale(data: Any) -> bool:
    """Whether `data` only names the places along an axis of others (HDF5 dimension scales, as netCDF writes them)."""
    return data.attrs.get("CLASS") in (b"DIMENSION_SCALE", "DIMENSION_SCALE") and data.ndim == 1


def described(data: Any, path: str, where: str) -> Array:
    """How the rows of `data` come; raises ValueError for types that no data set can hold."""
    import h5py

    text = h5py.check_string_dtype(data.dtype)
    vlen = h5py.check_vlen_dtype(data.dtype) if text is None else None
    inside = math.prod(data.shape[1:])
    if text is not None or vlen is not None:
        if data.ndim != 1:
            raise ValueError(f"{where} has text or lists of shape {data.shape}; expected one per row, shape (rows,)")
        if vlen is not None and np.dtype(vlen).kind not in "biuf":
            raise ValueError(f"{where} has lists of {vlen}: expected numbers")
        size = text.length or TEXT_OF_VARYING_LENGTH if text is not None else 16 * np.dtype(vlen).itemsize
        form = "list" if text is None else "text" if text.encoding == "utf-8" or text.length is None else "bytes"
        dtype = "str" if form == "text" else "bytes" if form == "bytes" else np.dtype(vlen).name
        return Array(path=path, form=form, dtype=dtype, shape=data.shape, row_bytes=size)
    if data.dtype.kind not in "biuf" or data.dtype.itemsize > 8:
        advice = "save its members as data sets of their own" if data.dtype.names else "save it as numbers or text"
        raise ValueError(f"{where} has the type {data.dtype}, which is not supported: {advice}")
    if inside == 0:
        raise ValueError(f"{where} has shape {data.shape}: its rows hold no value")
    return Array(
        path=path, form="number", dtype=data.dtype.name, shape=data.shape, row_bytes=inside * data.dtype.itemsize
    )


def read(file: Any, path: str, array: Array, start: int, stop: int) -> Column:
    """Rows `start` … `stop` - 1 of one data set."""
    data = file[array.path]
    try:
        if array.form == "text":
            return list(data.asstr(errors="strict")[start:stop])
        values = data[start:stop]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path!r}, data set {array.path!r}, rows {start:,} to {stop:,}: not UTF-8: {error}"
        ) from error
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{path!r}, data set {array.path!r}, rows {start:,} to {stop:,} cannot be read, it is damaged: {error}"
        ) from error
    if array.form == "bytes":
        return [bytes(value) for value in values]
    if array.form == "list":
        offsets = np.zeros(len(values) + 1, np.int64)
        np.cumsum([len(value) for value in values], out=offsets[1:])
        return Ragged(np.concatenate([np.zeros(0, array.dtype), *values]).astype(array.dtype), offsets)
    return np.ascontiguousarray(values, values.dtype.newbyteorder("="))
