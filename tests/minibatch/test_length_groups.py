"""Orders grouped by length are their plain twin, orders in every respect, and save padding on real data."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from minibatch import rng
from minibatch.kernels.compile import JIT_DISABLED
from minibatch.length_groups import (
    WINDOWS_KEPT,
    GroupedOrder,
    LengthGroups,
    make_grouped_order,
    padded_fraction,
)
from minibatch.mixture import Mixture
from minibatch.order import Window, make_order
from minibatch.timeline import Stretch
from tests.plain import order as plain_order
from tests.plain.length_groups import Grouped

pytestmark = pytest.mark.kernels
DATA = Path(__file__).parents[3] / "shared" / "data"
KINDS = ["full", "windowed", "sequential"]


def lengths_of(spread: int) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """Lengths that are all over the place, many of them equal: 0 … spread - 1."""
    return lambda rows: (rows * 2_654_435_761 % 2**32 % spread).astype(np.int64)


def twins(kind: str, rows: int, window: int, group: int, seed: int, spread: int = 9) -> tuple[GroupedOrder, Grouped]:
    """A grouped order over a base of some kind, and its twin."""
    chunk = min(4, rows)
    windowed = Window(rows=3 * chunk, chunk_rows=chunk)
    base: Any = {"full": "full", "windowed": windowed, "sequential": None}[kind]
    twin_base: Any = {
        "full": lambda: plain_order.Full(rows=rows, seed=seed),
        "windowed": lambda: plain_order.Windowed(
            rows=rows, chunk_rows=chunk, window_chunks=min(3, -(-rows // chunk)), seed=seed
        ),
        "sequential": lambda: plain_order.Sequential(rows=rows),
    }[kind]()
    groups = LengthGroups(rows=window, group=group, base=base)
    lengths = lengths_of(spread)
    order = make_grouped_order(groups, rows=rows, chunk_rows=chunk, seed=seed, lengths=lengths)
    length = lambda row: int(lengths(np.array([row]))[0])  # noqa: E731
    window = min(window, rows)
    return order, Grouped(base=twin_base, seed=seed, window_rows=window, group=min(group, window), length=length)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[GroupedOrder, Grouped]:
    """Any grouped order of few rows, and its twin."""
    window = draw(st.integers(1, 50), label="window")
    group = draw(st.integers(1, window), label="group")
    rows = draw(st.integers(1, 90), label="rows")
    spread = draw(st.sampled_from([1, 2, 9, 1000, 100_000]), label="spread")
    return twins(draw(st.sampled_from(KINDS)), rows, window, group, draw(st.integers(0, 2**64 - 1)), spread)


# --- equal to the twin --------------------------------------------------------------------------------------------


@given(pairs(), st.one_of(st.integers(0, 3), st.integers(0, 2**40)))
def test_a_sweep_is_the_twins(pair: tuple[GroupedOrder, Grouped], sweep: int) -> None:
    order, twin = pair
    rows = order.rows_at(sweep * order.rows, order.rows)
    assert rows.dtype == np.int64
    assert rows.tolist() == twin.sweep(sweep)


@given(pairs(), st.integers(0, 3))
def test_every_sweep_has_every_row_once_and_time_of_finds_it(pair: tuple[GroupedOrder, Grouped], sweep: int) -> None:
    order, _ = pair
    start = sweep * order.rows
    rows = order.rows_at(start, order.rows).tolist()
    assert sorted(rows) == list(range(order.rows))
    assert [order.time_of(row, sweep) for row in rows] == list(range(start, start + order.rows))


@given(pairs(), st.integers(0, 200), st.lists(st.integers(0, 70), max_size=6))
def test_an_interval_may_be_cut_anywhere(pair: tuple[GroupedOrder, Grouped], start: int, cuts: list[int]) -> None:
    order, twin = pair
    pieces, time = [], start
    for count in cuts:
        pieces += order.rows_at(time, count).tolist()
        time += count
    assert pieces == [twin.row(t % order.rows, t // order.rows) for t in range(start, time)]


@given(pairs(), st.integers(0, 50), st.integers(0, 9), st.integers(0, 30), st.integers(0, 9))
def test_a_stretch_is_its_runs(
    pair: tuple[GroupedOrder, Grouped], start: int, length: int, gap: int, count: int
) -> None:
    order, _ = pair
    stretch = Stretch(start=start, length=length, stride=max(1, length + gap), count=count)
    out = np.full(stretch.samples, -1)
    order.fill_stretch(stretch, out)
    assert out.tolist() == [row for run in stretch.runs() for row in order.rows_at(run.start, len(run)).tolist()]


def test_more_groups_than_a_small_domain_are_the_twins() -> None:
    order, twin = twins("full", 5000, 5000, 2, 7, spread=300)
    assert order.rows_at(5000, 5000).tolist() == twin.sweep(1)


# --- what it promises ---------------------------------------------------------------------------------------------


@given(pairs())
def test_windows_hold_the_rows_of_the_base_order_in_whole_groups_sorted_by_length(
    pair: tuple[GroupedOrder, Grouped],
) -> None:
    order, _ = pair
    for begin in range(0, order.rows, order.window_rows):
        count = min(order.window_rows, order.rows - begin)
        rows, base = order.rows_at(begin, count), order.base.rows_at(begin, count)
        assert sorted(rows.tolist()) == sorted(base.tolist())
        lengths = order.lengths(rows).tolist()
        groups = [lengths[at : at + order.group] for at in range(0, count, order.group)]
        assert all(group == sorted(group) for group in groups)
        in_order = sorted(groups, key=lambda group: (group[0], group[-1]))
        assert [length for group in in_order for length in group] == sorted(lengths), "groups do not overlap"


def test_the_short_group_may_have_any_lengths() -> None:
    """With the longest rows always left over, each window would end with them."""
    order, _ = twins("sequential", 10, 10, 4, 7, spread=1000)
    last = {int(order.lengths(order.rows_at(10 * sweep + 8, 2)).max()) for sweep in range(30)}
    assert len(last) == 3, "each of the three groups is the short one in some sweep"


def test_every_window_of_every_sweep_and_seed_is_shuffled_in_its_own_way() -> None:
    seen = Counter(
        tuple(twins("sequential", 240, 120, 10, seed, spread=10**6)[0].rows_at(start, 120).tolist())
        for seed in range(3)
        for start in range(0, 960, 120)
    )
    assert len(seen) == 24


def test_groups_of_one_sweep_are_as_likely_in_every_slot() -> None:
    order, _ = twins("sequential", 24, 24, 8, 3, spread=10**6)
    sweeps = 600
    shown = order.lengths(order.rows_at(0, 24 * sweeps)).reshape(sweeps, 3, 8)[:, :, 0]
    counts = np.unique(shown.argsort(axis=1) @ [9, 3, 1], return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - sweeps / 6) ** 2 / (sweeps / 6)).sum() < 25  # 5 degrees of freedom: one seed in 7,000


def test_a_window_larger_than_the_data_set_is_the_data_set() -> None:
    order, twin = twins("full", 30, 10**6, 10**5, 7)
    assert (order.window_rows, order.group) == (30, 30)
    assert order.rows_at(0, 30).tolist() == twin.sweep(0)


# --- the windows that are kept ------------------------------------------------------------------------------------


def test_a_window_is_sorted_once_and_few_are_kept() -> None:
    asked: list[int] = []

    def lengths(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        asked.append(len(rows))
        return rows % 7

    groups = LengthGroups(rows=50, group=5)
    order = make_grouped_order(groups, rows=1000, chunk_rows=10, seed=7, lengths=lengths)
    for start in range(0, 1000, 9):
        order.rows_at(start, min(9, 1000 - start))
    assert asked == [50] * 20
    assert len(order._kept) == WINDOWS_KEPT
    with pytest.raises(ValueError, match="read-only"):
        order.window(0, 19)[0] = 3


def test_threads_that_share_an_order_see_the_same_rows_and_sort_no_window_twice() -> None:
    asked: list[int] = []

    def lengths(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        asked.append(len(rows))
        return rows % 7

    groups = LengthGroups(rows=100, group=5)
    order = make_grouped_order(groups, rows=300, chunk_rows=10, seed=7, lengths=lengths)
    found: list[list[int]] = []
    barrier = threading.Barrier(4)

    def read() -> None:
        barrier.wait()
        found.append(order.rows_at(0, 300).tolist())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(rows == found[0] for rows in found)
    assert asked == [100] * 3


# --- padding ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 20), max_size=50), st.integers(1, 12))
def test_the_padded_fraction_is_that_of_padded_lists(lengths: list[int], k: int) -> None:
    cells = sum(max(lengths[at : at + k]) * len(lengths[at : at + k]) for at in range(0, len(lengths), k))
    expected = (cells - sum(lengths)) / cells if cells else 0
    assert padded_fraction(lengths, k) == pytest.approx(expected)


def atis_lengths() -> NDArray[np.int64]:
    """Words of each query: the lines of one sequence share the number at their beginning."""
    lines = (DATA / "atis.train.ctf").read_text().splitlines()
    ids = np.array([int(line.split(None, 1)[0]) for line in lines if line.strip()])
    return np.unique(ids, return_counts=True)[1]


def cmudict_lengths() -> NDArray[np.int64]:
    """Letters of each word."""
    lines = (DATA / "cmudict.train").read_text(encoding="latin-1").splitlines()
    return np.array([len(line.split(None, 1)[0]) for line in lines if line.strip()])


@pytest.mark.skipif(JIT_DISABLED, reason="takes minutes without the JIT; smaller ones run")
@pytest.mark.parametrize(
    ("lengths_in", "k", "ungrouped", "grouped"),
    [
        # More than the first part of the cells is padding in the full order, less than the second when grouped in
        # windows of 100 minibatches, groups of four. Measured: 0.477 → 0.060, 0.575 → 0.080, 0.459 → 0.038 and
        # 0.517 → 0.039.
        (atis_lengths, 32, 0.45, 0.07),
        (atis_lengths, 128, 0.55, 0.09),
        (cmudict_lengths, 64, 0.43, 0.045),
        (cmudict_lengths, 256, 0.48, 0.045),
    ],
)
def test_padding_is_saved_on_real_sequences(
    lengths_in: Callable[[], NDArray[np.int64]], k: int, ungrouped: float, grouped: float
) -> None:
    if not DATA.is_dir():
        pytest.skip("the real data are not here")
    lengths = lengths_in()
    rows, seed = len(lengths), 7
    full = make_order("full", rows=rows, chunk_rows=1, seed=seed)
    groups = LengthGroups(rows=100 * k, group=4 * k)
    order = make_grouped_order(groups, rows=rows, chunk_rows=1, seed=seed, lengths=lengths.take)
    sweeps = 3 * rows // k * k
    before = padded_fraction(lengths[full.rows_at(0, sweeps)], k)
    after = padded_fraction(lengths[order.rows_at(0, sweeps)], k)
    print(f"{lengths_in.__name__}, {rows} rows, k = {k}: {before:.3f} of the cells are padding, grouped {after:.3f}")
    assert before > ungrouped
    assert after < grouped


# --- errors, and what a checkpoint says ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rows": 0}, ValueError, r"LengthGroups\(rows=…\) must be at least 1, got 0"),
        ({"rows": 64.0}, TypeError, r"LengthGroups\(rows=…\) must be an integer"),
        ({"group": 0}, ValueError, r"LengthGroups\(group=…\) must be at least 1, got 0"),
        ({"group": 101}, ValueError, r"LengthGroups\(group=…\) must be at most 100, got 101"),
        ({"group": True}, TypeError, r"LengthGroups\(group=…\) must be an integer"),
        ({"base": "Full"}, ValueError, r'LengthGroups\(base=…\) must be "full", a Window\(rows=…\) or None'),
        ({"base": 7}, ValueError, r"LengthGroups\(base=…\)"),
    ],
)
def test_arguments_that_are_none_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LengthGroups(**{"rows": 100, "group": 10, **arguments})


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (lambda rows: rows[1:], r"lengths of 20 rows must be 20 integers from 0 on, got int64 of shape \(19,\)"),
        (lambda rows: rows * 1.5, "got float64"),
        (lambda rows: rows - 100, "the least of them -100"),
    ],
)
def test_lengths_that_are_none_are_refused(lengths: Any, message: str) -> None:
    order = make_grouped_order(LengthGroups(rows=20, group=5), rows=20, chunk_rows=1, seed=0, lengths=lengths)
    with pytest.raises(ValueError, match=message):
        order.rows_at(0, 1)


def test_the_description_survives_json_and_names_the_base_and_the_field() -> None:
    groups = LengthGroups(rows=20, group=5, base=Window(rows=8))
    order = make_grouped_order(groups, rows=100, chunk_rows=4, seed=0, lengths=lengths_of(9), length_of="words")
    said = order.describe()
    assert json.loads(json.dumps(said)) == said
    assert said == {
        "groups_version": 1,
        "window_rows": 20,
        "group": 5,
        "length_of": "words",
        "base": {"window_chunks": 2, "chunk_rows": 4},
    }


def test_a_mixture_may_group_one_of_its_sources() -> None:
    lengths = lengths_of(9)
    groups = LengthGroups(rows=20, group=5)

    def make(name: str, seed: int) -> Any:
        if name == "plain":
            return make_order("full", rows=30, chunk_rows=1, seed=seed)
        return make_grouped_order(groups, rows=47, chunk_rows=1, seed=seed, lengths=lengths)

    order = Mixture({"plain": None, "grouped": None}, weights={"plain": 1, "grouped": 2}).order(make, seed=7)
    rows = order.rows_at(0, 210)
    own = make("grouped", rng.key(7, "mixture.source.grouped"))
    assert rows[rows >= 30].tolist() == (own.rows_at(0, 140) + 30).tolist()
    assert order.time_of(int(rows[100]), sweep=sum(rows[:100] == rows[100])) == 100
