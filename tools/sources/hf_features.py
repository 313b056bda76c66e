"""What Hugging Face's `datasets` notes about columns beside Arrow's types: classes, images, arrays of a fixed shape.

It stands in dataset_info.json or in the schema's metadata under "huggingface". Names of classes go into the schema's
notes; images, audio and other files, structs of bytes and path, become their bytes; arrays of a fixed shape, nested
lists, become tensors.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as types

FILES = frozenset({"Image", "Audio", "Video", "Pdf", "Nifti"})
ARRAYS = frozenset({"Array2D", "Array3D", "Array4D", "Array5D"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """What is known of the columns: notes for the schema, which columns are files, which are arrays of what shape."""

    notes: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    files: frozenset[str] = frozenset()
    shapes: Mapping[str, tuple[int | None, ...]] = dataclasses.field(default_factory=dict)

    def applied(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """`batch` with the bytes of files and with tensors where `self` says so."""
        for place, field in enumerate(batch.schema):
            column = batch.column(place)
            column = column.storage if isinstance(column, pa.ExtensionArray) else column
            if field.name in self.files and types.is_struct(column.type) and "bytes" in column.type.names:
                column = column.flatten()[column.type.get_field_index("bytes")]
            elif field.name in self.shapes:
                column = shaped(column, self.shapes[field.name])
            else:
                continue
            batch = batch.set_column(place, pa.field(field.name, column.type), column)
        return batch


def features_in(schema: pa.Schema) -> Features:
    """The features that `schema` notes; none if it was not written by `datasets`."""
    noted = (schema.metadata or {}).get(b"huggingface")
    try:
        described = json.loads(noted)["info"]["features"] if noted else {}
    except (ValueError, KeyError, TypeError):  # a note of somebody else's: Arrow's types are enough
        described = {}
    return features_of(described)


def features_of(described: Any) -> Features:
    """The features that dataset_info.json describes.

    >>> found = features_of({"y": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "x": {"_type": "Image"}})
    >>> dict(found.notes), sorted(found.files)
    ({'y': {'classes': '["cat", "dog"]'}}, ['x'])
    """
    if not isinstance(described, Mapping):
        return Features()
    kinds = {name: kind for name, kind in described.items() if isinstance(kind, Mapping)}
    notes = {}
    for name, kind in described.items():
        for dotted, found in notes_of(name, kind):
            notes[dotted] = found
    return Features(
        notes=notes,
        files=frozenset(name for name, kind in kinds.items() if kind.get("_type") in FILES),
        shapes={
            name: tuple(kind["shape"])
            for name, kind in kinds.items()
            if kind.get("_type") in ARRAYS and is_shape(kind.get("shape"))
        },
    )


def is_shape(shape: Any) -> bool:
    """Whether `shape` is a list of sizes, the first of which may vary (None)."""
    if not isinstance(shape, list) or not shape:
        return False
    sizes = shape[1:] if shape[0] is None else shape
    return all(isinstance(size, int) and size > 0 for size in sizes)


def notes_of(name: str, kind: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """What the schema notes of a feature and of those inside: the names of classes, and how audio was sampled."""
    if isinstance(kind, list) and len(kind) == 1:  # how lists were written before 2021
        yield from notes_of(name, kind[0])
    if not isinstance(kind, Mapping):
        return
    if kind.get("_type") == "ClassLabel" and kind.get("names"):
        yield name, {"classes": json.dumps(list(kind["names"]), ensure_ascii=False)}
    elif kind.get("_type") == "Audio" and kind.get("sampling_rate"):
        yield name, {"sample_rate": str(kind["sampling_rate"])}
    elif "feature" in kind:
        yield from notes_of(name, kind["feature"])
    elif "_type" not in kind:
        for member, inside in kind.items():
            yield from notes_of(f"{name}.{member}", inside)


def shaped(column: pa.Array, shape: tuple[int | None, ...]) -> pa.Array:
    """Nested lists as fixed-size ones of `shape`, whose first axis may vary (None); a missing row stays missing.

    Raises ValueError for a row of another shape.
    """
    there = np.flatnonzero(np.asarray(column.is_valid()))
    flat = column.take(pa.array(there)) if len(there) < len(column) else column
    for axis, size in enumerate(shape):
        lengths = np.asarray(flat.value_lengths().fill_null(-1))
        if size is not None and (lengths != size).any():
            raise ValueError(f"a row has {lengths[lengths != size][0]} elements along axis {axis}, expected {shape}")
        if axis == 0:
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        flat = flat.flatten()
    for size in reversed(shape):
        lists = pa.ListArray.from_arrays(pa.array(offsets), flat) if size is None else None
        flat = pa.FixedSizeListArray.from_arrays(flat, size) if lists is None else lists
    if len(there) == len(column):
        return flat
    places = np.zeros(len(column), np.int64)
    places[there] = np.arange(len(there))
    return flat.take(pa.array(places, mask=~np.isin(np.arange(len(column)), there)))
