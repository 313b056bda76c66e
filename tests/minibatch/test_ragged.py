"""`ragged`: sequences of any lengths are padded, masked, cut, taken and joined as their plain twin does it."""

import copy
import pickle
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch.ragged import Ragged, join, take
from minibatch.sparse import Sparse
from tests.plain import ragged as plain

DTYPES = ["int8", "uint16", "int64", "float16", "float64", "bool"]
lengths = st.lists(st.integers(0, 5), max_size=7)
lists = st.lists(st.lists(st.integers(0, 1), max_size=5), max_size=7)
nested = st.lists(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=3), max_size=5)


def marks_of(sizes):
    return np.array([0, *accumulate(sizes)], np.int64)


def ragged_of(rows, dtype="int64"):
    flat = [value for row in rows for value in row]
    return Ragged(np.array(flat, dtype), marks_of(map(len, rows)))


def nested_of(rows):
    return Ragged(ragged_of([inner for row in rows for inner in row]), marks_of(map(len, rows)))


def listed(values):
    """A Ragged, nested or not, as lists."""
    return [listed(value) if isinstance(value, Ragged) else value.tolist() for value in values]


@pytest.mark.kernels
@given(lists, st.sampled_from(DTYPES), st.integers(1, 8))
def test_padding_and_mask_are_those_of_the_plain_twin(rows, dtype, multiple):
    ragged = ragged_of(rows, dtype)
    padded, mask = ragged.padded(value=1, multiple_of=multiple), ragged.mask(multiple_of=multiple)
    assert padded.dtype == dtype
    assert padded.tolist() == plain.padded(rows, 1, multiple)
    assert mask.dtype == bool
    assert mask.tolist() == plain.mask(rows, multiple)
    assert (
        padded.shape == mask.shape == (len(rows), plain.width(rows, multiple)) == (len(ragged), ragged.width(multiple))
    )
    assert padded[mask].tobytes() == ragged.values.tobytes()


@pytest.mark.kernels
@given(nested, st.integers(1, 4))
def test_lists_of_lists_are_padded_to_cuboids(rows, multiple):
    ragged = nested_of(rows)
    assert listed(ragged) == rows
    assert ragged.padded(-1, multiple).tolist() == plain.padded_nested(rows, -1, multiple)
    mask = ragged.mask(multiple)
    assert mask.tolist() == plain.mask_nested(rows, multiple)
    assert mask.shape == ragged.padded(-1, multiple).shape


@given(lengths, st.sampled_from([(2,), (3, 2), (0,), (1, 1)]))
def test_elements_may_be_arrays(sizes, shape):
    values = np.arange(sum(sizes) * int(np.prod(shape)), dtype=np.float32).reshape(sum(sizes), *shape)
    ragged = Ragged(values, marks_of(sizes))
    padded = ragged.padded(value=-1)
    assert padded.shape == (len(sizes), max(sizes, default=0), *shape)
    for row, length, whole in zip(ragged, sizes, padded, strict=True):
        assert np.array_equal(whole[:length], row)
        assert (whole[length:] == -1).all()


def test_texts_are_padded_with_any_object():
    ragged = Ragged(np.array(["a", "b", "ü"], object), marks_of([1, 0, 2]))
    assert ragged.padded(value="").tolist() == [["a", ""], ["", ""], ["b", "ü"]]
    assert Ragged(ragged, marks_of([1, 2])).padded(value=None).shape == (2, 2, 2)


@given(lists, st.integers(-9, 9), st.one_of(st.none(), st.integers(-9, 9)))
def test_a_slice_has_the_same_rows_and_shares_memory(rows, start, stop):
    ragged = ragged_of(rows)
    part = ragged[start:stop]
    assert listed(part) == rows[start:stop]
    assert part.lengths.tolist() == [len(row) for row in rows[start:stop]]
    assert len(part.values) == 0 or np.shares_memory(part.values, ragged.values)
    assert listed(part[1:]) == rows[start:stop][1:]


@given(lists, st.integers(-8, 8))
def test_an_element_is_a_view_or_an_index_error(rows, index):
    ragged = ragged_of(rows)
    if -len(rows) <= index < len(rows):
        assert ragged[index].tolist() == ragged[np.int8(index)].tolist() == rows[index]
    else:
        with pytest.raises(IndexError, match=f"element {index} of {len(rows)}"):
            ragged[index]


@given(nested, st.data())
def test_rows_are_taken_by_index_and_by_mask_from_every_kind(rows, data):
    ragged = nested_of(rows)
    indices = data.draw(st.lists(st.integers(-len(rows), len(rows) - 1), max_size=9)) if rows else []
    mask = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    assert listed(take(ragged, np.array(indices, np.int64))) == [rows[index] for index in indices]
    assert listed(take(ragged, np.array(mask, bool))) == [row for row, kept in zip(rows, mask, strict=True) if kept]


@given(st.lists(nested, min_size=1, max_size=4))
def test_what_is_joined_has_all_rows_in_order(parts):
    assert listed(join([nested_of(rows) for rows in parts])) == [row for rows in parts for row in rows]
    arrays = [np.arange(len(rows)) for rows in parts]
    assert join(arrays).tolist() == [number for array in arrays for number in array.tolist()]


def test_a_ragged_of_sparse_vectors_is_cut_taken_and_joined_alike():
    sparse = Sparse(np.array([1, 0, 4, 2]), np.array([1.0, 2, 3, 4]), marks_of([1, 0, 2, 1]), 5)
    ragged = Ragged(sparse, marks_of([2, 0, 2]))
    assert ragged[2].dense().tolist() == [[2, 0, 0, 0, 3], [0, 0, 4, 0, 0]]
    assert ragged[1:][1].dense().tolist() == ragged[2].dense().tolist()
    assert take(ragged, np.array([2, 0])).values.dense().tolist() == sparse.dense()[[2, 3, 0, 1]].tolist()
    assert join([ragged, ragged]).values.dense().tolist() == [*sparse.dense().tolist()] * 2
    with pytest.raises(TypeError, match=r"sparse vectors have no padded form: .*\.values\.dense"):
        ragged.padded()
    assert ragged.mask().tolist() == [[True, True], [False, False], [True, True]]


