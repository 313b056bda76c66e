"""Curves of dots: every point where it belongs, axes with round numbers, nothing outside."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch.tools.braille import Series, better_in_log, draw, log_ticks, nice_ticks


def dots(lines, height):
    """The set dots of a drawing as (column, row), and the number of columns before them."""
    found = set()
    rows = [line.plain for line in lines[1 : 1 + height]]
    margin = min(row.index(edge) for row in rows for edge in "┤│" if edge in row) + 1
    bits = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
    for number, row in enumerate(rows):
        for place, character in enumerate(row[margin:]):
            value = ord(character) - 0x2800 if character != " " else 0
            for x in range(2):
                found |= {(2 * place + x, 4 * number + y) for y in range(4) if value & bits[x][y]}
    return found, margin


def test_a_line_goes_from_its_first_to_its_last_point_without_a_gap():
    lines = draw("a", [Series(name="a", x=[0, 100], y=[0.0, 1.0])], width=40, height=6)
    found, margin = dots(lines, 6)
    last = 2 * (40 - margin - 1) - 1
    assert (0, 23) in found
    assert (last, 0) in found
    assert {x for x, _ in found} == set(range(last + 1))
    for x, y in found:
        assert abs(y - (23 - 23 * x / last)) <= 1.0


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.floats(-1e9, 1e9)), min_size=1, max_size=40, unique_by=lambda p: p[0]),
    st.integers(20, 120),
    st.integers(2, 14),
)
def test_whatever_is_drawn_fits(points, width, height):
    points.sort()
    series = [Series(name="curve", x=[x for x, _ in points], y=[y for _, y in points])]
    series.append(Series(name="marks", x=series[0].x, y=series[0].y, marks="●"))
    for unicode in (True, False):
        lines = draw("title", series, width=width, height=height, unicode=unicode)
        assert len(lines) == height + 3
        assert all(line.cell_len <= max(width, 24) for line in lines)
        assert unicode or all(line.plain.isascii() for line in lines)


def test_values_that_are_not_finite_are_left_out_and_nothing_is_said_of_nothing():
    made = draw("a", [Series(name="a", x=[0, 1, 2], y=[1.0, math.nan, math.inf])], width=30, height=4)
    assert len(made) == 7
    assert [line.plain for line in draw("a", [Series(name="a", x=[0], y=[math.nan])], width=30, height=4)] == [
        "a",
        "(no values yet)",
    ]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.13, 0.98), (-5.0, 5000.0), (0.9999, 1.0001), (1e-9, 3e-9)])
def test_ticks_are_round_and_inside(low, high):
    found = nice_ticks(low, high, 4)
    assert 2 <= len(found) <= 10
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)
    steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in pairwise(found)}
    assert steps == {1.0}


@pytest.mark.parametrize(("low", "high"), [(0.01, 100.0), (0.3, 2.0), (1e-12, 1.0), (0.11, 0.19)])
def test_logarithmic_ticks_lie_inside(low, high):
    found = log_ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low <= tick <= high for tick in found)


def test_the_axis_is_logarithmic_where_that_spreads_the_values():
    assert better_in_log([2.0 * 0.99**step + 0.01 for step in range(1000)])
    assert not better_in_log([0.5 + 0.5 * math.cos(math.pi * step / 1000) for step in range(1000)])
    assert better_in_log([0.1] * 10 + [0.01] * 10 + [0.001] * 10)
    assert not better_in_log([])
    assert not better_in_log([1.0, math.nan])
