"""`arrow_input`: what may be written becomes a column of the same values, and what may not is refused with its row."""

import datetime
import decimal
import warnings

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minibatch.arrow_input import as_arrow
from minibatch.columns import field_of
from minibatch.errors import SchemaError
from minibatch.ragged import Ragged
from minibatch.sparse import Sparse


def tensor(kind, shape):
    return pa.fixed_shape_tensor(kind, shape)


dtypes = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(endianness="?"),
    arrays.unsigned_integer_dtypes(endianness="?"),
    arrays.floating_dtypes(endianness="?"),
)


@given(st.data(), dtypes, arrays.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=4))
def test_any_array_becomes_a_column_of_the_same_values(data, dtype, shape):
    array = data.draw(arrays.arrays(dtype, shape))
    if data.draw(st.booleans()):
        array = array[::-1]
    if data.draw(st.booleans()):
        array = np.asfortranarray(array)
    column = as_arrow(array, "x")
    assert (len(column), column.null_count) == (shape[0], 0)
    values = column.storage if len(shape) > 1 else column
    for _ in shape[1:2]:
        values = values.flatten()
    flat = values.to_numpy(zero_copy_only=False)
    assert flat.dtype == dtype.newbyteorder("=")
    assert flat.tobytes() == np.ascontiguousarray(array).astype(flat.dtype).tobytes()
    assert field_of(pa.field("x", column.type)).shape == shape[1:]


def test_numbers_are_not_copied():
    array = np.arange(12.0).reshape(4, 3)
    assert as_arrow(array, "x").storage.values.buffers()[1].address == array.ctypes.data


@pytest.mark.parametrize("byte_order", "<>")
@pytest.mark.parametrize(
    "dtype", ["M8[D]", "M8[s]", "M8[ms]", "M8[us]", "M8[ns]", "m8[s]", "m8[ms]", "m8[us]", "m8[ns]"]
)
def test_times_of_every_unit_keep_it_in_the_schema(dtype, byte_order):
    array = np.array([[-1, 0, 5]] * 2).astype(byte_order + dtype)
    flat, matrix = as_arrow(array[0], "x"), as_arrow(array, "x")
    assert flat.equals(pa.array(array[0].astype(dtype)))
    assert matrix.storage.flatten().equals(pa.array(array.reshape(-1).astype(dtype)))


@pytest.mark.parametrize(
    ("dtype", "cast"),
    [(f"M8{unit}", "datetime64") for unit in ("", "[Y]", "[W]", "[h]", "[ps]", "[25s]")]
    + [(f"m8{unit}", "timedelta64") for unit in ("", "[D]", "[m]", "[10ms]")],
)
def test_times_of_other_units_are_refused_with_the_cast(dtype, cast):
    with pytest.raises(SchemaError, match=rf"field 'x' has dtype {cast}.*expected the unit.*\.astype\('{cast}\[s\]'\)"):
        as_arrow(np.zeros(3, dtype), "x")


@pytest.mark.parametrize(
    ("array", "row"),
    [
        (np.array(["2020-01-01", "NaT"], "M8[s]"), 1),
        (np.array([["2020-01-01"] * 2, ["2020-01-01", "NaT"]], "M8[D]"), 1),
        (np.array(["NaT", 5], "m8[ns]"), 0),
        (np.array([0, 2**31 - 1, 2**31]).astype("M8[D]"), 2),
        (np.array([0, -(2**31), -(2**31) - 1]).astype("M8[D]"), 2),
    ],
)
def test_times_that_cannot_be_stored_are_refused_with_their_row(array, row):
    with pytest.raises(SchemaError, match=f"field 'x': row {row} has np"):
        as_arrow(array, "x")


