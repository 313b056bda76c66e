"""Ctrl-C and SIGTERM end a run between two steps, with everything saved; a second Ctrl-C ends it at once.

Exit codes, those that shells report for a process that a signal has ended: 130 after Ctrl-C (SIGINT), 143 after
SIGTERM. A validation that is due in the last step is still done: a resumed run would not come by its place again.
"""

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from minibatch.train.result import StepResult

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
TITLES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class StopBetweenSteps:
    """Inside `with`, SIGINT and SIGTERM are only remembered; as a callback of `fit`, it then ends the training.

    `fit(stop_on_signals=True)` does the same without it. signal: the first one that came, or None; exit_code: what the
    process should end with, 0 without a signal. Outside the main thread, where Python handles no signals, it does
    nothing.

    >>> with StopBetweenSteps() as stop:
    ...     stop.signal is None
    True
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        return 0 if self.signal is None else EXIT_CODES[self.signal]

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
        if self.signal is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signal = signal.Signals(number)
        # Not print(): the signal may have come in the middle of one, and streams are not reentrant.
        with contextlib.suppress(OSError):
            os.write(2, f"\nminibatch: {TITLES[self.signal]}: finishing the step; Ctrl-C ends at once\n".encode())
