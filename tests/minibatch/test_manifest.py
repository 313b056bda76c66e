"""`manifest`: it says what was written, every change to it is found, and one that cannot be true is refused at once."""

import hashlib
import itertools
import json
import os
import time
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from minibatch import Dataset
from minibatch.check import check_dataset
from minibatch.errors import DamagedDatasetError, DatasetError, SchemaError, UnfinishedDatasetError
from minibatch.manifest import FORMAT_VERSION, pack_chunks, read_manifest
from tests import datasets
from tests.datasets import put


@given(st.lists(st.integers(1, 3), max_size=12))
def test_chunks_are_packed_into_runs_without_loss(chunks):
    runs = pack_chunks(chunks)
    assert [rows for rows, times in runs for _ in range(times)] == chunks
    assert all(one[0] != other[0] for one, other in itertools.pairwise(runs))


@pytest.fixture
def folder(tmp_path):
    """Ten rows in chunks of 2 and shards of 4."""
    path = tmp_path / "data ☃"
    put(path, {"x": np.arange(10), "s": [f"row {i}" for i in range(10)]}, 2, 4, metadata={"x": {"a": "b"}})
    return path


@pytest.fixture
def small(tmp_path):
    """Three rows in one shard."""
    put(tmp_path / "small", {"x": np.arange(3)})
    return tmp_path / "small"


def test_a_manifest_says_what_was_put(folder):
    manifest = read_manifest(folder)
    assert (manifest.rows, manifest.chunk_rows) == (10, 2)
    assert [(shard.file, shard.rows, shard.chunks, shard.num_chunks) for shard in manifest.shards] == [
        ("shard-00000.arrow", 4, (2, 2), 2),
        ("shard-00001.arrow", 4, (2, 2), 2),
        ("shard-00002.arrow", 2, (2,), 1),
    ]
    for shard in manifest.shards:
        content = (folder / shard.file).read_bytes()
        assert (shard.bytes, shard.digest) == (len(content), xxhash.xxh3_128(content).hexdigest())
    assert manifest.schema.field("x").metadata == {b"a": b"b"}
    assert manifest.created_by.startswith("minibatch ")
    assert manifest.source is None


def test_the_manifest_of_the_same_data_has_the_same_bytes(folder, tmp_path):
    fields = {"x": np.arange(10), "s": [f"row {i}" for i in range(10)]}
    put(tmp_path / "again", fields, 2, 4, metadata={"x": {"a": "b"}}, cuts=[1, 7])
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_layout_of_the_text_does_not_matter(folder):
    document = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(dict(reversed(document.items())), indent=7))
    assert check_dataset(folder) == []


def test_what_is_no_folder_is_said_to_be_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_manifest(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="file is a file; expected the folder of a data set"):
        read_manifest(tmp_path / "file")
    with pytest.raises(UnfinishedDatasetError, match=r"has no manifest.json: .* run the conversion again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100, b"{", b"[]", b"null", b"7", b'"minibatch"', b"\xff\xfe", b'{"format": "minibatch"}',
     b'{"format": "other", "format_version": 1, "digest": ""}', b"[" * 100_000, b'{"a":' * 100_000,
     b'{"format": "minibatch", "format_version": 1, "digest": "", "rows": ' + b"9" * 5000 + b"}",
     b'{"format": "minibatch", "format_version": 1, "digest": ["a"], "rows": NaN}'],
    ids=lambda content: repr(content[:20]),
)  # fmt: skip
def test_what_is_no_manifest_is_damage(content, folder):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(DamagedDatasetError, match=r"manifest\.json"):
        Dataset.open(folder)
    assert [problem.shard for problem in check_dataset(folder)] == ["manifest.json"]


def test_a_manifest_of_a_later_release_asks_for_it(folder):
    datasets.put_manifest(folder, {**datasets.manifest_of(folder), "format_version": FORMAT_VERSION + 1})
    with pytest.raises(DamagedDatasetError, match="has format version 2, this release reads version 1: update it"):
        read_manifest(folder)


def test_every_changed_byte_of_a_manifest_is_found(small):
    """All of them, in turn: the error names the manifest."""
    path = small / "manifest.json"
    content = path.read_bytes()
    for i in range(len(content)):
        changed = bytearray(content)
        changed[i] ^= 1 << i % 7
        if json_value(bytes(changed)) == json_value(content):
            continue  # a space for another
        datasets.replace_file(path, changed)
        with pytest.raises(DamagedDatasetError, match=r"manifest\.json"):
            read_manifest(small)
    path.write_bytes(content)
    assert check_dataset(small) == []


