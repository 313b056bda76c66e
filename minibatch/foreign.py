"""Arrow files that this package did not write: opened where they lie, without a manifest."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from minibatch.errors import DamagedDatasetError, DatasetError, SchemaError
from minibatch.manifest import MOST, Manifest, Shard, pack_chunks
from minibatch.record_batches import open_content
from minibatch.shards import same_fields
from minibatch.storage import LOCK, MANIFEST

SUFFIXES = (".arrow", ".feather", ".ipc", ".arrows")
OURS = re.compile(r"shard-\d+\.arrow(\..*)?")
HUGGING_FACE = "state.json"  # of `datasets.Dataset.save_to_disk`: names its files in order
FEATHER_1 = b"FEA1"
SPLITS = "dataset_dict.json"  # of `DatasetDict.save_to_disk`: a folder for each split


def is_foreign(path: Path) -> bool:
    """Whether `path` is an Arrow file, or a folder of Arrow files that no writer of this package has begun."""
    if path.is_file():
        return path.suffix in SUFFIXES
    if not path.is_dir() or (path / MANIFEST).exists() or (path / LOCK).exists():
        return False
    names = [entry.name for entry in path.iterdir()]
    if any(OURS.fullmatch(name) for name in names):
        return False  # what is left of a data set without its manifest
    return SPLITS in names or any(name.endswith(SUFFIXES) for name in names)


def read_foreign(path: Path) -> tuple[Path, Manifest]:
    """The folder of the files at `path`, and a manifest of them without fingerprint and digests.

    Raises `DamagedDatasetError` for a file that is none of Arrow's, `SchemaError` where they differ in schema.
    """
    folder, names = (path.parent, [path.name]) if path.is_file() else (path, files_of(path))
    shards: list[Shard] = []
    schema: pa.Schema | None = None
    for name in names:
        shard, found = read_file(folder, name)
        if schema is not None and not same_fields(found, schema):
            raise SchemaError(
                f"{name} in {folder} has the fields {told(found)}, {names[0]} has {told(schema)}: convert them"
            )
        schema = found
        shards.append(shard)
    if schema is None:
        raise DatasetError(f"{folder} has no Arrow files")
    chunk_rows = max((rows for shard in shards for rows, _ in shard.runs if rows), default=1)
    rows = sum(shard.rows for shard in shards)
    if rows > MOST:
        raise DamagedDatasetError(f"{folder} says that it has {rows:,} rows")
    return folder, Manifest(
        schema=schema, rows=rows, chunk_rows=chunk_rows, shards=tuple(shards), fingerprint="", created_by="Arrow files"
    )


def files_of(folder: Path) -> Sequence[str]:
    """The names of the Arrow files of a folder: in the order Hugging Face notes, else by name."""
    if (folder / SPLITS).exists():
        splits = sorted(entry.name for entry in folder.iterdir() if (entry / HUGGING_FACE).exists())
        raise DatasetError(f"{folder} holds a data set for each split: open one of the folders {splits} in it")
    if (folder / HUGGING_FACE).exists():
        return files_of_hugging_face(folder / HUGGING_FACE)
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(SUFFIXES) and entry.is_file())


def files_of_hugging_face(path: Path) -> Sequence[str]:
    """The names of the files that the `state.json` at `path` lists."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in state["_data_files"]]
        reordered = state.get("_indices_files") or state.get("_indices_data_files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedDatasetError(f"{path} does not name its data files: {error!r}") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise DamagedDatasetError(f"{path} lists {name!r}, which is no file of the same folder")
    if reordered:
        raise DatasetError(f"{path} picks rows by an index: flatten_indices() and save it again")
    return names


def read_file(folder: Path, name: str) -> tuple[Shard, pa.Schema]:
    """One file as a shard, and its schema; its rows are not read."""
    where = f"{name} in {folder}"
    try:
        content = pa.memory_map(str(folder / name)).read_buffer()
        if content.slice(0, 4).to_pybytes() == FEATHER_1:
            raise ValueError("it is of Feather's first version; pyarrow.feather reads it, and writes today's")
        _, rows, schema = open_content(content)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedDatasetError(f"{where} is not a readable Arrow file or stream: {error}") from None
    return Shard(file=name, rows=sum(rows), bytes=content.size, digest="", runs=pack_chunks(rows)), schema


def told(schema: pa.Schema) -> str:
    """The fields of a schema for a message."""
    return ", ".join(f"{field.name}: {field.type}" for field in schema)
