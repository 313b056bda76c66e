"""Parquet: every supported type comes back, the others are refused by name, missing values by column and row."""

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import minibatch.tools.sources
from minibatch.tools.sources import open_source
from tests.tools.samples import converted, rows_of

TENSORS = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
NUMBERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]


@pytest.fixture
def file(tmp_path):
    """Writes columns as a Parquet file and gives its path."""

    def write(columns, **options):
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table(columns), path, **options)
        return path

    return write


@pytest.mark.parametrize("dtype", [*NUMBERS, "bool"])
def test_numbers_of_every_type_come_back(dtype, file, tmp_path):
    values = np.array([0, 1, 100, 7]).astype(dtype)
    read = converted(file({"x": pa.array(values)}), tmp_path / "out").read(np.arange(4))["x"]
    assert read.dtype == values.dtype
    assert np.array_equal(read, values)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(["ä", "", "c", "d"]), ["ä", "", "c", "d"]),
        (pa.array(["ä", "", "c", "d"], pa.large_string()), ["ä", "", "c", "d"]),
        (pa.array(["a", "b", "a", "b"]).dictionary_encode(), ["a", "b", "a", "b"]),
        (pa.array([b"a\0", b"", b"c", b"d"]), [b"a\0", b"", b"c", b"d"]),
        (pa.array([b"ab", b"cd", b"ef", b"gh"], pa.binary(2)), [b"ab", b"cd", b"ef", b"gh"]),
        (pa.array([[1, 2], [3, 4], [5, 6], [7, 8]], pa.list_(pa.int16(), 2)), [[1, 2], [3, 4], [5, 6], [7, 8]]),
        (
            pa.array([[[1], [2]], [[3], [4]], [[5], [6]], [[7], [8]]], pa.list_(pa.list_(pa.int8(), 1), 2)),
            [[[1], [2]], [[3], [4]], [[5], [6]], [[7], [8]]],
        ),
        (pa.FixedShapeTensorArray.from_numpy_ndarray(TENSORS), TENSORS),
        (pa.array([datetime.date(1970, 1, day) for day in (1, 2, 4, 5)]), [0, 1, 3, 4]),
        (pa.array([0, 1, 2, 3], pa.timestamp("us", "Europe/Paris")), [0, 1, 2, 3]),
        (pa.array([0, 1, 2, 3], pa.duration("ms")), [0, 1, 2, 3]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_columns_of_other_supported_types_come_back(column, expected, file, tmp_path, monkeypatch):
    monkeypatch.setattr(minibatch.tools.sources, "PIECE_BYTES", 40)
    source = file({"x": column, "number": [1, 2, 3, 4]}, row_group_size=3)
    read = converted(source, tmp_path / "out").read(np.arange(4))["x"]
    assert np.array_equal(np.stack(list(read)), np.stack(list(expected)))


def test_a_time_zone_is_noted_beside_the_instants(file, tmp_path):
    source = file({"x": pa.array([0], pa.timestamp("s", "Europe/Paris"))})
    assert converted(source, tmp_path / "out").fields["x"].metadata == {"timezone": "Europe/Paris"}


@pytest.mark.parametrize(
    ("column", "type_", "advice"),
    [
        (pa.array([[1], [2, 3]]), "list", "fixed_size_list"),
        (pa.array([[1], [2, 3]], pa.large_list(pa.int8())), "large_list", "fixed_size_list"),
        (pa.array([["a"], ["b"]], pa.list_(pa.string(), 1)), "fixed_size_list", "only lists of numbers"),
        (pa.array([{"a": 1}, {"a": 2}]), "struct", "each of its members a column"),
        (pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int8())), "map", "each of its keys"),
        (pa.array([decimal.Decimal("1.5"), decimal.Decimal("2")]), "decimal128", "cast it to float64"),
        (pa.array([datetime.time(1), datetime.time(2)]), "time64", "seconds since midnight"),
        (pa.array([None, None]), "null", "leave the column out"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_columns_of_other_types_are_refused_by_name_with_what_to_do(column, type_, advice, file):
    with pytest.raises(ValueError, match=rf"a\.parquet': column 'bad' is {type_}.*not supported: .*{advice}"):
        open_source(str(file({"good": [1, 2], "bad": column})))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1] * 17 + [None, 2]),
        pa.array(["a"] * 17 + [None, "b"]),
        pa.array([[1, 2]] * 17 + [None, [3, 4]], pa.list_(pa.int16(), 2)),
        pa.array([[1, 2]] * 17 + [[3, None], [3, 4]], pa.list_(pa.int16(), 2)),
        pa.array(["a"] * 17 + [None, "b"]).dictionary_encode(),
    ],
    ids=lambda value: str(value.type),
)
def test_a_missing_value_is_refused_with_its_column_and_row(column, file):
    source = file({"good": list(range(19)), "bad": column}, row_group_size=5)
    with pytest.raises(ValueError, match=r"column 'bad' has no value \(null\) in row 17 "):
        rows_of(source)


@pytest.mark.parametrize("kept", [0, 3, 200, -1])
def test_a_truncated_file_is_refused(kept, file):
    source = file({"x": list(range(1000))})
    source.write_bytes(source.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"a\.parquet' cannot be read as Parquet, it was truncated"):
        open_source(str(source))


def test_damage_inside_a_page_is_an_error_that_names_the_file(file):
    source = file({"x": [str(i) * 50 for i in range(1000)]}, compression="zstd")
    content = bytearray(source.read_bytes())
    content[100:1000] = bytes(900)
    source.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet' cannot be read as Parquet"):
        rows_of(source)


def test_a_file_without_rows_is_an_empty_source(file):
    source = open_source(str(file({"x": pa.array([], pa.int64())})))
    assert (source.rows, list(source.batches())) == (0, [])


def test_a_name_that_stands_twice_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="more than one column named 'x'"):
        open_source(str(tmp_path / "a.parquet"))
