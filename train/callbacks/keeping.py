"""Callbacks that stop a run early, and that keep checkpoints in a folder of their own.

`fit` does the same by its arguments, with the checkpoints of the run's folder; these are for runs without a folder, for
further copies, and for those who come from MindSpore.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minibatch.arguments import checked_integer
from minibatch.train import checkpoint
from minibatch.train.best import Watch
from minibatch.train.callbacks.hooks import Listener
from minibatch.train.every import Due, Every, due, rows_of
from minibatch.train.patience import Mode, improvements
from minibatch.train.result import StepResult
from minibatch.train.validation import Validation
from minibatch.train.watching import check_measured

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer


class EarlyStopping(Listener):
    """Ends the training after `patience` + 1 validations in a row without improvement; the arguments of `best.Watch`.

    A run that had stopped before a resume stops again at its next validation; `fit(patience=…)` does so at once.
    """

    def __init__(
        self,
        watch: str | None = None,
        *,
        patience: int = 5,
        min_improvement: float = 0.0,
        absolute: bool = False,
        mode: Mode = "min",
        since: int = 0,
    ) -> None:
        self.watch = Watch(
            name=watch, mode=mode, patience=patience, min_improvement=min_improvement, absolute=absolute, since=since
        )

    def on_begin(self, trainer: "Trainer") -> None:
        check_measured(self.watch.name, f"EarlyStopping: watch={self.watch.name!r}", trainer.terms, trainer.metrics)

    def on_validation(self, trainer: "Trainer", validation: Validation) -> str | None:
        return self.watch.stopped(trainer.history)


class Checkpoint(Listener):
    """Saves a checkpoint into `folder` every so often, and keeps the newest `keep` of them (None: all).

    every: samples (an integer), `every.Steps(n)`, `every.Sweeps(n)` or `every.Minutes(n)`, or several of these. They
    are whole checkpoints, named by nominal time: `trainer.restore_from_checkpoint(path)` goes on from any of them.
    """

    def __init__(self, folder: str | Path, every: Every | Sequence[Every], *, keep: int | None = 5) -> None:
        self.folder = Path(folder)
        self.every = every if isinstance(every, Sequence) else (every,)
        self.keep = None if keep is None else checked_integer(keep, "keep", least=1)
        self._due: list[Due] = []

    def on_begin(self, trainer: "Trainer") -> None:
        self._due = [due(one, "every", rows_of(trainer)) for one in self.every]

    def __call__(self, trainer: "Trainer", result: StepResult) -> None:
        # All are asked: one that goes by the clock begins to count again.
        if sum(ask(result.step, result.interval) for ask in self._due):
            trainer.save_checkpoint(checkpoint.place(self.folder, result.interval[1]))
            checkpoint.tidy(self.folder, keep_last=self.keep, announce=trainer.announce)


class KeepBest(Listener):
    """Keeps the checkpoints of the best `keep` validations in `folder`: those that were the best when they were made.

    watch: the name of a term or metric, None for the first. mode: "min" if less is better, "max" if more is (accuracy).
    Which they are is a function of the validations so far, so that a resumed run has the same in the end. Each new best
    is announced.
    """

    def __init__(self, folder: str | Path, watch: str | None = None, *, mode: Mode = "min", keep: int = 1) -> None:
        self.folder = Path(folder)
        self.watch = Watch(name=watch, mode=mode)
        self.keep = checked_integer(keep, "keep", least=1)

    def on_begin(self, trainer: "Trainer") -> None:
        check_measured(self.watch.name, f"KeepBest: watch={self.watch.name!r}", trainer.terms, trainer.metrics)

    def on_validation(self, trainer: "Trainer", validation: Validation) -> None:
        counted = self.watch.counted(trainer.history)
        places = improvements(self.watch.values(counted), mode=self.watch.mode)[-self.keep :]
        if not places or counted[places[-1]].nominal_time != validation.nominal_time:
            return
        path = trainer.save_checkpoint(checkpoint.place(self.folder, validation.nominal_time))
        name = self.watch.name_in(validation)
        trainer.announce(f"best {name} so far: {validation[name]:.6g}, saved as {path}")
        best = {counted[place].nominal_time for place in places}
        checkpoint.tidy(self.folder, keep_last=0, announce=trainer.announce, also=lambda times: best)
