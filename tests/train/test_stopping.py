"""A signal is remembered between steps; a second Ctrl-C ends at once; handlers are put back."""

import os
import signal
import threading

import pytest

from minibatch.train.stopping import EXIT_CODES, StopBetweenSteps


def test_the_first_signal_is_a_reason_to_stop_and_the_second_ctrl_c_ends_at_once():
    with StopBetweenSteps() as stop:
        assert stop(None, None) is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stop(None, None) == "Ctrl-C"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (stop.signal, EXIT_CODES[stop.signal]) == (signal.SIGINT, 130)


def test_sigterm_is_remembered_as_itself():
    with StopBetweenSteps() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop(None, None) == "SIGTERM"
    assert EXIT_CODES[stop.signal] == 143


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
