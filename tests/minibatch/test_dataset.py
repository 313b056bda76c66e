"""`Dataset`: rows by number from shards of any origin; what is wrong with files is found before a row is given."""

import os
import shutil
import threading
import warnings

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch import Dataset, DatasetWriter
from minibatch.check import check_dataset
from minibatch.errors import DamagedDatasetError, DatasetError, SchemaError, UnfinishedDatasetError
from tests import datasets
from tests.plain import gather as plain

ROWS = 40


@pytest.fixture(scope="module")
def fields():
    return datasets.every_type(ROWS)


@pytest.fixture(scope="module")
def folder(fields, tmp_path_factory):
    """Forty rows of every type in chunks of 4 and shards of 12; to be read, never written."""
    path = tmp_path_factory.mktemp("data") / "every type ☃"
    with DatasetWriter(path, 4, 12) as writer:
        writer.write(fields)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(folder, tmp_path / "copy")


# --- reading ------------------------------------------------------------------------------------------------------


def taken(fields, rows):
    return {
        name: [values[row] for row in rows] if isinstance(values, list) else values[np.array(rows, int)]
        for name, values in fields.items()
    }


@pytest.mark.kernels
@given(rows=st.lists(st.integers(0, ROWS - 1), max_size=60))
def test_rows_come_in_the_order_asked_for_however_often(rows, folder, fields):
    datasets.assert_read(Dataset.open(folder).read(rows), taken(fields, rows))


@pytest.mark.parametrize(
    "rows",
    [
        [3, 1],
        (3, 1),
        range(3, 0, -2),
        np.array([3, 1], np.int8),
        np.array([3, 1], np.uint64),
        np.array([3, 1], ">i4"),
        np.arange(8)[3::-2],
    ],
    ids=repr,
)
def test_rows_may_be_any_integers(rows, folder):
    assert Dataset.open(folder).read(rows)["int64"].tolist() == [3 * 37 - 64, 37 - 64]


@pytest.mark.parametrize("rows", [[], (), np.zeros(0), np.zeros(0, int), range(0)], ids=repr)
def test_no_rows_are_empty_arrays_of_the_right_shape(rows, folder, fields):
    got = Dataset.open(folder).read(rows)
    assert {name: (column.shape, column.dtype) for name, column in got.items()} == {
        name: ((0, *np.shape(values)[1:]), datasets.as_read(values).dtype) for name, values in fields.items()
    }


@pytest.mark.parametrize("row", [40, -1, 2**62, -(2**63), 2**63, 2**64 - 1])
def test_a_row_that_does_not_exist_is_an_index_error_before_anything_is_read(row, folder):
    dataset = Dataset.open(folder)
    with pytest.raises(IndexError, match=r"row .* of .*every type ☃, which has rows 0 … 39"):
        dataset.read(np.array([0, row], np.uint64 if row > 2**62 else np.int64))


@pytest.mark.parametrize("rows", [3, 1.5, [1.0], [True, False], [[1, 2]], ["1"], None, [None]], ids=repr)
def test_rows_that_are_no_integers_are_a_type_error(rows, folder):
    with pytest.raises(TypeError, match="rows must be a sequence of integers"):
        Dataset.open(folder).read(rows)


def test_fields_may_be_chosen_in_any_order(folder, fields):
    chosen = ["text", "int8", "größe ☃"]
    got = Dataset.open(folder).read([5, 39], chosen)
    datasets.assert_read(got, {name: taken(fields, [5, 39])[name] for name in chosen})
    assert Dataset.open(folder).read([5], []) == {}
    assert list(Dataset.open(folder).read([5], ("text", "text"))) == ["text"]


