"""What a caller holds: views that nobody writes into again, memory that is given back, and copies that are small."""

import copy
import gc
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minibatch.readahead
from minibatch import Dataset, DatasetWriter, MinibatchSource, Ragged, SkipRows, errors, memory
from minibatch.memory import POOLED_BYTES
from tests import sequence_data

ROWS, WIDTH = 4000, 512  # 2 MiB


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Rows of 512 bytes, so that blocks of more than 1 MiB, which come from recycled memory, are soon read through."""
    path = tmp_path_factory.mktemp("data") / "wide"
    with DatasetWriter(path, chunk_rows=300, shard_rows=1500) as writer:
        writer.write({"x": wide_rows(np.arange(ROWS)), "row": np.arange(ROWS)})
    return Dataset.open(path)


def wide_rows(rows: np.ndarray) -> np.ndarray:
    return (rows[:, None] * 31 + np.arange(WIDTH // 8)).astype(np.int64)


@pytest.fixture(autouse=True)
def _blocks_of_two_mebibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minibatch.readahead, "BLOCK_BYTES", 2 * POOLED_BYTES)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def calls_of(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that grows with every call of `owner.name`."""
    calls: list[Any] = []
    function = getattr(owner, name)

    def watched(*arguments: Any) -> Any:
        calls.append(name)
        return function(*arguments)

    monkeypatch.setattr(owner, name, watched)
    return calls


