"""Views show the rows they are made of, identify themselves, open again elsewhere, and never change sides."""

import itertools
import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch import Dataset, DatasetWriter, MinibatchSource, Window
from minibatch.errors import SchemaError
from minibatch.views import concatenate, side_words, split, subset, thresholds
from tests.plain import rng as plain_rng

Write = Callable[..., Dataset]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes fields to a folder of their own and opens it."""
    made = iter(range(10**6))

    def dataset(fields: dict[str, Any], chunk_rows: int = 4, shard_rows: int = 12) -> Dataset:
        folder = tmp_path / f"data-{next(made)}"
        with DatasetWriter(folder, chunk_rows=chunk_rows, shard_rows=shard_rows) as writer:
            writer.write(fields)
        return Dataset.open(folder)

    return dataset


@pytest.fixture(scope="module")
def tiny(tiny_dataset: Path) -> Dataset:
    return Dataset.open(tiny_dataset)


def same(one: Any, other: Any) -> bool:
    """Whether two columns are equal, whatever they are."""
    if hasattr(one, "offsets"):
        return np.array_equal(one.offsets, other.offsets) and same(one.values, other.values)
    return one.dtype == other.dtype and np.array_equal(one, other)


def assert_rows(view: Dataset, dataset: Dataset, rows: list[int]) -> None:
    """A view has these rows of a data set, in every field, and says so of each by its number."""
    assert len(view) == len(rows)
    assert list(view.fields) == list(dataset.fields)
    order = np.arange(len(rows))[::-1]
    shown, expected = view.read(order), dataset.read(np.array(rows, np.int64)[order])
    assert all(same(shown[name], expected[name]) for name in expected)


# --- subset -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 39), max_size=60), st.data())
def test_a_subset_has_the_rows_asked_for_and_so_does_one_of_it(
    tiny: Dataset, rows: list[int], data: st.DataObject
) -> None:
    view = subset(tiny, rows)
    assert_rows(view, tiny, rows)
    again = data.draw(st.lists(st.integers(0, max(0, len(rows) - 1)), max_size=9 if rows else 0))
    assert_rows(subset(view, again), tiny, [rows[i] for i in again])


@pytest.mark.parametrize(
    "rows", [slice(None), slice(3, 30, 4), slice(-5, None), slice(None, None, -1), range(7, 20, 3)]
)
def test_a_subset_may_be_a_slice_or_a_range(tiny: Dataset, rows: slice | range) -> None:
    expected = list(range(40))[rows] if isinstance(rows, slice) else list(rows)
    view = subset(tiny, rows)
    assert_rows(view, tiny, expected)
    assert view.fingerprint == subset(tiny, expected).fingerprint, "how the rows were said does not matter"


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([3, 40], IndexError, r"row 40 of .*, which has rows 0 … 39"),
        ([-1], IndexError, "row -1 of"),
        (range(38, 42), IndexError, "row 40 of"),
        ([1.5], TypeError, "rows must be a slice or integers .*got float64"),
        (np.zeros(40, bool), TypeError, r"of a mask take np\.flatnonzero\(mask\)"),
        ([[1, 2]], TypeError, r"of shape \(1, 2\)"),
        (7, TypeError, r"of shape \(\)"),
    ],
)
def test_rows_that_are_none_are_refused(tiny: Dataset, rows: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        subset(tiny, rows)


def test_a_subset_does_not_follow_the_array_it_was_made_with(tiny: Dataset) -> None:
    rows = np.array([3, 4])
    view = subset(tiny, rows)
    fingerprint, copy = view.fingerprint, pickle.loads(pickle.dumps(view))
    rows[:] = 0
    again = pickle.loads(pickle.dumps(view))
    assert view.read([0])["x"] == [3]
    assert again.fingerprint == copy.fingerprint == fingerprint


def test_a_row_beyond_a_view_is_an_error_though_its_parent_has_it(tiny: Dataset) -> None:
    view = subset(tiny, [3, 4])
    for row in (2, -1, 39):
        with pytest.raises(IndexError, match=rf"row {row} of subset\(.*\), which has rows 0 … 1"):
            view.read([row])


# --- split --------------------------------------------------------------------------------------------------------


def members(sides: dict[str, Dataset], field: str = "id") -> dict[str, list[Any]]:
    return {name: side.read(range(len(side)), [field])[field].tolist() for name, side in sides.items()}


def keyed(count: int) -> dict[str, Any]:
    numbers = np.arange(count)
    return {"id": numbers, "user": numbers % 13, "name": [f"größe {i % 17}" for i in range(count)]}


SHARES = {"train": 0.7, "valid": 0.2, "test": 0.1}


@pytest.mark.parametrize("by", [None, "user", "name"])
def test_every_row_is_on_one_side_in_the_order_of_the_data(write: Write, by: str | None) -> None:
    found = members(split(write(keyed(300)), SHARES, by=by, seed=7))
    assert list(found) == list(SHARES)
    assert sorted(itertools.chain(*found.values())) == list(range(300))
    assert all(rows == sorted(rows) for rows in found.values())


@pytest.mark.parametrize("by", [None, "id", "user", "name"])
def test_no_row_changes_sides_when_rows_are_appended(write: Write, by: str | None) -> None:
    before = members(split(write(keyed(120)), SHARES, by=by, seed=7))
    after = members(split(write(keyed(400)), SHARES, by=by, seed=7))
    assert all(after[name][: len(before[name])] == before[name] for name in SHARES)


def test_a_key_keeps_its_side_wherever_its_row_lies_and_whatever_type_it_has(write: Write) -> None:
    fields = keyed(200)
    backwards = {
        "id": fields["id"][::-1].astype(np.int16),
        "name": [name.encode() for name in fields["name"]][::-1],
    }
    for by in ("id", "name"):
        forward = members(split(write(fields), SHARES, by=by, seed=7))
        reverse = members(split(write(backwards), SHARES, by=by, seed=7))
        assert {name: sorted(rows) for name, rows in reverse.items()} == forward


@pytest.mark.parametrize("by", ["user", "name"])
def test_rows_of_one_key_are_on_one_side(write: Write, by: str) -> None:
    found = members(split(write(keyed(300)), {"a": 0.5, "b": 0.5}, by=by, seed=3), by)
    assert set(found["a"]).isdisjoint(found["b"])
    assert found["a"]
    assert found["b"]


@pytest.mark.kernels
def test_sides_are_those_of_the_specification(write: Write) -> None:
    dataset = write({"id": np.array([0, 5, -1, 2**40]), "name": ["", "a", "größe", "z" * 99]})
    key = plain_rng.key(7, "split")

    def word(value: int) -> int:
        return plain_rng.draw(plain_rng.absorb(key, value % 2**64), 0) >> 1

    assert side_words(dataset, None, 7).tolist() == [word(row) for row in range(4)]
    assert side_words(dataset, "id", 7).tolist() == [word(value) for value in (0, 5, -1, 2**40)]
    texts = ["", "a", "größe", "z" * 99]
    assert side_words(dataset, "name", 7).tolist() == [word(plain_rng.fnv(text)) for text in texts]
    frozen = [2420524936631967836, 7870280035837160386, 3623061902532619132, 4377577920564118219]
    assert side_words(dataset, "name", 7).tolist() == frozen, "rows would move between training and validation"


def test_shares_are_met_on_average_and_seeds_differ(write: Write) -> None:
    dataset = write({"id": np.arange(20_000)}, chunk_rows=4096, shard_rows=20_000)
    sizes = {name: len(side) for name, side in split(dataset, SHARES, seed=1).items()}
    for name, share in SHARES.items():
        spread = (20_000 * share * (1 - share)) ** 0.5
        assert abs(sizes[name] - 20_000 * share) < 4 * spread
    assert members(split(dataset, SHARES, seed=1)) != members(split(dataset, SHARES, seed=2))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any))
def test_thresholds_divide_all_words_exactly(parts: list[int]) -> None:
    shares = {str(i): Fraction(part, sum(parts)) for i, part in enumerate(parts)}
    ends = [0, *thresholds(shares).tolist(), 2**63]
    widths = [later - earlier for earlier, later in itertools.pairwise(ends)]
    assert all(abs(width - share * 2**63) < 1 for width, share in zip(widths, shares.values(), strict=True))


def test_a_side_may_be_everything_or_nothing(write: Write) -> None:
    sides = split(write(keyed(50)), {"none": 0, "all": 1.0, "nothing": 0.0})
    assert [len(side) for side in sides.values()] == [0, 50, 0]


def test_a_split_by_range_has_those_rows_and_leaves_others_out(write: Write) -> None:
    dataset = write(keyed(100))
    found = members(split(dataset, {"train": slice(80), "valid": range(80, 90)}))
    assert found == {"train": list(range(80)), "valid": list(range(80, 90))}
    with pytest.raises(ValueError, match="the parts overlap: row 79 is in more than one"):
        split(dataset, {"train": slice(80), "valid": slice(79, None)})


@pytest.mark.parametrize(
    ("parts", "by", "error", "message"),
    [
        ({"a": 0.9}, None, ValueError, r"shares must add up to 1, these add up to 0.9: .*'rest'"),
        ({"a": 9, "b": 1}, None, ValueError, "these add up to 10"),
        ({"a": -0.5, "b": 1.5}, None, ValueError, "the share of 'a' must be a number from 0 on, got -0.5"),
        ({"a": True}, None, ValueError, "the share of 'a'"),
        ({"a": "most"}, None, TypeError, "the share of 'a' must be a number such as 0.9, got 'most'"),
        ({"a": float("nan")}, None, TypeError, "got nan"),
        ({}, None, TypeError, "split takes"),
        ([0.9, 0.1], None, TypeError, "split takes"),
        ({"a": slice(3), "b": 0.5}, None, TypeError, "split takes shares .* or slices and ranges alone"),
        ({"a": slice(3)}, "user", TypeError, "slices and ranges alone"),
        ({"a": 1.0}, "usr", SchemaError, "did you mean 'user'"),
        (
            {"a": 1.0},
            "weight",
            SchemaError,
            r"field 'weight' .* is \['float64', \[\]\]: a key is an integer, text or bytes",
        ),
        ({"a": 1.0}, "image", SchemaError, r"is \['int64', \[2\]\]: a key is"),
        ({"a": 1.0}, "words", SchemaError, r"is \['list<int64>', \[\]\]: a key is"),
    ],
)
def test_splits_that_make_no_sense_are_refused(
    write: Write, parts: Any, by: str | None, error: type[Exception], message: str
) -> None:
    fields = {"user": np.arange(4), "weight": np.ones(4), "image": np.ones((4, 2), int), "words": [[1], [], [2], [3]]}
    with pytest.raises(error, match=message):
        split(write(fields), parts, by=by)


# --- concatenation ------------------------------------------------------------------------------------------------


def mixed_fields(first: int, count: int) -> dict[str, Any]:
    numbers = np.arange(first, first + count)
    return {
        "x": numbers,
        "flag": numbers % 3 == 0,
        "image": np.stack([numbers, -numbers], axis=1).astype(np.int16),
        "name": [f"row {i}" for i in numbers],
        "words": [list(range(i % 4)) for i in numbers],
    }


def test_a_concatenation_has_the_rows_of_all_one_after_another(write: Write) -> None:
    whole = write(mixed_fields(0, 60))
    pieces = [write(mixed_fields(0, 7)), write(mixed_fields(7, 30), chunk_rows=5), write(mixed_fields(37, 23))]
    assert_rows(concatenate(pieces), whole, list(range(60)))


def test_a_concatenation_of_views_and_of_itself_has_their_rows(write: Write) -> None:
    whole = write(mixed_fields(0, 40))
    low, high = subset(whole, range(20)), subset(whole, [39, 20, 20])
    assert_rows(concatenate([low, high, whole]), whole, [*range(20), 39, 20, 20, *range(40)])
    assert_rows(concatenate([whole, whole]), whole, [*range(40), *range(40)])
    nested = concatenate([concatenate([low, high]), low])
    assert_rows(subset(nested, [0, 22, 42]), whole, [0, 20, 19])


def test_a_concatenation_of_one_is_that_one(write: Write) -> None:
    whole = write(mixed_fields(0, 4))
    assert concatenate([whole]) is whole


def test_a_concatenation_reads_text_of_any_form_and_any_width_of_offsets(tmp_path: Path) -> None:
    datasets = []
    for i, kind in enumerate((pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string()))):
        table = pa.table({"name": pa.array([f"a{i}", f"b{i}"]).cast(kind), "x": pa.array([i, i + 10])})
        path = tmp_path / f"{i}.arrow"
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
        datasets.append(Dataset.open(path))
    shown = concatenate(datasets).read(range(6))
    assert shown["name"].tolist() == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert shown["x"].tolist() == [0, 10, 1, 11, 2, 12]


def test_only_the_fields_asked_for_must_fit(write: Write) -> None:
    one = write({"x": np.arange(3), "y": np.arange(3)})
    other = write({"z": np.ones(2), "x": np.arange(2)})
    with pytest.raises(SchemaError, match=r"has the fields \['z', 'x'\], .* has \['x', 'y'\]: pass fields="):
        concatenate([one, other])
    both = concatenate([one, other], fields=["x"])
    assert list(both.fields) == ["x"]
    assert both.read(range(5))["x"].tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    "other", [np.arange(3, dtype=np.int32), np.ones((3, 2), int), ["a", "b", "c"], [[1], [2], [3]]]
)
def test_fields_of_unlike_types_are_refused_by_name(write: Write, other: Any) -> None:
    with pytest.raises(SchemaError, match=r"field 'x' is .* in .* and .*int64.* in .*: convert one of them"):
        concatenate([write({"x": np.arange(3)}), write({"x": other})])


def test_what_is_no_data_set_is_not_concatenated(tiny: Dataset) -> None:
    for wrong in ([], [tiny, "data"], "data"):
        with pytest.raises(TypeError, match="concatenate takes a list of data sets"):
            concatenate(wrong)  # type: ignore[arg-type]


# --- as data sets -------------------------------------------------------------------------------------------------


def views_of(one: Dataset, other: Dataset) -> dict[str, Dataset]:
    return {
        "subset": subset(one, [5, 3, 3, 0]),
        "slice": subset(one, slice(2, 9)),
        "range": subset(one, slice(2, 10)),
        "train": split(one, {"train": 0.5, "valid": 0.5}, seed=7)["train"],
        "valid": split(one, {"train": 0.5, "valid": 0.5}, seed=7)["valid"],
        "both": concatenate([one, other]),
        "both the other way": concatenate([other, one]),
        "x of both": concatenate([one, other], fields=["x"]),
        "part of both": subset(concatenate([one, other]), slice(15, 30)),
    }


def test_views_know_themselves_by_content_and_can_be_opened_again(write: Write) -> None:
    one, other = write(mixed_fields(0, 20)), write(mixed_fields(20, 20))
    views = views_of(one, other)
    copies = views_of(write(mixed_fields(0, 20), chunk_rows=7), write(mixed_fields(20, 20)))
    fingerprints = {name: view.fingerprint for name, view in views.items()}
    assert len({*fingerprints.values(), one.fingerprint, other.fingerprint}) == len(views) - 1 + 2
    assert fingerprints["x of both"] == fingerprints["both"], "as for one data set, picked fields are no other data"
    assert {name: view.fingerprint for name, view in copies.items()} == fingerprints, "wherever it lies"
    for name, view in views.items():
        again = pickle.loads(pickle.dumps(view))
        assert again.fingerprint == fingerprints[name]
        rows = list(range(len(view)))
        assert_rows(again, view, rows)


@pytest.mark.parametrize("shuffle", ["full", Window(rows=8), None])
def test_a_source_takes_views(write: Write, shuffle: Any) -> None:
    one, other = write(mixed_fields(0, 20)), write(mixed_fields(20, 20))
    for view in views_of(one, other).values():
        everything = view.read(range(len(view)))["x"]
        with MinibatchSource(view, seed=7, shuffle=shuffle, sequences="rows") as source:
            batch = source.next_minibatch(len(view))
            assert sorted(batch["x"].tolist()) == sorted(everything.tolist())
            assert batch["x"].tolist() == everything[batch.rows].tolist()
            state = source.get_checkpoint_state()
            copy = pickle.loads(pickle.dumps(source))
            assert copy.next_minibatch(5)["x"].tolist() == source.next_minibatch(5)["x"].tolist()
            source.restore_from_checkpoint(state)
