"""Whole sequences by CNTK's rule, against the plain twin and against what CNTK 2.7 was seen to do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minibatch.sequences
from minibatch import Dataset, DatasetWriter, LengthGroups, MinibatchSource, Ragged, SkipRows
from minibatch.errors import DatasetError
from minibatch.order import make_order
from minibatch.sequences import Lengths, WholeAxis, balanced, elements_taken
from minibatch.timeline import MAX_TIME
from tests.plain import sequences as plain
from tests.plain.sequences import Whole
from tests.plain.source import parts
from tests.sequence_data import LENGTHS, ORDERS, assert_fields, folder_of, lay
from tests.sequence_walks import cases, from_everywhere, limits, steps, walk

SWEEP = sum(LENGTHS["plain"])  # 22


@pytest.fixture
def cntk(sequences_root: Path) -> Path:
    """The sequences that CNTK was watched with: lengths 3, 5, 2, 7, 1, 4."""
    return folder_of(sequences_root, "plain")


def source_of(folder: Path, **options: Any) -> MinibatchSource:
    options = {"shuffle": None, "length_field": "tokens", **options}
    return MinibatchSource(folder, **options)


# --- the twin ---------------------------------------------------------------------------------------------------------


@given(cases, limits(), steps())
def test_whole_sequences_are_those_of_the_twin(sequences_root, case, limit, walked):
    walk(sequences_root, case, limit, walked, "whole", Whole)


@given(cases, limits(), steps())
def test_one_list_alone_may_count(sequences_root, case, limit, walked):
    walk(sequences_root, case, limit, walked, "whole", Whole, by="words")


@given(st.sampled_from(list(LENGTHS)), st.sampled_from(list(ORDERS)), st.integers(0, 4), st.data())
def test_counting_rows_gives_k_rows_whatever_their_lengths(sequences_root, name, kind, seed, data):
    laid = lay(sequences_root, name, kind, seed)
    end = laid.laid or 10**6
    with MinibatchSource(laid.data, seed, laid.shuffle, sequences="rows") as source:
        for k in data.draw(st.lists(st.integers(1, 60), max_size=5)):
            begin = source.nominal_time
            batch = source.next_minibatch(k, 2, 1)
            stop = min(begin + k, end)
            rows = [laid.row(place) for place in parts(list(range(begin, stop)), 2)[1]]
            assert (batch.rows.tolist(), batch.nominal_end, batch.num_samples) == (rows, stop, len(rows))
            assert_fields(batch, laid.fields(rows))
            assert batch.segment_ids is None


@pytest.mark.parametrize("kind", ["full", "groups", "view", "capped mixture"])
def test_from_every_position_a_restored_source_goes_on_as_one_that_sought_its_time(sequences_root, kind):
    laid = lay(sequences_root, "empty ones", kind, 3)
    assert from_everywhere(lambda: MinibatchSource(laid.data, 3, laid.shuffle, threads=2), 2, 30) >= 15


# --- what CNTK 2.7 was seen to do -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        *((size, "3 5 2 7 1 4* 3 5 2 7 1 4*") for size in (1, 2, 3, 4)),
        *((size, "3 5 2 7 5* 3 5 2 7 5*") for size in (5, 6)),
        (8, "8 2 8 7* 7 8 4*"),
        (10, "10 8 7* 7 8 4*"),
        (22, "22* 22*"),
        (30, "30* 14*"),
        (1000, "44*"),
    ],
)
def test_minibatches_of_two_sweeps_are_cut_where_cntk_cuts_them(cntk, size, expected):
    found = [f"{b.num_samples}{'*' * b.end_of_sweep}" for b in source_of(cntk, max_sweeps=2).minibatches(size)]
    assert " ".join(found) == expected


@pytest.mark.parametrize(("max_samples", "given"), [(0, 0), (1, 3), (4, 8), (8, 8), (9, 10), (22, 22), (23, 25)])
@pytest.mark.parametrize("size", [1, 5, 100])
def test_the_sequence_that_a_limit_falls_into_is_delivered_whole(cntk, max_samples, given, size):
    with source_of(cntk, max_samples=max_samples) as source:
        assert sum(batch.num_samples for batch in source.minibatches(size)) == given


@pytest.mark.parametrize(("time", "begin"), [(0, 0), (1, 3), (3, 3), (4, 8), (17, 17), (18, 18), (19, 22), (23, 25)])
def test_a_time_inside_a_sequence_is_that_of_the_next_one(cntk, time, begin):
    with source_of(cntk) as source:
        source.seek(time)
        assert source.nominal_time == begin
        assert source.next_minibatch(1).times.tolist() == [begin]


def test_a_minibatch_over_many_borders_counts_them_all(cntk):
    with source_of(cntk) as source:
        batch = source.next_minibatch(10 * SWEEP + 3)
        assert (batch.end_of_sweep, batch.sweeps_ended, batch.num_sequences) == (True, 10, 61)
        assert not source.next_minibatch(1).end_of_sweep


def test_only_the_end_is_false_and_it_is_for_ever(cntk):
    with source_of(cntk, max_sweeps=1, skip=[(0, 10)]) as source:
        first = source.next_minibatch(10)
        assert first
        assert (first.num_samples, first.num_sequences) == (0, 0)
        assert source.next_minibatch(3, 5, 4), "a part without a sequence is not the end"
        assert source.next_minibatch(100)
        for _ in range(3):
            last = source.next_minibatch(8)
            assert not last
            assert (last.nominal_time, last.nominal_end, last.sweeps_ended) == (22, 22, 0)
        source.seek(18)
        assert source.next_minibatch(8).num_samples == 4


def test_empty_sequences_come_along_with_the_one_before(sequences_root):
    # lengths 0, 0, 3, 0, 5, 0, 0, 9, 1, 0
    folder = folder_of(sequences_root, "empty ones")
    with source_of(folder, max_sweeps=2) as source:
        found = [batch.rows.tolist() for batch in source.minibatches(4)]
    assert found == [[0, 1, 2, 3], [4, 5, 6], [7], [8, 9, 0, 1, 2, 3], [4, 5, 6], [7], [8, 9]]
    with source_of(folder) as source:
        source.seek(3)
        assert source.next_minibatch(4).rows.tolist() == [4, 5, 6]
        assert source.get_checkpoint_state()["row_ordinal"] == 7
        source.seek(18)
        assert source.next_minibatch(1).rows.tolist() == [2, 3], "the two before came along with the sweep before"


# --- parts ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 8))
def test_parts_are_balanced_runs_that_make_up_the_whole(lengths, n):
    marks = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))])
    cuts = [balanced(marks, n, i) for i in range(n)]
    assert cuts == [plain.balanced(lengths, n, i) for i in range(n)]
    assert [lo for lo, _ in cuts] == [0, *(hi for _, hi in cuts[:-1])]
    assert cuts[-1][1] == len(lengths)
    for lo, hi in cuts:
        share = sum(lengths) / n
        assert abs(sum(lengths[lo:hi]) - share) <= max(lengths, default=0), "each cut is off by half a sequence at most"


def test_parts_together_are_the_minibatch(sequences_root):
    for name in LENGTHS:
        folder = folder_of(sequences_root, name)
        for n in (1, 2, 3, 7):
            ranks = [MinibatchSource(folder, 5, skip=[SkipRows([0])] * (n > 2)) for _ in range(n)]
            with MinibatchSource(folder, 5, skip=[SkipRows([0])] * (n > 2)) as alone:
                for k in (1, 9, 40, 3, 200, 9, 9):
                    whole = alone.next_minibatch(k)
                    parts = [rank.next_minibatch(k, n, i) for i, rank in enumerate(ranks)]
                    assert np.concatenate([part.rows for part in parts]).tolist() == whole.rows.tolist()
                    assert np.concatenate([part.times for part in parts]).tolist() == whole.times.tolist()
                    assert sum(part.num_samples for part in parts) == whole.num_samples
                    assert {(part.nominal_end, part.sweeps_ended) for part in parts} == {
                        (whole.nominal_end, whole.sweeps_ended)
                    }
            for rank in ranks:
                rank.close()


# --- lengths ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(0, 40), st.integers(1, 40))
def test_a_minibatch_takes_what_fits_and_the_first_in_any_case(lengths, size, left):
    marks = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))])
    taken, total = 0, 0
    for length in lengths:
        if length and total < left and (total == 0 or total + length <= size):
            total += length
        elif length:
            break
        taken = total
    assert elements_taken(marks, size, left) == taken


def lengths_of(root: Path, name: str, seed: int, end: int = MAX_TIME, by: str = "tokens") -> Lengths:
    dataset = Dataset.open(folder_of(root, name))
    order = make_order("full", rows=len(dataset), chunk_rows=3, seed=seed)
    return Lengths(dataset, order, [by], end)


@given(st.sampled_from(list(LENGTHS)), st.integers(0, 9), st.sampled_from([1, 2, 3, 7, 64]), st.data())
def test_lengths_are_found_by_place_and_by_time(sequences_root, name, seed, at_once, data):
    laid = lay(sequences_root, name, "full", seed)
    axis = laid.axis("tokens")
    end = data.draw(st.sampled_from([MAX_TIME, 5, 30]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minibatch.sequences, "AT_ONCE", at_once)
        patch.setattr(minibatch.sequences, "FIRST", data.draw(st.integers(1, at_once)))
        lengths = lengths_of(sequences_root, name, seed, end)
        assert lengths.sweep == sum(LENGTHS[name])
        places = 3 * len(LENGTHS[name])
        sizes = [axis.size(place) for place in range(places + 200)]
        begins = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        for place in data.draw(st.lists(st.integers(0, places), max_size=8)):
            assert lengths.begin(place) == begins[place]
            assert lengths.one(place) == sizes[place]
            count = data.draw(st.integers(0, 60))
            assert lengths.of(place, count).tolist() == sizes[place : max(place, min(place + count, end))]
            if any(sizes[place:end]):
                elements = data.draw(st.integers(0, 50))
                marks = lengths.marks(place, elements).tolist()
                assert marks == [begins[place + i] - begins[place] for i in range(len(marks))]
                last = place + len(marks) - 1
                assert last >= end or (marks[-1] > elements and (len(marks) == 1 or marks[-2] <= elements))
        for time in data.draw(st.lists(st.integers(0, begins[places] - 1), max_size=8)):
            place, begin, stop = lengths.find(time)
            assert (begins[place], begins[place + 1]) == (begin, stop)
            assert begin <= time < stop
            assert lengths.rows_over(time, 3).tolist() == [axis.row(lengths.find(time + i)[0]) for i in range(3)]


def test_lengths_are_looked_up_once_going_forward(sequences_root, monkeypatch):
    folder = folder_of(sequences_root, "many")
    looked_up: list[tuple[int, int]] = []
    look_up = Lengths._look_up
    monkeypatch.setattr(minibatch.sequences, "FIRST", 8)
    monkeypatch.setattr(minibatch.sequences, "AT_ONCE", 64)

    def watched(self: Lengths, place: int, count: int) -> Any:
        looked_up.append((place, count))
        return look_up(self, place, count)

    monkeypatch.setattr(Lengths, "_look_up", watched)
    with MinibatchSource(folder, 3) as source:
        places = sum(source.next_minibatch(20).num_sequences for _ in range(300))
    assert sum(count for _, count in looked_up) < 1.5 * places + 100
    assert len(looked_up) < places / 30
    assert sum(count for _, count in looked_up[:1]) == 8, "after a jump few are looked up, as nobody may go on"


def test_when_is_the_inverse_of_at(sequences_root):
    for kind in ORDERS:
        laid = lay(sequences_root, "many", kind, 4)
        with MinibatchSource(laid.data, 4, laid.shuffle, length_field="tokens") as source:
            axis = laid.axis("tokens")
            for sweep in (0, 1):
                for row in range(0, len(source.dataset), 5):
                    begin = source.when(row, sweep)
                    if axis.length(row):
                        assert source.at(begin, axis.length(row)).tolist() == [row] * axis.length(row)
                        assert begin == 0 or source.at(begin - 1)[0] != row or sweep
    with MinibatchSource(folder_of(sequences_root, "many"), 4, length_field="tokens") as source:
        far = source.when(7, 10**9)
        assert source.at(far).tolist() == [7]
        assert far // sum(LENGTHS["many"]) == 10**9


# --- restarts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": LengthGroups(rows=8, group=2)},
        {"sequences": "packed", "block": 4, "fields": ["tokens"]},
        {"sequences": "truncated", "lanes": 4, "fields": ["tokens"]},
    ],
)
def test_restoring_far_away_adds_up_nothing(sequences_root, options, monkeypatch):
    folder = folder_of(sequences_root, "many")
    options = {"seed": 2, "length_field": "tokens", **options}
    time = 4 * 10**9 if options.get("sequences") != "truncated" else 4 * 10**4
    with MinibatchSource(folder, **options) as there:
        there.seek(time)
        expected = [there.next_minibatch(8) for _ in range(2)]
        there.seek(time)
        state = json.loads(json.dumps(there.get_checkpoint_state()))
    assert len(json.dumps(state)) < 600
    if time > 10**9:
        assert state["row_ordinal"] > 10**8
    looked_up = []
    look_up = Lengths._look_up

    def never(*arguments: Any) -> Any:
        raise AssertionError("restoring adds up nothing")

    for name in ("_sum_of", "begin", "find", "rows_over"):
        monkeypatch.setattr(Lengths, name, never)
    monkeypatch.setattr(Lengths, "sweep", property(never))
    monkeypatch.setattr(Lengths, "_look_up", lambda *a: (looked_up.append(a[2]), look_up(*a))[1])
    with MinibatchSource(folder, **options) as source:
        source.restore_from_checkpoint(state)
        assert sum(looked_up) <= 4, "at most one sequence for each lane"
        for batch in expected:
            again = source.next_minibatch(8)
            assert (again.rows.tolist(), again.times.tolist()) == (batch.rows.tolist(), batch.times.tolist())
    assert sum(looked_up) <= 4 + 2 * minibatch.sequences.FIRST


def test_the_position_is_equal_however_it_was_reached(cntk):
    states = []
    for sizes in ([1] * 6, [8, 2, 8, 7], [30]):
        with source_of(cntk) as source:
            for size in sizes:
                source.next_minibatch(size)
            source.seek(22)
            states.append(source.get_checkpoint_state())
    assert states[0] == states[1] == states[2]
    assert states[0]["row_ordinal"] == 6


def test_data_without_any_element_are_refused(tmp_path):
    with DatasetWriter(tmp_path / "empty") as writer:
        writer.write({"tokens": Ragged(np.zeros(0, np.int32), np.zeros(1001, np.int64))})
    for more in ({}, {"max_sweeps": 1}):
        for mode, unit in (("whole", {}), ("packed", {"block": 2}), ("truncated", {"lanes": 2})):
            source = MinibatchSource(tmp_path / "empty", sequences=mode, **unit, **more)
            message = r"all sequences of .*empty are empty, counted by the lists \['tokens'\]: name another"
            for _ in range(2):
                with pytest.raises(DatasetError, match=message):
                    source.next_minibatch(2)
                assert source.nominal_time == 0
            source.close()


def test_an_axis_of_whole_sequences_is_used_only_where_there_are_any(sequences_root, folder_of):
    source = MinibatchSource(folder_of(40))
    assert not isinstance(source._axis, WholeAxis)
    assert "row_ordinal" not in source.get_checkpoint_state()
