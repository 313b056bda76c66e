"""From a gradient to new weights: regularize, measure, check, clip, set the rates, let the optimizers step."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from minibatch.kernels.norm import sum_of_squares
from minibatch.train.averaging import Averaging
from minibatch.train.clipping import Clip, ClipNorm, norms
from minibatch.train.curvature import products_for
from minibatch.train.errors import TrainingError
from minibatch.train.gradient import Gradient, Part
from minibatch.train.guard import Found, Watch
from minibatch.train.precision import Precision
from minibatch.train.rates import set_rates
from minibatch.train.regularizers import Regularization
from minibatch.train.result import StepResult
from minibatch.train.schedules import Schedule, ValuesByName
from minibatch.train.spikes import Detector

FEW_VALUES = 1 << 20  # beyond, torch's threads are faster than one kernel (measured 2026-11)


class Update:
    """Applies the gradients in the `grad` of `parameters`; made once per run.

    watch: where it is decided whether the gradient is finite, see guard.py. clips: applied in their order.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        optimizers: Sequence[Optimizer],
        schedules: Sequence[Schedule | None],
        regularization: Regularization,
        clips: Sequence[Clip],
        watch: Watch,
        found: Found,
        precision: Precision,
        averaging: Averaging | None,
        spikes: Detector | None,
    ) -> None:
        self.parameters = parameters
        self.optimizers = optimizers
        self._groups = [len(optimizer.param_groups) for optimizer in optimizers]
        self.schedules = schedules
        self.regularization = regularization
        self.clips = clips
        self.watch = watch
        self.found = found
        self.precision = precision
        self.averaging = averaging
        self.spikes = spikes
        half = any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in parameters)
        self._norms = norms if half else torch._foreach_norm
        self._addresses, self._counts = np.zeros((2, len(parameters)), np.int64)
        self.touched = False  # whether the last `apply` got as far as changing weights
        self.curved = [optimizer for optimizer in optimizers if hasattr(optimizer, "curvature_due")]

    def apply(self, result: StepResult, finite: bool, curve: Callable[[], bool] | None = None) -> None:
        """Update the weights unless loss or gradient is not finite; completes `result`. finite: of the losses."""
        self.touched = False
        ended = self.found.ended if self.watch == "device" else None  # before this step
        if finite and self.regularization:
            result.regularization = self.regularization.add_gradients(result.interval[0])
            result.regularizers = self.regularization.values
        gradients = [
            _dense_part(parameter) if grad.is_sparse else grad
            for parameter in self.parameters
            if (grad := parameter.grad) is not None
        ]
        if self.watch == "host":
            finite = finite and self._measure(result, gradients)
            result.set_finite(finite)
            if self.spikes is not None:  # every step counts, as on a device, which does not know yet
                spike = bool(self.spikes.judge(self._judged(result, finite))) and finite
                result.set_spike(spike)
                finite = finite and not spike
        else:
            finite = self._measure_on_device(result, gradients)
        if finite and curve is not None and not curve():
            finite = False
            result.set_finite(False)
        self.touched = True
        if finite:
            for optimizer in self.optimizers:
                optimizer.step()
            if self.regularization.acts_after_update:
                # Of the run, not of this step: after a bad one that ends it, the optimizers stay still.
                flag = self.found.flag == 0 if self.watch == "device" else None
                self.regularization.after_update(result.interval[0], self.optimizers, flag)
            self.precision.went_well()
            result.updated = True
        elif self.precision.scaled and not result.finite and result.losses_are_finite():
            result.overflow = self.precision.overflowed()
        if self.averaging is not None:  # time passes over steps without an update, too
            self.averaging.update(*result.interval, ended)

    def curve(self, gradient: Gradient, parts: Sequence[Part], result: StepResult, key: int) -> bool:
        """Give optimizers that ask for it the curvature of the step's objective; False if it is not finite."""
        return all(
            products_for(optimizer, gradient, parts, key)
            for optimizer in self.curved
            if optimizer.curvature_due(result.step - 1)
        )

    def set_rates(self, t0: int, t1: int, values: ValuesByName) -> tuple[float, ...]:
        """Set the optimizers' numbers for the step [t0, t1) of nominal time; the rates, one per optimizer."""
        if [len(optimizer.param_groups) for optimizer in self.optimizers] != self._groups:
            raise TrainingError(
                "an optimizer has been given parameters after the Trainer was made, which would not clear their "
                "gradients between steps: make the Trainer after the last add_param_group"
            )
        return set_rates(self.optimizers, self.schedules, t0, t1, values)

    def _measure(self, result: StepResult, gradients: list[Tensor]) -> bool:
        norm = self._norm(gradients)
        result.set_grad_norm(norm)
        if norm - norm != 0.0:  # NaN or infinite
            return False
        self._clip(result, gradients, norm)
        return True

    def _norm(self, gradients: list[Tensor]) -> float:
        """The 2-norm of all gradients together, on the CPU."""
        count = len(gradients)
        total = 0
        for place, gradient in enumerate(gradients):
            size = gradient.numel()
            if gradient.dtype is not torch.float32 or not gradient.is_contiguous():
                break
            self._addresses[place], self._counts[place] = gradient.data_ptr(), size
            total += size
        else:
            if total <= FEW_VALUES:
                return math.sqrt(sum_of_squares(self._addresses[:count], self._counts[:count]))
        # A handful of floats: math.hypot beats the launches of a stack and a norm, and cannot overflow.
        return math.hypot(*[n.item() for n in self._norms(gradients)])

    def _judged(self, result: StepResult, finite: bool = True) -> float | Tensor:
        assert self.spikes is not None
        if not finite:
            return math.nan
        return result.total if self.spikes.policy.of == "loss" else result.norm

    def _clip(self, result: StepResult, gradients: list[Tensor], norm: float | Tensor) -> None:
        known: float | Tensor | None = norm
        for clip in self.clips:
            if known is not None and isinstance(clip, ClipNorm):
                result.clipped = known > clip.limit
            clip(gradients, known, samples=result.num_samples)
            known = None  # another clip would have to measure again

    def _measure_on_device(self, result: StepResult, gradients: list[Tensor]) -> bool:
        """Whether to call the optimizers: what they then do is decided on the device if it is watched there."""
        of_each = self._norms(gradients) if gradients else [torch.zeros_like(self.found.flag)]
        norm = torch.linalg.vector_norm(torch.stack(of_each))
        finite = torch.isfinite(norm)
        for numerator in result.numerators:
            if isinstance(numerator, Tensor):
                finite = finite & torch.isfinite(numerator)
        result.set_grad_norm(norm)
        result.set_finite(finite)
        spike = None
        if self.spikes is not None:
            spike = (
                self.spikes.judge(self._judged(result), self.found.ended if self.watch == "device" else None) & finite
            )
            result.set_spike(spike)
        self._clip(result, gradients, norm)
        if self.watch == "device":
            self.found.set(finite, spike)
            return True
        return bool(finite if spike is None else finite & ~spike)


def _dense_part(parameter: Tensor) -> Tensor:
    """The values of a sparse gradient (an embedding's), summed by index; writing to them changes the gradient."""
    assert parameter.grad is not None
    parameter.grad = parameter.grad.coalesce()
    return parameter.grad._values()
