"""Time arithmetic against counting: sweeps, limits, partitions, stretches and holes, one nominal time after another."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch.timeline import (
    MAX_TIME,
    Holes,
    SkipRows,
    Stretch,
    checked_integer,
    end_of_axis,
    holes_of,
    part,
    sweeps_ended,
)

# --- sweeps and limits --------------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 20))
def test_sweeps_ended_counts_the_last_samples_of_sweeps(start: int, length: int, rows: int) -> None:
    last_samples = [t for t in range(start, start + length) if t % rows == rows - 1]
    assert sweeps_ended(start, start + length, rows) == len(last_samples)


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 12))
def test_sweeps_ended_adds_up_over_any_cutting(cuts: list[int], rows: int) -> None:
    start, ended = 5, 0
    for length in cuts:
        ended += sweeps_ended(start, start + length, rows)
        start += length
    assert ended == sweeps_ended(5, start, rows)


@given(st.integers(1, 30), st.one_of(st.none(), st.integers(0, 100)), st.one_of(st.none(), st.integers(0, 10)))
def test_the_axis_ends_at_the_nearer_limit(rows: int, max_samples: int | None, max_sweeps: int | None) -> None:
    def inside(t: int) -> bool:
        return (max_samples is None or t < max_samples) and (max_sweeps is None or t // rows < max_sweeps)

    end = end_of_axis(rows, max_samples, max_sweeps)
    if max_samples is None and max_sweeps is None:
        assert end == MAX_TIME
    else:
        assert [t < end for t in range(400)] == [inside(t) for t in range(400)]


def test_the_axis_never_reaches_beyond_what_64_bits_hold() -> None:
    assert end_of_axis(10**9, None, 10**15) == MAX_TIME
    assert end_of_axis(10**9, MAX_TIME, MAX_TIME) == MAX_TIME
    assert MAX_TIME + MAX_TIME < 2**63 + 1  # a minibatch may reach as far beyond the end as the end is far


@pytest.mark.parametrize("name", ["max_samples", "max_sweeps"])
@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), (2**70, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_a_limit_that_is_none_is_refused_by_name(name: str, value: Any, error: type[Exception]) -> None:
    limits: dict[str, Any] = {"max_samples": None, "max_sweeps": None, name: value}
    with pytest.raises(error, match=f"{name} must be"):
        end_of_axis(10, **limits)


# --- partitions ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 200), st.integers(1, 250))
def test_parts_are_contiguous_and_together_the_whole(length: int, partitions: int) -> None:
    covered: list[int] = []
    for index in range(partitions):
        offset, share = part(length, partitions, index)
        assert share == length // partitions + (1 if index < length % partitions else 0)
        covered += range(offset, offset + share)
    assert covered == list(range(length))


def test_some_parts_are_empty_when_there_are_more_partitions_than_samples() -> None:
    assert [part(3, 5, index) for index in range(5)] == [(0, 1), (1, 1), (2, 1), (3, 0), (3, 0)]
    assert [part(0, 2, index) for index in range(2)] == [(0, 0), (0, 0)]


@given(st.integers(0, MAX_TIME), st.integers(1, 10**6), st.data())
def test_parts_of_enormous_minibatches_meet_each_other(length: int, partitions: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, partitions - 1))
    offset, share = part(length, partitions, index)
    if index + 1 < partitions:
        assert offset + share == part(length, partitions, index + 1)[0]
    else:
        assert offset + share == length


# --- stretches ----------------------------------------------------------------------------------------------------


@st.composite
def stretches(draw: st.DrawFn) -> Stretch:
    length = draw(st.integers(1, 8))
    return Stretch(
        start=draw(st.integers(0, 30)),
        length=length,
        stride=length + draw(st.integers(0, 6)),
        count=draw(st.integers(1, 6)),
    )


@given(stretches())
def test_runs_are_as_many_and_as_long_as_they_are_said_to_be(stretch: Stretch) -> None:
    runs = list(stretch.runs())
    assert len(runs) == stretch.count
    assert sum(len(run) for run in runs) == stretch.samples
    assert [run.start for run in runs] == [stretch.start + i * stretch.stride for i in range(stretch.count)]


@given(stretches(), st.integers(0, 130), st.integers(1, 10))
def test_an_interval_is_found_where_its_samples_lie_in_the_block(stretch: Stretch, start: int, length: int) -> None:
    wanted = list(range(start, start + length))
    expected = None
    before = 0  # the samples of the block in the runs before this one
    for run in stretch.runs():
        if start in run and wanted[-1] in run:
            expected = before + run.index(start)
        before += len(run)
    assert stretch.find(start, length) == expected
    if expected is not None:
        block = [t for run in stretch.runs() for t in run]
        assert block[expected : expected + length] == wanted


@given(stretches(), st.integers(0, 200))
def test_nothing_is_found_before_between_or_after_the_runs(stretch: Stretch, t: int) -> None:
    assert (stretch.find(t, 1) is not None) == any(t in run for run in stretch.runs())


@given(stretches(), st.integers(0, 130), st.integers(1, 10), st.integers(0, 6))
def test_intervals_one_after_another_are_counted_until_one_is_not_found(
    stretch: Stretch, start: int, length: int, gap: int
) -> None:
    def counted(stride: int) -> int:
        count = 0
        while stretch.find(start + count * stride, length) is not None:
            count += 1
        return count

    strides = {length + gap, stretch.stride} if length <= stretch.stride else {length + gap}
    for stride in strides:
        found, true = stretch.intervals(start, length, stride), counted(stride)
        if stretch.count == 1 or stride == stretch.stride:
            assert found == true
        else:  # of another shape than the block's, the first one is enough
            assert found == min(true, 1)


# --- holes --------------------------------------------------------------------------------------------------------

intervals = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 15)).map(lambda p: (p[0], p[0] + p[1])), max_size=8)


@given(intervals, st.lists(st.lists(st.integers(0, 30), max_size=5), max_size=3), st.randoms(use_true_random=False))
def test_holes_are_what_the_intervals_and_rows_cover_together(
    skipped: list[tuple[int, int]], rows: list[list[int]], random: Any
) -> None:
    items: list[Any] = [*skipped, *(SkipRows(some) for some in rows)]
    random.shuffle(items)
    holes = holes_of(items)

    covered = {t for start, stop in skipped for t in range(start, stop)}
    assert {t for a, b in zip(holes.starts, holes.stops, strict=True) for t in range(a, b)} == covered
    assert (holes.starts < holes.stops).all()
    assert (holes.stops[:-1] < holes.starts[1:]).all(), "ascending and disjoint, none touching the next"
    assert holes.rows.tolist() == sorted({row for some in rows for row in some})
    assert {array.dtype for array in (holes.starts, holes.stops, holes.rows)} == {np.dtype(np.int64)}
    assert bool(holes) == bool(covered or any(rows))


@given(intervals, st.sets(st.integers(0, 30), max_size=6), st.lists(st.integers(0, 80), max_size=40), st.data())
def test_what_is_kept_is_what_no_hole_covers(
    skipped: list[tuple[int, int]], out: set[int], times: list[int], data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, 30), min_size=len(times), max_size=len(times)))
    kept = holes_of([*skipped, SkipRows(out)]).kept(np.array(times, np.int64), np.array(rows, np.int64))
    assert kept.dtype == np.bool_
    assert kept.tolist() == [
        not any(start <= t < stop for start, stop in skipped) and row not in out
        for t, row in zip(times, rows, strict=True)
    ]


def test_touching_and_nested_intervals_become_one() -> None:
    holes = holes_of([(30, 40), (0, 10), (10, 20), (2, 5), (19, 21), (40, 40)])
    assert holes.starts.tolist() == [0, 30]
    assert holes.stops.tolist() == [21, 40]


def test_no_holes_are_falsy_and_keep_everything() -> None:
    for nothing in ([], [(5, 5)], [SkipRows([])]):
        holes = holes_of(nothing)
        assert not holes
        assert holes.kept(np.arange(9), np.arange(9)).all()
    assert isinstance(holes, Holes)
    assert holes.kept(np.arange(0), np.arange(0)).tolist() == []


def test_the_ends_of_an_interval_are_the_first_one_out_and_the_first_one_in() -> None:
    holes = holes_of([(15, 23)])
    assert holes.kept(np.array([14, 15, 22, 23]), np.zeros(4, np.int64)).tolist() == [True, False, False, True]
    far = holes_of([(MAX_TIME - 1, MAX_TIME)])
    assert far.kept(np.array([MAX_TIME - 2, MAX_TIME - 1]), np.zeros(2, np.int64)).tolist() == [True, False]


def test_intervals_and_rows_may_be_numbers_of_numpy() -> None:
    holes = holes_of([np.array([15, 23]), (np.int32(1), np.uint8(2)), SkipRows(np.array([3, 17, 3]))], rows=18)
    assert (holes.starts.tolist(), holes.stops.tolist(), holes.rows.tolist()) == ([1, 15], [2, 23], [3, 17])


def test_rows_to_skip_may_be_used_twice() -> None:
    skip = [SkipRows(row for row in (3, 17))]
    assert holes_of(skip).rows.tolist() == holes_of(skip).rows.tolist() == [3, 17]


@pytest.mark.parametrize(
    ("skip", "error", "says"),
    [
        ((15, 23), TypeError, r"skip takes \(start, stop\) intervals .* got 15"),
        ([(1, 2, 3)], TypeError, r"got \(1, 2, 3\)"),
        ([7], TypeError, "got 7"),
        ([None], TypeError, "got None"),
        ([(1.0, 2)], TypeError, "the start of a skipped interval must be an integer, got 1.0"),
        ([(1, "2")], TypeError, "the stop of the skipped interval from 1 must be an integer, got '2'"),
        ([(-1, 2)], ValueError, "the start of a skipped interval must be at least 0, got -1"),
        ([(5, 3)], ValueError, "the stop of the skipped interval from 5 must be at least 5, got 3"),
        ([(5, 2**63)], ValueError, "the stop of the skipped interval from 5 must be at most"),
        ([SkipRows([3, 10])], ValueError, "a row of SkipRows must be at most 9, got 10"),
        ([SkipRows([-1])], ValueError, "a row of SkipRows must be at least 0, got -1"),
        ([SkipRows([1.5])], TypeError, "a row of SkipRows must be an integer, got 1.5"),  # type: ignore[list-item]
    ],
)
def test_holes_that_are_none_are_refused_with_what_was_given(skip: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        holes_of(skip, rows=10)


def test_rows_to_skip_that_are_no_list_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="SkipRows"):
        holes_of([SkipRows(5)])  # type: ignore[arg-type]


# --- integers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [5, np.int8(5), np.uint64(5), np.array(5)])
def test_every_kind_of_integer_becomes_one_of_python(value: Any) -> None:
    assert checked_integer(value, "k", least=1) == 5
    assert type(checked_integer(value, "k", least=1)) is int


@pytest.mark.parametrize("value", [True, np.True_, 5.0, np.float64(5), "5", None, [5], 5 + 0j])
def test_what_is_no_integer_is_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match="k must be an integer, got"):
        checked_integer(value, "k", least=1)


def test_an_integer_out_of_range_is_refused_with_the_bound_it_breaks() -> None:
    assert checked_integer(1, "k", least=1, most=9) == 1
    assert checked_integer(9, "k", least=1, most=9) == 9
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        checked_integer(0, "k", least=1)
    with pytest.raises(ValueError, match="k must be at most 9, got 10"):
        checked_integer(10, "k", least=1, most=9)
    with pytest.raises(ValueError, match=f"t must be at most {MAX_TIME}, got {2**64}"):
        checked_integer(2**64, "t", least=0)
    assert checked_integer(MAX_TIME, "t", least=0) == MAX_TIME
