"""Numeric gradients against those of a run's real objective: terms, weights, masks, coefficients, regularizers, noise.

The objective of one minibatch is computed by a Trainer in float64, with the noise of one nominal time, so that it is
the same function in every evaluation. For chosen elements of every parameter, (f(w + h) - f(w - h)) / 2h is compared
with the gradient that the optimizer would be given. cuda-convnet2 calls this --check-grads.

What fails here has a wrong backward pass, an objective that differs between evaluations (a module that counts its
calls), or a gradient that is not meant to be one of the objective: straight-through estimators, reversed gradients,
detached parts, losses that only look differentiable. A kink between w - h and w + h is told from that by smaller steps.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from minibatch import rng
from minibatch.arguments import checked_integer
from minibatch.train.config import RunConfig
from minibatch.train.joint import JointBatch
from minibatch.train.running import make_trainer, opened_source
from minibatch.train.trainer import Trainer
from minibatch.train.user_code import places_noted

EPSILON = float(np.finfo(np.float64).eps)
STEP = EPSILON ** (1 / 3)  # where rounding and the third derivative harm equally; Press et al. 2007, section 5.7
SMALLER = (
    1.0,
    1e-2,
    1e-4,
)  # steps tried, as shares of STEP, until one agrees: what is left of a kink shrinks with them


@dataclass(frozen=True, kw_only=True)
class ElementCheck:
    """One element of a parameter: its place, the gradient that training uses, the numeric one, and their relative
    error."""

    place: tuple[int, ...]
    gradient: float
    numeric: float
    error: float


@dataclass(frozen=True, kw_only=True)
class ParameterCheck:
    """A parameter: its elements that were checked, the worst relative error among them, and whether all agree."""

    name: str
    shape: tuple[int, ...]
    elements: tuple[ElementCheck, ...]
    passed: bool

    @property
    def error(self) -> float:
        """The largest relative error."""
        return max((element.error for element in self.elements), default=0.0)


def check_config(
    config: RunConfig,
    data: Path,
    *,
    samples: int = 8,
    elements: int = 8,
    tolerance: float = 1e-5,
    nominal_time: int = 0,
) -> list[ParameterCheck]:
    """`check_gradients` of the first minibatch at `nominal_time` of a configuration, its data sets in folder `data`.

    The configuration's model, terms, regularizers, source and noise; `samples` per minibatch, in float64, without
    clipping, schedules, averaging, mixed precision and compilation, which do not belong to the objective.
    """
    checked_integer(samples, "samples", least=1)
    plain = replace(
        config,
        model=_in_double(config.model),
        optimizers=Probe.of,
        schedules=None,
        minibatch_size=samples,
        microbatch_size=None,
        clip=(),
        clip_grad_norm=None,
        averaging=None,
        precision=None,
        compile=False,
        spikes=None,
        on_nonfinite="stop",
        check_unreached=False,
    )
    with ExitStack() as stack:
        stack.enter_context(places_noted())
        source = stack.enter_context(opened_source(plain, config.data(data)))
        source.seek(nominal_time)
        batch = source.next_minibatch(samples)
        if not batch:
            raise ValueError(f"the axis of the training data ends before nominal time {nominal_time:,}")
        source.seek(nominal_time)
        trainer = stack.enter_context(make_trainer(plain, source, None, lambda text: None))
        given = _fields_in_double(batch)
        return check_gradients(trainer, given, elements=elements, tolerance=tolerance, seed=config.seed)


def check_gradients(
    trainer: Trainer,
    given: Mapping[str, Any],
    *,
    elements: int = 8,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> list[ParameterCheck]:
    """Compare the gradients of a Trainer's objective on the fields `given` with numeric ones, parameter by parameter.

    trainer: of a float64 model, with `Probe` as its optimizer; it stands where it stood afterwards. elements: how many
    of each parameter, chosen by a key of `seed` and its name, and the one with the largest gradient besides. An element
    agrees if |gradient - numeric| ≤ tolerance · the larger of both, or is within the rounding of the objective. Raises
    ValueError for other optimizers or dtypes, and where two evaluations differ.
    """
    probe = trainer.optimizers[0]
    if len(trainer.optimizers) != 1 or not isinstance(probe, Probe):
        raise ValueError(
            "expected a Trainer with Probe.of(model) as its only optimizer: it must not change the weights"
        )
    wrong = [name for name, p in trainer.owned[0].items() if p.dtype is not torch.float64]
    if wrong:
        raise ValueError(f"numeric gradients need float64: call model.double(); {', '.join(wrong[:5])} are not")
    step, time = trainer.step, trainer.nominal_time

    def objective() -> float:
        result = trainer.train_minibatch(given)
        _stand(trainer, step, time)
        value = result["total_loss"]
        assert value is not None
        return value

    checked = []
    value, again = objective(), objective()
    if value != again:
        raise ValueError(
            f"two evaluations of the same objective gave {value!r} and {again!r}: something in the model or a loss is "
            "no function of weights and samples (a layer that counts its calls, noise without a nominal time)"
        )
    gradients = {name: _gradient_of(parameter) for name, parameter in trainer.owned[0].items()}
    for name, parameter in trainer.owned[0].items():
        if parameter.requires_grad:
            chosen = chosen_elements(gradients[name], elements, rng.key(seed, f"check gradients.{name}"))
            checks = [_checked(objective, value, parameter, gradients[name], at, tolerance) for at in chosen]
            checked.append(
                ParameterCheck(
                    name=name,
                    shape=tuple(parameter.shape),
                    elements=tuple(check for check, _ in checks),
                    passed=all(passed for _, passed in checks),
                )
            )
    objective()  # so that gradients and buffers are those of the weights as they are
    return checked


def chosen_elements(gradient: Tensor, count: int, key: int) -> list[int]:
    """The places (in the flattened tensor) of `count` elements by `key`, and of the largest gradient; all if few.

    >>> chosen_elements(torch.tensor([0.0, 3.0, 1.0]), 5, 7)
    [0, 1, 2]
    >>> len(chosen_elements(torch.zeros(1000), 4, 7))
    5
    """
    size = gradient.numel()
    if size <= count:
        return list(range(size))
    # The elements with the smallest words: distinct, and the same whatever else is checked.
    words: NDArray[np.uint64] = rng.bits(key, np.arange(size))
    largest = int(gradient.abs().argmax())
    words[largest] = np.iinfo(np.uint64).max
    return sorted([*np.argpartition(words, count)[:count].tolist(), largest])


class Probe(Optimizer):
    """An optimizer that changes nothing, so that the gradients of a step can be looked at."""

    @classmethod
    def of(cls, model: nn.Module) -> "Probe":
        """Of all parameters of a model."""
        return cls(list(model.parameters()), {"lr": 0.0})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Leave everything as it is."""


