"""`columns` and `buffers`: which types are supported, and buffers that do not hold what they should."""

import ctypes
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from minibatch.buffers import leaf_buffers, readable
from minibatch.columns import field_of
from minibatch.errors import DamagedDatasetError, SchemaError


def tensor(kind, shape, **options):
    return pa.fixed_shape_tensor(kind, shape, **options)


def tensor_array(kind, shape, values):
    storage = pa.FixedSizeListArray.from_arrays(pa.array(values, kind), int(np.prod(shape)))
    return pa.ExtensionArray.from_storage(tensor(kind, shape), storage)


INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NUMBERS = [(getattr(pa, name)(), name) for name in INTEGERS]
NUMBERS += [(pa.float16(), "float16"), (pa.float32(), "float32"), (pa.float64(), "float64"), (pa.bool_(), "bool")]
NUMBERS += [(pa.date32(), "int32"), (pa.date64(), "int64"), (pa.time32("ms"), "int32"), (pa.time64("ns"), "int64")]
NUMBERS += [(pa.timestamp("us", "Europe/Berlin"), "int64"), (pa.duration("s"), "int64")]


@pytest.mark.parametrize(("kind", "dtype"), NUMBERS, ids=str)
def test_every_primitive_type_is_supported_alone_in_lists_and_in_tensors(kind, dtype):
    for wrapped, shape in [
        (kind, ()),
        (pa.list_(kind, 3), (3,)),
        (pa.list_(pa.list_(kind, 3), 2), (2, 3)),
        (tensor(kind, [2, 3]), (2, 3)),
        (pa.list_(tensor(kind, [3]), 0), (0, 3)),
    ]:
        field = field_of(pa.field("x", wrapped))
        assert (field.dtype, field.shape) == (np.dtype(dtype), shape)
        assert field.row_bytes == np.prod(shape, dtype=int) * np.dtype(dtype).itemsize


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()], ids=str)
def test_text_and_bytes_are_objects(kind):
    field = field_of(pa.field("x", kind))
    assert (field.dtype, field.shape, field.row_bytes) == (np.dtype(object), (), 0)
    assert field.is_text == ("string" in str(kind))


def test_binary_of_fixed_size_is_a_vector_of_bytes():
    assert field_of(pa.field("x", pa.binary(5))).shape == (5,)
    assert field_of(pa.field("x", pa.list_(pa.binary(5), 2))).shape == (2, 5)
    assert field_of(pa.field("x", pa.binary(5))).dtype == np.uint8


@pytest.mark.parametrize(
    "kind",
    [
        pa.null(),
        pa.decimal128(5, 2),
        pa.month_day_nano_interval(),
        pa.list_(pa.string(), 2),
        pa.list_(pa.list_(pa.list_(pa.int32()))),
        pa.list_(pa.list_(pa.int32()), 2),
        pa.list_(pa.decimal128(5, 2)),
        pa.struct([]),
        pa.map_(pa.string(), pa.int32()),
        pa.dense_union([pa.field("a", pa.int32())]),
        tensor(pa.string(), [2]),
        tensor(pa.list_(pa.float32(), 2), [3]),
        tensor(pa.binary(3), [2]),
        tensor(pa.float32(), [2, 3], permutation=[1, 0]),
    ],
    ids=str,
)
def test_a_type_that_is_no_array_is_refused_by_name(kind):
    with pytest.raises(SchemaError, match=r"field 'the name'.*(convert it to|store it in row-major)"):
        field_of(pa.field("the name", kind))


def test_a_permutation_that_changes_nothing_is_fine():
    assert field_of(pa.field("x", tensor(pa.float32(), [2, 3], permutation=[0, 1]))).shape == (2, 3)


def test_metadata_that_are_not_text_are_refused():
    with pytest.raises(SchemaError, match="field 'x': its metadata are not text"):
        field_of(pa.field("x", pa.int8(), metadata={b"a": b"\xff"}))


