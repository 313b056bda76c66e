"""Data sets for the tests of the data layer: of every type, written by Arrow alone, damaged, with edited manifests."""

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from minibatch import Dataset, DatasetWriter, NullMask, Ragged, Sparse
from minibatch.buffers import readable
from minibatch.manifest import Fingerprint, Manifest, Shard, canonical, fields_of, pack_chunks, write_manifest

WORDS = ("", "a", "ünï", "日本語", "🦊", "line\nbreak", "nul\0inside", "x" * 40)


def every_type(rows: int, first: int = 0) -> dict[str, Any]:
    """Fields of every type that can be written, as functions of the row number alone: rows first … first + rows - 1."""
    n = np.arange(first, first + rows)
    return {
        "bool": n % 3 == 0,
        **{f"int{bits}": (n * 37 - 64).astype(f"int{bits}") for bits in (8, 16, 32, 64)},
        **{f"uint{bits}": (n * 41).astype(f"uint{bits}") for bits in (8, 16, 32, 64)},
        **{f"float{bits}": (n / 7 - 1).astype(f"float{bits}") for bits in (16, 32, 64)},
        "date": n.astype("M8[D]"),
        **{f"time_{unit}": (n * 1000).astype(f"M8[{unit}]") for unit in ("s", "ms", "us", "ns")},
        **{f"span_{unit}": (n * -1000).astype(f"m8[{unit}]") for unit in ("s", "ms", "us", "ns")},
        "vector": (n[:, None] * 10 + np.arange(3)).astype(np.float32),
        "bits": (n[:, None] >> np.arange(5)) % 2 == 1,
        "image": (n[:, None, None] + np.arange(6).reshape(2, 3)).astype(np.uint8),
        "cube of bits": (n[:, None, None, None] >> np.arange(3)) % 2 * np.ones((1, 2, 1, 3)) == 1,
        "volume": (n[:, None, None, None, None] * 7 + np.arange(6).reshape(1, 2, 3, 1)).astype(np.int16),
        "instants": (n[:, None] + np.arange(2)).astype("M8[ms]"),
        "nothing": np.zeros((rows, 0), np.int32),
        "no bits": np.zeros((rows, 2, 0, 3), bool),
        "text": [WORDS[i % len(WORDS)] + str(i % 3) * (i % 2) for i in n.tolist()],
        "bytes": [WORDS[i % len(WORDS)].encode() + bytes([i % 256, 255]) * (i % 4) for i in n.tolist()],
        "empty text": [""] * rows,
        "größe ☃": n.astype(np.int8),
    }


def every_list(rows: int, first: int = 0) -> dict[str, Any]:
    """Fields of every kind of rows of varying length, as functions of the row number alone."""
    n = range(first, first + rows)
    words = [[WORDS[j % len(WORDS)] for j in range(i, i + i % 4)] for i in n]
    vectors = [[((7 * i + j) % 9, (i + j) / 2) for j in range(i % 3)] for i in n]
    return {
        "numbers": [np.arange(i, i + i % 5, dtype=np.int32) for i in n],
        "bools": [np.arange(i % 4) % 2 == 0 for i in n],
        "halves": [np.full(i % 2, i / 4, np.float16) for i in n],
        "moments": [np.arange(i % 3).astype("M8[s]") for i in n],
        "boxes": [np.arange(4 * (i % 3), dtype=np.float32).reshape(i % 3, 4) + i for i in n],
        "grids of bits": [np.arange(6 * (1 + i % 2)).reshape(-1, 2, 3) % (i + 2) == 0 for i in n],
        "words": words,
        "byte strings": [[word.encode() for word in row] for row in words],
        "nested": [[list(range(j)) for j in range(i % 3 + 1)] for i in n],
        "nested words": [[words[k][:j] for j in range(i % 3)] for k, i in enumerate(n)],
        "sparse": sparse_of(vectors),
        "sparse bools": sparse_of([[(index, index % 2 == 0) for index, _ in row] for row in vectors]),
        "sequences of sparse": Ragged(
            sparse_of([vector for i, vector in zip(n, vectors, strict=True) for vector in [vector] * (i % 3)]),
            np.array([0, *accumulate(i % 3 for i in n)], np.int64),
        ),
    }


def sparse_of(rows: Sequence[Sequence[tuple[int, Any]]], width: int = 9) -> Sparse:
    """Rows of pairs of index and value as a Sparse."""
    pairs = [pair for row in rows for pair in row]
    kind = np.float64 if not pairs or isinstance(pairs[0][1], float) else np.bool_
    return Sparse(
        np.array([index for index, _ in pairs], np.int64),
        np.array([value for _, value in pairs], kind),
        np.array([0, *accumulate(map(len, rows))], np.int64),
        width,
    )


