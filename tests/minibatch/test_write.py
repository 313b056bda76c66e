"""`DatasetWriter`: what is written is read back, in the same bytes however it is cut into calls; what does not fit is
refused, and adds nothing."""

import json
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch import Dataset, DatasetWriter, write
from minibatch.check import check_dataset
from minibatch.errors import DatasetError, SchemaError, UnfinishedDatasetError
from tests import datasets
from tests.datasets import contents, put

# --- what is written is read back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 7, 30])
def test_every_type_comes_back_bit_for_bit(rows, tmp_path):
    fields = datasets.every_type(rows)
    dataset = Dataset.open(put(tmp_path / "ünï ☃", fields, 4, 9))
    datasets.assert_read(dataset.read(np.arange(rows)), fields)
    assert check_dataset(tmp_path / "ünï ☃") == []


@pytest.mark.parametrize("chunk_rows", [None, 5])
def test_a_data_set_may_have_no_rows(chunk_rows, tmp_path):
    fields = {name: values for name, values in datasets.every_type(0).items() if not isinstance(values, list)}
    dataset = Dataset.open(put(tmp_path / "d", {**fields, "text": np.array([], "U1")}, chunk_rows))
    assert (len(dataset), dataset.manifest.shards) == (0, ())
    got = dataset.read([])
    assert all(got[name].shape == (0, *dataset.fields[name].shape) for name in got)
    assert check_dataset(tmp_path / "d") == []


def test_pieces_without_rows_change_nothing(tmp_path):
    fields = {"x": np.arange(6), "s": list("abcdef")}
    empty = {"x": [], "s": []}
    with DatasetWriter(tmp_path / "d", 4) as writer:
        writer.write(empty)
        writer.write({"s": fields["s"][:3], "x": fields["x"][:3]})
        writer.write(empty)
        writer.write({"x": np.zeros(0, int), "s": np.array([], "U1")})
        writer.write({name: values[3:] for name, values in fields.items()})
    wanted = {"s": fields["s"], "x": fields["x"]}  # the order of the first call that has types
    datasets.assert_read(Dataset.open(tmp_path / "d").read(np.arange(6)), wanted)


@given(data=st.data())
@settings(max_examples=30)
def test_bytes_depend_on_the_sizes_given_and_not_on_how_rows_are_cut_into_calls(data, tmp_path_factory):
    rows = data.draw(st.integers(1, 40))
    chunk_rows, shard_rows = data.draw(st.integers(1, 45)), data.draw(st.integers(1, 45))
    cuts = data.draw(st.lists(st.integers(0, rows), max_size=6).map(sorted))
    first = data.draw(st.integers(0, 1000))
    fields = datasets.every_type(rows, first)
    base = tmp_path_factory.mktemp("d")
    whole = put(base / "whole", fields, chunk_rows, shard_rows)
    cut = put(base / "cut", fields, chunk_rows, shard_rows, cuts)
    assert contents(whole) == contents(cut)
    dataset = Dataset.open(cut)
    datasets.assert_read(dataset.read(np.arange(rows)), fields)

    shards = [min(shard_rows, rows - start) for start in range(0, rows, shard_rows)]
    chunks = [tuple(min(chunk_rows, size - start) for start in range(0, size, chunk_rows)) for size in shards]
    assert [(shard.rows, shard.chunks) for shard in dataset.manifest.shards] == list(zip(shards, chunks, strict=True))
    assert dataset.manifest.chunk_rows == chunk_rows
    for shard in dataset.manifest.shards:
        with pa.memory_map(str(cut / shard.file)) as mapped:
            reader = pa.ipc.open_file(mapped)
            stored = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
        assert tuple(stored) == shard.chunks


def test_what_lies_around_a_slice_does_not_leak_into_files(tmp_path):
    """Arrow pads a slice with the bytes behind it, so that a file would depend on rows that are not in it."""
    for name, secret in (("a", 0xAA), ("b", 0x55)):
        around = np.full(64, secret, np.uint8)
        around[:5] = 1
        bits = np.unpackbits(around).astype(bool)
        bits[:5] = True
        text = ["x"] * 5 + [chr(secret)] * 40
        put(tmp_path / name, {"x": around[:5], "b": bits[:5], "s": text[:5]}, 5)
        with DatasetWriter(tmp_path / (name + "2"), 5, 5) as writer:
            writer.write({"x": around[:10], "b": bits[:10], "s": text[:10]})
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    first = "shard-00000.arrow"
    assert (tmp_path / "a2" / first).read_bytes() == (tmp_path / "b2" / first).read_bytes()


def test_without_sizes_chunks_are_about_8_mib_however_fixed_fields_are_cut(tmp_path):
    fields = {"x": np.zeros((3000, 1000), np.float64), "b": np.zeros((3000, 9), bool)}
    whole = Dataset.open(put(tmp_path / "whole", fields)).manifest
    assert whole.chunk_rows == (8 << 20) // 8001
    cut = Dataset.open(put(tmp_path / "cut", fields, cuts=[1, 2, 10])).manifest
    assert (cut.chunk_rows, cut.shards) == (whole.chunk_rows, whole.shards)


