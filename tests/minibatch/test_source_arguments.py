"""What MinibatchSource refuses, and what its errors say: states of other sources, bad arguments; nothing then moves."""

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from minibatch import DatasetWriter, MinibatchSource, SkipRows, Window, errors
from tests.plain.source import fields_of

# --- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("fingerprint", {"rows": 41}),
        ("seed", {"seed": 4}),
        ("order", {"shuffle": None}),
        ("order", {"shuffle": Window(rows=8)}),
    ],
)
def test_a_state_of_another_source_is_refused_naming_both_sides_unless_overridden(folder_of, part, other):
    def made(rows: int = 40, seed: int = 3, shuffle: Any = "full") -> MinibatchSource:
        return MinibatchSource(folder_of(rows), seed, shuffle)

    saved, mine = made(), made(**other)
    saved.next_minibatch(17)
    mine.next_minibatch(5)
    state = saved.get_checkpoint_state()
    with pytest.raises(errors.CheckpointError) as caught:
        mine.restore_from_checkpoint(state)
    for side in (state, mine.get_checkpoint_state()):
        assert str(side[part]) in str(caught.value)
    assert f"override=['{part}']" in str(caught.value)
    assert mine.nominal_time == 5, "a refused state moves nothing"
    mine.restore_from_checkpoint(state, override=[part])
    assert mine.nominal_time == 17
    expected = made(**other)
    expected.seek(17)
    assert mine.next_minibatch(30)["x"].tolist() == expected.next_minibatch(30)["x"].tolist()


def test_another_version_of_the_order_is_refused(folder_of, monkeypatch):
    source = MinibatchSource(folder_of(40))
    state = source.get_checkpoint_state()
    monkeypatch.setattr("minibatch.order.VERSION", state["order_version"] + 1)
    with pytest.raises(errors.CheckpointError, match="order_version"):
        source.restore_from_checkpoint(state)


@pytest.mark.parametrize("override", ["seed", ["sed"], ["seed", "rows"]])
def test_an_override_of_something_else_is_refused(folder_of, override):
    source = MinibatchSource(folder_of(40))
    with pytest.raises(ValueError, match="override takes names among"):
        source.restore_from_checkpoint(source.get_checkpoint_state(), override=override)


@pytest.mark.parametrize("time", [-1, 2.0, "5", None, True, 2**63])
def test_a_damaged_state_is_refused(folder_of, time):
    source = MinibatchSource(folder_of(40))
    source.seek(9)
    with pytest.raises(errors.CheckpointError, match="damaged: nominal_time must be"):
        source.restore_from_checkpoint({**source.get_checkpoint_state(), "nominal_time": time})
    assert source.nominal_time == 9


@pytest.mark.parametrize("state", [{}, None, 7, "{}", {"nominal_time": 3}])
def test_what_is_no_state_is_refused(folder_of, state):
    with pytest.raises(errors.CheckpointError, match="not the state of a MinibatchSource"):
        MinibatchSource(folder_of(40)).restore_from_checkpoint(state)


def test_a_state_of_a_later_release_is_refused(folder_of):
    source = MinibatchSource(folder_of(40))
    with pytest.raises(errors.CheckpointError, match="version 2, this release reads 1"):
        source.restore_from_checkpoint({**source.get_checkpoint_state(), "state_version": 2})


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, 2.5, 4.0, "8", None, True, np.True_, [4], np.array([4])])
def test_a_bad_minibatch_size_is_refused_and_nothing_moves(folder_of, k):
    source = MinibatchSource(folder_of(40))
    with pytest.raises((TypeError, ValueError), match="minibatch_size must be"):
        source.next_minibatch(k)
    assert source.nominal_time == 0


@pytest.mark.parametrize(
    ("n", "i"),
    [(0, 0), (-1, 0), (2, 2), (2, -1), (1, 1), (True, 0), (1, False), (1, 0.0), (2, "1"), (None, 0), (2, None)],
)
def test_bad_partitions_are_refused_and_nothing_moves(folder_of, n, i):
    source = MinibatchSource(folder_of(40))
    with pytest.raises((TypeError, ValueError), match=r"(num_data_partitions|partition_index) must be"):
        source.next_minibatch(4, num_data_partitions=n, partition_index=i)
    assert source.nominal_time == 0


@pytest.mark.parametrize("k", [2**50, 2**62, 10**30])  # beyond any address space
def test_a_minibatch_beyond_memory_is_refused_and_reading_goes_on(folder_of, k):
    source = MinibatchSource(folder_of(40), shuffle=None)
    with pytest.raises(MemoryError, match="ask for a smaller minibatch"):
        source.next_minibatch(k)
    assert source.next_minibatch(3)["x"].tolist() == [0, 1, 2]
    limited = MinibatchSource(folder_of(40), max_sweeps=2)
    assert len(limited.next_minibatch(k)) == 80


