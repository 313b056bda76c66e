"""The loop around the steps: how far, when to validate, save and report.

All of it is a function of nominal time, so that a resumed run does the same things at the same places.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minibatch.arguments import checked_integer
from minibatch.train.progress import ProgressLine, Reporter
from minibatch.train.result import StepResult
from minibatch.train.validation import Validation

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer

Callback = Callable[["Trainer", StepResult], str | None]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """Where a call of `fit` ended: steps and nominal time of the run, the last validation, and why it stopped."""

    step: int
    nominal_time: int
    validation: Validation | None
    stopped: str


def fit(
    trainer: "Trainer",
    *,
    max_samples: int | None,
    max_sweeps: int | None,
    validate_every: int | None,
    save_every: int | None,
    callbacks: Sequence[Callback],
    progress: bool | Reporter,
) -> FitResult:
    """See `Trainer.fit`."""
    target = _target(trainer, max_samples, max_sweeps)
    every = {"validate_every": validate_every, "save_every": save_every}
    for name, samples in every.items():
        if samples is not None:
            checked_integer(samples, name, least=1)
    if validate_every is not None and trainer.validation is None:
        raise ValueError("validate_every= needs something to validate on: pass validation= to Trainer")
    if save_every is not None and trainer.folder is None:
        raise ValueError("save_every= needs a folder to save into: pass folder= to Trainer")
    # Before the first step, not hours later.
    if validate_every is not None and trainer.validation is None:
        raise ValueError("validate_every needs something to validate on: pass validation= to Trainer")
    if save_every is not None and not trainer.has_folder:
        raise ValueError("save_every needs a place for checkpoints: pass folder= to Trainer")
    reporter = ProgressLine() if progress is True else progress or None
    validation: Validation | None = None
    validated = saved = trainer.nominal_time if trainer.step else -1
    stopped = "max_samples"
    result: StepResult | None = None
    try:
        while trainer.nominal_time < target:
            result = trainer.train_at_most(min(trainer.minibatch_size, int(min(target - trainer.nominal_time, 2**62))))
            if not result:
                stopped = "the axis has ended"
                break
            if reporter is not None and (trainer.step % trainer.log_every == 0 or result.interval[1] >= target):
                reporter.step(result, int(target) if target < math.inf else 0)
            if validate_every is not None and _crosses(result.interval, validate_every):
                validation, validated = trainer.validate(), trainer.nominal_time
                if reporter is not None:
                    reporter.validation(validation)
            reasons = [reason for callback in callbacks if (reason := callback(trainer, result))]
            if save_every is not None and _crosses(result.interval, save_every):
                trainer.save_checkpoint()
                saved = trainer.nominal_time
            if reasons:
                stopped = "; ".join(reasons)
                break
        trainer.look()
        done = trainer.nominal_time >= target or (result is not None and not result)
        if done and validate_every is not None and validated != trainer.nominal_time:
            validation = trainer.validate()
            if reporter is not None:
                reporter.validation(validation)
        if save_every is not None and saved != trainer.nominal_time:
            trainer.save_checkpoint()
    finally:
        if reporter is not None:
            reporter.close()
    return FitResult(step=trainer.step, nominal_time=trainer.nominal_time, validation=validation, stopped=stopped)


def _target(trainer: "Trainer", max_samples: int | None, max_sweeps: int | None) -> float:
    """The nominal time to train up to."""
    targets = [math.inf]
    if max_samples is not None:
        targets.append(checked_integer(max_samples, "max_samples", least=1))
    if max_sweeps is not None:
        if trainer.source is None:
            raise ValueError("max_sweeps counts sweeps of a source, and this Trainer has none")
        targets.append(checked_integer(max_sweeps, "max_sweeps", least=1) * len(trainer.source.dataset))
    return min(targets)


def _crosses(interval: tuple[int, int], every: int) -> bool:
    """Whether the interval reaches or crosses a multiple of `every`, other than where it begins.

    >>> _crosses((64, 128), 100), _crosses((128, 192), 100), _crosses((100, 150), 100)
    (True, False, False)
    """
    return interval[1] // every > interval[0] // every
