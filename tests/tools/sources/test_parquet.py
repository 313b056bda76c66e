"""Parquet: every supported type comes back, the others are refused by name, missing values by column and row."""

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import minibatch.tools.sources
from minibatch.ragged import Ragged
from minibatch.sparse import Sparse
from minibatch.tools.sources import BadRecords, Options, open_source
from tests.tools.samples import converted, rows_of

TENSORS = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
NUMBERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]


@pytest.fixture
def file(tmp_path):
    """Writes columns as a Parquet file and gives its path."""

    def write(columns, **options):
        path = tmp_path / "a.parquet"
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
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
        (pa.array([7, 8, 7, 8]).dictionary_encode(), [7, 8, 7, 8]),
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


LISTS = [[1], [], [2, 3], [4]]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(LISTS), LISTS),
        (pa.array(LISTS, pa.large_list(pa.float32())), LISTS),
        (pa.array([["ä"], [], ["b", "c"], ["d"]]), [["ä"], [], ["b", "c"], ["d"]]),
        (pa.array([["a", "b"]] * 4, pa.list_(pa.string(), 2)), [["a", "b"]] * 4),
        (pa.array([["a"], [], ["b", "a"], ["b"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))), None),
        (pa.array([[[1, 2]], [], [[3, 4], [5, 6]], []], pa.list_(pa.list_(pa.uint8(), 2))), None),
        (pa.array([[[1], []], [], [[2, 3]], [[]]]), [[[1], []], [], [[2, 3]], [[]]]),
        (pa.array(LISTS, pa.list_(pa.timestamp("ms"))), LISTS),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_lists_come_as_ragged_rows_however_they_are_cut_into_pieces(column, expected, file, monkeypatch):
    monkeypatch.setattr(minibatch.tools.sources, "PIECE_BYTES", 40)
    source = open_source(str(file({"x": column}, row_group_size=3)))
    pieces = [piece["x"] for piece in source.batches()]
    assert len(pieces) > 1
    assert all(isinstance(piece, Ragged) for piece in pieces)
    rows = [listed(row) for piece in pieces for row in piece]
    assert rows == (column.to_pylist() if expected is None else expected)


def listed(row):
    if isinstance(row, Ragged):
        return [listed(inner) for inner in row]
    return (row.astype(np.int64) if row.dtype.kind in "mM" else row).tolist()


def test_the_members_of_structs_become_fields_with_dotted_names(file, tmp_path):
    rows = [{"a": number, "b": {"c": str(number), "d": [number] * number}} for number in (1, 2, 3)]
    read = converted(file({"x": pa.array(rows)}), tmp_path / "out").read(np.arange(3))
    assert set(read) == {"x.a", "x.b.c", "x.b.d"}
    assert (read["x.a"].tolist(), list(read["x.b.c"])) == ([1, 2, 3], ["1", "2", "3"])
    assert [row.tolist() for row in read["x.b.d"]] == [[1], [2, 2], [3, 3, 3]]


def test_the_members_of_structs_in_lists_become_lists_with_dotted_names(file, monkeypatch):
    monkeypatch.setattr(minibatch.tools.sources, "PIECE_BYTES", 40)
    rows = [[{"a": place, "b": {"c": str(place), "d": [place]}} for place in range(count)] for count in (2, 0, 3, 1)]
    read = rows_of(file({"x": pa.array(rows)}, row_group_size=3))
    assert [row.tolist() for row in read["x.a"]] == [[0, 1], [], [0, 1, 2], [0]]
    assert [row.tolist() for row in read["x.b.c"]] == [["0", "1"], [], ["0", "1", "2"], ["0"]]
    assert [listed(row) for row in read["x.b.d"]] == [[[0], [1]], [], [[0], [1], [2]], [[0]]]


def test_a_missing_list_of_structs_makes_its_members_missing(file):
    source = file({"x": pa.array([[{"a": 1}], None, [{"a": None}]])})
    bad = BadRecords(2)
    assert [row.tolist() for row in rows_of(source, bad=bad)["x.a"]] == [[1]]
    assert [record.where for record in bad.found] == ["row 1 (counted from 0)", "row 2 (counted from 0)"]


