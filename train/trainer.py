"""Trainer: one step is an interval of nominal time. It holds model, optimizers, source and the folder of the run.

What it promises (`promise=`): "math", the default, that the gradient is the same real-number expression for any cut
into microbatches and any resume; "bits", that it is so in every bit, computed leaf by leaf; "data", that samples,
weights and noise are the same, which is all that can be kept with statistics over a batch. No state of a random
generator is saved or needed.
"""

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import nn
from torch.optim import Optimizer

from minibatch import MinibatchSource, rng
from minibatch.arguments import checked_integer
from minibatch.train import batch_statistics, checkpoint, checks, foreign, loop, recovery, saving
from minibatch.train.averaging import EMA
from minibatch.train.batches import Inputs
from minibatch.train.checks import Promise
from minibatch.train.clipping import Clip
from minibatch.train.errors import TrainingError
from minibatch.train.folder import RunFolder
from minibatch.train.foreign import ForeignNoise
from minibatch.train.guard import Policy
from minibatch.train.history import values_of
from minibatch.train.joint import JointSource
from minibatch.train.metrics import Measured
from minibatch.train.ownership import check_still_owned
from minibatch.train.precision import PrecisionName
from minibatch.train.progress import announce as print_to_stderr
from minibatch.train.regularizers import Regularizer
from minibatch.train.result import StepResult, fetch_all
from minibatch.train.saving import Restored
from minibatch.train.schedules import Schedule, ValuesByName, checked_sizes, size_at
from minibatch.train.skips import Skip
from minibatch.train.spikes import Spikes
from minibatch.train.staging import Staging
from minibatch.train.state import group_numbers
from minibatch.train.step import Steps
from minibatch.train.streams import Given, Source, whole_units
from minibatch.train.terms import Share, Term
from minibatch.train.validation import Data, Validation, evaluate


