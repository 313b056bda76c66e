"""Epochs as MindSpore prints them, where an epoch is a sweep of the source: exact, whatever the minibatch size.

A step belongs to the epoch that its last sample lies in.
"""

import sys
import time
from typing import IO, TYPE_CHECKING

from minibatch.arguments import checked_integer
from minibatch.train.callbacks.hooks import Listener
from minibatch.train.every import rows_of
from minibatch.train.result import StepResult, fetch_all

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer


def place_in_epoch(interval: tuple[int, int], rows: int, size: int, target: int = 0) -> tuple[int, int, int]:
    """Epoch from 0, number of the step in it from 1, and its number of steps; of runs with minibatches of `size`.

    target: the nominal time at which the run ends, 0 if it has none: the last step is short then.

    >>> [place_in_epoch((t, t + 4), 10, 4) for t in range(0, 20, 4)]
    [(0, 1, 2), (0, 2, 2), (1, 1, 3), (1, 2, 3), (1, 3, 3)]
    """
    epoch = (interval[1] - 1) // rows
    before, border = epoch * rows // size, (epoch + 1) * rows
    until = -(-target // size) if 0 < target <= border else border // size
    return epoch, -(-interval[1] // size) - before, until - before


class _Epochs(Listener):
    """Follows the epochs of a run; a subclass is told when one has ended."""

    def __init__(self, file: IO[str] | None) -> None:
        self.file = sys.stdout if file is None else file
        self.rows = 0
        self.epoch = -1
        self.began = self.last = 0.0  # on the clock: of the epoch, and the end of its last step
        self.steps = 0

    def on_begin(self, trainer: "Trainer") -> None:
        rows = rows_of(trainer)
        if rows is None:
            raise ValueError(f"{type(self).__name__} counts sweeps of a source, and this Trainer has none")
        self.rows = rows
        self.epoch = -1
        self.last = time.monotonic()

    def follow(self, result: StepResult) -> None:
        """Take a step into account; it is the first of its epoch, then the one before has ended."""
        epoch = (result.interval[1] - 1) // self.rows
        if epoch != self.epoch:
            self.leave()
            self.epoch, self.began, self.steps = epoch, self.last, 0
        self.steps += 1
        self.last = time.monotonic()

    def leave(self) -> None:
        """Close the epoch, if one is open."""
        if self.epoch >= 0:
            self.ended(1000.0 * (self.last - self.began))
            self.epoch = -1

    def follow_to_the_border(self, result: StepResult) -> None:
        if result.interval[1] % self.rows == 0:
            self.leave()

    def on_rollback(self, trainer: "Trainer") -> None:
        self.leave()

    def on_end(self, trainer: "Trainer", reason: str) -> None:
        self.leave()

    def ended(self, milliseconds: float) -> None:
        raise NotImplementedError

    def print(self, text: str) -> None:
        self.file.write(text + "\n")
        self.file.flush()


class TimeMonitor(_Epochs):
    """At the end of each epoch: `epoch time: 4286.163 ms, per step time: 2.286 ms`; stdout by default.

    An epoch that `fit` began or left in its middle is counted by the steps it had in this call.
    """

    def __init__(self, file: IO[str] | None = None) -> None:
        super().__init__(file)

    def __call__(self, trainer: "Trainer", result: StepResult) -> None:
        self.follow(result)
        self.follow_to_the_border(result)

    def ended(self, milliseconds: float) -> None:
        self.print(f"epoch time: {milliseconds:.3f} ms, per step time: {milliseconds / self.steps:.3f} ms")


class LossMonitor(_Epochs):
    """MindSpore's two lines, every `per_print_times` steps (None: at log points) and at the end of an epoch.

        Epoch:[  0/ 10], step:[ 1875/ 1875], loss:[0.189/1.176], time:2.254 ms, lr:0.01000
        Epoch time: 4286.163 ms, per step time: 2.286 ms, avg loss: 1.176

    loss: of this step, and the mean of this epoch so far (of this call of `fit`), each step by its samples. time: a
    step's, mean since the line before. lr: of the first optimizer. The values of all steps between two lines are
    fetched together: on a GPU, per_print_times=1 waits for the device in every step. A loss that is not finite (where
    the engine was told to leave such steps out) ends the training, as in MindSpore.
    """

    def __init__(self, per_print_times: int | None = None, file: IO[str] | None = None) -> None:
        super().__init__(file)
        self.every = None if per_print_times is None else checked_integer(per_print_times, "per_print_times", least=1)
        self._waiting: list[StepResult] = []
        self._sum, self._samples = 0.0, 0
        self._printed, self._printed_at = 0, 0.0

    def on_begin(self, trainer: "Trainer") -> None:
        super().on_begin(trainer)
        self._printed, self._printed_at = trainer.step, self.last

    def __call__(self, trainer: "Trainer", result: StepResult) -> str | None:
        self.follow(result)
        self._waiting.append(result)
        reason = None
        if result.step % (self.every or trainer.log_every) == 0:
            reason = self._add_up()
            self._print_step(trainer, result)
        self.follow_to_the_border(result)
        return reason

    def ended(self, milliseconds: float) -> None:
        self._add_up()
        mean = self._sum / self._samples if self._samples else 0.0
        per_step = milliseconds / self.steps
        self.print(f"Epoch time: {milliseconds:.3f} ms, per step time: {per_step:.3f} ms, avg loss: {mean:.3f}")
        self._sum, self._samples = 0.0, 0

    def _add_up(self) -> str | None:
        """Fetch the losses of the steps since the last time; a reason to stop if one is not finite."""
        waiting, self._waiting = self._waiting, []
        fetch_all(waiting)
        reason = None
        for result in waiting:
            loss = result["total_loss"] or 0.0
            self._sum += loss * result.num_samples
            self._samples += result.num_samples
            if loss - loss != 0.0 and reason is None:
                reason = f"LossMonitor: the loss of step {result.step} is {loss}"
        return reason

    def _print_step(self, trainer: "Trainer", result: StepResult) -> None:
        size = result.interval[1] - result.interval[0]
        if isinstance(
            trainer.minibatch_size, int
        ):  # else it follows a schedule, and this is how it would be at this size
            size = trainer.minibatch_size
        target = trainer.target
        epoch, step, steps = place_in_epoch(result.interval, self.rows, size, target)
        epochs = -(-target // self.rows)
        milliseconds = 1000.0 * (self.last - self._printed_at) / max(1, result.step - self._printed)
        self._printed, self._printed_at = result.step, self.last
        rate = result.learning_rates[0] if result.learning_rates else 0.0
        of_epochs = f"/{epochs:3d}" if target else ""
        mean = self._sum / self._samples if self._samples else 0.0
        self.print(
            f"Epoch:[{epoch:3d}{of_epochs}], step:[{step:5d}/{steps:5d}], loss:[{result['total_loss'] or 0.0:5.3f}/"
            f"{mean:5.3f}], time:{milliseconds:5.3f} ms, lr:{rate:.5f}"
        )
