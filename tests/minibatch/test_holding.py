"""What is held for kernels: the oldest goes first, never while somebody is reading, and data sets share the bound."""

import gc
import os
import threading
import weakref

import numpy as np
import pytest

from minibatch import holding
from minibatch.holding import Holding


class Thing:
    """Something that can be seen to go."""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests' data sets, which may not be collected yet, take no share."""
    monkeypatch.setattr(holding, "ALL", weakref.WeakSet())


def held(most: int, monkeypatch: pytest.MonkeyPatch, chunks: int = 10, most_bytes: int = 1 << 60) -> Holding:
    monkeypatch.setattr(holding, "MOST_HELD", most)
    return Holding(np.zeros(chunks, np.bool_), most_bytes)


def test_beyond_the_bound_the_oldest_goes_and_its_chunks_are_readable_no_more(monkeypatch):
    things = held(3, monkeypatch)
    gone = []
    for i in range(5):
        thing = Thing()
        gone.append(weakref.ref(thing))
        things.hold(("x", i), thing, slice(2 * i, 2 * i + 2))
        del thing
    assert things._mapped.tolist() == [False] * 4 + [True] * 6
    assert [ref() is None for ref in gone] == [True, True, False, False, False]
    assert things.of("x") == [ref() for ref in gone[2:]]
    assert things.of("y") == []
    assert things.get(("x", 1)) is None
    assert things.get(("x", 4)) is gone[4]()


def test_beyond_the_bytes_the_oldest_goes_but_the_last_one_stays_however_large(monkeypatch):
    things = held(100, monkeypatch, most_bytes=10)
    for i, size in enumerate([4, 4, 4, 50, 1]):
        things.hold(("x", i), Thing(), slice(i, i + 1), size)
        assert things.get(("x", i)) is not None
        assert len(things) == [1, 2, 2, 1, 1][i]


def test_what_somebody_reads_stays_until_he_has_finished(monkeypatch):
    things = held(1, monkeypatch)
    thing = Thing()
    gone = weakref.ref(thing)
    things.hold(("a", 0), thing, slice(0, 1))
    del thing
    with things.reading():
        things.hold(("b", 0), Thing(), slice(1, 2))
        assert things._mapped.tolist()[:2] == [False, True]
        assert gone() is not None
        with things.reading():
            pass
        assert gone() is not None, "another reader's end is not his"
    assert gone() is None


def test_a_reader_that_fails_keeps_nothing(monkeypatch):
    things = held(1, monkeypatch)
    with pytest.raises(RuntimeError), things.reading():
        raise RuntimeError
    thing = Thing()
    gone = weakref.ref(thing)
    things.hold(("a", 0), thing, slice(0, 1))
    del thing
    things.clear()
    assert gone() is None
    assert not things._mapped.any()


def test_what_is_held_again_replaces_what_was_but_not_under_a_reader(monkeypatch):
    things = held(5, monkeypatch)
    thing = Thing()
    gone = weakref.ref(thing)
    things.hold(("a", 0), thing, slice(0, 1), 7)
    del thing
    with things.reading():
        things.hold(("a", 0), Thing(), slice(0, 1), 7)
        assert gone() is not None
        assert things._mapped[0]
    assert gone() is None
    assert things._bytes == 7


def test_data_sets_share_the_bound(monkeypatch):
    first = held(8, monkeypatch, chunks=100)
    for i in range(20):
        first.hold(("x", i), Thing(), slice(i, i + 1))
    assert len(first) == 8
    second = held(8, monkeypatch, chunks=100)
    for i in range(20):
        second.hold(("x", i), Thing(), slice(i, i + 1))
    assert len(second) == 4
    first.hold(("x", 20), Thing(), slice(20, 21))
    assert len(first) == 4
    del second
    gc.collect()
    for i in range(30):
        first.hold(("x", i), Thing(), slice(i, i + 1))
    assert len(first) == 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_take_the_lock_that_a_thread_has_and_waits_for_no_reader(monkeypatch):
    things = held(1, monkeypatch)
    inside, go_on = threading.Event(), threading.Event()

    def work() -> None:
        with things.reading(), things.lock:
            inside.set()
            go_on.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(60)
    if (child := os.fork()) == 0:
        taken = things.lock.acquire(timeout=10)
        thing = Thing()
        gone = weakref.ref(thing)
        things.hold(("a", 0), thing, slice(0, 1))
        del thing
        things.clear()
        os._exit(0 if taken and gone() is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    go_on.set()
    thread.join(60)
