"""Early stopping is downhill's rule, as a pure function of the values so far."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch.train.patience import best, improvements, stopped
from tests.plain.schedules import Patience

losses = st.lists(st.one_of(st.floats(1e-3, 100.0), st.sampled_from([1.0, 0.9, 0.89, math.nan, math.inf])), max_size=25)


@given(values=losses, patience=st.integers(0, 5), min_improvement=st.sampled_from([0.0, 0.01, 0.1, 0.5]))
def test_it_stops_and_keeps_the_best_where_downhill_does(values, patience, min_improvement):
    machine = Patience(patience, min_improvement)
    for i, value in enumerate(values):
        elapsed = machine.elapsed(value)
        assert stopped(values[: i + 1], patience, min_improvement) == elapsed
        assert best(values[: i + 1], min_improvement=min_improvement) == machine.best_place


def test_so_many_failures_are_tolerated_and_the_next_one_stops():
    values = [1.0] + [1.0] * 5
    assert not stopped(values, patience=5)
    assert stopped([*values, 1.0], patience=5)
    assert not stopped([*values, 0.99], patience=5)
    assert stopped([1.0, 1.0], patience=0)
    assert not stopped([], patience=0)


def test_validations_that_measured_nothing_are_failures_from_the_first_on():
    assert not stopped([math.nan] * 2, patience=2)
    assert stopped([math.nan] * 3, patience=2)
    assert stopped([1.0, math.nan, None, math.inf], patience=2)
    assert best([math.nan, None, -math.inf]) is None


def test_relative_improvement_counts_against_the_best_not_the_value_before():
    assert improvements([1.0, 0.95, 0.91, 0.89], min_improvement=0.1) == [0, 3]
    assert best([1.0, 0.95], min_improvement=0.1) == 0


def test_with_negative_values_the_relative_rule_is_odd_and_the_absolute_one_is_not():
    assert best([-1.0, -0.95], min_improvement=0.1) == 1
    assert best([-1.0, -0.95], min_improvement=0.1, absolute=True) == 0
    assert best([-1.0, -1.05, -1.2], min_improvement=0.1, absolute=True) == 2


@given(values=st.lists(st.floats(-100.0, 100.0), min_size=1, max_size=20))
def test_the_greatest_is_best_where_more_is_better(values):
    assert best(values, mode="max") == values.index(max(values))
    assert best(values) == values.index(min(values))
    assert stopped(values, 3, mode="max") == stopped([-value for value in values], 3)


@pytest.mark.parametrize(
    "options",
    [
        {"patience": -1},
        {"patience": 2.5},
        {"min_improvement": -0.1},
        {"min_improvement": 1.0},
        {"min_improvement": math.nan},
        {"min_improvement": math.inf, "absolute": True},
        {"mode": "less"},
    ],
)
def test_arguments_are_checked(options):
    with pytest.raises((ValueError, TypeError)):
        stopped([1.0], **options)
