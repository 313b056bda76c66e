"""The folder of a run, opened to be looked at, and a Trainer that stands where the run once stood.

Nothing in the folder is changed and its lock is not taken: a run that goes on meanwhile is not disturbed. What is run
again happens in a Trainer of its own, in a temporary folder. A checkpoint and the axis are enough for that: no state of
a random generator is missing, because there is none.

Which configuration a step was computed with stands in the folder's configs.jsonl, see configured.py; where steps run
again go beyond a resume that changed it, they change with it. Runs that no recipe made are opened with `make=`, a
function that makes their Trainer anew.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minibatch.errors import CheckpointError
from minibatch.train import checkpoint, running, skips, user_code
from minibatch.train.computing import computing
from minibatch.train.config import Prepared, RunConfig
from minibatch.train.history import as_validation
from minibatch.train.joint import JointSource
from minibatch.train.ledger import Ledger, LedgerLine
from minibatch.train.progress import announce
from minibatch.train.result import StepResult
from minibatch.train.skips import Skip
from minibatch.train.spikes import Spikes
from minibatch.train.streams import Source, whole_units
from minibatch.train.trainer import Trainer
from minibatch.train.travel import configured
from minibatch.train.travel.compare import line_differences, line_from
from minibatch.train.travel.configured import Configured, state_of
from minibatch.train.validation import Validation

Make = Callable[[Path], Trainer]
Watch = Callable[[StepResult, LedgerLine | None], None]


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint of a run: where it is, and after which step and at which nominal time it was written."""

    path: Path
    step: int
    nominal_time: int


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A Trainer that stands after `trainer.step` steps, as the run did.

    saved: the checkpoint it began from, None for the first weights. passed_over: newer ones that are damaged, and why.
    ran: how many steps were run again to get here. unlike: the first of them whose ledger line came out otherwise.
    """

    trainer: Trainer
    saved: Saved | None
    passed_over: tuple[str, ...]
    ran: int
    unlike: int | None


class Past:
    """What a run has left in `folder`: ledger, configuration, checkpoints, validations.

    data: where its data sets lie, by default folder/data. make: makes a Trainer like the run's, with its own source,
    in the folder it is called with, where no recipe is at hand; with a recipe, leave it out. say: is told, once each,
    what is uncertain about the configuration of its steps. Raises CheckpointError where `folder` holds no run.

    >>> Past("nowhere")
    Traceback (most recent call last):
    minibatch.errors.CheckpointError: nowhere holds no run: it has no ledger.jsonl, no config.json and no checkpoints
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        data: str | os.PathLike[str] | None = None,
        make: Make | None = None,
        say: Callable[[str], None] = announce,
    ) -> None:
        self.folder = Path(folder)
        self.data = None if data is None else Path(data)
        self.make = make
        self._say = say
        self._said: set[str] = set()
        names = ("ledger.jsonl", running.CONFIG, "checkpoints")
        if not any((self.folder / name).exists() for name in names):
            raise CheckpointError(f"{self.folder} holds no run: it has no {names[0]}, no {names[1]} and no {names[2]}")

    @property
    def ledger(self) -> Ledger:
        """The ledger as it is now; FileNotFoundError if the run keeps none."""
        return Ledger(self.folder)

    def checkpoints(self) -> list[Saved]:
        """The checkpoints that say where they stand, oldest first; whether their bytes are whole is seen when one is
        read."""
        found = []
        for path in checkpoint.checkpoints_in(self.folder / "checkpoints"):
            state = state_of(path)
            if state is not None:
                found.append(Saved(path=path, step=state["step"], nominal_time=state["nominal_time"]))
        return found

    def checkpoint_at(self, *, step: int | None = None, nominal_time: int | None = None) -> Saved | None:
        """The newest checkpoint at or before a step or nominal time (None: the newest of all) that is whole."""
        for saved in reversed(self.checkpoints()):
            if step is not None and saved.step > step:
                continue
            if nominal_time is not None and saved.nominal_time > nominal_time:
                continue
            try:
                checkpoint.verify(saved.path)
            except CheckpointError:
                continue
            return saved
        return None

    def validations(self, first: int, stop: int) -> list[Validation]:
        """The validations after the steps `first` … `stop` - 1, in order of nominal time."""
        path = self.folder / "validation.jsonl"
        if not path.exists():
            return []
        return [as_validation(line) for line in Ledger(path).documents(first) if line["step"] < stop]

    def config(self, step: int) -> RunConfig:
        """The configuration that `step` was computed with, made anew by its recipe.

        Raises CheckpointError where the folder does not say which recipe that was.
        """
        found = configured.at(self.configurations(), step)
        if found is None or not found.document.get("recipe"):
            raise CheckpointError(
                f"{self.folder} does not say which recipe its run was made by: pass make=, a function that is called "
                "with a folder and makes the run's Trainer in it, its source included"
            )
        if not found.noted:
            self.say(
                f"{self.folder} does not say which configuration its steps had before "
                f"{configured.CONFIGS} was written: the one in {found.where} is taken, which is another where the run "
                "was resumed with changes and the checkpoints in between were removed"
            )
        return running.made_again(found.document, found.where, self.say)

    def configurations(self) -> list[Configured]:
        """The configurations of the run, in the order in which they took effect; empty where no recipe made it."""
        if self.make is not None:
            return []
        return configured.of_run(self.folder, [(saved.path, saved.step) for saved in self.checkpoints()])

    def borders(self, first: int, last: int) -> list[int]:
        """The steps among `first` … `last` - 1 after which the run went on with another configuration."""
        return configured.borders(self.configurations(), first, last)

    def say(self, text: str) -> None:
        """Tell something about the run, unless it was told before."""
        if text not in self._said:
            self._said.add(text)
            self._say(text)

    def skips(self, step: int) -> list[Skip]:
        """The intervals of nominal time that the run leaves out, as they were for `step`."""
        # What was set at a later resume is in later checkpoints. Those of rollbacks were in force for all that remains.
        later = configured.skips_set_after(self.configurations(), step)
        return [skip for skip in self._known_skips(step) if skip not in later]

    def _known_skips(self, step: int) -> list[Skip]:
        for saved in self.checkpoints():
            if saved.step >= step:
                documents = (state_of(saved.path) or {}).get("skips")
                if documents is not None:
                    return skips.from_documents(documents)
                break
        path = self.folder / skips.FILE
        if not path.exists():
            return []
        try:
            return skips.from_documents(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {error!r}") from None

    def prepared(self, config: RunConfig) -> Prepared:
        """Where the data sets of the run lie; ValueError if they are not where it had them."""
        folder = self.folder / "data" if self.data is None else self.data
        if not folder.exists():
            raise ValueError(
                f"the data sets of the run {self.folder} are not in {folder}: say in which folder they lie (--data "
                "DIR, data=; any folder for a recipe that does not use it)"
            )
        return config.data(folder)

    @contextmanager
    def trainer(self, step: int, *, microbatch_size: int | None = None) -> Iterator[Trainer]:
        """A new Trainer as the run had it for `step`, with its first weights, in a temporary folder.

        microbatch_size: another one than the run's.
        """
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="minibatch-"))) / "run"
            if self.make is not None:
                trainer = stack.enter_context(self.make(folder))
                if trainer.source is not None:
                    stack.callback(closed, trainer.source)
                if trainer.folder is not None and trainer.folder.resolve() == self.folder.resolve():
                    raise ValueError("make= made a Trainer in the run's own folder: use the one it is called with")
                if microbatch_size is not None:
                    trainer.microbatch_size = trainer.streams.microbatch_size = microbatch_size
            else:
                config = self.config(step)
                if microbatch_size is not None:
                    config = replace(config, microbatch_size=microbatch_size)
                stack.enter_context(user_code.places_noted())
                stack.enter_context(computing(config, _say_nothing))
                source = stack.enter_context(running.opened_source(config, self.prepared(config)))
                options: dict[str, Any] = {} if config.spikes is None else {"spikes": without_rollback(config.spikes)}
                trainer = stack.enter_context(running.make_trainer(config, source, None, _say_nothing, **options))
            trainer.announce = _say_nothing
            yield trainer

    @contextmanager
    def source(self, step: int) -> Iterator[Source]:
        """The source of the run as it was for `step`, at nominal time 0."""
        if self.make is None:
            config = self.config(step)
            with running.opened_source(config, self.prepared(config)) as source:
                yield source
        else:
            with self.trainer(step) as trainer:
                yield source_of(trainer)

    @contextmanager
    def standing(
        self,
        step: int,
        *,
        begin: int | None = None,
        config_of: int | None = None,
        microbatch_size: int | None = None,
        watch: Watch | None = None,
    ) -> Iterator[Standing]:
        """A Trainer that stands after `step` steps: restored from the newest whole checkpoint, and run forward.

        Where the run was resumed with another configuration, a new Trainer takes over, as it did then. begin: take no
        checkpoint after this step. config_of: the step whose configuration it has at the end, by default the next.
        watch: called with each step that is run again and its ledger line. Without a checkpoint the run begins from its
        first weights, which its seed gives.
        """
        final = step + 1 if config_of is None else config_of
        saved, passed_over = self._newest_whole(step if begin is None else min(begin, step))
        first = 0 if saved is None else saved.step
        path = None if saved is None else saved.path
        unlike: int | None = None
        with ExitStack() as stack:
            handed = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="minibatch-")))
            at = first
            for border in self.borders(first + 1, final):
                with self._going_on(path, at + 1, microbatch_size) as trainer:
                    otherwise = self._forward(trainer, border, watch)
                    unlike = otherwise if unlike is None else unlike
                    path, at = trainer.save_checkpoint(handed / str(border)), border
            trainer = stack.enter_context(self._going_on(path, final if at == step else at + 1, microbatch_size))
            later = self._forward(trainer, step, watch)
            yield Standing(
                trainer=trainer,
                saved=saved,
                passed_over=passed_over,
                ran=step - first,
                unlike=later if unlike is None else unlike,
            )

    @contextmanager
    def _going_on(self, path: Path | None, step: int, microbatch_size: int | None) -> Iterator[Trainer]:
        """A Trainer that goes on from a checkpoint (None: from the first weights) as the run did with `step`."""
        with self.trainer(step, microbatch_size=microbatch_size) as trainer:
            if path is not None:
                trainer.restore_from_checkpoint(path)
            trainer.streams.skips[:] = self.skips(step)  # also those that a checkpoint before a rollback lacks
            self._add_validations(trainer)
            yield trainer

    def _forward(self, trainer: Trainer, step: int, watch: Watch | None) -> int | None:
        """Run `trainer` forward until after `step`; the first step that came out otherwise than in the ledger."""
        unlike: int | None = None
        while trainer.step < step:
            result, line = self.take(trainer)
            if watch is not None:
                watch(result, line)
            if unlike is None and line is not None and line_differences(line, line_from(result)):
                unlike = line.step
        return unlike

    def take(self, trainer: Trainer) -> tuple[StepResult, LedgerLine | None]:
        """The next step of `trainer` as the run took it, and its line of the ledger if that is there."""
        step = trainer.step + 1
        try:
            line = self.ledger.line_at(step)
        except (ValueError, FileNotFoundError):
            line = None
        source = source_of(trainer)
        if line is None:
            result = trainer.train_minibatch()
        else:
            if line.t0 != trainer.nominal_time:
                source.seek(line.t0)
            result = trainer.train_at_most(whole_units(line.t1 - line.t0, source))
        if not result:
            raise CheckpointError(f"{self.folder}: the axis ends at {trainer.nominal_time:,}, before step {step:,}")
        self._add_validations(trainer)
        return result, line

    def _add_validations(self, trainer: Trainer) -> None:
        """Let what reacts to validations see those that the run made after its last step, without making them."""
        known = {validation.nominal_time for validation in trainer.history}
        for validation in self.validations(trainer.step, trainer.step + 1):
            if validation.nominal_time not in known:
                trainer.history.append(validation)

    def _newest_whole(self, most: int) -> tuple[Saved | None, tuple[str, ...]]:
        passed_over = []
        for saved in reversed(self.checkpoints()):
            if saved.step > most:
                continue
            try:
                checkpoint.verify(saved.path)  # the run may have removed it meanwhile, too
            except CheckpointError as error:
                passed_over.append(f"{saved.path.name} is not used: {error}")
                continue
            return saved, tuple(passed_over)
        return None, tuple(passed_over)


def opened(past: Past | str | os.PathLike[str]) -> Past:
    """The past of a run, or that of the run in a folder."""
    return past if isinstance(past, Past) else Past(past)


def without_rollback(spikes: Spikes) -> Spikes:
    """The same judgement of spikes: the steps that were rolled back are in no ledger, so none will be again."""
    return replace(spikes, action="skip", rollback_steps=0) if spikes.action == "rollback" else spikes


def source_of(trainer: Trainer) -> Source:
    """The source of a Trainer; ValueError for one whose samples were given by hand: nobody can give them now."""
    if trainer.source is None:
        raise ValueError("the samples of this run were given to train_minibatch by hand: they cannot be read again")
    return trainer.source


def closed(source: Source) -> None:
    """Stop the reading ahead of a source, or of all that are joined in it."""
    for each in source.sources.values() if isinstance(source, JointSource) else [source]:
        each.close()


def _say_nothing(text: str) -> None:
    pass
