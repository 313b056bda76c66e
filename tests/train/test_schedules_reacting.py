"""Schedules that react to validation are pure functions of all values so far, and equal to machines that keep state."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from minibatch.train import Metric
from minibatch.train.schedules import Newbob, Plateau
from tests.plain import schedules as plain
from tests.train import small

numbers = st.one_of(st.floats(0.01, 10.0), st.sampled_from([0.5, 0.5, 0.6, 0.601, math.nan]))
histories = st.lists(numbers, max_size=30)


def timed(values):
    return tuple((100 * (i + 1), value) for i, value in enumerate(values))


@given(
    values=histories,
    factor=st.sampled_from([0.1, 0.5]),
    patience=st.integers(0, 3),
    threshold=st.sampled_from([0.0, 1e-4, 0.2]),
    relative=st.booleans(),
    mode=st.sampled_from(["min", "max"]),
    cooldown=st.integers(0, 3),
    least=st.sampled_from([0.0, 0.05]),
)
def test_plateau_is_torchs_reduce_on_plateau(values, factor, patience, threshold, relative, mode, cooldown, least):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.4)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode=mode,
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode="rel" if relative else "abs",
        cooldown=cooldown,
        min_lr=least,
    )
    ours = Plateau(
        rate=0.4,
        watches="loss",
        factor=factor,
        patience=patience,
        threshold=threshold,
        relative=relative,
        mode=mode,
        cooldown=cooldown,
        least=least,
    )
    for i, value in enumerate(values):
        scheduler.step(value)
        assert ours(0, timed(values[: i + 1])) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


@given(values=histories, factor=st.sampled_from([0.5, 0.7]), stop=st.sampled_from([0.0, 0.005, 0.1]))
@example(values=[0.5, 0.6, 0.601, 0.7, 0.7005], factor=0.5, stop=0.001)
def test_newbob_is_the_machine_that_ramps_once_improvement_is_too_small(values, factor, stop):
    values = [value for value in values if not math.isnan(value)]
    machine = plain.Newbob(0.8, factor, 0.005, stop)
    ours = Newbob(rate=0.8, watches="accuracy", mode="max", factor=factor, threshold=0.005, stop=stop)
    for i, value in enumerate(values):
        machine.measured(value)
        assert ours(0, timed(values[: i + 1])) == pytest.approx(machine.rate, rel=1e-12)
        assert ours.finished(timed(values[: i + 1])) == machine.finished


def test_newbob_counts_from_the_validation_before_and_never_stops_falling():
    rate = Newbob(rate=1.0, watches="error", threshold=0.1)
    values = [5.0, 4.0, 3.95, 1.0, 0.5]
    assert [rate(0, timed(values[:n])) for n in range(6)] == [1.0, 1.0, 1.0, 0.5, 0.25, 0.125]
    relative = Newbob(rate=1.0, watches="error", threshold=0.1, relative=True)
    assert relative(0, timed([100.0, 91.0])) == 0.5
    assert relative(0, timed([100.0, 89.0])) == 1.0


def test_what_could_not_be_measured_is_no_improvement():
    assert Plateau(rate=1.0, watches="x", patience=0, factor=0.5)(0, timed([1.0, math.nan, None])) == 0.25
    assert Newbob(rate=1.0, watches="x")(0, timed([1.0, None])) == 0.5
    assert Newbob(rate=1.0, watches="x")(0, timed([1.0, math.nan, 0.1])) == 0.25


@pytest.mark.parametrize("schedule", [Plateau(rate=0.4, watches="x", patience=0), Newbob(rate=0.4, watches="x")])
def test_the_value_depends_on_the_arguments_alone(schedule):
    long, short = timed([1.0, 2.0, 3.0]), timed([1.0])
    first = schedule(7, long)
    assert schedule(7, short) == 0.4
    assert schedule(7) == 0.4
    assert schedule(10**9, list(long)) == schedule(7, timed([1.0, 2.0, 3.0])) == first != 0.4
    changing = [(1, 1.0)]
    assert schedule(0, changing) == 0.4
    changing += [(2, 2.0)]
    assert schedule(0, changing) < 0.4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Plateau(rate=0.1, watches=""), "expected the name of a term or metric"),
        (lambda: Plateau(rate=-0.1, watches="x"), "Plateau: rate must be ≥ 0"),
        (lambda: Plateau(rate=0.1, watches="x", factor=1.0), "factor=1.0 does not reduce the rate"),
        (lambda: Plateau(rate=0.1, watches="x", patience=-1), "Plateau: patience must be at least 0"),
        (lambda: Plateau(rate=0.1, watches="x", patience=1.5), "Plateau: patience must be an integer"),
        (lambda: Plateau(rate=0.1, watches="x", mode="less"), "expected 'min' .* or 'max'"),
        (lambda: Newbob(rate=0.1, watches="x", factor=0), "Newbob: factor must be > 0 and ≤ 1"),
        (lambda: Newbob(rate=0.1, watches=None), "expected the name"),
        (lambda: Newbob(rate=math.nan, watches="x"), "Newbob: rate must be finite"),
    ],
)
def test_arguments_are_checked_when_it_is_made(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_a_trainer_gives_it_the_validations_so_far(tmp_path):
    data = small.write(tmp_path / "data")
    worse = Metric("worse", lambda outputs, batch: outputs["logits"][:, 0] * 0 + 1)
    rate = Plateau(rate=0.4, watches="worse", patience=1, factor=0.5)
    with small.make_source(data) as source:
        trainer = small.make_trainer(source, schedules=rate, validation=data, metrics=(worse,))
        rates = []
        for _ in range(6):
            trainer.validate()
            rates.append(trainer.train_minibatch().learning_rates[0])
    assert rates == [0.4, 0.4, 0.2, 0.2, 0.1, 0.1]
