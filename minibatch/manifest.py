"""What a data set consists of: `manifest.json`, and the fingerprint that identifies its content.

The fingerprint is a digest of schema and values only. Paths, file names, shard and chunk sizes, storage types and
compression do not enter, so a data set that is copied, renamed or cut into other shards keeps it; one changed value
does not. The manifest also has a digest of itself and of each file, by which damage is found.
"""

import base64
import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from minibatch.buffers import elements, wide
from minibatch.columns import SPARSE, Field, Leaf, fields_in
from minibatch.errors import DamagedDatasetError, DatasetError, SchemaError, UnfinishedDatasetError
from minibatch.storage import MANIFEST, write_atomically

FORMAT_VERSION = 1
MOST = 2**62  # of any number in a manifest: sums of two still fit into 64 bits
FOOTER_BYTES = 24  # that the footer of an Arrow file spends on each of its record batches: Block in File.fbs
DIGEST = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Arrow file: its name, rows, bytes, the XXH3-128 digest of its bytes, and its chunks as runs (rows, times).

    `elements` has the sum of the lengths of each list field; older manifests do not have it.
    """

    file: str
    rows: int
    bytes: int
    digest: str
    runs: tuple[tuple[int, int], ...]
    elements: dict[str, int] = dataclass_field(default_factory=dict, hash=False)

    @property
    def num_chunks(self) -> int:
        """How many chunks there are."""
        return sum(times for _, times in self.runs)

    @property
    def chunks(self) -> tuple[int, ...]:
        """The rows of each chunk. Laid out only here: until the file's size is checked, `runs` may say anything."""
        return tuple(rows for rows, times in self.runs for _ in range(times))


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
        "shards": [entry_of(shard) for shard in manifest.shards],
        "created_by": manifest.created_by,
        "source": manifest.source,
    }
    document["digest"] = xxhash.xxh3_128_hexdigest(canonical(document))
    write_atomically(folder / MANIFEST, json.dumps(document, indent=1).encode() + b"\n")


def entry_of(shard: Shard) -> dict[str, Any]:
    """What a manifest says of a shard; `shard_of` is the inverse."""
    entry = {"file": shard.file, "rows": shard.rows, "bytes": shard.bytes, "digest": shard.digest, "chunks": shard.runs}
    return {**entry, "elements": shard.elements} if shard.elements else entry


def pack_chunks(chunks: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Runs of equal chunks as (rows, times): short, and exact for any sizes.

    >>> pack_chunks([4, 4, 4, 1])
    ((4, 3), (1, 1))
    """
    return tuple((rows, len(list(run))) for rows, run in itertools.groupby(chunks))


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
        if not folder.is_dir():
            raise DatasetError(f"{folder} is a file; expected the folder of a data set") from None
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
        expected = xxhash.xxh3_128_hexdigest(canonical(document))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedDatasetError(f"{path} is not a readable manifest: {type(error).__name__}: {error}") from None
    if version != FORMAT_VERSION:
        raise DamagedDatasetError(
            f"{path} has format version {version!r}, this release reads version {FORMAT_VERSION}: update it"
        )
    if digest != expected:
        raise DamagedDatasetError(
            f"{path} was changed after it was written: its digest does not fit; convert the data again"
        )
    try:
        return from_document(document)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, pa.ArrowException) as error:
        raise DamagedDatasetError(
            f"{path} does not describe a data set ({type(error).__name__}: {error}): convert the data again"
        ) from None


def from_document(document: dict[str, Any]) -> Manifest:
    """The manifest that `document` describes; whatever does not fit or add up raises one of Python's own errors."""
    chunk_rows = integer(document, "chunk_rows", least=1)
    shards = tuple(shard_of(entry, chunk_rows) for entry in document["shards"])
    twice = [file for file, times in Counter(shard.file for shard in shards).items() if times > 1]
    if twice:
        raise ValueError(f"the shard {twice[0]!r} is listed more than once")
    rows = integer(document, "rows")
    if rows != sum(shard.rows for shard in shards):
        raise ValueError(f"its shards have {sum(shard.rows for shard in shards)} rows, not {rows} as it says")
    return Manifest(
        schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(document["schema"], validate=True))),
        rows=rows,
        chunk_rows=chunk_rows,
        shards=shards,
        fingerprint=digest_of(document, "fingerprint"),
        created_by=str(document["created_by"]),
        source=None if document["source"] is None else str(document["source"]),
    )


def shard_of(entry: dict[str, Any], chunk_rows: int) -> Shard:
    """The shard that an entry of a manifest describes: a file of the same folder, with chunks that can be in it."""
    file = entry["file"]
    if not file.isprintable() or file in ("", ".", "..") or "/" in file or "\\" in file:
        raise ValueError(f"{file!r} is not the name of a file in the same folder")
    runs = tuple((rows, times) for rows, times in entry["chunks"])
    shard = Shard(
        file=file,
        rows=integer(entry, "rows"),
        bytes=integer(entry, "bytes"),
        digest=digest_of(entry, "digest"),
        runs=runs,
        elements={name: integer(entry["elements"], name) for name in entry.get("elements", {})},
    )
    if any(type(number) is not int or number < 1 for run in runs for number in run):
        raise ValueError(f"{file} has chunks {runs!r:.60}, expected pairs of integers from 1")
    if sum(size * times for size, times in runs) != shard.rows or max(runs, default=(0, 0))[0] > chunk_rows:
        raise ValueError(f"{file} has chunks {runs!r:.60}, expected {shard.rows} rows, at most {chunk_rows} in each")
    if shard.num_chunks > shard.bytes // FOOTER_BYTES:
        raise ValueError(f"{file} has {shard.num_chunks} chunks, more than {shard.bytes} bytes can hold")
    return shard