TEXTS = ["", "a", "ünï", "🦊", "nul\0inside\0"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (TEXTS, pa.string()),
        (np.array(TEXTS, object), pa.string()),
        (np.array(["a", "bb"]), pa.string()),
        (np.array([], "U3"), pa.string()),
        ([np.str_("a"), "b"], pa.string()),
        ((text for text in TEXTS), pa.string()),
        ([text.encode() for text in TEXTS], pa.binary()),
        ([bytearray(b"a"), memoryview(b"bc"), b""], pa.binary()),
        (np.array([b"a", b"bb"]), pa.binary()),
        (np.array([b"a", b""], object), pa.binary()),
        ([1, 2.5], pa.float64()),
        ([2**63, 2**64 - 1], pa.uint64()),
        ([2**53, 0.5], pa.float64()),
        ([np.float32(1), np.float32(2)], pa.float32()),
        (range(3), pa.int64()),
        ([np.array(3), np.array(4)], pa.int64()),
        ([True, np.bool_(False)], pa.bool_()),
        ([[1, 2], [3, 4]], pa.list_(pa.int64())),
        ([[1, 2], [3]], pa.list_(pa.int64())),
        ([[1], [0.5]], pa.list_(pa.float64())),
        ([[1, 2], [], np.array([3], np.int32)], pa.list_(pa.int64())),
        ([np.zeros(2, np.int8), np.zeros(2, np.int8)], pa.list_(pa.int8())),
        ([np.zeros(2, np.int8), np.zeros(0, np.int8)], pa.list_(pa.int8())),
        ([np.zeros(0, np.float16)], pa.list_(pa.float16())),
        ([[True], [False, True]], pa.list_(pa.bool_())),
        ([np.zeros(1, "M8[s]"), np.zeros(2, "M8[s]")], pa.list_(pa.timestamp("s"))),
        ([["a"], ["b", ""], []], pa.list_(pa.string())),
        ([[b"a"], []], pa.list_(pa.binary())),
        ([np.array(["a"]), np.array([], "U1")], pa.list_(pa.string())),
        ([["a"], np.array(["b"], object)], pa.list_(pa.string())),
        ([[[1], [2, 3]], [], [[]]], pa.list_(pa.list_(pa.int64()))),
        ([[["a"], []], [["b", "c"]]], pa.list_(pa.list_(pa.string()))),
        ([[np.zeros(2, np.int8), np.zeros(3, np.int8)], []], pa.list_(pa.list_(pa.int8()))),
        ([[np.zeros((2, 3), np.int8)] * 2, []], pa.list_(pa.list_(pa.list_(pa.int8(), 3), 2))),
        ([np.zeros((2, 3), np.int8), np.zeros((0, 3), np.int8)], pa.list_(pa.list_(pa.int8(), 3))),
        ([[], []], pa.list_(pa.null())),
        ([[[]], []], pa.list_(pa.list_(pa.null()))),
        (
            Ragged(np.zeros((3, 2, 0, 1), bool), np.array([0, 1, 3])),
            pa.list_(pa.list_(pa.list_(pa.list_(pa.bool_(), 1), 0), 2)),
        ),
        (Ragged(np.zeros((3, 2)), np.array([0, 1, 3])), pa.list_(pa.list_(pa.float64(), 2))),
        (Ragged(np.array(["a", "b"], object), np.array([0, 2])), pa.list_(pa.string())),
        (Ragged(Ragged(np.zeros(3, bool), np.array([0, 3])), np.array([0, 0, 1])), pa.list_(pa.list_(pa.bool_()))),
        ([np.ones((2, 3), np.float16)] * 2, tensor(pa.float16(), [2, 3])),
        (np.ma.array([1, 2, 3]), pa.int64()),
        ([np.datetime64("2020-01-01")], pa.date32()),
    ],
    ids=lambda value: str(value)[:40],
)
def test_lists_and_arrays_become_columns(values, kind):
    assert as_arrow(values, "x").type == kind


@pytest.mark.parametrize("values", [[], (), np.array([], object), iter([])], ids=str)
def test_what_has_no_row_and_no_dtype_has_no_type(values):
    assert as_arrow(values, "x").type == pa.null()


