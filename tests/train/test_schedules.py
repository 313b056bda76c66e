"""Schedules are functions of nominal time, with the values their formulas say."""

import math

import pytest

from minibatch.train.schedules import Constant, Cosine, Exponential, Steps, Warmup


def test_the_values_are_those_of_the_formulas():
    cosine = Cosine(0.5, samples=1000, last=0.1)
    for t in (0, 1, 250, 999):
        assert cosine(t) == pytest.approx(0.1 + 0.4 * (1 + math.cos(math.pi * t / 1000)) / 2, rel=1e-15)
    assert cosine(1000) == cosine(10**12) == 0.1
    steps = Steps((1.0, 0.1, 0.01), borders=(10, 20))
    assert [steps(t) for t in (0, 9, 10, 19, 20, 10**9)] == [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    assert Exponential(3.0, factor=0.1, samples=100)(250) == pytest.approx(3.0 * 0.1**2.5)
    assert Constant(0.3)(5) == 0.3


def test_warmup_ramps_what_comes_after_it():
    ramp = Warmup(samples=100, then=Cosine(1.0, samples=1000), start=0.5)
    assert ramp(0) == 0.5
    assert ramp(50) == pytest.approx(0.75 * Cosine(1.0, samples=1000)(50))
    assert ramp(100) == Cosine(1.0, samples=1000)(100)
    assert Warmup(samples=0, then=0.3)(0) == 0.3


@pytest.mark.parametrize("borders", [(10,), (20, 10), (10, 10)])
def test_steps_need_ascending_borders_and_one_rate_more(borders):
    with pytest.raises(ValueError, match="ascending"):
        Steps((1.0, 0.1, 0.01), borders=borders)