def test_the_size_of_a_row_does_not_wrap_around():
    kind = pa.list_(pa.list_(pa.list_(pa.list_(pa.int8(), 2**16), 2**16), 2**16), 2**16)
    assert field_of(pa.field("x", kind)).row_size == 2**64


# --- the buffers of a chunk ---------------------------------------------------------------------------------------


def buffers_of(column):
    field = field_of(pa.field("x", column.type))
    return leaf_buffers(readable(column, field, "part, chunk 7", {}), field, "part, chunk 7")[0]


def buffers_as_claimed(column):
    return leaf_buffers([column], field_of(pa.field("x", column.type)), "part, chunk 7")[0]


@dataclass
class Claimed:
    """What leaf_buffers asks an array for, with answers that no validated Arrow array would give."""

    type: pa.DataType
    rows: int
    bytes: int | None = None
    offset: int = 0
    values: object = None
    null_count: int = 0

    def __len__(self):
        return self.rows

    def buffers(self):
        return [None, None if self.bytes is None else pa.py_buffer(np.zeros(self.bytes, np.uint8))]


@pytest.mark.parametrize(
    ("column", "has", "needs"),
    [
        (Claimed(pa.int32(), 5, 19), 19, 20),
        (Claimed(pa.int32(), 5, 20, offset=1), 20, 24),
        (Claimed(pa.int32(), 5, None), 0, 20),
        (Claimed(pa.int8(), 2**62, 20), 20, 2**62),
        (Claimed(pa.bool_(), 9, 1), 1, 2),
        (Claimed(pa.bool_(), 8, 1, offset=1), 1, 2),
        (Claimed(pa.binary(3), 2, 5), 5, 6),
        (Claimed(pa.list_(pa.int8(), 3), 2, values=Claimed(pa.int8(), 5, 5)), 5, 6),
        (Claimed(pa.list_(pa.int8(), 3), 2, offset=2, values=Claimed(pa.int8(), 12, 12, offset=1)), 12, 13),
        (Claimed(pa.list_(pa.int8(), 2**31 - 1), 2, values=Claimed(pa.int8(), 5, 5)), 5, 2**32 - 2),
    ],
    ids=str,
)
def test_a_buffer_too_short_for_its_rows_is_damage(column, has, needs):
    message = f"part, chunk 7, field 'x': its buffer has {has} bytes, {column.rows} rows need {needs}"
    with pytest.raises(DamagedDatasetError, match=message):
        buffers_as_claimed(column)


def offsets_and_data(offsets, size, width):
    """A text or binary column whose offsets are these; Arrow looks only at the first and the last."""
    kind = pa.string() if width == 4 else pa.large_binary()
    buffers = [None, pa.py_buffer(np.array(offsets, f"<i{width}")), pa.py_buffer(np.zeros(size, np.uint8))]
    return pa.Array.from_buffers(kind, len(offsets) - 1, buffers)


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("offsets", [[0, 3, 2, 5], [0, -1, 2, 5], [0, 99, 5, 5], [3, 2, 5, 5], [0, 5, 0, 5]])
def test_offsets_that_leave_the_data_are_damage(offsets, width):
    with pytest.raises(DamagedDatasetError, match="part, chunk 7, field 'x': its offsets do not ascend within its 5 b"):
        buffers_of(offsets_and_data(offsets, 5, width))