def test_an_unknown_field_is_refused_with_the_one_that_may_be_meant(folder):
    with pytest.raises(SchemaError, match=r"no field 'vektor' in .*; did you mean 'vector'\?"):
        Dataset.open(folder).read([0], ["vektor"])
    with pytest.raises(SchemaError, match=r"no field 5 in .*: it has \['bool', .*\]$"):
        Dataset.open(folder).read([0], [5])
    with pytest.raises(TypeError, match=r"got the string 'text': write \['text'\]"):
        Dataset.open(folder).read([0], "text")


def test_what_was_read_belongs_to_the_reader(folder, fields):
    dataset = Dataset.open(folder)
    first = dataset.read([1, 2])
    for column in first.values():
        column[...] = column[::-1].copy()
    datasets.assert_read(dataset.read([1, 2]), taken(fields, [1, 2]))


def test_an_empty_data_set_has_no_row(tmp_path):
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write({"x": np.zeros((0, 3), np.float32), "s": np.array([], "U1")})
    dataset = Dataset.open(tmp_path / "d")
    assert len(dataset) == 0
    assert {name: column.shape for name, column in dataset.read([]).items()} == {"x": (0, 3), "s": (0,)}
    with pytest.raises(IndexError, match=r"row 0 of .*, which has no rows"):
        dataset.read([0])


def test_fields_tell_type_shape_and_metadata(tmp_path):
    with DatasetWriter(tmp_path / "d", metadata={"x": {"unit": "µm"}}) as writer:
        writer.write({"x": np.zeros((2, 3, 4), np.float16), "s": ["a", "b"]})
    dataset = Dataset.open(str(tmp_path / "d"))
    x, s = dataset.fields["x"], dataset.fields["s"]
    assert (x.dtype, x.shape, x.row_size, x.row_bytes, x.metadata) == (np.float16, (3, 4), 12, 24, {"unit": "µm"})
    assert (s.dtype, s.shape, s.is_text, s.metadata) == (np.dtype(object), (), True, {})
    assert repr(dataset).endswith("rows=2, fields=['x', 's'])")
    assert Dataset.open(dataset) is dataset


