"""The loop around the steps: how far, when to validate, save, report and stop; and the best weights at the end.

All of it is a function of where the run stands and of the validations so far, so that a resumed run does the same
things at the same places. Only `max_seconds`, `every.Minutes` and signals depend on the clock: they end a call of `fit`
early or save once more, and change nothing that is computed.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from minibatch.arguments import checked_integer
from minibatch.train import every, watching
from minibatch.train.best import BestWeights, Watch
from minibatch.train.callbacks.hooks import Callback as Callback
from minibatch.train.callbacks.hooks import Hooks
from minibatch.train.every import Every
from minibatch.train.idle import Idle
from minibatch.train.patience import Mode
from minibatch.train.progress import ProgressLine, Reporter, Told
from minibatch.train.result import StepResult
from minibatch.train.stopping import StopBetweenSteps
from minibatch.train.validation import Validation

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer

Save = Every | Sequence[Every] | None


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """Where a call of `fit` ended, and why.

    step, nominal_time: of the run. validation: the last one of this call, or None. stopped: the limit that was reached
    ("max_samples", …), or the reason of whatever stopped it earlier. finished: whether a limit of the run was reached
    or the axis has ended, so that nothing is left to do. best: the validation whose weights the model now has, if
    they were put back. exit_code: 0, or after a signal what a process should exit with: 130 (Ctrl-C), 143 (SIGTERM).
    """

    step: int
    nominal_time: int
    validation: Validation | None
    stopped: str
    finished: bool = True
    best: Validation | None = None
    exit_code: int = 0


def fit(
    trainer: "Trainer",
    *,
    max_samples: int | None = None,
    max_sweeps: int | None = None,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    validate_every: Every | None = None,
    validate_first: bool = False,
    save_every: Save = None,
    patience: int | None = None,
    min_improvement: float = 0.0,
    absolute: bool = False,
    watch: str | None = None,
    mode: Mode = "min",
    since: int = 0,
    restore_best: bool = False,
    stop_on_signals: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool | Reporter = False,
) -> FitResult:
    """Train up to a limit: samples of nominal time, sweeps or steps, counted from 0 also after a resume.

    max_seconds: of this call; the step under way is finished, and nothing is validated at the end.
    validate_every: samples (an integer), `every.Steps(n)` or `every.Sweeps(n)`; and at the end. validate_first: also
    before the first step of the run. save_every: likewise or `every.Minutes(n)`, or several of them; and at the end.
    patience, min_improvement, absolute, watch, mode, since: see `best.Watch`; without patience nothing stops early.
    restore_best: when training ends, and on Ctrl-C, the model gets the weights of its best validation; the checkpoint
    of the end has the last ones, so that a resume goes on from there.
    stop_on_signals: Ctrl-C and SIGTERM finish the step and save, and `fit` returns, with `exit_code`.
    callbacks: called with (trainer, result) after every step, see callbacks/hooks.py; a text they return ends the
    training and is the reason. progress: True for a progress line on stderr, or any reporter.

    >>> import tempfile
    >>> import numpy as np
    >>> import torch
    >>> from minibatch import DatasetWriter, MinibatchSource
    >>> from minibatch.train import Term, Trainer, mse, on
    >>> folder = tempfile.mkdtemp()
    >>> with DatasetWriter(folder) as writer:
    ...     writer.write({"x": np.ones((8, 1), np.float32), "y": np.zeros((8, 1), np.float32)})
    >>> model = torch.nn.Linear(1, 1)
    >>> with MinibatchSource(folder, seed=7) as source:
    ...     sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    ...     trainer = Trainer(model, Term("fit", on(mse, "y")), sgd, source, 4, inputs="x", validation=folder)
    ...     ended = trainer.fit(max_sweeps=3, validate_every=every.Sweeps())
    >>> ended.step, ended.stopped, [validation.nominal_time for validation in trainer.history]
    (6, 'max_sweeps', [8, 16, 24])
    """
    limits = _limits(trainer, max_samples, max_sweeps, max_steps, max_seconds)
    watching.check_plan(
        trainer,
        validate_every=validate_every,
        validate_first=validate_first,
        save_every=save_every,
        patience=patience,
        restore_best=restore_best,
        watch=watch,
    )
    rows = every.rows_of(trainer)
    run = _Run(
        trainer,
        limits,
        validate=every.due(validate_every, "validate_every", rows, minutes=False),
        save=[every.due(one, "save_every", rows) for one in _several(save_every)],
        watch=Watch(
            name=watch, mode=mode, patience=patience, min_improvement=min_improvement, absolute=absolute, since=since
        ),
        restore_best=restore_best,
        hooks=Hooks(callbacks),
        told=Told(ProgressLine() if progress is True else progress or None),
    )
    with ExitStack() as stack:
        signals = [callback for callback in callbacks if isinstance(callback, StopBetweenSteps)]
        if stop_on_signals:
            signals.append(stack.enter_context(StopBetweenSteps()))
        return run.train(signals, validate_first=validate_first, validate_last=validate_every is not None)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far to train: nominal time, steps (both of the run), and seconds of this call; infinite where there is none.

    name: of the limit on nominal time, as the caller gave it.
    """

    samples: float = math.inf
    steps: float = math.inf
    seconds: float = math.inf
    name: str = "max_samples"