def json_value(content):
    try:
        return json.loads(content)
    except ValueError:
        return content


def test_every_shortened_manifest_is_found(small):
    path = small / "manifest.json"
    content = path.read_bytes()
    for size in range(0, len(content.rstrip()), 3):
        datasets.replace_file(path, content[:size])
        with pytest.raises(DamagedDatasetError, match=r"manifest\.json"):
            read_manifest(small)


HUGE = 10**15
TOP = [
    ("rows", -1), ("rows", 11), ("rows", "10"), ("rows", 10.0), ("rows", None), ("rows", True), ("rows", 2**80),
    ("chunk_rows", 0), ("chunk_rows", -2), ("chunk_rows", 1), ("chunk_rows", "2"), ("chunk_rows", 2.0),
    ("chunk_rows", None), ("chunk_rows", 2**63),
    ("shards", None), ("shards", 3), ("shards", "abc"), ("shards", [None]), ("shards", [[]]), ("shards", {}),
    ("shards", []), ("shards", [{}]),
    ("schema", ""), ("schema", "AAAA"), ("schema", "no base64!"), ("schema", None), ("schema", 7), ("schema", ["a"]),
    ("schema", "/////w=="), ("schema", "A" * 4000),
    ("fingerprint", None), ("fingerprint", 5), ("fingerprint", ""), ("fingerprint", "x" * 32), ("fingerprint", ["a"]),
]  # fmt: skip
OF_A_SHARD = [
    ("file", "../data ☃/shard-00001.arrow"), ("file", "/etc/passwd"), ("file", "a/b"), ("file", "a\\b"), ("file", ".."),
    ("file", "."), ("file", ""), ("file", "shard-00000.arrow"), ("file", "nul\0"), ("file", "\ud800"), ("file", 5),
    ("file", None), ("file", ["a"]), ("file", "line\nbreak"),
    ("rows", -4), ("rows", 5), ("rows", 0), ("rows", "4"), ("rows", 4.0), ("rows", None), ("rows", HUGE),
    ("bytes", -1), ("bytes", 0), ("bytes", "4"), ("bytes", 4.5), ("bytes", None), ("bytes", 2**70), ("bytes", HUGE),
    ("digest", ""), ("digest", None), ("digest", 4), ("digest", "g" * 32), ("digest", "a" * 31),
    ("chunks", []), ("chunks", None), ("chunks", 4), ("chunks", "44"), ("chunks", [4]), ("chunks", [[4]]),
    ("chunks", [[2, 2, 0]]), ("chunks", [[4, 1]]), ("chunks", [[2, 3]]), ("chunks", [[2.0, 2]]),
    ("chunks", [[2, True], [2, 1]]), ("chunks", [["2", 2]]), ("chunks", [[2, 2], [0, 5]]),
    ("chunks", [[2, 2], [0, HUGE]]), ("chunks", [[0, HUGE], [2, 2]]),
    ("chunks", [[2, 3], [2, -1]]), ("chunks", [[-2, -2]]), ("chunks", [[6, 1], [-2, 1]]), ("chunks", [[1, HUGE]]),
    ("chunks", [{"a": 1, "b": 2}]), ("chunks", {"ab": 2}),
]  # fmt: skip


def assert_refused(folder, match="manifest.json|shard-0000"):
    """A clear error from both, without the time or memory that the numbers would ask for."""
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(DatasetError, match=match) as caught:
        Dataset.open(folder)
    problems = check_dataset(folder)
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problems
    assert seconds < 10
    assert peak < 20e6
    return caught.value


@pytest.mark.parametrize(("key", "value"), TOP, ids=lambda value: repr(value)[:30])
def test_a_believable_manifest_with_an_absurd_value_is_refused(key, value, folder):
    datasets.put_manifest(folder, {**datasets.manifest_of(folder), key: value})
    assert_refused(folder)


@pytest.mark.parametrize(("key", "value"), OF_A_SHARD, ids=lambda value: repr(value)[:40])
def test_a_believable_manifest_with_an_absurd_shard_is_refused(key, value, folder):
    document = datasets.manifest_of(folder)
    document["shards"][1][key] = value
    datasets.put_manifest(folder, document)
    assert_refused(folder)


@pytest.mark.parametrize("key", ["rows", "chunk_rows", "shards", "schema", "fingerprint", "created_by", "source"])
def test_a_manifest_without_an_entry_is_refused(key, folder):
    document = datasets.manifest_of(folder)
    del document[key]
    datasets.put_manifest(folder, document)
    assert key in str(assert_refused(folder))


