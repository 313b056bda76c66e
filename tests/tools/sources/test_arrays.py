"""NumPy files: what comes out of them, and what is said of those that do not fit."""

import zipfile

import numpy as np
import pytest

import minibatch.tools.sources
from minibatch.tools.sources import open_source
from tests.tools.samples import converted, rows_of

DTYPES = ["?", "i1", "u1", "<i2", ">i4", "<u8", "<f2", ">f4", "<f8"]


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(minibatch.tools.sources, "PIECE_BYTES", 1000)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(97,), (97, 3), (97, 2, 3, 1)])
def test_arrays_of_any_number_type_and_shape_come_back_in_this_machines_byte_order(
    dtype, shape, tmp_path, small_pieces
):
    array = (np.random.default_rng(1).normal(size=shape) * 50).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", x=array)
    for source in (tmp_path / "a.npy", tmp_path / "a.npz"):
        dataset = converted(source, tmp_path / source.suffix)
        read = dataset.read(np.arange(97))["x"]
        assert read.dtype == array.dtype.newbyteorder("=")
        assert np.array_equal(read, array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_stored_by_columns_come_back_by_rows(save, tmp_path, small_pieces):
    array = np.asfortranarray(np.arange(97 * 6, dtype=np.int16).reshape(97, 3, 2))
    np.save(tmp_path / "a.npy", array)
    save(tmp_path / "a.npz", x=array, y=np.arange(97))
    for source in (tmp_path / "a.npy", tmp_path / "a.npz"):
        assert np.array_equal(rows_of(source)["x"], array)


def test_an_npz_gives_a_field_per_array_text_and_bytes_among_them(tmp_path, small_pieces):
    texts = np.array([f"ünï {i}" for i in range(97)])
    np.savez_compressed(tmp_path / "a.npz", image=np.zeros((97, 5, 5)), text=texts, raw=np.array([b"a\x00b"] * 97))
    rows = rows_of(tmp_path / "a.npz")
    assert list(rows) == ["image", "text", "raw"]
    assert rows["text"] == texts.tolist()
    assert rows["raw"] == [b"a\x00b"] * 97


def test_dates_come_back_as_counts_of_their_unit(tmp_path):
    np.save(tmp_path / "a.npy", np.array(["2020-01-01", "2020-01-03"], "datetime64[s]"))
    read = converted(tmp_path / "a.npy", tmp_path / "out").read([0, 1])["x"]
    assert read[1] - read[0] == 2 * 86_400


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([[1, 2], [3]], dtype=object), "Python objects, ragged rows perhaps.*one shape"),
        (np.ones(3, complex), "complex.*real and imaginary"),
        (np.ones(3, [("a", int), ("b", float)]), "structured array.*array of its own"),
        (np.array([["a"], ["b"]]), r"text of shape \(2, 1\)"),
        (np.array(7), r"single value.*\(rows, …\)"),
        (np.ones((3, 0)), r"shape \(3, 0\).*no value"),
        pytest.param(
            np.ones(3, np.longdouble),
            "float64",
            marks=pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="long double is float64 here"),
        ),
    ],
)
def test_arrays_that_no_data_set_can_hold_are_refused_with_what_to_do(array, said, tmp_path):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", good=np.arange(3), bad=array)
    with pytest.raises(ValueError, match=f"a.npy' .*{said}"):
        open_source(str(tmp_path / "a.npy"))
    with pytest.raises(ValueError, match=f"a.npz', array 'bad' .*{said}"):
        open_source(str(tmp_path / "a.npz"))


def test_a_pickle_is_never_loaded(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="objects are never unpickled"):
        open_source(str(path))


def test_arrays_of_unequal_lengths_are_refused_by_name_and_length(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(1000), y=np.zeros(999))
    with pytest.raises(ValueError, match="'y' has 999 rows, 'x' has 1,000"):
        open_source(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("kept", [0, 5, 100, 500, -1])
def test_a_truncated_npy_is_refused(kept, tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(100))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(
        ValueError, match=r"a\.npy' (does not begin like a NumPy array|has .* bytes, its header says 928)"
    ):
        open_source(str(path))


@pytest.mark.parametrize("kept", [0, 5, 100, 500, -1])
def test_a_truncated_npz_is_refused(kept, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(100))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"a\.npz' is no readable \.npz file"):
        open_source(str(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_changed_byte_of_an_npz_is_found_wherever_values_lie(save, tmp_path):
    path = tmp_path / "a.npz"
    save(path, x=np.random.default_rng(1).integers(0, 2**60, 1000))
    content = path.read_bytes()
    for position in (200, len(content) // 2, len(content) - 200):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.npz"):
            rows_of(path)


def test_a_zip_of_other_things_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"holds 'readme.txt', which is no \.npy array"):
        open_source(str(tmp_path / "a.npz"))
    with zipfile.ZipFile(tmp_path / "b.npz", "w"):
        pass
    with pytest.raises(ValueError, match="holds no arrays"):
        open_source(str(tmp_path / "b.npz"))


def test_a_header_that_promises_more_than_the_file_has_is_refused_before_anything_is_allocated(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(9))
    path.write_bytes(path.read_bytes().replace(b"(9,)", b"(9" + b"0" * 14 + b",)").replace(b" " * 14 + b"\n", b"\n"))
    with pytest.raises(ValueError, match="its header says 7,200,000,000,000,128"):
        open_source(str(path))
