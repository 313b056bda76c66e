"""Orders are their plain twins, bijections of every sweep, invertible, cut anywhere, lazy, frozen, and fair."""

import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch import rng
from minibatch.kernels.compile import JIT_DISABLED
from minibatch.order import MAX_ROWS, VERSION, Order, Window, make_order
from tests import fairness
from tests.golden.order import differences, fill, package_answer, plain_answer, read_golden
from tests.plain import order as plain

ROOT = Path(__file__).parents[2]
seeds = st.integers(0, 2**64 - 1)
needs_jit = pytest.mark.skipif(JIT_DISABLED, reason="takes minutes without the JIT; smaller ones run")


def windowed(rows: int, chunk_rows: int, window_chunks: int, seed: int) -> tuple[Order, plain.Windowed]:
    """A windowed order and its twin."""
    order = make_order(Window(rows=chunk_rows * window_chunks), rows=rows, chunk_rows=chunk_rows, seed=seed)
    twin = plain.Windowed(rows=rows, chunk_rows=chunk_rows, window_chunks=window_chunks, seed=seed)
    return order, twin


def twins_of(kind: str, rows: int, chunk_rows: int, window_chunks: int, seed: int) -> tuple[Order, plain.Order]:
    """An order of some kind and its twin; the kinds but one make no use of chunks and windows."""
    if kind == "windowed":
        return windowed(rows, min(chunk_rows, rows), window_chunks, seed)
    if kind == "full":
        return make_order("full", rows=rows, chunk_rows=chunk_rows, seed=seed), plain.Full(rows=rows, seed=seed)
    return make_order(None, rows=rows, chunk_rows=chunk_rows, seed=seed), plain.Sequential(rows=rows)


KINDS = ["full", "windowed", "sequential"]