def test_a_struct_with_the_width_of_sparse_vectors_becomes_a_sparse_field(file):
    rows = [{"indices": [0, 3], "values": [1.0, 2.0]}, {"indices": [], "values": []}]
    kind = pa.struct({"indices": pa.list_(pa.int32()), "values": pa.list_(pa.float32())})
    schema = pa.schema([pa.field("x", kind, metadata={"sparse_width": "5"})])
    (piece,) = open_source(str(file(pa.table({"x": pa.array(rows, kind)}, schema)))).batches()
    assert isinstance(piece["x"], Sparse)
    assert piece["x"].dense().tolist() == [[1, 0, 0, 2, 0], [0, 0, 0, 0, 0]]


def test_a_time_zone_is_noted_beside_the_instants(file, tmp_path):
    source = file({"x": pa.array([0], pa.timestamp("s", "Europe/Paris"))})
    assert converted(source, tmp_path / "out").fields["x"].metadata == {"timezone": "Europe/Paris"}


@pytest.mark.parametrize(
    ("column", "type_", "advice"),
    [
        (pa.array([[[[1]]], [[[2]]]]), "list", "no lists deeper than two"),
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


def test_a_type_inside_a_struct_is_refused_by_its_dotted_name(file):
    with pytest.raises(ValueError, match=r"column 'x\.y' is time64"):
        open_source(str(file({"x": pa.array([{"y": datetime.time(1)}])})))


HOLED = [
    pa.array([1] * 17 + [None, 2]),
    pa.array(["a"] * 17 + [None, "b"]),
    pa.array([[1, 2]] * 17 + [None, [3, 4]], pa.list_(pa.int16(), 2)),
    pa.array([[1, 2]] * 17 + [[3, None], [3, 4]], pa.list_(pa.int16(), 2)),
    pa.array([[1, 2]] * 17 + [None, [3, 4]]),
    pa.array([[1, 2], []] * 8 + [[1], [3, None], []]),
    pa.array([[[1, 2], []]] * 17 + [[[], [3, None]], []]),
    pa.array(["a"] * 17 + [None, "b"]).dictionary_encode(),
]


@pytest.mark.parametrize("column", HOLED, ids=lambda value: str(value.type))
def test_a_missing_value_is_refused_with_its_column_and_row(column, file):
    source = file({"good": list(range(19)), "bad": column}, row_group_size=5)
    with pytest.raises(ValueError, match=r"a\.parquet', row 17 .*column 'bad' has no value \(null\)"):
        rows_of(source)


@pytest.mark.parametrize("column", HOLED, ids=lambda value: str(value.type))
def test_rows_with_missing_values_are_left_out_and_told_when_that_is_allowed(column, file):
    bad = BadRecords(1)
    source = file({"good": list(range(19)), "bad": column}, row_group_size=5)
    rows = rows_of(source, bad=bad)
    assert rows["good"] == [*range(17), 18]
    assert [record.where for record in bad.found] == ["row 17 (counted from 0)"]


def test_a_missing_struct_makes_its_members_missing(file):
    source = file({"x": pa.array([{"a": 1}, None, {"a": 3}])})
    with pytest.raises(ValueError, match=r"row 1 .*column 'x\.a' has no value"):
        rows_of(source)


@pytest.mark.parametrize(
    ("column", "fill", "expected"),
    [
        (pa.array([1, None, 3], pa.int16()), "7", [1, 7, 3]),
        (pa.array(["a", None, "c"]), "-", ["a", "-", "c"]),
        (pa.array(["a", None, "c"]).dictionary_encode(), "-", ["a", "-", "c"]),
        (pa.array([1.5, None, 3]), "nan", [1.5, float("nan"), 3]),
    ],
    ids=str,
)
def test_a_given_value_stands_for_missing_ones(column, fill, expected, file):
    rows = rows_of(file({"x": column}), fill=(f"x={fill}",))
    assert np.array_equal(np.asarray(rows["x"]), np.asarray(expected), equal_nan=isinstance(expected[0], float))


@pytest.mark.parametrize(("fill", "message"), [("x=ä", "'ä' is no int64"), ("y=1", "has no field 'y'; it has x")])
def test_a_fill_that_fits_no_column_is_refused(fill, message, file):
    with pytest.raises(ValueError, match=message):
        open_source(str(file({"x": [1, None]})), Options(fill=(fill,)))


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


def test_a_dotted_name_that_stands_twice_is_refused(file):
    with pytest.raises(ValueError, match=r"more than one column named 'x\.a'"):
        open_source(str(file({"x": pa.array([{"a": 1}]), "x.a": [2]})))
