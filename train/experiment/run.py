"""One run of a net: iterations, validations, patience, saving, and the best weights at the end.

Everything goes through `Trainer`, on the nominal time axis of the data: a run is a function of (net, data, settings,
seed), and one that was interrupted goes on where it stood. Only when to save may depend on the clock.
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minibatch import Dataset, MinibatchSource
from minibatch.errors import CheckpointError
from minibatch.models.feedforward import FeedForward
from minibatch.train import every
from minibatch.train.arrays import Calls
from minibatch.train.best import BestWeights
from minibatch.train.errors import TrainingError
from minibatch.train.experiment.preparing import (
    PENALTY,
    LossWatch,
    Penalty,
    Values,
    attach_noise,
    clips_of,
    optimizer_of,
    regularizers_of,
    shadow,
    values_of,
)
from minibatch.train.experiment.settings import Settings
from minibatch.train.experiment.sums import Sums
from minibatch.train.experiment.watching import GradientNorms, monitor_terms
from minibatch.train.ledger import LEDGER, Ledger
from minibatch.train.metrics import Metric
from minibatch.train.result import StepResult
from minibatch.train.stopping import StopBetweenSteps
from minibatch.train.terms import Term
from minibatch.train.trainer import Trainer

KEPT = 2  # checkpoints of a run, besides that of its best weights


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What a run is trained and measured on: minibatches of a source or of a function, and a data set to validate on.

    fields: the inputs, then what the terms need. opened: whether the run opened the source and must close it.
    """

    train: MinibatchSource | Calls
    valid: Dataset | MinibatchSource
    fields: tuple[str, ...]
    opened: bool = False


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run keeps its progress: nowhere, or in `folder`; `config` is written into every checkpoint."""

    folder: Path | None = None
    config: Mapping[str, Any] | None = None


class Run:
    """Trains `net` with `terms`, the first of which is called "err"; see `iterate`.

    seed: of order, noise and everything else that is random. algo: an optimizer's name. interrupted: whether it was
    ended by a signal.
    """

    def __init__(
        self,
        net: FeedForward,
        terms: Sequence[Term],
        data: RunData,
        settings: Settings,
        *,
        algo: str,
        seed: int,
        place: Place,
        announce: Callable[[str], None],
    ) -> None:
        self.net = net
        self.data = data
        self.settings = settings
        self.announce = announce
        model = shadow(net).train()
        regularizers = regularizers_of(settings, net)
        watched = monitor_terms(model, settings.monitors)
        penalty = Penalty(model, regularizers)
        attach_noise(model, settings)
        optimizer, schedule = optimizer_of(settings, model, algo)
        self.gradients = GradientNorms([name for name, p in model.named_parameters() if p.requires_grad])
        source = data.train if isinstance(data.train, MinibatchSource) else None
        self.trainer = Trainer(
            model,
            [*terms, *watched],
            optimizer,
            source,
            settings.batch_size,
            settings.microbatch_size,
            data.fields[0],
            seed if source is None or data.opened else None,
            schedules=schedule,
            regularizers=regularizers,
            clip=[*([self.gradients] if settings.monitor_gradients else ()), *clips_of(settings)],
            promise=settings.promise,
            precision=settings.precision,
            compile=settings.compile,
            validation=data.valid,
            metrics=[Metric(PENALTY, penalty)],
            folder=place.folder,
            keep_last=None if place.folder is None else KEPT,
            on_nonfinite=settings.on_nonfinite,
            config=place.config,
            announce=announce,
        )
        self.begin = self.trainer.nominal_time  # a source of the user's may stand anywhere
        self.watch = LossWatch(patience=settings.patience, min_improvement=settings.min_improvement, since=self.begin)
        self.best = BestWeights(self.trainer, self.watch)
        rows = None if source is None else len(source.dataset)
        self._pass = rows if settings.iteration_size is None else None
        self._calls = data.train.iteration_size if isinstance(data.train, Calls) else settings.iteration_size
        wanted = settings.validate_every
        self._validate_due = None if isinstance(wanted, int) else every.due(wanted, "validate_every", rows)
        minutes = settings.save_minutes
        self._save_due = None if minutes is None else every.due(every.Minutes(minutes), "save_every", rows)
        self._saved = -1
        self._valid: Values = {}
        self._fixed = [term.name for term in terms if term.denominator not in ("weights", "count")]
        self.interrupted = False

    def iterate(self) -> Iterator[tuple[Values, Values]]:
        """Train, and yield (values of the iteration, values of the last validation) after each iteration.

        Validates before the first iteration and every `validate_every` of them, stops when patience is exhausted, at
        `max_iterations`, at the end of the axis or on Ctrl-C, and measures the weights that it ends with too. Then, and
        also when the generator is closed, the net has the weights of the best validation.
        """
        trainer = self.trainer
        stop = StopBetweenSteps()
        try:
            try:
                self._start()
                while not self._is_over():
                    with StopBetweenSteps() as stop:
                        values = self._iteration(stop)
                    if values is not None:
                        yield values, dict(self._valid)
                    if stop.signal is not None:
                        self.interrupted = True
                        self.announce(f"{stop.signal.name}: training ends with the best weights so far")
                    if stop.signal is not None or values is None:  # or the axis has ended
                        break
                self._finish()
            except GeneratorExit:
                if not sys.is_finalizing():
                    self._finish()
                raise
            except KeyboardInterrupt:
                self.interrupted = True
                self.announce("Ctrl-C: training ends with the best weights so far")
                self.best.put_back()
                if stop.signal is not None:  # the second one: whatever called this ends, too
                    raise
        finally:
            trainer.close()
            if self.data.opened and isinstance(self.data.train, MinibatchSource):
                self.data.train.close()
        if stop.signal == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)

    def _start(self) -> None:
        """Go on with the run in the folder, if there is one; else validate the weights it begins with."""
        trainer = self.trainer
        if trainer.holds_a_run():
            try:
                restored = trainer.restore_from_checkpoint()
            except CheckpointError as error:
                raise CheckpointError(
                    f"this call of train cannot go on with what is in {trainer.folder}: {error}. To train otherwise, "
                    f"pass another save_progress=, or delete {trainer.folder}"
                ) from error
            self._saved = restored.nominal_time
            if isinstance(self.data.train, Calls):
                self.data.train.go_to(trainer.step)
            self.announce(f"resumed after step {restored.step:,}, at nominal time {restored.nominal_time:,}")
        if not trainer.history:
            self._validate()
        self._valid = values_of(trainer.history[-1])

    def _is_over(self) -> bool:
        reason = self.watch.stopped(self.trainer.history)
        limit = self.settings.max_iterations
        return reason is not None or (limit is not None and self._iterations() >= limit)

    def _iterations(self) -> int:
        """How many iterations lie behind: a function of where the run stands."""
        if self._pass is not None:
            return (self.trainer.nominal_time - self.begin) // self._pass
        assert self._calls is not None
        return self.trainer.step // self._calls

    def _iteration(self, stop: StopBetweenSteps) -> Values | None:
        """Train to the end of the iteration, validate and save where it is due; None where it did not come to its end.

        A step belongs to the iteration in which it begins, so that no minibatch is short.
        """
        trainer = self.trainer
        before = self._iterations()
        sums = self._sums_so_far(before)
        while self._iterations() == before:
            result = self._step()
            if not result:
                return None
            sums.add(result)
            if self._validate_due is not None and self._validate_due(trainer.step, result.interval):
                self._validate()
                if self.watch.stopped(trainer.history):
                    break
            if self._save_due is not None and trainer.has_folder and self._save_due(trainer.step, result.interval):
                self._save()
            if stop.signal is not None and self._iterations() == before:
                return None
        trainer.look()
        values = {**sums.values(), **self.gradients.means()}
        now = (before, self._iterations())
        wanted = self.settings.validate_every
        if isinstance(wanted, int) and every.crosses(now, wanted):
            self._validate()
        if self._save_due is None and trainer.has_folder and every.crosses(now, int(self.settings.save_every)):
            self._save()
        return values

    def _step(self) -> StepResult:
        if isinstance(self.data.train, Calls):
            return self.trainer.train_minibatch(self.data.train.next())
        return self.trainer.train_minibatch()

    def _sums_so_far(self, iteration: int) -> Sums:
        """What the steps of this iteration have added up that were done before a resume, from the ledger."""
        sums = Sums(fixed=self._fixed)
        folder, step = self.trainer.folder, self.trainer.step
        if folder is None or not step or not (folder / LEDGER).exists():
            return sums
        ledger = Ledger(folder)
        if self._pass is None:
            assert self._calls is not None
            first = iteration * self._calls + 1
        else:
            border = self.begin + iteration * self._pass
            line = ledger.line_at_time(border)
            if line is None:  # the iteration has not begun
                return sums
            first = line.step + (line.t0 < border)
        for line in ledger.between(first, step + 1):
            sums.add(line)
        return sums

    def _validate(self) -> None:
        validation = self.trainer.validate()
        self._valid = values_of(validation)
        if self.best.look(validation):
            self._save()

    def _save(self) -> None:
        if self._saved != self.trainer.nominal_time:
            self.trainer.save_checkpoint()
            self._saved = self.trainer.nominal_time

    def _finish(self) -> None:
        """Save, and leave the net with its best weights: those that it ends with are measured, too.

        That measurement is in no history, so that a run that is resumed decides as if it had not been interrupted.
        """
        trainer = self.trainer
        with contextlib.suppress(TrainingError):  # in the middle of a step there is nothing to save or to measure
            trainer.refuse_half_a_step()
            if trainer.has_folder:
                self._save()
            if trainer.history[-1].nominal_time != trainer.nominal_time:
                last = trainer.validate(record=False)
                if self.watch.best([*trainer.history, last]) is last:
                    return
        self.best.put_back()
