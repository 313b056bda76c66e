"""Records one by one: which kinds of values make one field, and that a survey and the pieces agree about bad ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch.ragged import Ragged
from minibatch.tools.sources import BadRecords
from minibatch.tools.sources.records import JsonText, Kind, Record, kind_of, pieces, survey, together

INT, FLOAT = np.dtype(np.int64), np.dtype(np.float64)


def records(*values, name="x"):
    return [Record(file="f", where=f"record {place}", fields={name: value}) for place, value in enumerate(values)]


def read(*values, most=0, single=False):
    """The values of one field after both passes, and the places of the bad records."""
    bad = BadRecords(most)
    found = survey(records(*values), bad, single=single)
    rows = [
        row.tolist() if hasattr(row, "tolist") else row
        for piece in pieces(records(*values), found.kinds, bad, found.texts)
        for column in piece.values()
        for row in column
    ]
    return rows, [record.where for record in bad.found], found


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((1, 2), Kind(dtype=INT, python=True)),
        ((1, 2.5), Kind(dtype=FLOAT, python=True)),
        ((True, False), Kind(dtype=np.dtype(bool), python=True)),
        (("a", "b"), Kind(dtype=str)),
        ((b"a", b"b"), Kind(dtype=bytes)),
        (([1, 2], [3, 4]), Kind(dtype=INT, shape=(2,), python=True)),
        (([1, 2], [3]), Kind(dtype=INT, is_list=True, python=True)),
        (([1, 2], []), Kind(dtype=INT, is_list=True, python=True)),
        (([], []), Kind(dtype=FLOAT, is_list=True, python=True)),
        (([[1, 2]], [[3, 4], [5, 6]]), Kind(dtype=INT, shape=(2,), is_list=True, python=True)),
        ((["a"], ["b", "c"]), Kind(dtype=str, is_list=True)),
        ((np.zeros((2, 3)), np.ones((2, 3))), Kind(dtype=FLOAT, shape=(2, 3))),
        ((np.zeros((2, 3)), np.ones((4, 3))), Kind(dtype=FLOAT, shape=(3,), is_list=True)),
        ((np.zeros((0, 3)), np.ones((0, 3))), Kind(dtype=FLOAT, shape=(3,), is_list=True)),
        ((np.float16(1), np.float16(2)), Kind(dtype=np.dtype(np.float16))),
    ],
)
def test_values_make_a_field_of_this_kind(values, kind):
    rows, bad, found = read(*values)
    assert found.kinds == {"x": kind}
    assert bad == []
    assert rows == [value.tolist() if hasattr(value, "tolist") else value for value in values]


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (1, "a"),
        (1, True),
        ("a", b"a"),
        (1, [1]),
        ([1], ["a"]),
        ([1, 2], [[1, 2]]),
        (np.int32(1), np.int64(1)),
        (np.zeros((2, 3)), np.zeros((2, 4))),
        (np.zeros(2), np.zeros((2, 1))),
        (1, None),
        (1, 2**63),
        ([1], [None]),
        ([1], [1, "a"]),
        (1, {"a": 1}),
    ],
)
def test_a_value_of_another_kind_is_a_bad_record_in_both_passes(first, other):
    rows, bad, found = read(first, other, first, most=1)
    assert bad == ["record 1"]
    assert len(rows) == found.rows == 2


@pytest.mark.parametrize("values", [(0.5, 2**53 + 1, 1), (2**53 + 1, 0.5, 1), ([2**53 + 1], [0.5], [1])])
def test_a_whole_number_among_floats_is_a_bad_record_if_it_would_be_rounded(values):
    rows, bad, _ = read(*values, most=1)
    assert len(bad) == 1
    assert len(rows) == 2
    assert read(2**53 + 1, 7)[0] == [2**53 + 1, 7]


def test_with_single_a_list_of_one_in_every_record_is_a_scalar():
    assert read(np.array([1]), np.array([2]), single=True)[0] == [1, 2]
    assert read([b"a"], [b"b"], single=True)[0] == [b"a", b"b"]
    assert read(np.array([1]), np.array([2]))[0] == [[1], [2]]
    assert read(np.array([1]), np.array([2, 3]), single=True)[0] == [[1], [2, 3]]


def test_a_record_with_other_fields_is_a_bad_record():
    bad = BadRecords(2)
    mixed = [*records(1), *records(2, name="y"), Record(file="f", where="last", fields={"x": 1, "y": 2})]
    found = survey(mixed, bad)
    assert (found.rows, found.kinds.keys()) == (1, {"x"})
    assert [record.reason.split(";")[0] for record in bad.found] == [
        "it lacks ['x'] and also has ['y']",
        "it also has ['y']",
    ]


def test_the_order_of_the_fields_is_that_of_the_first_record():
    turned = [
        Record(file="f", where="0", fields={"a": 1, "b": 2}),
        Record(file="f", where="1", fields={"b": 3, "a": 4}),
    ]
    found = survey(turned, BadRecords(0))
    (piece,) = pieces(turned, found.kinds, BadRecords(0))
    assert list(piece) == ["a", "b"]
    assert piece["b"].tolist() == [2, 3]


def test_json_that_is_none_is_a_bad_record():
    rows, bad, _ = read(JsonText(b"[1]"), JsonText(b"["), JsonText(b"\xff"), JsonText(b"[2]"), most=2)
    assert bad == ["record 1", "record 2"]
    assert rows == [[1], [2]]


NUMBERS = st.one_of(st.integers(-3, 3), st.floats(-2, 2, width=16), st.booleans())
VALUES = st.one_of(NUMBERS, st.text("ab", max_size=2), st.lists(st.integers(0, 3), max_size=3), st.none())


@given(st.lists(VALUES, min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_both_passes_pass_over_the_same_records_whatever_comes(values):
    rows, bad, found = read(*values, most=len(values))
    good = [value for place, value in enumerate(values) if f"record {place}" not in bad]
    assert rows == good
    assert found.rows == len(good)


@given(st.lists(st.lists(st.integers(-5, 5), max_size=4), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_what_kinds_make_together_does_not_depend_on_the_order(values):
    kinds = [kind_of(value) for value in values]
    for one in kinds:
        for other in kinds:
            assert together(one, other) == together(other, one)


def test_a_list_field_is_ragged_in_every_piece():
    values = [np.arange(2), np.arange(2), np.arange(3)]
    found = survey(records(*values), BadRecords(0))
    for part in (values[:2], values[2:]):
        (piece,) = pieces(records(*part), found.kinds, BadRecords(0))
        assert isinstance(piece["x"], Ragged)
