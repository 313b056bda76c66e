"""What cannot be laid on an axis is refused with words that say what to do."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minibatch import Dataset, DatasetWriter, LengthGroups, MinibatchSource, Mixture, Ragged, Sparse
from minibatch.errors import CheckpointError, SchemaError
from tests.sequence_data import LENGTHS, folder_of

PACKED: dict[str, Any] = {"sequences": "packed", "block": 4, "length_field": "tokens", "fields": ["tokens", "label"]}
LANES: dict[str, Any] = {"sequences": "truncated", "lanes": 4, "length_field": "tokens", "fields": ["tokens", "label"]}
WHOLE: dict[str, Any] = {"length_field": "tokens"}


@pytest.fixture
def folder(sequences_root: Path) -> Path:
    return folder_of(sequences_root, "plain")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists of numbers beside everything that cannot be laid end to end."""
    path = tmp_path_factory.mktemp("data") / "odd"
    numbers = Ragged(np.arange(4), np.array([0, 1, 4]))
    with DatasetWriter(path) as writer:
        writer.write(
            {
                "numbers": numbers,
                "nested": Ragged(Ragged(np.arange(6), np.array([0, 1, 2, 4, 6])), np.array([0, 1, 4])),
                "words": [["a"], ["b", "c", "d"]],
                "sparse": Sparse(np.array([0, 1]), np.ones(2, np.float32), np.array([0, 1, 2]), 5),
                "text": ["one", "two"],
            }
        )
    return path


# --- sizes and arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        (PACKED, 6, r"sequences='packed' takes minibatch sizes that are multiples of block=4, got 6: ask for 4 or 8"),
        (PACKED, 3, r"multiples of block=4, got 3: ask for 4$"),
        (LANES, 6, r"sequences='truncated' takes minibatch sizes that are multiples of lanes=4, got 6: ask for 4 or 8"),
    ],
)
def test_sizes_that_are_no_multiple_are_refused_and_time_stays(folder, options, size, message):
    with MinibatchSource(folder, **options) as source:
        source.next_minibatch(4)
        with pytest.raises(ValueError, match=message):
            source.next_minibatch(size)
        assert source.nominal_time == 4
        assert source.next_minibatch(4).nominal_time == 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sequences": "packed"}, ValueError, "sequences='packed' needs block="),
        ({"sequences": "truncated"}, ValueError, "sequences='truncated' needs lanes="),
        ({"block": 4}, ValueError, "block= belongs to sequences='packed', not to 'whole'"),
        ({"sequences": "rows", "lanes": 4}, ValueError, "lanes= belongs to sequences='truncated', not to 'rows'"),
        ({**PACKED, "lanes": 4}, ValueError, "lanes= belongs to sequences='truncated', not to 'packed'"),
        ({**PACKED, "block": 0}, ValueError, "block must be at least 1, got 0"),
        ({**PACKED, "block": 2.0}, TypeError, "block must be an integer, got 2.0"),
        ({**LANES, "lanes": -1}, ValueError, "lanes must be at least 1, got -1"),
        ({"sequences": "padded"}, ValueError, "sequences must be one of .*'whole'.*, got 'padded'"),
        ({"max_samples": -1}, ValueError, "max_samples must be at least 0, got -1"),
        ({"max_samples": 1.5}, TypeError, "max_samples must be an integer"),
        ({"length_field": "label"}, SchemaError, r"length_field='label' is no list of .*: its lists are \['tokens'"),
        ({"length_field": "token"}, SchemaError, "no field 'token' in .*; did you mean 'tokens'"),
        (
            {**PACKED, "fields": ["label"]},
            SchemaError,
            r"needs a list field to lay end to end; the fields are \['label",
        ),
    ],
)
def test_wrong_arguments_are_refused_at_opening(folder, options, error, message):
    with pytest.raises(error, match=message):
        MinibatchSource(folder, **options)


