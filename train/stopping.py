"""Ctrl-C and SIGTERM end a run between two steps, with everything saved; a second Ctrl-C ends it at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from minibatch.train.result import StepResult

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer

# The exit code of a process that was ended by a signal, as shells report it.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
TITLES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class StopBetweenSteps:
    """Inside `with`, SIGINT and SIGTERM are only remembered; as a callback of `fit`, it then ends the training.

    signal: the one that came, or None. Outside the main thread, where Python handles no signals, it does nothing.

    >>> with StopBetweenSteps() as stop:
    ...     stop.signal is None
    True
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self, trainer: "Trainer", result: StepResult) -> str | None:
        return None if self.signal is None else TITLES[self.signal]

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in EXIT_CODES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
