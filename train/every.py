"""How often something happens in a run: every so many samples, steps, sweeps or minutes.

Samples, steps and sweeps are functions of where the run stands, so that a resumed run does the same things at the same
places. Minutes are not: they may decide when a run is saved, which changes nothing that is computed, and nothing else.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from minibatch import MinibatchSource
from minibatch.arguments import checked_integer
from minibatch.laying import length_fields

if TYPE_CHECKING:
    from minibatch.train.trainer import Trainer

STRETCH = 1 << 16  # rows whose lengths are looked up at once


@dataclass(frozen=True)
class Samples:
    """In the step that reaches or crosses a multiple of `count` samples of nominal time."""

    count: int

    def __post_init__(self) -> None:
        checked_integer(self.count, "count", least=1)


@dataclass(frozen=True)
class Steps:
    """After each step whose number is a multiple of `count`."""

    count: int

    def __post_init__(self) -> None:
        checked_integer(self.count, "count", least=1)


@dataclass(frozen=True)
class Sweeps:
    """In the step that reaches or crosses the end of each `count`-th sweep of the source."""

    count: int = 1

    def __post_init__(self) -> None:
        checked_integer(self.count, "count", least=1)


@dataclass(frozen=True)
class Minutes:
    """After the first step that ends so many minutes of the clock after the last time (or after `fit` began)."""

    count: float

    def __post_init__(self) -> None:
        if not (isinstance(self.count, int | float) and 0 < self.count < math.inf):
            raise ValueError(f"Minutes({self.count!r}): expected a number of minutes above 0")


Every = int | Samples | Steps | Sweeps | Minutes
Due = Callable[[int, tuple[int, int]], bool]  # (step, interval of nominal time) -> whether it is due after this step


def crosses(interval: tuple[int, int], every: int) -> bool:
    """Whether the interval [t0, t1) reaches or crosses a multiple of `every`, other than where it begins.

    >>> crosses((64, 128), 100), crosses((128, 192), 100), crosses((100, 150), 100)
    (True, False, False)
    """
    return interval[1] // every > interval[0] // every


def due(every: Every | None, name: str, rows: int | None, *, minutes: bool = True) -> Due:
    """The question of each step whether `every` has come; an integer counts samples of nominal time, None is never.

    name: of the argument, for errors. rows: of a sweep, None without a source. minutes: whether the clock may decide.
    Raises ValueError and TypeError saying what was expected.

    >>> ask = due(Steps(3), "save_every", None)
    >>> [step for step in range(1, 10) if ask(step, (0, 0))]
    [3, 6, 9]
    """
    if every is None:
        return lambda step, interval: False
    if isinstance(every, Minutes):
        if not minutes:
            raise ValueError(
                f"{name}={every}: what the clock decides differs from run to run, and may only decide when to save; "
                "expected samples (an integer), every.Steps or every.Sweeps"
            )
        return _clock(60.0 * every.count)
    if isinstance(every, Steps):
        steps = every.count
        return lambda step, interval: step % steps == 0
    if isinstance(every, Sweeps):
        if rows is None:
            raise ValueError(f"{name}={every} counts sweeps of a source, and this Trainer has none")
        samples = every.count * rows
    elif isinstance(every, Samples):
        samples = every.count
    else:
        samples = checked_integer(every, name, least=1)
    return lambda step, interval: crosses(interval, samples)


def rows_of(trainer: "Trainer") -> int | None:
    """The samples of a sweep: its rows, or the elements of its sequences where the source counts these.

    None where there is no source, or a joint one, whose parts have sweeps of their own, or one of truncated sequences,
    whose sweeps have no border.
    """
    source = trainer.source
    if not isinstance(source, MinibatchSource) or source.sequences == "truncated":
        return None
    rows = len(source.dataset)
    if source.sequences == "rows":
        return rows
    names = length_fields(source.dataset, source.arguments["length_field"])
    stretches = (np.arange(first, min(first + STRETCH, rows)) for first in range(0, rows, STRETCH))
    return sum(int(source.dataset.lengths(stretch, names).sum()) for stretch in stretches)


def _clock(seconds: float) -> Due:
    last = time.monotonic()

    def ask(step: int, interval: tuple[int, int]) -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last < seconds:
            return False
        last = now
        return True

    return ask
