"""What happens after a step whose loss or gradient was not finite, or jumped: stop, leave it out, or go back.

The weights are as before such a step in any case. What is left out is an interval of nominal time, kept with the run
(skips.py), so that it means the same samples for any minibatch size and in every resumed or repeated run.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from minibatch.errors import CheckpointError
from minibatch.kernels.exact import LIMIT
from minibatch.train import checkpoint, skips
from minibatch.train.errors import NonFiniteError, SpikeError
from minibatch.train.result import StepResult
from minibatch.train.skips import Skip
from minibatch.train.terms import Share

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer


def ends(trainer: "Trainer", result: StepResult) -> bool:
    """Whether the run cannot simply go on after this step."""
    if not result.finite:
        return not result.overflow and trainer.on_nonfinite == "stop"
    return result.spike and ((trainer.spikes is not None and trainer.spikes.action != "skip") or too_many(trainer))


def too_many(trainer: "Trainer") -> bool:
    """Whether the run has left out as many intervals as its policy allows."""
    assert trainer.spikes is not None
    return sum(skip.why.startswith("spike") for skip in trainer.streams.skips) >= trainer.spikes.most


def went_on(trainer: "Trainer", result: StepResult) -> bool:
    """Whether steps after this bad one have changed weights, because it was only left out."""
    return result.finite and trainer.spikes is not None and trainer.spikes.action == "skip"


def after_bad_step(trainer: "Trainer", result: StepResult, shares: Sequence[Share] = ()) -> None:
    """Stop the run, by NonFiniteError or SpikeError, or bring it back to where it can go on."""
    if not result.finite:
        raise NonFiniteError(
            f"{title(result)}{bad_rows(shares)}{beyond_the_sum(trainer, result)}. The weights are as before this step. "
            "To leave such steps out pass on_nonfinite='skip', or the interval as skip= to the source"
        )
    assert trainer.spikes is not None
    if trainer.spikes.action == "rollback" and not too_many(trainer):
        roll_back(trainer, result)
        return
    often = f", after {trainer.spikes.most} others were left out" if trainer.spikes.action != "stop" else ""
    stands = "The weights are as before this step"
    if trainer.step > result.step:  # on a device, where a spike that is left out is known at the next log point
        stands = f"It has been left out, too, and later steps have been made: the run stands after step {trainer.step}"
    raise SpikeError(
        f"{title(result)}: a spike{often}. {stands}. Look at its samples (who, blame), then "
        "go on with skips=[Skip(start=…, stop=…)], or with Spikes(action='skip')"
    )


def leave_out(trainer: "Trainer", start: int, stop: int, why: str) -> None:
    """Write into the run's configuration that the nominal times [start, stop) are left out."""
    trainer.streams.skips.append(Skip(start=start, stop=stop, why=why))
    trainer.announce(f"left out nominal time [{start:,}, {stop:,}): {why}")
    if trainer.folder is not None:
        skips.write(trainer.folder, trainer.streams.skips)


def roll_back(trainer: "Trainer", result: StepResult) -> None:
    """Go back to the newest checkpoint from which the steps before the spike can be left out, and leave them out.

    Raises SpikeError without such a checkpoint.
    """
    assert trainer.folder is not None
    assert trainer.spikes is not None
    start, stop = trainer.first_start(result.interval[0], trainer.spikes.rollback_steps), result.interval[1]
    trainer.wait_for_saves()
    path = None
    for candidate in reversed(checkpoint.checkpoints_in(trainer.folder / "checkpoints")):
        if checkpoint.time_of(candidate) <= start:
            try:
                checkpoint.verify(candidate)
            except CheckpointError:
                continue
            path = candidate
            break
    if path is None:
        raise SpikeError(
            f"{title(result)}: a spike, and there is no checkpoint at or before nominal time {start:,} to go back to: "
            "save one before the first step and more often (save_every=)"
        )
    known = list(trainer.streams.skips)
    trainer.restore_from_checkpoint(path)
    trainer.streams.skips[:] = known
    leave_out(trainer, start, stop, f"spike in step {result.step} ({result['total_loss']:.4g})")


def beyond_the_sum(trainer: "Trainer", result: StepResult) -> str:
    """What else a gradient that is not finite may mean where gradients of leaves are added exactly."""
    if trainer.promise != "bits" or not result.losses_are_finite():
        return ""
    return (
        f"; under promise='bits' every number in the gradient of a leaf must be below {LIMIT:,.0f}: choose smaller "
        "coefficients or a denominator that is not None"
    )


def title(result: StepResult) -> str:
    """Which step, and its numbers."""
    values = ", ".join(f"{name} {result[name]}" for name in result)
    return (
        f"step {result.step}, nominal time [{result.interval[0]:,}, {result.interval[1]:,}): {values}, norm of the "
        f"gradient {result.grad_norm}"
    )


def bad_rows(shares: Sequence[Share]) -> str:
    """Which rows gave values that are not finite, where that was seen."""
    return "".join(
        f"; not finite in term {share.term.name!r}: rows {share.bad_rows[:10]} of the data set"
        for share in shares
        if share.bad_rows
    )
