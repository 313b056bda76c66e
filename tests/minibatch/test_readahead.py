"""ReadAhead by itself, over a fetch that writes down what it was asked for: which blocks come, and when."""

import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minibatch.readahead
from minibatch.fetch import Block
from minibatch.readahead import BLOCKS_AHEAD, ReadAhead
from minibatch.timeline import MAX_TIME, Stretch

SAMPLE_BYTES = 8


class Fetch:
    """Gathers nothing: row t stands at time t. Keeps a list of the stretches asked for, and by which thread."""

    def __init__(self, fails: Callable[[int], bool] = lambda time: False, holes: frozenset[int] = frozenset()) -> None:
        self.asked: list[Stretch] = []
        self.by_thread: list[Stretch] = []
        self.fails = fails
        self.holes = holes
        self.gate: threading.Event | None = None

    def __call__(self, stretch: Stretch) -> Block:
        self.asked.append(stretch)
        if threading.current_thread().name.startswith("minibatch-reader"):
            self.by_thread.append(stretch)
            if self.gate is not None:
                assert self.gate.wait(60)
        times = [time for run in stretch.runs() for time in run]
        for time_ in times:
            if self.fails(time_):
                raise ValueError(f"time {time_} cannot be had")
        times = [time for time in times if time not in self.holes]
        return Block(stretch, np.array(times, np.int64), {}, np.array(times, np.int64) if self.holes else None)


def reader_of(fetch: Fetch, end: int = MAX_TIME) -> ReadAhead:
    return ReadAhead(fetch, SAMPLE_BYTES, end)


def times_read(reader: ReadAhead, start: int, length: int, stride: int | None = None) -> list[int]:
    block, lo, hi = reader.read(start, length, stride or length)
    return block.rows[lo:hi].tolist()


def read_on(reader: ReadAhead, start: int, stop: int, k: int) -> None:
    """Read minibatch after minibatch, and compare."""
    for t in range(start, stop, k):
        assert times_read(reader, t, k) == list(range(t, t + k))


def settle(reader: ReadAhead) -> None:
    """Wait until all that was asked for is there."""
    for _, coming in list(reader._ahead):
        coming.exception()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minibatch.readahead, "BLOCK_BYTES", 100 * SAMPLE_BYTES)


@pytest.fixture
def joins(monkeypatch: pytest.MonkeyPatch) -> list[Stretch]:
    """The minibatches that had to be copied together."""
    seen = []
    join = minibatch.readahead.join

    def watched(parts: list[Block], stretch: Stretch) -> Block:
        seen.append(stretch)
        return join(parts, stretch)

    monkeypatch.setattr(minibatch.readahead, "join", watched)
    return seen


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("minibatch-reader")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = readers()
    yield
    assert_ended(before)


def assert_ended(before: list[threading.Thread]) -> None:
    """No thread but those `before`, within seconds of the last reference being dropped."""
    gc.collect()
    limit = time.monotonic() + 10
    while set(readers()) - set(before) and time.monotonic() < limit:
        time.sleep(0.005)
    assert not set(readers()) - set(before)


# --- what is read ahead -----------------------------------------------------------------------------------------------


def test_a_single_read_or_jumps_read_nothing_ahead():
    fetch = Fetch()
    reader = reader_of(fetch)
    for start in (5, 1000, 7, 2000):
        assert times_read(reader, start, 10) == list(range(start, start + 10))
    assert len(fetch.asked) == 4
    assert not fetch.by_thread


def test_sequential_reading_is_served_by_blocks_of_about_the_same_bytes_without_a_copy(joins):
    fetch = Fetch()
    reader = reader_of(fetch)
    read_on(reader, 0, 4000, 8)
    assert not joins
    assert [stretch.start for stretch in fetch.asked if stretch not in fetch.by_thread] == [0, 8], "the rest was ahead"
    lengths = [stretch.length for stretch in fetch.by_thread]
    assert lengths[:3] == [8, 32, 96], "the first ones are small, so that nobody waits for them"
    assert set(lengths[3:]) == {96}, "as many whole minibatches as 100 samples hold"
    ends = [stretch.start + stretch.length for stretch in fetch.by_thread]
    assert [stretch.start for stretch in fetch.by_thread] == [16, *ends[:-1]], "no gap, and nothing twice"