@pytest.mark.parametrize("options", [{"sequences": "packed", "block": 2}, {"sequences": "truncated", "lanes": 2}])
@pytest.mark.parametrize("field", ["nested", "words", "sparse"])
def test_fields_that_cannot_be_laid_end_to_end_are_named_at_opening(odd, options, field):
    for fields in (None, ["numbers", field]):
        with pytest.raises(SchemaError, match=r"field '\w+' cannot be packed: it is no list of numbers; pick others"):
            MinibatchSource(odd, fields=fields, **options)
    with MinibatchSource(odd, fields=["numbers", "text"], shuffle=None, length_field="numbers", **options) as source:
        assert set(source.next_minibatch(4)["text"].reshape(-1).tolist()) <= {"one", "two"}


def test_data_without_lists_are_counted_by_rows_or_refused(folder_of):
    data = folder_of(40)
    for mode in ("whole", "rows"):
        with MinibatchSource(data, 3, sequences=mode) as source, MinibatchSource(data, 3) as plain:
            assert source.next_minibatch(7).rows.tolist() == plain.next_minibatch(7).rows.tolist()
            assert source.get_checkpoint_state() == plain.get_checkpoint_state()
    with pytest.raises(SchemaError, match="sequences='packed' needs a list field to lay end to end; the fields are"):
        MinibatchSource(data, sequences="packed", block=4)
    with pytest.raises(SchemaError, match=r"LengthGroups needs a list field whose lengths count; .* has none"):
        MinibatchSource(data, shuffle=LengthGroups(rows=8, group=2))


def test_a_mixture_has_no_sweeps_of_its_own(folder):
    with pytest.raises(ValueError, match="a mixture has no sweeps of its own: give max_sweeps to Mixture, by source"):
        MinibatchSource(Mixture({"a": folder, "b": folder}, weights={"a": 1, "b": 1}), max_sweeps=1)


def test_lanes_have_no_closed_form(folder):
    with MinibatchSource(folder, **LANES) as source:
        for ask in (lambda: source.at(0), lambda: source.when(0)):
            with pytest.raises(ValueError, match=r"has no (at|when)\(\): batch.rows and batch.times say what"):
                ask()


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [WHOLE, PACKED, LANES])
@pytest.mark.parametrize("limit", [{"max_samples": 8}, {"max_sweeps": 1}, {"max_samples": 0}])
def test_beyond_the_end_everything_is_empty_and_going_back_is_possible(folder, options, limit):
    with MinibatchSource(folder, **options, **limit) as source:
        for time in (40, 400, 10**6):
            source.seek(time)
            for n, i in [(1, 0), (3, 1)]:
                batch = source.next_minibatch(8, n, i)
                assert not batch
                assert (batch.num_samples, batch.num_sequences, batch.sweeps_ended) == (0, 0, 0)
                assert batch.nominal_time == batch.nominal_end >= time
                assert len(batch["tokens"]) == (0 if options is not LANES else len(batch.segment_ids))
                assert batch["label"].size == 0
            state = json.loads(json.dumps(source.get_checkpoint_state()))
            source.seek(0)
            source.restore_from_checkpoint(state)
            assert not source.next_minibatch(8)
        source.seek(0)
        assert bool(source.next_minibatch(8)) == (limit.get("max_samples") != 0)


# --- states -----------------------------------------------------------------------------------------------------------


def state_of(folder: Any, options: dict[str, Any]) -> dict[str, Any]:
    with MinibatchSource(folder, 1, **options) as source:
        source.next_minibatch(8)
        state: dict[str, Any] = json.loads(json.dumps(source.get_checkpoint_state()))
    return state


