"""A folder of shards as one long sequence of rows.

Opening reads the manifest and looks at the files' sizes; a shard is mapped, and everything about it checked, when
a row of it is first asked for. No row is read before it is needed.
"""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.chunks import Chunks
from minibatch.columns import Field
from minibatch.errors import SchemaError
from minibatch.gathering import gather_rows
from minibatch.manifest import Manifest, fields_of, read_manifest
from minibatch.storage import MANIFEST, check_size, file_identity


class Dataset:
    """A data set on disk: `len()`, `fields`, `fingerprint`, and rows by number with `read`.

    >>> import tempfile
    >>> from minibatch import DatasetWriter
    >>> folder = tempfile.mkdtemp()
    >>> with DatasetWriter(folder) as writer:
    ...     writer.write({"x": np.arange(10) ** 2})
    >>> Dataset.open(folder).read([3, 1])["x"].tolist()
    [9, 1]
    """

    def __init__(self, folder: Path, manifest: Manifest, opened: tuple[int, ...] | None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.schema = manifest.schema
        self.fingerprint = manifest.fingerprint
        self.fields: dict[str, Field] = {field.name: field for field in fields_of(manifest.schema)}
        self.chunks = Chunks(folder, manifest, self.fields, opened)

    @classmethod
    def open(cls, path: "str | os.PathLike[str] | Dataset") -> "Dataset":
        """The data set in folder `path` (or `path` itself if it is one already).

        Raises `FileNotFoundError`, `UnfinishedDatasetError` (no manifest), `DamagedDatasetError` (files missing or of
        another size, a changed manifest) or `SchemaError` (a type that cannot be read), each saying what to do.
        """
        if isinstance(path, Dataset):
            return path
        folder = Path(path)
        opened = file_identity(folder / MANIFEST)
        manifest = read_manifest(folder)
        for shard in manifest.shards:
            check_size(folder / shard.file, shard.bytes)
        return cls(folder, manifest, opened)

    def __len__(self) -> int:
        return self.manifest.rows

    def __repr__(self) -> str:
        return f"Dataset({str(self.folder)!r}, rows={len(self)}, fields={list(self.fields)})"

    def select(self, names: Sequence[str] | None) -> list[Field]:
        """The fields called `names`, in that order; all of them for None."""
        if names is None:
            return list(self.fields.values())
        if isinstance(names, str):
            raise TypeError(f"fields must be a sequence of names, got the string {names!r}: write [{names!r}]")
        for name in names:
            if name not in self.fields:
                close = difflib.get_close_matches(str(name), self.fields, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise SchemaError(f"no field {name!r} in {self.folder}: it has {list(self.fields)}{hint}")
        return [self.fields[name] for name in names]

    def read(self, rows: Any, fields: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """The given rows, in the given order: a dict of arrays (len(rows), *shape); object arrays for text and bytes.

        Raises `IndexError` for a row outside 0 … len − 1.
        """
        wanted = np.asarray(rows)
        if wanted.size == 0:
            wanted = wanted.astype(np.int64)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise TypeError(f"rows must be a sequence of integers, got {wanted.dtype} of shape {wanted.shape}")
        columns = gather_rows(self.chunks, self.select(fields), np.ascontiguousarray(wanted, np.int64))
        return {name: column.view(0, len(wanted)) for name, column in columns.items()}
