"""Sequences on lanes, against the plain twin: nothing dropped, exact for every size."""

import json
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minibatch.lanes
from minibatch import Batch, Dataset, DatasetWriter, MinibatchSource, SkipRows
from minibatch.transforms.operations import Fields
from tests.plain.sequences import Truncated
from tests.sequence_data import LAID, LENGTHS, folder_of, lay, shifted, token
from tests.sequence_walks import cases, from_everywhere, limits, steps, walk

KINDS = ["full", "groups", "view", "capped mixture"]


@given(cases, st.sampled_from([1, 2, 3, 8]), steps(), st.integers(1, 4), st.data())
def test_truncated_minibatches_are_those_of_the_twin(sequences_root, case, lanes, walked, held, data):
    limit, make = data.draw(limits(lanes)), partial(Truncated, lanes=lanes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minibatch.lanes, "BLOCKS_HELD", held)
        walk(sequences_root, case, limit, walked, "truncated", make, lanes, by="tokens", lanes=lanes, fields=LAID)


@pytest.mark.parametrize("kind", KINDS)
def test_from_every_position_a_restored_source_goes_on_as_one_that_sought_its_time(sequences_root, kind):
    laid = lay(sequences_root, "empty ones", kind, 3, by="tokens")
    options: dict[str, Any] = {"sequences": "truncated", "lanes": 3, "fields": LAID, "length_field": "tokens"}
    assert from_everywhere(partial(MinibatchSource, laid.data, 3, laid.shuffle, **options), 3, 30) >= 10


def truncated(folder: Any, lanes: int, seed: int = 0, **options: Any) -> MinibatchSource:
    options = {"fields": ["tokens"], "length_field": "tokens", **options}
    return MinibatchSource(folder, seed, sequences="truncated", lanes=lanes, **options)


def shown(batches: list[Batch]) -> list[int]:
    """All tokens, padding apart, in any order."""
    return sorted(int(each) for batch in batches for each in batch["tokens"][batch.segment_ids > 0])


ALL = sorted(token(row, j) for row, length in enumerate(LENGTHS["plain"]) for j in range(length))


@pytest.mark.parametrize("sizes", [[6], [6, 9], [3, 30, 3], [9, 6, 3, 12], [60]])
def test_a_change_of_size_drops_nothing(sequences_root, sizes):
    # CNTK, with lengths 7, 2, 4, 6 and sizes 6, then 9, delivered 12 of 19 samples
    with truncated(folder_of(sequences_root, "plain"), 3, shuffle=None, max_sweeps=1) as source:
        batches = []
        while batch := source.next_minibatch(sizes[len(batches) % len(sizes)]):
            batches.append(batch)
    assert shown(batches) == ALL


def test_a_restart_at_any_point_drops_nothing(sequences_root):
    folder = folder_of(sequences_root, "plain")
    for stop in range(1, 9):
        with truncated(folder, 3, 5, max_sweeps=1) as source:
            batches = [source.next_minibatch(3) for _ in range(stop)]
            state = json.dumps(source.get_checkpoint_state())
        with truncated(folder, 3, 5, max_sweeps=1) as source:
            source.restore_from_checkpoint(json.loads(state))
            batches += source.minibatches(6)
        assert shown([batch for batch in batches if batch]) == ALL


def test_a_validation_in_between_drops_nothing(sequences_root):
    # as a training session does it: note the state, read something else, go back
    folder = folder_of(sequences_root, "plain")
    with truncated(folder, 3, 5, max_sweeps=1) as source:
        batches = []
        while batch := source.next_minibatch(6):
            batches.append(batch)
            state = source.get_checkpoint_state()
            source.seek(0)
            assert sum(each.num_samples for each in source.minibatches(12)) == len(ALL)
            source.restore_from_checkpoint(state)
    assert shown(batches) == ALL


def test_parts_are_lanes_and_may_change_their_number_at_any_time(sequences_root):
    folder = folder_of(sequences_root, "many")
    with truncated(folder, 6, 2, fields=LAID, transforms=[shifted]) as whole:
        ranks = [truncated(folder, 6, 2, fields=LAID, transforms=[shifted]) for _ in range(4)]
        for step, n in enumerate([2, 2, 4, 1, 3, 4, 4, 2, 1, 2, 3]):
            size = 6 * (1 + step % 3)
            batch = whole.next_minibatch(size)
            parts = [rank.next_minibatch(size, n, i % n) for i, rank in enumerate(ranks)][:n]
            for name in LAID:
                assert np.array_equal(np.concatenate([part[name] for part in parts]), batch[name]), name
            assert np.array_equal(np.concatenate([part.positions for part in parts]), batch.positions)
            assert sorted(np.concatenate([part.times for part in parts]).tolist()) == sorted(batch.times.tolist())
            assert sum(part.num_samples for part in parts) == batch.num_samples
        assert len({json.dumps(rank.get_checkpoint_state()) for rank in [whole, *ranks]}) == 1
        for rank in ranks:
            rank.close()


