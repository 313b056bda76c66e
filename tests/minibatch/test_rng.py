"""`minibatch.rng` is its plain twin, its numbers look random, and its keys never meet."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch import rng
from minibatch.kernels.compile import JIT_DISABLED
from tests import fairness
from tests.plain import rng as plain

pytestmark = pytest.mark.kernels

words = st.integers(0, 2**64 - 1)
times = st.lists(st.integers(0, 2**63 - 1), max_size=5)
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
NUMBERS = 2_000 if JIT_DISABLED else 1_000_000


# --- equal to the twin --------------------------------------------------------------------------------------------


@given(words)
def test_mix64_is_the_twin(word: int) -> None:
    assert rng.mix64(word) == plain.mix64(word)


@given(words, words)
def test_absorb_is_the_twin(key: int, coordinate: int) -> None:
    assert rng.absorb(key, coordinate) == plain.absorb(key, coordinate)


@given(words, st.text(), st.lists(words, max_size=4))
def test_a_key_is_the_twin(seed: int, purpose: str, coordinates: list[int]) -> None:
    assert rng.key(seed, purpose, *coordinates) == plain.key(seed, purpose, *coordinates)


@given(words, words, st.text())
def test_a_coordinate_more_is_one_key_absorbed(seed: int, coordinate: int, purpose: str) -> None:
    assert rng.key(seed, purpose, 3, coordinate) == rng.absorb(rng.key(seed, purpose, 3), coordinate)


@given(words, st.lists(words, max_size=8))
def test_bits_are_the_twin(key: int, indices: list[int]) -> None:
    found = rng.bits(key, np.array(indices, np.uint64))
    assert found.dtype == np.uint64
    assert found.tolist() == [plain.draw(key, i) for i in indices]


@given(words, st.lists(words, max_size=8))
def test_uniform_numbers_are_the_twin_to_the_last_bit(key: int, indices: list[int]) -> None:
    found = rng.uniform(key, np.array(indices, np.uint64))
    assert found.dtype == np.float64
    assert found.tolist() == [plain.uniform(key, i) for i in indices]


@given(words, st.lists(words, max_size=8))
def test_normal_numbers_are_the_twin_up_to_the_last_bits(key: int, indices: list[int]) -> None:
    found = rng.normal(key, np.array(indices, np.uint64))
    assert found.dtype == np.float64
    assert found.tolist() == pytest.approx([plain.normal(key, i) for i in indices], rel=1e-12, abs=1e-15)


@given(words, st.lists(words, max_size=8), st.integers(1, 2**32))
def test_integers_are_the_twin(key: int, indices: list[int], bound: int) -> None:
    found = rng.integers(key, np.array(indices, np.uint64), bound)
    assert found.dtype == np.int64
    assert found.tolist() == [plain.integer(key, i, bound) for i in indices]


# --- keys never meet ----------------------------------------------------------------------------------------------


def test_keys_of_neighbouring_seeds_sweeps_and_purposes_never_meet() -> None:
    purposes = ("order.full", "order.chunks", "order.window", "")
    side = range(100 if JIT_DISABLED else 250)  # 250,000 keys: two meet by chance with probability 2e-9
    keys = {rng.key(seed, purpose, sweep) for purpose in purposes for seed in side for sweep in side}
    assert len(keys) == len(purposes) * len(side) ** 2


def test_a_seed_more_is_not_a_sweep_more() -> None:
    for seed, sweep in itertools.product(range(20), range(20)):
        assert rng.key(seed, "order.full", sweep + 1) != rng.key(seed + 1, "order.full", sweep)
        assert rng.key(seed, "order.full", sweep) != rng.key(sweep, "order.full", seed) or seed == sweep


def test_windows_of_one_sweep_never_meet_those_of_another() -> None:
    side = range(20)
    keys = {rng.key(seed, "order.window", sweep, window) for seed in side for sweep in side for window in side}
    keys |= {rng.key(seed, "order.window", sweep) for seed in side for sweep in side}
    keys |= {rng.key(seed, "order.window") for seed in side}
    assert len(keys) == 20**3 + 20**2 + 20


def test_the_number_of_coordinates_is_part_of_a_key() -> None:
    assert len({rng.key(0, "x", *[0] * count) for count in range(10)}) == 10


@pytest.mark.parametrize("what", ["seed", "coordinate"])
def test_one_bit_of_a_seed_or_coordinate_changes_half_of_the_bits_of_a_key(what: str) -> None:
    flips = []
    for base, bit in itertools.product(range(40), range(64)):
        other = base ^ (1 << bit)
        pair = (
            (rng.key(base, "x", 5), rng.key(other, "x", 5))
            if what == "seed"
            else (rng.key(5, "x", base), rng.key(5, "x", other))
        )
        flips.append((pair[0] ^ pair[1]).bit_count())
    # 2,560 times a binomial of 64 tosses: its mean has a standard deviation of 4 / √2560
    assert abs(np.mean(flips) - 32) / (4 / math.sqrt(len(flips))) < 4
    assert min(flips) > 8


# --- numbers look random ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [0, 1, plain.key(7, "test.rng")])
def test_uniform_numbers_fill_the_unit_interval_evenly(key: int) -> None:
    numbers = rng.uniform(key, np.arange(NUMBERS))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    bins = 64 if JIT_DISABLED else 4096
    assert abs(fairness.of_counts(np.bincount((numbers * bins).astype(int), minlength=bins), NUMBERS / bins)) < 4
    assert np.abs(fairness.lag_correlations(numbers, [1, 2, 3, 64])).max() < 4


def test_every_bit_of_a_word_is_a_fair_coin() -> None:
    drawn = rng.bits(plain.key(7, "test.rng"), np.arange(NUMBERS))
    ones = [int(((drawn >> np.uint64(bit)) & np.uint64(1)).sum()) for bit in range(64)]
    assert max(abs(count - NUMBERS / 2) for count in ones) < 5 * math.sqrt(NUMBERS / 4)


def test_normal_numbers_have_the_moments_of_a_normal_distribution() -> None:
    numbers = rng.normal(plain.key(7, "test.rng"), np.arange(NUMBERS))
    # the variances of x, x², x³ and x⁴ for a normal x
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((numbers**power).mean() - expected) < 4 * math.sqrt(variance / NUMBERS), f"moment {power}"
    share_beyond_two = 0.0455002639
    assert abs(fairness.of_events(float((np.abs(numbers) > 2).sum()), NUMBERS * share_beyond_two)) < 4
    assert np.abs(fairness.lag_correlations(numbers, [1, 2, 3])).max() < 4


@pytest.mark.parametrize("bound", [2, 3, 10, 1000])
def test_integers_are_evenly_distributed(bound: int) -> None:
    if JIT_DISABLED and bound > 100:
        pytest.skip("too few numbers without the JIT")
    numbers = rng.integers(plain.key(7, "test.rng"), np.arange(NUMBERS), bound)
    counts = np.bincount(numbers, minlength=bound)
    assert len(counts) == bound
    assert abs(fairness.of_counts(counts, NUMBERS / bound)) < 4


def test_streams_of_neighbouring_seeds_are_uncorrelated() -> None:
    count = NUMBERS // 20
    streams = [rng.uniform(rng.key(seed, "test.rng"), np.arange(count)) - 0.5 for seed in range(20)]
    # the product of two numbers uniform in ±1/2 has standard deviation 1/12
    z = [12 * (a * b).sum() / math.sqrt(count) for a, b in itertools.combinations(streams, 2)]
    assert np.abs(z).max() < 5


# --- a number is a function of its index alone --------------------------------------------------------------------

DRAWS = [
    pytest.param(rng.bits, id="bits"),
    pytest.param(rng.uniform, id="uniform"),
    pytest.param(rng.normal, id="normal"),
    pytest.param(lambda key, indices: rng.integers(key, indices, 1000), id="integers"),
]


@pytest.mark.parametrize("draw", DRAWS)
def test_a_number_depends_on_its_index_and_on_nothing_around_it(draw: Any) -> None:
    key = plain.key(7, "test.rng")
    all_at_once = draw(key, np.arange(1000))
    for part in (slice(0, 1), slice(3, 17), slice(990, 1000), slice(0, 1000, 7), slice(None, None, -1)):
        assert np.array_equal(draw(key, np.arange(1000)[part]), all_at_once[part])
    shuffled = np.random.default_rng(0).permutation(1000)
    assert np.array_equal(draw(key, shuffled), all_at_once[shuffled])
    assert np.array_equal(draw(key, np.array([5, 5, 5])), all_at_once[[5, 5, 5]])


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("shape", [(0,), (12,), (3, 4), (2, 3, 2), (12, 1), (4, 0)])
def test_the_shape_of_the_indices_is_the_shape_of_the_numbers(draw: Any, shape: tuple[int, ...]) -> None:
    indices = np.arange(math.prod(shape)).reshape(shape)
    found = draw(7, indices)
    assert found.shape == shape
    assert np.array_equal(found.ravel(), draw(7, indices.ravel()))
    transposed = draw(7, indices.T)  # not contiguous in memory
    assert np.array_equal(transposed, found.T)


@pytest.mark.parametrize("draw", DRAWS)
def test_every_integer_type_of_index_gives_the_same_numbers(draw: Any) -> None:
    expected = draw(7, list(range(20)))
    for dtype in (np.uint64, np.int64, np.int32, np.uint8):
        assert np.array_equal(draw(7, np.arange(20, dtype=dtype)), expected)


@pytest.mark.parametrize("draw", DRAWS)
def test_one_index_gives_one_number(draw: Any) -> None:
    assert draw(7, 3).shape == ()
    assert draw(7, 3) == draw(7, [3])[0]


@pytest.mark.parametrize("draw", DRAWS)
def test_indices_are_never_written(draw: Any) -> None:
    indices = np.arange(10, dtype=np.uint64)
    indices.setflags(write=False)
    found = draw(7, indices)
    found[:] = 0  # and what is returned belongs to the caller
    assert indices.tolist() == list(range(10))


# --- draws for the samples of a minibatch -------------------------------------------------------------------------


@given(words, st.text(max_size=5), times, st.lists(shapes, min_size=1, max_size=3))
def test_words_of_a_sample_are_the_stream_of_its_nominal_time(
    seed: int, operation: str, times: list[int], calls: list[tuple[int, ...]]
) -> None:
    draws = rng.Draws(seed, operation, np.array(times, np.int64))
    used = 0
    for shape in calls:
        found = draws.bits(shape)
        size = math.prod(shape)
        keys = [plain.key(seed, "transform." + operation, t) for t in times]
        expected = [plain.draw(key, i) for key in keys for i in range(used, used + size)]
        assert found.shape == (len(times), *shape)
        assert found.ravel().tolist() == expected
        used += size


def test_numbers_of_other_kinds_are_made_of_the_same_words() -> None:
    def draws() -> rng.Draws:
        return rng.Draws(7, "flip", np.arange(5))

    bits = draws().bits((3, 2))
    assert np.array_equal(draws().uniform((3, 2)), (bits >> np.uint64(11)) / 2**53)
    assert np.array_equal(
        draws().integers(10, (3, 2)), [[[(int(x) >> 32) * 10 >> 32 for x in r] for r in s] for s in bits]
    )
    keys = draws().bits()
    normal = draws().normal((4,))
    assert normal.shape == (5, 4)
    for key, own in zip(keys.tolist(), normal.tolist(), strict=True):
        assert own == pytest.approx([plain.normal(key, i) for i in range(4)], rel=1e-12, abs=1e-15)


KINDS_OF_DRAWS = [
    pytest.param(lambda draws, shape: draws.bits(shape), id="bits"),
    pytest.param(lambda draws, shape: draws.uniform(shape), id="uniform"),
    pytest.param(lambda draws, shape: draws.integers(1000, shape), id="integers"),
    pytest.param(lambda draws, shape: draws.normal(shape), id="normal"),
]


@pytest.mark.parametrize("kind", KINDS_OF_DRAWS)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,), (2, 0)])
def test_a_sample_is_given_the_same_numbers_in_every_minibatch(kind: Any, shape: tuple[int, ...]) -> None:
    times = np.random.default_rng(0).permutation(60)[:40]  # a rank's part, with holes, in any order
    whole = [kind(draws, shape) for draws in [rng.Draws(7, "crop", np.arange(60))] for _ in range(3)]
    part = [kind(draws, shape) for draws in [rng.Draws(7, "crop", times)] for _ in range(3)]
    for all_numbers, own in zip(whole, part, strict=True):
        assert own.shape == (40, *shape)
        assert np.array_equal(own, all_numbers[times])
    if math.prod(shape) > 0:
        assert not np.array_equal(whole[0], whole[1]), "successive calls give new numbers"


def test_draws_of_other_seeds_operations_and_times_are_others() -> None:
    found = [
        rng.Draws(seed, operation, np.arange(20)).bits((5,)).ravel()
        for seed, operation in itertools.product((0, 1, 2), ("flip", "crop", ""))
    ]
    assert len(np.unique(found)) == len(found) * 100


def test_draws_of_neighbouring_samples_are_uncorrelated() -> None:
    samples = NUMBERS // 20
    numbers = rng.Draws(7, "flip", np.arange(samples)).uniform((4,))
    for column in numbers.T:
        assert np.abs(fairness.lag_correlations(column, [1, 2, 3])).max() < 4
    assert np.abs(fairness.lag_correlations(numbers.ravel(), [1, 2, 3, 4])).max() < 4
    normal = rng.Draws(7, "noise", np.arange(samples // 10)).normal((4,))
    assert abs(normal.mean()) < 4 / math.sqrt(normal.size)
    assert abs((normal**2).mean() - 1) < 4 * math.sqrt(2 / normal.size)
    assert np.abs(fairness.lag_correlations(normal.ravel(), [1, 4])).max() < 4


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1.0, "7", None, True, np.float64(3), np.True_, [7]])
def test_a_seed_that_is_no_integer_is_refused(seed: Any) -> None:
    with pytest.raises(TypeError, match="seed must be an integer, got"):
        rng.key(seed, "x")


@pytest.mark.parametrize("seed", [-1, 2**64, -(2**70)])
def test_a_seed_outside_of_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"seed must be .*0.*, got {seed}"):
        rng.key(seed, "x")


@pytest.mark.parametrize("seed", [7, np.int64(7), np.uint8(7), np.array(7)])
def test_every_kind_of_integer_is_a_seed(seed: Any) -> None:
    assert rng.key(seed, "x") == plain.key(7, "x")
    assert type(rng.checked_seed(seed)) is int


@pytest.mark.parametrize("coordinate", [np.int64(3), np.uint64(3), np.int8(3)])
def test_a_number_of_numpy_is_a_coordinate(coordinate: Any) -> None:
    assert rng.key(7, "x", coordinate) == plain.key(7, "x", 3)


@pytest.mark.parametrize("coordinate", [-1, 2**64])
def test_a_coordinate_that_would_wrap_into_another_is_refused(coordinate: int) -> None:
    with pytest.raises(ValueError, match="coordinate"):
        rng.key(7, "x", coordinate)


@pytest.mark.parametrize(
    "indices",
    [
        [-1],
        [0.5],
        np.array([-1]),
        np.array([0.5]),
    ],
)
def test_indices_that_would_be_repaired_are_refused(indices: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        rng.bits(7, indices)


@pytest.mark.parametrize("bound", [0, -1, 2**32 + 1])
def test_a_bound_outside_of_its_range_is_refused(bound: int) -> None:
    with pytest.raises(ValueError, match=rf"bound must be in 1 … .*, got {bound}"):
        rng.integers(7, [0], bound)
