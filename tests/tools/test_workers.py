"""Reading by several processes: the order of the units, whatever the timing; errors in their turn; bounded memory; and
no process left behind, however it ends."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from minibatch.tools import workers
from minibatch.tools.sources import open_source, units_of
from minibatch.tools.workers import read_source
from tests.syntax import ROOT
from tests.tools.slow_units import Unit, Units


@pytest.fixture
def at_once(monkeypatch):
    """Workers begin with the first piece."""
    monkeypatch.setattr(workers, "START_SECONDS", 0.0)


def pieces(source, count, first_unit=0):
    """(unit, piece) of each piece that comes, None for the end of a unit."""
    with contextlib.closing(read_source(source, count, first_unit)) as deliveries:
        return [
            (each.unit, int(each.piece["piece"][0]) if each.piece is not None else None)
            for each in deliveries
            if each.piece != {}
        ]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_all_end(pids, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(alive, pids)):
        time.sleep(0.02)
    assert not [pid for pid in pids if alive(pid)]


def children():
    """The processes that this one has started and that live."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return {int(pid) for pid in listed.stdout.split()}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_pieces_come_in_the_order_of_the_units_whatever_the_timing(count, at_once):
    given = tuple(Unit(number=i, pieces=1 + i % 3, seconds=0.02 * ((7 - i) % 4)) for i in range(8))
    expected = [(i, piece) for i in range(8) for piece in [*range(1 + i % 3), None]]
    assert pieces(Units(given=given), count) == expected
    assert pieces(Units(given=given), count, first_unit=5) == [each for each in expected if each[0] >= 5]


def test_units_may_be_without_pieces_and_a_source_without_units(at_once):
    given = tuple(Unit(number=i, pieces=i % 2) for i in range(6))
    assert pieces(Units(given=given), 2) == [each for i in range(6) for each in [*[(i, 0)] * (i % 2), (i, None)]]
    assert pieces(Units(given=()), 2) == []


def test_workers_import_no_torch(at_once):
    given = tuple(Unit(number=i) for i in range(4))
    with contextlib.closing(read_source(Units(given=given), 2)) as deliveries:
        loaded = [bool(each.piece["torch"].any()) for each in deliveries if each.piece and each.unit > 0]
    assert loaded == [False] * 3


def test_little_input_starts_no_process(monkeypatch):
    monkeypatch.setattr(workers, "worker", lambda number: pytest.fail("a process was started"))
    assert len(pieces(Units(given=tuple(Unit(number=i) for i in range(50))), 8)) == 100


def test_no_more_processes_start_than_there_are_units_left(at_once, monkeypatch):
    started = []
    real = workers.worker

    def counted(number):
        started.append(number)
        return real(number)

    monkeypatch.setattr(workers, "worker", counted)
    assert len(pieces(Units(given=tuple(Unit(number=i) for i in range(3))), 8)) == 6
    assert started == [0, 1]


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_comes_when_its_turn_has_come_and_ends_the_workers(count, at_once):
    given = tuple(Unit(number=i, act="raise" if i in (2, 4) else "", bad=1) for i in range(6))
    before, seen = children(), []

    def read():
        with contextlib.closing(read_source(Units(given=given), count)) as deliveries:
            for delivery in deliveries:
                seen.append((delivery.unit, delivery.piece is not None, len(delivery.bad)))

    with pytest.raises(ValueError, match="unit 2 is damaged") as caught:
        read()
    assert seen == [(0, True, 1), (0, False, 0), (1, True, 1), (1, False, 0), (2, True, 1), (2, True, 0)]
    assert count == 1 or "in a worker process:" in caught.value.__notes__[0]
    assert_all_end(children() - before - resource_trackers())


def resource_trackers():
    """The helper process of Python's multiprocessing, one for all workers, which ends with this process."""
    from multiprocessing import resource_tracker

    return {resource_tracker._resource_tracker._pid}


def test_an_error_that_cannot_be_sent_is_told_in_words(at_once):
    given = (Unit(number=0), Unit(number=1, act="raise_foreign"))
    with pytest.raises(RuntimeError, match="StrangeError: unit 1 is strange"):
        pieces(Units(given=given), 2)


def test_a_worker_that_is_killed_is_an_error_that_says_so(at_once):
    given = (Unit(number=0), Unit(number=1, act="die"), Unit(number=2))
    with pytest.raises(ChildProcessError, match=r"a worker died \(exit code -9\) while it read part 2 of the source"):
        pieces(Units(given=given), 2)


def test_workers_do_not_run_further_ahead_than_their_queues_are_long(at_once, tmp_path):
    given = tuple(Unit(number=i, pieces=20, rows=100_000, folder=str(tmp_path)) for i in range(12))
    with contextlib.closing(read_source(Units(given=given), 2)) as deliveries:
        next(deliveries)
        end, before = time.monotonic() + 20, -1
        while len(list(tmp_path.iterdir())) > before and time.monotonic() < end:
            before = len(list(tmp_path.iterdir()))
            time.sleep(1.0)
    in_workers = [path.name for path in tmp_path.iterdir() if not path.name.startswith("0-")]
    # of each worker: what waits, what is being sent, and what is ready to wait
    assert 2 <= len(in_workers) <= 2 * (workers.AHEAD_PIECES + 2)


def test_a_unit_larger_than_the_connection_holds_is_sent_all_the_same(at_once):
    given = tuple(Unit(number=i, folder="", act=" " * 3_000_000) for i in range(7))
    assert len(pieces(Units(given=given), 2)) == 14


READER = """
import contextlib, sys
from minibatch.tools import workers
from tests.tools.slow_units import Unit, Units
workers.START_SECONDS = 0.0
if __name__ == "__main__":
    given = tuple(Unit(number=i, act="wait" if i else "", folder=sys.argv[1]) for i in range(4))
    with contextlib.closing(workers.read_source(Units(given=given), 2)) as deliveries:
        for delivery in deliveries:
            pass
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_the_process_that_started_it(sent, tmp_path):
    (tmp_path / "reader.py").write_text(READER)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "reader.py", tmp_path],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 30
        while len(pids := [int(path.name[4:]) for path in tmp_path.glob("pid-*")]) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        assert len(pids) == 2
        assert all(map(alive, pids))
        os.killpg(process.pid, sent) if sent == signal.SIGINT else process.send_signal(sent)
        _, said = process.communicate(timeout=30)
        assert_all_end(pids)
        assert said.count("KeyboardInterrupt") == (sent == signal.SIGINT)  # from the main process alone
    finally:
        process.kill()
        process.communicate()


def test_a_source_that_offers_no_units_is_one(tmp_path):
    source = open_source("sklearn:iris")
    assert list(units_of(source)) == [source]
    np.save(tmp_path / "a.npy", np.arange(3))
    assert pieces_of_rows(open_source(str(tmp_path / "a.npy"))) == 3


def pieces_of_rows(source):
    return sum(len(each.piece["x"]) for each in read_source(source, 1) if each.piece)
