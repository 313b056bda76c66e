"""From a gradient to new weights: regularize, measure, check, clip, set the rates, let the optimizers step."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from minibatch.train.guard import Found, Watch
from minibatch.train.regularizers import Regularization
from minibatch.train.result import StepResult
from minibatch.train.schedules import Schedule


class Update:
    """Applies the gradients in the `grad` of `parameters`; made once per run.

    watch: where it is decided whether the gradient is finite, see guard.py. clip: the largest 2-norm, or None.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        optimizers: Sequence[Optimizer],
        schedules: Sequence[Schedule | None],
        regularization: Regularization,
        clip: float | None,
        watch: Watch,
        found: Found,
    ) -> None:
        self.parameters = parameters
        self.optimizers = optimizers
        self.scheduled = list(zip(optimizers, schedules, strict=True))
        self.regularization = regularization
        self.clip = clip
        self.watch = watch
        self.found = found

    def apply(self, result: StepResult, finite: bool) -> None:
        """Update the weights unless loss or gradient is not finite; completes `result`. finite: of the losses."""
        if finite and self.regularization.groups:
            value = self.regularization.add_gradients()
            result.regularization = float(value) if self.watch == "host" else value
        gradients = [
            _dense_part(parameter) if grad.is_sparse else grad
            for parameter in self.parameters
            if (grad := parameter.grad) is not None
        ]
        if self.watch == "host":
            finite = finite and self._measure(result, gradients)
            result.set_finite(finite)
        else:
            finite = self._measure_on_device(result, gradients)
        if finite:
            for optimizer in self.optimizers:
                optimizer.step()
            result.updated = True

    def set_rates(self, time: int) -> tuple[float, ...]:
        """Give every optimizer the rate that its schedule has at nominal `time`; the rates, one per optimizer."""
        rates = []
        for optimizer, schedule in self.scheduled:
            groups = optimizer.param_groups
            if schedule is None:
                rate = groups[0]["lr"]
                rates.append(rate if isinstance(rate, float) else float(rate))
                continue
            rate = float(schedule(time))
            if not 0.0 <= rate < math.inf:
                raise ValueError(f"the schedule {schedule} gives the learning rate {rate} at nominal time {time}")
            for group in groups:
                scaled = rate * group.get("lr_scale", 1.0)
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(scaled)
                else:
                    group["lr"] = scaled
            rates.append(rate)
        return tuple(rates)

    def _measure(self, result: StepResult, gradients: list[Tensor]) -> bool:
        # A handful of floats: math.hypot beats the launches of a stack and a norm, and cannot overflow.
        norm = math.hypot(*[n.item() for n in torch._foreach_norm(gradients)])
        result.set_grad_norm(norm)
        if norm - norm != 0.0:  # NaN or infinite
            return False
        if self.clip is not None and norm > self.clip:
            torch._foreach_mul_(gradients, self.clip / norm)
        return True

    def _measure_on_device(self, result: StepResult, gradients: list[Tensor]) -> bool:
        """Whether to call the optimizers: what they then do is decided on the device if it is watched there."""
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        finite = torch.isfinite(norm)
        for numerator in result.numerators:
            if isinstance(numerator, Tensor):
                finite = finite & torch.isfinite(numerator)
        result.set_grad_norm(norm)
        result.set_finite(finite)
        if self.clip is not None:
            torch._foreach_mul_(gradients, (self.clip / norm).clamp(max=1.0))
        if self.watch == "device":
            self.found.set(finite)
            return True
        return bool(finite)


def _dense_part(parameter: Tensor) -> Tensor:
    """The values of a sparse gradient (an embedding's), summed by index; writing to them changes the gradient."""
    assert parameter.grad is not None
    parameter.grad = parameter.grad.coalesce()
    return parameter.grad._values()
