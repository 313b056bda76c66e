"""How large weights, their changes and their gradients are, parameter by parameter: cuda-convnet2's monitor lines.

A healthy ratio of mean |change| to mean |weight| is about 1e-3 a step; a layer far above it jumps, one far below it
does not learn. Measured in single steps, at most one every so many samples, on the device, and fetched at log points:
between them nobody waits, and a step that is not measured costs two empty calls.
"""

import json
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from minibatch.arguments import checked_integer
from minibatch.train.callbacks.hooks import Listener
from minibatch.train.ledger import Lines
from minibatch.train.result import StepResult

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One parameter in one step: mean |w| before it, mean |w after - w before|, and the 2-norm of its gradient.

    grad_norm: as the optimizer saw it, after clipping and regularizers; NaN where there was no gradient.

    >>> Scale(name="a", weight=2.0, change=0.002, grad_norm=1.0).ratio
    0.001
    """

    name: str
    weight: float
    change: float
    grad_norm: float

    @property
    def ratio(self) -> float:
        """mean |change| / mean |weight|; 0 where all weights are 0, as cuda-convnet2 prints it."""
        return self.change / self.weight if self.weight > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Scales:
    """All parameters in one step, which ended at `nominal_time`."""

    step: int
    nominal_time: int
    parameters: tuple[Scale, ...]


class UpdateScales(Listener):
    """Measures the step that reaches or crosses a multiple of `every` samples; a callback of `fit`.

    every: samples of nominal time. show: called with each measurement, at log points; by default nothing is shown (see
    `ConvnetLines`). path: a file of JSON lines, one a measurement; by default scales.jsonl in the folder of the run,
    where there is one. A measured step holds one copy of all weights; it does not change what is computed.

    latest: the last measurement that was fetched, or None.

    Source: cuda-convnet2, convnet.py, `print_test_results`; there the change is the velocity of plain momentum, which
    is what is added to the weights.
    """

    def __init__(
        self, every: int, *, show: Callable[[Scales], None] | None = None, path: str | Path | None = None
    ) -> None:
        self.every = checked_integer(every, "every", least=1)
        self.show = show
        self.path = None if path is None else Path(path)
        self.latest: Scales | None = None
        self._lines: Lines | None = None
        self._order: dict[str, int] = {}
        self._begins = 0  # where the coming step begins
        self._waiting: list[tuple[int, int, list[_Measured]]] = []
        self._measuring: list[_Measured] = []
        self._detach: list[Callable[[], None]] = []

    def on_begin(self, trainer: "Trainer") -> None:
        path = self.path
        if path is None and trainer.folder is not None:
            path = trainer.folder / "scales.jsonl"
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lines = Lines(path)
            self._lines.cut(trainer.step)
        self._order = {name: place for place, (name, _) in enumerate(trainer.model.named_parameters())}
        self._begins = trainer.nominal_time
        for optimizer, owned in zip(trainer.optimizers, trainer.owned, strict=True):
            self._attach(trainer, optimizer, owned)

    def __call__(self, trainer: "Trainer", result: StepResult) -> None:
        self._begins = result.interval[1]
        if self._measuring:
            self._waiting.append((result.step, result.interval[1], self._measuring))
            self._measuring = []
        if self._waiting and result.step % trainer.log_every == 0:
            self.fetch()

    def on_rollback(self, trainer: "Trainer") -> None:
        self._begins = trainer.nominal_time
        self._measuring = []
        self._waiting = [one for one in self._waiting if one[0] <= trainer.step]
        if self._lines is not None:
            self._lines.cut(trainer.step)

    def on_end(self, trainer: "Trainer", reason: str) -> None:
        for detach in self._detach:
            detach()
        self._detach.clear()
        self.fetch()

    def fetch(self) -> None:
        """Bring what was measured to the host, with one wait for all of it, and show and write it."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        values = iter(torch.cat([part.values for _, _, parts in waiting for part in parts], dim=1).T.tolist())
        for step, time, parts in waiting:
            found = [
                Scale(name=name, weight=weight / size, change=change / size, grad_norm=norm)
                for part in parts
                for name, size, (weight, change, norm) in zip(part.names, part.sizes, values, strict=False)
            ]
            # In the order of the model, however the parameters are grouped in optimizers.
            found.sort(key=lambda one: self._order.get(one.name, len(self._order)))
            self.latest = Scales(step=step, nominal_time=time, parameters=tuple(found))
            if self._lines is not None:
                self._lines.add(json.dumps(document_of(self.latest), allow_nan=False))
            if self.show is not None:
                self.show(self.latest)
        if self._lines is not None:
            self._lines.flush()

    def _attach(self, trainer: "Trainer", optimizer: Optimizer, owned: Any) -> None:
        """Look before and after each step of the optimizer, through torch's own hooks."""
        position = weakref.ref(trainer)
        before: list[Tensor] = []
        names: list[str] = []
        chosen: list[Tensor] = []

        def pre(*_: Any) -> None:
            trainer = position()
            # By now the run's position is the end of this step.
            if trainer is None or trainer.nominal_time // self.every <= self._begins // self.every:
                return
            for name, parameter in owned.items():
                if parameter.requires_grad:
                    names.append(name)
                    chosen.append(parameter)
                    before.append(parameter.detach().clone())

        def post(*_: Any) -> None:
            if before:
                self._measuring.append(_measure(tuple(names), chosen, before))
                for kept in (before, names, chosen):
                    kept.clear()

        for handle in (optimizer.register_step_pre_hook(pre), optimizer.register_step_post_hook(post)):
            self._detach.append(handle.remove)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """names, sizes: of n parameters. values: float64 (3, n) on the device: Σ|w|, Σ|change|, norm of the gradient."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    values: Tensor


@torch.no_grad()
def _measure(names: tuple[str, ...], parameters: Sequence[Tensor], before: list[Tensor]) -> _Measured:
    weights = _norms(before, 1)
    torch._foreach_sub_(before, [parameter.detach() for parameter in parameters])
    changes = _norms(before, 1)
    missing = torch.full((), math.nan, dtype=torch.float64, device=weights.device)
    norms = [
        missing if p.grad is None else torch.linalg.vector_norm(_values(p.grad)).to(torch.float64) for p in parameters
    ]
    sizes = tuple(max(1, parameter.numel()) for parameter in parameters)
    return _Measured(names=names, sizes=sizes, values=torch.stack([weights, changes, torch.stack(norms)]))


def _norms(tensors: Sequence[Tensor], order: int) -> Tensor:
    """The norm of each tensor, float64 (n,): the 1-norm of float32 weights is added up by torch in blocks."""
    return torch.stack([torch.linalg.vector_norm(tensor, order).to(torch.float64) for tensor in tensors])


def _values(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def document_of(scales: Scales) -> dict[str, Any]:
    """A measurement for JSON; a gradient that was not there is null."""
    return {
        "step": scales.step,
        "t": scales.nominal_time,
        "parameters": {
            one.name: {
                "weight": _number(one.weight),
                "change": _number(one.change),
                "ratio": _number(one.ratio),
                "grad_norm": _number(one.grad_norm),
            }
            for one in scales.parameters
        },
    }


def _number(value: float) -> float | str | None:
    return value if math.isfinite(value) else None if math.isnan(value) else str(value)


def convnet_lines(scales: Scales) -> list[str]:
    """The lines that cuda-convnet2 prints at each test, one a parameter.

    Matrices: mean |w| [mean |change|] [ratio]; biases without the ratio. A layer is what stands before the last dot.

    >>> one = Scale(name="conv1.weight", weight=7.898808e-03, change=2.681663e-05, grad_norm=1.0)
    >>> two = Scale(name="conv1.bias", weight=2.679429e-04, change=8.097122e-07, grad_norm=1.0)
    >>> for line in convnet_lines(Scales(step=1, nominal_time=128, parameters=(one, two))): print(line)
    Layer 'conv1' weights[0]: 7.898808e-03 [2.681663e-05] [3.395022e-03]
    Layer 'conv1' biases: 2.679429e-04 [8.097122e-07]
    """
    lines = []
    for one in scales.parameters:
        layer, _, kind = one.name.rpartition(".")
        numbers = f"{one.weight:e} [{one.change:e}]"
        if kind == "bias":
            lines.append(f"Layer '{layer}' biases: {numbers}")
        else:
            what = "weights[0]" if kind == "weight" else kind
            lines.append(f"Layer '{layer}' {what}: {numbers} [{one.ratio:e}]")
    return lines
