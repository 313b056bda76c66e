"""What callers write until it fits: lists that tell no type yet, sparse vectors of one width, Arrow's own arrays; and
the sums of lengths that the manifest has."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch import Dataset, DatasetWriter
from minibatch.check import check_dataset
from minibatch.errors import SchemaError
from minibatch.manifest import read_manifest
from minibatch.ragged import Ragged
from minibatch.sparse import Sparse
from tests.datasets import contents, manifest_of, put, put_manifest


def written(folder, *writes, **options):
    with DatasetWriter(folder, 2, 3, **options) as writer:
        for number, fields in enumerate(writes):
            writer.write(fields)
            assert writer.rows == sum(len(next(iter(each.values()))) for each in writes[: number + 1])
    assert check_dataset(folder) == []
    return Dataset.open(folder)


def lists_of(dataset, name):
    return [row.tolist() for row in dataset.read(np.arange(len(dataset)))[name]]


@given(
    rows=st.lists(st.lists(st.integers(-5, 5), max_size=3), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_lists_may_be_empty_in_any_call_as_long_as_one_tells_the_type(rows, cuts, tmp_path_factory):
    base = tmp_path_factory.mktemp("d")
    borders = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    writes = [{"n": np.arange(a, b), "x": rows[a:b]} for a, b in itertools.pairwise(borders)]
    if not any(rows):
        with pytest.raises(SchemaError, match=r"all lists of \['x'\] are empty, which tells no type"):
            written(base / "cut", *writes)
        return
    dataset = written(base / "cut", *writes)
    assert lists_of(dataset, "x") == rows
    assert contents(base / "cut") == contents(written(base / "whole", {"n": np.arange(len(rows)), "x": rows}).folder)


def test_fields_may_tell_their_types_in_different_calls(tmp_path):
    dataset = written(
        tmp_path / "d",
        {"a": [[], []], "b": [[1], []], "c": [[[]], []]},
        {"a": [[1.5]], "b": [[]], "c": [[]]},
        {"a": [[]], "b": [[]], "c": [[[], [2]]]},
        {"a": [[]], "b": [[]], "c": [[]]},
    )
    assert lists_of(dataset, "a") == [[], [], [1.5], [], []]
    assert lists_of(dataset, "b") == [[1], [], [], [], []]
    nested = dataset.read(np.arange(5))["c"]
    assert [[inner.tolist() for inner in row] for row in nested] == [[[]], [], [], [[], [2]], []]


def test_rows_that_wait_must_agree_with_those_that_follow(tmp_path):
    with DatasetWriter(tmp_path / "d", 2) as writer:
        writer.write({"a": [[]], "b": [[1]]})
        with pytest.raises(
            SchemaError, match=r"field 'b' was list<item: int64> in the first write and is list<item: doub"
        ):
            writer.write({"a": [[2]], "b": [[1.5]]})
        with pytest.raises(SchemaError, match=r"expected the fields \['a', 'b'\] of the first write"):
            writer.write({"a": [[2]]})
        with pytest.raises(SchemaError, match="field 'a' was list<item: null> in the first write and is int64 now"):
            writer.write({"a": [2], "b": [[1]]})
        assert writer.rows == 1
        writer.write({"a": [[2]], "b": [[]]})
    assert lists_of(Dataset.open(tmp_path / "d"), "a") == [[], [2]]


def test_lists_that_stay_untyped_leave_no_data_set(tmp_path):
    with pytest.raises(SchemaError, match=r"all lists of \['a', 'c'\] are empty, which tells no type: write arrays"):
        written(tmp_path / "d", {"a": [[]], "b": [[1]], "c": [[[]]]})
    typed = written(tmp_path / "e", {"a": [np.zeros(0, np.int16)], "b": [[1]]})
    assert typed.fields["a"].dtype == np.int16


def sparse(rows, width):
    return Sparse(np.arange(rows) % width, np.ones(rows, np.float32), np.arange(rows + 1), width)


def test_sparse_vectors_keep_their_width(tmp_path):
    dataset = written(tmp_path / "d", {"x": sparse(3, 7)}, {"x": sparse(2, 7)})
    got = dataset.read(np.arange(5))["x"]
    assert (got.width, got.dense().shape) == (7, (5, 7))
    with DatasetWriter(tmp_path / "e") as writer:
        writer.write({"x": sparse(3, 7)})
        with pytest.raises(SchemaError, match=r"field 'x' was 7 wide and is 8 wide now \(row 3\)"):
            writer.write({"x": sparse(3, 8)})
    with pytest.raises(SchemaError, match="field 'x' was 9 wide and is 7 wide now"):
        written(tmp_path / "f", {"x": sparse(3, 7)}, metadata={"x": {"sparse_width": "9"}})


def test_arrow_arrays_are_stored_as_they_are(tmp_path):
    columns = {
        "zone": pa.array([1, 2, 3, 4], pa.timestamp("s", "Europe/Berlin")),
        "large": pa.array([[1], [], [2, 3], []], pa.large_list(pa.int8())),
        "encoded": pa.array(["a", "b", "a", "a"]).dictionary_encode(),
        "chunked": pa.chunked_array([[1, 2], [3, 4]]),
        "sliced": pa.array([0, 1, 2, 3, 4, 5], pa.uint8()).slice(1, 4),
        "struct": pa.array([{"a": i, "b": [i] * i} for i in range(4)]),
    }
    dataset = written(tmp_path / "d", columns)
    schema = dataset.manifest.schema
    assert schema.field("zone").type == columns["zone"].type
    assert schema.field("large").type == columns["large"].type
    assert dataset.read([1, 2])["encoded"].tolist() == ["b", "a"]
    assert dataset.read([0, 3])["chunked"].tolist() == [1, 4]
    assert dataset.read([0, 3])["sliced"].tolist() == [1, 4]
    assert dataset.read([3])["struct.a"].tolist() == [3]
    assert lists_of(dataset, "struct.b") == [[], [1], [2, 2], [3, 3, 3]]


@pytest.mark.parametrize(
    ("column", "row"),
    [
        (pa.array([1, None]), 1),
        (pa.array([[1], [], [2, None]]), 2),
        (pa.array([[1, 2], [None, 3]], pa.list_(pa.int8(), 2)), 1),
        (pa.array([{"a": 1}, {"a": None}]), 1),
        (pa.array(["a", None]).dictionary_encode(), 1),
        (pa.array([None, [1]], pa.large_list(pa.int8())), 0),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_nulls_of_arrow_arrays_are_refused_with_their_row(column, row, tmp_path):
    with DatasetWriter(tmp_path / "d") as writer:
        with pytest.raises(SchemaError, match=f"field 'x': row {row} is null, or something in it"):
            writer.write({"x": column})
        writer.write({"x": [1]})


def test_a_type_that_cannot_be_read_again_is_refused_at_once(tmp_path):
    with DatasetWriter(tmp_path / "d") as writer:
        with pytest.raises(SchemaError, match=r"field 'x' has type .*map"):
            writer.write({"x": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8()))})
        writer.write({"y": [1]})


# --- sums of lengths ----------------------------------------------------------------------------------------------

LISTS = {
    "n": np.arange(8),
    "tokens": [np.arange(i) for i in range(8)],
    "nested": [[[1, 2]] * (i % 2) for i in range(8)],
    "words": Ragged(sparse(8, 3), np.array([0, 3, *[8] * 7])),
}


def test_the_manifest_has_the_sum_of_the_lengths_of_each_list_field_per_shard(tmp_path):
    put(tmp_path / "d", LISTS, 2, 3, cuts=[1, 5])
    shards = manifest_of(tmp_path / "d")["shards"]
    assert [shard["elements"] for shard in shards] == [
        {"tokens": 0 + 1 + 2, "nested": 1, "words": 8},
        {"tokens": 3 + 4 + 5, "nested": 2, "words": 0},
        {"tokens": 6 + 7, "nested": 1, "words": 0},
    ]
    assert [shard.elements for shard in read_manifest(tmp_path / "d").shards] == [shard["elements"] for shard in shards]


def test_a_data_set_without_lists_has_no_such_sums(tmp_path):
    put(tmp_path / "d", {"n": np.arange(8), "s": ["a"] * 8})
    assert "elements" not in manifest_of(tmp_path / "d")["shards"][0]


def test_a_manifest_from_before_there_were_sums_opens_as_it_was(tmp_path):
    put(tmp_path / "d", LISTS, 2, 3)
    before = Dataset.open(tmp_path / "d").fingerprint
    document = manifest_of(tmp_path / "d")
    for shard in document["shards"]:
        del shard["elements"]
    put_manifest(tmp_path / "d", document)
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.fingerprint == before
    assert dataset.manifest.shards[0].elements == {}
    assert check_dataset(tmp_path / "d") == []


@pytest.mark.parametrize("bad", [{"tokens": -1}, {"tokens": "3"}, {"tokens": None}, ["tokens"], 3])
def test_sums_that_are_none_make_the_manifest_a_damaged_one(bad, tmp_path):
    put(tmp_path / "d", LISTS, 2, 3)
    document = manifest_of(tmp_path / "d")
    document["shards"][0]["elements"] = bad
    put_manifest(tmp_path / "d", document)
    with pytest.raises(ValueError, match="does not describe a data set"):
        Dataset.open(tmp_path / "d")


def test_arrays_of_one_shape_fit_where_lists_of_arrays_were_written_before(tmp_path):
    boxes = [np.arange(4 * n, dtype=np.float32).reshape(n, 4) for n in (2, 0, 1, 3, 3, 1)]
    dataset = written(
        tmp_path / "d", {"x": boxes[:3]}, {"x": boxes[3:5]}, {"x": boxes[5:]}, {"x": np.zeros((1, 2, 4), "f4")}
    )
    assert lists_of(dataset, "x") == [*(each.tolist() for each in boxes), [[0] * 4] * 2]
    whole = written(tmp_path / "whole", {"x": [*boxes, np.zeros((2, 4), np.float32)]})
    assert contents(dataset.folder) == contents(whole.folder)


def test_lists_of_arrays_do_not_fit_where_tensors_were_written_and_the_error_says_what_to_do(tmp_path):
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write({"x": [np.zeros((2, 4))]})
        with pytest.raises(SchemaError, match=r"field 'x' was .*shape=.* now .*; write a Ragged where lengths vary"):
            writer.write({"x": [np.zeros((2, 4)), np.zeros((1, 4))]})
        with pytest.raises(SchemaError, match=r"field 'x' was .*shape=.* now"):
            writer.write({"x": [[1.0, 2.0], [3.0]]})
        writer.write({"x": np.zeros((3, 2, 4))})
    assert Dataset.open(tmp_path / "d").fields["x"].shape == (2, 4)
