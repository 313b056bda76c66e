"""Blocks: what is gathered of a stretch, where it lies in memory, and when that memory is used again."""

import gc
import mmap
import os
import pickle
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch import Dataset, DatasetWriter, errors, memory
from minibatch.fetch import Block, Fetcher, join
from minibatch.gathering import gather_rows
from minibatch.memory import POOLED_BYTES, Pool
from minibatch.order import make_order
from minibatch.timeline import Holes, SkipRows, Stretch, holes_of
from tests.plain import order as plain
from tests.plain.source import fields_of

LARGE = 3 * POOLED_BYTES


def fetcher_of(dataset: Dataset, shuffle: object = "full", holes: Holes | None = None, fields=None) -> Fetcher:
    order = make_order(shuffle, rows=len(dataset), chunk_rows=dataset.manifest.chunk_rows, seed=7)
    return Fetcher(
        dataset=dataset, fields=dataset.select(fields), order=order, holes=holes or holes_of([]), pool=Pool()
    )


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_region_is_given_out_again_once_nothing_looks_at_it():
    pool = Pool()
    root = pool.take(LARGE)
    where, view = address(root), root[5:100].view(np.int8)
    del root
    assert address(pool.take(LARGE)) != where, "a view is alive"
    del view
    gc.collect()
    taken = [pool.take(LARGE) for _ in range(2)]
    assert where in [address(array) for array in taken]


@pytest.mark.parametrize(
    "holding",
    [
        lambda view: view,
        lambda view: view.reshape(10, -1)[::2].T,
        lambda view: memoryview(view),
        lambda view: np.frombuffer(memoryview(view), np.int16),
        lambda view: view.view(np.recarray),
        lambda view: iter(view),
        lambda view: np.from_dlpack(view),
        lambda view: [{"a": view[:1]}],
        lambda view: pickle.PickleBuffer(view),
    ],
    ids=["view", "strided", "memoryview", "frombuffer", "subclass", "iterator", "dlpack", "container", "pickle"],
)
def test_whatever_looks_at_a_region_keeps_it(holding):
    pool = Pool()
    root = pool.take(LARGE)
    root[:] = 1
    held, where = holding(root[:1000]), address(root)
    del root
    for _ in range(20):
        other = pool.take(LARGE)
        assert address(other) != where
        other[:] = 2
    del held
    assert where in {address(array) for array in [pool.take(LARGE) for _ in range(10)]}


def test_a_region_outlives_its_pool():
    pool = Pool()
    root = pool.take(LARGE)
    root[:] = 3
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert (root == 3).all()
    del root
    gc.collect()


def test_a_dropped_pool_leaves_no_memory_behind_even_without_the_garbage_collector(monkeypatch):
    regions: list[weakref.ref[mmap.mmap]] = []
    monkeypatch.setattr(memory, "anonymous", lambda size: watched(mmap.mmap(-1, size), regions))
    gc.disable()
    try:
        pool = Pool()
        first, second = pool.take(LARGE), pool.take(LARGE)
        del first, pool, second
        assert len(regions) == 2
        assert all(region() is None for region in regions)
    finally:
        gc.enable()


def watched(region: mmap.mmap, regions: list[weakref.ref[mmap.mmap]]) -> mmap.mmap:
    regions.append(weakref.ref(region))
    return region


