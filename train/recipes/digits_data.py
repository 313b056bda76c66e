"""The digits that come with scikit-learn, as shards: what the recipes on them share, and no recipe itself.

1,797 images of 8 × 8 pixels, the test set of UCI's "Optical Recognition of Handwritten Digits", Alpaydin and Kaynak
1998 (CC BY 4.0). One row in five is held out, by a key of its own that no seed changes: 1,449 and 348 rows.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minibatch import Dataset, DatasetWriter, rng
from minibatch.arguments import checked_integer
from minibatch.errors import MissingExtraError, UnfinishedDatasetError
from minibatch.train.config import Prepared
from minibatch.transforms import Fields, named

HELD_OUT = 0.2


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Move each image (height, width) of `field` by up to `pixels` up or down and left or right; zeros come in.

    >>> shift = Shift(pixels=1)
    >>> images = np.ones((1, 3, 3), np.float32)
    >>> shift({"image": images}, rng.Draws(7, "Shift", np.array([0])))["image"].shape
    (1, 3, 3)
    """

    pixels: int
    field: str = "image"

    def __post_init__(self) -> None:
        checked_integer(self.pixels, "Shift: pixels", least=0)

    def __call__(self, fields: Fields, draws: rng.Draws) -> Fields:
        images = named(self.field, fields)
        n, height, width = images.shape
        border = self.pixels
        framed = np.zeros((n, height + 2 * border, width + 2 * border), images.dtype)
        framed[:, border : border + height, border : border + width] = images
        down, right = draws.integers(2 * border + 1, (2,)).T[:, :, None, None]
        rows, columns = np.arange(height)[:, None], np.arange(width)
        return {**fields, self.field: framed[np.arange(n)[:, None, None], down + rows, right + columns]}


def prepare(folder: Path) -> Prepared:
    """The data sets `folder`/train and `folder`/valid, written unless they are there.

    Fields: image float32 (8, 8) from 0 to 1; label int64, the digit.
    """
    train, valid = folder / "train", folder / "valid"
    missing = [path for path in (train, valid) if not is_there(path)]
    if missing:
        images, labels = load()
        apart = held_out(len(labels))
        for path in missing:
            chosen = apart if path == valid else ~apart
            with DatasetWriter(path, source="sklearn.datasets.load_digits") as writer:
                writer.write({"image": images[chosen], "label": labels[chosen]})
    return Prepared(train=train, valid=valid)


def held_out(rows: int) -> NDArray[np.bool_]:
    """Which of the digits are held out: bool (rows,)."""
    chosen: NDArray[np.bool_] = rng.uniform(rng.key(0, "digits.held out"), np.arange(rows)) < HELD_OUT
    return chosen


def load() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All digits: images float32 (1797, 8, 8) from 0 to 1, labels int64 (1797,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError(
            "the recipes on digits take their data from 'scikit-learn', which is not installed: "
            'pip install "minibatch-timeline[train,convert]"'
        ) from error
    bunch = load_digits()
    return (bunch.images / 16.0).astype(np.float32), bunch.target.astype(np.int64)


def is_there(path: Path) -> bool:
    """Whether a complete data set is at `path`; an unfinished one is written anew, a damaged one is an error."""
    if not path.exists():
        return False
    try:
        Dataset.open(path)
    except UnfinishedDatasetError:
        return False
    return True