@pytest.mark.parametrize("key", ["file", "rows", "bytes", "digest", "chunks"])
def test_a_shard_without_an_entry_is_refused(key, folder):
    document = datasets.manifest_of(folder)
    del document["shards"][1][key]
    datasets.put_manifest(folder, document)
    assert key in str(assert_refused(folder))


@pytest.mark.parametrize("bytes_", [None, HUGE, 2**61])
def test_chunks_without_number_cost_nothing(bytes_, folder):
    """Rows, chunks and (but for None) bytes agree with each other, only not with the file."""
    document = datasets.manifest_of(folder)
    extra = {} if bytes_ is None else {"bytes": bytes_}
    document["shards"][1] |= {"rows": HUGE, "chunks": [[1, HUGE]], **extra}
    datasets.put_manifest(folder, {**document, "rows": HUGE + 6})
    assert_refused(folder, "manifest.json|shard-00001")


def test_a_list_of_many_absurd_shards_costs_no_more_than_its_text(folder):
    document = datasets.manifest_of(folder)
    one = {**document["shards"][1], "rows": HUGE, "chunks": [[1, HUGE]], "bytes": 24 * HUGE}
    shards = [{**one, "file": f"{i}.arrow"} for i in range(2000)]
    datasets.put_manifest(folder, {**document, "shards": shards, "rows": 2000 * HUGE})
    assert_refused(folder, "0.arrow is missing")


def test_more_chunks_than_the_file_has_room_for_are_refused_when_it_is_opened(folder):
    document = datasets.manifest_of(folder)
    size = document["shards"][1]["bytes"]
    document["shards"][1] |= {"rows": size, "chunks": [[1, size]]}
    datasets.put_manifest(folder, {**document, "rows": size + 6})
    with pytest.raises(DamagedDatasetError, match=f"{size} chunks, more than {size} bytes can hold"):
        Dataset.open(folder)


def test_other_chunks_than_the_file_has_are_found_when_it_is_read(folder):
    document = datasets.manifest_of(folder)
    document["shards"][1]["chunks"] = [[1, 2], [2, 1]]
    datasets.put_manifest(folder, document)
    dataset = Dataset.open(folder)
    assert dataset.read([0, 9])["x"].tolist() == [0, 9]
    with pytest.raises(DamagedDatasetError, match=r"shard-00001.arrow.*has 2 chunks, the manifest says 3"):
        dataset.read([4])
    assert [problem.shard for problem in check_dataset(folder)] == ["shard-00001.arrow"]


@pytest.mark.parametrize(
    ("schema", "error", "message"),
    [
        (pa.schema([("x", pa.int64()), ("x", pa.int64())]), SchemaError, "field 'x' occurs more than once"),
        (pa.schema([("x", pa.int64()), ("s", pa.decimal128(3))]), SchemaError, "field 's' has type decimal"),
        (pa.schema([("x", pa.int64()), ("s", pa.list_(pa.string()))]), DamagedDatasetError, "has the schema"),
        (pa.schema([("x", pa.int64())]), DamagedDatasetError, "has the schema"),
        (pa.schema([("s", pa.string()), ("x", pa.int64())]), DamagedDatasetError, "has the schema"),
        (pa.schema([("x", pa.uint64()), ("s", pa.string())]), DamagedDatasetError, "has the schema"),
        (pa.schema([("x", pa.int64(), False), ("s", pa.string(), False)]), DamagedDatasetError, "has the schema"),
        (pa.schema([]), DamagedDatasetError, "has the schema"),
    ],
    ids=str,
)
def test_another_schema_than_the_shards_have_is_refused(schema, error, message, folder):
    datasets.put_schema(folder, schema)
    with pytest.raises(error, match=message):
        Dataset.open(folder).read([0])
    assert check_dataset(folder)


def test_another_fingerprint_than_that_of_the_content_is_found(folder):
    other = hashlib.md5(b"").hexdigest()
    datasets.put_manifest(folder, {**datasets.manifest_of(folder), "fingerprint": other})
    (problem,) = check_dataset(folder)
    assert problem.shard is None
    assert other in problem.what


def test_a_manifest_that_is_a_folder_is_an_error_with_its_name(folder):
    (folder / "manifest.json").unlink()
    os.mkdir(folder / "manifest.json")
    with pytest.raises(OSError, match=r"manifest\.json"):
        Dataset.open(folder)
    assert [problem.shard for problem in check_dataset(folder)] == ["manifest.json"]