class Trainer:
    """Trains `model` on the minibatches of `source`, exactly.

    model: parameters on one device, in the mode (train or eval) you want; its dropout layers from `models.noise`.
    terms: one `Term` or several. optimizers: one torch optimizer or several, over disjoint parameters.
    source: a `MinibatchSource`, a `JointSource` of several, or None where every step is given its samples.
    minibatch_size: samples of nominal time per step, or a schedule of it. microbatch_size: at most so many samples go
    through the model at once (None: all); it changes no result.
    inputs: what the model is called with: a field, several, or a function (model, batch) -> outputs; of several sources
    a mapping from their names. seed: of the noise layers, by default that of the source.

    schedules: a function of nominal time for each optimizer, or None where its rate stays. regularizers: see
    regularizers/. clip: see clipping.py; clip_grad_norm: the largest 2-norm of the gradient. averaging: of the weights.
    promise: see above; with "bits", leaves of `leaf_size` samples go through the model one by one. batch_norm: "leaf",
    "frozen" or "sync", see batch_statistics.py. precision: "bf16" or "fp16" for the model's arithmetic. compile: True,
    or options, for `torch.compile`.

    validation: a data set or source to measure terms and `metrics` on, in minibatches of `validation_size`: by default
    1,024, and at most `microbatch_size` (with "bits" a leaf, whatever the microbatch); that of training where a term
    compares samples with each other. folder: of the run: ledger, checkpoints, lock. keep_last: so many checkpoints
    stay. log_every: steps between log points, where values are fetched and written.

    foreign_noise: "refuse", "convert" or "allow" layers that draw from torch's global generator. on_nonfinite: "stop"
    with NonFiniteError, or "skip" the update, when a loss or gradient is NaN or infinite; weights are never touched.
    spikes: what to do when the loss jumps; skips: intervals of nominal time that are left out. check_unreached: whether
    a parameter that gets no gradient is an error. config: anything for JSON, kept beside.

    >>> import tempfile
    >>> import numpy as np
    >>> import torch
    >>> from minibatch import DatasetWriter, MinibatchSource
    >>> from minibatch.models import MLP
    >>> from minibatch.train import on, mse
    >>> folder = tempfile.mkdtemp()
    >>> with DatasetWriter(folder) as writer:
    ...     writer.write({"x": np.ones((10, 2), np.float32), "y": np.zeros((10, 1), np.float32)})
    >>> model = MLP(sizes=(2, 1), seed=1)
    >>> with MinibatchSource(folder, seed=7) as source:
    ...     trainer = Trainer(model, Term("fit", on(mse, "y")), torch.optim.SGD(model.parameters(), lr=0.1), source,
    ...                       minibatch_size=4, inputs="x")
    ...     losses = [trainer.train_minibatch()["total_loss"] for step in range(20)]
    >>> losses[-1] < losses[0], trainer.nominal_time
    (True, 80)
    """

    def __init__(
        self,
        model: nn.Module,
        terms: Term | Sequence[Term],
        optimizers: Optimizer | Sequence[Optimizer],
        source: Source | None,
        minibatch_size: int | Schedule,
        microbatch_size: int | None = None,
        inputs: Inputs | Mapping[str, Inputs] = "image",
        seed: int | None = None,
        *,
        schedules: Schedule | Sequence[Schedule | None] | None = None,
        regularizers: Sequence[Regularizer] = (),
        clip: Clip | Sequence[Clip] | None = (),
        clip_grad_norm: float | None = None,
        averaging: EMA | None = None,
        promise: Promise = "math",
        leaf_size: int = 32,
        batch_norm: batch_statistics.Policy | None = None,
        precision: PrecisionName | None = None,
        compile: bool | Mapping[str, Any] = False,
        validation: Data | Mapping[str, Data] | None = None,
        metrics: Sequence[Measured] = (),
        validation_size: int | None = None,
        folder: str | os.PathLike[str] | None = None,
        ledger: bool = True,
        keep_last: int | None = None,
        log_every: int = 50,
        foreign_noise: ForeignNoise = "refuse",
        on_nonfinite: Policy = "stop",
        spikes: Spikes | None = None,
        skips: Sequence[Skip] = (),
        check_unreached: bool = True,
        config: Mapping[str, Any] | None = None,
        announce: Callable[[str], None] = print_to_stderr,
    ) -> None:
        self.model = model
        self.terms = checks.checked_terms(terms)
        if source is not None and not isinstance(source, MinibatchSource | JointSource):
            raise TypeError(
                f"source={source!r}: expected a MinibatchSource, a JointSource or None; open data with MinibatchSource"
            )
        self.source = source
        if not callable(minibatch_size):
            checked_integer(minibatch_size, "minibatch_size", least=1)
        self.minibatch_size = checked_sizes(minibatch_size)
        self.microbatch_size = checks.optional_integer(microbatch_size, "microbatch_size")
        self.leaf_size = checked_integer(leaf_size, "leaf_size", least=1)
        self.inputs = inputs
        self.seed = rng.checked_seed(seed if seed is not None else source.seed if source is not None else 0)
        self.promise = promise
        self.batch_norm = batch_norm
        checks.check_promise(model, self)
        self.log_every = checked_integer(log_every, "log_every", least=1)
        self.clip, self.clip_grad_norm = clip, clip_grad_norm
        self.clips = checks.checked_clips(clip, clip_grad_norm)
        if on_nonfinite not in ("stop", "skip"):
            raise ValueError(f"on_nonfinite={on_nonfinite!r}: expected 'stop' or 'skip'")
        self.on_nonfinite = on_nonfinite
        keep_last = checks.optional_integer(keep_last, "keep_last")
        self.validation, self.metrics = validation, tuple(metrics)
        self.validation_size = checks.validation_size(validation_size, self)
        self.config, self.announce = config, announce
        self.step = 0
        self.target = 0  # the nominal time that `fit` trains up to, 0 where it is not known; for callbacks
        self.history: list[Validation] = []  # of the run, in the order of nominal time; checkpoints hold it
        self._values: tuple[int, ValuesByName] = (0, {})

        self.foreign_noise = foreign_noise
        self.converted = foreign.check_noise(model, foreign_noise)
        if self.converted:
            announce(f"these layers were replaced by keyed ones: {', '.join(self.converted)}")
        self.device = checks.one_device(model)
        self.optimizers = (optimizers,) if isinstance(optimizers, Optimizer) else tuple(optimizers)
        self.schedules = _one_per_optimizer(schedules, len(self.optimizers))
        self.regularizers = tuple(regularizers)
        if batch_norm == "frozen":
            batch_statistics.freeze(model)
        self.compiled = compile
        if compile:
            model.compile(**(compile if isinstance(compile, Mapping) else {}))
        if spikes is not None and spikes.action == "rollback" and folder is None:
            raise ValueError(
                "Spikes(action='rollback') goes back to checkpoints: pass folder= to Trainer, and save_every="
            )
        self.spikes = spikes
        self.steps = Steps(
            model,
            self.terms,
            self.optimizers,
            source,
            inputs,
            seed=self.seed,
            device=self.device,
            microbatch_size=self.microbatch_size,
            leaf_size=self.leaf_size if promise == "bits" or batch_norm == "leaf" else None,
            exact=promise == "bits",
            batch_norm=batch_norm,
            precision=precision,
            schedules=self.schedules,
            regularizers=self.regularizers,
            clips=self.clips,
            averaging=averaging,
            spikes=spikes,
            on_nonfinite=on_nonfinite,
            seed_foreign=foreign_noise == "allow",
            check_unreached=check_unreached,
        )
        self.group_numbers = group_numbers(self.optimizers)  # as they were made
        self.owned, self.noise = self.steps.owned, self.steps.noise
        self.streams, self.gradient = self.steps.streams, self.steps.gradient
        self.precision, self.averaging, self.detector = self.steps.precision, self.steps.averaging, self.steps.detector
        self.streams.skips = list(skips)
        self.staged_model, self.staged_optimizer = Staging(), Staging()
        # Where the last steps began: as many as a rollback goes back behind the last one that was looked at.
        rollback_steps = spikes.rollback_steps if spikes is not None else 0
        self.starts: deque[int] = deque(maxlen=1 + rollback_steps + (0 if self.steps.on_host else self.log_every))
        self._unwatched: list[StepResult] = []  # whose values are still on the device
        self._time = 0
        self._between_steps = True  # false while a step changes weights and position
        self._folder: RunFolder | None = None
        if folder is not None:
            self._folder = RunFolder(folder, ledger=ledger, keep_last=keep_last, announce=announce)
            # Lines that wait for the next log point are written even if nobody calls close().
            weakref.finalize(self, RunFolder.close, self._folder)

    @property
    def values(self) -> ValuesByName:
        """What validations have measured so far, by name: (nominal time, value) of each, in the order of time."""
        seen, values = self._values
        if seen != len(self.history):
            values = values_of(self.history)
            self._values = (len(self.history), values)
        return values

    @property
    def next_size(self) -> int:
        """The minibatch size of the next step."""
        if isinstance(self.minibatch_size, int):
            return self.minibatch_size
        watched: str | None = getattr(self.minibatch_size, "watches", None)
        return size_at(self.minibatch_size, self.nominal_time, self.values.get(watched, ()) if watched else ())

    @property
    def nominal_time(self) -> int:
        """Where the next minibatch begins."""
        return self._time if self.source is None else self.source.nominal_time

    def train_minibatch(self, batch: Given | None = None) -> StepResult:
        """One step: the next minibatch of the source, or `batch`; a falsy result, and no step, at the end of the axis.

        batch: a `Batch` (of this source or another), or fields as arrays or tensors (n, …), which then take the next n
        places of nominal time. Raises ValueError for losses and weights that do not fit: everything is then as before.
        Raises NonFiniteError and SpikeError after the step: the weights are as before it, the source behind it.
        """
        return self._train(batch, self.next_size)

    def train_at_most(self, samples: int) -> StepResult:
        """One step of the next `samples` samples, where a run ends; denominators stay those of `minibatch_size`.

        Packed sequences come in whole blocks: there the step may be up to a block longer.
        """
        return self._train(None, whole_units(samples, self.source))

    def itertrain(self) -> Iterator[StepResult]:
        """Steps until the axis ends; without limits in the source, for ever."""
        while result := self.train_minibatch():
            yield result

    fit = loop.fit

    def validate(self, minibatch_size: int | None = None, *, record: bool = True) -> Validation:
        """Exact values of all terms and metrics on the validation data; written to the run's folder if `record`.

        With averaging, of the averaged weights. minibatch_size: by default the run's `validation_size`.
        """
        if self.validation is None:
            raise ValueError("there is nothing to validate on: pass validation= (a data set or source) to Trainer")
        self.look()  # where the run has ended without anybody's knowing, it must not be measured further on
        with nullcontext() if self.averaging is None else self.averaging.applied():
            measured = evaluate(
                self.model,
                self.validation,
                inputs=self.inputs,
                terms=self.terms,
                metrics=self.metrics,
                minibatch_size=self.validation_size if minibatch_size is None else minibatch_size,
                precision=self.precision.name,
            )
        result = Validation(
            pairs=measured.pairs, samples=measured.samples, nominal_time=self.nominal_time, step=self.step
        )
        if record:
            self.history.append(result)
            if self._folder is not None:
                self._folder.begin(self.step, self.nominal_time)
                self._folder.add_validation(result)
        return result

    def save_checkpoint(self, path: str | os.PathLike[str] | None = None, *, wait: bool = True) -> Path:
        """Save all there is to the run at this nominal time, into its folder or as the folder `path`; where it is now.

        Without `wait`, a checkpoint in the run's folder is written by a thread while training goes on;
        `wait_for_saves`, the next save and `close` wait for it. Raises CheckpointError if the disk is full or fails,
        that of a thread at the next of these calls: earlier checkpoints are untouched then.
        """
        self.look()
        return saving.save(self, self._folder, None if path is None else Path(path), wait=wait)

    def wait_for_saves(self) -> None:
        """Wait until checkpoints that are being written are on the disk; CheckpointError if that failed."""
        if self._folder is not None:
            self._folder.wait()

    def restore_from_checkpoint(
        self, path: str | os.PathLike[str] | None = None, *, override: Sequence[str] = ()
    ) -> Restored:
        """Take over the newest complete checkpoint of the run's folder, or the one at `path`.

        Sizes, rates, schedules and terms stay those of this Trainer; what differs from the checkpoint is announced and
        returned. Raises CheckpointError, naming both sides, for another model, other optimizers, other data, another
        seed or order; the last three ("fingerprint", "seed", "order") may be named in `override`.
        """
        return saving.restore(self, self._folder, None if path is None else Path(path), override)

    @property
    def folder(self) -> Path | None:
        """The folder of the run."""
        return None if self._folder is None else self._folder.path

    @property
    def has_folder(self) -> bool:
        """Whether this Trainer was given a folder for ledger and checkpoints."""
        return self._folder is not None

    def holds_a_run(self) -> bool:
        """Whether the run's folder has steps or checkpoints of an earlier process, which can be restored."""
        return self._folder is not None and self._folder.holds_a_run()

    def keep_checkpoints(self, needed: checkpoint.AlsoKeep) -> None:
        """Keep older checkpoints, too: those of the nominal times that `needed` gives for the times of the newest."""
        if self._folder is not None:
            self._folder.also_keep = needed

    def look(self) -> None:
        """A log point: fetch the values of the last steps, write their lines, and see whether the run can go on."""
        recent, self._unwatched = self._unwatched, []
        fetch_all(recent)
        too_many: StepResult | None = None
        for number, result in enumerate(recent, 1):
            if self._folder is not None:
                self._folder.add(result)
            if recovery.ends(self, result) and recovery.went_on(self, result):
                too_many = result if too_many is None else too_many
            elif recovery.ends(self, result):
                if self.detector is not None:
                    self.detector.forget(len(recent) - number)
                # Later steps have updated nothing: the run stands where this one left it.
                self.steps.update.found.clear()
                self._move_to(result.interval[1])
                self.step = result.step
                if self._folder is not None:
                    self._folder.flush()
                recovery.after_bad_step(self, result)
                return
            self._note(result)
        if self._folder is not None:
            self._folder.flush()
        if too_many is not None:
            recovery.after_bad_step(self, too_many)

    def close(self) -> None:
        """Write what waits to be written and let the run's folder go. The source stays open: it is yours."""
        try:
            self.look()
        finally:
            if self._folder is not None:
                self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _train(self, given: Given | None, size: int) -> StepResult:
        if self._folder is not None and not self._folder.begun:
            self._folder.begin(self.step, self.nominal_time)
        self.refuse_half_a_step()
        nominal_size, time = self.next_size, self.nominal_time
        self._between_steps = False
        try:
            taken = self.streams.take(size) if given is None else self.streams.given(given, self.nominal_time)
        except BaseException:
            self._move_to(time)  # nothing was taken, not even where reading was interrupted
            self._between_steps = True
            raise
        t0, t1 = taken.start, taken.stop
        result = StepResult(self.steps.names, self.step, (t0, t1), taken.num_samples)
        if t0 == t1:
            self._between_steps = True
            return result
        result.step += 1
        result.streams = self.streams.intervals(taken)
        try:
            shares, finite = self.steps.compute(taken, nominal_size, result, self.values)
        except BaseException:
            if given is None:
                self._move_to(t0)
            self._between_steps = True
            raise
        self.starts.append(t0)
        if self.source is None:
            self._time = t1
        elif taken.from_elsewhere:
            self.source.seek(t1)
        try:
            self.steps.apply(result, shares, finite)
        except BaseException:
            if not self.steps.update.touched:  # a regularizer, a clip, a check: no weight has changed
                self.steps.buffers.put_back()
                self._move_to(t0)
                self._between_steps = True
            raise
        self._write_down(result, shares)
        return result

    def _write_down(self, result: StepResult, shares: Sequence[Share]) -> None:
        """Count the step, put it into the ledger, and end the run, or bring it back, if the step was bad."""
        self.step = result.step
        self._between_steps = True
        if not self.steps.on_host:
            self._unwatched.append(result)
        elif self._folder is not None:
            self._folder.add(result)
        if self.steps.update.watch != "device" and not (result.finite and not result.spike):
            self.steps.buffers.put_back()
            if recovery.ends(self, result):
                self.look()  # where values are still on the device, this is what ends the run
                if self.steps.on_host:
                    recovery.after_bad_step(self, result, shares)
                return
            if self.steps.on_host:
                self._note(result)
            else:
                self.look()  # what was left out is counted at once
        if result.step % self.log_every == 0:
            check_still_owned(self.model, self.owned)
            self.look()

    def _note(self, result: StepResult) -> None:
        """A spike that was left out becomes part of the run's configuration."""
        if result.spike:
            recovery.leave_out(self, *result.interval, f"spike in step {result.step} ({result['total_loss']:.4g})")

    def first_start(self, begin: int, rollback_steps: int) -> int:
        """Where the step begins that was so many steps before the one that began at nominal time `begin`."""
        known = sorted({start for start in self.starts if start <= begin})
        return known[-1 - rollback_steps :][0]

    def take_position(self, step: int, nominal_time: int) -> None:
        """Stand after `step` steps at `nominal_time`, as a checkpoint says; the source has been moved already."""
        self.step, self._time = step, nominal_time
        self._values = (-1, {})  # another history may have as many validations
        self._unwatched.clear()
        self.steps.update.found.clear()
        self._between_steps = True

    def refuse_half_a_step(self) -> None:
        """Raise TrainingError if a step was interrupted while weights or position were changing (Ctrl-C, say)."""
        if not self._between_steps:
            raise TrainingError(
                f"step {self.step + 1} was interrupted in its middle: weights, optimizer and position no longer belong "
                "together; go on with restore_from_checkpoint(), or make a new Trainer (or another thread is in it: a "
                "Trainer serves one thread at a time)"
            )

    def _move_to(self, time: int) -> None:
        self._time = time
        if self.source is not None:
            self.source.seek(time)


def _one_per_optimizer(
    schedules: Schedule | Sequence[Schedule | None] | None, optimizers: int
) -> tuple[Schedule | None, ...]:
    if schedules is None:
        return (None,) * optimizers
    given = (schedules,) if callable(schedules) else tuple(schedules)
    if len(given) != optimizers:
        raise ValueError(f"{len(given)} schedules for {optimizers} optimizers: expected one for each, or None")
    return given
