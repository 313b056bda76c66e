"""Pickles: arrays of every protocol, from Python 2 too, come back; nothing that a file asks for is run."""

import collections
import io
import os
import pickle

import numpy as np
import pytest

from minibatch.tools.sources.safe_pickle import load, plain
from tests.tools.binary_samples import python2


def read(content):
    return load(io.BytesIO(content), "the file")


ARRAYS = [
    np.arange(6, dtype=np.uint8).reshape(2, 3),
    np.arange(6, dtype=">i4"),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array([True, False]),
    np.array(["ä", "bc"]),
    np.array([b"a", b"bc"]),
    np.zeros((0, 3), np.float32),
    np.array(3.5),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype} {array.shape}")
def test_arrays_come_back_from_every_protocol(array, protocol):
    found = read(pickle.dumps({"data": [array, array], "n": np.float32(1.5)}, protocol))
    data, n = found["data"], found["n"]
    assert n == 1.5
    for each in data:
        assert type(each) is np.ndarray
        assert each.dtype == array.dtype
        assert np.array_equal(each, array)


@pytest.mark.parametrize("array", ARRAYS[:4], ids=lambda array: f"{array.dtype} {array.shape}")
def test_arrays_come_back_as_python_2_pickled_them(array):
    found = plain(read(python2({"data": np.ascontiguousarray(array), "label_names": ["cat", "dog"], "raw": b"\xff"})))
    assert list(found) == ["data", "label_names", "raw"]
    assert np.array_equal(found["data"], array)
    assert (found["label_names"], found["raw"]) == (["cat", "dog"], b"\xff")


@pytest.mark.parametrize(
    "value", [None, True, 7, 2**80, 1.5, "ä", b"\0", [1, [2]], (1, (2,)), {"a": {1: 2}}, {1, 2}, {}, [], ()]
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_containers_come_back(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


def test_an_ordered_dict_comes_as_a_dict():
    assert read(pickle.dumps(collections.OrderedDict(a=1))) == {"a": 1}


def test_a_list_that_holds_itself_is_read():
    value: list = [1]
    value.append(value)
    found = read(pickle.dumps(value))
    assert found[1] is found


class Malicious:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def setattr_of_name(name: bytes, attribute: bytes) -> bytes:
    """A pickle that sets an attribute of what `name` gives, with the opcode for the state of an object."""
    return b"\x80\x02" + name + b"N}U" + bytes([len(attribute)]) + attribute + b"(tsb\x86b."


@pytest.mark.parametrize(
    "function", [os.system, eval, print, open, __import__, getattr, np.load, np.fromfile, np.ndarray.tofile]
)
def test_no_function_that_a_pickle_names_is_called(function, tmp_path):
    witness = tmp_path / "witness"
    with pytest.raises(ValueError, match=r"the file asks for .*which no array and no container needs"):
        read(pickle.dumps({"data": Malicious(function, f"touch {witness}")}))
    assert not witness.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cnumpy\nndarray\n(I1000000000000\ntR.",  # an array of any size, not filled
        b"cnumpy\ndtype\n(S'O8'\ntR.",
        pickle.dumps(np.array([print], object)),
        pickle.dumps(np.zeros(2, [("a", "i4")])),
        pickle.dumps(np.dtype("i4")),
        pickle.dumps(np.array(["2026"], "M8[Y]")),
        b"Pa persistent id\n.",
        pickle.dumps(np.zeros(3))[:-20] + b".",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n.",
    ],
)
def test_anything_else_is_refused(content):
    with pytest.raises(ValueError, match=r"^the file (asks for|cannot be read as a pickle)"):
        read(content)


def test_a_pickle_cannot_change_what_the_next_one_calls():
    before = read(pickle.dumps(np.arange(3), 2))
    for name in (b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\nscalar\n", b"cnumpy\ndtype\n"):
        with pytest.raises(ValueError, match="the file"):
            read(setattr_of_name(name, b"__defaults__"))
        with pytest.raises(ValueError, match="the file"):
            read(setattr_of_name(name, b"dtype"))
    assert np.array_equal(read(pickle.dumps(np.arange(3), 2)), before)


@pytest.mark.parametrize("shape", [(4,), (2,), (-1,), (2**62, 4)])
def test_an_array_whose_shape_does_not_fit_its_bytes_is_refused(shape):
    content = python2(np.arange(3, dtype=np.uint8)).replace(python2((3,))[2:-1], python2(shape)[2:-1])
    if shape != (-1,):  # NumPy takes -1 for "as many as there are"
        with pytest.raises(ValueError, match="the file cannot be read as a pickle"):
            read(content)


@pytest.mark.parametrize("kept", [0, 1, 5, 40, -1])
def test_a_truncated_pickle_is_refused_with_about_where(kept):
    content = pickle.dumps({"data": np.arange(100)})[:kept]
    with pytest.raises(ValueError, match="the file cannot be read as a pickle, about byte"):
        read(content)