def test_few_regions_are_kept_whatever_the_sizes():
    pool = Pool()
    for size in range(LARGE, 40 * LARGE, LARGE // 2):
        held = [pool.take(size) for _ in range(4)]
        del held
    assert len(pool._free) <= memory.KEPT_REGIONS
    assert not pool._watched


def test_a_small_need_does_not_take_a_huge_region():
    pool = Pool()
    huge = pool.take(40 * LARGE)
    where = address(huge)
    del huge
    assert address(pool.take(LARGE)) != where
    assert address(pool.take(30 * LARGE)) == where, "and it is still there for one that needs it"


def test_threads_never_share_a_region():
    pool = Pool()
    clashes: list[int] = []

    def work(mark: int) -> None:
        for _ in range(200):
            mine = pool.take(POOLED_BYTES + mark)
            mine[::4096] = mark
            if (mine[::4096] != mark).any():
                clashes.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clashes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_writes_into_memory_of_its_own():
    root = Pool().take(LARGE)
    root[:] = 1
    if (child := os.fork()) == 0:
        root[:] = 2
        os._exit(0 if (root == 2).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (root == 1).all()


def test_a_kernel_without_huge_pages_will_do(monkeypatch):
    class Region(mmap.mmap):
        def madvise(self, *arguments: int) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Region)
    assert Pool().take(LARGE).shape == (LARGE,)


def test_memory_that_cannot_be_had_is_a_clear_error():
    for size in (1 << 60, 1 << 62):
        with pytest.raises(MemoryError, match=r"a block of [0-9,]+ bytes cannot be allocated"):
            Pool().take(size)


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.kernels
@pytest.mark.parametrize(("chunk", "shard"), [(1, 1), (4, 12), (5, 1000)])
def test_rows_of_every_layout_are_gathered_in_the_order_given(folder_of, chunk, shard):
    dataset = Dataset.open(folder_of(40, chunk, shard))
    for rows in ([3, 3, 39, 0, 12, 11], [], list(range(39, -1, -1))):
        wanted = np.array(rows, np.int64)
        columns = gather_rows(dataset.chunks, dataset.select(None), wanted)
        for name, expected in fields_of(wanted).items():
            values = columns[name].view(0, len(rows))
            assert (values.dtype, values.shape) == (expected.dtype, expected.shape)
            assert np.array_equal(values, expected)


def test_fields_lie_apart_on_cache_lines(folder_of):
    dataset = Dataset.open(folder_of(1100, 64, 64))
    columns = gather_rows(dataset.chunks, dataset.select(["bit", "x", "image"]), np.zeros(100_001, np.int64), Pool())
    starts = [address(column.values) for column in columns.values()]
    ends = [start + column.values.nbytes for start, column in zip(starts, columns.values(), strict=True)]
    assert all(start % 64 == 0 for start in starts)
    assert starts[1] >= ends[0]
    assert starts[2] >= ends[1]


def test_rows_that_do_not_exist_are_never_gathered(folder_of):
    dataset = Dataset.open(folder_of(40))
    for row in (-1, 40, 2**62, -(2**63)):
        with pytest.raises(IndexError, match=f"row {row} of"):
            gather_rows(dataset.chunks, dataset.select(None), np.array([1, row], np.int64))


def test_text_that_is_no_text_is_a_clear_error(tmp_path):
    with DatasetWriter(tmp_path / "data") as writer:
        writer.write({"name": ["tree", "house"]})
    (shard,) = (tmp_path / "data").glob("*.arrow")
    shard.write_bytes(shard.read_bytes().replace(b"house", b"\xff\xfeuse"))
    dataset = Dataset.open(tmp_path / "data")
    columns = gather_rows(dataset.chunks, dataset.select(None), np.arange(2))
    assert columns["name"].view(0, 1).tolist() == ["tree"]
    with pytest.raises(errors.DamagedDatasetError, match="'name' has text that is not UTF-8"):
        columns["name"].view(0, 2)


# --- blocks -----------------------------------------------------------------------------------------------------------

stretches = st.builds(
    lambda start, length, gap, count: Stretch(start=start, length=length, stride=length + gap, count=count),
    st.integers(0, 3000) | st.just(2**61),
    st.integers(1, 40),
    st.sampled_from([0, 1, 7, 255, 256, 1000]),
    st.integers(1, 12) | st.just(90),  # 90 strides of 250: more than are computed together
)


@given(stretches, st.booleans())
def test_a_block_has_the_samples_of_its_runs_and_knows_where(folder_of, stretch, holed):
    dataset = Dataset.open(folder_of(1100, 64, 64))
    holes = holes_of([(10, 30), (2**61, 2**61 + 3), SkipRows([5, 17, 1099])]) if holed else None
    twin = plain.Full(rows=1100, seed=7)
    block = fetcher_of(dataset, holes=holes)(stretch)
    times = [t for run in stretch.runs() for t in run]
    samples = {t: twin.row(t % 1100, t // 1100) for t in times}
    if holed:
        hidden = {*range(10, 30), *range(2**61, 2**61 + 3)}
        samples = {t: row for t, row in samples.items() if t not in hidden and row not in (5, 17, 1099)}
        assert block.times is not None
        assert block.times.tolist() == list(samples)
    assert block.rows.tolist() == list(samples.values())
    assert block.columns["x"].view(0, len(samples)).tolist() == list(samples.values())
    for run in stretch.runs():
        for start, stop in ((run.start, run.stop), (run.start, run.start + 1), (run.stop - 1, run.stop)):
            lo, hi = block.bounds(start, stop - start) or (None, None)
            assert block.rows[lo:hi].tolist() == [samples[t] for t in range(start, stop) if t in samples]
        if stretch.count > 1:
            assert block.bounds(run.start, stretch.length + 1) is None
    assert block.bounds(stretch.start - 1, 1) is None
    assert block.bounds(stretch.start + stretch.count * stretch.stride, 1) is None


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5))
def test_joined_pieces_are_the_samples_one_after_another(folder_of, pieces):
    fetcher = fetcher_of(Dataset.open(folder_of(40)), None, holes_of([(4, 9)]))
    blocks: list[Block] = []
    times: list[int] = []
    for start, length, more in pieces:
        whole = fetcher(Stretch(start=start, length=length + more + 1, stride=length + more + 1, count=1))
        bounds = whole.bounds(start, length)
        assert bounds is not None
        blocks.append(whole.part(*bounds))
        times += [t for t in range(start, start + length) if not 4 <= t < 9]
    total = sum(length for _, length, _ in pieces)
    joined = join(blocks, Stretch(start=0, length=total, stride=max(1, total), count=1))
    assert joined.times is not None
    assert joined.times.tolist() == times
    rows = np.array([t % 40 for t in times], np.int64)
    assert joined.rows.tolist() == rows.tolist()
    for name, expected in fields_of(rows).items():
        values = joined.columns[name].view(0, len(times))
        assert (values.dtype, values.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(values, expected)


def test_the_bytes_of_a_sample_are_those_of_its_fields_and_its_row_number(folder_of):
    dataset = Dataset.open(folder_of(40))
    assert fetcher_of(dataset, fields=["x", "image", "bit"]).sample_bytes == 8 + 8 + 6 + 3
    stored = sum(shard.bytes for shard in dataset.manifest.shards)
    assert fetcher_of(dataset, fields=["name"]).sample_bytes == 8 + -(-stored // 40), "text: at most what is stored"
    assert fetcher_of(dataset, fields=[]).sample_bytes == 8
