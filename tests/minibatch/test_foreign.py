"""`foreign`: files that others wrote are data sets where they lie; what they hold is looked at when it is asked for."""

import itertools
import json
import warnings

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather

import minibatch.holding
from minibatch import Dataset, DatasetWriter, MinibatchSource, NullMask
from minibatch.check import check_dataset
from minibatch.errors import DamagedDatasetError, DatasetError, SchemaError, UnfinishedDatasetError
from minibatch.shards import OpenShard
from tests import datasets

SCHEMA = pa.schema([("x", pa.int64()), ("text", pa.string()), ("tokens", pa.list_(pa.int32()))])


def batch(start, stop):
    columns = [
        pa.array(range(start, stop), pa.int64()),
        pa.array([f"row {i}" for i in range(start, stop)]),
        pa.array([list(range(i % 4)) for i in range(start, stop)], pa.list_(pa.int32())),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def write(path, *bounds, stream=False, compression=None, schema=SCHEMA):
    options = pa.ipc.IpcWriteOptions(compression=compression)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(str(path), schema, options=options) as writer:
        for start, stop in itertools.pairwise(bounds):
            writer.write_batch(pa.record_batch(batch(start, stop).columns, schema=schema))
    return path


def assert_rows(dataset, rows):
    got = dataset.read(rows)
    assert got["x"].tolist() == list(rows)
    assert got["text"].tolist() == [f"row {i}" for i in rows]
    assert [row.tolist() for row in got["tokens"]] == [list(range(i % 4)) for i in rows]


# --- which files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".arrow", ".feather", ".ipc", ".arrows"])
@pytest.mark.parametrize("stream", [False, True])
def test_one_file_is_a_data_set(suffix, stream, tmp_path):
    path = write(tmp_path / f"ü{suffix}", 0, 5, 5, 9, stream=stream)
    dataset = Dataset.open(path)
    assert (len(dataset), dataset.chunk_rows, dataset.folder) == (9, 5, tmp_path)
    assert_rows(dataset, [8, 0, 5, 5])
    assert dataset.manifest.shards[0].chunks == (5, 0, 4)


def test_the_files_of_a_folder_follow_each_other_by_name_whatever_they_are(tmp_path):
    write(tmp_path / "b.arrow", 4, 6, 9, stream=True)
    write(tmp_path / "a.arrow", 0, 4)
    write(tmp_path / "c.arrow", 9, 9)
    feather.write_feather(pa.table(batch(9, 12)), str(tmp_path / "d.feather"), compression="uncompressed")
    (tmp_path / "notes.txt").write_text("mine")
    dataset = Dataset.open(tmp_path)
    assert len(dataset) == 12
    assert_rows(dataset, np.random.default_rng(1).permutation(12).tolist())
    assert [shard.file for shard in dataset.manifest.shards] == ["a.arrow", "b.arrow", "c.arrow", "d.feather"]


@pytest.mark.parametrize("bounds", [(0,), (0, 0), (0, 0, 0)])
def test_a_file_without_rows_is_an_empty_data_set(bounds, tmp_path):
    for stream in (False, True):
        dataset = Dataset.open(write(tmp_path / "x.arrow", *bounds, stream=stream))
        assert len(dataset) == 0
        assert {name: len(column) for name, column in dataset.read([]).items()} == {"x": 0, "text": 0, "tokens": 0}
        assert len(dataset.fingerprint) == 32
        with pytest.raises(IndexError, match="which has "):
            dataset.read([0])


def test_empty_chunks_between_others_are_passed_over(tmp_path):
    dataset = Dataset.open(write(tmp_path / "x.arrow", 0, 0, 3, 3, 3, 4, 7, 7))
    assert_rows(dataset, [6, 3, 2, 0, 1])
    with MinibatchSource(tmp_path, seed=3, sequences="rows", max_sweeps=1) as source:
        assert sorted(source.next_minibatch(9)["x"].tolist()) == list(range(7))


def test_what_pandas_or_others_note_of_the_whole_may_differ_but_not_the_fields(tmp_path):
    write(tmp_path / "a.arrow", 0, 4, schema=SCHEMA.with_metadata({"pandas": "1"}))
    write(tmp_path / "b.arrow", 4, 6, schema=SCHEMA.with_metadata({"pandas": "2"}))
    assert_rows(Dataset.open(tmp_path), [5, 0])
    other = pa.schema([("x", pa.int64()), ("y", pa.string())])
    with pa.ipc.new_file(str(tmp_path / "c.arrow"), other) as writer:
        writer.write_batch(pa.record_batch([pa.array([1]), pa.array(["a"])], schema=other))
    with pytest.raises(
        SchemaError, match=r"c\.arrow in .* has the fields x: int64, y: string, a\.arrow has x: int64, "
    ):
        Dataset.open(tmp_path)


def test_what_a_stopped_writer_left_is_not_taken_for_files_of_others(tmp_path):
    with DatasetWriter(tmp_path / "d", chunk_rows=2, shard_rows=2) as writer:
        writer.write({"x": [1, 2, 3]})
    (tmp_path / "d" / "manifest.json").unlink()
    with pytest.raises(UnfinishedDatasetError):
        Dataset.open(tmp_path / "d")
    assert Dataset.open(tmp_path / "d" / "shard-00000.arrow").read([1])["x"].tolist() == [2]


@pytest.mark.parametrize("content", [b"", b"x", b"ARROW1\0\0", b"\xff\xff\xff\xff", bytes(100), b"PAR1" * 9])
def test_a_file_that_is_none_of_arrow_s_is_named_when_the_folder_is_opened(content, tmp_path):
    write(tmp_path / "a.arrow", 0, 4)
    (tmp_path / "b.arrow").write_bytes(content)
    with pytest.raises(DamagedDatasetError, match=r"b\.arrow in .* is not a readable Arrow file or stream"):
        Dataset.open(tmp_path)
    (problem,) = check_dataset(tmp_path)
    assert (problem.shard, "b.arrow" in problem.what) == (None, True)


def test_feather_of_the_first_version_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "a.feather").write_bytes(b"FEA1" + bytes(60) + b"FEA1")
    with pytest.raises(DamagedDatasetError, match=r"of Feather's first version; pyarrow\.feather reads it"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize("stream", [False, True])
def test_a_file_that_was_cut_off_anywhere_is_refused(stream, tmp_path):
    content = write(tmp_path / "a.arrow", 0, 4, 8, stream=stream).read_bytes()
    for size in range(len(content)):
        (tmp_path / "a.arrow").unlink()
        (tmp_path / "a.arrow").write_bytes(content[:size])
        with pytest.raises(DamagedDatasetError, match=r"a\.arrow in .* is not a readable Arrow file or stream"):
            Dataset.open(tmp_path)


# --- compressed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("stream", [False, True])
def test_compressed_chunks_are_decoded_one_by_one_and_it_is_said_once(compression, stream, tmp_path, monkeypatch):
    bounds = range(0, 401, 40)
    for number in (0, 1):
        moved = [400 * number + bound for bound in bounds]
        write(tmp_path / f"{number}.arrow", *moved, stream=stream, compression=compression)
    decoded = []
    chunk = OpenShard.chunk
    monkeypatch.setattr(OpenShard, "chunk", lambda self, number: decoded.append(number) or chunk(self, number))
    dataset = Dataset.open(tmp_path)
    assert (len(dataset), decoded) == (800, [])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert_rows(dataset, [45, 41, 799])
        assert decoded == [1, 9]
        assert_rows(dataset, [*range(790, 800), *range(30)])
        assert decoded == [1, 9, 0]
        assert_rows(dataset, np.random.default_rng(0).permutation(800).tolist())
    (warning,) = said
    assert "is compressed: chunks are decompressed into memory as they are read" in str(warning.message)
    assert len(decoded) == 20


# --- fingerprints and nulls ---------------------------------------------------------------------------------------


def test_a_fingerprint_is_made_when_asked_for_and_is_that_of_the_converted_data(tmp_path, monkeypatch):
    write(tmp_path / "a.arrow", 0, 4, 9)
    write(tmp_path / "b.arrow", 9, 20, stream=True)
    dataset = Dataset.open(tmp_path)
    with DatasetWriter(tmp_path / "ours", chunk_rows=3) as writer:
        for start in range(0, 20, 5):
            part = batch(start, start + 5)
            writer.write(dict(zip(part.schema.names, part.columns, strict=True)))
    ours = Dataset.open(tmp_path / "ours")
    assert dataset.fingerprint == ours.fingerprint
    monkeypatch.setattr("minibatch.chunks.Chunks.open", lambda *_: pytest.fail("read again"))
    assert dataset.fingerprint == ours.fingerprint


def test_a_checkpoint_of_the_files_is_one_of_the_converted_data(tmp_path):
    (tmp_path / "theirs").mkdir()
    write(tmp_path / "theirs" / "a.arrow", 0, 10, 20)
    whole = batch(0, 20)
    with DatasetWriter(tmp_path / "ours") as writer:
        writer.write(dict(zip(whole.schema.names, whole.columns, strict=True)))
    with MinibatchSource(tmp_path / "theirs", seed=1, sequences="rows") as theirs:
        theirs.next_minibatch(7)
        with MinibatchSource(tmp_path / "ours", seed=1, sequences="rows") as ours:
            ours.restore_from_checkpoint(theirs.get_checkpoint_state())
            assert ours.next_minibatch(9)["x"].tolist() == theirs.next_minibatch(9)["x"].tolist()


def test_fields_that_were_not_opened_are_not_in_the_fingerprint(tmp_path):
    write(tmp_path / "a.arrow", 0, 4)
    some, all_ = Dataset.open(tmp_path, fields=["tokens", "x"]), Dataset.open(tmp_path)
    with DatasetWriter(tmp_path / "ours") as writer:
        writer.write({"x": batch(0, 4).column("x"), "tokens": batch(0, 4).column("tokens")})
    assert some.fingerprint == Dataset.open(tmp_path / "ours").fingerprint != all_.fingerprint


def test_nulls_are_filled_in_the_fingerprint_as_they_are_read(tmp_path):
    schema = pa.schema([("x", pa.float32())])
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), schema) as writer:
        writer.write_batch(pa.record_batch([pa.array([1.0, None], pa.float32())], schema=schema))
    with pytest.raises(SchemaError, match="field 'x': 1 null"):
        assert Dataset.open(tmp_path).fingerprint
    filled = Dataset.open(tmp_path, nulls={"x": 7.0})
    with DatasetWriter(tmp_path / "ours") as writer:
        writer.write({"x": np.array([1, 7], np.float32)})
    assert filled.fingerprint == Dataset.open(tmp_path / "ours").fingerprint
    assert Dataset.open(tmp_path, nulls={"x": NullMask(fill=7.0)}).fingerprint != filled.fingerprint
    assert check_dataset(tmp_path) == []