def _limits(
    trainer: "Trainer", max_samples: int | None, max_sweeps: int | None, max_steps: int | None, seconds: float | None
) -> Limits:
    samples, name = math.inf, "max_samples"
    if max_samples is not None:
        samples = checked_integer(max_samples, "max_samples", least=1)
    if max_sweeps is not None:
        rows = every.rows_of(trainer)
        if rows is None:
            raise ValueError("max_sweeps= counts sweeps of a source, and this Trainer has none")
        of_sweeps = checked_integer(max_sweeps, "max_sweeps", least=1) * rows
        samples, name = (of_sweeps, "max_sweeps") if of_sweeps < samples else (samples, name)
    if seconds is not None and not seconds > 0:
        raise ValueError(f"max_seconds={seconds!r}: expected a number above 0")
    return Limits(
        samples=samples,
        steps=math.inf if max_steps is None else checked_integer(max_steps, "max_steps", least=1),
        seconds=math.inf if seconds is None else seconds,
        name=name,
    )


def _several(save_every: Save) -> Sequence[Every]:
    if save_every is None:
        return ()
    return save_every if isinstance(save_every, Sequence) else (save_every,)


class _Run:
    """One call of `fit`: what is to happen when, and what has happened."""

    def __init__(
        self,
        trainer: "Trainer",
        limits: Limits,
        *,
        validate: every.Due,
        save: Sequence[every.Due],
        watch: Watch,
        restore_best: bool,
        hooks: Hooks,
        told: Told,
    ) -> None:
        self.trainer = trainer
        self.limits = limits
        self.validate_due = validate
        self.save_due = save
        self.watch = watch
        self.best = BestWeights(trainer, watch) if restore_best else None
        self.hooks = hooks
        self.told = told
        self.idle = Idle(trainer)
        self.validation: Validation | None = None
        self.saved = trainer.nominal_time if trainer.step else -1
        self.reasons: list[str] = []
        self.target = trainer.target = self._shown_target()
        self.deadline = math.inf

    def train(self, signals: Sequence[StopBetweenSteps], *, validate_first: bool, validate_last: bool) -> FitResult:
        """Everything, from `on_begin` to `on_end`."""
        reason = "an exception"
        try:
            self._begin()
            if validate_first and not self.trainer.step and not self._validated():
                self._save_if(self._validate())
            # A run that had lost its patience before it was resumed has lost it still.
            if not self.reasons and (why := self.watch.stopped(self.trainer.history)):
                self.reasons.append(why)
            ended = self._to_the_end(signals)
            finished = ended is not None
            if finished and validate_last and not self._validated():
                self._save_if(self._validate())
            stop = next((stop for stop in signals if stop.signal is not None), None)
            if self.saved != self.trainer.nominal_time and (self.save_due or (stop and self.trainer.has_folder)):
                self._save()
            self.trainer.wait_for_saves()
            if finished:
                self.idle.end()
            reason = ended or "; ".join(self.reasons)
            best = self.best.put_back() if self.best is not None else None
        except KeyboardInterrupt:
            reason = "KeyboardInterrupt"
            if self.best is not None:
                self.best.put_back()
            raise
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._end(reason)
        return FitResult(
            step=self.trainer.step,
            nominal_time=self.trainer.nominal_time,
            validation=self.validation,
            stopped=reason,
            finished=finished,
            best=best,
            exit_code=0 if stop is None else stop.exit_code,
        )

    def _to_the_end(self, signals: Sequence[StopBetweenSteps]) -> str | None:
        """As `_steps`, until no value that is fetched at the end shows a spike that brings the run back."""
        self.deadline = time.monotonic() + self.limits.seconds
        ended = None
        while not self.reasons:
            ended, step = self._steps(signals), self.trainer.step
            self.trainer.look()
            if self.trainer.step == step:
                break
            self._went_back()
        return ended

    def _steps(self, signals: Sequence[StopBetweenSteps]) -> str | None:
        """Train until a limit is reached, and return its name; None where there are `reasons` to stop before it."""
        trainer, limits, reasons = self.trainer, self.limits, self.reasons
        on_step: list[Callback] = [*self.hooks.on_step, *(stop for stop in signals if stop not in self.hooks.on_step)]
        log_every, validate_due, save_due, told = trainer.log_every, self.validate_due, self.save_due, self.told
        idle = self.idle
        recent: list[StepResult] = []
        while (now := trainer.nominal_time) < limits.samples and trainer.step < limits.steps:
            size, left = trainer.next_size, limits.samples - now
            result = trainer.train_at_most(size if left >= size else int(left))
            if not result:
                return "the axis has ended"
            step, interval = result.step, result.interval
            if trainer.step != step:  # a spike: the run went back to a checkpoint, and this step is no part of it
                self._went_back()
                recent = []
                continue
            if not idle.over:
                idle.add(result)
            if told.anybody:
                recent.append(result)
                if step % log_every == 0 or interval[1] >= limits.samples or step >= limits.steps:
                    told.steps(recent, self.target)
                    recent = []
            due = False
            if validate_due(step, interval):
                due = self._validate()
            for callback in on_step:
                if (reason := callback(trainer, result)) is not None and reason:
                    reasons.append(reason)
            for ask in save_due:
                due = ask(step, interval) or due
            if due:
                self._save()
            if reasons:
                return None
            if time.monotonic() >= self.deadline:
                reasons.append(f"max_seconds ({limits.seconds:g}) have passed")
                return None
        return limits.name if trainer.nominal_time >= limits.samples else "max_steps"

    def _validate(self) -> bool:
        """Validate, tell everybody, note reasons to stop; whether the weights are the best and must be saved."""
        trainer = self.trainer
        self.validation = validation = trainer.validate()
        self.told.validation(validation)
        reasons = [hook(trainer, validation) for hook in self.hooks.on_validation]
        reasons.append(self.watch.stopped(trainer.history))
        self.reasons += [reason for reason in reasons if reason]
        return self.best is not None and self.best.look(validation)

    def _validated(self) -> bool:
        """Whether the run was validated where it stands now, in this call or before a resume."""
        history = self.trainer.history
        return bool(history) and history[-1].nominal_time == self.trainer.nominal_time

    def _went_back(self) -> None:
        self.saved = self.trainer.nominal_time
        self.idle.went_back()
        for hook in self.hooks.on_rollback:
            hook(self.trainer)

    def _save_if(self, best: bool) -> None:
        """Save the weights that are the best before anything changes them."""
        if best:
            self._save()

    def _save(self) -> None:
        # Only who asks for the path needs the files to be there; else training goes on while a thread writes them.
        path = self.trainer.save_checkpoint(wait=bool(self.hooks.on_save))
        self.saved = self.trainer.nominal_time
        self.told.saved(path)
        for hook in self.hooks.on_save:
            hook(self.trainer, path)

    def _begin(self) -> None:
        self.told.begin(self.trainer, self.target)
        for hook in self.hooks.on_begin:
            hook(self.trainer)

    def _end(self, reason: str) -> None:
        """Tell everybody, whatever some of them raise; the first such error is raised in the end."""
        failed: BaseException | None = None
        tell: list[Callable[[], None]] = [partial(hook, self.trainer, reason) for hook in self.hooks.on_end]
        for one in [*tell, self.told.close]:
            try:
                one()
            except BaseException as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _shown_target(self) -> int:
        """The nominal time at the end, for those who show how far the run is; 0 if it is not known."""
        trainer, limits = self.trainer, self.limits
        size: Any = trainer.minibatch_size
        by_steps = math.inf
        if limits.steps < math.inf and not callable(size):
            by_steps = trainer.nominal_time + (limits.steps - trainer.step) * size
        target = min(limits.samples, by_steps)
        return int(target) if target < math.inf else 0
