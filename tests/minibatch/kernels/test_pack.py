"""`kernels.pack` describes the tokens of sequences as the plain twins do, and writes not an element beside them."""

from itertools import accumulate
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from minibatch.kernels import pack
from tests.plain.sequences import Axis, Truncated, marked

GUARD = -77
some_lengths = st.lists(st.integers(0, 7), min_size=1, max_size=12)


def guarded(size: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """An array in the middle of a larger one, and that one."""
    around = np.full(size + 6, GUARD, np.int32)
    return around[3 : size + 3], around


def assert_guards(around: NDArray[np.int32]) -> None:
    assert around[:3].tolist() == around[-3:].tolist() == [GUARD] * 3


def axis_of(lengths: list[int]) -> Axis:
    return Axis(row=lambda place: place, length=lengths.__getitem__, sweep=None, laid=len(lengths), end=len(lengths))


def as_marked(entries: list[tuple[int, int, int] | None]) -> list[list[int]]:
    """Segment ids, positions and places, as three lists."""
    return [list(values) for values in zip(*(entry or (0, 0, -1) for entry in entries), strict=True)]


@given(some_lengths, st.integers(1, 6), st.data())
def test_tokens_are_marked_as_by_the_twin(lengths, block, data):
    tokens = [(place, j) for place, length in enumerate(lengths) for j in range(length)]
    first = data.draw(st.integers(0, len(tokens)))
    count = data.draw(st.integers(0, len(tokens) - first))
    behind = data.draw(st.integers(0, 5))
    marks = np.array([0, *accumulate(lengths)], np.int64)
    arrays, around = zip(*(guarded(count + behind) for _ in range(3)), strict=True)
    pack.mark_tokens(marks, first, count, block, *arrays)
    expected: list[tuple[int, int, int] | None] = []
    for start in range(first, first + count, block):
        run = tokens[start : min(start + block, first + count)]
        expected += marked(axis_of(lengths), [(token, 0) for token in run])
    expected += [None] * behind
    assert [array.tolist() for array in arrays] == (as_marked(expected) if expected else [[], [], []])
    for each in around:
        assert_guards(each)


class Lanes:
    """Lanes that the kernel moves on, given all lengths at once or as few as it takes."""

    def __init__(self, lengths: list[int], lanes: int) -> None:
        self.lengths = lengths
        self.held, self.taken, self.left = np.zeros((3, lanes), np.int64)
        self.next = 0

    def advance(self, steps: int, known: int) -> tuple[list[int], NDArray[np.int64]] | None:
        """How many steps of each lane are filled, and the pieces; None if so few lengths are not enough."""
        coming = np.array(self.lengths[self.next : self.next + known], np.int64)
        ended = self.next + len(coming) == len(self.lengths)
        lanes = [values.copy() for values in (self.held, self.taken, self.left)]
        filled = np.full(len(self.held), GUARD, np.int64)
        pieces = np.full((5, len(self.held) + len(coming)), GUARD, np.int64)
        begun, count = pack.advance_lanes(steps, self.next, coming, ended, *lanes, filled, pieces)
        if begun < 0:
            assert not ended
            return None
        assert (pieces[:, count:] == GUARD).all()
        self.held, self.taken, self.left = lanes
        self.next += begun
        return filled.tolist(), pieces[:, :count]


def laid(pieces: NDArray[np.int64], lanes: int, steps: int) -> list[list[list[int]]]:
    """What `lay_pieces` makes of the pieces of all lanes: three arrays (lanes, steps)."""
    arrays, around = zip(*(guarded(lanes * steps) for _ in range(3)), strict=True)
    shaped: list[Any] = [array.reshape(lanes, steps) for array in arrays]
    order = np.argsort(pieces[0])
    pack.lay_pieces(*(np.ascontiguousarray(each[order]) for each in pieces[1:]), *shaped)
    for each in around:
        assert_guards(each)
    return [array.tolist() for array in shaped]


@given(some_lengths, st.integers(1, 5), st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 3))
def test_lanes_move_on_as_the_twin_moves_them(lengths, count, moves, known):
    twin, lanes = Truncated(axis=axis_of(lengths), lanes=count), Lanes(lengths, count)
    for steps in moves:
        expected = twin.next(steps * count)
        moved, wanted = None, known
        while moved is None:
            moved, wanted = lanes.advance(steps, wanted), 2 * wanted + 1
        filled, pieces = moved
        assert expected.tokens is not None
        shown = [[(entry[2], entry[1]) for entry in row if entry] for row in expected.tokens]
        assert tokens_of(pieces, count) == shown
        assert max(filled) * count == expected.nominal_end - expected.nominal_time
        assert lanes.next == twin.waiting
        held = [
            (int(p), int(t)) if left else None for p, t, left in zip(lanes.held, lanes.taken, lanes.left, strict=True)
        ]
        assert held == twin.held
        shape = (count, max(filled))
        places = sorted(pieces[0].tolist())
        rows = [as_marked(row) if row else [[], [], []] for row in expected.tokens]
        numbered = [[places.index(place) if place >= 0 else -1 for place in row[2]] for row in rows]
        assert laid(pieces, *shape) == [[row[0] for row in rows], [row[1] for row in rows], numbered]


def tokens_of(pieces: NDArray[np.int64], lanes: int) -> list[list[tuple[int, int]]]:
    """The tokens of each lane, from its pieces."""
    rows: list[dict[int, tuple[int, int]]] = [{} for _ in range(lanes)]
    for place, lane, begin, done, count in pieces.T.tolist():
        rows[lane] |= {begin + j: (place, done + j) for j in range(count)}
    assert all(sorted(row) == list(range(len(row))) for row in rows), "no lane waits while it has something"
    return [[row[step] for step in sorted(row)] for row in rows]


def test_a_lane_that_is_free_first_is_served_first_and_the_lowest_of_several():
    lanes = Lanes([2, 1, 3, 0, 4, 1, 0], 3)
    moved = lanes.advance(4, 7)
    assert moved is not None
    filled, pieces = moved
    # sequence, lane, first step, tokens done before, tokens here: lane 1 is free first, then lane 0, then lanes 0 and 2
    assert pieces.T.tolist() == [[0, 0, 0, 0, 2], [1, 1, 0, 0, 1], [2, 2, 0, 0, 3], [4, 1, 1, 0, 3], [5, 0, 2, 0, 1]]
    assert filled == [3, 4, 3]
    assert lanes.next == 7, "the empty one behind comes along"
    assert (lanes.held[1], lanes.taken[1], lanes.left[1]) == (4, 3, 1)
