"""The life of a source: its thread, forks, signals, the end of the process, and damage found while reading ahead."""

import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minibatch.chunks
import minibatch.readahead
from minibatch import Dataset, DatasetWriter, MinibatchSource, SkipRows, Window, errors
from minibatch.fetch import Fetcher

ROWS = 30_000
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards enough that the thread has some still to map whenever something happens."""
    path = tmp_path_factory.mktemp("data") / "long"
    with DatasetWriter(path, chunk_rows=500, shard_rows=1000) as writer:
        writer.write({"x": np.arange(ROWS), "filler": np.zeros((ROWS, 64), np.uint8)})
    return path


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minibatch.readahead, "BLOCK_BYTES", 1 << 16)


def readers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("minibatch-reader")}


def assert_ended(before: set[threading.Thread]) -> None:
    gc.collect()
    limit = time.monotonic() + 10
    while readers() - before and time.monotonic() < limit:
        time.sleep(0.005)
    assert not readers() - before


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = readers()
    yield
    assert_ended(before)


def read_on(source: MinibatchSource, expected: np.ndarray, k: int, times: int) -> None:
    for _ in range(times):
        t = source.nominal_time
        assert np.array_equal(source.next_minibatch(k)["x"], expected[t : t + k])


# --- closing ----------------------------------------------------------------------------------------------------------


def test_a_closed_source_has_no_thread_gives_its_state_and_says_what_to_do(folder):
    before = readers()
    with MinibatchSource(folder, seed=1) as source:
        for _ in range(10):
            batch = source.next_minibatch(100)
        assert len(readers() - before) == 1
    assert readers() == before
    assert source.get_checkpoint_state()["nominal_time"] == 1000
    assert batch["x"].tolist() == source.at(900, 100).tolist()
    for _ in range(2):
        with pytest.raises(ValueError, match="this source is closed: open a new one and restore its state"):
            source.next_minibatch(1)
        source.close()


def test_an_error_inside_the_block_closes_the_source_too(folder):
    def fails() -> None:
        with MinibatchSource(folder, seed=1) as source:
            for _ in range(10):
                source.next_minibatch(100)
            raise RuntimeError("mine")

    before = readers()
    with pytest.raises(RuntimeError, match="mine"):
        fails()
    assert readers() == before


def test_a_dropped_source_ends_its_thread_and_frees_its_data_set(folder):
    before = readers()
    for _ in range(10):
        source = MinibatchSource(folder, seed=1)
        for _ in range(4):
            batch = source.next_minibatch(100)
    del source
    assert_ended(before)
    assert batch["x"].shape == (100,)


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", ["full", None])
def test_threads_that_share_a_source_take_turns_and_lose_nothing(folder, shuffle):
    source = MinibatchSource(folder, 1, shuffle, max_sweeps=1, skip=[(70, 80), SkipRows([5])])
    seen: list[Any] = []
    failures: list[BaseException] = []

    def work(k: int) -> None:
        try:
            for batch in source.minibatches(k):
                seen.append((batch.nominal_time, batch.nominal_end, batch["x"].copy(), batch.rows))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in (7, 64, 11, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    seen.sort(key=lambda entry: entry[:2])
    assert [begin for begin, *_ in seen if begin < ROWS] == [0, *(end for _, end, *_ in seen if end < ROWS)]
    kept = [t for t in range(ROWS) if not 70 <= t < 80]
    rows = [row for row in MinibatchSource(folder, 1, shuffle).at(0, ROWS)[kept].tolist() if row != 5]
    assert np.concatenate([x for *_, x, _ in seen]).tolist() == rows


def test_one_thread_may_seek_and_close_while_another_reads(folder):
    source = MinibatchSource(folder, seed=1)
    axis = source.at(0, 4000)
    wrong: list[Any] = []
    started = threading.Event()

    def work() -> None:
        try:
            while True:
                batch = source.next_minibatch(13)
                started.set()
                t = batch.nominal_time
                if t < 3900 and batch["x"].tolist() != axis[t : t + 13].tolist():
                    wrong.append(t)
        except ValueError as error:
            if "closed" not in str(error):
                wrong.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(60)
    for i in range(300):
        source.seek(i * 7)
        source.get_checkpoint_state()
    source.close()
    thread.join(60)
    assert not thread.is_alive()
    assert not wrong


# --- forks ------------------------------------------------------------------------------------------------------------


def exit_code_of_child(work: Any) -> int:
    """Fork, run `work` in the child, which must return true within a minute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: threads of other libraries' own
        child = os.fork()
    if child == 0:
        code = 2
        try:
            signal.alarm(60)
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_fork
@pytest.mark.parametrize(("n", "i"), [(1, 0), (3, 2)])
def test_a_child_forked_while_reading_ahead_reads_what_its_parent_would(folder, n, i):
    source = MinibatchSource(folder, seed=1)
    expected = MinibatchSource(folder, seed=1).next_minibatch(ROWS)["x"]
    share = 99 // n

    def right(times: int) -> bool:
        for _ in range(times):
            t = source.nominal_time + i * share
            if not np.array_equal(source.next_minibatch(99, n, i)["x"], expected[t : t + share]):
                return False
        return True

    for _ in range(15):
        assert right(4)
        assert exit_code_of_child(lambda: right(20)) == 0
        assert right(3)
    assert right(60)
    assert readers(), "the parent reads ahead again"


