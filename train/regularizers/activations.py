"""Regularizers of what modules give out, as values per sample: exact for any cut, like a loss.

A module is chosen by a pattern of names (models/outputs.py): the first floating tensor of what it returns is its
activation h (n, …), and all calls of it within one forward pass lie side by side as one activation. With e(h) the
entries of sample i in a module's activation (|h| for HiddenL1), over the L modules that match:

    "sum"             Σ_modules Σ e                 theanets' text
    "mean"            Σ_modules mean e              its code, version 0.6
    "mean_of_means"   (1/L) Σ_modules mean e        its code, version 0.7

The term of the objective is coefficient · Σ_i value_i / n with n the samples of the step. Because all activations have
one shape per sample, the last two are theanets' means over the minibatch, number for number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from minibatch.train.regularizers.coefficients import Reduce, Regularizer, checked_reduce


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What one forward pass over n samples left behind for one regularizer.

    activations: {module: one tensor (n, …) per call}. starts: for regularizers that need them, the tensors (n, …) that
    derivatives are taken with respect to. times, key_of: for regularizers that draw, nominal times int64 (n,) and
    64 bits for any name.
    """

    activations: Mapping[str, Sequence[Tensor]]
    starts: Sequence[Tensor]
    times: Tensor
    key_of: Callable[[str], int]


@dataclass(frozen=True, kw_only=True)
class ActivationRegularizer(Regularizer):
    """coefficient · mean over samples of a reduction of the entries of the modules' activations.

    pattern: which modules; there is no default, because no rule tells hidden layers from others. reduce: see the top of
    activations.py. sample_axis: which axis of the activation is the samples; None for 0, or 1 where a module of torch
    puts time first. stream: which source the samples are of, where a run has several and the modules see one of them.

    A kind of your own is a frozen dataclass with `entries`:

    >>> @dataclass(frozen=True, kw_only=True)
    ... class HiddenL2(ActivationRegularizer):
    ...     default_name = "hidden_l2"
    ...     def entries(self, activation):
    ...         return activation.square()
    """

    default_name: ClassVar[str] = "activation"
    needs_start: ClassVar[bool] = False

    reduce: Reduce = "sum"
    sample_axis: int | None = None
    stream: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_reduce(self, self.reduce)
        if self.pattern == "*":
            raise ValueError(
                f"{type(self).__name__} needs pattern=, the names of the modules whose output it is for (a shell "
                "pattern such as 'layers.*', or several)"
            )

    def entries(self, activation: Tensor) -> Tensor:
        """What is summed or averaged: (n, …) of one call's activation (n, …)."""
        raise NotImplementedError(f"{type(self).__name__} defines neither entries nor values")

    def values(self, recorded: Recorded) -> Tensor:
        """The regularizer of each sample, without its coefficient: floating (n,), differentiable."""
        parts = []
        for calls in recorded.activations.values():
            entries = [self.entries(wide(call)).reshape(len(call), -1) for call in calls]
            parts.append(self.reduced(sum_of([e.sum(1) for e in entries]), sum(e.shape[1] for e in entries)))
        return self.total(parts)

    def reduced(self, sums: Tensor, count: int) -> Tensor:
        """The sums (n,) of `count` entries of one module, as they are or as means."""
        return sums if self.reduce == "sum" else sums / max(count, 1)

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        """The modules together: (n,) of one (n,) each."""
        total = sum_of(parts)
        return total / len(parts) if self.reduce == "mean_of_means" else total


@dataclass(frozen=True, kw_only=True)
class HiddenL1(ActivationRegularizer):
    """coefficient · Σ |h| over the units of the modules that match `pattern`: representations that are mostly zero.

    Source: theanets' `hidden_l1`. reduce, sample_axis, stream: see ActivationRegularizer.

    >>> HiddenL1(coefficient=0.1, pattern="layers.*").entries(torch.tensor([[1.0, -2.0]]))
    tensor([[1., 2.]])
    """

    default_name: ClassVar[str] = "hidden_l1"

    def entries(self, activation: Tensor) -> Tensor:
        return activation.abs()


@dataclass(frozen=True, kw_only=True)
class RecurrentNorm(ActivationRegularizer):
    """coefficient · Σ_t (|h_t| - |h_t-1|)² of states (n, time, units) whose norms should not change from step to step.

    The first state has no predecessor. squared: compare squared norms instead, as theanets' text has it (its code
    forgets the outer square). Source: Krueger and Memisevic 2015, arXiv:1511.08400, equation 1, reduce="mean".

    >>> states = torch.tensor([[[3.0, 4.0], [0.0, 5.0], [0.0, 7.0]]])
    >>> RecurrentNorm(coefficient=1.0, pattern="rnn").entries(states)
    tensor([[0., 4.]])
    """

    default_name: ClassVar[str] = "recurrent_norm"

    squared: bool = False

    def entries(self, activation: Tensor) -> Tensor:
        states = _states(self, activation)
        norms = states.square().sum(-1) if self.squared else torch.linalg.vector_norm(states, dim=-1)
        return norms.diff(dim=1).square()


@dataclass(frozen=True, kw_only=True)
class RecurrentState(ActivationRegularizer):
    """coefficient · Σ_t |h_t - h_t-1|² of states (n, time, units): a change of state needs evidence from the loss.

    Source: theanets' `recurrent_state`, whose mean over steps and units is reduce="mean_of_means".

    >>> RecurrentState(coefficient=1.0, pattern="rnn").entries(torch.tensor([[[1.0], [3.0], [0.0]]]))
    tensor([[[4.],
             [9.]]])
    """

    default_name: ClassVar[str] = "recurrent_state"

    def entries(self, activation: Tensor) -> Tensor:
        return _states(self, activation).diff(dim=1).square()


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least: sums of squares in half precision overflow."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def _states(regularizer: ActivationRegularizer, activation: Tensor) -> Tensor:
    if activation.ndim != 3:
        raise ValueError(
            f"{type(regularizer).__name__}(pattern={regularizer.pattern!r}) is for states (n, time, units), got "
            f"{tuple(activation.shape)} in {activation.ndim} axes"
        )
    return activation