def test_after_a_jump_the_first_blocks_are_small_again():
    fetch = Fetch()
    reader = reader_of(fetch)
    read_on(reader, 0, 800, 8)
    fetch.by_thread.clear()
    reader.forget()
    read_on(reader, 8000, 8800, 8)
    assert [stretch.length for stretch in fetch.by_thread][:3] == [8, 32, 96]


def test_a_minibatch_larger_than_a_block_is_a_block(joins):
    fetch = Fetch()
    reader = reader_of(fetch)
    read_on(reader, 0, 2500, 250)
    assert not joins
    assert {stretch.length for stretch in fetch.asked} == {250}


def test_the_thread_stays_a_fixed_number_of_blocks_ahead():
    fetch = Fetch()
    reader = reader_of(fetch)
    read_on(reader, 0, 960, 96)
    settle(reader)
    assert max(stretch.start for stretch in fetch.asked) == 960 + (BLOCKS_AHEAD - 1) * 96


def test_nothing_beyond_the_end_of_the_axis_is_fetched():
    fetch = Fetch()
    reader = reader_of(fetch, end=205)
    read_on(reader, 0, 200, 10)
    assert times_read(reader, 200, 5, 10) == [200, 201, 202, 203, 204]
    for _ in range(3):
        assert times_read(reader, 205, 0, 10) == []
    assert max(stretch.start + stretch.length for stretch in fetch.asked) == 205


def test_after_a_change_of_size_blocks_end_on_the_new_borders(joins):
    fetch = Fetch()
    reader = reader_of(fetch)
    read_on(reader, 0, 700, 7)
    read_on(reader, 700, 700 + 45 * 60, 45)
    assert 1 <= len(joins) <= 1 + BLOCKS_AHEAD
    assert len([stretch for stretch in fetch.asked if stretch not in fetch.by_thread]) <= 3


def test_a_rank_fetches_its_own_samples_alone(joins):
    fetch = Fetch()
    reader = reader_of(fetch)
    for t in range(4, 3000, 10):  # the second part of three of ten samples
        assert times_read(reader, t, 3, 10) == [t, t + 1, t + 2]
    settle(reader)
    assert not joins
    assert all(run.start % 10 == 4 and len(run) == 3 for stretch in fetch.by_thread for run in stretch.runs())
    assert max(stretch.count for stretch in fetch.by_thread) == 33, "100 samples hold so many parts"
    fetched = [time for stretch in fetch.asked for run in stretch.runs() for time in run]
    assert len(fetched) == len(set(fetched))


def test_what_was_read_ahead_for_other_parts_is_dropped():
    fetch = Fetch()
    reader = reader_of(fetch)
    for n, i in [(2, 0), (5, 4), (5, 1), (1, 0), (2, 1)] * 3:
        length = 20 // n
        begin = max(0, reader._expected)
        begin -= begin % 20
        for t in range(begin + i * length, begin + i * length + 400, 20):
            assert times_read(reader, t, length, 20) == list(range(t, t + length))
        assert {(s.length, s.stride) for s, _ in reader._ahead if s.count > 1} <= {(length, 20)}
        assert len([s for s in fetch.asked if s not in fetch.by_thread]) <= 3
        fetch.asked.clear()
        fetch.by_thread.clear()


def test_parts_that_a_held_block_has_are_read_from_it_while_the_blocks_of_another_shape_are_dropped():
    fetch = Fetch()
    reader = reader_of(fetch)
    t = 0
    while t < 200 or reader._block is None or reader._block.stretch.start != t - 4:
        read_on(reader, t, t + 4, 4)
        t += 4
    alone = len(fetch.asked) - len(fetch.by_thread)
    for offset in (0, 2, 0):
        for _ in range(3):
            assert times_read(reader, t + offset, 2, 4) == [t + offset, t + offset + 1]
            t += 4
        shapes = {(s.length, s.stride, (s.start - t) % 4) for s, _ in reader._ahead}
        assert shapes == {(2, 4, offset)}
    assert len(fetch.asked) - len(fetch.by_thread) == alone