@pytest.mark.parametrize("made", [WHOLE, PACKED, LANES, {"sequences": "rows"}])
@pytest.mark.parametrize("opened", [WHOLE, PACKED, LANES, {"sequences": "rows"}])
def test_a_state_of_another_way_of_counting_is_refused_unless_overridden(folder, made, opened):
    if made == opened:
        return
    state = state_of(folder, made)
    with MinibatchSource(folder, 1, **opened) as source:
        before = source.get_checkpoint_state()
        with pytest.raises(CheckpointError, match=r"made with another way of counting: .* or pass override=\['seq"):
            source.restore_from_checkpoint(state)
        assert source.get_checkpoint_state() == before
        if opened is not LANES or state["nominal_time"] % 4 == 0:
            source.restore_from_checkpoint(state, override=["sequences"])
            sought = source.get_checkpoint_state()
            source.seek(state["nominal_time"])
            assert source.get_checkpoint_state() == sought


@pytest.mark.parametrize(
    ("made", "opened", "message"),
    [
        ({**PACKED, "block": 2}, PACKED, r"made with block=2, this source has block=4"),
        ({**LANES, "lanes": 2}, LANES, r"made with lanes=2, this source has lanes=4"),
        ({"length_field": "words"}, WHOLE, r"another way of counting: .*'words'.*'tokens'"),
        ({}, WHOLE, r"another way of counting: .*'length_field': None.*'tokens'"),
    ],
)
def test_a_state_of_another_block_or_lanes_or_length_is_refused(folder, made, opened, message):
    state = state_of(folder, made)
    with MinibatchSource(folder, 1, **opened) as source:
        with pytest.raises(CheckpointError, match=message):
            source.restore_from_checkpoint(state)
        assert source.nominal_time == 0
        source.seek(state["nominal_time"])


def test_a_state_of_other_orders_is_refused(folder):
    state = state_of(folder, {**WHOLE, "shuffle": LengthGroups(rows=4, group=2)})
    with MinibatchSource(folder, 1, shuffle=LengthGroups(rows=4, group=1), **WHOLE) as source:  # noqa: SIM117
        with pytest.raises(CheckpointError, match="another order"):
            source.restore_from_checkpoint(state)


DAMAGE: list[tuple[dict[str, Any], str, Any]] = [
    *((options, "row_ordinal", value) for options in (WHOLE, PACKED, LANES) for value in (None, -1, 1.5, "3", True)),
    *((options, "nominal_time", value) for options in (WHOLE, PACKED, LANES) for value in (None, -1, 1.5, "3")),
    *((PACKED, "token_offset", value) for value in (None, -1, 1.5, 100)),
    *((LANES, "lanes", value) for value in (None, [], 4, [[-1, 0]] * 3, [[1]] * 4, [["a", 0]] * 4, [[1.5, 0]] * 4)),
    *((LANES, "lanes", value) for value in ([[0, 1]] * 4, [[-1, 0]] * 3 + [[99, 1]], [[-1, 0]] * 3 + [[0, 50]])),
    (LANES, "lanes", [[-1, 0]] * 3 + [[0, 0]]),
    (LANES, "nominal_time", 7),
]


@pytest.mark.parametrize(("options", "name", "value"), DAMAGE)
def test_a_damaged_state_is_refused_and_nothing_moves(folder, options, name, value):
    state = copy.deepcopy(state_of(folder, options))
    with MinibatchSource(folder, 1, **options) as source:
        source.next_minibatch(4)
        before = source.get_checkpoint_state()
        for damaged in ({**state, name: value}, {key: state[key] for key in state if key != name}):
            with pytest.raises(CheckpointError):
                source.restore_from_checkpoint(damaged)
            assert source.get_checkpoint_state() == before
        source.restore_from_checkpoint(state)
        assert source.get_checkpoint_state() == state


def test_sequences_are_counted_by_all_lists_though_only_some_are_read(folder):
    with MinibatchSource(folder, fields=["label"]) as some, MinibatchSource(folder) as everything:
        for k in (5, 9, 1):
            assert some.next_minibatch(k).rows.tolist() == everything.next_minibatch(k).rows.tolist()
        assert some.get_checkpoint_state() == everything.get_checkpoint_state()
    assert len(Dataset.open(folder)) == len(LENGTHS["plain"])
