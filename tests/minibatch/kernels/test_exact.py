"""`kernels.exact`: sums of parts are those of exact fractions, whatever the order; NaN stands for what has none."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch.kernels import exact
from tests.plain import exact as plain

pytestmark = pytest.mark.kernels

ADD = {2: exact.add_two, 3: exact.add_three}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-(2.0**17), 2.0**17), max_size=30), st.sampled_from([2, 3]), st.randoms())
def test_every_level_holds_the_exact_sum_of_its_parts(summands, levels, random):
    expected = [sum(plain.parts(x, levels)[level] for x in summands) for level in range(levels)]
    random.shuffle(summands)
    sums = np.zeros((levels, 1))
    for x in summands:
        ADD[levels](np.array([x]), sums)
    assert sums[:, 0].tolist() == [float(level) for level in expected]


def test_single_precision_values_lose_nothing_above_the_unit():
    values = np.array([1.5, -3e-9, 2e5], np.float32)
    sums = np.zeros((2, 3))
    exact.add_two(values, sums)
    assert (sums[0] + sums[1]).astype(np.float32).tolist() == values.tolist()


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, exact.LIMIT, -exact.LIMIT])
def test_a_summand_beyond_the_limit_makes_the_sum_nan(levels, bad):
    sums = np.zeros((levels, 2))
    ADD[levels](np.array([1.0, bad]), sums)
    ADD[levels](np.array([1.0, -1.0]), sums)
    assert sums[0, 0] == 2.0
    assert math.isnan(sums[0, 1])


def test_units_leave_room_for_all_summands():
    assert 2**53 * exact.UNITS[0] >= exact.MAX_SUMMANDS * exact.LIMIT
    for coarse, fine in zip(exact.UNITS, exact.UNITS[1:], strict=False):
        assert exact.MAX_SUMMANDS * coarse / 2 <= 2**53 * fine