def test_an_empty_part_fetches_nothing_and_spoils_nothing():
    fetch = Fetch()
    reader = reader_of(fetch)
    for t in range(0, 200, 2):
        assert times_read(reader, t + 2, 0, 2) == []
    assert not fetch.by_thread
    read_on(reader, 200, 400, 10)
    asked = len(fetch.asked) - len(fetch.by_thread)
    assert times_read(reader, 7, 0, 3) == []
    read_on(reader, 400, 700, 10)
    assert len(fetch.asked) - len(fetch.by_thread) == asked + 1, "the empty one; the rest came from blocks"
    starts = [stretch.start for stretch in fetch.by_thread]
    assert len(starts) == len(set(starts)), "no block was dropped and fetched again"


def test_stale_blocks_are_not_waited_for():
    fetch = Fetch()
    fetch.gate = threading.Event()
    reader = reader_of(fetch)
    for base in range(0, 100_000, 1000):
        reader.forget()
        assert times_read(reader, base, 5) == list(range(base, base + 5))
        assert times_read(reader, base + 5, 5) == list(range(base + 5, base + 10))
    fetch.gate.set()
    assert times_read(reader, base + 10, 5) == list(range(base + 10, base + 15))
    settle(reader)
    assert len(fetch.by_thread) <= 2 * BLOCKS_AHEAD + 1, "of 100 jumps only what was begun, and what is of use"


def test_a_long_held_block_costs_no_loop_over_its_minibatches(monkeypatch):
    monkeypatch.setattr(minibatch.readahead, "BLOCK_BYTES", 1 << 40)
    reader = reader_of(Fetch())
    huge = Stretch(start=0, length=10**12, stride=10**12, count=1)
    reader._block = Block(huge, np.zeros(0, np.int64), {})
    reader._expected = 10
    reader.read(10, 1, 2)
    assert reader._ahead[0][0].start >= 10**12 - 2


# --- whatever the walk ------------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(
        st.integers(0, 3),  # how far to jump; mostly on
        st.integers(1, 130),
        st.integers(1, 6),
        st.integers(0, 5),
        st.integers(1, 12),
    ),
    max_size=12,
)


@given(steps, st.frozensets(st.integers(0, 400), max_size=20), st.sampled_from([MAX_TIME, 300]), st.integers(1, 2000))
def test_any_walk_reads_the_samples_at_its_times(walk, holes, end, block_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minibatch.readahead, "BLOCK_BYTES", block_bytes)
        reader = reader_of(Fetch(holes=holes), end)
        t = 0
        for jump, k, n, i, times in walk:
            if jump == 3:
                t = t // 2
                reader.forget()
            for _ in range(times):
                length = min(k, max(0, end - t))
                share, more = divmod(length, n)
                start = t + (i % n) * share + min(i % n, more)
                part = share + (i % n < more)
                expected = [time for time in range(start, start + part) if time not in holes]
                assert times_read(reader, start, part, k) == expected
                t += length
        reader.close()