@needs_fork
def test_a_fork_while_the_thread_holds_the_lock_of_the_data_set_leaves_the_child_one_it_can_take(folder, monkeypatch):
    mapping = threading.Event()
    open_shard = minibatch.chunks.open_shard

    def slowly(*arguments: Any) -> Any:
        if threading.current_thread() is not threading.main_thread() and not mapping.is_set():
            mapping.set()
            time.sleep(0.3)
        return open_shard(*arguments)

    monkeypatch.setattr(minibatch.chunks, "open_shard", slowly)
    source = MinibatchSource(folder, shuffle=None)
    read_on(source, np.arange(ROWS), 500, 2)
    assert mapping.wait(60)
    assert exit_code_of_child(lambda: read_on(source, np.arange(ROWS), 500, 10) is None) == 0
    read_on(source, np.arange(ROWS), 500, 10)


@needs_fork
def test_a_child_of_multiprocessing_reads_and_ends(folder):
    source = MinibatchSource(folder, seed=1)
    expected = source.at(0, 3000)
    read_on(source, expected, 100, 10)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=read_on, args=(source, expected, 100, 15)) for _ in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for child in children:
            child.start()
    read_on(source, expected, 100, 15)
    for child in children:
        child.join(60)
        assert child.exitcode == 0


def test_a_spawned_process_is_given_a_source_that_goes_on(folder):
    source = MinibatchSource(folder, seed=1)
    expected = source.at(0, 3000)
    read_on(source, expected, 100, 10)
    child = multiprocessing.get_context("spawn").Process(target=read_on, args=(source, expected, 100, 15))
    child.start()
    child.join(60)
    assert child.exitcode == 0


@needs_fork
@pytest.mark.parametrize("threads", [1, 2])
def test_a_fork_while_other_threads_wait_inside_a_transform_waits_for_them_no_longer_than_it_may(
    folder, threads, monkeypatch
):
    """The transforms wait for the thread that forks: to wait for them would be to wait for ever."""
    monkeypatch.setattr(minibatch.readahead, "FORK_SECONDS", 0.2)
    inside, go_on = threading.Event(), threading.Event()

    def waits(fields: dict[str, Any], draws: Any) -> dict[str, Any]:
        if threading.current_thread() is not threading.main_thread() and draws.times[0] >= 200:
            inside.set()
            assert go_on.wait(60)
        return fields

    source = MinibatchSource(folder, seed=1, transforms=[waits], threads=threads)
    expected = source.at(0, 3000).tolist()
    for t in range(0, 200, 100):
        assert source.next_minibatch(100)["x"].tolist() == expected[t : t + 100]
    other = threading.Thread(target=source.next_minibatch, args=(100,))  # waits for a block that waits
    other.start()
    assert inside.wait(60)
    begin = time.monotonic()
    assert exit_code_of_child(lambda: source.next_minibatch(100)["x"].tolist() == expected[200:300]) == 0
    assert time.monotonic() - begin < 30
    go_on.set()
    other.join(60)
    for t in range(300, 1000, 100):
        assert source.next_minibatch(100)["x"].tolist() == expected[t : t + 100]


@needs_fork
def test_a_fork_inside_a_transform_works(folder):
    codes = []
    in_child = False

    def right_in_child() -> bool:
        nonlocal in_child
        in_child = True
        t = source.nominal_time
        return source.next_minibatch(100)["x"].tolist() == expected[t : t + 100].tolist()

    def forks(fields: dict[str, Any], draws: Any) -> dict[str, Any]:
        if not in_child and draws.times[0] < 600:
            codes.append(exit_code_of_child(right_in_child))
        return fields

    source = MinibatchSource(folder, seed=1, transforms=[forks])
    expected = source.at(0, 2000)
    read_on(source, expected, 100, 6)
    source.close()
    assert len(codes) >= 3, "of the two threads that fork, one reads ahead"
    assert set(codes) == {0}


# --- the end of the process -------------------------------------------------------------------------------------------

PREAMBLE = """
import os, signal, sys, threading, time
import numpy as np
import minibatch.readahead
from minibatch import MinibatchSource
from minibatch.fetch import Fetcher

source = MinibatchSource(sys.argv[1], seed=1)
"""


