"""When memory for blocks is used again: once nothing looks at it, and never before."""

import gc
import mmap
import os
import pickle
import threading
import weakref
from collections import deque

import numpy as np
import pytest

from minibatch import memory
from minibatch.memory import KEPT_REGIONS, POOLED_BYTES, SHARED_BYTES, Pool

LARGE = 3 * POOLED_BYTES
HUGE = SHARED_BYTES + LARGE


@pytest.fixture(autouse=True)
def _no_memory_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SHARED", deque(maxlen=KEPT_REGIONS))


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


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


def test_small_regions_serve_the_next_pool_and_large_ones_do_not():
    pool = Pool()
    root, huge = pool.take(LARGE), pool.take(HUGE)
    where = address(root)
    del root, huge, pool
    assert len(memory.SHARED) == 1
    assert address(Pool().take(LARGE)) == where


def test_a_dropped_pool_leaves_no_large_region_behind_even_without_the_garbage_collector(monkeypatch):
    regions: list[weakref.ref[mmap.mmap]] = []
    monkeypatch.setattr(memory, "anonymous", lambda size: watched(mmap.mmap(-1, size), regions))
    gc.disable()
    try:
        pool = Pool()
        first, second = pool.take(HUGE), pool.take(HUGE)
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
    assert len(pool._large) <= KEPT_REGIONS
    assert len(memory.SHARED) <= KEPT_REGIONS
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