def test_without_sizes_shards_are_whole_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "SHARD_BYTES", 1000)
    monkeypatch.setattr(write, "CHUNK_BYTES", 300)
    manifest = Dataset.open(put(tmp_path / "a", {"x": np.arange(300)})).manifest
    assert manifest.chunk_rows == 37
    assert [shard.chunks for shard in manifest.shards[:2]] == [(37, 37, 37)] * 2
    assert Dataset.open(put(tmp_path / "b", {"x": np.arange(300)}, shard_rows=20)).manifest.chunk_rows == 20
    assert Dataset.open(put(tmp_path / "c", {"x": np.arange(300)}, 50)).manifest.shards[0].chunks == (50, 50)
    texts = put(tmp_path / "d", {"s": ["x" * 96] * 20})
    assert Dataset.open(texts).manifest.chunk_rows == 3


def test_many_small_chunks_take_time_in_proportion_to_their_number(tmp_path):
    def seconds(rows):
        start = time.perf_counter()
        put(tmp_path / str(rows), {"x": np.arange(rows)}, 1)
        return time.perf_counter() - start

    seconds(10)
    assert seconds(8000) < 40 * max(seconds(800), 0.02)


def test_arrays_may_be_changed_as_soon_as_write_returns(tmp_path):
    fields = {name: values for name, values in datasets.every_type(50).items() if not isinstance(values, list)}
    given_ = {name: values.copy() for name, values in fields.items()}
    with DatasetWriter(tmp_path / "d", 20, 40) as writer:
        for _ in range(3):
            writer.write(given_)
            for name, values in given_.items():
                values[...] = np.zeros((), values.dtype)
                values[...] = np.roll(fields[name], 1)
            given_ = {name: values.copy() for name, values in fields.items()}
    wanted = {name: np.concatenate([values] * 3) for name, values in fields.items()}
    datasets.assert_read(Dataset.open(tmp_path / "d").read(np.arange(150)), wanted)


def test_views_of_any_layout_are_written_as_they_look(tmp_path):
    base = np.arange(5 * 4 * 6, dtype=np.int32).reshape(5, 4, 6)
    views = {
        "stepped": base[:, ::2, ::-3],
        "turned": base.transpose(0, 2, 1),
        "fortran": np.asfortranarray(base),
        "one value": np.broadcast_to(np.float32(3), (5, 2)),
        "big": base.astype(">i4"),
        "big backwards": base.astype(">f8")[::-1],
        "records": np.array([(1, 2.0)] * 5, "u1,f8")["f1"],
        "read-only": np.frombuffer(bytes(range(5)), np.uint8),
    }
    got = Dataset.open(put(tmp_path / "d", views, 2)).read(np.arange(5))
    for name, view in views.items():
        assert np.array_equal(got[name], view), name
        assert got[name].dtype == view.dtype.newbyteorder("="), name


def test_lists_of_arrays_are_one_array(tmp_path):
    rows = [np.full((2, 3), i, np.float16) for i in range(7)]
    assert np.array_equal(Dataset.open(put(tmp_path / "d", {"x": rows}, 3)).read(range(7))["x"], np.array(rows))


def test_metadata_and_source_are_kept(tmp_path):
    noted = {"x": {"classes": json.dumps(["cat", "ünï"]), "": "empty name"}}
    put(tmp_path / "d", {"x": np.arange(3), "y": np.arange(3)}, metadata=noted, source="digits ☃")
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.fields["x"].metadata == noted["x"]
    assert dataset.fields["y"].metadata == {}
    assert dataset.manifest.source == "digits ☃"


def test_names_of_fields_may_be_any_text(tmp_path):
    names = ["ü", "a b", "日本", "x.y/z", "", "\n", "rows", "🦊"]
    put(tmp_path / "d", {name: np.arange(2) for name in names})
    assert list(Dataset.open(tmp_path / "d").read([1])) == names


# --- what does not fit is refused ---------------------------------------------------------------------------------

GOOD = {"x": np.arange(3), "v": np.zeros((3, 2), np.float32), "s": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.arange(3.0)}, r"field 'x' was int64 in the first write and is double now \(row 3\)"),
        ({"x": np.arange(3, dtype=np.int32)}, r"is int32 now \(row 3\)"),
        ({"x": ["a", "b", "c"]}, r"is string now \(row 3\)"),
        ({"s": [b"a", b"b", b"c"]}, r"field 's' was string.* binary now \(row 3\)"),
        ({"v": np.zeros((3, 3), np.float32)}, r"field 'v'.*shape=\[2\].*shape=\[3\].*row 3"),
        ({"v": np.zeros((3, 2, 1), np.float32)}, r"field 'v'.*shape=\[2,1\].*row 3"),
        ({"v": np.zeros(3, np.float32)}, r"field 'v'.*float now \(row 3\)"),
        ({"more": np.arange(3)}, r"expected the fields \['x', 'v', 's'\].*'more'\] \(row 3\)"),
        ({"x": np.arange(4)}, r"equally many rows, got \{'x': 4, 'v': 3, 's': 3\}"),
        ({"x": [1, None, 3]}, "field 'x': row 1 is None"),
        ({"x": [[1], [2, 3], [4]]}, r"field 'x' was int64 in the first write and is list<item: int64> now \(row 3\)"),
        ({"s": ["a", 1, "c"]}, "field 's': row 1 is int"),
    ],
    ids=str,
)
def test_a_write_that_does_not_fit_the_first_is_refused_and_adds_nothing(change, message, tmp_path):
    with DatasetWriter(tmp_path / "d", 2) as writer:
        writer.write(GOOD)
        with pytest.raises(SchemaError, match=message):
            writer.write({**GOOD, **change})
        assert writer.rows == 3
        writer.write(dict(reversed(GOOD.items())))
    datasets.assert_read(Dataset.open(tmp_path / "d").read([0, 1, 2]), GOOD)
    datasets.assert_read(Dataset.open(tmp_path / "d").read([3, 4, 5]), GOOD)


