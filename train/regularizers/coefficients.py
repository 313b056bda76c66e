"""What all regularizers share: a coefficient that may depend on nominal time, the three ways to reduce, and a name."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_args

from minibatch.models.outputs import Pattern, matches

Coefficient = float | Callable[[int], float]
Reduce = Literal["sum", "mean", "mean_of_means"]


@dataclass(frozen=True, kw_only=True)
class Regularizer:
    """A part of the objective beside the losses: coefficient · (something of weights or activations).

    coefficient: a number ≥ 0, or a function of nominal time in samples. pattern: a shell pattern of names, or several.
    name: how the value is reported; by default the kind's own, with the pattern where several of a kind would clash.
    """

    default_name: ClassVar[str] = "regularizer"

    coefficient: Coefficient
    pattern: Pattern = "*"
    name: str = ""

    def __post_init__(self) -> None:
        if not callable(self.coefficient):
            checked_coefficient(self, self.coefficient)

    def matches(self, name: str) -> bool:
        """Whether the regularizer is for the parameter or module called `name`."""
        return matches(name, self.pattern)


Kind = TypeVar("Kind", bound=Regularizer)


def checked_coefficient(regularizer: Regularizer, value: Any, time: int | None = None) -> float:
    """`value` as a coefficient, finite and ≥ 0; ValueError saying whose it is, and when."""
    number = float(value)
    if not (math.isfinite(number) and number >= 0.0):
        when = "" if time is None else f" at nominal time {time}"
        raise ValueError(
            f"{type(regularizer).__name__}: coefficient={value!r}{when}, expected a finite number ≥ 0, or a function "
            "of nominal time that gives one"
        )
    return number


def coefficient_at(regularizer: Regularizer, time: int | None) -> float:
    """The coefficient at nominal `time`; a constant needs none."""
    coefficient = regularizer.coefficient
    if not callable(coefficient):
        return float(coefficient)
    if time is None:
        raise TypeError(f"{type(regularizer).__name__} has a scheduled coefficient, which needs the nominal time")
    return checked_coefficient(regularizer, coefficient(time), time)


def checked_reduce(regularizer: Regularizer, reduce: str) -> None:
    if reduce not in get_args(Reduce):
        raise ValueError(
            f"{type(regularizer).__name__}: reduce={reduce!r}, expected one of {', '.join(map(repr, get_args(Reduce)))}"
        )


def named(regularizers: Sequence[Regularizer], taken: Iterable[str] = ()) -> dict[str, Regularizer]:
    """The regularizers by the names under which they are reported, in their order.

    taken: names that are in use already (terms). Raises ValueError where two have one name.

    >>> from minibatch.train.regularizers import WeightL1, WeightL2
    >>> list(named([WeightL2(coefficient=1.0, pattern="body.*"), WeightL2(coefficient=2.0, pattern="head.*"),
    ...             WeightL1(coefficient=1.0)]))
    ['weight_l2[body.*]', 'weight_l2[head.*]', 'weight_l1']
    """
    wrong = [type(one).__name__ for one in regularizers if not isinstance(one, Regularizer)]
    if wrong:
        raise TypeError(f"regularizers: got {', '.join(wrong)}, expected WeightL2, WeightL1, HiddenL1, Contractive, …")
    unnamed = Counter(one.default_name for one in regularizers if not one.name)
    names = []
    for one in regularizers:
        name = one.name or one.default_name
        if not one.name and unnamed[name] > 1:
            pattern = one.pattern if isinstance(one.pattern, str) else ", ".join(one.pattern)
            name = f"{name}[{pattern}]"
        names.append(name)
    counted = Counter([*names, *taken])
    doubled = sorted(name for name in set(names) if counted[name] > 1)
    if doubled:
        raise ValueError(
            f"regularizers and terms need different names, several are called {', '.join(doubled)}: set name="
        )
    return dict(zip(names, regularizers, strict=True))


def of_kind(regularizers: Sequence[Regularizer], kind: type[Kind]) -> dict[str, Kind]:
    """Those of `regularizers` that are of `kind`, by the names that they have among all."""
    return {name: one for name, one in named(regularizers).items() if isinstance(one, kind)}
