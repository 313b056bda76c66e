"""Schedules are functions of nominal time, with the values their formulas say."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minibatch.train import schedules
from minibatch.train.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    DiscreteExponential,
    Exponential,
    Linear,
    OneCycle,
    Polynomial,
    Steps,
    Warmup,
)

K = 32  # samples of a step, where torch counts in steps


def rates_of_torch(make, steps, *, lr=0.4, momentum=0.9):
    """The learning rate and momentum that a scheduler of torch sets for each of `steps` steps."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=lr, momentum=momentum)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        group = optimizer.param_groups[0]
        rates.append((group["lr"], group["momentum"]))
        optimizer.step()
        scheduler.step()
    return rates


def test_the_values_are_those_of_the_formulas():
    cosine = Cosine(0.5, samples=1000, last=0.1)
    for t in (0, 1, 250, 999):
        assert cosine(t) == pytest.approx(0.1 + 0.4 * (1 + math.cos(math.pi * t / 1000)) / 2, rel=1e-15)
    assert cosine(1000) == cosine(10**12) == 0.1
    steps = Steps((1.0, 0.1, 0.01), borders=(10, 20))
    assert [steps(t) for t in (0, 9, 10, 19, 20, 10**9)] == [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    assert Exponential(3.0, factor=0.1, samples=100)(250) == pytest.approx(3.0 * 0.1**2.5)
    assert Constant(0.3)(5) == 0.3
    assert Linear(0.5, samples=1000, last=0.1)(250) == pytest.approx(0.5 - 0.4 * 0.25)
    assert Polynomial(0.5, samples=1000, power=0.9, last=0.1)(250) == pytest.approx(0.1 + 0.4 * 0.75**0.9)


def test_warmup_ramps_what_comes_after_it():
    ramp = Warmup(samples=100, then=Cosine(1.0, samples=1000), start=0.5)
    assert ramp(0) == 0.5
    assert ramp(50) == pytest.approx(0.75 * Cosine(1.0, samples=1000)(50))
    assert ramp(100) == Cosine(1.0, samples=1000)(100)
    assert Warmup(samples=0, then=0.3)(0) == 0.3


@pytest.mark.parametrize(
    ("make", "ours"),
    [
        (
            partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=40, eta_min=0.01),
            Cosine(0.4, samples=40 * K, last=0.01),
        ),
        (
            partial(torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, T_0=7, T_mult=2, eta_min=0.01),
            CosineRestarts(0.4, samples=7 * K, factor=2, last=0.01),
        ),
        (
            partial(torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, T_0=5),
            CosineRestarts(0.4, samples=5 * K),
        ),
        (partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9), Exponential(0.4, factor=0.9, samples=K)),
        (
            partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[3, 17], gamma=0.1),
            Steps((0.4, 0.04, 0.004), borders=(3 * K, 17 * K)),
        ),
        (
            partial(torch.optim.lr_scheduler.StepLR, step_size=9, gamma=0.5),
            schedules.Held(Exponential(0.4, factor=0.5, samples=9 * K), every=9 * K),
        ),
        (
            partial(torch.optim.lr_scheduler.PolynomialLR, total_iters=30, power=1.7),
            Polynomial(0.4, samples=30 * K, power=1.7),
        ),
        (
            partial(torch.optim.lr_scheduler.LinearLR, start_factor=0.25, total_iters=20),
            Warmup(samples=20 * K, then=0.4, start=0.25),
        ),
        (
            partial(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.1, total_iters=20),
            Linear(0.4, samples=20 * K, last=0.04),
        ),
        (
            partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
            schedules.Scaled(lambda t: 1 / (1 + t // K), factor=0.4),
        ),
    ],
    ids=lambda value: getattr(getattr(value, "func", value), "__name__", type(value).__name__),
)
def test_schedules_agree_with_those_of_torch_where_a_step_is_so_many_samples(make, ours):
    for step, (rate, _) in enumerate(rates_of_torch(make, 40)):
        assert ours(step * K) == pytest.approx(rate, rel=1e-12, abs=1e-15), step


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_one_cycle_agrees_with_torch_for_rate_and_momentum(shape):
    steps = 50
    make = partial(
        torch.optim.lr_scheduler.OneCycleLR,
        max_lr=0.4,
        total_steps=steps,
        pct_start=0.3,
        anneal_strategy={"cosine": "cos", "linear": "linear"}[shape],
    )
    rise, whole = 14 * K, 49 * K  # torch: 0.3 · 50 - 1 and 50 - 1 steps
    rate = OneCycle(0.4, samples=whole, rise=rise, first=0.4 / 25, last=0.4 / 25 / 1e4, shape=shape)
    momentum = OneCycle(0.85, samples=whole, rise=rise, first=0.95, last=0.95, shape=shape)
    for step, expected in enumerate(rates_of_torch(make, steps - 1)):
        assert (rate(step * K), momentum(step * K)) == pytest.approx(expected, rel=1e-12), step
    assert rate(10**12) == 0.4 / 25 / 1e4


