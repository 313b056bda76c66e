"""A join gives each row of the left its one partner, keeps its index beside the data, and never a wrong one."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch import Dataset, DatasetWriter, MinibatchSource, joining
from minibatch.buffers import NullMask
from minibatch.errors import DatasetError, SchemaError
from minibatch.joining import ABSENT, DIGEST_WORDS, join, partners_by_key
from minibatch.views import concatenate, split, subset

Write = Callable[..., Dataset]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes fields to a folder of their own and opens it."""
    made = iter(range(10**6))

    def dataset(fields: dict[str, Any], name: str | None = None, overwrite: bool = False) -> Dataset:
        folder = tmp_path / (name or f"data-{next(made)}")
        with DatasetWriter(folder, chunk_rows=4, shard_rows=12, overwrite=overwrite) as writer:
            writer.write(fields)
        return Dataset.open(folder)

    return dataset


def queries(write: Write, users: Any = (7, 3, 7, 5, 3)) -> Dataset:
    users = np.array(users)
    return write({"user": users, "query": [f"q{i}" for i in range(len(users))], "score": np.arange(len(users)) / 2})


def people(write: Write, users: Any = (3, 5, 7, 9)) -> Dataset:
    users = np.array(users)
    return write({"user": users, "name": [f"user {u}" for u in users], "tokens": [list(range(u)) for u in users]})


def caches(dataset: Dataset) -> list[Path]:
    return sorted(dataset.folder.glob("join-*"))


# --- partners -----------------------------------------------------------------------------------------------------


def test_each_row_of_the_left_has_the_fields_of_its_partner_in_the_lefts_order(write: Write) -> None:
    both = join(queries(write), people(write), on="user")
    assert (len(both), both.dropped) == (5, 0)
    assert list(both.fields) == ["user", "query", "score", "name", "tokens"]
    shown = both.read([4, 0, 1, 2, 3])
    assert shown["query"].tolist() == ["q4", "q0", "q1", "q2", "q3"]
    assert shown["name"].tolist() == ["user 3", "user 7", "user 3", "user 7", "user 5"]
    assert shown["tokens"].lengths.tolist() == [3, 7, 3, 7, 5]


keys = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=1, max_size=12),
    st.lists(st.text(st.characters(codec="utf-8"), max_size=3), unique=True, min_size=1, max_size=12),
)


@given(keys, st.data())
def test_partners_are_those_that_a_dictionary_finds(
    tmp_path_factory: pytest.TempPathFactory, right: list[Any], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("join")
    strangers = [10**6, 10**7] if right and isinstance(right[0], int) else ["stranger", "none of them"]
    left = data.draw(st.lists(st.sampled_from([*right, *strangers]), min_size=1, max_size=20))
    both = []
    for side, values in (("left", left), ("right", right)):
        kind = np.array(values, np.int64) if isinstance(strangers[0], int) else values
        with DatasetWriter(folder / side, chunk_rows=4, shard_rows=8) as writer:
            writer.write({"key": kind, "row": np.arange(len(values))})
        both.append(Dataset.open(folder / side))
    places = {value: row for row, value in enumerate(right)}
    expected = [places.get(value, ABSENT) for value in left]
    assert partners_by_key(*both, "key", "key").tolist() == expected
    joined = join(*both, on="key", missing="drop", prefix="right.")
    found = [(i, row) for i, row in enumerate(expected) if row != ABSENT]
    shown = joined.read(range(len(joined)))
    assert list(zip(shown["row"].tolist(), shown["right.row"].tolist(), strict=True)) == found
    assert joined.dropped == len(left) - len(found)


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64, np.uint64])
def test_integers_of_any_width_are_compared_by_value(write: Write, kind: Any) -> None:
    both = join(queries(write), people(write, np.array([3, 5, 7, 9], kind)), on="user")
    assert both.read(range(5))["name"].tolist() == ["user 7", "user 3", "user 7", "user 5", "user 3"]


