"""The order-independent sum in exact fractions: what minibatch/kernels/exact.py computes in floating point."""

import math
from collections.abc import Sequence
from fractions import Fraction

UNITS = (Fraction(1, 2**24), Fraction(1, 2**67), Fraction(1, 2**110))
LIMIT = 2**18


def rounded(x: Fraction, unit: Fraction) -> Fraction:
    """The nearest multiple of `unit`, the even one of two."""
    return round(x / unit) * unit


def parts(x: float, levels: int) -> list[Fraction]:
    """x as multiples of the first `levels` units; what is left is lost."""
    rest, found = Fraction(x), []
    for unit in UNITS[:levels]:
        found.append(rounded(rest, unit))
        rest -= found[-1]
    return found


def exact_sum(summands: Sequence[float], levels: int) -> float:
    """The float64 that is nearest to the sum of the summands' parts, summed from the finest level to the coarsest."""
    if any(not abs(x) < LIMIT for x in summands):
        return math.nan
    sums = [sum((parts(x, levels)[level] for x in summands), Fraction(0)) for level in range(levels)]
    total = float(sums[-1])
    for level in reversed(sums[:-1]):
        total = float(level) + total
    return total
