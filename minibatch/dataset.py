"""A folder of shards as one long sequence of rows, and what views of such folders are made of.

Opening reads the manifest and looks at the files' sizes; a shard is mapped, and everything about it checked, when
a row of it is first asked for. No row is read before it is needed.
"""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.buffers import NullMask, Nulls, fill_of
from minibatch.chunks import Chunks, Place
from minibatch.columns import Field, mask_of
from minibatch.errors import DatasetError, SchemaError
from minibatch.foreign import is_foreign, read_foreign
from minibatch.gathering import Column, Gathering
from minibatch.kernels import lists
from minibatch.manifest import Manifest, fields_of, read_manifest
from minibatch.memory import Pool
from minibatch.storage import MANIFEST, check_size, file_identity


@dataclass(frozen=True, kw_only=True)
class Part:
    """Fields of a data set that lie together: by name as they are stored in `chunks`, and which rows of those.

    `picked`, int64 (rows,), has the stored row of each row; None where they are the same.
    """

    chunks: Chunks
    fields: dict[str, Field]
    picked: NDArray[np.int64] | None = None


class Dataset:
    """A data set: `len()`, `fields`, `fingerprint`, and rows by number with `read`. Open one with `Dataset.open`.

    `folder` is where it lies (for a view, where its first part does), `schema` its Arrow schema, `chunk_rows` the
    nominal size of a chunk. A view (`minibatch.views`) is a data set made of others; it has no `manifest` of its own.

    >>> import tempfile
    >>> from minibatch import DatasetWriter
    >>> folder = tempfile.mkdtemp()
    >>> with DatasetWriter(folder) as writer:
    ...     writer.write({"x": np.arange(10) ** 2})
    >>> Dataset.open(folder).read([3, 1])["x"].tolist()
    [9, 1]
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        rows: int,
        chunk_rows: int,
        fingerprint: Callable[[], str],
        reopen: tuple[Callable[..., "Dataset"], tuple[Any, ...]],
        name: str,
    ) -> None:
        self.parts = tuple(parts)
        self.fields: dict[str, Field] = {
            name: replace(field, name=name) for part in parts for name, field in part.fields.items()
        }
        self.chunk_rows = chunk_rows
        self.name = name
        self.folder = self.parts[0].chunks.places[0].folder
        self._rows = rows
        self._fingerprint: str | Callable[[], str] = fingerprint
        self._reopen = reopen

    @classmethod
    def open(
        cls,
        path: "str | os.PathLike[str] | Dataset",
        fields: Sequence[str] | None = None,
        nulls: Nulls | None = None,
    ) -> "Dataset":
        """The data set in folder `path` (or `path` itself if it is one already).

        Also opens, without conversion, one Arrow file, Feather file or Arrow stream, a folder of them, and a data set
        that Hugging Face saved with `save_to_disk`. With `fields`, other fields may have types that cannot be read.
        `nulls` says what nulls of a field read as: a value, or a `NullMask`; nulls of other fields are an error.

        Raises `FileNotFoundError`, `UnfinishedDatasetError` (no manifest), `DamagedDatasetError` (files missing or of
        another size, a changed manifest) or `SchemaError` (a type that cannot be read), each saying what to do.
        """
        if isinstance(path, Dataset):
            if nulls:
                raise ValueError("nulls= is said when a data set is opened: Dataset.open(folder, nulls=…)")
            return path
        folder = Path(path)
        if is_foreign(folder):
            folder, manifest = read_foreign(folder)
            opened = None
        else:
            opened = file_identity(folder / MANIFEST)
            manifest = read_manifest(folder)
        for shard in manifest.shards:
            check_size(folder / shard.file, shard.bytes)
        place = Place(folder=folder, manifest=manifest, opened=opened)
        found = readable_fields(manifest, fields, nulls or {})
        chunks = Chunks([place], found, nulls)
        return cls(
            [Part(chunks=chunks, fields=found)],
            rows=manifest.rows,
            chunk_rows=manifest.chunk_rows,
            fingerprint=lambda: manifest.fingerprint or chunks.fingerprint(identifying(fields, found)),
            reopen=(Dataset.open, (os.path.abspath(path), fields, nulls)),
            name=str(path),
        )

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, rows={len(self)}, fields={list(self.fields)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reopen

    @property
    def fingerprint(self) -> str:
        """The digest of schema and content: 32 hexadecimal digits. Files without a manifest are read for it, once, as
        far as `fields` was given when they were opened."""
        if not isinstance(self._fingerprint, str):
            self._fingerprint = self._fingerprint()
        return self._fingerprint

    @property
    def manifest(self) -> Manifest:
        """What the data set consists of."""
        places = {id(place): place for part in self.parts for place in part.chunks.places}
        if len(places) != 1 or any(part.picked is not None for part in self.parts):
            raise DatasetError(f"{self.name} is a view: the data sets that it is made of have manifests")
        return next(iter(places.values())).manifest

    @property
    def schema(self) -> Any:
        """The Arrow schema of the stored columns."""
        return self.manifest.schema

    @property
    def chunks(self) -> Chunks:
        """Where the fields lie, for a data set of one part."""
        return self.parts[0].chunks

    @property
    def stored_bytes(self) -> int:
        """Bytes of all shards that fields lie in."""
        return sum(
            shard.bytes for part in self.parts for place in part.chunks.places for shard in place.manifest.shards
        )

    def select(self, names: Sequence[str] | None) -> list[str]:
        """`names`, checked to be fields; the names of all fields for None."""
        if names is None:
            return list(self.fields)
        if isinstance(names, str):
            raise TypeError(f"fields must be a sequence of names, got the string {names!r}: write [{names!r}]")
        return [known(name, self.fields, self.name) for name in names]

    def gatherings(self, names: Sequence[str]) -> list[tuple[Part, Gathering]]:
        """How to gather the fields `names` from the parts they lie in; at least one part, if only to check rows."""
        found: list[tuple[Part, Gathering]] = []
        for part in self.parts:
            here = {name: part.fields[name] for name in names if name in part.fields}
            if here or (part is self.parts[-1] and not found):
                found.append((part, Gathering(part.chunks, here)))
        return found

    def read(self, rows: Any, fields: Sequence[str] | None = None) -> dict[str, Any]:
        """The given rows, in the given order: a dict of arrays (len(rows), *shape); object arrays for text and bytes,
        `Ragged` for lists, `Sparse` for sparse vectors.

        Raises `IndexError` for a row outside 0 … len − 1.
        """
        wanted = np.asarray(rows)
        if wanted.size == 0:
            wanted = wanted.astype(np.int64)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise TypeError(f"rows must be a sequence of integers, got {wanted.dtype} of shape {wanted.shape}")
        names = self.select(fields)
        columns = self.gather(np.ascontiguousarray(wanted, np.int64), self.gatherings(names), Pool())
        return {name: columns[name].view(0, len(wanted)) for name in names}

    def gather(
        self, rows: NDArray[np.int64], gatherings: Sequence[tuple[Part, Gathering]], pool: Pool
    ) -> dict[str, Column]:
        """The given rows, gathered as `gatherings` says: int64 (n,), any order, repetitions allowed."""
        columns: dict[str, Column] = {}
        for part, gathering in gatherings:
            columns |= gathering.rows(self.stored_rows(part, rows), pool)
        return columns

    def lengths(self, rows: NDArray[np.int64], names: Sequence[str]) -> NDArray[np.int64]:
        """The longest of the list fields `names` in each row, in elements of the outer list: int64 (n,)."""
        lengths = np.zeros(len(rows), np.int64)
        for part in self.parts:
            here = [name for name in names if name in part.fields]
            if here:
                part.chunks.use(part.fields[name] for name in here)
                stored = self.stored_rows(part, rows)
                tables = [part.chunks.leaves[part.fields[name].name][0] for name in here]
                for piece, chunks in part.chunks.pieces(stored):
                    for table in tables:
                        where = (stored[piece], chunks, part.chunks.starts, table.offsets[0], table.offset_bytes[0])
                        lists.row_lengths(*where, lengths[piece])
        return lengths

    def stored_rows(self, part: Part, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of `part.chunks` that the given rows are; IndexError for one that does not exist."""
        if part.picked is None:
            return rows
        if len(rows) and (rows.min() < 0 or rows.max() >= len(part.picked)):
            bad = rows[(rows < 0) | (rows >= len(part.picked))][0]
            raise IndexError(f"row {bad} of {self.name}, which has rows 0 … {len(self) - 1}")
        return part.picked[rows]


