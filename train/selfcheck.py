"""What in a model or a loss breaks the promises, found before the run: one step, computed in several ways.

The gradient of one minibatch is computed twice in the same way, then with its leaves in reversed order, then in other
groups. Whatever differs depends on something other than the samples and their nominal time: a module that draws from a
generator of its own, counts its calls, or normalises over a batch. The first module whose output differs is named.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from minibatch.train.batch_statistics import statistics_layers
from minibatch.train.cuts import Cuts
from minibatch.train.outputs import tensors_in

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that breaks a promise: in which comparison it showed, the modules and parameters that differ first."""

    comparison: str
    modules: tuple[str, ...]
    parameters: tuple[str, ...]

    def __str__(self) -> str:
        where = (
            f"the first module that differs is {self.modules[0]}" if self.modules else "no module differs: a loss does"
        )
        shown = ", ".join(self.parameters[:3]) + (" …" if self.parameters[3:] else "")
        return f"{self.comparison}: {where}; gradients differ in {shown or 'no parameter'}"


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """The result of `selfcheck`: what was compared, and what was found."""

    promise: str
    comparisons: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        if self.passed:
            return f"promise {self.promise!r}: {', '.join(self.comparisons)}: nothing differs"
        return "; ".join(map(str, self.findings))


@dataclass(frozen=True)
class Pass:
    """What one way of computing the step gave: gradients by name, and by module the outputs of every sample."""

    gradients: dict[str, Tensor]
    outputs: dict[str, dict[int, list[Tensor]]]


def selfcheck(trainer: "Trainer", *, samples: int | None = None) -> SelfCheck:
    """Compute the next step of `trainer` in several ways and compare; weights, buffers and position stay as they are.

    samples: of the minibatch to try on, by default that of the next step. Under promise "bits" everything must be equal
    in every bit; under "math" and "data" repetitions must be, other microbatches only up to rounding (and under "data"
    statistics may differ). A passed check is no proof; a finding is a fact.
    """
    size = trainer.next_size if samples is None else samples
    ways = _ways(trainer)
    expected = one_pass(trainer, size, list)
    findings = []
    for comparison, order, exactly in ways:
        got = one_pass(trainer, size, order)
        differing = tuple(
            name
            for name in expected.gradients
            if not _equal(expected.gradients[name], got.gradients.get(name), exactly=exactly)
        )
        modules = tuple(
            name
            for name in expected.outputs
            if _outputs_differ(expected.outputs[name], got.outputs.get(name, {}), exactly=exactly)
        )
        if differing or modules:
            findings.append(Finding(comparison=comparison, modules=_innermost(modules), parameters=differing))
    return SelfCheck(
        promise=trainer.promise, comparisons=tuple(comparison for comparison, _, _ in ways), findings=tuple(findings)
    )


def _ways(trainer: "Trainer") -> list[tuple[str, Callable[[Cuts], Cuts], bool]]:
    """How the step is computed: what is said of it, the order of its passes, and whether every bit must be equal."""
    again: tuple[str, Callable[[Cuts], Cuts], bool] = ("the same step again", list, True)
    if trainer.foreign_noise == "allow":  # other microbatches see other noise, as was allowed
        return [again]
    if trainer.promise == "bits":
        return [
            again,
            ("leaves in reversed order", lambda cuts: cuts[::-1], True),
            ("every second leaf first", lambda cuts: cuts[::2] + cuts[1::2], True),
        ]
    if trainer.streams.leaf_size is not None:
        return [again, ("leaves in reversed order", lambda cuts: cuts[::-1], False)]
    if trainer.promise == "math" and not any(m.training for m in statistics_layers(trainer.model).values()):
        return [again, ("halves of microbatches", _halves, False), ("microbatches in reversed order", _reversed, False)]
    return [again]


def one_pass(trainer: "Trainer", size: int, order: Callable[[Cuts], Cuts]) -> Pass:
    """The gradient of the next `size` samples, their passes arranged by `order`; nothing of the trainer changes."""
    time = trainer.nominal_time
    gradient = trainer.gradient
    buffers = [(buffer, buffer.clone()) for buffer in trainer.model.buffers()]
    grads = [parameter.grad for parameter in trainer.model.parameters()]
    try:
        taken = trainer.streams.take(size)
        parts = trainer.steps.parts_of(taken, size)
        for part in parts:
            part.cuts = order(part.cuts)
        for parameter in trainer.model.parameters():
            parameter.grad = None
        with _watched(trainer.model) as outputs:
            gradient.add(parts, on_host=False)
        found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
        return Pass(found, _by_place(outputs, [cut for part in parts for cut in part.cuts]))
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
        for parameter, grad in zip(trainer.model.parameters(), grads, strict=True):
            parameter.grad = grad
        if trainer.source is not None:
            trainer.source.seek(time)


@contextmanager
def _watched(model: nn.Module) -> Iterator[dict[str, list[list[Tensor]]]]:
    """Inside, the outputs of every module at every call, by its name."""
    outputs: dict[str, list[list[Tensor]]] = {}

    def noting(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs.setdefault(name, []).append([tensor.detach().cpu().clone() for tensor in tensors_in(output)])

        return note

    handles = [m.register_forward_hook(noting(n or "the model itself")) for n, m in model.named_modules()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _by_place(outputs: dict[str, list[list[Tensor]]], cuts: Cuts) -> dict[str, dict[int, list[Tensor]]]:
    """The outputs of each module by the first sample of the microbatch; of modules called once for each only."""
    return {
        name: {start: tensors for (start, _), tensors in zip(cuts, calls, strict=True)}
        for name, calls in outputs.items()
        if len(calls) == len(cuts)
    }


def _outputs_differ(expected: dict[int, list[Tensor]], got: dict[int, list[Tensor]], *, exactly: bool) -> bool:
    """Whether samples that both passes computed in a microbatch of the same beginning have other outputs."""
    for start in expected.keys() & got.keys():
        for one, other in zip(expected[start], got[start], strict=False):
            if not one.ndim or not other.ndim:
                continue
            n = min(len(one), len(other))
            if one.shape[1:] == other.shape[1:] and not _equal(one[:n], other[:n], exactly=exactly):
                return True
    return False


def _equal(one: Tensor, other: Tensor | None, *, exactly: bool) -> bool:
    if other is None:
        return False
    if exactly:
        return torch.equal(one.nan_to_num(), other.nan_to_num())
    scale = float(one.abs().max()) if one.numel() else 0.0
    tolerance = TOLERANCE.get(one.dtype, 5e-2)
    return bool(torch.allclose(one, other, rtol=tolerance, atol=tolerance * scale, equal_nan=True))


def _innermost(names: Sequence[str]) -> tuple[str, ...]:
    """Names without those of modules around them, in the order of the model."""
    inner = [n for n in names if not any(other.startswith(f"{n}.") for other in names)]
    return tuple(name for name in inner if name != "the model itself" or len(inner) == 1)


def _halves(cuts: Cuts) -> Cuts:
    """Every stretch in two; a single sample stays whole."""
    halves = []
    for start, stop in cuts:
        middle = start + max(1, (stop - start) // 2)
        halves += [(start, middle), (middle, stop)] if middle < stop else [(start, stop)]
    return halves


def _reversed(cuts: Cuts) -> Cuts:
    return _halves(cuts)[::-1]