# --- what is held stays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 3])
def test_what_is_held_is_never_overwritten_while_memory_around_it_is_used_again(wide, parts, monkeypatch):
    given_out = calls_of(memory.Pool, "_root", monkeypatch)
    made = calls_of(memory, "anonymous", monkeypatch)
    random = np.random.default_rng(5)
    source = MinibatchSource(wide, seed=1)
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for step in range(900):
        k = (64, 600, 1000)[step // 60 % 3]
        batch = source.next_minibatch(k * parts, parts, step // 60 % parts)
        x = batch["x"]
        assert np.array_equal(x, wide_rows(batch.rows)), "nobody's writing shows in what is read"
        what = random.integers(4)
        if what == 0:
            held.append((x, x.copy()))
        elif what == 1:
            x[...] = -1
            held.append((x[3:9, ::2], x[3:9, ::2].copy()))
        elif what == 2:
            x[...] = -2  # and dropped
        if len(held) > 10:
            array, before = held.pop(int(random.integers(10)))
            assert np.array_equal(array, before)
    assert all(np.array_equal(array, before) for array, before in held)
    assert len(given_out) > 100
    assert len(made) < len(given_out) / 3, "memory was used again"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_is_bounded_when_nothing_is_held(wide):
    source = MinibatchSource(wide, seed=1)
    sizes = [256, 256, 256, 5000, 100]
    for step in range(200):
        source.next_minibatch(sizes[step % 5])["x"]
    gc.collect()
    before = resident_bytes()
    for step in range(2000):
        source.next_minibatch(sizes[step % 5])["x"]
    assert resident_bytes() - before < 32 << 20, "2,000 minibatches are 1.2 GB"


def test_writing_into_a_minibatch_changes_no_later_one_even_after_going_back(wide):
    source = MinibatchSource(wide, seed=1, skip=[(100, 120)])
    for t in (0, 0, 90, 810, 720, 500):
        source.seek(t)
        for begin in range(t, t + 900, 90):
            fresh = MinibatchSource(wide, seed=1, skip=[(100, 120)])
            fresh.seek(begin)
            batch, expected = source.next_minibatch(90), fresh.next_minibatch(90)
            assert batch.rows.tolist() == expected.rows.tolist()
            assert batch.times.tolist() == expected.times.tolist()
            assert np.array_equal(batch["x"], wide_rows(expected.rows))
            for values in (batch["x"], batch["row"], batch.rows, batch.times):
                values[...] = 10**9


def test_arrays_outlive_their_minibatch_and_their_source(wide):
    source = MinibatchSource(wide, seed=1)
    arrays = [(batch.rows, batch["x"]) for batch in (source.next_minibatch(300) for _ in range(30))]
    source.close()
    del source
    gc.collect()
    assert all(np.array_equal(x, wide_rows(rows)) for rows, x in arrays)


# --- views ------------------------------------------------------------------------------------------------------------


def test_numbers_are_writable_views_and_asking_twice_gives_the_same_array(wide):
    source = MinibatchSource(wide, seed=1)
    batches = [source.next_minibatch(10) for _ in range(40)]
    for batch in batches:
        assert batch["x"] is batch["x"]
        assert batch["x"].flags.writeable
        assert batch["x"].flags.c_contiguous
        assert batch["x"].base is not None
    assert len({id(batch._block) for batch in batches}) < 10, "many minibatches are slices of one block"


def test_tensors_share_the_memory_and_keep_it(wide):
    torch = pytest.importorskip("torch")
    source = MinibatchSource(wide, seed=1)
    kept = []
    for _ in range(60):
        batch = source.next_minibatch(500)
        x = batch["x"]
        tensor = torch.from_numpy(x)
        assert tensor.data_ptr() == x.__array_interface__["data"][0]
        tensor += 1
        assert np.array_equal(x, wide_rows(batch.rows) + 1)
        kept.append((tensor, torch.from_dlpack(batch["row"]), batch.rows.copy()))
    del source, batch, x, tensor
    gc.collect()
    for tensor, row, rows in kept:
        assert np.array_equal(tensor.numpy(), wide_rows(rows) + 1)
        assert row.tolist() == rows.tolist()


def test_a_field_that_is_not_there_is_named_with_those_that_are(wide):
    batch = MinibatchSource(wide).next_minibatch(3)
    with pytest.raises(errors.SchemaError, match=r"no field 'y' in this minibatch: it has \['x', 'row'\]"):
        batch["y"]
    assert "x" in batch
    assert "y" not in batch
    assert batch.fields == ("x", "row")


def test_a_minibatch_shows_where_it_stands(wide):
    source = MinibatchSource(wide, skip=[(3990, 4005)])
    source.seek(3990)
    batch = source.next_minibatch(20, 2, 1)
    assert repr(batch) == "Batch([3990, 4010), num_samples=5, fields=['x', 'row'])"
    assert (batch.nominal_time, batch.nominal_end, batch.sweeps_ended) == (3990, 4010, 1)
    assert batch.end_of_sweep


def test_a_minibatch_of_holes_alone_is_true_and_empty(wide):
    source = MinibatchSource(wide, skip=[(0, 30)])
    batches = [source.next_minibatch(10) for _ in range(3)]
    for batch in batches:
        assert batch
        assert batch.num_samples == len(batch) == 0
        assert (batch["x"].shape, batch["x"].dtype) == ((0, WIDTH // 8), np.int64)
        assert (batch.rows.shape, batch.times.shape) == ((0,), (0,))
    assert source.next_minibatch(1).num_samples == 1


# --- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [lambda batch: pickle.loads(pickle.dumps(batch)), copy.copy, copy.deepcopy])
def test_a_copy_has_these_samples_and_not_the_block_they_lie_in(folder_of, copied):
    source = MinibatchSource(folder_of(1100, 64, 64), seed=1, skip=[(1003, 1006)])
    source.seek(900)
    for k, n, i in [(40, 1, 0)] * 4 + [(40, 3, 2)] * 3 + [(1, 2, 1)]:
        batch = source.next_minibatch(k, n, i)
        batch["x"][1:2] += 1
        other = copied(batch)
        for attribute in ("nominal_time", "nominal_end", "num_samples", "sweeps_ended", "end_of_sweep", "fields"):
            assert getattr(other, attribute) == getattr(batch, attribute)
        assert bool(other) == bool(batch)
        assert (other.rows.tolist(), other.times.tolist()) == (batch.rows.tolist(), batch.times.tolist())
        assert all(np.array_equal(other[name], batch[name]) for name in batch.fields)
        assert other["x"].dtype == batch["x"].dtype


def test_the_pickle_of_a_minibatch_is_as_small_as_it(wide):
    source = MinibatchSource(wide)
    for _ in range(30):
        batch = source.next_minibatch(10)
    assert len(pickle.dumps(batch)) < 10 * WIDTH + 2000


SEQUENCES: list[dict[str, Any]] = [
    {},
    {"sequences": "rows"},
    {"sequences": "packed", "block": 3, "fields": sequence_data.LAID},
    {"sequences": "truncated", "lanes": 3, "fields": sequence_data.LAID},
]


@pytest.mark.parametrize("options", SEQUENCES)
@pytest.mark.parametrize("copied", [lambda batch: pickle.loads(pickle.dumps(batch)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("skip", [(), [(4, 9), SkipRows([0, 3])]])
def test_a_copy_of_sequences_has_all_that_the_minibatch_has(sequences_root, options, copied, skip):
    folder = sequence_data.folder_of(sequences_root, "plain")
    with MinibatchSource(folder, 1, length_field="tokens", skip=skip, max_sweeps=2, **options) as source:
        for n, i in [(1, 0), (2, 1), (5, 4), (1, 0), (1, 0), (1, 0), (1, 0)]:
            batch = source.next_minibatch(9, n, i)
            other = copied(batch)
            for again in (other, copied(other)):
                for attribute in ("nominal_time", "nominal_end", "num_samples", "num_sequences", "sweeps_ended"):
                    assert getattr(again, attribute) == getattr(batch, attribute)
                assert (bool(again), repr(again), again.fields) == (bool(batch), repr(batch), batch.fields)
                for attribute in ("rows", "times", "segment_ids", "positions", "cu_seqlens"):
                    mine, others = getattr(batch, attribute), getattr(again, attribute)
                    assert (mine is None) == (others is None)
                    assert mine is None or np.array_equal(mine, others), attribute
                for name in batch.fields:
                    mine, others = batch[name], again[name]
                    assert type(mine) is type(others)
                    if isinstance(mine, Ragged):
                        assert mine.offsets.tolist() == others.offsets.tolist()
                        mine, others = mine.values, others.values
                    assert mine.dtype == others.dtype
                    assert np.array_equal(mine, others), name


def test_the_pickle_of_packed_tokens_is_as_small_as_they(tmp_path):
    with DatasetWriter(tmp_path / "long") as writer:
        writer.write({"tokens": [np.arange(100_000, dtype=np.int16)] * 3})
    with MinibatchSource(tmp_path / "long", sequences="packed", block=100) as source:
        for _ in range(3):
            batch = source.next_minibatch(200)
        assert len(pickle.dumps(batch)) < 200 * (2 + 4 + 4) + 2000, "tokens, segment ids and positions"


def test_a_minibatch_of_sequences_shows_how_much_it_holds(sequences_root):
    folder = sequence_data.folder_of(sequences_root, "plain")
    with MinibatchSource(folder, shuffle=None, fields=["tokens"], length_field="tokens") as source:
        assert repr(source.next_minibatch(9)) == "Batch([0, 8), num_samples=8, fields=['tokens'])"
        tokens = source.next_minibatch(9)["tokens"]
        assert tokens.padded(multiple_of=4).shape == (2, 8)
        assert tokens.mask(multiple_of=4).sum() == 9


@pytest.mark.parametrize("mode", ["rows", "whole", "packed", "truncated"])
def test_holes_are_counted_in_every_part(tmp_path, mode):
    with DatasetWriter(tmp_path / "data") as writer:
        writer.write({"x": [np.arange(3)] * 24, "row": np.arange(24)})

    def drops(fields, draws):
        draws.drop(fields["row"] % 8 == 0)
        return fields

    more = {"packed": {"block": 6}, "truncated": {"lanes": 4}}.get(mode, {})
    for n in (1, 2):
        samples, holes = 0, 0
        for i in range(n):
            source = MinibatchSource(
                tmp_path / "data", sequences=mode, transforms=[drops], skip=[SkipRows([1])], max_sweeps=1, **more
            )
            for batch in source.minibatches(24, n, i):
                samples, holes = samples + batch.num_samples, holes + batch.num_holes
                assert copy.deepcopy(batch).num_holes == batch.num_holes
        unit = 1 if mode == "rows" else 3
        assert (samples, holes) == (20 * unit, 4 * unit), n
