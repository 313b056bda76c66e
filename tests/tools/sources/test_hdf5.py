"""HDF5: numbers, text and lists, chunked or not, groups as dotted names, and what is refused."""

import sys

import h5py
import numpy as np
import pytest

import minibatch.tools.sources
from minibatch.tools.sources import open_source
from tests.tools.binary_samples import hdf5
from tests.tools.samples import rows_of, run

NUMBERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]


@pytest.fixture
def file(tmp_path):
    """Writes data sets by their paths and gives the file's."""

    def write(**data):
        with h5py.File(tmp_path / "a.h5", "w") as opened:
            for name, values in data.items():
                opened[name.replace("__", "/")] = values
        return tmp_path / "a.h5"

    return write


@pytest.mark.parametrize("dtype", [*NUMBERS, "bool", ">i4", ">f8"])
def test_numbers_of_every_type_come_back(dtype, file):
    values = (np.arange(24) % 5).astype(dtype).reshape(4, 3, 2)
    (piece,) = open_source(str(file(x=values))).batches()
    assert piece["x"].dtype == values.dtype.newbyteorder("=")
    assert np.array_equal(piece["x"], values)


@pytest.mark.parametrize("options", [{}, {"chunks": (3, 2)}, {"chunks": (7, 1), "compression": "gzip"}])
@pytest.mark.parametrize("piece_bytes", [1, 100, 10**6])
def test_rows_come_whole_however_the_file_is_chunked(options, piece_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(minibatch.tools.sources, "PIECE_BYTES", piece_bytes)
    values = np.arange(40, dtype=np.int32).reshape(20, 2)
    with h5py.File(tmp_path / "a.hdf5", "w") as opened:
        opened.create_dataset("x", data=values, **options)
    assert np.array_equal(np.stack(rows_of(tmp_path / "a.hdf5")["x"]), values)


def test_text_of_every_form_comes_back(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["vary"] = ["ä", "", "ccc"]
        opened["fixed"] = np.array(["ä".encode(), b"b", b""], h5py.string_dtype("utf-8", 4))
        opened["ascii"] = np.array([b"a", b"bc", b""])
    rows = rows_of(tmp_path / "a.h5")
    assert (rows["vary"], rows["fixed"]) == (["ä", "", "ccc"], ["ä", "b", ""])
    assert rows["ascii"] == [b"a", b"bc", b""]


def test_arrays_of_varying_length_become_lists(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        data = opened.create_dataset("x", (3,), h5py.vlen_dtype(np.int16))
        data[0], data[2] = [1, 2], [3]
    rows = rows_of(tmp_path / "a.h5")["x"]
    assert [row.tolist() for row in rows] == [[1, 2], [], [3]]
    assert rows[0].dtype == np.int16


def test_groups_become_dotted_names_and_single_values_are_left_out(file):
    source = open_source(str(file(b=[1, 2], a__x=[3, 4], a__b__y=[5, 6], a__seed=7)))
    assert [list(piece) for piece in source.batches()] == [["a.b.y", "a.x", "b"]]
    assert "left out, because they have no rows: a/seed" in source.describe()


def test_names_of_dimensions_are_left_out(file):
    path = file(x=np.zeros((4, 2)), places=np.arange(2))
    with h5py.File(path, "r+") as opened:
        opened["places"].make_scale("place")
        opened["x"].dims[1].attach_scale(opened["places"])
    assert list(rows_of(path)) == ["x"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"x": [1, 2], "y": [1, 2, 3]}, "'y' has 3 rows, 'x' has 2; all need the same first axis"),
        ({"x": np.zeros(2, [("a", "i4")])}, "data set 'x' has the type .*members as data sets of their own"),
        ({"x": np.zeros(2, complex)}, "data set 'x' has the type complex128"),
        ({"x": np.zeros((2, 0))}, r"has shape \(2, 0\): its rows hold no value"),
        ({"x": 7}, "holds no data sets with rows"),
        ({"x.y": [1], "x__y": [2]}, "two data sets that become the field 'x.y'"),
        ({"x": np.array([[b"a", b"b"]])}, r"has text or lists of shape \(1, 2\)"),
    ],
)
def test_what_no_data_set_can_hold_is_refused_by_name(data, message, file):
    with pytest.raises(ValueError, match=message):
        open_source(str(file(**data)))


def test_links_are_followed_within_the_file_only(file):
    path = file(x=[1, 2])
    with h5py.File(path, "r+") as opened:
        opened["same"] = h5py.SoftLink("/x")
    assert [int(value) for value in rows_of(path)["same"]] == [1, 2]
    with h5py.File(path, "r+") as opened:
        opened["far"] = h5py.ExternalLink("/etc/other.h5", "x")
    with pytest.raises(ValueError, match=r"'far' lies in another file, '/etc/other\.h5'"):
        open_source(str(path))


def test_text_that_is_not_utf_8_is_refused_with_its_rows(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened["x"] = np.array([b"a", b"\xff"], h5py.string_dtype("utf-8", 2))
    with pytest.raises(ValueError, match="data set 'x', rows 0 to 2: not UTF-8"):
        rows_of(tmp_path / "a.h5")


@pytest.mark.parametrize("kept", [0, 100, -10])
def test_a_truncated_file_is_refused(kept, file):
    path = file(x=np.arange(1000))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"a\.h5' cannot be read as HDF5, it was truncated"):
        open_source(str(path))


def test_damage_in_a_chunk_is_an_error_with_its_rows(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as opened:
        opened.create_dataset("x", data=np.arange(4000), chunks=(1000,), compression="gzip", fletcher32=True)
    with h5py.File(tmp_path / "a.h5", "r") as opened:
        place = opened["x"].id.get_chunk_info(2).byte_offset
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[place + 40] ^= 255
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(ValueError, match=r"data set 'x', rows 0 to 4,000 cannot be read, it is damaged"):
        rows_of(tmp_path / "a.h5")


def test_a_library_that_is_not_installed_is_named(tmp_path, monkeypatch):
    source = hdf5(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    result = run("convert", source, tmp_path / "out")
    assert result.exit_code == 1
    assert "needs 'h5py', which is not installed" in result.stderr
