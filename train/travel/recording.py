"""One step of a Trainer, watched from inside: the values of every loss, and the gradient before it is clipped.

The step itself is the engine's own, so what is recorded are its numbers and no imitation of them. Losses that are not
finite do not end it early here: all samples are seen, and the engine then refuses the update as it would have.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minibatch.train.batches import TensorBatch
from minibatch.train.exact_sum import sum_of
from minibatch.train.gradient import Gradient, Part
from minibatch.train.terms import Share
from minibatch.train.trainer import Trainer

AfterGradient = Callable[[Gradient, Sequence[Part]], None]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The values of one loss in one microbatch or leaf, samples [start, stop) of their source's part of the step."""

    start: int
    stop: int
    rows: NDArray[np.int64]
    times: NDArray[np.int64]
    values: NDArray[np.float64]
    weighted: NDArray[np.float64]
    numerator: float


@dataclass(kw_only=True)
class Recorder:
    """What `recording` has seen of the last step.

    pieces: of each term, in the order of the engine; shares: their terms in this step; gradient: by parameter name.
    """

    pieces: dict[str, list[Piece]] = field(default_factory=dict)
    shares: dict[str, Share] = field(default_factory=dict)
    gradient: dict[str, Tensor] = field(default_factory=dict)
    exact: bool = False

    def numerator(self, name: str) -> float:
        """The numerator of a term, put together from its pieces as the engine does."""
        numbers = [piece.numerator for piece in self.pieces.get(name, ())]
        if self.exact:
            return sum_of(numbers)
        total = 0.0
        for number in numbers:
            total += number
        return total


@contextmanager
def recording(
    trainer: Trainer, *, gradient: bool = False, after_gradient: AfterGradient | None = None
) -> Iterator[Recorder]:
    """Inside, every step of `trainer` fills the recorder anew.

    gradient: also keep the gradient. after_gradient: called when it is there, before anything is updated.
    """
    engine = trainer.gradient
    changed: Any = engine
    recorder = Recorder(exact=engine.exact is not None)
    take, add = engine.take, engine.add

    def watched_take(share: Share, values: Tensor, batch: TensorBatch, start: int, stop: int, on_host: bool) -> bool:
        recorder.shares[share.term.name] = share
        recorder.pieces.setdefault(share.term.name, []).append(piece_of(share, values, batch, start, stop))
        take(share, values, batch, start, stop, on_host)
        return True

    def watched_add(parts: Sequence[Part], *, on_host: bool) -> bool:
        recorder.pieces.clear()
        recorder.shares.clear()
        finite = add(parts, on_host=on_host)
        if gradient:
            recorder.gradient = {
                name: parameter.grad.detach().clone()
                for name, parameter in trainer.model.named_parameters()
                if parameter.grad is not None
            }
        if after_gradient is not None:
            changed.take = take  # what is computed there is not the step's
            after_gradient(engine, parts)
            changed.take = watched_take
        return finite

    changed.take, changed.add = watched_take, watched_add
    try:
        yield recorder
    finally:
        del changed.take, changed.add


def piece_of(share: Share, values: Tensor, batch: TensorBatch, start: int, stop: int) -> Piece:
    """The values of samples [start, stop) with what they weigh: `weighted` is Σ w·m·value of each, float64 (n,)."""
    numerator = float(share.weighted_sum(values, start, stop))
    wide = values.detach().double().cpu()
    weighted = wide
    if share.weights is not None:
        weights = share.weights[start:stop].double()
        weights = weights.view(weights.shape + (1,) * (wide.ndim - weights.ndim))
        weighted = torch.where(weights != 0, wide, 0.0) * weights
    return Piece(
        start=start,
        stop=stop,
        rows=np.asarray(batch.rows),
        times=np.asarray(batch.times),
        values=wide.numpy().copy(),
        weighted=weighted.reshape(len(wide), -1).sum(1).numpy(),
        numerator=numerator,
    )


def joined(pieces: Sequence[Piece], name: str) -> NDArray[Any]:
    """An array of all pieces, in nominal order: leaves may have been computed in another."""
    ordered = sorted(pieces, key=lambda piece: piece.start)
    return np.concatenate([getattr(piece, name) for piece in ordered])