def python(folder: Path, program: str, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", PREAMBLE + textwrap.dedent(program), str(folder)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error


@pytest.mark.parametrize(
    "last",
    ["pass", "sys.exit(0)", "del source", "source.close()", "source.itself = source", "os.fork() or time.sleep(1)"],
)
def test_the_interpreter_ends_quietly_in_the_middle_of_reading_ahead(folder, last):
    program = f"""
    for _ in range(200):
        batch = source.next_minibatch(50)
    {last}
    """
    assert ended(python(folder, program)) == (0, "", "")


def test_reading_goes_on_while_the_interpreter_ends(folder):
    program = """
    import atexit
    for _ in range(10):
        source.next_minibatch(50)
    expected = source.at(500, 5000)
    def last_words():
        found = np.concatenate([source.next_minibatch(50)["x"] for _ in range(100)])
        print(np.array_equal(found, expected))
    atexit.register(last_words)
    """
    assert ended(python(folder, program)) == (0, "True\n", "")


SLOW = """
gather = Fetcher.__call__
def slowly(self, stretch):
    if threading.current_thread() is not threading.main_thread():
        waiting.set()
        released.wait(pause)
    return gather(self, stretch)
waiting, released, pause = threading.Event(), threading.Event(), 1.5
Fetcher.__call__ = slowly

def interrupt():
    waiting.wait()
    time.sleep(0.2)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_ctrl_c_while_waiting_for_a_block_is_felt_at_once_and_harms_nothing(folder):
    program = (
        SLOW
        + """
pause = 60  # far more than a busy machine takes to feel the signal
expected = source.at(0, 1000)
try:
    for _ in range(10):
        begin = time.monotonic()
        t = source.nominal_time
        source.next_minibatch(100)
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - begin < 30, source.nominal_time == t)
released.set()
Fetcher.__call__ = gather
print(all(np.array_equal(source.next_minibatch(100)["x"], expected[u:u + 100]) for u in range(t, 1000, 100)))
"""
    )
    assert ended(python(folder, program)) == (0, "interrupted True True\nTrue\n", "")


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_ctrl_c_that_nobody_catches_ends_the_program_with_the_usual_traceback(folder):
    program = SLOW + "\nwhile True: source.next_minibatch(100)\n"
    code, out, error = ended(python(folder, program))
    assert code == -signal.SIGINT
    assert out == ""
    assert error.startswith("Traceback")
    assert error.rstrip().endswith("KeyboardInterrupt")
    assert "next_minibatch" in error
    assert error.count("Traceback") == 1


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(folder, tmp_path) -> Path:
    """The data set with the end of its fourth shard, rows 3000 … 3999, overwritten; sizes are as they were."""
    path = tmp_path / "damaged"
    shutil.copytree(folder, path)
    shard = path / Dataset.open(path).manifest.shards[3].file
    content = shard.read_bytes()
    shard.write_bytes(content[:-400] + bytes(400))
    return path


def test_damage_found_ahead_stops_the_minibatch_that_needs_it_and_no_other(damaged, folder):
    source = MinibatchSource(damaged, seed=1, shuffle=None)
    name = source.dataset.manifest.shards[3].file
    read_on(source, np.arange(ROWS), 70, 42)
    for _ in range(3):
        with pytest.raises(errors.DamagedDatasetError, match=name):
            source.next_minibatch(70)
        assert source.nominal_time == 42 * 70
    read_on(source, np.arange(ROWS), 1, 60)
    with pytest.raises(errors.DamagedDatasetError, match=f"{name}.*minibatch check"):
        source.next_minibatch(1)
    assert source.nominal_time == 3000
    source.seek(4000)
    read_on(source, np.arange(ROWS), 70, 100)
    shutil.copy(folder / name, damaged / name)
    source.seek(2990)
    read_on(source, np.arange(ROWS), 70, 30)


@pytest.mark.parametrize("shuffle", ["full", Window(rows=2000)])
def test_in_any_order_exactly_the_minibatches_with_a_damaged_row_fail(damaged, shuffle):
    source = MinibatchSource(damaged, 1, shuffle)
    axis = source.at(0, ROWS)
    failed = 0
    for t in range(0, ROWS, 15):
        rows = axis[t : t + 15]
        if ((rows >= 3000) & (rows < 4000)).any():
            failed += 1
            with pytest.raises(errors.DamagedDatasetError):
                source.next_minibatch(15)
            assert source.nominal_time == t
            source.seek(t + 15)
        else:
            assert source.next_minibatch(15)["x"].tolist() == rows.tolist()
    assert 50 < failed < 1900


def test_quarantined_rows_of_a_damaged_shard_let_the_rest_be_read(damaged):
    source = MinibatchSource(damaged, seed=1, max_sweeps=1, skip=[SkipRows(range(3000, 4000))])
    rows = np.concatenate([batch["x"] for batch in source.minibatches(512)])
    assert sorted(rows.tolist()) == [*range(3000), *range(4000, ROWS)]


def test_the_thread_meets_the_damage_first(damaged, monkeypatch):
    """So that the tests above are known to be about reading ahead."""
    met: list[str] = []
    gather = Fetcher.__call__

    def watched(self: Fetcher, stretch: Any) -> Any:
        try:
            return gather(self, stretch)
        except errors.DamagedDatasetError:
            met.append(threading.current_thread().name)
            raise

    monkeypatch.setattr(Fetcher, "__call__", watched)
    source = MinibatchSource(damaged, seed=1, shuffle=None)
    read_on(source, np.arange(ROWS), 70, 42)
    assert met
    assert met[0].startswith("minibatch-reader")
