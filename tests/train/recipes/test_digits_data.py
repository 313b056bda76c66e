"""The digits as data sets: the split, what is written when, and images that are shifted."""

import numpy as np
import pytest

from minibatch import Dataset, DatasetWriter, rng
from minibatch.errors import DatasetError
from minibatch.train.recipes.digits_data import Shift, load, prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "data"
    prepare(folder)
    return folder


def test_the_split_has_every_digit_once_and_is_about_four_to_one(data):
    images, labels = load()
    train, valid = (Dataset.open(data / part) for part in ("train", "valid"))
    assert len(train) + len(valid) == len(labels) == 1797
    assert (len(train), len(valid)) == (1449, 348)
    both = np.concatenate([part.read(np.arange(len(part)))["image"] for part in (train, valid)])
    assert sorted(image.tobytes() for image in both) == sorted(image.tobytes() for image in images)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0.0, 1.0)


def test_data_that_are_there_are_kept_and_unfinished_ones_made_anew(data, tmp_path):
    before = Dataset.open(data / "train").fingerprint
    stamp = (data / "train" / "manifest.json").stat().st_mtime_ns
    prepare(data)
    assert (data / "train" / "manifest.json").stat().st_mtime_ns == stamp
    writer = DatasetWriter(tmp_path / "train")
    writer.write({"x": np.arange(3)})
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with pytest.raises(DatasetError):
        Dataset.open(tmp_path / "train")
    prepared = prepare(tmp_path)
    assert Dataset.open(prepared.train).fingerprint == before
    (tmp_path / "train" / "manifest.json").write_text("{}")
    with pytest.raises(DatasetError):
        prepare(tmp_path)


def test_a_shift_moves_whole_images_by_up_to_a_pixel():
    images = np.zeros((200, 8, 8), np.float32)
    images[:, 3, 4] = 1.0
    shifted = Shift(pixels=1)({"image": images}, rng.Draws(7, "Shift", np.arange(200)))["image"]
    rows, columns = np.nonzero(shifted.any(0))
    assert (shifted.sum((1, 2)) == 1).all()
    assert sorted(zip(rows, columns, strict=True)) == [(r, c) for r in (2, 3, 4) for c in (3, 4, 5)]
