"""Recipes of several trainings, one after the other, each with an optimizer made anew: theanets' calls of `train`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training: the name of an optimizer and its options. Every stage begins with fresh optimizer state.

    >>> Stage(optimizer="nag", options={"learning_rate": 0.01, "momentum": 0.9}).options["momentum"]
    0.9
    """

    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, str) or not self.optimizer:
            raise ValueError(f"Stage: optimizer={self.optimizer!r}: expected the name of an optimizer")


def theanets_newbob(exponents: Sequence[int] = (-2, -3, -4)) -> tuple[Stage, ...]:
    """The "newbob" recipe of theanets' manual: nag at rates 10^e with momentum 1 - 10^(e + 1), then rmsprop at 1e-4.

    Each stage ends by its own early stopping (patience.py) and begins with fresh optimizer state. exponents: < 0.

    >>> [(stage.optimizer, *stage.options.values()) for stage in theanets_newbob()]
    [('nag', 0.01, 0.9), ('nag', 0.001, 0.99), ('nag', 0.0001, 0.999), ('rmsprop', 0.0001, 0.9)]
    """
    for e in exponents:
        if not isinstance(e, int) or e >= 0:
            raise ValueError(f"theanets_newbob: exponent {e!r}: expected an integer < 0, so that momentum is ≥ 0")
    # As decimal fractions: 1 - 10**-2 is 0.99, where 10.0**e would have the rounding of a power.
    rates = [1 / 10**-e for e in exponents]
    stages = [
        Stage(optimizer="nag", options={"learning_rate": rate, "momentum": 1 - 10 * 1 / 10**-e})
        for e, rate in zip(exponents, rates, strict=True)
    ]
    return (*stages, Stage(optimizer="rmsprop", options={"learning_rate": 0.0001, "momentum": 0.9}))
