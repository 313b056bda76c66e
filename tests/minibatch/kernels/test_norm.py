"""`kernels.norm`: the sum of squares over many arrays, exact to float64 rounding, and honest about what has none."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch.kernels.norm import LANES, sum_of_squares

pytestmark = pytest.mark.kernels

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def called(arrays):
    addresses = np.array([array.ctypes.data for array in arrays], np.int64)
    return sum_of_squares(addresses, np.array([array.size for array in arrays], np.int64))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(FLOATS, max_size=30), max_size=6))
def test_the_sum_is_that_of_exact_squares(rows):
    arrays = [np.array(row, np.float32) for row in rows]
    expected = math.fsum(float(x) ** 2 for array in arrays for x in array)
    assert called(arrays) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("count", [0, 1, LANES - 1, LANES, LANES + 1, 3 * LANES + 7])
def test_arrays_longer_than_the_lanes_are_added_whole(count):
    array = np.arange(count, dtype=np.float32)
    assert called([array, np.ones(2, np.float32)]) == float((array.astype(np.float64) ** 2).sum()) + 2.0


def test_the_largest_numbers_do_not_overflow():
    assert called([np.full(4, np.finfo(np.float32).max)]) == pytest.approx(4 * float(np.finfo(np.float32).max) ** 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows(bad):
    assert not math.isfinite(called([np.ones(600, np.float32), np.array([1.0, bad], np.float32)]))
