"""Draws against its plain twin: the numbers of a sample are those of (seed, operation, nominal time), whoever else is
in the minibatch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch.rng import Draws
from tests.plain import transforms as plain
from tests.plain.source import PlainDraws

pytestmark = pytest.mark.kernels

seeds = st.integers(0, 2**64 - 1)
times = st.lists(st.integers(0, 2**62) | st.integers(0, 50), max_size=8)
shapes = st.sampled_from([(), (1,), (3,), (2, 3), (0,), (2, 0)])
kinds = st.sampled_from(["bits", "uniform", "integers", "normal"])


@given(seeds, st.text(max_size=12), times, st.lists(st.tuples(kinds, shapes, st.integers(1, 2**32)), max_size=5))
def test_draws_are_those_of_the_twin_one_call_after_another(seed, operation, at, calls):
    draws = Draws(seed, operation, np.array(at, np.int64))
    twins = [PlainDraws(seed, operation, t) for t in at]
    for kind, shape, bound in calls:
        count = int(np.prod(shape, dtype=int))
        if kind == "bits":
            values, dtype = draws.bits(shape), np.uint64
            expected = [[twin.word() for _ in range(count)] for twin in twins]
        elif kind == "uniform":
            values, dtype = draws.uniform(shape), np.float64
            expected = [[twin.uniform() for _ in range(count)] for twin in twins]
        elif kind == "integers":
            values, dtype = draws.integers(bound, shape), np.int64
            expected = [[twin.integer(bound) for _ in range(count)] for twin in twins]
        else:
            values, dtype = draws.normal(shape), np.float64
            expected = [twin.normals(count) for twin in twins]
        assert (values.dtype, values.shape) == (dtype, (len(at), *shape))
        flat = values.reshape(len(at), count)
        if kind == "normal":  # logarithm and cosine: the last bit is the C library's
            assert np.allclose(flat, np.array(expected).reshape(len(at), count), rtol=1e-13, atol=1e-15)
        else:
            assert flat.tolist() == expected


@pytest.mark.parametrize("kind", ["bits", "uniform", "normal"])
def test_the_numbers_of_a_sample_do_not_depend_on_the_others(kind):
    at = np.array([5, 0, 2**61, 5, 17])
    whole = getattr(Draws(7, "crop", at), kind)((2, 3))
    assert np.array_equal(whole[0], whole[3]), "one time, one draw"
    for lo in range(5):
        for hi in range(lo, 6):
            assert np.array_equal(getattr(Draws(7, "crop", at[lo:hi]), kind)((2, 3)), whole[lo:hi])
    assert np.array_equal(getattr(Draws(7, "crop", at[::-2]), kind)((2, 3)), whole[::-2])


def test_another_seed_operation_time_or_call_gives_other_numbers():
    at = np.arange(100)
    draws = Draws(7, "crop", at)
    seen = [draws.bits(), draws.bits(), Draws(8, "crop", at).bits(), Draws(7, "crop.1", at).bits()]
    seen += [Draws(7, "crop", at + 100).bits(), draws.bits((3,)).reshape(-1)]
    everything = np.concatenate(seen)
    assert len(np.unique(everything)) == len(everything)


def test_draws_are_uniform_and_normal_over_times():
    draws = Draws(0, "test", np.arange(20_000))
    uniform, normal, die = draws.uniform(), draws.normal((2,)), draws.integers(6)
    assert abs(uniform.mean() - 0.5) < 4 / np.sqrt(12 * 20_000)
    assert abs(normal.mean()) < 4 / np.sqrt(40_000)
    assert abs(normal.var() - 1) < 4 * np.sqrt(2 / 40_000)
    assert abs(np.corrcoef(normal.T)[0, 1]) < 4 / np.sqrt(20_000)
    assert abs(np.corrcoef(uniform[1:], uniform[:-1])[0, 1]) < 4 / np.sqrt(20_000), "neighbours in time"
    counts = np.bincount(die, minlength=6)
    assert ((counts - 20_000 / 6) ** 2 / (20_000 / 6)).sum() < 25  # chi-square of 5 degrees, p = 1e-4


@pytest.mark.parametrize("bound", [0, -1, 2**32 + 1])
def test_integers_beyond_32_bits_are_refused(bound):
    with pytest.raises(ValueError, match="bound must be in 1"):
        Draws(0, "test", np.arange(3)).integers(bound)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises((TypeError, ValueError), match="seed must be"):
        Draws(seed, "test", np.arange(3))


@given(seeds, times, shapes, st.sampled_from([0.01, 0.3, 1.0, 2.5, 100.0]), st.sampled_from([0.05, 1.0, 7.0]))
def test_beta_numbers_are_those_of_the_twin(seed, at, shape, alpha, beta):
    draws = Draws(seed, "mix", np.array(at, np.int64))
    draws.bits((3,))
    values = draws.beta(alpha, beta, shape)
    assert (values.dtype, values.shape) == (np.float64, (len(at), *shape))
    for t, row in zip(at, values.reshape(len(at), values[:1].size), strict=True):
        twin, used = PlainDraws(seed, "mix", t), 0
        twin.used = 3
        stream = twin.word()
        for number in row:
            expected, used = plain.beta(stream, alpha, beta, used)
            assert np.isclose(number, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.1), (0.4, 2.0), (1.0, 1.0), (3.0, 1.5), (50.0, 20.0)])
def test_beta_numbers_have_their_mean_variance_and_median(alpha, beta):
    values = Draws(0, "test", np.arange(20_000)).beta(alpha, beta)
    assert ((values >= 0) & (values <= 1)).all()
    mean, total = alpha / (alpha + beta), alpha + beta
    variance = alpha * beta / (total**2 * (total + 1))
    assert abs(values.mean() - mean) < 4 * np.sqrt(variance / 20_000)
    assert abs(values.var() - variance) < 0.05 * variance
    if alpha == beta:
        assert abs((values < 0.5).mean() - 0.5) < 4 * 0.5 / np.sqrt(20_000)
    other = Draws(0, "test", np.arange(20_000)).beta(alpha, beta, (2,))
    assert np.array_equal(other[:, 0], values), "the first number is the same however many are asked for"
    assert abs(np.corrcoef(other.T)[0, 1]) < 4 / np.sqrt(20_000)


@pytest.mark.parametrize(("alpha", "beta"), [(0, 1), (1, -1), (float("nan"), 1), (1, float("inf"))])
def test_an_impossible_beta_distribution_is_refused(alpha, beta):
    with pytest.raises(ValueError, match="alpha and beta must be finite and above 0, got"):
        Draws(0, "test", np.arange(3)).beta(alpha, beta)


def test_draws_know_their_rows_where_they_are_given():
    at = np.arange(3)
    assert Draws(0, "test", at).rows is None
    draws = Draws(0, "test", at, np.array([5, 2, 9], np.int32))
    assert draws.rows.tolist() == [5, 2, 9]
    assert draws.rows.dtype == np.int64
    assert np.array_equal(draws.bits(), Draws(0, "test", at).bits()), "rows change no number"
    with pytest.raises(ValueError, match=r"rows and times must be of one shape, got \(2,\), \(3,\)"):
        Draws(0, "test", at, np.arange(2))


def test_dropped_samples_add_up_and_change_no_number():
    draws = Draws(0, "test", np.arange(4))
    assert draws.dropped.tolist() == [False] * 4
    draws.drop(np.array([False, True, False, False]))
    draws.drop(np.array([False, False, False, True]))
    assert draws.dropped.tolist() == [False, True, False, True]
    assert np.array_equal(draws.bits(), Draws(0, "test", np.arange(4)).bits())


@pytest.mark.parametrize("mask", [np.zeros(3, bool), np.array([1, 2]), np.zeros((4, 1), bool), np.zeros(4), True])
def test_a_mask_must_have_one_bool_for_each_sample(mask):
    with pytest.raises(ValueError, match=r"drop takes one bool per sample, bool \(4,\), got"):
        Draws(0, "test", np.arange(4)).drop(mask)
