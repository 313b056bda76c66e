"""A step again: from the nearest checkpoint before it, with the same samples, weights and noise.

The losses of all samples are kept, and put together as the engine does it they give the ledger's numerators: bit for
bit, given the build and threads of then. Without those, how far they are off is said and nothing is hidden.
"""

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from minibatch.arguments import checked_integer
from minibatch.train.digest import parameters_digest
from minibatch.train.errors import NonFiniteError
from minibatch.train.ledger import LedgerLine
from minibatch.train.result import StepResult
from minibatch.train.travel.compare import Pair, line_differences, line_from
from minibatch.train.travel.opening import Past, Saved, Standing, opened
from minibatch.train.travel.recording import AfterGradient, Recorder, joined, recording

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TermReplay:
    """One term of a replayed step; arrays have its n samples in nominal order.

    values: float64 (n,) or (n, …), what the loss returned. weighted: float64 (n,), Σ w·m·value of each sample.
    numerator: these put together as the engine does it; plain_sum: their exactly rounded sum, which differs from it by
    the rounding of the engine's. denominator, coefficient: as in the step. ledger: numerator and denominator of then.
    """

    name: str
    stream: str | None
    rows: Integers
    times: Integers
    values: Floats
    weighted: Floats
    numerator: float
    plain_sum: float
    denominator: float
    coefficient: float
    ledger: tuple[float, float] | None

    @property
    def difference(self) -> float:
        """numerator - that of the ledger; 0.0 where they are the same bits."""
        if self.ledger is None:
            return math.nan
        same = self.numerator == self.ledger[0] or (math.isnan(self.numerator) and math.isnan(self.ledger[0]))
        return 0.0 if same else self.numerator - self.ledger[0]

    @property
    def losses(self) -> Floats:
        """What each sample adds to the total loss: coefficient · weighted / denominator, float64 (n,)."""
        return self.weighted * (self.coefficient / self.denominator) if self.denominator else 0.0 * self.weighted


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A step that was run again.

    line: of then; again: of now; differences: what of them differs, name → (then, now). began: the checkpoint, None for
    the first weights; ran: how many steps were run to get there; unlike: the first of these that came out otherwise.
    digests: of the parameters before and after the step. stopped: why the step was refused now, if it was; trace: the
    forward call that it came from, with anomaly=True. passed_over: damaged checkpoints.
    """

    line: LedgerLine
    again: LedgerLine
    differences: Mapping[str, Pair]
    terms: Mapping[str, TermReplay]
    began: Saved | None
    ran: int
    unlike: int | None
    digests: tuple[str, str]
    promise: str
    stopped: str | None
    trace: str | None
    passed_over: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether this step and all before it came out with the same bits as then."""
        return not self.differences and self.unlike is None

    def sample_losses(self) -> dict[tuple[str | None, int], tuple[int, float]]:
        """(stream, nominal time) of every sample → its row, and what it adds to the total loss over all terms."""
        found: dict[tuple[str | None, int], tuple[int, float]] = {}
        for term in self.terms.values():
            for row, time, loss in zip(term.rows.tolist(), term.times.tolist(), term.losses.tolist(), strict=True):
                key = (term.stream, time)
                found[key] = (row, found.get(key, (row, 0.0))[1] + loss)
        return found