def integer(document: dict[str, Any], key: str, least: int = 0) -> int:
    """The entry `key`, which must be an integer from `least`."""
    number = document[key]
    if type(number) is not int or not least <= number <= MOST:
        raise ValueError(f"{key} is {number!r:.60}, expected an integer from {least}")
    return number


def digest_of(document: dict[str, Any], key: str) -> str:
    """The entry `key`, which must be a digest of 32 hexadecimal digits."""
    digest = document[key]
    if not DIGEST.fullmatch(digest):
        raise ValueError(f"{key} is {digest!r:.60}, expected 32 hexadecimal digits")
    return str(digest)


class Fingerprint:
    """The digest of a data set's content, fed with chunks in order; where they are cut makes no difference.

    Each field has streams of its own: its values in row-major order, little-endian, bools one byte each; for text,
    bytes and lists also the lengths, 64 bits each, one stream for each level; for sparse vectors the 64-bit indices
    and their lengths, then the values and theirs. The fingerprint digests the fields' descriptions, the number of rows
    and the digests of all streams (XXH3-128).
    """

    def __init__(self, fields: list[Field]) -> None:
        self.fields = fields
        self.rows = 0
        self._streams = [
            [[xxhash.xxh3_128() for _ in range(1 + max(1, leaf.levels))] for leaf in field.leaves] for field in fields
        ]

    def update(self, columns: list[list[pa.Array]]) -> None:
        """Take in the next rows: for each field its leaves, as `buffers.readable` gives them, of equal lengths."""
        for field, leaves, streams in zip(self.fields, columns, self._streams, strict=True):
            for leaf, column, (values, *lengths) in zip(field.leaves, leaves, streams, strict=True):
                feed(column, field, leaf, values, lengths)
        self.rows += len(columns[0][0]) if columns else 0

    def hexdigest(self) -> str:
        """The fingerprint of all rows so far: 32 hexadecimal digits."""
        streams = [[stream.hexdigest() for leaf in field for stream in leaf] for field in self._streams]
        described = [field.describe() for field in self.fields]
        return xxhash.xxh3_128_hexdigest(canonical({"fields": described, "rows": self.rows, "streams": streams}))


def feed(column: pa.Array, field: Field, leaf: Leaf, values: Any, lengths: list[Any]) -> None:
    """Add the rows of one leaf to the stream of its values, and to those of its lengths, from the outside."""
    for stream in lengths[: leaf.levels - field.is_bytes]:
        stream.update(np.diff(column.offsets.to_numpy()).astype("<i8").data)
        column = elements(column)
    if not field.is_bytes:
        is_index = field.layout == SPARSE and leaf is field.leaves[0]
        values.update(flat_values(column.cast(pa.int64()) if is_index else column).view(np.uint8))
    elif len(column):
        texts = wide(column)
        marks = np.frombuffer(texts.buffers()[1], "<i8", len(texts) + 1, texts.offset * 8)
        lengths[-1].update(np.diff(marks).data)
        if marks[-1] > marks[0]:
            values.update(memoryview(texts.buffers()[2])[marks[0] : marks[-1]])


def flat_values(column: pa.Array) -> Any:
    """All elements of a column without lists in row-major order: 1-D, contiguous; bits as bools, others as bytes."""
    while pa.types.is_fixed_size_list(column.type):
        column = elements(column)
    if pa.types.is_boolean(column.type):
        return column.to_numpy(zero_copy_only=False)
    width = column.type.byte_width
    count = len(column) * width
    return (
        np.frombuffer(column.buffers()[1], np.uint8, count, column.offset * width) if count else np.zeros(0, np.uint8)
    )


def fields_of(schema: pa.Schema, unsupported: dict[str, SchemaError] | None = None) -> list[Field]:
    """The fields of a schema in order, structs as their fields with dotted names.

    Raises `SchemaError` for a name used twice, and for a type that cannot be read, unless there is a dict that takes
    the errors of `unsupported` fields by name.
    """
    try:
        twice = [name for name, times in Counter(schema.names).items() if times > 1]
    except UnicodeDecodeError as error:
        raise SchemaError(f"the name of a field is not text: {error}") from None
    fields = [field for arrow_field in schema for field in fields_in(arrow_field, unsupported)]
    twice += [name for name, times in Counter(field.name for field in fields).items() if times > 1]
    if twice:
        raise SchemaError(f"the field {twice[0]!r} occurs more than once: rename or leave out all but one")
    return fields
