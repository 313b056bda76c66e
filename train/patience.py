"""When to stop, and which weights to keep: pure functions of all validation values so far, in order of nominal time.

The rule is that of theanets (downhill's `patience` and `min_improvement`). A value is an improvement over the best one
so far if

    best - value > best · min_improvement        relative, downhill's form
    best - value > min_improvement               with absolute=True

and every improvement becomes the new best. `patience` values without an improvement are tolerated; the one after them
stops. NaN and infinite values are never improvements; the first finite value always is.

Relative improvement needs values > 0: at a best of -1 and min_improvement 0.1 it asks for a value below -0.9, so that a
worse one counts as better. For losses that may be negative (likelihoods, MMD estimates) use absolute=True.
"""

import math
from collections.abc import Sequence
from typing import Literal

from minibatch.arguments import checked_integer

Mode = Literal["min", "max"]


def improvements(
    values: Sequence[float | None], *, min_improvement: float = 0.0, absolute: bool = False, mode: Mode = "min"
) -> list[int]:
    """The places in `values` that improved on the best before them, ascending.

    values: of one term or metric, None where it had no samples. min_improvement: ≥ 0, and < 1 unless `absolute`; 0 asks
    for any improvement. mode: "min" if less is better, "max" if more is; there the rules are `value - best > …`.

    >>> improvements([3.0, 2.5, 2.6, float("nan"), 2.4])
    [0, 1, 4]
    >>> improvements([3.0, 2.5, 2.4], min_improvement=0.1)
    [0, 1]
    """
    least = _checked(min_improvement, absolute, mode)
    best: float | None = None
    found = []
    for place, value in enumerate(values):
        if value is None or not math.isfinite(value):
            continue
        if best is not None:
            gain = best - value if mode == "min" else value - best
            if not gain > (least if absolute else best * least):
                continue
        best = value
        found.append(place)
    return found


def stopped(
    values: Sequence[float | None],
    patience: int = 5,
    min_improvement: float = 0.0,
    *,
    absolute: bool = False,
    mode: Mode = "min",
) -> bool:
    """Whether more than `patience` values in a row, the last ones, were no improvement: tolerates p, stops at p + 1.

    patience: ≥ 0. The other arguments: see `improvements`. Once true it stays true for longer histories only if nothing
    improves; a caller stops at the first true. Source: downhill, `Optimizer._test_patience`.

    >>> stopped([1.0, 1.1, 1.2], patience=2), stopped([1.0, 1.1, 1.2, 1.0], patience=2)
    (False, True)
    """
    tolerated = checked_integer(patience, "patience", least=0)
    found = improvements(values, min_improvement=min_improvement, absolute=absolute, mode=mode)
    return len(values) - (found[-1] + 1 if found else 0) > tolerated


def best(
    values: Sequence[float | None], *, min_improvement: float = 0.0, absolute: bool = False, mode: Mode = "min"
) -> int | None:
    """The place of the last improvement, whose weights are to be kept; None while there is none.

    With min_improvement 0 this is the first of the least (with mode "max", the greatest) finite values; above 0 a later
    value may be slightly better without counting, as in downhill.

    >>> best([3.0, 2.5, 2.6, 2.5]), best([float("nan")])
    (1, None)
    """
    found = improvements(values, min_improvement=min_improvement, absolute=absolute, mode=mode)
    return found[-1] if found else None


def _checked(min_improvement: float, absolute: bool, mode: str) -> float:
    if mode not in ("min", "max"):
        raise ValueError(f"mode={mode!r}: expected 'min' (less is better) or 'max' (more is better)")
    if not (0.0 <= min_improvement < (math.inf if absolute else 1.0)):
        expected = "a finite number ≥ 0" if absolute else "a number from 0 up to, not including, 1: a share of the best"
        raise ValueError(f"min_improvement={min_improvement!r}: expected {expected}")
    return float(min_improvement)
