"""Sums of floating-point numbers that do not depend on the order of the summands; the twin is tests/plain/exact.py.

Each summand is split into multiples of fixed powers of two, one for each level. Sums of such multiples are exact in
float64 as long as they stay below 2^53 units, so that any order, tree or split over processes gives the same bits.
Source: pre-rounding, Demmel and Nguyen 2013, "Fast Reproducible Floating-Point Summation", with the units fixed.
"""

from typing import Any

import numpy as np

from minibatch.kernels.compile import kernel

MAX_SUMMANDS = 1024
LIMIT = 2.0**18  # of one summand; beyond it, and for NaN, the sum is NaN
# A level's rest is at most half a unit, and MAX_SUMMANDS of them must stay below 2^53 units of the next level.
UNITS = (2.0**-24, 2.0**-67, 2.0**-110)
# x + M - M rounds x to a multiple of the unit: the last bit of numbers near M = 1.5 · 2^52 units is one unit.
_M0, _M1, _M2 = (1.5 * 2.0**52 * unit for unit in UNITS)


@kernel
def add_two(values: Any, sums: Any) -> None:
    """Add values (n,), float32 or float64, to sums float64 (2, n): rounded to multiples of 2^-67."""
    first, second = sums[0], sums[1]
    for i in range(values.shape[0]):
        x: Any = np.float64(values[i])
        x = x if abs(x) < LIMIT else np.nan
        coarse = (x + _M0) - _M0
        first[i] += coarse
        second[i] += ((x - coarse) + _M1) - _M1


@kernel
def add_three(values: Any, sums: Any) -> None:
    """Add values float64 (n,) to sums float64 (3, n): rounded to multiples of 2^-110."""
    first, second, third = sums[0], sums[1], sums[2]
    for i in range(values.shape[0]):
        x: Any = np.float64(values[i])
        x = x if abs(x) < LIMIT else np.nan
        coarse = (x + _M0) - _M0
        rest = x - coarse
        fine = (rest + _M1) - _M1
        first[i] += coarse
        second[i] += fine
        third[i] += ((rest - fine) + _M2) - _M2
