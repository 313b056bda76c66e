"""What `fit` tells of a run, and to whom."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from minibatch.train.result import StepResult
from minibatch.train.validation import Validation

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer


class Reporter(Protocol):
    """Who is told of a run: steps at log points, validations, and the end of a call of `fit`.

    target: the nominal time the run is trained up to, 0 if that is not known. A reporter may also have

        begin(trainer, target)      before the first step
        steps(results, target)      instead of `step`: all steps since the last log point, the latest is the last
        saved(path)                 a checkpoint was written

    Values of results are at hand then: looking at them waits for nothing.
    """

    def step(self, result: StepResult, target: int) -> None: ...

    def validation(self, validation: Validation) -> None: ...

    def close(self) -> None: ...


class Told:
    """A reporter or nobody, behind all methods that a reporter may have."""

    def __init__(self, reporter: Reporter | None) -> None:
        self.anybody = reporter is not None
        self._reporter = reporter

    def begin(self, trainer: "Trainer", target: int) -> None:
        self._if_it_can("begin", trainer, target)

    def steps(self, results: Sequence[StepResult], target: int) -> None:
        """Tell of the steps since the last log point, at least one."""
        if self._reporter is not None and not self._if_it_can("steps", results, target):
            self._reporter.step(results[-1], target)

    def validation(self, validation: Validation) -> None:
        if self._reporter is not None:
            self._reporter.validation(validation)

    def saved(self, path: Path) -> None:
        self._if_it_can("saved", path)

    def close(self) -> None:
        if self._reporter is not None:
            self._reporter.close()

    def _if_it_can(self, method: str, *arguments: Any) -> bool:
        tell: Callable[..., None] | None = getattr(self._reporter, method, None)
        if tell is None:
            return False
        tell(*arguments)
        return True


class Several:
    """Tells several reporters the same.

    >>> class Names:
    ...     def step(self, result, target): print("step", result.step)
    ...     def validation(self, validation): ...
    ...     def close(self): print("end")
    >>> Several(Names(), Names()).close()
    end
    end
    """

    def __init__(self, *reporters: Reporter) -> None:
        self.reporters = reporters
        self._told = [Told(reporter) for reporter in reporters]

    def begin(self, trainer: "Trainer", target: int) -> None:
        for told in self._told:
            told.begin(trainer, target)

    def step(self, result: StepResult, target: int) -> None:
        self.steps([result], target)

    def steps(self, results: Sequence[StepResult], target: int) -> None:
        for told in self._told:
            told.steps(results, target)

    def validation(self, validation: Validation) -> None:
        for told in self._told:
            told.validation(validation)

    def saved(self, path: Path) -> None:
        for told in self._told:
            told.saved(path)

    def close(self) -> None:
        for told in self._told:
            told.close()


def announce(text: str) -> None:
    """Say one thing about a run, on stderr."""
    print(f"minibatch: {text}", file=sys.stderr)