def test_a_seeded_walk_takes_every_path(joins):
    """So that the test above is known to reach them: whole blocks, parts of ranks, pieces, drops, joins."""
    random = np.random.default_rng(7)
    taken: Counter[str] = Counter()
    for _ in range(60):
        fetch = Fetch(fails=lambda time: time % 1009 == 0 and time > 0)
        reader = reader_of(fetch)
        t = 1
        for _ in range(12):
            k, n = int(random.integers(1, 60)), int(random.choice([1, 1, 2, 3]))
            i = int(random.integers(n))
            for _ in range(int(random.integers(1, 12))):
                start = t + i * (k // n)
                block_before, ahead_before = reader._block, len(reader._ahead)
                try:
                    block, lo, hi = reader.read(start, k // n, k)
                except ValueError:
                    taken["failed"] += 1
                    reader.forget()
                    t = 1010
                    continue
                assert block.rows[lo:hi].tolist() == list(range(start, start + k // n))
                taken["same block"] += block is block_before
                taken["next block"] += block is reader._block and block is not block_before
                taken["of a rank"] += block is reader._block and block.stretch.count > 1
                taken["fetched alone"] += block is not reader._block and bool(joins) is False
                taken["joined"] += len(joins)
                taken["dropped"] += ahead_before > 0 and not reader._ahead
                joins.clear()
                t += k
        reader.close()
    paths = ("same block", "next block", "of a rank", "fetched alone", "joined", "dropped", "failed")
    assert all(taken[path] > 5 for path in paths), taken


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_block_that_cannot_be_had_fails_in_the_minibatch_that_needs_it_and_in_no_other():
    fetch = Fetch(fails=lambda time: 203 <= time < 205)
    reader = reader_of(fetch)
    read_on(reader, 0, 200, 10)
    assert any(203 in run for stretch in fetch.by_thread for run in stretch.runs()), "the thread has met it before"
    for _ in range(3):
        with pytest.raises(ValueError, match="time 203 cannot be had"):
            reader.read(200, 10, 10)
    for t in range(201, 203):
        assert times_read(reader, t, 1) == [t]
    read_on(reader, 205, 600, 5)
    fetch.fails = lambda time: False
    assert times_read(reader, 200, 10) == list(range(200, 210)), "what was mended can be read"


def test_a_failure_is_not_waited_for_twice_and_reading_ahead_goes_on_after_it():
    fetch = Fetch(fails=lambda time: time == 50)
    reader = reader_of(fetch)
    read_on(reader, 0, 50, 10)
    with pytest.raises(ValueError, match="time 50"):
        reader.read(50, 10, 10)
    read_on(reader, 60, 200, 10)
    before = len(fetch.asked) - len(fetch.by_thread)
    read_on(reader, 200, 1000, 10)
    assert len(fetch.asked) - len(fetch.by_thread) == before, "all from blocks again"


def test_where_no_thread_can_be_had_reading_goes_on_without(monkeypatch):
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    fetch = Fetch()
    reader = reader_of(fetch)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        read_on(reader, 0, 200, 10)
    assert not fetch.by_thread
    read_on(reader, 200, 400, 10)
    assert fetch.by_thread


# --- the life of the thread -------------------------------------------------------------------------------------------


def test_closing_waits_for_the_thread_and_leaves_what_was_given():
    fetch = Fetch()
    before = readers()
    reader = reader_of(fetch)
    read_on(reader, 0, 100, 10)
    assert len(set(readers()) - set(before)) == 1
    block, lo, hi = reader.read(100, 10, 10)
    reader.close()
    assert not set(readers()) - set(before)
    assert block.rows[lo:hi].tolist() == list(range(100, 110))
    reader.close()


def test_dropping_the_last_reference_ends_the_thread():
    before = readers()
    made = [reader_of(Fetch()) for _ in range(5)]
    for reader in made:
        read_on(reader, 0, 100, 10)
    assert len(set(readers()) - set(before)) == 5
    del made, reader
    assert_ended(before)


def test_a_reader_in_a_cycle_of_garbage_is_collected_with_its_thread():
    before = readers()
    reader = reader_of(Fetch())
    read_on(reader, 0, 100, 10)
    reader.itself = reader  # type: ignore[attr-defined]
    del reader
    assert_ended(before)


def test_a_fork_finds_no_thread_at_work_and_drops_nothing_in_the_parent():
    fetch = Fetch()
    before = readers()
    reader = reader_of(fetch)
    read_on(reader, 0, 100, 10)
    reader.before_fork()
    assert not set(readers()) - set(before)
    asked = len(fetch.asked) - len(fetch.by_thread)
    read_on(reader, 100, 1000, 10)
    assert len(fetch.asked) - len(fetch.by_thread) == asked
    reader.after_fork()  # as in the child: everything anew
    read_on(reader, 1000, 1100, 10)
