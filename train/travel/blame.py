"""Whose fault a step was: its samples by their share of the loss and by the norm of their own gradients."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from minibatch.train.gradient import Gradient, Part
from minibatch.train.ledger import LedgerLine
from minibatch.train.travel.gradients import SampleNorms, Way, sample_norms
from minibatch.train.travel.opening import Past, opened
from minibatch.train.travel.replay import Replay, replay
from minibatch.train.travel.who import who

By = Literal["loss", "gradient"]
WINDOW = 32  # steps before one that say what is usual there; chosen by taste


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A sample of the step: row and place, what it adds to the total loss, its share, the norm of its gradient.

    loss: coefficient · w·m·value / denominator, summed over terms. share: of Σ |loss| over the samples. gradient_norm:
    of what the sample alone adds to the objective, before clipping; NaN where it is not known.
    """

    stream: str | None
    row: int
    time: int
    shard: str
    place: int
    loss: float
    share: float
    gradient_norm: float


@dataclass(frozen=True, kw_only=True)
class Blame:
    """The samples of a step, the most suspicious first; `way` and `error` say how gradients were found, see there."""

    replay: Replay
    suspects: tuple[Suspect, ...]
    by: By
    way: Way | None
    error: float


@dataclass(frozen=True, kw_only=True)
class Spike:
    """A step that stands out: its `what` ("loss" or "gradient norm") is `times` the median of the steps before it."""

    step: int
    what: str
    value: float
    usual: float

    @property
    def times(self) -> float:
        """How many times the usual value it is."""
        return self.value / self.usual if self.usual else math.inf


def blame(
    past: Past | str | os.PathLike[str], step: int, *, by: By = "loss", gradients: bool = True, way: Way | None = None
) -> Blame:
    """Replay `step`, and rank its samples: by share of the loss, or by gradient norm; NaN before everything.

    gradients: also compute gradient norms, in one of the ways of gradients.py (`way`: only this one). Errors as those
    of `replay`; RuntimeError where gradients of samples do not add up to that of the step.
    """
    past = opened(past)
    if by not in ("loss", "gradient"):
        raise ValueError(f"by={by!r}: expected 'loss' or 'gradient'")
    found: list[SampleNorms] = []

    def after_gradient(engine: Gradient, parts: Sequence[Part]) -> None:
        found.append(sample_norms(engine, parts, way))

    again = replay(past, step, after_gradient=after_gradient if gradients or by == "gradient" else None)
    where = {
        (rows.stream, row): (shard, place)
        for rows in who(past, step)
        for row, shard, place in zip(rows.rows.tolist(), rows.shards, rows.places.tolist(), strict=True)
    }
    losses = again.sample_losses()
    total = math.fsum(abs(loss) for _, loss in losses.values() if math.isfinite(loss))
    norms = found[0].norms if found else {}
    suspects = []
    for (stream, time), (row, loss) in losses.items():
        shard, place = where.get((stream, row), ("", -1))
        suspects.append(
            Suspect(
                stream=stream,
                row=row,
                time=time,
                shard=shard,
                place=place,
                loss=loss,
                share=loss / total if total else 0.0,
                gradient_norm=norms.get((stream, time), math.nan),
            )
        )
    suspects.sort(key=lambda s: (-_rank(s.loss if by == "loss" else s.gradient_norm), s.time))
    return Blame(
        replay=again,
        suspects=tuple(suspects),
        by=by,
        way=found[0].way if found else None,
        error=found[0].error if found else math.nan,
    )


def worst_step(past: Past | str | os.PathLike[str], first: int, stop: int) -> Spike:
    """The step among `first` … `stop` - 1 whose loss or gradient norm stands out most from the steps before it.

    It is the one with the largest ratio to the median of up to 32 steps before; one that is not finite comes first.
    Raises ValueError if the ledger has none of them.
    """
    past = opened(past)
    before: list[LedgerLine] = []
    worst: Spike | None = None
    for line in past.ledger.between(max(1, first - WINDOW), stop):
        if line.step >= first:
            for what, name in (("loss", "total_loss"), ("gradient norm", "grad_norm")):
                value = abs(getattr(line, name))
                usual = median(abs(getattr(one, name)) for one in before) if before else value
                spike = Spike(step=line.step, what=what, value=value, usual=usual)
                if worst is None or _rank(spike.times) > _rank(worst.times):
                    worst = spike
        if line.finite:
            before = [*before[1 - WINDOW :], line]
    if worst is None:
        past.ledger.line_at(first)  # which says what there is
        raise ValueError(f"the ledger of {past.folder} has no steps from {first} to {stop - 1}")
    return worst


def _rank(value: float) -> float:
    return math.inf if value != value else value