@pytest.mark.parametrize("threads", [8])
def test_threads_may_read_at_once(threads, folder, fields):
    """All of them find no shard mapped at first."""
    chosen = {name: fields[name] for name in ("int32", "text")}
    problems = []

    def read(number, dataset, barrier):
        rows = np.random.default_rng(number).integers(0, ROWS, 100).tolist()
        barrier.wait()
        try:
            datasets.assert_read(dataset.read(rows, list(chosen)), taken(chosen, rows))
        except BaseException as error:
            problems.append(error)

    for _ in range(20):
        shared = (Dataset.open(folder), threading.Barrier(threads))
        started = [threading.Thread(target=read, args=(number, *shared)) for number in range(threads)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
        assert problems == []


def test_what_is_mapped_stays_readable_when_the_folder_is_gone(copy, fields):
    dataset = Dataset.open(copy)
    dataset.read([0, 39])
    shutil.rmtree(copy)
    datasets.assert_read(dataset.read([3, 37]), taken(fields, [3, 37]))
    with pytest.raises(DamagedDatasetError, match=r"shard-00001\.arrow is missing"):
        dataset.read([12])


def test_a_moved_or_renamed_data_set_is_the_same(copy, folder):
    moved = copy.rename(copy.with_name("ünd anders"))
    assert Dataset.open(moved).fingerprint == Dataset.open(folder).fingerprint
    assert check_dataset(moved) == []


def test_a_path_may_be_relative_and_the_folder_a_link(folder, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    assert len(Dataset.open("link").read([3])) == len(Dataset.open("link").fields)


# --- shards of any origin -----------------------------------------------------------------------------------------


def random_column(draw, kind, rows):
    """A column of random values and what `read` must give for it, sliced out of a larger one at every level."""
    before, behind = (int(n) for n in draw.integers(0, 11, 2))
    count = before + rows + behind
    if kind in ("string", "large_string", "binary", "large_binary"):
        values = [datasets.WORDS[i] + "y" * (i % 3) for i in draw.integers(0, len(datasets.WORDS), count)]
        values = values if "string" in kind else [value.encode() for value in values]
        wanted = np.fromiter(values[before : before + rows], object, rows)
        return pa.array(values, getattr(pa, kind)()).slice(before, rows), wanted
    if kind == "fixed binary":
        content = draw.integers(0, 256, (count, 5), np.uint8)
        column = pa.array([row.tobytes() for row in content], pa.binary(5))
        return column.slice(before, rows), content[before : before + rows]
    dtype, *shape = kind
    inner = int(draw.integers(0, 4))  # elements in front that no list uses
    flat = draw.integers(0, 2 if dtype == "bool" else 100, inner + count * int(np.prod(shape))).astype(dtype)
    column = pa.array(flat).slice(inner)
    tensor = pa.fixed_shape_tensor(column.type, shape) if shape and draw.random() < 0.5 else None
    if tensor is not None:
        storage = pa.FixedSizeListArray.from_arrays(column, int(np.prod(shape)))
        column = pa.ExtensionArray.from_storage(tensor, storage)
    else:
        for size in reversed(shape):
            column = pa.FixedSizeListArray.from_arrays(column, size)
    return column.slice(before, rows), flat[inner:].reshape(count, *shape)[before : before + rows]


KINDS = {
    "text": "string",
    "long text": "large_string",
    "bytes": "binary",
    "long bytes": "large_binary",
    "fixed": "fixed binary",
    "int": ("int32",),
    "bit": ("bool",),
    "bits": ("bool", 3),
    "more bits": ("bool", 2, 5),
    "half": ("float16", 2, 1, 3),
    "double": ("float64", 3, 2),
}


@pytest.mark.kernels
@given(
    seed=st.integers(0, 2**32 - 1),
    shards=st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=4).filter(any),
    compression=st.sampled_from([None, "zstd", "lz4"]),
)
@settings(max_examples=30)
def test_shards_that_arrow_wrote_from_slices_are_read_alike(seed, shards, compression, tmp_path_factory):
    """Chunks of any sizes, shards without a chunk among them, buffers that begin anywhere, plain or compressed."""
    draw = np.random.default_rng(seed)
    shards = sorted(shards, key=len, reverse=True)  # the first one has a chunk to take the schema from
    kinds = dict.fromkeys(KINDS)
    content, wanted = [], {name: [] for name in KINDS}
    for sizes in shards:
        content.append([])
        for rows in sizes:
            chunk = {}
            for name, kind in KINDS.items():
                while True:  # until it comes as the first one did: as tensors or as lists
                    column, values = random_column(draw, kind, rows)
                    kinds[name] = kinds[name] or column.type
                    if column.type == kinds[name]:
                        break
                chunk[name] = column
                wanted[name].append(values)
            content[-1].append(chunk)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    folder = datasets.write_foreign(tmp_path_factory.mktemp("foreign") / "d", content, options=options)
    assert check_dataset(folder) == []
    dataset = Dataset.open(folder)
    rows = draw.integers(0, len(dataset), 50)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* is compressed")
        got = dataset.read(rows)
    for name, pieces in wanted.items():
        expected = np.concatenate(pieces)[rows]
        assert got[name].dtype == expected.dtype, name
        assert np.array_equal(got[name], expected), name


@pytest.mark.kernels
@given(st.lists(st.integers(1, 300), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_rows_are_located_in_chunks_of_any_sizes(chunk_rows, seed):
    """The table of first guesses, made when a data set is opened, for chunks that are far from equal."""
    shards = [[{"x": pa.array(np.full(rows, number, np.int16))} for number, rows in enumerate(chunk_rows)]]
    with datasets.temporary_folder() as folder:
        dataset = Dataset.open(datasets.write_foreign(folder, shards))
        rows = np.random.default_rng(seed).integers(0, len(dataset), 100)
        wanted = [plain.locate(row, chunk_rows)[0] for row in rows.tolist()]
        assert dataset.chunks.locate(rows).tolist() == wanted
        assert dataset.read(rows)["x"].tolist() == wanted


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, None, 3]),
        pa.array(["a", None, "b"]),
        pa.FixedSizeListArray.from_arrays(pa.array([1, None, 3, 4]), 2),
    ],
    ids=lambda column: str(column.type),
)
def test_nulls_are_refused_when_their_shard_is_read(column, tmp_path):
    fine = column.slice(2, len(column) - 2) if len(column) > 2 else column.slice(1, 1)
    datasets.write_foreign(tmp_path / "d", [[{"x": fine}], [{"x": column}]])
    dataset = Dataset.open(tmp_path / "d")
    assert len(dataset.read([0])["x"]) == 1
    with pytest.raises(SchemaError, match=r"part 1\.feather in .*, chunk 0, field 'x': 1 null; say what they"):
        dataset.read([1])
    (problem,) = check_dataset(tmp_path / "d")
    assert (problem.shard, "null" in problem.what) == ("part 1.feather", True)


