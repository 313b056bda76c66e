"""Mixtures are their plain twin: exact in every block, invertible, and no source ever hears of another."""

import itertools
import json
import pickle
import re
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minibatch import rng
from minibatch.kernels.compile import JIT_DISABLED
from minibatch.length_groups import VERSION as GROUPS_VERSION
from minibatch.mixture import MAX_BLOCK, VERSION, Mixture, MixtureOrder, RowOrder
from minibatch.order import Window, make_order
from minibatch.timeline import MAX_TIME, Stretch
from tests.golden.mixture import GOLDEN
from tests.plain import mixture as plain
from tests.plain import order as plain_order

pytestmark = pytest.mark.kernels
NAMES = ["wiki", "code", "größe", "a", "B"]
KINDS = ["full", "windowed", "sequential"]
seeds = st.integers(0, 2**64 - 1)
needs_jit = pytest.mark.skipif(JIT_DISABLED, reason="takes minutes without the JIT; smaller ones run")


def order_of(kind: str, rows: int, seed: int) -> RowOrder:
    shuffle = {"full": "full", "windowed": Window(rows=6, chunk_rows=3), "sequential": None}[kind]
    return make_order(shuffle, rows=rows, chunk_rows=3, seed=seed)


def plain_order_of(kind: str, rows: int, seed: int) -> plain_order.Order:
    if kind == "windowed":
        chunk = min(3, rows)
        return plain_order.Windowed(
            rows=rows, chunk_rows=chunk, window_chunks=min(6 // chunk, -(-rows // chunk)), seed=seed
        )
    return plain_order.Full(rows=rows, seed=seed) if kind == "full" else plain_order.Sequential(rows=rows)


def mixed(
    sizes: Mapping[str, tuple[str, int]], stages: Any, max_sweeps: Mapping[str, int], seed: int
) -> tuple[MixtureOrder, plain.Mixture]:
    """A mixture of sources of some kind and size each, and its twin; the first stage begins at 0."""
    mixture = Mixture(dict.fromkeys(sizes), weights=stages[0][1], stages=stages[1:], max_sweeps=max_sweeps)
    order = mixture.order(lambda name, own: order_of(*sizes[name], own), seed=seed)
    orders = {name: plain_order_of(kind, rows, plain.source_seed(seed, name)) for name, (kind, rows) in sizes.items()}
    return order, plain.Mixture(orders=orders, stages=stages, seed=seed, max_sweeps=max_sweeps)


@st.composite
def mixtures(draw: st.DrawFn, most_rows: int = 30, latest: int = 200) -> tuple[MixtureOrder, plain.Mixture]:
    """Any mixture of one to five sources with up to four stages, and its twin."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(1, 5))]
    sizes = {name: (draw(st.sampled_from(KINDS)), draw(st.integers(1, most_rows))) for name in names}
    weights = st.fixed_dictionaries({name: st.integers(0, 6) for name in names}).filter(lambda w: any(w.values()))
    begins = sorted(draw(st.sets(st.integers(1, latest), max_size=3)))
    stages = [(begin, draw(weights)) for begin in [0, *begins]]
    caps = draw(st.dictionaries(st.sampled_from(names), st.integers(1, 3)))
    seed = draw(seeds)
    try:
        return mixed(sizes, stages, caps, seed)
    except ValueError:  # a stage runs out long before the next one begins; see the test of that
        hypothesis.reject()


def shown(order: MixtureOrder, start: int, count: int) -> list[tuple[str, int]]:
    """(source, its row) at nominal times from `start` on."""
    rows = order.rows_at(start, count)
    sources = order.source_of(rows)
    return [(order.mixture.names[i], int(row - order.bases[i])) for i, row in zip(sources, rows, strict=True)]


# --- equal to the twin --------------------------------------------------------------------------------------------


@given(mixtures(), st.integers(0, 400), st.integers(0, 60))
def test_rows_are_the_twins(pair: tuple[MixtureOrder, plain.Mixture], start: int, count: int) -> None:
    order, twin = pair
    start = min(start, order.end)
    count = min(count, order.end - start)
    expected = [(name, row) for name, _, row in twin.samples(start, count)]
    assert shown(order, start, count) == expected


@given(mixtures(latest=2**61), st.integers(0, 2**62 - 8))
def test_rows_at_any_time_are_the_twins_and_time_of_finds_them(
    pair: tuple[MixtureOrder, plain.Mixture], start: int
) -> None:
    order, twin = pair
    start = min(start, max(0, order.end - 7))
    count = min(7, order.end - start)
    samples = twin.samples(start, count)
    assert shown(order, start, count) == [(name, row) for name, _, row in samples]
    rows = order.rows_at(start, count).tolist()
    for time, row, (name, sweep, own) in zip(itertools.count(start), rows, samples, strict=False):
        assert order.time_of(row, sweep) == time
        assert order.when(name, own, sweep) == time
        assert order.at(time) == (name, own)


@given(mixtures(most_rows=6, latest=60))
def test_an_axis_that_ends_ends_where_the_twins_does(pair: tuple[MixtureOrder, plain.Mixture]) -> None:
    order, twin = pair
    if twin.forever:
        assert order.end == MAX_TIME
    else:
        assert order.end == twin.end
        with pytest.raises(ValueError, match=f"0 … {order.end - 1}"):
            order.rows_at(order.end, 1)


@pytest.mark.parametrize("weights", [(1500, 1), (1000, 24), (700, 325), (9_000, 4_000)])
def test_large_blocks_are_the_twins(weights: tuple[int, int]) -> None:
    stages = [(0, {"a": weights[0], "b": weights[1]})]
    order, twin = mixed({"a": ("full", 50), "b": ("full", 7)}, stages, {}, 3)
    size = sum(weights)
    for start in (0, size - 5, 3 * size + 11):
        assert shown(order, start, 12) == [(name, row) for name, _, row in twin.samples(start, 12)]
    sources = order.source_of(order.rows_at(size, size))
    assert np.bincount(sources, minlength=2).tolist() == list(weights)


@given(mixtures(), st.lists(st.integers(0, 30), max_size=8), st.integers(0, 300))
def test_an_interval_may_be_cut_anywhere(pair: tuple[MixtureOrder, plain.Mixture], cuts: list[int], start: int) -> None:
    order, _ = pair
    assume(start + sum(cuts) <= order.end)
    whole = order.rows_at(start, sum(cuts))
    begins = itertools.accumulate(cuts, initial=start)
    pieces = [order.rows_at(begin, count) for begin, count in zip(begins, cuts, strict=False)]
    assert np.array_equal(np.concatenate([np.empty(0, np.int64), *pieces]), whole)


@given(mixtures(), st.integers(0, 50), st.integers(0, 9), st.integers(0, 3000), st.integers(0, 9))
def test_a_stretch_is_its_runs(
    pair: tuple[MixtureOrder, plain.Mixture], start: int, length: int, gap: int, count: int
) -> None:
    order, _ = pair
    stretch = Stretch(start=start, length=length, stride=max(1, length + gap), count=count)
    assume(not count or start + (count - 1) * stretch.stride + length <= order.end)
    assume(start <= order.end)
    out = np.full(stretch.samples, -1)
    order.fill_stretch(stretch, out)
    runs = [order.rows_at(run.start, len(run)).tolist() for run in stretch.runs() if length]
    assert out.tolist() == list(itertools.chain(*runs))


def test_a_stretch_up_to_the_end_of_the_axis_asks_for_nothing_beyond_it() -> None:
    order, _ = mixed({"a": ("full", 10)}, [(0, {"a": 1})], {"a": 1}, 0)
    out = np.empty(4, np.int64)
    order.fill_stretch(Stretch(start=2, length=2, stride=6, count=2), out)
    assert out.tolist() == [*order.rows_at(2, 2), *order.rows_at(8, 2)]


# --- what a mixture promises --------------------------------------------------------------------------------------


@given(mixtures())
def test_every_block_of_every_stage_holds_the_exact_ratio_until_a_source_runs_out(
    pair: tuple[MixtureOrder, plain.Mixture],
) -> None:
    order, _ = pair
    mixture = order.mixture
    stages = [(0, mixture.weights), *mixture.stages]
    names = mixture.names
    counts: Counter[str] = Counter()
    for (begin, weights), stop in zip(stages, [*(b for b, _ in stages[1:]), MAX_TIME], strict=True):
        size = sum(weights.values())
        stop = min(stop, order.end, begin + 12 * size)
        samples = [names[i] for i in order.source_of(order.rows_at(begin, max(0, stop - begin)))]
        for at in range(0, len(samples) - size + 1, size):
            held = Counter(samples[at : at + size])
            counts = Counter(order.counts_before(begin + at))
            rich = all(
                name not in mixture.max_sweeps
                or counts[name] + weight <= mixture.max_sweeps[name] * order.orders[name].rows
                for name, weight in weights.items()
            )
            if not rich:
                break
            assert held == Counter({name: weight for name, weight in weights.items() if weight})


@given(mixtures(most_rows=8, latest=60))
def test_capped_sources_are_shown_exactly_so_often_and_others_go_on(pair: tuple[MixtureOrder, plain.Mixture]) -> None:
    order, _ = pair
    count = min(order.end, 1500)
    seen = Counter(order.rows_at(0, count).tolist())
    for i, name in enumerate(order.mixture.names):
        times = [seen[int(order.bases[i]) + row] for row in range(order.orders[name].rows)]
        assert max(times) - min(times) <= 1, "sweeps of a source are whole"
        if name in order.mixture.max_sweeps:
            assert max(times) <= order.mixture.max_sweeps[name]
    assert order.counts_before(count) == {
        name: sum(seen[row] for row in range(int(order.bases[i]), int(order.bases[i + 1])))
        for i, name in enumerate(order.mixture.names)
    }


@given(mixtures(), st.integers(0, 300))
def test_a_source_shows_its_own_order_whatever_else_is_mixed_in(
    pair: tuple[MixtureOrder, plain.Mixture], count: int
) -> None:
    order, _ = pair
    count = min(count, order.end)
    samples = shown(order, 0, count)
    for name, own in order.orders.items():
        rows = [row for source, row in samples if source == name]
        alone = np.empty(len(rows), np.int64)
        own.fill(0, alone)
        assert rows == alone.tolist()


def test_the_order_of_a_source_depends_on_seed_and_name_alone() -> None:
    sizes = {"wiki": ("full", 40), "code": ("full", 40), "news": ("windowed", 17)}
    plans: list[tuple[list[str], Any, dict[str, int]]] = [
        (["wiki"], [(0, {"wiki": 1})], {}),
        (["wiki", "code"], [(0, {"wiki": 3, "code": 1})], {}),
        (["code", "wiki"], [(0, {"wiki": 1, "code": 5}), (33, {"wiki": 2, "code": 0})], {"code": 1}),
        (["news", "wiki", "code"], [(0, {"wiki": 1, "code": 1, "news": 2})], {"news": 3}),
    ]

    def of_source(name: str, seed: int, plan: tuple[list[str], Any, dict[str, int]]) -> list[int]:
        names, stages, caps = plan
        order, _ = mixed({name: sizes[name] for name in names}, stages, caps, seed)
        return [row for source, row in shown(order, 0, 250) if source == name][:30]

    wiki = [of_source("wiki", 7, plan) for plan in plans]
    assert all(rows == wiki[0] for rows in wiki)
    assert of_source("code", 7, plans[1]) != wiki[0], "two sources of one size have orders of their own"
    assert of_source("wiki", 8, plans[1]) != wiki[0]


def test_a_mixture_does_not_depend_on_the_order_in_which_its_sources_are_written() -> None:
    sizes = {"x": ("full", 9), "a": ("windowed", 14), "m": ("sequential", 5)}
    weights = {"x": 2, "a": 3, "m": 1}
    seen = [
        shown(mixed({name: sizes[name] for name in names}, [(0, weights)], {"m": 2}, 5)[0], 0, 100)
        for names in itertools.permutations(sizes)
    ]
    assert all(samples == seen[0] for samples in seen)


def test_a_later_stage_changes_nothing_before_it() -> None:
    sizes = {"a": ("full", 9), "b": ("full", 4)}
    plain_axis = mixed(sizes, [(0, {"a": 2, "b": 1})], {}, 5)[0]
    staged = mixed(sizes, [(0, {"a": 2, "b": 1}), (50, {"a": 1, "b": 4})], {}, 5)[0]
    assert staged.rows_at(0, 50).tolist() == plain_axis.rows_at(0, 50).tolist()
    assert Counter(name for name, _ in shown(staged, 50, 50)) == {"a": 10, "b": 40}


def test_a_source_that_drops_out_leaves_the_ratio_of_the_others() -> None:
    sizes = {"a": ("full", 100), "b": ("full", 100), "c": ("full", 5)}
    order, _ = mixed(sizes, [(0, {"a": 2, "b": 1, "c": 3})], {"c": 3}, 5)
    phases = [(phase.begin, phase.stop, phase.weights) for phase in order.phases]
    assert phases == [(0, 30, (2, 1, 3)), (30, MAX_TIME, (2, 1, 0))]
    assert Counter(name for name, _ in shown(order, 30, 300)) == {"a": 200, "b": 100}


def test_what_is_left_of_a_source_comes_in_one_last_block() -> None:
    order, _ = mixed({"a": ("full", 100), "c": ("full", 5)}, [(0, {"a": 2, "c": 3})], {"c": 1}, 5)
    phases = [(phase.begin, phase.stop, phase.weights) for phase in order.phases]
    assert phases == [(0, 5, (2, 3)), (5, 9, (2, 2)), (9, MAX_TIME, (2, 0))]


def test_blocks_are_dealt_fairly() -> None:
    order, _ = mixed({"a": ("full", 3), "b": ("full", 3)}, [(0, {"a": 2, "b": 2})], {}, 1)
    blocks = 300 if JIT_DISABLED else 30_000
    sources = order.source_of(order.rows_at(0, 4 * blocks)).reshape(blocks, 4)
    counts = np.unique(sources @ np.array([8, 4, 2, 1]), return_counts=True)[1]
    assert len(counts) == 6, "all six arrangements of two and two"
    chi_square = ((counts - blocks / 6) ** 2 / (blocks / 6)).sum()
    assert chi_square < 25  # 5 degrees of freedom: one seed in 7,000 by chance


# --- never, and errors --------------------------------------------------------------------------------------------


def test_a_row_that_is_never_shown_is_an_error_that_says_why() -> None:
    sizes = {"a": ("full", 10), "b": ("full", 4), "c": ("full", 6)}
    stages = [(0, {"a": 1, "b": 1, "c": 1}), (9, {"a": 1, "b": 1, "c": 0})]
    order, _ = mixed(sizes, stages, {"b": 2}, 5)
    assert [order.when("b", row, 1) for row in range(4)] == sorted(
        [order.when("b", row, 1) for row in range(4)], key=[order.when("b", row, 1) for row in range(4)].index
    )
    with pytest.raises(ValueError, match="sweep 2 of 'b' never shows row 3: it drops out after 2 sweeps"):
        order.when("b", 3, 2)
    with pytest.raises(ValueError, match="sweep 1 of 'c' never shows row 0: it has no weight any more"):
        order.time_of(14, 1)
    with pytest.raises(ValueError, match=r"never shows row 0: nominal time ends at 2\*\*62"):
        order.when("a", 0, 2**61)
    with pytest.raises(ValueError, match=r"no source 'd' in this mixture: those are \['a', 'b', 'c'\]"):
        order.when("d", 0)
    for row in (-1, 20):
        with pytest.raises(ValueError, match=r"rows in 0 … 19"):
            order.time_of(row, 0)
    with pytest.raises(ValueError, match="a row of 'b' must be at most 3"):
        order.when("b", 4)


def test_a_gap_before_a_later_stage_is_refused() -> None:
    sizes = {"a": ("full", 10), "b": ("full", 4)}
    with pytest.raises(ValueError, match=r"from nominal time 10 on, .* the stage at 500 has more to show: begin it at"):
        mixed(sizes, [(0, {"a": 1, "b": 0}), (500, {"a": 0, "b": 1})], {"a": 1}, 5)


def test_a_later_stage_that_never_comes_is_no_gap() -> None:
    order, _ = mixed({"a": ("full", 10)}, [(0, {"a": 1}), (500, {"a": 3})], {"a": 1}, 5)
    assert order.end == 10


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({"a": 0.7, "b": 0.3}, TypeError, r"weights\['a'\] must be an integer, got 0.7: .*write {'a': 7, 'b': 3}"),
        ({"a": 1, "b": Fraction(1, 3)}, TypeError, r"got Fraction\(1, 3\): .*write {'a': 3, 'b': 1}"),
        ({"a": 2.0, "b": 1}, TypeError, r"got 2.0: ratios are exact; write {'a': 2, 'b': 1}"),
        ({"a": np.float32(0.25), "b": 1}, TypeError, r"write {'a': 1, 'b': 4}"),
        ({"a": float("nan"), "b": 1}, TypeError, r"must be an integer, got nan: ratios are exact$"),
        ({"a": "3", "b": 1}, TypeError, r"weights\['a'\] must be an integer, got '3'"),
        ({"a": True, "b": 1}, TypeError, r"must be an integer, got True"),
        ({"a": -1, "b": 3}, ValueError, r"weights\['a'\] must be at least 0, got -1"),
        ({"a": 0, "b": 0}, ValueError, "must give some source a weight above 0"),
        ({"a": 1}, ValueError, r"\['b'\] are missing; write 0"),
        ({"a": 1, "b": 1, "c": 1}, ValueError, r"must name every source: those are \['a', 'b'\], \['c'\] are none"),
        ({"a": 60_000, "b": 20_000}, ValueError, r"add up to 80,000; divided by 20000 they are the same ratio"),
        ({"a": MAX_BLOCK, "b": 1}, ValueError, r"must add up to at most 65,536.*they add up to 65,537$"),
        ([3, 1], TypeError, "must be a mapping from source to integer"),
    ],
)
def test_weights_that_are_none_are_refused(weights: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Mixture({"a": None, "b": None}, weights=weights)
    with pytest.raises(error, match=message.replace(r"weights\[", r"stages\[0\]\[")):
        Mixture({"a": None, "b": None}, weights={"a": 1, "b": 1}, stages=[(10, weights)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stages": [(0, {"a": 1})]}, ValueError, "the nominal time of stage 0 must be at least 1, got 0"),
        ({"stages": [(5, {"a": 1}), (5, {"a": 2})]}, ValueError, "of stage 1 must be at least 6, got 5"),
        ({"stages": [(5.0, {"a": 1})]}, TypeError, "of stage 0 must be an integer, got 5.0"),
        ({"stages": {5: {"a": 1}}}, TypeError, r"a list of \(nominal time, weights\) pairs"),
        ({"stages": [5]}, TypeError, r"pairs, got 5 in it"),
        ({"max_sweeps": {"a": 0}}, ValueError, r"max_sweeps\['a'\] must be at least 1, got 0"),
        ({"max_sweeps": {"a": 1.5}}, TypeError, r"max_sweeps\['a'\] must be an integer"),
        ({"max_sweeps": {"z": 1}}, ValueError, r"max_sweeps names \['z'\], which are no sources: those are \['a'\]"),
        ({"max_sweeps": 4}, TypeError, "max_sweeps must be a mapping"),
        ({"data": {}}, TypeError, "takes its sources by name"),
        ({"data": ["x"]}, TypeError, "takes its sources by name"),
        ({"data": {3: None}}, TypeError, "the name of a source must be a text, got 3"),
    ],
)
def test_other_arguments_that_are_none_are_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Mixture(**{"data": {"a": None}, "weights": {"a": 1}, **arguments})


def test_integers_of_numpy_are_integers() -> None:
    mixture = Mixture({"a": None}, weights={"a": np.int64(3)}, stages=[(np.int32(4), {"a": np.uint8(1)})])
    assert mixture == Mixture({"a": None}, weights={"a": 3}, stages=[(4, {"a": 1})])


# --- golden values ------------------------------------------------------------------------------------------------


def test_golden_values_hold() -> None:
    """They may change only together with a new version."""
    version, lines = GOLDEN.read()
    assert version == VERSION == plain.VERSION
    assert len(lines) > 30
    assert all(golden.answer for golden in lines)
    assert GOLDEN.differences(GOLDEN.package_answer) == []


def test_golden_values_are_those_of_the_plain_twins() -> None:
    assert GOLDEN.differences(GOLDEN.plain_answer) == []


def test_the_examples_in_the_specification_are_golden() -> None:
    text = (Path(__file__).parents[2] / "docs" / "order.md").read_text(encoding="utf-8")
    said = re.findall(r"From `t = 0` on:\n`(.+)`", text)
    assert said == [" ".join(GOLDEN.read()[1][i].answer) for i in (0, 21)]
    assert f"here **{VERSION}** and **{GROUPS_VERSION}**" in text


# --- what a checkpoint says ---------------------------------------------------------------------------------------


def test_the_description_survives_json_and_differs_where_the_axis_does() -> None:
    sizes = {"a": ("full", 10), "b": ("full", 4)}
    variants = [
        (sizes, [(0, {"a": 1, "b": 1})], {}),
        (sizes, [(0, {"a": 2, "b": 2})], {}),
        (sizes, [(0, {"a": 1, "b": 1}), (9, {"a": 1, "b": 0})], {}),
        (sizes, [(0, {"a": 1, "b": 1}), (8, {"a": 1, "b": 0})], {}),
        (sizes, [(0, {"a": 1, "b": 1})], {"b": 3}),
        ({**sizes, "b": ("full", 5)}, [(0, {"a": 1, "b": 1})], {}),
        ({**sizes, "b": ("windowed", 4)}, [(0, {"a": 1, "b": 1})], {}),
    ]
    described = [mixed(*variant, 7)[0].describe() for variant in variants]
    assert [json.loads(json.dumps(said)) for said in described] == described
    assert len({json.dumps(said, sort_keys=True) for said in described}) == len(variants)


def test_a_mixture_can_be_pickled() -> None:
    mixture = Mixture({"a": "data/a"}, weights={"a": 3}, stages=[(7, {"a": 1})], max_sweeps={"a": 2})
    assert pickle.loads(pickle.dumps(mixture)) == mixture


def test_the_seed_of_a_source_is_hashed_and_never_the_mixtures_own() -> None:
    given: dict[str, int] = {}

    def make(name: str, seed: int) -> RowOrder:
        given[name] = seed
        return order_of("full", 5, seed)

    Mixture({"a": None, "b": None}, weights={"a": 1, "b": 1}).order(make, seed=7)
    assert given == {name: rng.key(7, "mixture.source." + name) for name in ("a", "b")}
    with pytest.raises(ValueError, match="seed must be at least 0"):
        Mixture({"a": None}, weights={"a": 1}).order(make, seed=-1)


@needs_jit
def test_a_mixture_far_out_needs_no_work_before_it() -> None:
    """No clock: a step per block of 2^61 would take a century."""
    order, _ = mixed({"a": ("full", 1000), "b": ("full", 10)}, [(0, {"a": 3, "b": 1})], {}, 5)
    rows = order.rows_at(2**62 - 1000, 1000)
    assert np.bincount(order.source_of(rows)).tolist() == [750, 250]
    assert order.counts_before(2**62) == {"a": 3 * 2**60, "b": 2**60}