def as_read(values: Any) -> np.ndarray[Any, Any]:
    """The array in which `Dataset.read` gives what was written as `values`."""
    if isinstance(values, list):
        return np.fromiter(values, object, len(values))
    if values.dtype.kind in "mM":
        return values.view(np.int64).astype(np.int32 if values.dtype == "M8[D]" else np.int64)
    return np.asarray(values)


def assert_read(got: Mapping[str, np.ndarray[Any, Any]], wanted: Mapping[str, Any]) -> None:
    """Names, dtypes, shapes and every bit of `got` must be those of `wanted`, given as it was written."""
    assert list(got) == list(wanted)
    for name, values in wanted.items():
        expected = as_read(values)
        assert (got[name].dtype, got[name].shape) == (expected.dtype, expected.shape), name
        if expected.dtype == object:
            assert got[name].tolist() == expected.tolist(), name
            assert {type(value) for value in got[name]} == {type(value) for value in expected}, name
        else:
            assert got[name].tobytes() == expected.tobytes(), name


def put(
    folder: Path,
    fields: Mapping[str, Any],
    chunk_rows: int | None = None,
    shard_rows: int | None = None,
    cuts: Sequence[int] = (),
    **options: Any,
) -> Path:
    """The folder of a data set of `fields`, its rows written in one call or cut at `cuts`."""
    rows = len(next(iter(fields.values())))
    with DatasetWriter(folder, chunk_rows, shard_rows, **options) as writer:
        for start, stop in zip([0, *cuts], [*cuts, rows], strict=True):
            writer.write({name: values[start:stop] for name, values in fields.items()})
            assert writer.rows == stop
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_all(folder: Path) -> dict[str, Any]:
    """Every row of a data set, as nested lists; NaN would not equal itself, so there should be none."""
    dataset = Dataset.open(folder)
    return {name: listed(column) for name, column in dataset.read(np.arange(len(dataset))).items()}


def listed(values: Any) -> list[Any]:
    """What `read` gives as Python's own values: a list of rows; of sparse vectors, pairs of indices and values."""
    if isinstance(values, Ragged):
        inner = listed(values.values)
        return [inner[a:b] for a, b in pairwise(values.offsets.tolist())]
    if isinstance(values, Sparse):
        return [(indices.tolist(), numbers.tolist()) for indices, numbers in values]
    rows: list[Any] = values.tolist()
    return rows


def write_foreign(
    folder: Path,
    shards: Sequence[Sequence[Mapping[str, pa.Array]]],
    *,
    metadata: Mapping[str, Mapping[str, str]] | None = None,
    options: pa.ipc.IpcWriteOptions | None = None,
    names: str = "part {}.feather",
) -> Path:
    """A data set whose shards Arrow itself has written: a list of shards of chunks of columns, sliced or not."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema(
        [pa.field(name, column.type, True, (metadata or {}).get(name)) for name, column in shards[0][0].items()]
    )
    fields = fields_of(schema)
    forgiving = dict.fromkeys((field.name for field in fields), NullMask())  # nulls are found when it is read
    fingerprint, listed = Fingerprint(fields), []
    for number, chunks in enumerate(shards):
        file = folder / names.format(number)
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
            for chunk in chunks:
                writer.write_batch(pa.record_batch(list(chunk.values()), schema=schema))
                fingerprint.update([readable(chunk[field.column], field, "a test", forgiving) for field in fields])
        rows = [len(next(iter(chunk.values()))) for chunk in chunks]
        content = file.read_bytes()
        digest = xxhash.xxh3_128_hexdigest(content)
        listed.append(Shard(file=file.name, rows=sum(rows), bytes=len(content), digest=digest, runs=pack_chunks(rows)))
    manifest = Manifest(
        schema=schema,
        rows=sum(shard.rows for shard in listed),
        chunk_rows=max((rows for shard in listed for rows, _ in shard.runs), default=1),
        shards=tuple(listed),
        fingerprint=fingerprint.hexdigest(),
        created_by="a test",
    )
    write_manifest(folder, manifest)
    return folder


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest as a JSON document."""
    document: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return document


def put_manifest(folder: Path, document: Mapping[str, Any]) -> None:
    """Write a manifest as somebody would who knows how its digest is made, and wants to be believed."""
    rest = {key: value for key, value in document.items() if key != "digest"}
    digest = xxhash.xxh3_128_hexdigest(canonical(rest))
    replace_file(folder / "manifest.json", json.dumps({**rest, "digest": digest}).encode())


def put_schema(folder: Path, schema: pa.Schema) -> None:
    """Let the manifest say that the data set has this schema."""
    serialized = base64.b64encode(schema.serialize().to_pybytes()).decode()
    put_manifest(folder, {**manifest_of(folder), "schema": serialized})


def replace_file(path: Path, content: bytes) -> None:
    """Give `path` other bytes in a new file, so that whoever has mapped the old one keeps it.

    Removed first: a file system may wait for the disk where a file takes the place of another.
    """
    path.unlink()
    path.write_bytes(content)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """An empty folder for one example of a property test."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