def test_a_check_of_files_without_digests_looks_at_everything_else(tmp_path):
    path = write(tmp_path / "a.arrow", 0, 4, 9)
    assert check_dataset(tmp_path) == check_dataset(path) == []
    content = path.read_bytes()
    at = content.index(np.array([0, 5, 10, 15], "<i4").tobytes())  # offsets of the texts
    datasets.replace_file(path, content[: at + 4] + np.array([900], "<i4").tobytes() + content[at + 8 :])
    (problem,) = check_dataset(tmp_path)
    assert (problem.shard, "ffset" in problem.what) == ("a.arrow", True)


def test_a_check_of_files_leaves_out_what_cannot_be_read_at_all(tmp_path):
    schema = pa.schema([("x", pa.decimal128(3)), ("y", pa.int8())])
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), schema) as writer:
        writer.write_batch(
            pa.record_batch([pa.nulls(2, schema.types[0]), pa.array([1, None], pa.int8())], schema=schema)
        )
    assert check_dataset(tmp_path) == []


# --- Hugging Face -------------------------------------------------------------------------------------------------


def save_to_disk(folder, parts=2):
    """What `datasets.Dataset.save_to_disk` of release 5 writes, with its notes on features."""
    folder.mkdir(parents=True)
    noted = {
        "ARROW:extension:name": "datasets.features.features.Array2DExtensionType",
        "ARROW:extension:metadata": '[[2, 3], "uint8"]',
    }
    schema = pa.schema(
        [
            ("id", pa.int32()),
            ("label", pa.int64()),
            ("text", pa.string()),
            ("tokens", pa.list_(pa.int32())),
            pa.field("image", pa.list_(pa.list_(pa.uint8())), metadata=noted),
            ("answers", pa.struct([("start", pa.list_(pa.int32())), ("text", pa.list_(pa.string()))])),
        ],
        metadata={"huggingface": '{"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}'},
    )
    names = [f"data-{number:05}-of-{parts:05}.arrow" for number in range(parts)]
    for number, name in enumerate(names):
        rows = [
            {
                "id": i, "label": i % 2, "text": f"row {i}", "tokens": list(range(i % 3)),
                "image": [[i, i, i], [0, 1, 2]], "answers": {"start": [i], "text": ["a", "b"]},
            }
            for i in range(10 * number, 10 * number + 10)
        ]  # fmt: skip
        with pa.ipc.new_stream(str(folder / name), schema) as writer:
            for part in (rows[:6], rows[6:]):
                writer.write_batch(pa.RecordBatch.from_pylist(part, schema))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "9b30e8cf0ce871d4", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_a_data_set_saved_by_hugging_face_opens_as_it_is(tmp_path):
    folder = save_to_disk(tmp_path / "d")
    (folder / "cache-1.arrow").write_bytes(b"left over")
    dataset = Dataset.open(folder)
    got = dataset.read([17, 3])
    assert list(got) == ["id", "label", "text", "tokens", "image", "answers.start", "answers.text"]
    assert (got["id"].tolist(), got["text"].tolist()) == ([17, 3], ["row 17", "row 3"])
    assert got["tokens"].padded(-1).tolist() == [[0, 1], [-1, -1]]
    assert got["image"].tolist() == [[[17] * 3, [0, 1, 2]], [[3] * 3, [0, 1, 2]]]
    assert (got["image"].dtype, dataset.fields["image"].shape) == (np.uint8, (2, 3))
    assert [texts.tolist() for texts in got["answers.text"]] == [["a", "b"]] * 2
    assert check_dataset(folder) == []
    with MinibatchSource(folder, seed=1, sequences="rows", max_sweeps=1) as source:
        assert sorted(source.next_minibatch(20)["id"].tolist()) == list(range(20))


