"""What a data set consists of: `manifest.json`, and the fingerprint that identifies its content.

The fingerprint is a digest of schema and values only. Paths, file names, shard and chunk sizes, storage types and
compression do not enter, so a data set that is copied, renamed or cut into other shards keeps it; one changed value
does not. The manifest also has a digest of itself and of each file, by which damage is found.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from minibatch.columns import BITS, BYTES, Field, field_of
from minibatch.errors import DamagedDatasetError, UnfinishedDatasetError
from minibatch.storage import MANIFEST, write_atomically

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Arrow file: its name, rows, bytes, the XXH3-128 digest of its bytes, and the rows of each of its chunks."""

    file: str
    rows: int
    bytes: int
    digest: str
    chunks: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a data set consists of. `chunk_rows` is the nominal size of a chunk, which a windowed order counts in."""

    schema: pa.Schema
    rows: int
    chunk_rows: int
    shards: tuple[Shard, ...]
    fingerprint: str
    created_by: str
    source: str | None = None


def canonical(document: Any) -> bytes:
    """The one JSON text of a document: sorted keys, no spaces, ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` atomically; from then on the folder is a complete data set."""
    document = {
        "format": "minibatch",
        "format_version": FORMAT_VERSION,
        "fingerprint": manifest.fingerprint,
        "rows": manifest.rows,
        "chunk_rows": manifest.chunk_rows,
        "fields": [f"{field.name}: {field.type}" for field in manifest.schema],
        "schema": base64.b64encode(manifest.schema.serialize().to_pybytes()).decode(),
        "shards": [
            {"file": s.file, "rows": s.rows, "bytes": s.bytes, "digest": s.digest, "chunks": pack_chunks(s.chunks)}
            for s in manifest.shards
        ],
        "created_by": manifest.created_by,
        "source": manifest.source,
    }
    document["digest"] = xxhash.xxh3_128_hexdigest(canonical(document))
    write_atomically(folder / MANIFEST, json.dumps(document, indent=1).encode() + b"\n")


def pack_chunks(chunks: tuple[int, ...]) -> list[list[int]]:
    """Runs of equal chunks as [rows, times]: short, and exact for any sizes.

    >>> pack_chunks((4, 4, 4, 1))
    [[4, 3], [1, 1]]
    """
    runs: list[list[int]] = []
    for rows in chunks:
        if runs and runs[-1][0] == rows:
            runs[-1][1] += 1
        else:
            runs.append([rows, 1])
    return runs


def unpack_chunks(runs: list[list[int]], rows: int) -> tuple[int, ...]:
    """The inverse of `pack_chunks`; the runs must add up to `rows`, and only then are they laid out."""
    if any(size < 1 or times < 1 for size, times in runs) or sum(size * times for size, times in runs) != rows:
        raise ValueError(f"chunks {runs} do not add up to {rows} rows")
    return tuple(size for size, times in runs for _ in range(times))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the data set in `folder`, its own digest verified.

    Raises `UnfinishedDatasetError` without a manifest, `DamagedDatasetError` if it is not as it was written.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if not folder.exists():
            raise FileNotFoundError(f"no such folder: {folder}") from None
        raise UnfinishedDatasetError(
            f"{folder} has no {MANIFEST}: it is not a data set, or its conversion was not "
            f"finished; run the conversion again"
        ) from None
    try:
        document = json.loads(text)
        if document["format"] != "minibatch":
            raise ValueError(f"its format is {document['format']!r}")
        version = document["format_version"]
        digest = document.pop("digest")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedDatasetError(f"{path} is not a readable manifest: {type(error).__name__}: {error}") from None
    if version != FORMAT_VERSION:
        raise DamagedDatasetError(
            f"{path} has format version {version!r}, this release reads version {FORMAT_VERSION}: update it"
        )
    if digest != xxhash.xxh3_128_hexdigest(canonical(document)):
        raise DamagedDatasetError(
            f"{path} was changed after it was written: its digest does not fit; convert the data again"
        )
    shards = tuple(
        Shard(
            file=s["file"],
            rows=s["rows"],
            bytes=s["bytes"],
            digest=s["digest"],
            chunks=unpack_chunks(s["chunks"], s["rows"]),
        )
        for s in document["shards"]
    )
    return Manifest(
        schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(document["schema"]))),
        rows=document["rows"],
        chunk_rows=document["chunk_rows"],
        shards=shards,
        fingerprint=document["fingerprint"],
        created_by=document["created_by"],
        source=document["source"],
    )


class Fingerprint:
    """The digest of a data set's content, fed with chunks in order; where they are cut makes no difference.

    Each field has a stream of its own: its values in row-major order, little-endian; bools one byte each; text and
    bytes as a stream of 64-bit lengths and one of data. The fingerprint digests the fields' descriptions, the number of
    rows and the digests of all streams (XXH3-128).
    """

    def __init__(self, fields: list[Field]) -> None:
        self.fields = fields
        self.rows = 0
        self._streams = [(xxhash.xxh3_128(), xxhash.xxh3_128()) for _ in fields]

    def update(self, columns: list[pa.Array]) -> None:
        """Take in the next rows: one Arrow array per field, of equal lengths, validated before."""
        for field, column, (values, lengths) in zip(self.fields, columns, self._streams, strict=True):
            if field.layout == BYTES:
                wide = column.cast(pa.large_binary() if not field.is_text else pa.large_string())
                marks = np.frombuffer(wide.buffers()[1], "<i8", len(wide) + 1, wide.offset * 8)
                lengths.update(np.diff(marks).data)
                if marks[-1] > marks[0]:
                    values.update(memoryview(wide.buffers()[2])[marks[0] : marks[-1]])
            else:
                values.update(flat_values(column, field).view(np.uint8))
        self.rows += len(columns[0])

    def hexdigest(self) -> str:
        """The fingerprint of all rows so far: 32 hexadecimal digits."""
        streams = [[values.hexdigest(), lengths.hexdigest()] for values, lengths in self._streams]
        described = [field.describe() for field in self.fields]
        return xxhash.xxh3_128_hexdigest(canonical({"fields": described, "rows": self.rows, "streams": streams}))


def flat_values(column: pa.Array, field: Field) -> Any:
    """All elements of a fixed-shape column in row-major order: 1-D, contiguous, not copied unless bit-packed."""
    values = column.storage if isinstance(column, pa.ExtensionArray) else column
    while pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
    if field.layout == BITS:
        return values.to_numpy(zero_copy_only=False)
    width = field.dtype.itemsize
    if pa.types.is_fixed_size_binary(values.type):
        width = values.type.byte_width
    buffer = values.buffers()[1]
    count = len(values) * width
    return np.frombuffer(buffer, np.uint8, count, values.offset * width) if count else np.zeros(0, np.uint8)


def fields_of(schema: pa.Schema) -> list[Field]:
    """The fields of a schema in order; raises `SchemaError` for a type that cannot be read."""
    return [field_of(schema.field(i)) for i in range(len(schema))]
