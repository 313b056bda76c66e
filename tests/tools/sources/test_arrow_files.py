"""Arrow files, Feather and streams: alone, in folders, by patterns, compressed; and what damaged ones say."""

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest

import minibatch.tools.sources
from minibatch.tools.sources import BadRecords, open_source
from tests.tools.binary_samples import TABLE, arrow_file, arrow_stream
from tests.tools.samples import converted, rows_of

ROWS = {"x": [1, 2, 3, 4], "name": ["ä", "b", "c", ""]}


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_a_file_comes_back(compression, tmp_path, monkeypatch):
    path = arrow_file(tmp_path / "a.arrow", TABLE, 3, compression)
    assert rows_of(path) == ROWS
    monkeypatch.setattr(minibatch.tools.sources, "PIECE_BYTES", 20)
    assert rows_of(path) == ROWS


def test_a_stream_comes_back_whatever_its_suffix(tmp_path):
    for name in ("a.arrows", "a.arrow", "a.ipc"):
        assert rows_of(arrow_stream(tmp_path / name, TABLE, 3)) == ROWS


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_feather_comes_back(compression, tmp_path):
    pyarrow.feather.write_feather(TABLE, tmp_path / "a.feather", compression=compression)
    assert rows_of(tmp_path / "a.feather") == ROWS


def test_files_of_a_folder_and_of_a_pattern_come_in_the_order_of_their_names(tmp_path):
    for number in (2, 0, 1):
        arrow_file(tmp_path / f"part-{number}.arrow", pa.table({"x": [number]}))
    assert rows_of(tmp_path)["x"] == [0, 1, 2]
    assert rows_of(tmp_path / "part-*.arrow")["x"] == [0, 1, 2]
    assert rows_of(tmp_path / "part-{2,0}.arrow")["x"] == [2, 0]
    assert open_source(f"{tmp_path}/part-*.arrow").inputs() == [f"{tmp_path}/part-{n}.arrow" for n in range(3)]


def test_files_of_other_columns_are_refused(tmp_path):
    arrow_file(tmp_path / "a.arrow", TABLE)
    arrow_file(tmp_path / "b.arrow", pa.table({"x": [1.5], "name": ["a"]}))
    with pytest.raises(ValueError, match=r"b\.arrow' has other columns than .*a\.arrow': x double"):
        open_source(str(tmp_path))


def test_notes_of_fields_are_kept(tmp_path):
    schema = pa.schema([pa.field("x", pa.int64(), metadata={"classes": '["a"]', "raw": b"\xff"})])
    path = arrow_file(tmp_path / "a.arrow", pa.table({"x": [0]}, schema))
    assert converted(path, tmp_path / "out").fields["x"].metadata == {"classes": '["a"]'}


def test_views_and_extension_types_count_as_what_they_hold(tmp_path):
    table = pa.table(
        {
            "text": pa.array(["a" * 20, "b"], pa.string_view()),
            "list": pa.array([[1, 2], []], pa.list_view(pa.int32())),
            "json": pa.ExtensionArray.from_storage(pa.json_(pa.utf8()), pa.array(["{}", "[1]"])),
            "flag": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0], pa.int8())),
            "runs": pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int32()), pa.array([7.5, 8.5])),
        }
    )
    rows = rows_of(arrow_file(tmp_path / "a.arrow", table))
    assert (rows["text"], rows["json"]) == (["a" * 20, "b"], ["{}", "[1]"])
    assert [row.tolist() for row in rows["list"]] == [[1, 2], []]
    assert ([int(flag) for flag in rows["flag"]], rows["runs"]) == ([1, 0], [7.5, 8.5])


def test_missing_values_are_told_by_the_row_of_their_file_and_may_be_filled(tmp_path):
    arrow_file(tmp_path / "a.arrow", pa.table({"x": [1, 2]}))
    arrow_file(tmp_path / "b.arrow", pa.table({"x": [3, None, 5]}), 1)
    with pytest.raises(ValueError, match=r"b\.arrow', row 1 .*column 'x' has no value"):
        rows_of(tmp_path)
    bad = BadRecords(1)
    assert rows_of(tmp_path, bad=bad)["x"] == [1, 2, 3, 5]
    assert rows_of(tmp_path, fill=("x=9",))["x"] == [1, 2, 3, 9, 5]


def damaged(path, content):
    path.write_bytes(content)
    return str(path)


def test_what_is_no_arrow_file_is_refused(tmp_path):
    whole = arrow_file(tmp_path / "a.arrow", TABLE).read_bytes()
    stream = arrow_stream(tmp_path / "a.arrows", TABLE).read_bytes()
    for content, message in [
        (b"", "is empty"),
        (b"FEA1" + bytes(100), "is Feather version 1"),
        (b"PAR1" + bytes(100), "cannot be read as an Arrow stream"),
        (whole[:-1], "cannot be read as an Arrow file, it was truncated"),
        (whole[:100], "cannot be read as an Arrow file"),
        (stream[:20], "cannot be read as an Arrow stream"),
    ]:
        with pytest.raises(ValueError, match=rf"bad\.arrow' {message}"):
            open_source(damaged(tmp_path / "bad.arrow", content))


def test_a_stream_cut_within_a_batch_is_refused_with_its_number(tmp_path):
    content = arrow_stream(tmp_path / "a.arrows", pa.table({"x": np.arange(3000)}), 1000).read_bytes()
    with pytest.raises(ValueError, match=r"bad\.arrows' cannot be read: its batch 2 .* is damaged"):
        rows_of(damaged(tmp_path / "bad.arrows", content[:-4000]))


def test_offsets_that_lead_astray_are_refused_before_they_are_followed(tmp_path):
    table = pa.table({"name": ["abc", "def", "ghi"]})
    content = bytearray(arrow_file(tmp_path / "a.arrow", table).read_bytes())
    place = content.index(np.array([0, 3, 6, 9], "<i4").tobytes())
    content[place + 8 : place + 12] = np.array([10**8], "<i4").tobytes()
    with pytest.raises(ValueError, match=r"bad\.arrow' cannot be read: its batch 0 .* is damaged"):
        rows_of(damaged(tmp_path / "bad.arrow", content))


def test_a_folder_that_only_looks_like_one_of_arrow_files_is_refused(tmp_path):
    (tmp_path / "x.arrow").mkdir()
    with pytest.raises(ValueError, match=r"holds no files \.arrow"):
        open_source(str(tmp_path))