def test_an_array_of_hugging_face_that_has_another_shape_is_damage(tmp_path):
    folder = save_to_disk(tmp_path / "d", 1)
    (name,) = folder.glob("*.arrow")
    with pa.ipc.open_stream(str(name)) as stream:
        schema, rows = stream.schema, stream.read_all().to_pylist()
    for change in ([[1, 2, 3]], [[1, 2, 3], [4, 5]], []):
        rows[4]["image"] = change
        with pa.ipc.new_stream(str(name), schema) as writer:
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
        assert Dataset.open(folder).read([4], ["id"])["id"].tolist() == [4]
        with pytest.raises(DamagedDatasetError, match=r"field 'image': row \d has \d elements, its type says \d"):
            Dataset.open(folder).read([0], ["image"])


def test_null_arrays_of_hugging_face_are_filled_and_masked(tmp_path):
    folder = save_to_disk(tmp_path / "d", 1)
    (name,) = folder.glob("*.arrow")
    with pa.ipc.open_stream(str(name)) as stream:
        schema, rows = stream.schema, stream.read_all().to_pylist()
    rows[1]["image"], rows[2]["image"], rows[3]["image"] = None, [None, [1, 2, 3]], [[1, None, 3], [4, 5, 6]]
    with pa.ipc.new_stream(str(name), schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    with pytest.raises(SchemaError, match=r"field 'image': .* null"):
        Dataset.open(folder).read([0])
    got = Dataset.open(folder, nulls={"image": NullMask(fill=9)}).read([3, 2, 1, 0])
    assert got["image"].tolist() == [[[1, 9, 3], [4, 5, 6]], [[9] * 3, [1, 2, 3]], [[9] * 3] * 2, [[0] * 3, [0, 1, 2]]]
    assert (got["image.valid"] == (got["image"] != 9)).all()


def test_a_folder_of_splits_says_which_there_are(tmp_path):
    for split in ("train", "test"):
        save_to_disk(tmp_path / "d" / split)
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    (tmp_path / "d" / "else").mkdir()
    with pytest.raises(DatasetError, match=r"a data set for each split: open one of the folders \['test', 'train'\]"):
        Dataset.open(tmp_path / "d")
    assert len(Dataset.open(tmp_path / "d" / "test")) == 20


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "does not name its data files"),
        ("[]", "does not name its data files"),
        ('{"_data_files": [5]}', "does not name its data files"),
        ('{"_data_files": [{"filename": "../x.arrow"}]}', "lists '../x.arrow', which is no file of the same folder"),
        ('{"_data_files": [{"filename": 7}]}', "lists 7, which is no file"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "gone.arrow"),
        ('{"_data_files": []}', "has no Arrow files"),
        ('{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}', r"picks rows by an index: flatten_"),
    ],
)
def test_a_state_that_does_not_describe_the_folder_is_refused(state, message, tmp_path):
    folder = save_to_disk(tmp_path / "d")
    (folder / "state.json").write_text(state)
    with pytest.raises(DatasetError, match=message):
        Dataset.open(folder)