@dataclass
class ClaimedText(Claimed):
    """The same for text: `offsets` are what its buffer holds."""

    offsets: tuple[int, ...] = ()

    def buffers(self):
        data = None if self.bytes is None else pa.py_buffer(np.zeros(self.bytes, np.uint8))
        return [None, pa.py_buffer(np.array(self.offsets, "<i4")), data]


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (ClaimedText(pa.string(), 2, 5, offsets=(0, 2)), "its offsets need 12 bytes, there are 8"),
        (ClaimedText(pa.string(), 2, 5, offsets=(0, 2, 3), offset=1), "its offsets need 16 bytes, there are 12"),
        (ClaimedText(pa.string(), 2**62, 5, offsets=(0, 2, 3)), "its offsets need"),
        (ClaimedText(pa.string(), 2, 5, offsets=(0, 2, 6)), "do not ascend within its 5 bytes"),
        (ClaimedText(pa.string(), 2, 5, offsets=(-1, 2, 3)), "do not ascend"),
        (ClaimedText(pa.string(), 2, None, offsets=(0, 0, 1)), "do not ascend within its 0 bytes"),
    ],
    ids=str,
)
def test_offsets_that_are_not_there_or_point_outside_are_damage(column, problem):
    with pytest.raises(DamagedDatasetError, match=f"part, chunk 7, field 'x': .*{problem}"):
        buffers_as_claimed(column)


def test_offsets_of_nothing_but_empty_rows_are_fine():
    assert buffers_as_claimed(ClaimedText(pa.string(), 2, None, offsets=(0, 0, 0))).offsets[0][1] == 4
    assert buffers_of(pa.array([b"", b""], pa.large_binary())).offsets[0][1] == 8


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, None]),
        pa.array([None, "a"]),
        pa.FixedSizeListArray.from_arrays(pa.array([1, None, 3, 4]), 2),
        pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4]), 2, mask=pa.array([True, False])),
        pa.FixedSizeListArray.from_arrays(tensor_array(pa.int8(), [2], [1, 2, None, 4]), 2),
        pa.FixedSizeListArray.from_arrays(
            pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4]), 2, mask=pa.array([True, False])), 2
        ),
    ],
    ids=lambda column: str(column.type),
)
def test_nulls_at_any_level_are_refused(column):
    with pytest.raises(SchemaError, match=r"part, chunk 7, field 'x': 1 null"):
        buffers_of(column)


def test_nulls_outside_a_slice_do_not_matter():
    assert buffers_of(pa.array([None, 1, 2]).slice(1)).data > 0


def sliced_at_every_level():
    flat = pa.array(np.arange(200, dtype=np.int16)).slice(3)
    pairs = pa.FixedSizeListArray.from_arrays(flat.slice(0, 190), 2).slice(5)
    squares = pa.FixedSizeListArray.from_arrays(pairs.slice(0, 81), 3).slice(2)
    yield flat.slice(4, 7)
    yield pairs.slice(1, 6)
    yield squares.slice(3, 5)
    yield pa.ExtensionArray.from_storage(tensor(pa.int16(), [2]), pairs).slice(2, 4)
    yield pa.array([bytes([i, i + 1, i + 2]) for i in range(9)], pa.binary(3)).slice(2, 3)
    bits = pa.array(np.arange(200) % 7 < 3).slice(5)
    yield bits.slice(6, 20)
    yield pa.FixedSizeListArray.from_arrays(bits.slice(0, 189), 3).slice(4, 10)


@pytest.mark.parametrize("column", list(sliced_at_every_level()), ids=lambda column: str(column.type))
def test_the_address_of_a_slice_is_that_of_its_first_row(column):
    """Files have no slices in them; columns that come from elsewhere do."""
    field = field_of(pa.field("x", column.type))
    found = buffers_of(column)
    wanted = np.array([list(row) if isinstance(row, bytes) else row for row in column.to_pylist()], field.dtype)
    if field.layout == "bits":
        memory = (ctypes.c_uint8 * ((found.first_bit + wanted.size + 7) // 8)).from_address(found.data)
        got = np.unpackbits(np.frombuffer(memory, np.uint8), bitorder="little")[found.first_bit :][: wanted.size]
    else:
        got = np.frombuffer((ctypes.c_uint8 * wanted.nbytes).from_address(found.data), field.dtype)
    assert np.array_equal(got.reshape(wanted.shape), wanted)
