"""Whether a data set is what its manifest says: every byte of every shard is read once."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import xxhash

from minibatch.buffers import NullMask, Nulls, checked_leaves
from minibatch.columns import Field
from minibatch.errors import DatasetError
from minibatch.foreign import is_foreign, read_foreign
from minibatch.manifest import Fingerprint, Manifest, Shard, fields_of, read_manifest
from minibatch.shards import open_shard
from minibatch.storage import MANIFEST, map_file


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong, and with which file of the data set (None: with the whole)."""

    shard: str | None
    what: str


def check_dataset(path: str | os.PathLike[str], progress: Callable[[Shard], None] | None = None) -> list[Problem]:
    """All that is wrong with the data set in `path`; an empty list if nothing is.

    Reads everything: the manifest's own digest, each shard's size and digest, its Arrow structure, schema, row counts,
    buffers, offsets, text and nulls, and the fingerprint of the content. Files that others wrote have no manifest and
    so no digests to compare: of them the rest is checked, as far as their types can be read, and nulls are no problem.
    `progress` is called after each shard.
    """
    foreign = is_foreign(Path(path))
    try:
        folder, manifest = manifest_at(Path(path))
        fields = fields_of(manifest.schema, {} if foreign else None)
    except (DatasetError, OSError) as error:
        return [Problem(shard=None if foreign else MANIFEST, what=str(error))]
    nulls = {field.name: NullMask() for field in fields} if foreign else {}
    problems: list[Problem] = []
    fingerprint: Fingerprint | None = Fingerprint(fields)
    for shard in manifest.shards:
        found = check_shard(folder, shard, manifest, fields, nulls, fingerprint)
        if found:
            fingerprint = None  # of no use any more: the damage is known
            problems.extend(Problem(shard=shard.file, what=what) for what in found)
        if progress is not None:
            progress(shard)
    if fingerprint is not None and manifest.fingerprint not in ("", fingerprint.hexdigest()):
        what = f"the content has the fingerprint {fingerprint.hexdigest()}, the manifest says {manifest.fingerprint}"
        problems.append(Problem(shard=None, what=what))
    return problems


def manifest_at(path: Path) -> tuple[Path, Manifest]:
    """The folder and the manifest of the data set at `path`; for files of others, one without digests."""
    return read_foreign(path) if is_foreign(path) else (path, read_manifest(path))


def check_shard(
    folder: Path, shard: Shard, manifest: Manifest, fields: list[Field], nulls: Nulls, fingerprint: Fingerprint | None
) -> list[str]:
    """What is wrong with one shard; its content is added to `fingerprint` if nothing is."""
    found: list[str] = []
    try:
        content = map_file(folder / shard.file, shard.bytes)
        digest = xxhash.xxh3_128_hexdigest(content) if shard.digest else ""
        if digest != shard.digest:
            found.append(f"its bytes have the digest {digest}, the manifest says {shard.digest}: they were changed")
        opened = open_shard(folder, shard, manifest.schema)
        for number, batch in enumerate(opened):
            batch.validate(full=True)
            checked_leaves(batch, fields, f"chunk {number}", nulls)
        if fingerprint is not None and not found:
            for number, batch in enumerate(opened):
                fingerprint.update(checked_leaves(batch, fields, f"chunk {number}", nulls))
    except (DatasetError, OSError, pa.ArrowException) as error:
        found.append(str(error))
    return found
