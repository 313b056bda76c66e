"""Regularizers that depend on the parameters alone, chosen by patterns of parameter names.

The three ways to reduce are those in which theanets defined "the same" regularizer, over the T matching tensors W:
    "sum"             coefficient · Σ_W Σ_i f(w_i)              its text
    "mean"            coefficient · Σ_W mean_i f(w_i)           its code, version 0.6
    "mean_of_means"   coefficient · (1/T) Σ_W mean_i f(w_i)     its code, version 0.7
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from minibatch.train.regularizers.coefficients import Reduce, Regularizer, checked_reduce


@dataclass(frozen=True, kw_only=True)
class WeightRegularizer(Regularizer):
    """For the parameters that match `pattern` and have `least_axes` axes or more.

    least_axes: 2, the default, leaves out biases and the gains of normalisation; 1 takes every parameter that matches.
    """

    least_axes: int = 2


@dataclass(frozen=True, kw_only=True)
class WeightPenalty(WeightRegularizer):
    """coefficient · reduction of f(w) over the matching parameters; reduce: see the top of weights.py."""

    factor: ClassVar[float] = 1.0  # f(w) is factor · |w|^power
    power: ClassVar[int] = 2

    reduce: Reduce = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_reduce(self, self.reduce)

    def scale(self, weight: Tensor, tensors: int) -> float:
        """What Σ |w|^power of one of so many matching tensors counts, without the coefficient."""
        if self.reduce == "sum":
            return self.factor
        return self.factor / max(1, weight.numel()) / (tensors if self.reduce == "mean_of_means" else 1)


@dataclass(frozen=True, kw_only=True)
class WeightL2(WeightPenalty):
    """coefficient · Σ w² over the parameters that match `pattern` and have two or more axes (so no biases, no gains).

    There is no ½: the gradient is 2 · coefficient · w. pattern: a shell pattern of qualified names. Source: theanets'
    `weight_l2`; Krogh and Hertz 1991, equation 4, with λ = 2 · coefficient. reduce: see the top of weights.py;
    least_axes: see WeightRegularizer.

    >>> WeightL2(coefficient=1e-4, pattern="layers.0.*").matches("layers.0.weight")
    True
    """

    default_name: ClassVar[str] = "weight_l2"


@dataclass(frozen=True, kw_only=True)
class WeightPrior(WeightL2):
    """coefficient / 2 · Σ w²: the negative logarithm of a normal prior of precision `coefficient`, so a decay by it.

    HALCON's `weight_prior` (all weights, no biases); the same as weight_decay=coefficient of torch's SGD.

    >>> WeightPrior(coefficient=0.5).factor
    0.5
    """

    factor: ClassVar[float] = 0.5
    default_name: ClassVar[str] = "weight_prior"


@dataclass(frozen=True, kw_only=True)
class WeightL1(WeightPenalty):
    """coefficient · Σ |w|; the gradient is coefficient · sign(w), and 0 where w = 0.

    proximal: instead of a gradient, w becomes sign(w) · max(|w| - rate · coefficient, 0) after the optimizer's step,
    with the learning rate of the parameter's group: weights then become exactly 0. It is the proximal step of plain
    SGD (Daubechies et al. 2004, arXiv:math/0307152), and what CNTK does after any learner, momentum and Adam included.

    Source: theanets' `weight_l1`; Tibshirani 1996. reduce: see the top of weights.py; least_axes: see
    WeightRegularizer.

    >>> WeightL1(coefficient=1e-4, reduce="mean").default_name
    'weight_l1'
    """

    power: ClassVar[int] = 1
    default_name: ClassVar[str] = "weight_l1"

    proximal: bool = False


@dataclass(frozen=True, kw_only=True)
class MaxNorm(WeightRegularizer):
    """Bounds the 2-norm of the weights into each unit: after the optimizer's step, longer ones are scaled to `limit`.

    `coefficient` is the limit, a number > 0 or a function of nominal time. axis: of the units; 0 for Linear and Conv
    layers and embeddings, 1 for transposed convolutions. It has no part in the objective and no reported value.
    Source: Srebro and Shraibman 2005; Srivastava et al. 2014, JMLR 15, section 5.1; cuda-convnet2's `wball`.

    >>> MaxNorm(coefficient=3.0, pattern="layers.*").axis
    0
    """

    default_name: ClassVar[str] = "max_norm"

    axis: int = 0

    def __post_init__(self) -> None:
        if not callable(self.coefficient) and not (math.isfinite(self.coefficient) and self.coefficient > 0):
            raise ValueError(f"MaxNorm: coefficient={self.coefficient!r}, expected the largest norm, a number > 0")