def test_a_ragged_is_made_of_arrays():
    made = Ragged.of([np.array([1, 2], np.int8), np.array([], np.int8), np.array([3], np.int8)])
    assert (listed(made), made.dtype) == ([[1, 2], [], [3]], np.int8)
    assert listed(Ragged.of([[1, 2], [], [3]])) == [[1, 2], [], [3]]
    assert Ragged.of([[], [1, 2]]).dtype == np.int64
    assert Ragged.of([np.zeros((2, 3)), np.zeros((0, 3))]).padded().shape == (2, 2, 3)
    assert len(Ragged.of([np.zeros(0, np.float16)])) == 1


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "no sequence tells the dtype"),
        ([[], []], "no sequence tells the dtype"),
        ([np.zeros(2), np.zeros(2, int)], r"sequence 1 is int64 of shape \(2,\), sequence 0 is float64"),
        ([np.zeros((1, 2)), np.zeros((1, 3))], r"sequence 1 is float64 of shape \(1, 3\), sequence 0 is"),
        ([np.zeros(2), np.float64(3)], r"sequence 1 is float64 of shape \(\)"),
    ],
    ids=str,
)
def test_arrays_that_do_not_fit_together_are_refused(sequences, message):
    with pytest.raises(ValueError, match=message):
        Ragged.of(sequences)


@pytest.mark.parametrize(
    ("values", "offsets", "error", "message"),
    [
        (
            [1, 2],
            np.array([0, 2]),
            TypeError,
            r"values of a Ragged must be an array, a Ragged or a Sparse, got \[1, 2\]",
        ),
        (np.array(3), np.array([0, 1]), TypeError, "values of a Ragged must be an array"),
        (np.arange(2), [0, 2], TypeError, r"offsets of a Ragged must be int64 \(n \+ 1,\), got \[0, 2\]"),
        (np.arange(2), np.array([0, 2], np.int32), TypeError, "offsets of a Ragged must be int64"),
        (np.arange(2), np.array([[0, 2]]), TypeError, "offsets of a Ragged must be int64"),
        (np.arange(2), np.zeros(0, np.int64), TypeError, "offsets of a Ragged must be int64"),
        (np.arange(2), np.array([0, 3]), ValueError, "offsets of a Ragged go from 0 to 3, expected 0 to 2"),
        (np.arange(2), np.array([1, 2]), ValueError, "offsets of a Ragged go from 1 to 2, expected 0 to 2"),
    ],
    ids=str,
)
def test_what_makes_no_ragged_is_refused(values, offsets, error, message):
    with pytest.raises(error, match=message):
        Ragged(values, offsets)


def test_offsets_that_do_not_ascend_never_reach_a_kernel():
    with pytest.raises(ValueError, match=r"offsets of a Ragged must ascend, got \[9, 1\] at 1"):
        Ragged(np.arange(3), np.array([0, 9, 1, 3])).padded()


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("uint8", -1),
        ("uint8", 256),
        ("int8", 0.5),
        ("int64", float("nan")),
        ("bool", 2),
        ("float32", "x"),
        ("int8", None),
    ],
)
def test_padding_that_the_dtype_cannot_hold_is_refused(dtype, value):
    with pytest.raises(ValueError, match=f"the values are {dtype}, which cannot hold the padding"):
        ragged_of([[1], []], dtype).padded(value)


def test_floats_may_be_padded_with_what_they_round():
    assert ragged_of([[1], []], "float32").padded(0.1)[1, 0] == np.float32(0.1)
    assert np.isnan(ragged_of([[1], []], "float16").padded(float("nan"))[1, 0])


@pytest.mark.parametrize("multiple", [0, -1, 1.5, True, "2", None])
def test_a_multiple_that_is_none_is_refused(multiple):
    with pytest.raises((TypeError, ValueError), match="multiple_of must be"):
        ragged_of([[1]]).padded(multiple_of=multiple)


def test_other_indices_are_refused():
    ragged = ragged_of([[1], [2, 3]])
    for index in (1.0, None, "1", [0], np.array([0, 1])):
        with pytest.raises(TypeError):
            ragged[index]
    with pytest.raises(ValueError, match="sliced with step 1, got step 2"):
        ragged[::2]
    with pytest.raises(IndexError):
        take(ragged, np.array([2]))
    with pytest.raises(IndexError, match="a mask of 3 for 2 rows"):
        take(ragged, np.array([True, False, True]))


@pytest.mark.parametrize("values", [[], [np.arange(2), ragged_of([[1]])], [[1], [2]]], ids=str)
def test_only_one_kind_is_joined(values):
    with pytest.raises(TypeError, match="arrays, Ragged or Sparse can be joined, one kind at a time"):
        join(values)


def test_a_ragged_is_copied_and_pickled_and_tells_its_size():
    ragged = nested_of([[[1], []], [], [[2, 3]]])
    for other in (copy.deepcopy(ragged), pickle.loads(pickle.dumps(ragged))):
        assert listed(other) == listed(ragged)
    assert ragged.nbytes == 8 * (3 + 4 + 4)
    assert repr(ragged) == "Ragged(3 sequences, 3 values of Ragged(3 sequences, 3 values of int64 ()))"
    assert not hasattr(ragged, "__dict__")