def known(name: Any, names: Mapping[str, Any], where: str) -> str:
    """`name`, if there is such a field; else the error that says which there are."""
    if name not in names:
        close = difflib.get_close_matches(str(name), names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise SchemaError(f"no field {name!r} in {where}: it has {list(names)}{hint}")
    return str(name)


def identifying(fields: Sequence[str] | None, found: Mapping[str, Field]) -> list[str] | None:
    """The fields that identify files without a manifest: those picked, and lists, as their lengths may count."""
    return None if fields is None else [*fields, *(name for name, field in found.items() if field.depth)]


def readable_fields(manifest: Manifest, wanted: Sequence[str] | None, nulls: Nulls) -> dict[str, Field]:
    """The fields of a data set by name, with masks for those whose nulls come as one."""
    refused: dict[str, SchemaError] = {}
    found = fields_of(manifest.schema, None if wanted is None else refused)
    fields = {field.name: field for field in found}
    for name in wanted if wanted is not None and not isinstance(wanted, str) else ():
        if name in refused:
            raise refused[name]
    for name, policy in nulls.items():
        field = fields[known(name, fields, "this data set: nulls= names fields")]
        fill_of(field, policy)  # which refuses what its type cannot hold
        if isinstance(policy, NullMask):
            mask = mask_of(field)
            if mask.name in fields:
                raise SchemaError(
                    f"the mask of field {name!r} is called {mask.name!r}, as a field is: rename that field"
                )
            fields[mask.name] = mask
    return fields