def test_text_stays_as_it_is_to_the_last_nul():
    assert as_arrow(TEXTS, "x").to_pylist() == TEXTS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("abc", "expected an array or a list with one row per sample, got 'abc'"),
        (b"abc", "expected an array or a list"),
        (5, "expected an array or a list with one row per sample, got 5"),
        (None, "expected an array or a list with one row per sample, got None"),
        ({1, 2}, "expected an array or a list"),
        ({1: 2}, "expected an array or a list"),
        (np.array(3), "expected an array with one row per sample, got the single value"),
        ([1, "a"], "row 1 is str, row 0 is int"),
        ([b"a", 1], "row 1 is int, row 0 is bytes"),
        (["a", b"b"], "row 1 is bytes, row 0 is str"),
        (np.array(["a", "b", b"c"], object), "row 2 is bytes, row 0 is str"),
        (["a", ["b", "c"]], "row 1 is list, row 0 is str"),
        ([1, None], "row 1 is None; missing values"),
        ([None, "a"], "row 0 is None; missing values"),
        (["a", "b", None], "row 2 is None; missing values"),
        (np.array([None, 1.5], object), "row 0 is None; missing values"),
        ([True, 2], "bools and other values in one list"),
        ([0.5, np.bool_(True)], "bools and other values in one list"),
        ([2**63, -1], "its integers fit no dtype together"),
        ([0.5, 2**53 + 1], "row 1 is 9007199254740993, which a float64 like its neighbours would round"),
        ([np.int64(2**53 + 1), np.float32(0.5)], "row 0 is 9007199254740993, which a float64"),
        ([2**70, 1], "objects of type int, which fit no dtype"),
        ([[1], np.array(3)], "row 1 has length None, row 0 has 1"),
        ([[1], [None]], r"row 0 is None; missing values"),
        ([[1], [2, "a"]], "row 1 is str"),
        ([[1], [True]], "bools, numbers and other values in one field"),
        ([[1], ["a"]], "row 0 has 1 beside values of type str"),
        ([["a"], [None]], "row 1 has None beside values of type str"),
        ([["a", b"b"], []], "row 0 has b'b' beside values of type str"),
        ([[2**63], [-1]], "its integers fit no dtype together"),
        ([[0.5], [2**53 + 1]], "would be rounded to float64"),
        ([[[1]], [2]], "row 1 mixes lists and values"),
        ([[[[1]]]], "lists may be nested once"),
        ([[[1], [0.5]], [["a"]]], "lists inside of it': row 0 has 1 beside values of type str"),
        (Ragged(np.arange(3), np.array([0, 3, 1, 3])), "its offsets do not ascend at row 1"),
        (Sparse(np.array([1, 5]), np.ones(2), np.array([0, 1, 2]), 5), "row 1 has index 5, expected 0 … 4"),
        (Sparse(np.array([1, -1]), np.ones(2), np.array([0, 1, 2]), 5), "row 1 has index -1, expected 0 … 4"),
        ([[1, 2], 3], "row 1 has length None, row 0 has 2"),
        ([np.zeros(2), np.zeros(2), np.zeros((3, 1))], r"row 2 is float64 of shape \(3, 1\), row 0 is float64 of"),
        ([np.zeros((2, 1)), np.zeros((1, 2))], r"row 1 is float64 of shape \(1, 2\)"),
        ([np.zeros(2, "i8"), np.zeros(2, "u8")], r"row 1 is uint64 of shape \(2,\), row 0 is int64"),
        ([np.ma.array([1, 2]), np.ma.array([1, 2], mask=[0, 1])], "row 1 has masked values"),
        (np.ma.array([[1, 2], [3, 4]], mask=[[0, 0], [1, 0]]), "row 1 is masked"),
        (np.zeros(3, complex), "dtype complex128: expected bool, integers"),
        (np.zeros(3, np.longdouble), "dtype float128|dtype longdouble"),
        (np.zeros(3, "i4,f4"), "expected bool, integers"),
        (np.zeros(3, "V4"), r"dtype \|V4"),
        (np.array([["a"], ["b"]], object), r"one value per row, got shape \(2, 1\)"),
        (np.array([[1], [2, 3]], object), "objects of type list"),
        ([decimal.Decimal(1)], "objects of type Decimal"),
        ([datetime.date(2020, 1, 1)], "objects of type date"),
        (["fine", "\ud800"], "row 1 cannot be stored as UTF-8"),
    ],
    ids=lambda value: str(value)[:40].replace("\ud800", "surrogate"),
)
def test_what_is_no_column_is_refused_with_field_and_row(values, message):
    with pytest.raises(SchemaError, match=f"^field 'the name.*{message}"):
        as_arrow(values, "the name")


def test_a_matrix_is_an_array_of_two_axes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrix = np.matrix([[1, 2], [3, 4]])
    assert as_arrow(matrix, "x").type == tensor(pa.int64(), [2])


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4), max_size=6))
def test_lists_of_numbers_keep_their_values(rows):
    column = as_arrow(rows, "x")
    assert column.to_pylist() == rows
    assert not any(rows) or column.type == pa.list_(pa.int64())


@given(st.lists(st.lists(st.lists(st.text(max_size=3), max_size=3), max_size=3), min_size=1, max_size=5))
def test_lists_of_lists_of_texts_keep_their_values(rows):
    if any(rows):
        assert as_arrow(rows, "x").to_pylist() == rows


def test_a_sparse_becomes_a_struct_of_two_lists():
    sparse = Sparse(np.array([4, 0, 2], np.uint8), np.array([1, 2, 3], np.float16), np.array([0, 1, 1, 3]), 5)
    column = as_arrow(sparse, "x")
    assert column.type.field("indices").type == pa.list_(pa.int32())
    assert column.type.field("values").type == pa.list_(pa.float16())
    assert column.to_pylist() == [
        {"indices": [4], "values": [1]}, {"indices": [], "values": []}, {"indices": [0, 2], "values": [2, 3]}
    ]  # fmt: skip
    nested = as_arrow(Ragged(sparse, np.array([0, 0, 3])), "x")
    assert [len(row) for row in nested.to_pylist()] == [0, 3]
    wide = Sparse(np.array([2**40]), np.ones(1), np.array([0, 1]), 2**41)
    assert as_arrow(wide, "x").type.field("indices").type == pa.list_(pa.int64())