def test_restarts_find_their_place_at_any_nominal_time_exactly():
    rate = CosineRestarts(1.0, samples=3, factor=2, shrink=0.5)
    begins = [3 * (2**i - 1) for i in range(40)]
    for restart, begin in enumerate(begins):
        assert rate(begin) == 0.5**restart
        if restart:
            assert rate(begin - 1) < 0.5 ** (restart - 1)
    assert CosineRestarts(1.0, samples=10**6 + 3)(10**12 * (10**6 + 3)) == 1.0


@given(
    levels=st.integers(2, 9),
    samples=st.integers(1, 10**15),
    t=st.integers(0, 2 * 10**15),
    border=st.integers(1, 9),
    after_border=st.booleans(),
)
def test_discrete_levels_change_at_exact_borders(levels, samples, t, border, after_border):
    rate = DiscreteExponential(1.0, factor=1e-3, levels=levels, samples=samples, after_border=after_border)

    def level(at):
        passed = sum(
            at * levels > i * samples if after_border else at * levels >= i * samples for i in range(1, levels)
        )
        return 1e-3 ** (passed / (levels - 1))

    for at in (t, border * samples // levels, border * samples // levels + 1):
        assert rate(at) == pytest.approx(level(at), rel=1e-12)


@pytest.mark.parametrize(
    "curve",
    [
        Linear(1.0, samples=997, last=0.1),
        Polynomial(1.0, samples=997, power=2.5, last=0.1),
        Cosine(1.0, samples=997, last=0.1),
        Exponential(1.0, factor=0.1, samples=997),
        DiscreteExponential(1.0, factor=0.1, levels=7, samples=997),
        Steps((1.0, 0.5, 0.1), borders=(100, 997)),
    ],
    ids=lambda curve: type(curve).__name__,
)
def test_curves_that_fall_never_rise_and_end_where_they_say(curve):
    values = [curve(t) for t in range(1200)]
    assert values[0] == 1.0
    assert all(before >= after for before, after in pairwise(values))
    assert values[997] == pytest.approx(0.1, rel=1e-15)


@pytest.mark.parametrize("borders", [(10,), (20, 10), (10, 10)])
def test_steps_need_ascending_borders_and_one_rate_more(borders):
    with pytest.raises(ValueError, match="ascending"):
        Steps((1.0, 0.1, 0.01), borders=borders)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(math.nan), "Constant: rate must be finite, got nan"),
        (lambda: Constant("0.1"), "Constant: rate must be a number, got '0.1' of type str"),
        (lambda: Constant(True), "Constant: rate must be a number"),
        (lambda: Steps((0.1, math.inf), borders=(5,)), "Steps: rate 1 must be finite"),
        (lambda: Steps((0.1, 0.2), borders=(-5,)), r"Steps: border 0 \(in samples\) must be at least 0, got -5"),
        (lambda: Steps((0.1, 0.2), borders=(5.5,)), r"Steps: border 0 \(in samples\) must be an integer, got 5.5"),
        (lambda: Cosine(0.1, samples=0), r"Cosine: samples \(in samples\) must be at least 1, got 0"),
        (lambda: Cosine(0.1, samples=10, last=math.nan), "Cosine: last must be finite"),
        (lambda: Polynomial(0.1, samples=10, power=0), "Polynomial: power must be > 0, got 0"),
        (lambda: Exponential(0.1, factor=0, samples=10), "Exponential: factor must be > 0, got 0"),
        (lambda: CosineRestarts(0.1, samples=10, factor=1.5), "factor=1.5 is not an integer"),
        (lambda: DiscreteExponential(0.1, 0.1, levels=1, samples=10), "levels must be ≥ 2, got 1"),
        (lambda: DiscreteExponential(0.1, 0.1, levels=2.5, samples=10), "levels=2.5 is not an integer"),
        (lambda: OneCycle(0.1, samples=10, rise=11, first=0, last=0), "rise=11 is longer than the whole cycle of 10"),
        (lambda: OneCycle(0.1, samples=10, rise=1, first=0, last=0, shape="cos"), "expected 'cosine' or 'linear'"),
        (lambda: Warmup(samples=-1, then=0.1), "Warmup: samples"),
        (lambda: Warmup(samples=1, then="cosine"), "Warmup: part 0 must be a number, got 'cosine'"),
    ],
)
def test_arguments_are_checked_when_a_schedule_is_made(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_a_million_may_be_written_as_a_float():
    assert Cosine(0.1, samples=1e6) == Cosine(0.1, samples=1_000_000)
    assert type(Cosine(0.1, samples=1e6).samples) is int
