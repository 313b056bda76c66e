"""`kernels.permute`: hashes and permutations are their plain twins, bijections of every domain, and fair.

Domains up to 1024 are shuffled, larger ones run through a Feistel network: every test stands on both sides of that.
"""

import math
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from minibatch.kernels import permute
from minibatch.kernels.compile import JIT_DISABLED
from tests import fairness
from tests.plain import order as plain
from tests.plain import rng as plain_rng

KEY = plain_rng.key(7, "test.kernels")
words = st.integers(0, 2**64 - 1)
domains = st.one_of(
    st.integers(1, 40),
    st.integers(1000, 1100),
    st.integers(1, 5000),
    st.integers(1, 2**62),
    st.integers(32, 2**31).flatmap(lambda side: st.integers(-2, 2).map(lambda off: side * side + off)),  # squares
    st.integers(10, 61).flatmap(lambda power: st.integers(-2, 2).map(lambda off: 2**power + off)),
)
needs_jit = pytest.mark.skipif(JIT_DISABLED, reason="takes minutes without the JIT; smaller ones run")


def write_inverses(n: int, key: np.uint64, images: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    for i in range(images.shape[0]):
        out[i] = permute.permute_point(n, key, images[i], False)


def write_permutations(n: int, key: np.uint64, out: NDArray[np.int64]) -> None:
    for i in range(out.shape[0]):
        permute.permute_span(n, permute.absorb(key, np.uint64(i)), 0, out[i])


# Compiled anew on every run: a cached loop would go on calling the kernels it was compiled with, whatever they are now.
compiled_inverses: Any = numba.njit(write_inverses)
compiled_permutations: Any = numba.njit(write_permutations)


def span(n: int, key: int, start: int, count: int) -> NDArray[np.int64]:
    """The images of the places start … start + count − 1."""
    out = np.empty(count, np.int64)
    permute.permute_span(n, np.uint64(key), start, out)
    return out


def points(n: int, key: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The images of any places."""
    out = np.empty(len(places), np.int64)
    permute.permute_points(n, np.uint64(key), places, out)
    return out


def back(n: int, key: int, images: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of which these are the images."""
    out = np.empty(len(images), np.int64)
    compiled_inverses(n, np.uint64(key), images, out)
    return out


def permutations(n: int, count: int, purpose: str) -> NDArray[np.int64]:
    """Whole permutations of n with `count` keys: int64 (count, n)."""
    out = np.empty((count, n), np.int64)
    compiled_permutations(n, np.uint64(plain_rng.key(7, purpose)), out)
    return out


# --- equal to the twins -------------------------------------------------------------------------------------------


@given(words, words)
def test_hashes_are_the_twins(key: int, word: int) -> None:
    assert int(permute.mix64(np.uint64(word))) == plain_rng.mix64(word)
    assert int(permute.absorb(np.uint64(key), np.uint64(word))) == plain_rng.absorb(key, word)
    assert int(permute.draw(np.uint64(key), np.uint64(word))) == plain_rng.draw(key, word)


@given(st.integers(0, 2**32 - 1))
def test_scatter32_is_the_twin(word: int) -> None:
    assert int(permute.scatter32(np.uint32(word))) == plain.scatter32(word)


@given(words)
def test_round_keys_are_the_twin(key: int) -> None:
    assert tuple(permute.round_keys(np.uint64(key)).tolist()) == plain.round_keys(key)


@given(domains)
@example(2**62)
@example(2**53 + 1)  # where a float no longer holds every integer
@example(2**52 + 2**27 + 1)
@example((2**31 - 1) ** 2 + 1)
@example((2**31 - 1) ** 2)
@example(94906267**2 + 1)  # the first square whose successor a float cannot hold
def test_the_rectangle_is_the_twin_at_any_size(n: int) -> None:
    a, b = (int(side) for side in permute.sides(n))
    assert (a, b) == plain.rectangle(n)
    assert a % 2 == 0
    assert (a - 2) ** 2 < n <= a * b < n + a


def test_the_rectangle_is_the_twin_up_to_5000() -> None:
    for n in range(1, 5001):
        assert tuple(int(side) for side in permute.sides(n)) == plain.rectangle(n)


@given(domains, words, st.data())
def test_a_span_is_the_twin(n: int, key: int, data: st.DataObject) -> None:
    start = data.draw(st.one_of(st.integers(0, n), st.just(max(0, n - 3))), label="start")
    count = data.draw(st.integers(0, min(n - start, 20)), label="count")
    assert span(n, key, start, count).tolist() == [plain.perm(n, key, p) for p in range(start, start + count)]


@given(domains, words, st.data())
def test_points_and_their_inverses_are_the_twin(n: int, key: int, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, n - 1), max_size=8), label="places")
    images = points(n, key, np.array(places, np.int64))
    assert images.tolist() == [plain.perm(n, key, p) for p in places]
    assert back(n, key, images).tolist() == places == [plain.perm_inverse(n, key, int(image)) for image in images]
    for place, image in zip(places, images.tolist(), strict=True):
        assert permute.permute_point(n, np.uint64(key), place, True) == image


