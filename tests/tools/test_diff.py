"""`minibatch diff`: what differs between two data sets, and nothing else."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch import Dataset, DatasetWriter
from minibatch.ragged import Ragged
from minibatch.sparse import Sparse
from minibatch.tools import diff
from tests.plain import diff as plain
from tests.tools.samples import program, run

ROWS = 50


def fields():
    """Fields of every layout; each call makes new ones."""
    numbers = np.arange(ROWS)
    lengths = numbers * 7 % 11
    return {
        "x": np.where(numbers == 3, np.nan, numbers / 7),
        "image": (np.arange(ROWS * 12) % 251).reshape(ROWS, 3, 4).astype(np.uint8),
        "yes": numbers % 3 == 0,
        "text": [f"text {number}" for number in numbers],
        "raw": [bytes([number]) * (number % 4) for number in numbers],
        "tokens": [np.arange(length, dtype=np.int32) for length in lengths],
        "words": [["a"] * (number % 4) + ["böse"] for number in numbers],
        "boxes": Ragged(np.arange(4.0 * lengths.sum()).reshape(-1, 4), np.concatenate([[0], np.cumsum(lengths)])),
        "bag": Sparse(np.arange(ROWS * 3) % 943, np.ones(ROWS * 3, np.float32), np.arange(ROWS + 1) * 3, 943),
        "nested": [[list(range(i + 1)) for i in range(number % 4)] for number in numbers],
    }


def put(folder, values, **options):
    with DatasetWriter(folder, **{"chunk_rows": 8, **options}) as writer:
        writer.write(values)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return put(tmp_path_factory.mktemp("diff") / "a", fields())


def compared(one, two, *options):
    result = run("diff", one, two, "--json", *options)
    document = json.loads(result.stdout)
    assert result.exit_code == int(document["differ"])
    return document


def differing(document):
    return {entry["name"]: entry["differing_rows"] for entry in document["fields"] if entry["differing_rows"]}


@pytest.mark.parametrize("options", [[], ["--read"]])
def test_a_copy_in_other_shards_and_chunks_has_the_same_content(options, original, tmp_path):
    document = compared(original, put(tmp_path / "b", fields(), chunk_rows=5, shard_rows=11), *options)
    assert not document["differ"]
    assert document["first"] is None
    assert document["rows_compared"] == (ROWS if options else 0)
    assert [side["shards"] for side in document["sides"]] == [1, 5]
    assert len({side["fingerprint"] for side in document["sides"]}) == 1


def change(values, name, row):
    """One value of a row changed, as little as the type allows."""
    column = values[name]
    if name == "bag":
        column.values[3 * row + 1] += 1
    elif name == "boxes":
        column.values[column.offsets[row], 2] += 1
    elif name == "tokens":
        column[row][-1] += 1
    elif name in ("words", "nested"):
        column[row] = [*column[row][:-1], column[row][-1] * 2]
    elif isinstance(column, list):
        column[row] = column[row][:-1]
    elif name == "image":
        column[row, 1, 2] += 1
    else:
        column[row] = not column[row] if name == "yes" else column[row] + 1


@pytest.mark.parametrize("name", fields())
def test_one_changed_value_is_found_in_its_field_and_row(name, original, tmp_path, monkeypatch):
    monkeypatch.setattr(diff, "BLOCK_BYTES", 1)  # a chunk at a time
    values = fields()
    for row in (41, 25):  # both have elements in every field
        change(values, name, row)
    document = compared(original, put(tmp_path / "b", values))
    assert differing(document) == {name: 2}
    assert document["schema"] == []
    assert document["first"]["row"] == 25
    assert document["first"]["field"] == name
    assert document["first"]["values"][0] != document["first"]["values"][1] or document["first"]["where"]


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("image", "element (1, 2): 55 and 56"),
        ("boxes", "element (0, 2): "),
        ("tokens", "element 9: 9 and 10"),
        ("bag", "values, element 1: 1 and 2"),
        ("words", "element 1: böse and böseböse"),
    ],
)
def test_the_first_differing_element_is_named_with_both_values(name, where, original, tmp_path):
    values = fields()
    change(values, name, 25)
    found = compared(original, put(tmp_path / "b", values))["first"]["where"]
    assert found.startswith(where)


def test_the_first_row_is_that_of_any_field(original, tmp_path):
    values = fields()
    change(values, "bag", 25)
    change(values, "x", 24)
    change(values, "x", 49)
    document = compared(original, put(tmp_path / "b", values))
    assert differing(document) == {"x": 2, "bag": 1}
    assert (document["first"]["row"], document["first"]["field"]) == (24, "x")
    assert [entry["first_row"] for entry in document["fields"] if entry["differing_rows"]] == [24, 25]


def test_values_that_are_not_a_number_are_equal_if_their_bits_are(tmp_path):
    quiet, signed = np.array([np.nan, 0.0, 1.0]), np.array([np.nan, -0.0, 1.0])
    one, two = put(tmp_path / "a", {"x": quiet}), put(tmp_path / "b", {"x": signed})
    document = compared(one, two)
    assert differing(document) == {"x": 1}
    assert document["first"]["row"] == 1


def test_a_longer_data_set_says_how_much_longer(original, tmp_path):
    values = {name: column[:40] for name, column in fields().items()}
    two = put(tmp_path / "b", values)
    document = compared(original, two)
    assert document["rows_compared"] == 40
    assert differing(document) == {}
    assert document["differ"]
    shown = " ".join(run("diff", original, two).stdout.split())
    assert "A has 10 rows more" in shown
    assert "in the first 40 rows all compared values are equal" in shown


def test_differences_of_the_schema_are_said_in_words_and_such_fields_not_compared(tmp_path):
    numbers = np.arange(5)
    one = put(tmp_path / "a", {"x": numbers, "y": numbers, "only a": numbers}, metadata={"y": {"unit": "m"}})
    two = put(tmp_path / "b", {"y": numbers, "x": numbers.astype(np.int32), "only b": ["t"] * 5})
    document = compared(one, two)
    assert document["schema"] == [
        "field 'x' is int64 in A, int32 in B",
        "field 'y' notes unit: 'm' in A, nothing in B",
        "field 'only a' (int64) is only in A",
        "field 'only b' (text) is only in B",
        "fields stand in another order: x, y, only a in A, y, x, only b in B",
    ]
    assert [entry["name"] for entry in document["fields"]] == ["y"]
    assert differing(document) == {}


def test_data_sets_without_a_common_field_are_different(tmp_path):
    document = compared(put(tmp_path / "a", {"x": np.arange(3)}), put(tmp_path / "b", {"y": np.arange(3)}))
    assert document["differ"]
    assert document["rows_compared"] == 0


def test_empty_data_sets_can_be_compared(tmp_path):
    one, two = (put(tmp_path / name, {"x": np.zeros((0, 2))}) for name in "ab")
    assert not compared(one, two, "--read")["differ"]


def test_the_screen_fits_80_columns(original, tmp_path):
    values = fields()
    for name in values:
        change(values, name, 25)
    values["text"][1] = "long " * 100
    shown = run("diff", original, put(tmp_path / "b", values)).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "row 1, field 'text'" in shown
    assert "  A  text 1\n" in shown
    assert "different: values differ in 10 fields" in shown


def test_what_is_no_data_set_is_exit_code_2(original, tmp_path):
    result = run("diff", original, tmp_path / "nothing")
    assert result.exit_code == 2
    assert "nothing" in result.stderr
    assert program("diff", original, tmp_path / "nothing").returncode == 2


def test_blocks_cover_every_row_once(original, monkeypatch):
    dataset = Dataset.open(original)
    for size in (1, 1000, 5000, 10**9):
        monkeypatch.setattr(diff, "BLOCK_BYTES", size)
        spans = list(diff.blocks(dataset, dataset, len(dataset)))
        assert [row for start, stop in spans for row in range(start, stop)] == list(range(ROWS))


lists = st.lists(st.lists(st.integers(0, 2), max_size=3), min_size=1, max_size=6)


def ragged(rows, dtype):
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in rows])])
    return Ragged(np.array([value for row in rows for value in row], dtype), offsets)


@given(st.data(), st.sampled_from([np.int8, np.float32, object]))
def test_differing_lists_are_those_of_the_plain_twin(data, dtype):
    one = data.draw(lists)
    two = data.draw(st.lists(st.lists(st.integers(0, 2), max_size=3), min_size=len(one), max_size=len(one)))
    mine, other = ragged(one, dtype), ragged(two, dtype)
    assert diff.differing_rows(mine, other).tolist() == plain.differing_rows(mine, other)
    sparse = [
        Sparse(side.values.astype(np.int64), side.values.astype(float), side.offsets, 3) for side in (mine, other)
    ]
    assert diff.differing_rows(*sparse).tolist() == plain.differing_rows(*sparse)


@given(st.data())
def test_differing_lists_of_lists_are_those_of_the_plain_twin(data):
    count = data.draw(st.integers(1, 4))
    sides = []
    for _ in range(2):
        rows = data.draw(
            st.lists(st.lists(st.lists(st.integers(0, 1), max_size=2), max_size=2), min_size=count, max_size=count)
        )
        inner = ragged([each for row in rows for each in row] or [[]], np.int16)
        outer = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in rows])])
        sides.append(Ragged(inner[: int(outer[-1])], outer))
    assert diff.differing_rows(*sides).tolist() == plain.differing_rows(*sides)
