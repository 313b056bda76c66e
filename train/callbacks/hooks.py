"""What `fit` calls besides the steps: functions of (trainer, result), and objects with further methods."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minibatch.train.result import StepResult
from minibatch.train.validation import Validation

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer

Callback = Callable[["Trainer", StepResult], str | None]


class Listener:
    """The base of callbacks that want to know more than steps: override what is needed.

    A text that is returned by the call or by `on_validation` ends the training and gives the reason. Looking at a
    value of `result` between log points waits for the device; `results.fetch_all` fetches many with one wait.
    Any other object that can be called may have these methods, too.

    >>> class Count(Listener):
    ...     steps = 0
    ...     def __call__(self, trainer, result):
    ...         self.steps += 1
    ...         return "enough" if self.steps == 10 else None
    >>> Hooks([Count()]).on_step
    [<...Count object at ...>]
    """

    def on_begin(self, trainer: "Trainer") -> None:
        """Before the first step of a call of `fit`."""

    def __call__(self, trainer: "Trainer", result: StepResult) -> str | None:
        """After every step."""
        return None

    def on_validation(self, trainer: "Trainer", validation: Validation) -> str | None:
        """After a validation, which is already the last one of `trainer.history`."""
        return None

    def on_save(self, trainer: "Trainer", path: Path) -> None:
        """After a checkpoint was written to `path`."""

    def on_rollback(self, trainer: "Trainer") -> None:
        """After the run went back to a checkpoint because of a spike; the step of the spike is not called for."""

    def on_end(self, trainer: "Trainer", reason: str) -> None:
        """When `fit` ends, also by an exception, of which `reason` then says kind and message."""


NOTHING = Listener.__call__
METHODS = ("on_begin", "on_validation", "on_save", "on_rollback", "on_end")


class Hooks:
    """The methods of the callbacks of one call of `fit`, looked up once; each list in the order of the callbacks.

    Raises TypeError for what cannot be called, and for methods `on_…` that nobody would call.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        for callback in callbacks:
            _check(callback)
        # Methods that a Listener has not overridden would only cost time, one call a step.
        self.on_step: list[Callback] = [
            c for c in callbacks if not isinstance(c, Listener) or type(c).__call__ is not NOTHING
        ]
        self.on_begin: list[Callable[[Trainer], None]] = _methods(callbacks, "on_begin")
        self.on_validation: list[Callable[[Trainer, Validation], str | None]] = _methods(callbacks, "on_validation")
        self.on_save: list[Callable[[Trainer, Path], None]] = _methods(callbacks, "on_save")
        self.on_rollback: list[Callable[[Trainer], None]] = _methods(callbacks, "on_rollback")
        self.on_end: list[Callable[[Trainer, str], None]] = _methods(callbacks, "on_end")


def _methods(callbacks: Sequence[Callback], name: str) -> list[Any]:
    return [
        getattr(callback, name)
        for callback in callbacks
        if hasattr(callback, name) and getattr(type(callback), name, None) is not getattr(Listener, name)
    ]


def _check(callback: Any) -> None:
    if isinstance(callback, type):
        raise TypeError(f"callbacks: got the class {callback.__name__}, expected an object: {callback.__name__}(…)")
    if not callable(callback):
        raise TypeError(
            f"callbacks: got {callback!r}, expected a function (trainer, result) -> None or a text, or a Listener"
        )
    for name in dir(type(callback)):
        if name.startswith("on_") and name not in METHODS:
            near = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"callback {type(callback).__name__}: nothing calls {name}{hint} There are {METHODS}")