def test_a_field_that_cannot_be_read_is_refused_when_the_data_set_is_opened(tmp_path):
    deep = pa.array([[[[1]]], []])
    folder = tmp_path / "d"
    with DatasetWriter(folder) as writer:
        writer.write({"x": [1, 2], "y": ["a", "b"]})
    schema = pa.schema([pa.field("x", deep.type), pa.field("y", pa.string())])
    datasets.put_schema(folder, schema)
    with pytest.raises(SchemaError, match=r"field 'x' has type list<item: list<item: list<.*or leave it out"):
        Dataset.open(folder)
    with pytest.raises(SchemaError, match="field 'x' has type list"):
        Dataset.open(folder, fields=["x", "y"])
    assert list(Dataset.open(folder, fields=["y"]).fields) == ["y"]


# --- damage -------------------------------------------------------------------------------------------------------


def test_a_folder_without_a_manifest_is_unfinished(copy):
    (copy / "manifest.json").unlink()
    with pytest.raises(
        UnfinishedDatasetError, match=r"has no manifest\.json: .*not finished; run the conversion again"
    ):
        Dataset.open(copy)


def test_a_missing_shard_is_named_when_the_data_set_is_opened(copy):
    (copy / "shard-00002.arrow").unlink()
    with pytest.raises(DamagedDatasetError, match=r"shard-00002\.arrow is missing"):
        Dataset.open(copy)
    assert [problem.shard for problem in check_dataset(copy)] == ["shard-00002.arrow"]


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"x", lambda content: b""])
def test_a_shard_of_another_size_is_named_when_the_data_set_is_opened(change, copy):
    shard = copy / "shard-00001.arrow"
    shard.write_bytes(change(shard.read_bytes()))
    with pytest.raises(DamagedDatasetError, match=r"shard-00001\.arrow .* bytes, manifest.json says .*minibatch check"):
        Dataset.open(copy)
    assert [problem.shard for problem in check_dataset(copy)] == ["shard-00001.arrow"]


def test_a_shard_that_shrinks_after_opening_is_found_when_it_is_mapped(copy, fields):
    dataset = Dataset.open(copy)
    shard = copy / "shard-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:-1])
    for _ in range(2):
        with pytest.raises(DamagedDatasetError, match=r"shard-00001\.arrow"):
            dataset.read([0, 12])
    datasets.assert_read(dataset.read([0, 39]), taken(fields, [0, 39]))


def test_a_shard_that_is_no_arrow_file_is_named_when_it_is_read(copy, fields):
    shard = copy / "shard-00001.arrow"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    dataset = Dataset.open(copy)
    datasets.assert_read(dataset.read([0, 39]), taken(fields, [0, 39]))
    with pytest.raises(DamagedDatasetError, match=r"shard-00001\.arrow in .* is not a readable Arrow file"):
        dataset.read([12])