def test_a_lane_goes_on_where_it_was(sequences_root):
    with truncated(folder_of(sequences_root, "many"), 4, 1) as source:
        before = np.full(4, -1)
        for size in [8, 4, 12, 4, 4, 20, 8] * 5:
            batch = source.next_minibatch(size)
            first = batch.positions[:, 0]  # type: ignore[index]
            assert ((first == 0) | (first == before + 1)).all()
            assert (batch.segment_ids[:, 0] == 1).all()  # type: ignore[index]
            before = batch.positions[:, -1]  # type: ignore[index]


def test_every_sequence_is_gathered_and_transformed_once_however_many_minibatches_it_spans(sequences_root):
    seen: Counter[int] = Counter()

    def counting(fields: Fields, draws: Any) -> Fields:
        seen.update(draws.times.tolist())
        return fields

    with truncated(folder_of(sequences_root, "long"), 3, 1, transforms=[counting]) as source:
        for _ in range(200):
            source.next_minibatch(3)
        assert max(seen.values()) == 1
        assert len(source._axis._shelf._held) <= minibatch.lanes.BLOCKS_HELD
        alive = sum(len(block.rows) for _, block in source._axis._shelf._held)
    assert alive <= 3 * (minibatch.lanes.BLOCKS_HELD + 1)


def test_intervals_and_rows_are_skipped_while_lanes_move_on(sequences_root):
    folder = folder_of(sequences_root, "plain")
    with (
        truncated(folder, 2, max_sweeps=1) as plain,
        truncated(folder, 2, max_sweeps=1, skip=[(3, 9), SkipRows([3])]) as source,
    ):
        for _ in range(4):
            a, b = plain.next_minibatch(8), source.next_minibatch(8)
            assert (a.nominal_end, a.sweeps_ended) == (b.nominal_end, b.sweeps_ended)
            times = a.nominal_time + np.arange(a["tokens"].shape[1]) * 2 + np.arange(2)[:, None]
            gone = ((times >= 3) & (times < 9)) | (a["tokens"] // 100 == 3)
            assert np.array_equal(np.where(gone, 0, a["tokens"]), b["tokens"])
            assert np.array_equal(np.where(gone, 0, a.segment_ids), b.segment_ids)
            assert 3 not in b.rows


def test_a_sweep_has_ended_when_its_last_sequence_has(sequences_root):
    with truncated(folder_of(sequences_root, "plain"), 2, shuffle=None, max_sweeps=2) as source:
        batches = list(source.minibatches(2))
    ends = [batch.nominal_end for batch in batches if batch.end_of_sweep]
    assert len(ends) == 2
    assert ends[-1] == batches[-1].nominal_end
    last_of_first = max(b.nominal_end for b in batches[: ends[0] // 2] if set(b.rows.tolist()) & {3, 4, 5})
    assert last_of_first == ends[0]


def test_what_is_written_into_a_minibatch_shows_in_no_later_one(sequences_root):
    folder = Dataset.open(folder_of(sequences_root, "long"))
    with truncated(folder, 3, fields=LAID) as source, truncated(folder, 3, fields=LAID) as twin:
        for _ in range(60):
            a, b = source.next_minibatch(3), twin.next_minibatch(3)
            for name in LAID:
                assert np.array_equal(a[name], b[name])
                a[name][...] = None if name == "name" else 1
            a.rows[...] = 7


def test_limits_that_are_no_multiple_of_the_lanes_are_refused(sequences_root):
    with pytest.raises(ValueError, match=r"max_samples=10 is no multiple of lanes=4, .*: write 8 or 12"):
        truncated(folder_of(sequences_root, "plain"), 4, max_samples=10)


@given(st.integers(0, 30))
def test_a_time_between_two_steps_is_refused(sequences_root, time):
    with truncated(folder_of(sequences_root, "plain"), 4) as source:
        if time % 4 == 0:
            source.seek(time)
        else:
            with pytest.raises(ValueError, match=f"with lanes=4, minibatches begin at multiples of that; got {time}"):
                source.seek(time)
        assert source.nominal_time == (time if time % 4 == 0 else 0)


def test_a_seek_that_fails_leaves_the_lanes_where_they_were(tmp_path, monkeypatch):
    with DatasetWriter(tmp_path / "data") as writer:
        writer.write({"tokens": [np.arange(i % 5 + 1) for i in range(600)]})
    monkeypatch.setattr(minibatch.lanes, "SEEK_STEPS", 10)
    source = MinibatchSource(tmp_path / "data", sequences="truncated", lanes=4)
    source.next_minibatch(40)
    state = source.get_checkpoint_state()
    advanced, calls = minibatch.lanes.LaneAxis._advanced, []

    def stops(axis: Any, steps: int) -> Any:
        calls.append(steps)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return advanced(axis, steps)

    monkeypatch.setattr(minibatch.lanes.LaneAxis, "_advanced", stops)
    with pytest.raises(KeyboardInterrupt):
        source.seek(400)
    assert source.get_checkpoint_state() == state
    again = MinibatchSource(tmp_path / "data", sequences="truncated", lanes=4)
    again.restore_from_checkpoint(state)
    assert source.next_minibatch(8).rows.tolist() == again.next_minibatch(8).rows.tolist()