def replay(
    past: Past | str | os.PathLike[str],
    step: int,
    *,
    anomaly: bool = False,
    save: str | os.PathLike[str] | None = None,
    profile: str | os.PathLike[str] | None = None,
    after_gradient: AfterGradient | None = None,
) -> Replay:
    """Run `step` of a run again, with the loss of every sample.

    anomaly: let autograd say which operation gives the first NaN. save: write a checkpoint of the state after the step
    there. profile: write a trace of the step there, for chrome://tracing or Perfetto. Raises ValueError for a step that
    the ledger has not (yet), CheckpointError where the run cannot be made again.
    """
    past = opened(past)
    line = past.ledger.line_at(checked_integer(step, "step", least=1))
    with past.standing(step - 1) as standing:
        trainer = standing.trainer
        before = parameters_digest(trainer.model)
        with ExitStack() as stack:
            recorder = stack.enter_context(recording(trainer, after_gradient=after_gradient))
            noted = stack.enter_context(_anomalies()) if anomaly else []
            if profile is not None:
                stack.enter_context(_profiled(Path(profile)))
            result, stopped = _taken(past, standing, line, recorder)
        if save is not None:
            trainer.save_checkpoint(save)
        again = line_from(result)
        return Replay(
            line=line,
            again=again,
            differences=_differences(line, again),
            terms={name: _term(recorder, result, number, line) for number, name in enumerate(result.names)},
            began=standing.saved,
            ran=standing.ran,
            unlike=standing.unlike,
            digests=(before, parameters_digest(trainer.model)),
            promise=trainer.promise,
            stopped=stopped,
            trace="\n".join(noted) or None,
            passed_over=standing.passed_over,
        )


def _taken(past: Past, standing: Standing, line: LedgerLine, recorder: Recorder) -> tuple[StepResult, str | None]:
    """The step; where it is refused, a result that says so: there is no other then."""
    trainer = standing.trainer
    names = tuple(line.terms)
    try:
        return past.take(trainer)[0], None
    except NonFiniteError as error:
        stopped = str(error)
    except RuntimeError as error:  # of anomaly mode
        if "returned nan values" not in str(error):
            raise
        stopped = str(error)
    result = StepResult(names, line.step, (line.t0, line.t1), line.samples)
    shares = [recorder.shares.get(name) for name in names]
    result.numerators = tuple(recorder.numerator(name) for name in names)
    result.denominators = tuple(0.0 if share is None else share.denominator for share in shares)
    result.coefficients = tuple(1.0 if share is None else share.coefficient for share in shares)
    result.set_finite(False)
    result.set_grad_norm(math.nan)
    result.learning_rates = line.lr
    return result, stopped


def _differences(line: LedgerLine, again: LedgerLine) -> dict[str, Pair]:
    """What came out otherwise. Of a step that was refused, then and now, the sums were not completed then."""
    refused = not line.finite and not again.finite
    return {} if refused and (line.t0, line.t1) == (again.t0, again.t1) else line_differences(line, again)


def _term(recorder: Recorder, result: StepResult, number: int, line: LedgerLine) -> TermReplay:
    name = result.names[number]
    pieces, share = recorder.pieces.get(name, []), recorder.shares.get(name)
    weighted = joined(pieces, "weighted") if pieces else np.zeros(0)
    return TermReplay(
        name=name,
        stream=None if share is None else share.term.stream,
        rows=joined(pieces, "rows") if pieces else np.zeros(0, np.int64),
        times=joined(pieces, "times") if pieces else np.zeros(0, np.int64),
        values=joined(pieces, "values") if pieces else np.zeros(0),
        weighted=weighted,
        numerator=recorder.numerator(name),
        plain_sum=_sum(weighted),
        denominator=0.0 if share is None else share.denominator,
        coefficient=1.0 if share is None else share.coefficient,
        ledger=line.terms.get(name),
    )


def _sum(values: Floats) -> float:
    try:
        return math.fsum(values.tolist())
    except (OverflowError, ValueError):
        return math.nan


@contextmanager
def _anomalies() -> Iterator[list[str]]:
    """Anomaly mode of autograd, and what it tells of the forward call that a NaN came from."""
    noted: list[str] = []
    with warnings.catch_warnings(record=True) as caught, torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("always")
        try:
            yield noted
        finally:
            noted += [str(warning.message) for warning in caught if "Traceback of forward call" in str(warning.message)]


@contextmanager
def _profiled(path: Path) -> Iterator[None]:
    with torch.profiler.profile() as profiler:
        yield
    profiler.export_chrome_trace(os.fspath(path))