@pytest.mark.parametrize("n", [1024, 1025, 1057, 1089, 3000])
def test_a_whole_domain_is_the_twin(n: int) -> None:
    if JIT_DISABLED and n > 1100:
        pytest.skip("smaller ones run")
    assert span(n, KEY, 0, n).tolist() == [plain.perm(n, KEY, p) for p in range(n)]


# --- spans may be cut anywhere ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [600, 1024, 1025, 1100, 2**40 + 1])
def test_a_span_does_not_depend_on_where_blocks_begin(n: int) -> None:
    length = min(n, 1100 if JIT_DISABLED else 5000)  # several blocks of 512
    start = (n - length) // 2
    whole = span(n, KEY, start, length)
    for cut in (0, 1, 31, 33, 511, 512, 513, length - 1, length):
        if cut <= length:
            halves = span(n, KEY, start, cut), span(n, KEY, start + cut, length - cut)
            assert np.array_equal(np.concatenate(halves), whole)
    assert np.array_equal(points(n, KEY, np.arange(start, start + length)), whole)


@pytest.mark.parametrize("n", [5, 1024, 1025, 2**40 + 1])
def test_points_may_be_written_over_the_places(n: int) -> None:
    places = np.random.default_rng(0).integers(0, n, 700)
    expected = points(n, KEY, places)
    permute.permute_points(n, np.uint64(KEY), places, places)
    assert np.array_equal(places, expected)


@pytest.mark.parametrize("n", [5, 1025])
def test_a_kernel_writes_its_output_and_nothing_else(n: int) -> None:
    guarded = np.full(7, -1)
    permute.permute_span(n, np.uint64(KEY), 1, guarded[2:5])
    assert guarded[[0, 1, 5, 6]].tolist() == [-1] * 4
    assert guarded[2:5].tolist() == [plain.perm(n, KEY, p) for p in (1, 2, 3)]
    permute.permute_span(n, np.uint64(KEY), n, guarded[:0])  # nothing, from the end: allowed


# --- bijections ---------------------------------------------------------------------------------------------------

SMALL = [*range(1, 20), 31, 32, 33, 100, 1023, 1024, 1025, 1026, 1056, 1057, 1089, 1090]


def test_every_domain_up_to_5000_is_permuted_and_inverted() -> None:
    for n in SMALL if JIT_DISABLED else range(1, 5001):
        key = plain_rng.key(n, "test.bijection")
        images = span(n, key, 0, n)
        assert np.array_equal(np.sort(images), np.arange(n)), f"perm({n}, {key}) is no bijection"
        step = 50 if JIT_DISABLED else 1
        assert np.array_equal(back(n, key, images[::step]), np.arange(n)[::step]), f"perm({n}, {key}) is not inverted"


@pytest.mark.parametrize("power", [*range(10, 41), 50, 53, 60, 61])
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_domains_about_powers_of_two_are_permuted_and_inverted(power: int, off: int) -> None:
    n = 2**power + off
    generator = np.random.default_rng(power)
    some = 10 if JIT_DISABLED else 5000
    ends = np.concatenate([np.arange(min(n, some)), np.arange(max(0, n - some), n)])
    places = np.unique(np.concatenate([ends, generator.integers(0, n, some)]))

    images = points(n, KEY, places)
    assert images.min() >= 0
    assert images.max() < n
    assert len(np.unique(images)) == len(places), "two places have one image"
    assert np.array_equal(back(n, KEY, images), places)
    assert np.array_equal(points(n, KEY, back(n, KEY, places)), places)  # inverse first, then forward


@needs_jit
@pytest.mark.parametrize("n", [10**6, 2**20 - 1, 2**20 + 1, 1025 * 1025, 1025 * 1025 + 1])
def test_a_large_domain_is_permuted_whole(n: int) -> None:
    images = span(n, KEY, 0, n)
    assert np.bincount(images, minlength=n).tolist() == [1] * n
    assert np.array_equal(back(n, KEY, images), np.arange(n))