def test_keys_may_be_text_or_bytes_and_be_called_differently(write: Write) -> None:
    left = write({"word": ["größe", "b", "größe"], "x": np.arange(3)})
    right = write({"entry": [b"b", "größe".encode()], "y": np.array([10, 20])})
    both = join(left, right, on=("word", "entry"))
    assert both.read(range(3))["y"].tolist() == [20, 10, 20]
    assert both.read([0])["entry"].tolist() == ["größe".encode()], "a key of another name is a field like others"


def test_keys_are_read_in_blocks(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibatch.views.ROWS_AT_ONCE", 3)
    left, right = (
        write({"k": [f"{i % 10}" for i in range(40)]}),
        write({"k": [f"{i}" for i in range(10)], "y": np.arange(10)}),
    )
    assert join(left, right, on="k").read(range(40))["y"].tolist() == [i % 10 for i in range(40)]


# --- names --------------------------------------------------------------------------------------------------------


def test_fields_of_one_name_get_a_prefix_or_a_suffix_and_others_none(write: Write) -> None:
    left = write({"id": np.arange(2), "x": np.arange(2), "y": np.arange(2)})
    right = write({"id": np.arange(2), "x": np.arange(2) + 10, "z": np.arange(2)})
    with pytest.raises(SchemaError, match=r"both have \['x'\]: say prefix=… or suffix=…"):
        join(left, right, on="id")
    assert list(join(left, right, on="id", prefix="r_").fields) == ["id", "x", "y", "r_x", "z"]
    both = join(left, right, on="id", suffix="_right")
    assert list(both.fields) == ["id", "x", "y", "x_right", "z"]
    assert both.read([1])["x_right"].tolist() == [11]
    assert both.fields["x_right"].name == "x_right"
    with pytest.raises(SchemaError, match=r"both have \['r_x'\]"):
        join(left, write({"id": np.arange(2), "x": np.arange(2), "r_x": np.arange(2)}), on="id", prefix="r_")


def test_a_mask_of_nulls_is_renamed_with_its_field(tmp_path: Path, write: Write) -> None:
    import pyarrow as pa

    table = pa.table({"id": [1, 2], "x": pa.array([5, None], pa.int64())})
    with pa.ipc.new_file(tmp_path / "right.arrow", table.schema) as file:
        file.write_table(table)
    right = Dataset.open(tmp_path / "right.arrow", nulls={"x": NullMask(fill=-1)})
    left = write({"id": np.array([2, 1]), "x": np.arange(2)})
    both = join(left, right, on="id", prefix="r_")
    shown = both.read([0, 1])
    assert list(both.fields) == ["id", "x", "r_x", "r_x.valid"]
    assert shown["r_x"].tolist() == [-1, 5]
    assert shown["r_x.valid"].tolist() == [False, True]
    assert caches(left) == [], "without fingerprints nothing is kept"


# --- missing, repeated, incomparable ------------------------------------------------------------------------------


def test_missing_partners_are_an_error_that_names_them_or_are_dropped_and_counted(write: Write) -> None:
    left, right = queries(write, [7, 1, 3, 2, 0, 8]), people(write)
    for _ in range(2):  # built, and then from the file
        with pytest.raises(DatasetError, match=r"4 of the 6 rows of .* have no partner in .*: the keys 1, 2, 0, … of"):
            join(left, right, on="user")
    both = join(left, right, on="user", missing="drop")
    assert (len(both), both.dropped) == (2, 4)
    shown = both.read([0, 1])
    assert shown["query"].tolist() == ["q0", "q2"]
    assert shown["name"].tolist() == ["user 7", "user 3"]


def test_repeated_keys_on_the_right_are_an_error_that_names_them(write: Write) -> None:
    with pytest.raises(DatasetError, match=r"2 keys stand more than once in field 'user' of .*: 3, 9; leave one row"):
        join(queries(write), people(write, [3, 9, 5, 9, 7, 3, 9]), on="user")
    words = write({"word": ["a", "b", "a"], "y": np.arange(3)})
    with pytest.raises(DatasetError, match=r"1 keys stand more than once in field 'word' of .*: 'a'"):
        join(write({"word": ["b"]}), words, on="word")


@pytest.mark.parametrize(
    ("on", "error", "message"),
    [
        (("user", "name"), SchemaError, r"field 'user' of .* is int64, field 'name' of .* is text: .* never equal"),
        ("usr", SchemaError, "no field 'usr' in .*did you mean 'user'"),
        ("query", SchemaError, "no field 'query' in"),
        (("score", "user"), SchemaError, r"field 'score' .*a key is an integer, text or bytes"),
        (("user", "tokens"), SchemaError, r"field 'tokens' .*a key is an integer, text or bytes"),
        (("user",), TypeError, "on must be the name of a field, or a pair"),
        (7, TypeError, "on must be the name of a field, or a pair"),
    ],
)
def test_keys_that_cannot_be_compared_are_refused(write: Write, on: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        join(queries(write), people(write), on=on, suffix="_right")


def test_keys_that_int64_does_not_hold_are_refused(write: Write) -> None:
    with pytest.raises(SchemaError, match="has the key 18446744073709551615, which int64 does not hold"):
        join(queries(write), write({"user": np.array([3, 2**64 - 1], np.uint64)}), on="user")


def test_missing_must_be_one_of_two_words(write: Write) -> None:
    with pytest.raises(ValueError, match='missing must be "error" or "drop", got \'ignore\''):
        join(queries(write), people(write), on="user", missing="ignore")  # type: ignore[arg-type]


# --- the index that is kept ---------------------------------------------------------------------------------------


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time an index is found by reading keys."""
    times: list[str] = []

    def counted(left: Dataset, right: Dataset, left_key: str, right_key: str) -> Any:
        times.append(left_key)
        return partners_by_key(left, right, left_key, right_key)

    monkeypatch.setattr(joining, "partners_by_key", counted)
    return times


def names_of(both: Dataset) -> list[str]:
    shown: list[str] = both.read(range(len(both)))["name"].tolist()
    return shown


def test_the_index_is_built_once_and_kept_beside_the_left(write: Write, built: list[str]) -> None:
    left, right = queries(write), people(write)
    expected = names_of(join(left, right, on="user"))
    assert [path.suffix for path in caches(left)] == [".npy"]
    again = join(Dataset.open(left.folder), Dataset.open(right.folder), on="user")
    assert names_of(again) == expected
    assert built == ["user"]
    assert caches(right) == []


def test_an_index_of_other_data_is_not_taken_for_this_ones(write: Write, built: list[str]) -> None:
    left, right = queries(write), people(write)
    join(left, right, on="user")
    other = people(write, (9, 7, 5, 3))  # the same keys in other rows
    assert names_of(join(left, other, on="user")) == ["user 7", "user 3", "user 7", "user 5", "user 3"]
    assert len(built) == len(caches(left)) == 2


@pytest.mark.parametrize("damage", ["cut", "byte", "empty", "text", "other", "pickle"])
def test_a_damaged_index_is_found_anew(write: Write, built: list[str], damage: str) -> None:
    left, right = queries(write), people(write)
    expected = names_of(join(left, right, on="user"))
    (path,) = caches(left)
    content = bytearray(path.read_bytes())
    content[-4 * DIGEST_WORDS - 3] ^= 1  # of the index
    damaged = {"cut": content[:-5], "byte": content, "empty": b"", "text": b"join"}
    if damage in damaged:
        path.write_bytes(damaged[damage])
    else:
        wrong = np.arange(9) if damage == "other" else np.array([{"a": 1}], object)
        np.save(path, wrong, allow_pickle=True)
    assert names_of(join(left, right, on="user")) == expected
    assert names_of(join(left, right, on="user")) == expected
    assert len(built) == 2, "and written again"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_joined_all_the_same(write: Write, built: list[str]) -> None:
    left, right = queries(write), people(write)
    left.folder.chmod(0o555)
    try:
        for _ in range(2):
            assert len(names_of(join(left, right, on="user"))) == 5
        assert caches(left) == []
    finally:
        left.folder.chmod(0o755)
    assert len(built) == 2


def test_a_full_disk_leaves_nothing_behind(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = queries(write), people(write)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert len(names_of(join(left, right, on="user"))) == 5
    assert caches(left) == []


def test_a_data_set_with_an_index_beside_it_can_be_written_anew(write: Write) -> None:
    left, right = queries(write), people(write)
    join(left, right, on="user")
    fields = {"user": np.array([9, 9]), "query": ["a", "b"]}
    anew = write(fields, name=left.folder.name, overwrite=True)
    assert names_of(join(anew, right, on="user")) == ["user 9", "user 9"]


# --- as a data set ------------------------------------------------------------------------------------------------


def test_views_may_be_joined_and_joins_viewed(write: Write) -> None:
    left, right = queries(write), people(write)
    both = join(subset(left, [4, 3, 0]), subset(right, [2, 1, 0]), on="user")
    assert names_of(both) == ["user 3", "user 5", "user 7"]
    whole = join(left, right, on="user")
    assert names_of(subset(whole, [3, 0])) == ["user 5", "user 7"]
    assert names_of(concatenate([whole, both])) == [*names_of(whole), *names_of(both)]
    third = write({"name": ["user 7", "user 5", "user 3"], "age": np.array([70, 50, 30])})
    assert join(whole, third, on="name").read(range(5))["age"].tolist() == [70, 30, 70, 50, 30]
    sides = split(whole, {"a": 0.5, "b": 0.5}, by="name", seed=1)
    assert sorted(names_of(sides["a"]) + names_of(sides["b"])) == sorted(names_of(whole))


def test_joins_of_unlike_layout_are_not_concatenated(write: Write) -> None:
    left, right = queries(write), people(write)
    whole = join(left, right, on="user")
    turned = join(people(write, [7, 5, 3]), subset(left, [0, 1, 3]), on="user")
    with pytest.raises(SchemaError, match=r"lies with others in .*, which are joins: concatenate first, then join"):
        concatenate([whole, turned])
    flat = write(
        {"user": np.arange(2), "query": ["a", "b"], "score": np.ones(2), "name": ["c", "d"], "tokens": [[1], []]}
    )
    for pair in ([whole, flat], [flat, whole]):
        with pytest.raises(SchemaError, match="concatenate first, then join"):
            concatenate(pair)


def test_a_join_knows_itself_and_can_be_opened_again(write: Write) -> None:
    left, right = queries(write), people(write)
    joins = [
        join(left, right, on="user"),
        join(left, right, on=("user", "user"), missing="drop"),
        join(subset(left, [0]), right, on="user"),
        join(left, subset(right, [2, 1, 0]), on="user"),
        join(left, right, on="user", suffix="_r"),
    ]
    assert len({both.fingerprint for both in joins}) == len(joins)
    for both in joins:
        again = pickle.loads(pickle.dumps(both))
        assert (again.fingerprint, again.dropped) == (both.fingerprint, both.dropped)
        assert names_of(again) == names_of(both)


def test_a_source_takes_a_join_in_the_lefts_order(write: Write) -> None:
    left, right = queries(write, np.arange(40) % 9), people(write, np.arange(9))
    both = join(left, right, on="user")
    with (
        MinibatchSource(both, seed=7, sequences="rows") as source,
        MinibatchSource(left, seed=7, sequences="rows") as alone,
    ):
        batch, expected = source.next_minibatch(60), alone.next_minibatch(60)
        assert batch["query"].tolist() == expected["query"].tolist(), "the first one's order"
        assert batch["name"].tolist() == [f"user {user}" for user in expected["user"]]
        assert batch["tokens"].lengths.tolist() == expected["user"].tolist()


def test_keys_that_are_times_of_other_units_are_no_partners(tmp_path):
    for unit in ("s", "ms"):
        with DatasetWriter(tmp_path / unit) as writer:
            writer.write({"when": np.array([1, 2], f"M8[{unit}]"), unit: np.arange(2)})
    with pytest.raises(SchemaError, match=r"are not of one kind"):
        join(Dataset.open(tmp_path / "s"), Dataset.open(tmp_path / "ms"), on="when")
