"""CNTK's lists and units: values by sample, and conversions that lead back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch.train.schedules import (
    Constant,
    Steps,
    cntk_list,
    momentum_at,
    rate_per_minibatch,
    rate_per_sample,
    time_constant,
)
from tests.plain.schedules import cntk_values, cntk_weights


@given(
    pairs=st.lists(st.tuples(st.integers(1, 4), st.floats(0.0, 1.0)), min_size=1, max_size=5),
    epoch_size=st.integers(1, 7),
)
def test_every_sample_gets_the_value_of_its_epoch(pairs, epoch_size):
    schedule = cntk_list(pairs, epoch_size=epoch_size)
    samples = sum(count for count, _ in pairs) * epoch_size + 20
    assert [schedule(t) for t in range(samples)] == cntk_values(pairs, epoch_size, samples)
    values = [value for _, value in pairs]
    alone = cntk_list(values, epoch_size=epoch_size)
    assert [alone(t) for t in range(60)] == cntk_values([(1, value) for value in values], epoch_size, 60)


def test_the_last_value_lasts_for_ever_and_may_have_the_count_0():
    schedule = cntk_list([(2, 0.1), (0, 0.01)], epoch_size=100)
    assert schedule == Steps((0.1, 0.01), borders=(200,))
    assert cntk_list(0.1) == cntk_list([0.1]) == cntk_list([(5, 0.1)]) == Constant(0.1)


@pytest.mark.parametrize(
    ("values", "epoch_size", "message"),
    [
        ([], 5, "the list is empty"),
        ([0.1, (2, 0.2)], 5, "mixes values and pairs"),
        ([(1, 0.1, 3), (2, 0.2, 3)], 5, "mixes values and pairs"),
        ([0.1, 0.2], None, r"needs epoch_size, its unit in samples: len\(dataset\)"),
        ([(0, 0.1), (1, 0.2)], 5, "count 0 .* must be at least 1"),
        ([0.1, 0.2], 0, "epoch_size .* must be at least 1"),
        ([0.1, math.inf], 5, "must be finite"),
    ],
)
def test_lists_that_cannot_be_read_are_refused(values, epoch_size, message):
    with pytest.raises(ValueError, match=message):
        cntk_list(values, epoch_size=epoch_size)


@given(rate=st.floats(1e-6, 10.0), size=st.integers(1, 10_000), momentum=st.floats(0.0, 0.999), gain=st.booleans())
def test_rates_go_to_samples_and_back(rate, size, momentum, gain):
    per_sample = rate_per_sample(rate, size, momentum=momentum, unit_gain=gain)
    assert per_sample == pytest.approx(rate / (size * ((1 - momentum) if gain else 1)), rel=1e-12)
    assert rate_per_minibatch(per_sample, size, momentum=momentum, unit_gain=gain) == pytest.approx(rate, rel=1e-12)


@given(momentum=st.floats(0.001, 0.9999), size=st.integers(1, 10_000))
def test_momentum_goes_to_a_time_constant_and_back(momentum, size):
    tau = time_constant(momentum, size)
    assert tau == pytest.approx(-size / math.log(momentum), rel=1e-12)
    assert momentum_at(tau, size) == pytest.approx(momentum, rel=1e-9)


def test_no_momentum_is_a_time_constant_of_0():
    assert time_constant(0.0, 64) == 0.0
    assert momentum_at(0.0, 64) == 0.0


def test_a_time_constant_is_one_momentum_per_sample_whatever_the_minibatch_size():
    assert momentum_at(1100, 256) == pytest.approx(momentum_at(1100, 64) ** 4, rel=1e-12)


def test_the_converted_rate_does_what_the_usual_rate_did():
    # Classical momentum on means: v = 0.9 v + 0.1 · mean g; w -= v. CNTK's: unit gain on sums, rate per sample.
    gradients = [[0.3, -1.0, 2.0, 0.4], [1.0, 1.5, -0.2, 0.0], [0.7, 0.1, 0.1, -3.0]]
    weight = velocity = 0.0
    for minibatch in gradients:
        velocity = 0.9 * velocity + 0.1 * sum(minibatch) / 4
        weight -= velocity
    rate, tau = rate_per_sample(0.1, 4, momentum=0.9), time_constant(0.9, 4)
    assert cntk_weights(gradients, rate, tau, unit_gain=True) == pytest.approx(weight, rel=1e-12)
    plain_rate = rate_per_sample(0.1, 4, momentum=0.9, unit_gain=False)
    assert cntk_weights(gradients, plain_rate, tau, unit_gain=False) == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rate_per_sample(0.1, 0),
        lambda: rate_per_sample(0.1, 64, momentum=1.0),
        lambda: time_constant(-0.1, 64),
        lambda: momentum_at(-5, 64),
        lambda: momentum_at(math.inf, 64),
        lambda: momentum_at(100, 0),
        lambda: momentum_at(100, 6.5),
    ],
)
def test_units_are_checked(make):
    with pytest.raises((ValueError, TypeError)):
        make()