def test_a_shard_of_another_data_set_is_named_when_it_is_read(copy, tmp_path):
    """The same number of bytes, rows and chunks, but the fields are other ones."""
    names = sorted(datasets.every_type(1), key=len)
    for number, order in enumerate([names, [*names[:2][::-1], *names[2:]]]):
        values = datasets.every_type(4)
        with DatasetWriter(tmp_path / str(number)) as writer:
            writer.write({name: values[name] for name in order})
    one, other = (tmp_path / name / "shard-00000.arrow" for name in "01")
    assert one.stat().st_size == other.stat().st_size
    shutil.copy(other, one)
    with pytest.raises(DamagedDatasetError, match=r"shard-00000\.arrow in .* has the schema"):
        Dataset.open(tmp_path / "0").read([0])
    assert {problem.shard for problem in check_dataset(tmp_path / "0")} == {"shard-00000.arrow"}


def test_metadata_of_a_shard_are_part_of_its_schema(tmp_path):
    for name in ("cat", "dog"):
        with DatasetWriter(tmp_path / name, metadata={"x": {"classes": name}}) as writer:
            writer.write({"x": [1]})
    shutil.copy(tmp_path / "cat" / "shard-00000.arrow", tmp_path / "dog" / "shard-00000.arrow")
    with pytest.raises(DamagedDatasetError, match="has the schema"):
        Dataset.open(tmp_path / "dog").read([0])


def test_a_chunk_with_other_rows_than_the_manifest_says_is_damage(tmp_path):
    folder = datasets.write_foreign(tmp_path / "d", [[{"x": pa.array([1, 2, 3])}, {"x": pa.array([4])}]])
    document = datasets.manifest_of(folder)
    document["shards"][0]["chunks"] = [[2, 2]]
    datasets.put_manifest(folder, document)
    with pytest.raises(DamagedDatasetError, match=r"part 0\.feather in .*: chunk 0 has 3 rows, the manifest says 2"):
        Dataset.open(folder).read([0])


def test_a_buffer_beyond_the_end_of_the_file_is_damage(folder):
    """Arrow itself looks at this too; it must not depend on that."""
    from minibatch.shards import inside

    whole = pa.py_buffer(np.zeros(64, np.uint8))
    content = whole.slice(0, 32)
    fine = pa.RecordBatch.from_arrays([pa.Array.from_buffers(pa.int8(), 4, [None, content.slice(28, 4)])], ["x"])
    inside(fine, content, "here")
    beyond = pa.RecordBatch.from_arrays([pa.Array.from_buffers(pa.int8(), 8, [None, whole.slice(28, 8)])], ["x"])
    with pytest.raises(DamagedDatasetError, match="here: a buffer reaches 4 bytes past the end"):
        inside(beyond, content, "here")


def test_text_that_is_not_utf8_is_damage_when_it_is_read(tmp_path):
    column = pa.array([b"fine", b"\xff"]).cast(pa.binary()).view(pa.string())
    folder = datasets.write_foreign(tmp_path / "d", [[{"x": column}]])
    assert Dataset.open(folder).read([0])["x"].tolist() == ["fine"]
    with pytest.raises(DatasetError, match="'x'"):
        Dataset.open(folder).read([1])
    assert [problem.shard for problem in check_dataset(folder)] == ["part 0.feather"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_in_place_of_a_shard_is_not_waited_for(copy):
    document = datasets.manifest_of(copy)
    document["shards"][3] |= {"bytes": 0, "rows": 0, "chunks": []}
    datasets.put_manifest(copy, {**document, "rows": 36})
    (copy / "shard-00003.arrow").unlink()
    os.mkfifo(copy / "shard-00003.arrow")
    with pytest.raises(DamagedDatasetError, match=r"shard-00003\.arrow in .* is not a file"):
        Dataset.open(copy)
    assert [problem.shard for problem in check_dataset(copy)] == ["shard-00003.arrow"]
