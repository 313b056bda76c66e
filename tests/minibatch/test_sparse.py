"""`sparse`: vectors given by indices and values are made dense, cut, taken and joined as their plain twin does it."""

import pickle
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch.ragged import join, take
from minibatch.sparse import Sparse
from tests.plain import ragged as plain

WIDTH = 7
DTYPES = ["int8", "uint64", "float16", "float64", "bool"]
rows_of_pairs = st.lists(st.lists(st.tuples(st.integers(0, WIDTH - 1), st.integers(0, 3)), max_size=5), max_size=6)


def sparse_of(rows, dtype="float64", index="int32"):
    pairs = [pair for row in rows for pair in row]
    indices = np.array([index for index, _ in pairs], index)
    values = np.array([value for _, value in pairs], dtype)
    return Sparse(indices, values, np.array([0, *accumulate(map(len, rows))], np.int64), WIDTH)


def listed(sparse):
    return [list(zip(indices.tolist(), values.tolist(), strict=True)) for indices, values in sparse]


@given(rows_of_pairs, st.sampled_from(DTYPES), st.sampled_from(["uint8", "int32", "int64", "uint64"]))
def test_dense_is_the_sum_of_what_stands_at_each_index(rows, dtype, index):
    sparse = sparse_of(rows, dtype, index)
    dense = sparse.dense()
    assert (dense.dtype, dense.shape) == (np.dtype(dtype), (len(rows), WIDTH))
    if dtype == "bool":
        rows = [[(index, bool(value)) for index, value in row] for row in rows]
    assert dense.tolist() == plain.dense(rows, WIDTH, False if dtype == "bool" else 0)


@given(rows_of_pairs, st.integers(-8, 8), st.one_of(st.none(), st.integers(-8, 8)))
def test_slices_and_elements_are_views_of_the_same_rows(rows, start, stop):
    sparse = sparse_of(rows)
    assert len(sparse) == len(rows)
    assert listed(sparse) == rows
    part = sparse[start:stop]
    assert listed(part) == rows[start:stop]
    assert part.offsets[0] == 0
    assert len(part.values) == 0 or np.shares_memory(part.values, sparse.values)
    for i in range(-len(rows), len(rows)):
        indices, values = sparse[i]
        assert list(zip(indices.tolist(), values.tolist(), strict=True)) == rows[i]


@given(rows_of_pairs, rows_of_pairs, st.data())
def test_rows_are_taken_and_joined(rows, more, data):
    sparse = sparse_of(rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8)) if rows else []
    assert listed(take(sparse, np.array(chosen, np.int64))) == [rows[i] for i in chosen]
    assert listed(join([sparse, sparse_of(more)])) == rows + more


@given(rows_of_pairs)
def test_csr_is_what_scipy_calls_it(rows):
    scipy = pytest.importorskip("scipy.sparse")
    sparse = sparse_of(rows)
    offsets, indices, values = sparse.csr()
    matrix = scipy.csr_array((values, indices, offsets), shape=(len(rows), WIDTH))
    assert np.array_equal(matrix.toarray(), sparse.dense())


def test_an_index_outside_of_the_width_is_named():
    for bad in (7, -1):
        sparse = Sparse(np.array([0, bad]), np.ones(2), np.array([0, 1, 1, 2]), WIDTH)
        with pytest.raises(ValueError, match=f"row 2 has the index {bad}, expected 0 … 6"):
            sparse.dense()


@pytest.mark.parametrize(
    ("indices", "values", "offsets", "error", "message"),
    [
        ([0], np.ones(1), np.array([0, 1]), TypeError, r"indices of a Sparse must be an array \(stored,\), got \[0\]"),
        (np.zeros((1, 1), int), np.ones(1), np.array([0, 1]), TypeError, "indices of a Sparse must be an array"),
        (np.zeros(1, int), [1.0], np.array([0, 1]), TypeError, "values of a Sparse must be an array"),
        (np.zeros(1), np.ones(1), np.array([0, 1]), TypeError, "one integer index per value, got 1 of float64"),
        (
            np.zeros(2, int),
            np.ones(1),
            np.array([0, 1]),
            TypeError,
            "one integer index per value, got 2 of int64 for 1",
        ),
        (np.zeros(1, int), np.ones(1), [0, 1], TypeError, r"offsets of a Sparse must be int64 \(n \+ 1,\)"),
        (
            np.zeros(1, int),
            np.ones(1),
            np.array([0, 2]),
            ValueError,
            "offsets of a Sparse go from 0 to 2, expected 0 to 1",
        ),
    ],
    ids=str,
)
def test_what_makes_no_sparse_is_refused(indices, values, offsets, error, message):
    with pytest.raises(error, match=message):
        Sparse(indices, values, offsets, WIDTH)


def test_other_indices_and_widths_are_refused():
    sparse = sparse_of([[(1, 1)], []])
    with pytest.raises(IndexError, match="element 2 of 2"):
        sparse[2]
    with pytest.raises(ValueError, match="sliced with step 1"):
        sparse[::-1]
    with pytest.raises(TypeError):
        sparse["x"]
    with pytest.raises(ValueError, match=r"different widths cannot be joined: \[7, 8\]"):
        join([sparse, Sparse(sparse.indices, sparse.values, sparse.offsets, 8)])


def test_a_sparse_is_pickled_and_tells_its_size():
    sparse = sparse_of([[(1, 2), (1, 3)], []])
    assert listed(pickle.loads(pickle.dumps(sparse))) == listed(sparse)
    assert sparse.nbytes == 2 * 4 + 2 * 8 + 3 * 8
    assert repr(sparse) == "Sparse(2 rows of 7, 2 stored values of float64)"
    assert sparse.dtype == np.float64
