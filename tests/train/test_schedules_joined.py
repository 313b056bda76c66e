"""Schedules made of others keep their times, their borders and what they watch."""

from functools import partial

import pytest
import torch

from minibatch.train.schedules import (
    Constant,
    Cosine,
    Exponential,
    Held,
    Linear,
    Newbob,
    Plateau,
    Product,
    Scaled,
    Steps,
    Sum,
    Then,
    Warmup,
    value_at,
    watched,
)

PLATEAU = Plateau(rate=1.0, watches="loss", patience=0, factor=0.5)


def test_pieces_begin_anew_at_their_borders_or_go_on_with_nominal_time():
    parts, borders = (0.5, Linear(1.0, samples=100), lambda t: t), (10, 60)
    anew, on = Then(parts, borders), Then(parts, borders, restart=False)
    assert [anew(t) for t in (0, 9, 10, 59, 60, 61)] == [0.5, 0.5, 1.0, 0.51, 0, 1]
    assert [on(t) for t in (0, 9, 10, 59, 60, 61)] == [0.5, 0.5, 0.9, pytest.approx(0.41), 60, 61]


def test_pieces_agree_with_torchs_sequence_of_schedulers():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.4)
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.1, total_iters=1000),
            torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9),
        ],
        milestones=[5],
    )
    ours = Then((0.04, Exponential(0.4, factor=0.9, samples=32)), borders=(5 * 32,))
    for step in range(20):
        assert ours(step * 32) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), step
        optimizer.step()
        scheduler.step()


def test_products_sums_and_multiples_are_taken_at_the_same_time():
    falling, flat = Linear(1.0, samples=100), 0.5
    for t in (0, 30, 100):
        assert Product((falling, flat, 2))(t) == falling(t)
        assert Sum((falling, flat))(t) == falling(t) + 0.5
        assert Scaled(falling, factor=-2)(t) == -2 * falling(t)
    assert Held(falling, every=40)(79) == falling(40)
    assert Held(falling, every=40)(80) == falling(80)


def test_a_schedule_made_of_others_watches_what_a_part_watches():
    wholes = [
        Warmup(samples=10, then=PLATEAU),
        Then((0.1, PLATEAU), borders=(10,)),
        Scaled(PLATEAU, factor=1.0),
        Product((Cosine(1.0, samples=100), PLATEAU)),
        Sum((0.0, PLATEAU)),
        Held(PLATEAU, every=10),
        Then((0.1, Scaled(Warmup(samples=1, then=PLATEAU), factor=2.0)), borders=(10,)),
    ]
    for whole in wholes:
        assert watched(whole) == "loss"
    for whole in (Warmup(samples=10, then=0.1), Scaled(Constant(0.1), factor=2), Then((0.1, 0.2), borders=(5,))):
        assert watched(whole) is None
        assert not hasattr(whole, "watches")


def test_what_is_watched_reaches_the_part():
    values = ((10, 1.0), (20, 2.0))
    assert Warmup(samples=10, then=PLATEAU)(25, values) == 0.5
    assert Scaled(PLATEAU, factor=3)(25, values) == 1.5
    assert Product((0.1, PLATEAU))(25, values) == 0.05
    assert value_at(PLATEAU, 25, values) == 0.5
    assert value_at(lambda t: t, 25, values) == 25


def test_a_piece_that_restarts_sees_the_validations_since_its_beginning():
    seen = []

    class Spy:
        watches = "loss"

        def __call__(self, t, values):
            seen.append((t, values))
            return 0.1

    values = ((10, 3.0), (20, 2.0), (30, 1.0))
    Then((0.5, Spy()), borders=(20,))(35, values)
    Then((0.5, Spy()), borders=(20,), restart=False)(35, values)
    Held(Spy(), every=25)(35, values)
    assert seen == [(15, ((0, 2.0), (10, 1.0))), (35, values), (25, values[:2])]


def test_what_a_piece_sees_depends_on_the_arguments_alone():
    whole = Then((0.5, PLATEAU), borders=(20,))
    worse, better = ((20, 1.0), (30, 2.0)), ((20, 2.0), (30, 1.0))
    assert [whole(35, values) for values in (worse, better, worse, worse)] == [0.5, 1.0, 0.5, 0.5]
    growing = [(20, 1.0)]
    assert whole(35, growing) == 1.0
    growing.append((30, 2.0))
    assert whole(35, growing) == 0.5
    held = Held(PLATEAU, every=30)
    assert [held(t, worse) for t in (29, 30, 29, 59)] == [1.0, 0.5, 1.0, 0.5]


def test_parts_that_watch_different_values_are_refused():
    other = Newbob(rate=0.1, watches="accuracy", mode="max")
    for make in (lambda: Product((PLATEAU, other)), lambda: Then((PLATEAU, other), borders=(5,))):
        with pytest.raises(ValueError, match=r"watch 'accuracy' and 'loss'; they can watch only one"):
            make()


@pytest.mark.parametrize(
    "make",
    [
        partial(Then, (0.1, 0.2, 0.3), borders=(5,)),
        partial(Then, (0.1, 0.2), borders=(5, 6)),
        partial(Then, (0.1, 0.2, 0.3), borders=(6, 5)),
        partial(Then, (0.1, "cosine"), borders=(5,)),
        partial(Scaled, Constant(0.1), factor=float("inf")),
        partial(Held, Constant(0.1), every=0),
        partial(Sum, (0.1, None)),
    ],
)
def test_parts_are_checked_when_a_schedule_is_made(make):
    with pytest.raises((ValueError, TypeError)):
        make()


def test_steps_inside_a_held_schedule_change_at_the_next_multiple():
    rate = Held(Steps((0.1, 0.01), borders=(1500,)), every=1000)
    assert [rate(t) for t in (1499, 1500, 1999, 2000)] == [0.1, 0.1, 0.1, 0.01]