@st.composite
def pairs_of_orders(draw: st.DrawFn, most_rows: int) -> tuple[Order, plain.Order]:
    """Any order of at most some rows, and its twin."""
    rows = draw(st.one_of(st.integers(1, min(60, most_rows)), st.integers(1, most_rows)), label="rows")
    chunk_rows = draw(st.one_of(st.integers(1, min(9, rows)), st.integers(1, rows)), label="chunk_rows")
    window_chunks = draw(st.one_of(st.integers(1, 9), st.integers(1, 2 * rows)), label="window_chunks")
    window_chunks = min(window_chunks, 2**62 // chunk_rows)
    return twins_of(draw(st.sampled_from(KINDS)), rows, chunk_rows, window_chunks, draw(seeds, label="seed"))


# --- equal to the twins -------------------------------------------------------------------------------------------


@given(pairs_of_orders(300), st.integers(0, 2000), st.integers(0, 40))
def test_rows_are_the_twins(orders: tuple[Order, plain.Order], start: int, count: int) -> None:
    order, twin = orders
    assert order.rows_at(start, count).tolist() == plain.at(twin, start, count)


@given(pairs_of_orders(2**62), st.data())
def test_rows_of_any_number_of_rows_are_the_twins(orders: tuple[Order, plain.Order], data: st.DataObject) -> None:
    order, twin = orders
    start = data.draw(
        st.one_of(st.integers(0, 2**62), st.just(max(0, order.rows - 3)), st.integers(0, 2 * order.rows)), label="start"
    )
    rows = order.rows_at(start, 6)
    assert rows.dtype == np.int64
    assert rows.tolist() == plain.at(twin, start, 6)
    assert [order.time_of(row, t // order.rows) for t, row in enumerate(rows.tolist(), start)] == list(
        range(start, start + 6)
    )


@given(pairs_of_orders(80), st.integers(0, 2**40))
def test_a_whole_sweep_is_the_one_laid_out_in_lists(orders: tuple[Order, plain.Order], sweep: int) -> None:
    order, twin = orders
    if isinstance(twin, plain.Windowed):
        assert order.rows_at(sweep * order.rows, order.rows).tolist() == twin.sweep(sweep)


@pytest.mark.parametrize(("rows", "chunk_rows", "window_chunks"), [(3000, 2, 700), (2100, 1, 1100), (2500, 1300, 1)])
def test_a_whole_sweep_with_feistel_networks_inside_is_the_one_laid_out_in_lists(
    rows: int, chunk_rows: int, window_chunks: int
) -> None:
    order, twin = windowed(rows, chunk_rows, window_chunks, 7)
    assert order.rows_at(rows, rows).tolist() == twin.sweep(1)


# --- sweeps -------------------------------------------------------------------------------------------------------


@given(pairs_of_orders(60))
def test_every_sweep_has_every_row_once_and_time_of_finds_it(orders: tuple[Order, plain.Order]) -> None:
    order, _ = orders
    for sweep in (0, 1, 2, 10**9):
        start = sweep * order.rows
        rows = order.rows_at(start, order.rows)
        assert sorted(rows.tolist()) == list(range(order.rows))
        assert [order.time_of(row, sweep) for row in rows.tolist()] == list(range(start, start + order.rows))


@given(pairs_of_orders(300), st.lists(st.integers(0, 50), max_size=10), st.integers(0, 1000))
def test_an_interval_may_be_cut_anywhere(orders: tuple[Order, plain.Order], cuts: list[int], start: int) -> None:
    order, _ = orders
    whole = order.rows_at(start, sum(cuts))
    pieces, t = [np.empty(0, np.int64)], start
    for count in cuts:
        pieces.append(order.rows_at(t, count))
        t += count
    assert np.array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [100, 1500])
def test_an_interval_over_many_sweeps_is_the_sweeps_one_by_one(kind: str, rows: int) -> None:
    order, _ = twins_of(kind, rows, 7, 9, 3)
    sweeps = 3
    whole = order.rows_at(rows // 2, sweeps * rows)
    single = np.concatenate([order.rows_at(t, 1) for t in range(rows // 2, rows // 2 + sweeps * rows, 13)])
    assert np.array_equal(whole[::13], single)


def test_fill_writes_into_the_middle_of_an_array() -> None:
    order, twin = windowed(41, 4, 3, 7)
    out = np.full(20, -1)
    order.fill(37, out[5:15])
    assert out.tolist() == [-1] * 5 + plain.at(twin, 37, 10) + [-1] * 5


def test_sequential_rows_are_as_they_are_stored() -> None:
    assert make_order(None, rows=4, chunk_rows=2, seed=7).rows_at(2, 8).tolist() == [2, 3, 0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("kind", ["full", "windowed"])
def test_every_sweep_of_every_seed_has_an_order_of_its_own(kind: str) -> None:
    seen = set()
    for seed in range(15):
        order, _ = twins_of(kind, 40, 4, 3, seed)
        seen |= {tuple(order.rows_at(40 * sweep, 40).tolist()) for sweep in range(15)}
    assert len(seen) == 15 * 15


@pytest.mark.parametrize("kind", ["full", "windowed"])
@pytest.mark.parametrize("rows", [60, 1500])
def test_a_sweep_more_is_not_a_seed_more(kind: str, rows: int) -> None:
    for seed in range(4):
        one, _ = twins_of(kind, rows, 4, 3, seed)
        other, _ = twins_of(kind, rows, 4, 3, seed + 1)
        for sweep in range(4):
            shared = one.rows_at(rows * (sweep + 1), 60) == other.rows_at(rows * sweep, 60)
            assert shared.sum() < 12, "two orders share about one place"


def test_windows_of_one_sweep_are_shuffled_each_in_its_own_way() -> None:
    order, twin = windowed(30 * 24, 24, 1, 7)  # windows of one chunk: only the shuffle within is seen
    patterns = set()
    for sweep in range(3):
        rows = order.rows_at(sweep * order.rows, order.rows).reshape(30, 24)
        patterns |= {tuple(window) for window in (rows % 24).tolist()}
    assert twin.windows == 30
    assert len(patterns) == 3 * 30


# --- windows ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 120), st.integers(1, 12), st.integers(1, 14), seeds, st.one_of(st.integers(0, 3), st.just(2**40)))
def test_the_rows_of_every_window_are_those_of_its_whole_chunks(
    rows: int, chunk_rows: int, window_chunks: int, seed: int, sweep: int
) -> None:
    """Not by the twin but by what the order promises: runs of whole chunks, each chunk once."""
    chunk_rows = min(chunk_rows, rows)
    order, _ = windowed(rows, chunk_rows, window_chunks, seed)
    shown = order.rows_at(sweep * rows, rows).tolist()
    chunks = -(-rows // chunk_rows)
    place, seen = 0, []
    for first in range(0, chunks, window_chunks):
        count = min(window_chunks, chunks - first)
        here: list[int] = []  # the chunks of this window: as many as it has slots, all of their rows, nothing else
        inside: set[int] = set()
        end = place
        while end < rows and (len(here) < count or shown[end] in inside):
            if shown[end] not in inside:
                chunk = shown[end] // chunk_rows
                here.append(chunk)
                inside |= set(range(chunk * chunk_rows, min((chunk + 1) * chunk_rows, rows)))
            end += 1
        assert sorted(shown[place:end]) == sorted(inside)
        place = end
        seen += here
    assert place == rows
    assert sorted(seen) == list(range(chunks))


@pytest.mark.parametrize(("rows", "chunk_rows", "window_chunks"), [(22, 4, 2), (19, 6, 1), (21, 4, 3), (37, 9, 7)])
def test_the_short_chunk_may_lie_in_every_slot(rows: int, chunk_rows: int, window_chunks: int) -> None:
    order, twin = windowed(rows, chunk_rows, window_chunks, 7)
    slots_seen = set()
    for sweep in range(60):
        shown = order.rows_at(sweep * rows, rows).tolist()
        assert shown == twin.sweep(sweep)
        place = 0
        for laid in twin.windows_as_laid(sweep):
            assert sorted(shown[place : place + len(laid)]) == sorted(laid)
            place += len(laid)
        slots_seen.add([twin.chunk(slot, sweep) for slot in range(twin.chunks)].index(twin.chunks - 1))
    assert slots_seen == set(range(twin.chunks))


def test_a_window_has_as_many_whole_chunks_as_it_has_room_for() -> None:
    def described(window: Window, chunk_rows: int, rows: int = 1000) -> Any:
        return make_order(window, rows=rows, chunk_rows=chunk_rows, seed=0).describe()

    assert described(Window(rows=12), 4) == {"window_chunks": 3, "chunk_rows": 4}
    assert described(Window(rows=15), 4) == {"window_chunks": 3, "chunk_rows": 4}
    assert described(Window(rows=3), 4) == {"window_chunks": 1, "chunk_rows": 4}  # one at least
    assert described(Window(rows=100, chunk_rows=7), 4) == {"window_chunks": 14, "chunk_rows": 7}
    assert described(Window(rows=100), 4096, rows=10) == {"window_chunks": 1, "chunk_rows": 10}  # 4096 > 10 rows
    assert make_order("full", rows=10, chunk_rows=4, seed=0).describe() == "full"
    assert make_order(None, rows=10, chunk_rows=4, seed=0).describe() == "sequential"


def test_a_window_with_chunks_of_its_own_does_not_depend_on_the_data_sets() -> None:
    window = Window(rows=100, chunk_rows=8)
    orders = [make_order(window, rows=333, chunk_rows=chunk_rows, seed=7) for chunk_rows in (8, 50, 4096)]
    assert orders[0] == orders[1] == orders[2]
    assert orders[0].rows_at(0, 333).tolist() == windowed(333, 8, 12, 7)[1].sweep(0)


@pytest.mark.parametrize("kind", ["full", "sequential"])
def test_orders_without_windows_do_not_depend_on_chunks(kind: str) -> None:
    assert twins_of(kind, 333, 8, 1, 7)[0] == twins_of(kind, 333, 50, 1, 7)[0]


# --- enormous axes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [10**9, 2**61, 2**62])
def test_an_enormous_sweep_needs_neither_work_nor_memory_at_its_start_or_middle(kind: str, rows: int) -> None:
    """No clock: one step per row of 2^61 would take a century, one byte per row no machine has."""
    twins_of(kind, 5000, 4096, 244, 7)[0].rows_at(0, 3000)  # what is compiled or cached once is not counted
    tracemalloc.start()
    try:
        order, twin = twins_of(kind, rows, 4096, 244, 7)
        for start in (0, rows // 2, rows - 30):
            shown = order.rows_at(start, 64)
            assert shown.tolist() == plain.at(twin, start, 64)
            assert order.time_of(int(shown[17]), (start + 17) // rows) == start + 17
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000, f"{peak} bytes"


# --- golden values ------------------------------------------------------------------------------------------------


def test_golden_values_hold() -> None:
    """They may change only together with a new order version."""
    version, lines = read_golden()
    assert version == VERSION == plain.VERSION
    assert len(lines) > 70
    assert all(golden.answer for golden in lines)
    assert differences(package_answer) == []


def test_golden_values_are_those_of_the_plain_twins() -> None:
    assert differences(plain_answer) == []


@pytest.mark.skipif(JIT_DISABLED, reason="this run is that one")
def test_golden_values_hold_without_the_jit() -> None:
    """The same source as plain Python, in a process of its own: nothing in an order is the compiler's."""
    program = (
        "from minibatch.kernels.compile import JIT_DISABLED; from tests.golden.order import main;"
        "assert JIT_DISABLED; raise SystemExit(main())"
    )
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert re.search(r"\d\d golden values hold", finished.stdout)


def test_filling_in_golden_values_leaves_those_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "order.txt"
    path.write_text("# a comment\nversion = 1\nfull 7 7 0 3 = 0 0 0\nfull 7 7 0 3 =\n", encoding="utf-8")
    assert fill(path) == 1
    assert path.read_text(encoding="utf-8").splitlines()[2:] == ["full 7 7 0 3 = 0 0 0", "full 7 7 0 3 = 3 0 6"]
    path.write_text("version = 0\nfull 7 7 0 3 = 0 0 0\n", encoding="utf-8")  # frozen under another version
    assert fill(path) == 1
    assert path.read_text(encoding="utf-8") == "version = 1\nfull 7 7 0 3 = 3 0 6\n"


def test_the_values_in_the_specification_are_true() -> None:
    text = (ROOT / "docs" / "order.md").read_text(encoding="utf-8")
    assert f"Order version **{VERSION}**" in text
    table = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", text.partition("## 4.")[2], flags=re.MULTILINE))
    said = {what: re.findall(r"0x[0-9A-F]+|\d+", value) for what, value in table.items()}
    order, _ = windowed(41, 4, 3, 7)
    true: dict[str, Any] = {
        "`mix64(1)`": [f"0x{rng.mix64(1):016X}"],
        '`key(7, "order.full", 10, 0)`': [rng.key(7, "order.full", 10, 0)],
        "full, M = 10, seed 7: sweeps 0 and 1": make_order("full", rows=10, chunk_rows=4, seed=7).rows_at(0, 20),
        "full, M = 5000, seed 7: t = 5000 … 5004": make_order("full", rows=5000, chunk_rows=4, seed=7).rows_at(5000, 5),
        "windowed, M = 41, c = 4, g = 3, seed 7: t = 0 … 11": order.rows_at(0, 12),
    }
    for what, values in true.items():
        assert said.pop(what) == [str(value) for value in values], what
    assert set(said) <= {"what", "---"}, "a value in the table that is not checked here"


# --- fairness -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(2, 8))
def test_all_orders_of_few_rows_are_equally_likely_over_sweeps(n: int) -> None:
    kinds = int(np.prod(np.arange(1, n + 1)))
    sweeps = kinds * (5 if JIT_DISABLED else 100)
    shown = make_order("full", rows=n, chunk_rows=1, seed=7).rows_at(0, n * sweeps).reshape(sweeps, n)
    counts = np.unique((shown * n ** np.arange(n)).sum(axis=1), return_counts=True)[1]
    counts = np.concatenate([counts, np.zeros(kinds - len(counts), int)])
    assert abs(fairness.of_counts(counts, sweeps / kinds)) < 4


@pytest.mark.parametrize("n", [3, 5])
def test_all_orders_of_few_rows_are_equally_likely_over_seeds(n: int) -> None:
    kinds = int(np.prod(np.arange(1, n + 1)))
    many = kinds * (5 if JIT_DISABLED else 60)
    shown = np.array([make_order("full", rows=n, chunk_rows=1, seed=seed).rows_at(n, n) for seed in range(many)])
    counts = np.unique((shown * n ** np.arange(n)).sum(axis=1), return_counts=True)[1]
    counts = np.concatenate([counts, np.zeros(kinds - len(counts), int)])
    assert abs(fairness.of_counts(counts, many / kinds)) < 4


@needs_jit
@pytest.mark.parametrize("rows", [1000, 1030])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_row_is_equally_likely_at_every_place(rows: int, seed: int) -> None:
    sweeps = 10_000
    shown = make_order("full", rows=rows, chunk_rows=1, seed=seed).rows_at(0, rows * sweeps).reshape(sweeps, rows)
    cells = np.bincount((shown + np.arange(rows) * rows).ravel(), minlength=rows * rows).reshape(rows, rows)
    assert abs(fairness.of_image_counts(cells, sweeps)) < 4
    adjacent = float((np.abs(np.diff(shown, axis=1)) == 1).sum())  # rows that lie and are shown side by side
    assert abs(fairness.of_events(adjacent, sweeps * 2 * (rows - 1) / rows)) < 4


@needs_jit
def test_the_first_row_of_a_sweep_is_any_row_over_many_seeds() -> None:
    seeds_tried = 50_000
    for rows in (20, 1100):
        first = [int(make_order("full", rows=rows, chunk_rows=1, seed=s).rows_at(0, 1)[0]) for s in range(seeds_tried)]
        assert abs(fairness.of_counts(np.bincount(first, minlength=rows), seeds_tried / rows)) < 4


@needs_jit
@pytest.mark.parametrize(("rows", "chunk_rows", "window_chunks"), [(47, 4, 3), (30, 7, 1), (60, 5, 100)])
def test_every_row_is_equally_likely_in_every_window_it_fits(rows: int, chunk_rows: int, window_chunks: int) -> None:
    """Chunks are fair among slots; inside a window rows are fair among places."""
    sweeps = 40_000
    order, twin = windowed(rows, chunk_rows, window_chunks, 7)
    shown = order.rows_at(0, rows * sweeps).reshape(sweeps, rows)
    first = np.bincount(shown[:, 0], minlength=rows)
    # The first window is a fair draw of chunks, and its first place a fair draw of its rows: whole chunks are equally
    # likely, and within a chunk rows are, whatever the short one weighs.
    whole = (rows // chunk_rows) * chunk_rows
    assert abs(fairness.of_counts(first[:whole], first[:whole].sum() / whole)) < 4
    assert first[whole:].sum() > 0 or whole == rows
    chunk_of_last = np.bincount(shown[:, -1] // chunk_rows, minlength=twin.chunks)
    full_chunks = rows // chunk_rows
    assert abs(fairness.of_counts(chunk_of_last[:full_chunks], chunk_of_last[:full_chunks].sum() / full_chunks)) < 4


@needs_jit
def test_a_full_sweep_of_sorted_data_shows_no_trace_of_the_sorting() -> None:
    for rows in (1000, 200_000, 1_000_000):
        shown = make_order("full", rows=rows, chunk_rows=1, seed=7).rows_at(0, rows)
        assert np.abs(fairness.lag_correlations(shown, list(range(1, 101)))).max() < 4.5  # the worst of 100
        assert abs(fairness.of_ascents(shown)) < 4
        for classes in (2, 10, 100):
            assert abs(fairness.of_runs(shown * classes // rows)) < 4


@needs_jit
def test_successive_sweeps_of_sorted_data_are_uncorrelated() -> None:
    rows = 100_000
    shown = make_order("full", rows=rows, chunk_rows=1, seed=7).rows_at(0, 6 * rows)
    assert np.abs(fairness.lag_correlations(shown, [rows, 2 * rows, 3 * rows, 4 * rows])).max() < 4


@needs_jit
def test_a_windowed_sweep_of_sorted_data_shows_no_trace_of_the_sorting_within_or_between_windows() -> None:
    chunk_rows, window_chunks, windows = 100, 20, 300
    rows = chunk_rows * window_chunks * windows
    order, _ = windowed(rows, chunk_rows, window_chunks, 7)
    shown = order.rows_at(0, rows).reshape(windows, chunk_rows * window_chunks)

    ranks = shown.argsort(axis=1).argsort(axis=1)  # a row among those of its window: a fair shuffle in each
    correlations = np.array([fairness.lag_correlations(window, [1, 2, 3, 100]) for window in ranks])
    assert np.abs(correlations.sum(axis=0) / np.sqrt(windows)).max() < 4
    assert abs(sum(fairness.of_ascents(window) for window in ranks) / np.sqrt(windows)) < 4
    # runs of rows of one chunk, as long as chance makes them
    assert abs(sum(fairness.of_runs(window // chunk_rows) for window in shown) / np.sqrt(windows)) < 4
    # which chunks make a window: a fair shuffle of chunks, so that the windows' means are uncorrelated
    slots = np.array([sorted(set((window // chunk_rows).tolist())) for window in shown])
    assert slots.shape == (windows, window_chunks)
    assert np.abs(fairness.lag_correlations(shown.mean(axis=1), [1, 2, 3])).max() < 4
    neighbours = float((np.diff(slots, axis=1) == 1).sum())  # chunks that lie side by side and share a window
    chunks = windows * window_chunks
    expected = windows * (chunks - 1) * window_chunks * (window_chunks - 1) / (chunks * (chunks - 1))
    assert abs(fairness.of_events(neighbours, expected)) < 4


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", ["Full", "", 7, True, False, {"rows": 3}, object()])
def test_an_unknown_shuffle_is_refused(shuffle: Any) -> None:
    with pytest.raises(ValueError, match=r'shuffle must be "full", a Window\(rows=…\) or None, got'):
        make_order(shuffle, rows=10, chunk_rows=4, seed=0)


@pytest.mark.parametrize("rows", [0, -1, MAX_ROWS + 1])
def test_a_number_of_rows_without_an_order_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=rf"1 … .* rows, got {rows}"):
        make_order("full", rows=rows, chunk_rows=4, seed=0)


@pytest.mark.parametrize("argument", ["rows", "chunk_rows"])
def test_a_window_that_is_none_is_refused(argument: str) -> None:
    arguments: dict[str, Any] = {"rows": 100, "chunk_rows": 10}
    for value in (2.0, "7", True, [3]):
        with pytest.raises(TypeError, match=rf"Window\({argument}=…\) must be an integer, got"):
            Window(**{**arguments, argument: value})
    for value in (0, -5):
        with pytest.raises(ValueError, match=rf"Window\({argument}=…\) must be at least 1, got {value}"):
            Window(**{**arguments, argument: value})
    with pytest.raises(TypeError, match="Window"):
        Window(rows=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, None])
def test_a_seed_that_is_none_is_refused_before_the_first_row(seed: Any) -> None:
    for shuffle in ("full", Window(rows=8), None):
        with pytest.raises((TypeError, ValueError), match="seed must be"):
            make_order(shuffle, rows=10, chunk_rows=4, seed=seed).rows_at(0, 1)


@pytest.mark.parametrize(
    "window_rows",
    [
        2**62,
        2**63,
        2**64,
        10**30,
    ],
)
def test_a_window_larger_than_everything_is_one_window_or_refused(window_rows: int) -> None:
    try:
        order = make_order(Window(rows=window_rows), rows=10, chunk_rows=4, seed=7)
    except ValueError:
        return
    assert sorted(order.rows_at(0, 10).tolist()) == list(range(10))


def test_the_time_of_a_row_that_does_not_exist_is_refused() -> None:
    for rows in (2000, 10):
        for shuffle in ("full", Window(rows=8), None):
            order = make_order(shuffle, rows=rows, chunk_rows=4, seed=1)
            for row, sweep in ((rows, 0), (rows + 1, 0), (10**9, 0), (-1, 0), (3, -1)):
                with pytest.raises((IndexError, ValueError)):
                    order.time_of(row, sweep)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_may_be_numbers_of_numpy(kind: str) -> None:
    order, _ = twins_of(kind, 41, 4, 3, 7)
    shuffle = Window(rows=np.int64(12)) if kind == "windowed" else "full" if kind == "full" else None  # type: ignore[arg-type]
    other = make_order(shuffle, rows=np.int64(41), chunk_rows=np.int32(4), seed=np.uint8(7))  # type: ignore[arg-type]
    assert other.rows_at(np.int64(35), np.int64(12)).tolist() == order.rows_at(35, 12).tolist()  # type: ignore[arg-type]
