"""A signal is remembered between steps; a second Ctrl-C ends at once; handlers are put back; processes say which."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from minibatch.train.checkpoint import checkpoints_in, newest_complete, time_of
from minibatch.train.stopping import EXIT_CODES, StopBetweenSteps
from tests.train.small import make_source, make_trainer, write

ROOT = Path(__file__).parents[2]


def test_the_first_signal_is_a_reason_to_stop_and_the_second_ctrl_c_ends_at_once():
    with StopBetweenSteps() as stop:
        assert stop(None, None) is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stop(None, None) == "Ctrl-C"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (stop.signal, EXIT_CODES[stop.signal], stop.exit_code) == (signal.SIGINT, 130, 130)


def test_sigterm_is_remembered_as_itself_and_ctrl_c_after_it_ends_at_once():
    with StopBetweenSteps() as stop:
        assert stop.exit_code == 0
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # a second one changes nothing: the step is still to be finished
        assert stop(None, None) == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.exit_code == 143


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in EXIT_CODES]
    with StopBetweenSteps():
        assert [signal.getsignal(number) for number in EXIT_CODES] != before
    assert [signal.getsignal(number) for number in EXIT_CODES] == before


def test_in_another_thread_it_does_nothing():
    seen = []

    def work():
        with StopBetweenSteps() as stop:
            seen.append(stop.signal)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def test_fit_puts_the_handlers_back_and_says_what_to_exit_with(tmp_path):
    data = write(tmp_path / "data")
    before = [signal.getsignal(number) for number in EXIT_CODES]

    def send(trainer, result):
        if result.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with make_source(data) as source, make_trainer(source, folder=tmp_path / "run") as trainer:
        ended = trainer.fit(max_samples=900, stop_on_signals=True, callbacks=[send])
        assert (ended.stopped, ended.step, ended.exit_code, ended.finished) == ("SIGTERM", 3, 143, False)
        assert [time_of(path) for path in checkpoints_in(tmp_path / "run" / "checkpoints")] == [27]
        assert trainer.fit(max_samples=36).exit_code == 0
    assert [signal.getsignal(number) for number in EXIT_CODES] == before


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("stopped") / "data")


@pytest.fixture
def started(data):
    """Starts processes of the run, and ends those that a failed test has left."""
    processes = []

    def start(folder, *options, **environment):
        command = [sys.executable, "-m", "tests.train.stopped_run", str(data), str(folder), *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def read_until(process, text):
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if lines[-1] == text:
            return lines
    raise AssertionError(f"no {text!r} in {lines}: {process.stderr.read()}")


def ending(process):
    out, err = process.communicate(timeout=60)
    return [line.strip() for line in out.splitlines()], err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_process_told_to_stop_finishes_its_step_saves_and_ends_where_the_whole_run_does(started, tmp_path):
    whole, first = started(tmp_path / "whole"), started(tmp_path / "run")
    read_until(first, "step 2 ended")
    read_until(first, "step begins")
    first.send_signal(signal.SIGTERM)
    lines, err = ending(first)
    assert lines[:2] == ["step 3 ended", "fit ended: SIGTERM"]
    assert first.returncode == 143, err
    assert "SIGTERM: finishing the step" in err
    assert time_of(newest_complete(tmp_path / "run" / "checkpoints").path) == 27

    second = started(tmp_path / "run", "resume")
    read_until(second, "step 4 ended")
    second.send_signal(signal.SIGINT)
    lines, err = ending(second)
    assert "fit ended: Ctrl-C" in lines
    assert second.returncode == 130, err

    lines, err = ending(started(tmp_path / "run", "resume"))
    assert lines[-2:] == ["fit ended: max_samples", ending(whole)[0][-1]], err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_second_ctrl_c_ends_in_the_middle_of_a_step(started, tmp_path):
    process = started(tmp_path / "run", SLOW="hang")
    read_until(process, "step 4 ended")
    read_until(process, "step begins")
    process.send_signal(signal.SIGINT)
    while "finishing the step" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)  # the step would take a minute more
    lines, err = ending(process)
    assert process.returncode not in (0, 143)
    assert "KeyboardInterrupt" in err
    assert not any(line.startswith(("fit ended", "step 5")) for line in lines)