@needs_jit
@pytest.mark.parametrize("n", [2**40 + 1, 2**62])
def test_a_million_neighbouring_places_have_distinct_images(n: int) -> None:
    images = span(n, KEY, n // 3, 1_000_000)
    assert len(np.unique(images)) == len(images)
    assert np.array_equal(back(n, KEY, images[:100_000]), np.arange(n // 3, n // 3 + 100_000))


# --- fairness -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(2, 8))
def test_every_permutation_of_few_places_is_equally_likely(n: int) -> None:
    each = 5 if JIT_DISABLED else 200
    found = permutations(n, math.factorial(n) * each, "test.uniform")
    codes = (found * n ** np.arange(n)).sum(axis=1)
    counts = np.unique(codes, return_counts=True)[1]
    counts = np.concatenate([counts, np.zeros(math.factorial(n) - len(counts), int)])  # those that never came
    assert abs(fairness.of_counts(counts, each)) < 4


@needs_jit
@pytest.mark.parametrize("n", [100, 1000, 1024, 1025, 1026, 1057, 1089, 1100])
def test_every_place_is_equally_likely_to_go_anywhere(n: int) -> None:
    count = 10_000  # about ten in each of the n² cells
    found = permutations(n, count, "test.cells")
    cells = np.bincount((found + np.arange(n) * n).ravel(), minlength=n * n).reshape(n, n)
    assert abs(fairness.of_image_counts(cells, count)) < 4
    assert abs(fairness.of_counts(cells[0], count / n)) < 4  # the first place by itself: what a user sees first
    assert abs(fairness.of_counts(cells[-1], count / n)) < 4


@needs_jit
@pytest.mark.parametrize("n", [1000, 1025, 1057, 1100, 2000])
def test_two_places_keep_nothing_of_their_distance(n: int) -> None:
    """Neighbours on the axis or in the rectangle, and places far apart; images near, in one column, in one row."""
    count = 20_000
    found = permutations(n, count, "test.pairs")
    a, _ = plain.rectangle(n)
    for p, q in [(0, 1), (0, a), (0, a + 1), (a - 1, a), (0, n // 2), (0, n - 1)]:
        differences = np.bincount((found[:, q] - found[:, p]) % n, minlength=n)[1:]
        assert abs(fairness.of_counts(differences, count / (n - 1))) < 4, f"places {p} and {q}"
        for side in (np.mod, np.floor_divide):  # column and row of the rectangle
            sizes = np.bincount(side(np.arange(n), a))
            chance = float((sizes * (sizes - 1)).sum()) / (n * (n - 1))
            together = float((side(found[:, p], a) == side(found[:, q], a)).sum())
            z = (together - count * chance) / math.sqrt(count * chance * (1 - chance))
            assert abs(z) < 4, f"places {p} and {q} meet in one line of the rectangle"


@needs_jit
@pytest.mark.parametrize("n", [1000, 1025, 1057, 2000])
def test_rows_at_some_distance_are_not_shown_at_some_distance(n: int) -> None:
    count = 20_000
    found = permutations(n, count, "test.lags")
    a, b = plain.rectangle(n)
    for lag in (1, 2, a - 1, a, a + 1, b):
        differences = found[:, lag:] - found[:, :-lag]
        for distance in (-1, 1, 2, -a, a, a + 1, b - 2):
            expected = count * (n - lag) * (n - abs(distance)) / (n * (n - 1))
            z = fairness.of_events(float((differences == distance).sum()), expected)
            assert abs(z) < 4.5, f"rows {distance} apart at places {lag} apart"  # the worst of 42


@needs_jit
@pytest.mark.parametrize("n", [1000, 1025, 2000])
def test_fixed_points_and_repetitions_are_as_rare_as_chance(n: int) -> None:
    count = 20_000
    found = permutations(n, count, "test.fixed")
    assert abs(fairness.of_events(float((found == np.arange(n)).sum()), count)) < 4  # one in each, on average
    assert abs(fairness.of_events(float((found[1:] == found[:-1]).sum()), count - 1)) < 4  # from key to key as well


@needs_jit
@pytest.mark.parametrize("n", [10**6, 10**6 + 1, 2**20 + 1])
def test_one_long_permutation_looks_random(n: int) -> None:
    images = span(n, KEY, 0, n)
    a, b = plain.rectangle(n)
    lags = sorted({*range(1, 200), a - 1, a, a + 1, 2 * a, b, b + 1, n // 2})
    assert np.abs(fairness.lag_correlations(images, lags)).max() < 4.5  # the worst of 200
    assert abs(fairness.of_ascents(images)) < 4
    for classes in (2, 10, 1000):  # data sorted by class
        assert abs(fairness.of_runs(images * classes // n)) < 4
