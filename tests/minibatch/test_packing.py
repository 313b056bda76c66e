"""Sequences packed into blocks, against the plain twin: exact for every size, at every token."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch import Batch, DatasetWriter, MinibatchSource, Ragged, SkipRows
from minibatch.errors import SchemaError
from minibatch.packing import touched
from tests.plain.sequences import Packed
from tests.sequence_data import LAID, LENGTHS, folder_of, lay
from tests.sequence_walks import cases, from_everywhere, limits, steps, walk

KINDS = ["full", "groups", "view", "mixture", "capped mixture"]


@given(cases, limits(), st.sampled_from([1, 2, 3, 8]), steps())
def test_packed_minibatches_are_those_of_the_twin(sequences_root, case, limit, block, walked):
    make = partial(Packed, block=block)
    walk(sequences_root, case, limit, walked, "packed", make, block, by="tokens", block=block, fields=LAID)


@pytest.mark.parametrize("kind", KINDS)
def test_from_every_position_a_restored_source_goes_on_as_one_that_sought_its_time(sequences_root, kind):
    laid = lay(sequences_root, "empty ones", kind, 3, by="tokens")
    options: dict[str, Any] = {"sequences": "packed", "block": 3, "fields": LAID, "length_field": "tokens"}
    make = partial(MinibatchSource, laid.data, 3, laid.shuffle, threads=2, **options)
    assert from_everywhere(make, 3, 30) >= 15


def packed(folder: Path, block: int, seed: int = 0, **options: Any) -> MinibatchSource:
    options = {"fields": ["tokens"], "length_field": "tokens", **options}
    return MinibatchSource(folder, seed, sequences="packed", block=block, **options)


def all_of(batches: list[Batch], name: str) -> np.ndarray[Any, Any]:
    values = [getattr(b, name) if name in ("segment_ids", "positions") else b[name] for b in batches]
    return np.concatenate(values)


@given(st.sampled_from(list(LENGTHS)), st.sampled_from([1, 4, 7]), st.lists(st.integers(1, 9), max_size=6), st.data())
def test_minibatches_of_any_sizes_are_one_and_the_same_array_cut(sequences_root, name, block, sizes, data):
    folder = folder_of(sequences_root, name)
    holes = data.draw(st.sampled_from([(), ((5, 9), SkipRows([0]))]))
    with packed(folder, block, 4, skip=holes) as one, packed(folder, block, 4, skip=holes) as other:
        total = sum(sizes) + 1
        whole = [one.next_minibatch(total * block)]
        cut = [other.next_minibatch(size * block) for size in [*sizes, 1]]
        for field in ("tokens", "segment_ids", "positions"):
            assert np.array_equal(all_of(whole, field), all_of(cut, field)), field
        assert whole[0].sweeps_ended == sum(batch.sweeps_ended for batch in cut)
        assert whole[0].num_samples == sum(batch.num_samples for batch in cut)
        assert one.get_checkpoint_state() == other.get_checkpoint_state()


@pytest.mark.parametrize("skip", [(), [(5, 9), (14, 27), SkipRows([3])]])
def test_parts_are_runs_of_blocks_that_make_up_the_whole(sequences_root, skip):
    folder = folder_of(sequences_root, "empty ones")
    for n in (2, 3, 5):
        ranks = [packed(folder, 2, 6, fields=LAID, skip=skip, max_samples=77) for _ in range(n)]
        with packed(folder, 2, 6, fields=LAID, skip=skip, max_samples=77) as alone:
            for size in (4, 10, 6, 20, 2, 40, 40):
                whole = alone.next_minibatch(size)
                parts = [rank.next_minibatch(size, n, i) for i, rank in enumerate(ranks)]
                sizes = [len(part["tokens"]) for part in parts]
                assert sizes == sorted(sizes, reverse=True)
                assert sizes[0] - sizes[-1] <= 1
                for name in [*LAID, "segment_ids", "positions"]:
                    assert np.array_equal(all_of(parts, name), all_of([whole], name)), name
                assert sum(part.num_samples for part in parts) == whole.num_samples
                assert set().union(*(part.rows.tolist() for part in parts)) == set(whole.rows.tolist())
        for rank in ranks:
            rank.close()


def test_an_epoch_has_every_token_once_and_the_last_block_is_padded(sequences_root):
    folder = folder_of(sequences_root, "many")
    lengths = LENGTHS["many"]
    with packed(folder, 32, 9, max_sweeps=1) as source:
        batches = list(source.minibatches(96))
        assert not source.next_minibatch(96)
    tokens, ids = all_of(batches, "tokens"), all_of(batches, "segment_ids")
    assert tokens.shape == (-(-sum(lengths) // 32), 32)
    assert (ids > 0).sum() == sum(batch.num_samples for batch in batches) == sum(lengths)
    assert len(set(tokens[ids > 0].tolist())) == sum(lengths)
    assert not ids[-1, sum(lengths) % 32 :].any()
    assert not tokens[-1, sum(lengths) % 32 :].any()
    assert [batch.end_of_sweep for batch in batches] == [False] * (len(batches) - 1) + [True]


def test_cumulative_lengths_are_what_attention_of_varying_length_takes(sequences_root):
    folder = folder_of(sequences_root, "plain")  # lengths 3, 5, 2, 7, 1, 4
    with packed(folder, 8, shuffle=None, max_sweeps=1) as source:
        batch = source.next_minibatch(24)
        assert batch.cu_seqlens is not None
        assert batch.cu_seqlens.tolist() == [0, 3, 8, 10, 16, 17, 18, 22, 24], "the last run is padding"
        assert batch.segment_ids is not None
        assert batch.segment_ids.tolist() == [[1] * 3 + [2] * 5, [1] * 2 + [2] * 6, [1, 2, 3, 3, 3, 3, 0, 0]]
        assert batch.positions is not None
        assert batch.positions[2].tolist() == [6, 0, 0, 1, 2, 3, 0, 0], "counted from where the sequence begins"


def test_seeking_is_exact_at_every_token_and_blocks_begin_there(sequences_root):
    folder = folder_of(sequences_root, "empty ones")
    with packed(folder, 1, 2) as source:
        tokens = all_of([source.next_minibatch(1) for _ in range(60)], "tokens").reshape(-1).tolist()
    with packed(folder, 4, 2) as source:
        for time in range(50):
            source.seek(time)
            assert source.nominal_time == time
            state = json.loads(json.dumps(source.get_checkpoint_state()))
            batch = source.next_minibatch(8)
            assert batch["tokens"].reshape(-1).tolist() == tokens[time : time + 8]
            source.restore_from_checkpoint(state)
            assert np.array_equal(source.next_minibatch(8)["tokens"], batch["tokens"])


def test_tokens_in_order_are_not_copied(sequences_root):
    with packed(folder_of(sequences_root, "long"), 8) as source:
        for _ in range(5):
            source.next_minibatch(16)
        batch = source.next_minibatch(16)
        tokens = batch["tokens"]
        assert np.shares_memory(tokens, batch._block.columns["tokens"].values.values)
        assert batch["tokens"] is tokens


def test_sequences_that_a_transform_drops_are_holes(sequences_root):
    def dropping(fields: Any, draws: Any) -> Any:
        draws.drop(np.isin(draws.rows, [1, 4]))
        return fields

    for options in ({"sequences": "packed", "block": 3}, {"sequences": "truncated", "lanes": 3}, {}):
        common: dict[str, Any] = {"length_field": "tokens", "fields": LAID, "max_sweeps": 2, **options}
        folder = folder_of(sequences_root, "plain")
        with (
            MinibatchSource(folder, 1, transforms=[dropping], **common) as source,
            MinibatchSource(folder, 1, skip=[SkipRows([1, 4])], **common) as twin,
        ):
            for n, i in [(1, 0), (2, 1), (3, 2), (1, 0), (1, 0)]:
                a, b = source.next_minibatch(9, n, i), twin.next_minibatch(9, n, i)
                assert (a.rows.tolist(), a.times.tolist(), a.num_samples) == (b.rows.tolist(), b.times.tolist(), len(b))
                assert 1 not in a.rows
                for name in LAID:
                    assert np.array_equal(np.asarray(values_of(a, name)), np.asarray(values_of(b, name))), name
                assert a.segment_ids is None or a.segment_ids.tolist() == b.segment_ids.tolist()  # type: ignore[union-attr]


def values_of(batch: Batch, name: str) -> Any:
    values = batch[name]
    return values.values if isinstance(values, Ragged) else values


def test_lists_of_differing_lengths_are_named_with_row_and_field(sequences_root):
    folder = folder_of(sequences_root, "plain")
    message = r"field 'words' of row 0 has 2 elements, its sequence has 3: lists that are laid end to end must have one"
    for options in ({"sequences": "packed", "block": 4}, {"sequences": "truncated", "lanes": 4}):
        common: dict[str, Any] = {"shuffle": None, "fields": ["tokens", "words"], **options}
        with MinibatchSource(folder, length_field="tokens", **common) as source:
            before = source.get_checkpoint_state()
            for _ in range(2):
                with pytest.raises(SchemaError, match=message):
                    source.next_minibatch(8)
                assert source.get_checkpoint_state() == before, "nothing moves"


def test_a_transform_may_not_change_how_many_tokens_there_are(sequences_root):
    def shorter(fields: Any, draws: Any) -> Any:
        return {"tokens": Ragged.of([tokens[:2] for tokens in fields["tokens"]])}

    with packed(folder_of(sequences_root, "plain"), 4, shuffle=None, transforms=[shorter]) as source:  # noqa: SIM117
        with pytest.raises(SchemaError, match="field 'tokens' of row 0 has 2 elements, its sequence has 3"):
            source.next_minibatch(8)


def test_what_a_transform_makes_of_tokens_must_be_laid_out_by_token(sequences_root):
    def nested(fields: Any, draws: Any) -> Any:
        tokens = fields["tokens"]
        return {**fields, "bad": Ragged(Ragged(tokens.values, np.arange(len(tokens.values) + 1)), tokens.offsets)}

    with packed(folder_of(sequences_root, "plain"), 4, transforms=[nested]) as source:
        batch = source.next_minibatch(8)
        assert batch["tokens"].shape == (2, 4)
        with pytest.raises(SchemaError, match="field 'bad' is a Ragged, which cannot be laid out by token"):
            batch["bad"]


def test_blocks_longer_and_shorter_than_everything(tmp_path):
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write({"x": [np.arange(3), np.arange(2)]})
    with MinibatchSource(tmp_path / "d", shuffle=None, sequences="packed", block=100) as source:
        batch = source.next_minibatch(100)
        assert batch["x"][0, :12].tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 0, 1, 0, 1]
        assert (batch.sweeps_ended, batch.num_sequences) == (20, 40)
    with MinibatchSource(tmp_path / "d", shuffle=None, sequences="packed", block=1) as source:
        batches = [source.next_minibatch(1) for _ in range(5)]
        assert [batch["x"].tolist() for batch in batches] == [[[0]], [[1]], [[2]], [[0]], [[1]]]
        assert [batch.times.tolist() for batch in batches] == [[0], [0], [0], [3], [3]]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.data())
def test_touched_are_the_sequences_of_the_tokens_and_the_empty_ones_behind(lengths, data):
    marks = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))])
    start = data.draw(st.integers(0, int(marks[-1])))
    stop = data.draw(st.integers(start, int(marks[-1])))
    lo, hi = touched(marks, start, stop)
    here = [
        i
        for i, length in enumerate(lengths)
        if (max(start, marks[i]) < min(stop, marks[i + 1]))
        or (length == 0 and start < stop and (start < marks[i] <= stop or start == marks[i] == 0))
    ]
    assert list(range(lo, hi)) == here
