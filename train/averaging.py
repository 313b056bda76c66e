"""Moving averages of the weights over nominal time.

The average at a time t weighs the weights that stood at an earlier time s by decay^(t - s), in samples: so it depends
neither on the minibatch size nor on how often it is updated, as long as the weights do not.

Buffers (statistics of normalisation layers) are the model's own by default, also while the averaged weights are in
place: BatchNorm then normalises by the statistics of the weights of the last steps, which are not those of the average.
buffers="average" averages floating-point buffers in the same way, as timm does; best is to measure them again, with
`torch.optim.swa_utils.update_bn` inside `with averaging.applied():`. Layers without running statistics need nothing.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

BufferPolicy = Literal["keep", "average"]
_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class EMA:
    """How the weights of a run are averaged: exactly one of `halflife` and `decay`, in samples of nominal time.

    halflife: after so many samples, weights count half. decay: what a weight counts after one sample; a decay d per
    step of k samples is d ** (1 / k). start: the average begins with the first step at or after this nominal time.
    debias: divide by the sum of the weights that have come in, so that those before the first step count nothing, like
    Adam's correction; without, the average begins as the weights after its first step, as if they had always stood.
    buffers: "keep" or "average", see the module.

    >>> EMA(halflife=100).weight(100)
    0.5
    >>> round(EMA(decay=0.999 ** (1 / 32)).weight(32), 6)
    0.001
    """

    halflife: float | None = None
    decay: float | None = None
    start: int = 0
    debias: bool = True
    buffers: BufferPolicy = "keep"

    def __post_init__(self) -> None:
        if (self.halflife is None) == (self.decay is None):
            raise ValueError(f"EMA: halflife={self.halflife}, decay={self.decay}: expected exactly one of them")
        if self.halflife is not None and not 0.0 < self.halflife < math.inf:
            raise ValueError(f"EMA: halflife={self.halflife}, expected a number of samples > 0")
        if self.decay is not None and not 0.0 < self.decay < 1.0:
            raise ValueError(f"EMA: decay={self.decay}, expected a number above 0 and below 1, per sample")
        if self.start < 0:
            raise ValueError(f"EMA: start={self.start}, expected a nominal time ≥ 0")
        if self.buffers not in ("keep", "average"):
            raise ValueError(f"EMA: buffers={self.buffers!r}, expected 'keep' or 'average'")

    def weight(self, samples: int) -> float:
        """What the newest of `samples` samples count together: 1 - decay^samples, exact also where it is tiny."""
        if self.halflife is not None:
            return -math.expm1(-math.log(2.0) * samples / self.halflife)
        assert self.decay is not None
        return -math.expm1(math.log(self.decay) * samples)


class Averaging:
    """The average of a model's trainable parameters, updated after every step; made once per run.

    Averages of bfloat16 and float16 parameters are float32, all others have their parameter's dtype. `since` is the
    nominal time at which the average began, None before: with `tensors()`, all there is to be saved.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> averaging = Averaging(model, EMA(halflife=100, debias=False))
    >>> for t, value in ((0, 1.0), (100, 3.0)):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     averaging.update(t, t + 100)
    >>> with averaging.applied():
    ...     model.weight.item()
    2.0
    >>> model.weight.item()
    3.0
    """

    def __init__(self, model: nn.Module, ema: EMA) -> None:
        self.ema = ema
        self.since: int | None = None
        self._sources: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if ema.buffers == "average":
            saved = model.state_dict().keys()
            self._sources |= {n: b for n, b in model.named_buffers() if b.is_floating_point() and n in saved}
        if not self._sources:
            raise ValueError("EMA: the model has no trainable parameter to average")
        self._averages = {name: _copy(source) for name, source in self._sources.items()}
        self._lists = (list(self._averages.values()), list(self._sources.values()))
        self._casts = any(source.dtype in _HALF for source in self._lists[1])
        self._applied = False

    @property
    def is_applied(self) -> bool:
        """Whether the averaged weights are in place of the model's."""
        return self._applied

    @torch.no_grad()
    def update(self, t0: int, t1: int, ended: Tensor | None = None) -> None:
        """Take in the weights after the step that covered the nominal time [t0, t1)."""
        if t1 <= t0 or t0 < self.ema.start:
            return
        if self._applied:
            raise RuntimeError("the averaged weights are in place of the model's: leave `applied` before training on")
        weight = self.ema.weight(t1 - t0)
        if self.since is None:
            self.since, weight = t0, 1.0
        elif self.ema.debias:
            weight /= self.ema.weight(t1 - self.since)
        averages, sources = self._lists
        if self._casts:
            sources = [source.to(average.dtype) for source, average in zip(sources, averages, strict=True)]
        if ended is None:
            torch._foreach_lerp_(averages, sources, weight)
            return
        for average, source in zip(averages, sources, strict=True):  # of a run that has ended nothing moves
            average.copy_(torch.where(ended, average, average.lerp(source, weight)))

    def tensors(self) -> dict[str, Tensor]:
        """The averages by parameter name (and buffer name), for checkpoints; {} before the average has begun."""
        return {} if self.since is None else dict(self._averages)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], since: int | None) -> None:
        """Take over what `tensors()` and `since` were; {} and None where the average had not begun.

        Raises ValueError as `check` does.
        """
        self.check(tensors, since)
        self.since = since
        if since is not None:
            for name, average in self._averages.items():
                average.copy_(tensors[name])

    def check(self, tensors: Mapping[str, Tensor], since: int | None) -> None:
        """Return if these can be loaded.

        Raises ValueError naming the first tensors that are missing, too many, or of another shape.
        """
        if since is None:
            return
        wrong = [f"{name} is missing" for name in self._averages if name not in tensors]
        wrong += [f"{name} is not averaged here" for name in tensors if name not in self._averages]
        wrong += [
            f"{name} has shape {tuple(tensors[name].shape)}, here {tuple(average.shape)}"
            for name, average in self._averages.items()
            if name in tensors and tensors[name].shape != average.shape
        ]
        if wrong:
            raise ValueError("saved averages do not fit the model: " + "; ".join(wrong[:6]))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averaged weights in place of the model's, for validation; afterwards its own, bit for bit.

        Before the average has begun, the model stays as it is. The weights are copied, not exchanged: whoever holds a
        parameter sees the average too.
        """
        if self._applied:
            raise RuntimeError("the averaged weights are in place already")
        if self.since is None:
            yield
            return
        averages, sources = self._lists
        kept = [source.detach().clone() for source in sources]
        self._applied = True
        try:
            _put(sources, averages)
            yield
        finally:
            _put(sources, kept)
            self._applied = False


@torch.no_grad()
def _put(targets: list[Tensor], values: list[Tensor]) -> None:
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)


def _copy(source: Tensor) -> Tensor:
    copy = source.detach().clone(memory_format=torch.preserve_format)
    return copy.float() if copy.dtype in _HALF else copy
