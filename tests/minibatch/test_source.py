"""MinibatchSource against its plain twin: the nine points of its contract, whatever was read before or ahead."""

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minibatch.readahead
from minibatch import Batch, Dataset, MinibatchSource, SkipRows, Window
from tests.plain import order as plain
from tests.plain.source import PlainBatch, PlainSource, fields_of

SHUFFLES: dict[str, Any] = {"full": "full", "windowed": Window(rows=12), "sequential": None}
LIMITS: list[dict[str, int]] = [{}, {}, {"max_samples": 97}, {"max_sweeps": 2}, {"max_samples": 50, "max_sweeps": 3}]


def twin_of(shuffle: Any, rows: int, chunk: int, seed: int, **more: Any) -> PlainSource:
    if isinstance(shuffle, Window):
        chunk = min(chunk, rows)
        window = max(1, shuffle.rows // chunk)
        order: plain.Order = plain.Windowed(rows=rows, chunk_rows=chunk, window_chunks=window, seed=seed)
    else:
        order = plain.Full(rows=rows, seed=seed) if shuffle == "full" else plain.Sequential(rows=rows)
    return PlainSource(order=order, **more)


def assert_equal(batch: Batch, twin: PlainBatch) -> None:
    assert (batch.nominal_time, batch.nominal_end) == (twin.nominal_time, twin.nominal_end)
    assert (batch.sweeps_ended, batch.end_of_sweep) == (twin.sweeps_ended, twin.sweeps_ended > 0)
    assert batch.num_samples == batch.num_sequences == len(batch) == len(twin.rows)
    assert bool(batch) == (twin.nominal_end > twin.nominal_time)
    assert (batch.rows.tolist(), batch.times.tolist()) == (twin.rows, twin.times)
    assert batch.rows.dtype == batch.times.dtype == np.int64
    for name, expected in fields_of(np.array(twin.rows, np.int64)).items():
        assert (batch[name].dtype, batch[name].shape) == (expected.dtype, expected.shape), name
        assert np.array_equal(batch[name], expected), name


def scribble(batch: Batch) -> None:
    """Write into everything that a caller is given."""
    for values in [batch.rows, batch.times, *(batch[name] for name in batch.fields)]:
        values[...] = 99 if values.dtype == object else np.iinfo(np.int64).max >> 8 * (8 - values.itemsize)


@st.composite
def walks(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """What a caller may do, with runs of equal reads so that reading ahead sets in."""
    sizes = st.integers(1, 12) | st.sampled_from([np.int64(5), np.uint8(9), 40, 41, 333])
    time = st.integers(0, 140) | st.sampled_from([10**6, 2**40 + 1])
    step = st.one_of(
        st.tuples(st.just("read"), sizes, st.integers(1, 5), st.integers(0, 4), st.integers(1, 9), st.booleans()),
        st.tuples(st.just("read"), sizes, st.just(1), st.just(0), st.integers(1, 9), st.booleans()),
        st.tuples(st.just("seek"), time),
        st.tuples(st.just("back"), st.integers(0, 30)),
        st.tuples(st.just("restore")),
        st.tuples(st.just("copy")),
    )
    return draw(st.lists(step, min_size=1, max_size=10))


@settings(max_examples=4 * settings().max_examples)
@given(
    st.sampled_from([1, 2, 7, 40, 41, 130, 1100]),
    st.sampled_from([(1, 3), (4, 12), (5, 1000), (64, 64)]),
    st.sampled_from(["full", None, Window(rows=1), Window(rows=12), Window(rows=10**6), Window(rows=9, chunk_rows=2)]),
    st.integers(0, 2**64 - 1) | st.sampled_from([0, 1]),
    st.sampled_from(LIMITS),
    st.lists(st.tuples(st.integers(0, 150), st.integers(0, 30)), max_size=3),
    st.frozensets(st.integers(0, 1099), max_size=4),
    st.sampled_from([1, 64, 1000, 8 << 20]),
    walks(),
)
def test_whatever_a_caller_does_the_source_equals_its_twin(
    folder_of, rows, chunk_shard, shuffle, seed, limits, holes, skip_rows, block_bytes, walk
):
    folder, dataset = folder_of(rows, *chunk_shard), Dataset.open(folder_of(rows, *chunk_shard))
    skip = [(start, start + length) for start, length in holes]
    skip_rows = frozenset(row for row in skip_rows if row < rows)
    chunk = getattr(shuffle, "chunk_rows", None) or dataset.manifest.chunk_rows

    def opened() -> MinibatchSource:
        return MinibatchSource(folder, seed, shuffle, skip=[*skip, SkipRows(skip_rows)], **limits)

    held: list[tuple[np.ndarray, np.ndarray]] = []
    twin = twin_of(shuffle, rows, chunk, seed, skip=skip, skip_rows=skip_rows, **limits)
    source = opened()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minibatch.readahead, "BLOCK_BYTES", block_bytes)
        for what, *arguments in walk:
            if what == "read":
                k, n, i, times, scribbles = arguments
                for _ in range(times):
                    batch = source.next_minibatch(k, n, i % n)
                    assert_equal(batch, twin.next_minibatch(int(k), n, i % n))
                    if scribbles:
                        scribble(batch)
                    held += [(batch[name], batch[name].copy()) for name in batch.fields]
            elif what in ("seek", "back"):
                time = arguments[0] if what == "seek" else max(0, twin.nominal_time - arguments[0])
                source.seek(time)
                twin.nominal_time = time
            elif what == "restore":
                state = json.loads(json.dumps(source.get_checkpoint_state()))
                source = opened()
                source.restore_from_checkpoint(state)
            elif what == "copy":
                source = copy.copy(source)
            assert source.nominal_time == source.get_checkpoint_state()["nominal_time"] == twin.nominal_time
    assert all(np.array_equal(array, before) for array, before in held), "an array was overwritten while held"
    source.close()


# --- 1, 2: one axis --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", SHUFFLES.values(), ids=SHUFFLES)
def test_every_sweep_shows_every_row_once_in_an_order_of_its_own(folder_of, shuffle):
    x = MinibatchSource(folder_of(40), seed=5, shuffle=shuffle).next_minibatch(400)["x"].reshape(10, 40)
    assert (np.sort(x, axis=1) == np.arange(40)).all()
    assert len({sweep.tobytes() for sweep in x}) == (1 if shuffle is None else 10)


@pytest.mark.parametrize("shuffle", ["full", Window(rows=12)], ids=str)
def test_no_sweep_of_a_seed_is_a_sweep_of_another(folder_of, shuffle):
    folder = folder_of(40)
    sweeps = [MinibatchSource(folder, s, shuffle).next_minibatch(160)["x"].reshape(4, 40) for s in range(8)]
    assert len({sweep.tobytes() for sweep in np.concatenate(sweeps)}) == 32


@pytest.mark.parametrize("shuffle", SHUFFLES.values(), ids=SHUFFLES)
def test_at_and_when_are_inverse_and_see_neither_limits_nor_holes(folder_of, shuffle):
    source = MinibatchSource(folder_of(41), seed=3, shuffle=shuffle, max_samples=5, skip=[(0, 30), SkipRows([7])])
    twin = twin_of(shuffle, 41, 4, 3)
    assert source.at(0, count=123).tolist() == [twin.row(t) for t in range(123)]
    assert [source.when(twin.row(t), sweep=t // 41) for t in range(123)] == list(range(123))
    assert source.at(2**61, count=2).tolist() == [twin.row(2**61), twin.row(2**61 + 1)]
    assert source.at(5, count=0).shape == (0,)
    assert source.nominal_time == 0


def test_minibatches_iterates_to_the_end_of_the_axis(folder_of):
    source = MinibatchSource(folder_of(40), shuffle=None, max_sweeps=2)
    assert [batch.num_samples for batch in source.minibatches(30)] == [30, 30, 20]
    source.seek(70)
    assert [batch["x"].tolist() for batch in source.minibatches(30, 3, 2)] == [[37, 38, 39]]


def test_minibatches_goes_on_over_empty_parts_and_holes(folder_of):
    source = MinibatchSource(folder_of(40), shuffle=None, max_samples=20, skip=[(4, 16)])
    assert [batch.num_samples for batch in source.minibatches(4)] == [4, 0, 0, 0, 4]
    source.seek(0)
    assert [batch.num_samples for batch in source.minibatches(2, 3, 2)] == [0] * 10


# --- 5: state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [(), [(15, 23), (60, 61), SkipRows([3, 39])]], ids=["whole", "with holes"])
@pytest.mark.parametrize("shuffle", SHUFFLES.values(), ids=SHUFFLES)
def test_restoring_anywhere_in_three_sweeps_goes_on_as_if_never_stopped(folder_of, shuffle, skip):
    dataset = Dataset.open(folder_of(40))
    whole = MinibatchSource(dataset, 5, shuffle, skip=skip).next_minibatch(200)
    rows_at = dict(zip(whole.times.tolist(), whole.rows.tolist(), strict=True))
    writing = MinibatchSource(dataset, 5, shuffle, skip=skip)
    for position in range(121):
        state = json.loads(json.dumps(writing.state_dict()))
        assert state["nominal_time"] == position
        fresh = MinibatchSource(dataset, 5, shuffle, skip=skip)
        fresh.load_state_dict(state)
        for k in (1, 7, 13, 39):
            begin = fresh.nominal_time
            batch = fresh.next_minibatch(k)
            expected = [rows_at[t] for t in range(begin, begin + k) if t in rows_at]
            assert batch["x"].tolist() == expected, (position, k)
        writing.next_minibatch(1)


def test_the_state_is_the_same_whatever_was_read_ahead_and_small(folder_of):
    states = []
    for sizes in ([120], [1] * 120, [7] * 17 + [1], [60, 1, 59]):
        source = MinibatchSource(folder_of(40), seed=2**64 - 1, shuffle=Window(rows=12))
        for k in sizes:
            source.next_minibatch(k, 3, 1)
        states.append(json.dumps(source.get_checkpoint_state()))
    source.seek(0)
    source.seek(120)
    assert {*states} == {json.dumps(source.get_checkpoint_state())}
    assert len(states[0]) < 300
    assert type(source.get_checkpoint_state()["nominal_time"]) is int


def test_numbers_of_numpy_do_not_get_into_the_state(folder_of):
    source = MinibatchSource(folder_of(40), seed=np.uint64(2**63), shuffle=Window(rows=np.int32(12)))
    source.seek(np.int64(3))
    source.next_minibatch(np.int16(4), np.int8(2), np.uint8(1))
    assert json.loads(json.dumps(source.get_checkpoint_state())) == source.get_checkpoint_state()


# --- 6: partitions ---------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), min_size=1, max_size=8), st.booleans())
def test_the_parts_of_any_number_of_ranks_are_the_minibatch(folder_of, steps, limited):
    """Every rank has a source of its own; the number of ranks changes from step to step."""
    dataset = Dataset.open(folder_of(41))
    limits = {"max_samples": 60} if limited else {}
    ranks = [MinibatchSource(dataset, 1, **limits) for _ in range(9)]
    whole = MinibatchSource(dataset, 1, **limits)
    for k, n in steps:
        expected = whole.next_minibatch(k)
        batches = [ranks[i].next_minibatch(k, n, i) for i in range(n)]
        for spare in ranks[n:]:
            spare.next_minibatch(k)
        assert np.concatenate([batch["x"] for batch in batches]).tolist() == expected["x"].tolist()
        length = expected.num_samples
        assert [batch.num_samples for batch in batches] == [length // n + (i < length % n) for i in range(n)]
        assert {bool(batch) for batch in batches} == {bool(expected)}, "no rank ends before another"
        assert {batch.sweeps_ended for batch in batches} == {expected.sweeps_ended}
        assert {source.nominal_time for source in ranks} == {whole.nominal_time}


def test_an_empty_part_is_no_end_and_has_the_dtypes_and_shapes_of_a_full_one(folder_of):
    source = MinibatchSource(folder_of(40))
    for _ in range(4):
        empty = source.next_minibatch(2, num_data_partitions=5, partition_index=4)
        assert empty
        assert len(empty) == 0
        full = MinibatchSource(folder_of(40)).next_minibatch(2)
        for name in full.fields:
            assert (empty[name].dtype, empty[name].shape) == (full[name].dtype, (0, *full[name].shape[1:]))


# --- limits ----------------------------------------------------------------------------------------------------------


def test_the_end_is_one_short_minibatch_then_empty_ones_for_ever_until_a_seek_back(folder_of):
    source = MinibatchSource(folder_of(40), shuffle=None, max_samples=25)
    assert [len(source.next_minibatch(10)) for _ in range(6)] == [10, 10, 5, 0, 0, 0]
    end = source.next_minibatch(1)
    assert not end
    assert (end["x"].dtype, end["x"].shape, end["image"].shape) == (np.int64, (0,), (0, 3, 2))
    assert source.nominal_time == 25
    source.seek(23)
    assert source.next_minibatch(10)["x"].tolist() == [23, 24]
    source.seek(1000)
    assert not source.next_minibatch(3)
    assert source.nominal_time == 1000
    assert not MinibatchSource(folder_of(40), max_sweeps=0).next_minibatch(1)
