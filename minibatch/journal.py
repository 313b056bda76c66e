"""What an unfinished data set has already: a journal beside its shards, so that its writer can go on after any stop.

The journal has one JSON document a line, each with a digest of itself: first what is written from what, then schema and
sizes, then every finished shard. A line is appended and synced after its shard was. The first line that is not whole
ends the journal: the stop came while it was written.
"""

import base64
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from minibatch.claim import JOURNAL, STAGED_SUFFIX, clear_unfinished
from minibatch.errors import DatasetError
from minibatch.incoming import field_columns
from minibatch.manifest import Fingerprint, Shard, canonical, entry_of, fields_of, shard_of
from minibatch.shards import open_shard
from minibatch.storage import MANIFEST, map_file, sync_folder

VERSION = 1
PARTS = ("what", "schema", "shard")  # the lines in their order; the last any number of times


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """What a writer that may resume has found: `rows` in `shards` shards; 0 if it starts from the first row.

    `mark` is what `DatasetWriter.mark` was last told before those rows ended, and `mark_rows` how many rows there were
    then. `refused` says why nothing, or no more, is kept of an unfinished data set that was there; None without cause.
    """

    rows: int = 0
    shards: int = 0
    mark: Any = None
    mark_rows: int = 0
    refused: str | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """The finished part of a data set, its shards read and found intact."""

    schema: pa.Schema
    chunk_rows: int
    shard_rows: int
    shards: tuple[Shard, ...]
    fingerprint: Fingerprint
    resumption: Resumption


class Journal:
    """The journal of the data set that is being written in a folder; lines are appended to what there is."""

    def __init__(self, folder: Path, keep_bytes: int) -> None:
        self.path = folder / JOURNAL
        self._file = open(self.path, "ab")  # noqa: SIM115  (open until the writer closes)
        self._file.truncate(keep_bytes)
        sync_folder(folder)

    def append(self, part: str, document: Mapping[str, Any]) -> None:
        """Add a line and wait until it is on disk."""
        self._file.write(line_of({part: document}))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, *, finished: bool) -> None:
        """Stop appending; of a data set that is `finished`, no journal is left."""
        with suppress(OSError):  # what a full disk did not take: each line was synced before it counted
            self._file.close()
        if finished:
            self.path.unlink(missing_ok=True)


def line_of(document: Mapping[str, Any]) -> bytes:
    """A line of the journal: the digest of a document, and the document.

    >>> len(line_of({"a": 1})), line_of({"a": 1})[33:40]
    (41, b'{"a":1}')
    """
    text = canonical(document)
    return xxhash.xxh3_128_hexdigest(text).encode() + b" " + text + b"\n"