@pytest.mark.parametrize("time", [-1, 2.5, "3", None, True, 2**63])
def test_a_bad_time_is_refused_and_nothing_moves(folder_of, time):
    source = MinibatchSource(folder_of(40))
    for call in (source.seek, source.at):
        with pytest.raises((TypeError, ValueError), match="nominal_time must be"):
            call(time)
    assert source.nominal_time == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must be at"),
        ({"seed": 2**64}, "seed must be at"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"seed": None}, "seed must be an integer"),
        ({"seed": True}, "seed must be an integer"),
        ({"shuffle": "windowed"}, 'shuffle must be "full", a Window'),
        ({"shuffle": True}, 'shuffle must be "full", a Window'),
        ({"shuffle": Window}, 'shuffle must be "full", a Window'),
        ({"sequences": "padded"}, "sequences must be one of"),
        ({"max_samples": -1}, "max_samples must be at least 0"),
        ({"max_samples": 2.5}, "max_samples must be an integer"),
        ({"max_sweeps": True}, "max_sweeps must be an integer"),
        ({"fields": ["imagee"]}, "no field 'imagee' .* did you mean 'image'"),
        ({"fields": "image"}, r"write \['image'\]"),
        ({"skip": [(5, 3)]}, "must be at least 5, got 3"),
        ({"skip": (15, 23)}, "skip takes"),
        ({"skip": [SkipRows([40])]}, "must be at most 39, got 40"),
        ({"transforms": [5]}, "a transform is a callable"),
        ({"transforms": fields_of}, "transforms must be a sequence"),
    ],
)
def test_a_bad_argument_is_a_clear_error(folder_of, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        MinibatchSource(folder_of(40), **arguments)


@pytest.mark.parametrize(("row", "sweep"), [(-1, 0), (40, 0), (2.0, 0), (0, -1), (0, 2**62), (0, None)])
def test_a_row_or_sweep_that_does_not_exist_is_refused(folder_of, row, sweep):
    with pytest.raises((TypeError, ValueError), match=r"(row|sweep) must be"):
        MinibatchSource(folder_of(40)).when(row, sweep)


def test_an_empty_data_set_is_refused(tmp_path):
    with DatasetWriter(tmp_path / "empty") as writer:
        writer.write({"x": np.zeros(0)})
    with pytest.raises(errors.DatasetError, match="has no rows"):
        MinibatchSource(tmp_path / "empty")


@pytest.mark.parametrize("fields", [[], ["name"], ["image", "x"], ("bit",)])
def test_a_minibatch_has_the_fields_asked_for_in_that_order(folder_of, fields):
    source = MinibatchSource(folder_of(40), seed=1, fields=fields)
    everything = MinibatchSource(folder_of(40), seed=1)
    for k in (3, 3, 3, 50):
        batch, whole = source.next_minibatch(k), everything.next_minibatch(k)
        assert batch.fields == tuple(fields)
        assert batch.rows.tolist() == whole.rows.tolist()
        for name in fields:
            assert np.array_equal(batch[name], whole[name])


def test_fields_and_minibatch_sizes_are_no_part_of_a_state(folder_of):
    source = MinibatchSource(folder_of(40), fields=["name"], max_samples=30)
    other = MinibatchSource(folder_of(40), fields=["x"], skip=[(3, 5)])
    assert source.get_checkpoint_state() == other.get_checkpoint_state()


# --- copies ----------------------------------------------------------------------------------------------------------


def negated(fields: dict[str, np.ndarray], draws: Any) -> dict[str, np.ndarray]:
    return {**fields, "x": -fields["x"] * draws.integers(100)}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda source: pickle.loads(pickle.dumps(source))])
def test_a_copy_is_a_source_of_its_own_that_goes_on_from_the_same_time(folder_of, copied):
    source = MinibatchSource(
        folder_of(40),
        seed=3,
        shuffle=Window(rows=12),
        max_samples=100,
        fields=["x", "name"],
        transforms=(negated for _ in range(2)),
        skip=iter([(30, 35), SkipRows(iter([1, 2]))]),
    )
    for _ in range(3):
        source.next_minibatch(7)
    other = copied(source)
    assert other.get_checkpoint_state() == source.get_checkpoint_state()

    def rest(of: MinibatchSource) -> Iterator[Any]:
        for batch in of.minibatches(9):
            yield batch.times.tolist(), batch["x"].tolist(), batch["name"].tolist(), batch.fields

    assert [*rest(other)] == [*rest(source)]
    other.close()
    source.seek(0)
    assert source.next_minibatch(3)


def test_a_pickle_of_other_data_than_it_finds_is_refused(tmp_path):
    for content in (np.arange(5), np.arange(5) + 1):
        with DatasetWriter(tmp_path / "data", overwrite=True) as writer:
            writer.write({"x": content})
        if content[0] == 0:
            pickled = pickle.dumps(MinibatchSource(tmp_path / "data"))
    with pytest.raises(errors.CheckpointError, match="another data"):
        pickle.loads(pickled)


def test_a_source_shows_its_data_its_seed_and_where_it_stands(folder_of):
    source = MinibatchSource(folder_of(40), seed=7)
    source.next_minibatch(3)
    assert repr(source) == f"MinibatchSource({str(folder_of(40))!r}, seed=7, nominal_time=3)"