def test_a_missing_field_is_refused(tmp_path):
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write(GOOD)
        with pytest.raises(SchemaError, match=r"expected the fields \['x', 'v', 's'\] of the first write, got \['x'\]"):
            writer.write({"x": np.arange(3)})


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({}, SchemaError, "got no fields"),
        ({"x": [1], "y": [1, 2]}, SchemaError, "equally many rows"),
        ({"x": [None]}, SchemaError, "field 'x': row 0 is None"),
        ({"x": np.zeros(2, complex)}, SchemaError, "field 'x' has dtype complex128"),
        ({"\ud800": [1]}, SchemaError, "UTF-8"),
        ({1: [1]}, TypeError, "fields by name"),
        ({1: [1], "1": [2]}, TypeError, "fields by name"),
        ([("x", [1])], TypeError, "fields by name"),
        (np.arange(3), TypeError, "fields by name"),
        (None, TypeError, "fields by name"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_first_write_that_is_refused_may_be_followed_by_a_better_one(fields, error, message, tmp_path):
    with DatasetWriter(tmp_path / "d") as writer:
        with pytest.raises(error, match=message):
            writer.write(fields)
        writer.write(GOOD)
    datasets.assert_read(Dataset.open(tmp_path / "d").read([0, 1, 2]), GOOD)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"chunk_rows": 0}, ValueError, "chunk_rows must be at least 1, got 0"),
        ({"shard_rows": -3}, ValueError, "shard_rows must be at least 1, got -3"),
        ({"chunk_rows": 2.5}, TypeError, "chunk_rows must be an integer"),
        ({"chunk_rows": True}, TypeError, "chunk_rows must be an integer"),
        ({"source": 5}, TypeError, "source must be a string or None, got 5"),
        ({"metadata": {"x": {"a": 1}}}, TypeError, "metadata of field 'x' must be strings"),
        ({"metadata": {"x": "abc"}}, TypeError, "metadata of field 'x' must be strings"),
        ({"metadata": {"x": {"ARROW:extension:name": "arrow.uuid"}}}, SchemaError, "belong to Arrow itself"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_before_anything_is_touched(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        DatasetWriter(tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({"y": {"a": "b"}}, r"metadata for \['y'\], but the fields are \['x'\]"), ({"x": {"a": "\ud800"}}, "UTF-8")],
)
def test_metadata_that_no_field_can_take_are_refused_at_the_first_write(metadata, message, tmp_path):
    with pytest.raises(SchemaError, match=message), DatasetWriter(tmp_path / "d", metadata=metadata) as writer:
        writer.write({"x": [1]})


def test_a_chunk_that_arrow_cannot_make_ends_the_writing(tmp_path, monkeypatch):
    """As 2 GiB of text in a chunk do, which are too many for a test."""

    def overflow(pieces):
        raise pa.ArrowInvalid("offset overflow while concatenating arrays")

    writer = DatasetWriter(tmp_path / "d", 4)
    writer.write({"s": ["a"]})
    monkeypatch.setattr(write.pa, "concat_arrays", overflow)
    with pytest.raises(DatasetError, match=r"after row 1: offset overflow.*smaller chunk_rows"):
        writer.write({"s": ["a"] * 3})
    with pytest.raises(ValueError, match=r"the writer of .* is closed"):
        writer.write({"s": ["a"]})


def test_nothing_written_is_an_error_and_no_data_set(tmp_path):
    for number, writes in enumerate([[], [{"x": []}]]):
        writer = DatasetWriter(tmp_path / str(number))
        for fields in writes:
            writer.write(fields)
        with pytest.raises(DatasetError, match="nothing was written"):
            writer.close()
        with pytest.raises(UnfinishedDatasetError):
            Dataset.open(tmp_path / str(number))


def test_a_closed_writer_says_so_and_may_be_closed_again(tmp_path):
    writer = DatasetWriter(tmp_path / "d")
    writer.write({"x": [1]})
    writer.close()
    writer.close()
    writer.abandon()
    with pytest.raises(ValueError, match=r"the writer of .* is closed"):
        writer.write({"x": [1]})
    assert len(Dataset.open(tmp_path / "d")) == 1
