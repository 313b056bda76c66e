"""`DatasetWriter` stopped at any moment, by a signal, an exception or another writer: what is left is a complete data
set or a folder that says it is unfinished, never one that opens wrongly; and the next writer clears it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minibatch import Dataset, DatasetWriter
from minibatch.check import check_dataset
from minibatch.errors import DatasetError, UnfinishedDatasetError, WriterBusyError
from minibatch.storage import MANIFEST
from tests import datasets
from tests.datasets import contents, put
from tests.syntax import ROOT

posix = pytest.mark.skipif(os.name != "posix", reason="kills and limits processes as POSIX systems do")

FILES = ("write.py", "incoming.py", "shard_file.py", "claim.py", "journal.py", "storage.py", "manifest.py")
WATCHED = tuple(str(ROOT / "minibatch" / name) for name in FILES)
OLD = {"x": np.arange(5) + 100}
NEW = {"x": np.arange(9), "s": [f"row {i}" for i in range(9)]}


def at_line(moment, act):
    """Call `act` when Python is about to run line number `moment` of the files that write; how many there were."""
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            lines += 1
            if lines == moment:
                act()
        return trace

    sys.settrace(trace)
    return lambda: lines


def write_new(folder, overwrite):
    put(folder, NEW, 2, 4, cuts=[3], overwrite=overwrite)


def killed_at_every(base, overwrite, step):
    """In a process of its own: for every moment a child that dies there, in a folder named by the moment."""
    base, moment = Path(base), 1
    write_new(base / "warm", False)  # loads what Arrow loads at its first use, once and not in every child
    shutil.rmtree(base / "warm")
    while True:
        folder = base / str(moment)
        if overwrite:
            shutil.copytree(base / "old", folder)
        child = os.fork()
        if not child:
            at_line(moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
            write_new(folder, overwrite)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            print(os.waitstatus_to_exitcode(status))
            return
        moment += step


def assert_complete_or_unfinished(folder, allowed):
    """Gives the fields of the data set, or None if it says that it is unfinished."""
    try:
        dataset = Dataset.open(folder)
    except (UnfinishedDatasetError, FileNotFoundError):
        return None
    assert check_dataset(folder) == []
    rows = dataset.read(np.arange(len(dataset)))
    found = [fields for fields in allowed if set(fields) == set(rows)]
    assert len(found) == 1
    datasets.assert_read(rows, found[0])
    return found[0]


def assert_the_next_writer_clears_up(folder, finished):
    if finished:
        with pytest.raises(DatasetError, match="already holds a complete"):
            DatasetWriter(folder)
    put(folder, OLD, overwrite=finished is not None)
    assert sorted(contents(folder)) == [MANIFEST, "shard-00000.arrow"]
    assert assert_complete_or_unfinished(folder, [OLD]) is OLD


@posix
@pytest.mark.parametrize(("overwrite", "step"), [(False, 1), (True, 3)])
def test_killed_at_any_line_a_writer_leaves_a_complete_data_set_or_an_unfinished_folder(overwrite, step, tmp_path):
    """SIGKILL before every line of `write`, `claim`, `storage` and `manifest` that runs."""
    put(tmp_path / "old", OLD)
    call = f"from tests.minibatch.test_write_stopped import *; killed_at_every({str(tmp_path)!r}, {overwrite}, {step})"
    done = subprocess.run([sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr
    moments = sorted(int(path.name) for path in tmp_path.iterdir() if path.name != "old")
    assert len(moments) > 300 / step
    outcomes = []
    for moment in moments:
        found = assert_complete_or_unfinished(tmp_path / str(moment), [OLD, NEW] if overwrite else [NEW])
        outcomes.append("new" if found is NEW else "old" if found is OLD else "unfinished")
        assert_the_next_writer_clears_up(tmp_path / str(moment), found)
    in_turn = [outcome for i, outcome in enumerate(outcomes) if i == 0 or outcome != outcomes[i - 1]]
    assert in_turn == (["old", "unfinished", "new"] if overwrite else ["unfinished", "new"])


# Between the opening of the lock and its first owner only the garbage collector can close it, which it reports.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupted_at_any_line_a_writer_leaves_a_complete_data_set_or_an_unfinished_folder(tmp_path):
    """Ctrl-C, as an exception from every line of the same files; afterwards this process may write there itself."""

    def interrupt():
        raise KeyboardInterrupt

    moment, interrupted = 1, True
    tracer = sys.gettrace()
    while interrupted:
        folder, interrupted = tmp_path / str(moment), False
        at_line(moment, interrupt)
        try:
            write_new(folder, overwrite=False)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(tracer)
        found = assert_complete_or_unfinished(folder, [NEW])
        if moment % 5 == 0 or found or not interrupted:
            assert_the_next_writer_clears_up(folder, found)
        moment += 1
    assert moment > 300


@posix
def test_killed_in_the_midst_of_much_data_a_writer_leaves_an_unfinished_folder(tmp_path):
    """At moments of the clock, so that they fall into the writing of files too."""
    script = (
        "import sys, numpy as np\nfrom minibatch import DatasetWriter\n"
        "print('ready', flush=True)\n"
        "for number in range(1000):\n"
        "    with DatasetWriter(sys.argv[1], 5000, 20000, overwrite=True) as writer:\n"
        "        for _ in range(40):\n"
        "            writer.write({'x': np.full((2000, 100), number), 's': ['text'] * 2000})\n"
    )
    outcomes = set()
    for wait in (0.0, 0.02, 0.05, 0.11):
        folder = tmp_path / str(wait)
        with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, cwd=ROOT) as process:
            process.stdout.readline()
            time.sleep(wait)
            process.kill()
        try:
            dataset = Dataset.open(folder)
        except (UnfinishedDatasetError, FileNotFoundError):
            outcomes.add("unfinished")
        else:
            assert check_dataset(folder) == []
            assert np.unique(dataset.read(np.arange(0, 80_000, 777))["x"]).size == 1
        put(folder, OLD, overwrite=True)
        assert sorted(contents(folder)) == [MANIFEST, "shard-00000.arrow"]
    assert "unfinished" in outcomes


@posix
def test_of_two_processes_the_second_is_refused_and_the_first_finishes(tmp_path):
    script = (
        "import sys\nfrom minibatch import DatasetWriter\n"
        "with DatasetWriter(sys.argv[1], 2, 4) as writer:\n"
        "    writer.write({'x': list(range(7))})\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    writer.write({'x': list(range(7, 10))})\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "d")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline() == b"ready\n"
        before = contents(tmp_path / "d")
        for overwrite in (False, True):
            with pytest.raises(
                WriterBusyError, match=r"another process is writing to .*wait for it, or choose another"
            ):
                DatasetWriter(tmp_path / "d", overwrite=overwrite)
        assert contents(tmp_path / "d") == before
        process.communicate(b"go on\n", timeout=60)
    assert process.returncode == 0
    assert check_dataset(tmp_path / "d") == []
    assert Dataset.open(tmp_path / "d").read(np.arange(10))["x"].tolist() == list(range(10))


def race(folder, who, seconds):
    """In a process of its own: write data sets of one number as often as the others let it."""
    end, finished = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            put(Path(folder), {"x": np.full(6, who)}, 2, 4, cuts=[3], overwrite=True)
            finished += 1
        except WriterBusyError:
            pass
    print(finished)


@posix
def test_processes_that_write_at_once_never_mix(tmp_path):
    """Also in the instant when one lets go of the lock and another takes it. Readers see one data set or none."""
    call = "from tests.minibatch.test_write_stopped import *; race({!r}, {}, 1.5)"
    commands = [[sys.executable, "-c", call.format(str(tmp_path / "d"), who)] for who in range(3)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    processes = [subprocess.Popen(command, **pipes) for command in commands]
    seen = 0
    while any(process.poll() is None for process in processes):
        try:
            rows = Dataset.open(tmp_path / "d").read(np.arange(6))["x"]
            assert np.unique(rows).size == 1
            seen += 1
        except (DatasetError, FileNotFoundError):
            pass
    finished = 0
    for process in processes:
        out, problem = process.communicate()
        assert process.returncode == 0, problem
        finished += int(out)
    assert finished > 1
    assert check_dataset(tmp_path / "d") == []