def _checked(
    objective: Callable[[], float], value: float, parameter: Tensor, gradient: Tensor, at: int, tolerance: float
) -> tuple[ElementCheck, bool]:
    expected = float(gradient.reshape(-1)[at])
    best, passed = (math.inf, math.nan), False
    for share in SMALLER:
        numeric, step = _numeric(objective, parameter, at, STEP * share)
        # An objective of this size is known to a few units of its last place.
        rounding = 16 * EPSILON * max(abs(value), EPSILON) / step
        difference = abs(numeric - expected)
        error = difference / max(abs(numeric), abs(expected), rounding)
        size = max(abs(numeric), abs(expected))
        # Within the rounding counts only where that is small: a tiny step would let anything pass.
        agrees = difference <= tolerance * size or (difference <= rounding and (share == 1.0 or rounding <= size / 100))
        if agrees or error < best[0]:
            best = (error, numeric)
        if agrees:
            passed = True
            break
    place = tuple(int(i) for i in np.unravel_index(at, tuple(parameter.shape))) if parameter.ndim else ()
    return ElementCheck(place=place, gradient=expected, numeric=best[1], error=best[0]), passed


@torch.no_grad()
def _numeric(objective: Callable[[], float], parameter: Tensor, at: int, step: float) -> tuple[float, float]:
    """The central difference at one element, and the step that was really taken (half of the distance)."""
    flat = parameter.detach().view(-1) if parameter.is_contiguous() else None
    if flat is None:
        place = np.unravel_index(at, tuple(parameter.shape))
        flat, at = parameter.detach()[tuple(int(i) for i in place)].view(1), 0
    before = float(flat[at])
    size = step * max(1.0, abs(before))
    values, places = [], []
    try:
        for sign in (1.0, -1.0):
            flat[at] = before + sign * size
            places.append(float(flat[at]))
            with torch.enable_grad():
                values.append(objective())
    finally:
        flat[at] = before
    distance = places[0] - places[1]
    return (values[0] - values[1]) / distance, distance / 2


def _gradient_of(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().clone()


def _stand(trainer: Trainer, step: int, time: int) -> None:
    """Take a step back, so that the next one has the same nominal time, and with it the same noise."""
    if trainer.source is not None:
        trainer.source.seek(time)
    trainer.take_position(step, time)


def _in_double(model: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def make(*, seed: int) -> nn.Module:
        return model(seed=seed).double()

    return make


def _fields_in_double(batch: Any) -> dict[str, Any]:
    """The fields of a minibatch, or of each of a joint one, floating-point numbers as float64."""
    if isinstance(batch, JointBatch):
        return {name: _fields_in_double(part) for name, part in batch.parts.items()}
    return {name: _double(batch[name]) for name in batch.fields}


def _double(values: Any) -> Any:
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return values.astype(np.float64)
    return values


def failures(checks: Sequence[ParameterCheck]) -> list[str]:
    """The names of the parameters whose gradients do not agree."""
    return [check.name for check in checks if not check.passed]
