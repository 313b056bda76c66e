"""Tensors of a minibatch share its memory, are made once, and name what is missing."""

import numpy as np
import pytest
import torch

from minibatch.train.batches import Samples, TensorBatch, as_tensor, shapes_of
from tests.train.small import make_source, write


def test_tensors_are_views_of_the_arrays(tmp_path):
    with make_source(write(tmp_path / "data")) as source:
        batch = source.next_minibatch(9)
    tensors = TensorBatch(batch)
    assert tensors["x"].data_ptr() == batch["x"].ctypes.data
    assert tensors["x"] is tensors["x"]
    part = tensors.part(4, 9)
    assert part["x"].data_ptr() == batch["x"][4:].ctypes.data
    assert (part.num_samples, part.rows.tolist(), part.times.tolist()) == (5, batch.rows[4:].tolist(), [4, 5, 6, 7, 8])
    assert part.times_tensor().dtype == torch.int64
    assert list(tensors) == list(batch.fields)
    assert len(tensors) == len(batch.fields)


def test_texts_and_bytes_stay_arrays():
    texts = np.array(["a", "b"], dtype=object)
    batch = TensorBatch(Samples({"text": texts, "fixed": np.array([b"x", b"y"])}, time=0))
    assert batch["text"] is texts
    assert batch.part(1, 2)["text"].tolist() == ["b"]
    assert batch["fixed"].dtype.kind == "S"


def test_an_array_that_may_not_be_written_is_copied_without_a_warning():
    array = np.arange(3)
    array.flags.writeable = False
    tensor = as_tensor(array)
    tensor += 1
    assert array.tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "uint32", "uint64", "float16", "float64"])
def test_every_number_becomes_a_tensor(dtype):
    array = np.array([0, 1, 1], dtype=dtype)
    assert as_tensor(array).tolist() == array.tolist()


def test_samples_take_places_of_nominal_time():
    samples = Samples({"x": [1, 2], "y": np.zeros((2, 3))}, time=10)
    assert (samples.nominal_time, samples.nominal_end, samples.num_samples) == (10, 12, 2)
    assert samples.times.tolist() == [10, 11]
    assert samples.rows.tolist() == [-1, -1]
    with pytest.raises(ValueError, match=r"one number of samples.*'x': 2, 'y': 3"):
        Samples({"x": [1, 2], "y": np.zeros(3)}, time=0)


def test_shapes_of_anything_are_short():
    nested = {"a": (torch.zeros(2), np.zeros((1, 3), np.int8)), "b": "text"}
    assert shapes_of(nested) == "{a: (float32 (2,), int8 (1, 3)), b: str}"
    assert shapes_of([0] * 100) == "list"
