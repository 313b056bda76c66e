"""Whether a call of `fit` learns anything: said at a log point if not, and an error where all of it was in vain."""

from typing import TYPE_CHECKING

from minibatch.train.errors import TrainingError
from minibatch.train.result import StepResult

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer

FEW = 10  # steps that may do nothing: a warmup begins with a rate of 0


class Idle:
    """Looks at the steps of one call of `fit` until one of them has updated something; waits for no device.

    A step is in vain if it updated nothing (no term had a sample; it was left out), or if every rate was 0 in it.
    """

    def __init__(self, trainer: "Trainer") -> None:
        self.over = False  # something was updated, and nothing is left to look at
        self._trainer = trainer
        self._from_the_start = not trainer.step
        self._waiting: list[tuple[StepResult, bool]] = []  # and whether every rate was 0
        self._steps = self._absent = self._still = 0
        self._said = False

    def add(self, result: StepResult) -> None:
        """Take a step into account, and at a log point say that nothing has been learned so far."""
        still = not any(result.learning_rates) and not any(
            group["lr"] for optimizer in self._trainer.optimizers for group in optimizer.param_groups
        )
        self._waiting.append((result, still))
        if result.step % self._trainer.log_every == 0:
            self._look()
            if not self.over and not self._said and self._steps >= FEW:
                self._said = True
                self._trainer.announce(f"nothing is being learned: {self._why()}")

    def went_back(self) -> None:
        """The run went back to a checkpoint: the steps since the log point are none of its own."""
        self._waiting.clear()

    def end(self) -> None:
        """At the end of the run: TrainingError if all of its steps, from the first one on, were in vain.

        A call that goes on with a run may meet the end of a schedule; of a few steps it is only said.
        """
        self._look()
        if self.over or not self._steps:
            return
        if self._from_the_start and self._steps >= FEW:
            raise TrainingError(f"nothing was learned: {self._why()}")
        if not self._said and (self._still < self._steps or self._steps >= FEW):
            self._trainer.announce(f"nothing was learned: {self._why()}")

    def _look(self) -> None:
        waiting, self._waiting = self._waiting, []
        for result, still in waiting:
            if result.updated and not still:
                self.over = True
                return
            self._steps += 1
            self._still += still
            self._absent += len(result.absent) == len(result.names)

    def _why(self) -> str:
        of_steps = f"{self._steps:,} step{'s' * (self._steps > 1)}"
        reasons = []
        if self._still == self._steps:
            reasons.append(f"every rate was 0 in {of_steps}; look at lr= of the optimizers and at schedules=")
        if self._absent == self._steps:
            reasons.append(
                f"no term had a sample in {of_steps}: all weights were 0, or all masks False, or the minibatches empty"
            )
        return "; ".join(reasons) or (
            f"in {of_steps} every update was left out, or its rate was 0 (no samples {self._absent:,}, rate 0 "
            f"{self._still:,}, the others not finite, spikes or overflows)"
        )