def read_lines(path: Path) -> Iterator[tuple[str, Any, int]]:
    """The lines of a journal up to the first that is not whole: part, document, and the byte behind the line."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    end = 0
    for line in content.splitlines(keepends=True):
        digest, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or digest != xxhash.xxh3_128_hexdigest(text).encode():
            return
        end += len(line)
        ((part, document),) = json.loads(text).items()
        yield part, document, end


def schema_line(schema: pa.Schema, chunk_rows: int, shard_rows: int) -> dict[str, Any]:
    """The document of the line `schema`."""
    serialized = base64.b64encode(schema.serialize().to_pybytes()).decode()
    return {"schema": serialized, "chunk_rows": chunk_rows, "shard_rows": shard_rows}


def shard_line(shard: Shard, mark: Any, mark_rows: int) -> dict[str, Any]:
    """The document of a line `shard`."""
    return {"entry": entry_of(shard), "mark": mark, "mark_rows": mark_rows}


def resume_folder(folder: Path, what: Mapping[str, Any]) -> tuple[Journal, Found | None, str | None]:
    """The journal to go on with in `folder`, and what is kept of an unfinished data set made from the same `what`.

    Else nothing is kept, and the third result says why if there was something. Every shard that is kept has been read:
    its digest is that of the journal. What is not kept is removed.
    """
    lines = list(read_lines(folder / JOURNAL))
    refused = difference(lines[0][1], what) if lines else None
    found, keep_bytes = None, 0
    if lines and refused is None:
        found, keep_bytes, refused = finished_part(folder, lines)
    clear_unfinished(folder, {JOURNAL, *staged_names(found)})
    if found is not None and not (folder / MANIFEST).exists():
        for shard in found.shards:  # a replacement that was stopped between two names
            staged = folder / (shard.file + STAGED_SUFFIX)
            if staged.exists():
                os.replace(staged, folder / shard.file)
    journal = Journal(folder, keep_bytes)
    if found is None:
        journal.append("what", {"journal_version": VERSION, **what})
    return journal, found, refused


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """What tells the two descriptions of a writing apart, in words; None if nothing does.

    >>> old = {"journal_version": 1, "what": {"files": 3, "limit": 9}}
    >>> difference(old, {"what": {"files": 4, "limit": 9}}), difference(old, {"what": {"limit": 9, "files": 3}})
    ('files was 3 and is 4', None)
    """
    before, now = flat(old), flat({"journal_version": VERSION, **json.loads(canonical(new))})
    # What the caller has said comes first: the rest often follows from it.
    for key in sorted(before.keys() | now.keys(), key=lambda key: (not key.startswith("what."), key)):
        if before.get(key) != now.get(key):
            return f"{key.removeprefix('what.')} was {before.get(key)!r:.80} and is {now.get(key)!r:.80}"
    return None


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The entries of nested mappings under dotted names.

    >>> flat({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    entries: dict[str, Any] = {}
    for key, value in document.items():
        entries |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return entries


def finished_part(folder: Path, lines: list[tuple[str, Any, int]]) -> tuple[Found | None, int, str | None]:
    """The shards that are whole, how many bytes of the journal tell of them, and what is wrong with the one after."""
    if len(lines) < 3:
        return None, 0, None  # nothing was finished
    about = lines[1][1]
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(about["schema"])))
    fingerprint = Fingerprint(fields_of(schema))
    shards: list[Shard] = []
    mark, mark_rows, keep_bytes, refused = None, 0, 0, None
    for _, document, end in lines[2:]:
        shard = shard_of(document["entry"], about["chunk_rows"])
        if shard.rows < about["shard_rows"]:
            break  # the last one, of a source that had come to its end: it is soon written again
        refused = feed(folder, shard, schema, fingerprint)
        if refused is not None:
            break
        shards.append(shard)
        mark, mark_rows, keep_bytes = document["mark"], document["mark_rows"], end
    if not shards:
        return None, 0, refused
    resumption = Resumption(
        rows=sum(shard.rows for shard in shards), shards=len(shards), mark=mark, mark_rows=mark_rows, refused=refused
    )
    found = Found(
        schema=schema,
        chunk_rows=about["chunk_rows"],
        shard_rows=about["shard_rows"],
        shards=tuple(shards),
        fingerprint=fingerprint,
        resumption=resumption,
    )
    return found, keep_bytes, None


def feed(folder: Path, shard: Shard, schema: pa.Schema, fingerprint: Fingerprint) -> str | None:
    """Add the content of a finished shard to `fingerprint`; gives what is wrong if it is not there as it was written.

    While a complete data set is replaced, the shard lies beside it under its other name.
    """
    staged = dataclasses.replace(shard, file=shard.file + STAGED_SUFFIX)
    replaces = (folder / MANIFEST).exists()
    what = f"{shard.file} is missing"
    for place in [staged] if replaces else [staged, shard]:
        if not (folder / place.file).exists():
            continue
        try:
            content = map_file(folder / place.file, place.bytes)
            if xxhash.xxh3_128_hexdigest(content) != place.digest:
                what = f"{place.file} is not as it was written"
                continue
            opened = open_shard(folder, place, schema)
            batches = [opened.chunk(number) for number in range(len(opened))]
        except DatasetError as error:
            what = str(error)
            continue
        for batch in batches:
            fingerprint.update(field_columns(batch.columns, schema, fingerprint.fields, place.file))
        return None
    return what


def staged_names(found: Found | None) -> set[str]:
    """Both names that the shards kept may have: one of them now, the other later."""
    shards = found.shards if found is not None else ()
    return {name for shard in shards for name in (shard.file, shard.file + STAGED_SUFFIX)}
