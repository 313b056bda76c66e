"""Minibatch sizes as schedules: integers ≥ 1 at every nominal time."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch.train.schedules import Constant, Growing, Steps, checked_sizes, cntk_sizes, size_at


def test_steps_of_integers_stay_integers():
    sizes = Steps((32, 64, 128), borders=(1000, 3000))
    assert checked_sizes(sizes) is sizes
    assert [size_at(sizes, t) for t in (0, 999, 1000, 3000, 10**12)] == [32, 32, 64, 128, 128]
    assert type(size_at(sizes, 0)) is int
    assert size_at(48, 10**6) == checked_sizes(48) == 48
    assert size_at(Constant(16), 5) == 16


def test_cntk_lists_give_sizes_by_epochs():
    sizes = cntk_sizes([(2, 64), (1, 256), (1, 1024)], epoch_size=100)
    assert [size_at(sizes, t) for t in (0, 199, 200, 299, 300, 10**9)] == [64, 64, 256, 256, 1024, 1024]
    assert size_at(cntk_sizes(64), 0) == 64


@given(
    size=st.integers(1, 50),
    factor=st.sampled_from([1, 1.1, 1.5, 2, 3]),
    samples=st.integers(1, 1000),
    extra=st.integers(0, 1000),
    t=st.integers(0, 10**6),
)
def test_growing_sizes_are_exact_and_never_shrink(size, factor, samples, extra, t):
    growing = Growing(size=size, factor=factor, samples=samples, largest=size + extra)
    i = t // samples
    sizes = [growing(j * samples) for j in range(20)]
    assert sizes == sorted(sizes)
    assert growing(i * samples) == growing((i + 1) * samples - 1) == growing(t)
    if i < 400:
        assert growing(t) == min(round(Fraction(size) * Fraction(factor) ** i), size + extra)
    assert size_at(growing, t) == growing(t)


def test_growing_sizes_are_multiples_where_asked():
    growing = Growing(size=8, factor=1.5, samples=10, largest=64, multiple_of=8)
    assert [growing(t) for t in range(0, 80, 10)] == [8, 16, 16, 24, 40, 64, 64, 64]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: checked_sizes(0), "minibatch_size .* must be at least 1, got 0"),
        (lambda: checked_sizes(32.5), "must be an integer"),
        (
            lambda: checked_sizes(Steps((32, 1.5), borders=(10,))),
            "minibatch size 1 of the schedule .* integer, got 1.5",
        ),
        (lambda: cntk_sizes([64, 0], epoch_size=10), "minibatch size 1 of the schedule .* at least 1, got 0"),
        (lambda: size_at(lambda t: t / 3, 50), "at nominal time 50 .* must be an integer"),
        (lambda: size_at(lambda t: -t, 50), "at nominal time 50 .* must be at least 1, got -50"),
        (lambda: Growing(size=64, factor=0.5, samples=10, largest=64), "factor must be ≥ 1"),
        (lambda: Growing(size=64, factor=2, samples=10, largest=32), "largest=32 is less than the first size, 64"),
        (lambda: Growing(size=64, factor=2, samples=10, largest=100, multiple_of=8), "largest=100 is no multiple of 8"),
        (lambda: Growing(size=1, factor=1.000001, samples=10, largest=10), "only after more than 1000 steps"),
    ],
)
def test_what_is_no_size_is_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