def test_the_library_itself_and_this_one_read_alike(tmp_path):
    library = pytest.importorskip("datasets")
    rows = {"x": list(range(50)), "words": [["a"] * (i % 3) for i in range(50)]}
    library.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "d"), num_shards=3)
    got = Dataset.open(tmp_path / "d").read(range(50))
    assert got["x"].tolist() == rows["x"]
    assert [words.tolist() for words in got["words"]] == rows["words"]


def test_a_chunk_that_is_held_stays_as_it_is_when_its_shard_is_opened_again(tmp_path):
    """Chunks with nulls are decoded, the others lie in the file; what was decoded first is let go first."""
    rows = 200_000  # large enough that memory which is given back is soon used again
    chunks = []
    for i in range(4):
        absent = np.zeros(rows, bool)
        absent[0] = i > 0
        values = pa.array(np.arange(rows) + i * rows, mask=absent)
        chunks.append(pa.record_batch([values], ["x"]))
    with pa.ipc.new_file(str(tmp_path / "mixed.arrow"), chunks[0].schema) as file:
        for chunk in chunks:
            file.write(chunk)
    dataset = Dataset.open(tmp_path / "mixed.arrow", nulls={"x": -1})
    dataset.chunks._holding._most_bytes = 3 * 8 * rows * len(minibatch.holding.ALL)
    for chunk in (2, 1, 3, 0):
        dataset.read([chunk * rows + 5])
    junk = [pa.array(np.full(rows, 7)).take(pa.array(np.arange(rows))) for _ in range(4)]
    wanted = np.arange(rows + 1, rows + 6)
    assert dataset.read(wanted)["x"].tolist() == wanted.tolist()
    assert len(junk) == 4


def test_the_mask_of_nulls_never_hides_a_field(tmp_path):
    batch = pa.record_batch([pa.array([1, None, 3]), pa.array([10, 20, 30])], ["x", "x.valid"])
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), batch.schema) as file:
        file.write(batch)
    with pytest.raises(SchemaError, match=r"the mask of field 'x' is called 'x\.valid', as a field is"):
        Dataset.open(tmp_path / "a.arrow", nulls={"x": NullMask()})
