"""Handwritten digits: a multilayer perceptron with keyed dropout on scikit-learn's 1,797 images of 8 × 8 pixels.

    minibatch train digits --out runs/digits

The data come with scikit-learn (no network): the test set of UCI's "Optical Recognition of Handwritten Digits",
Alpaydin and Kaynak 1998. One row in five is held out, by a key of its own that no seed changes. The images are shifted
by up to a pixel while training. In float64, which costs little at this size: so runs that are cut into other
microbatches agree to the last digits to the end, where in float32 each rounding grows with every step.

Expected: 98 % of the 348 held-out digits (seeds 1, 2, 3 and 7: 98.6, 98.9, 98.0 and 98.3), in about 5 s on two cores.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from minibatch import Dataset, DatasetWriter, rng
from minibatch.arguments import checked_integer
from minibatch.errors import MissingExtraError, UnfinishedDatasetError
from minibatch.models import MLP
from minibatch.train.config import Prepared, RunConfig
from minibatch.train.losses import cross_entropy, on
from minibatch.train.metrics import Metric, accuracy
from minibatch.train.schedules import Cosine, Schedule, Warmup
from minibatch.train.terms import Term
from minibatch.transforms import Fields, named

HELD_OUT = 0.2


def digits(
    *,
    seed: int = 7,
    minibatch_size: int | Schedule = 64,
    microbatch_size: int | None = None,
    max_samples: int = 100_000,
    learning_rate: float = 0.2,
    dropout: float = 0.3,
) -> RunConfig:
    """The configuration of a run on the digits; sizes in samples.

    >>> config = digits(max_samples=1000)
    >>> config.minibatch_size, config.model(seed=1).eval()(torch.zeros(5, 64)).shape
    (64, torch.Size([5, 10]))
    """
    checked_integer(max_samples, "max_samples", least=1)  # by its name here, before a schedule calls it otherwise
    return RunConfig(
        model=partial(make_model, dropout=dropout),
        inputs="image",
        terms=(Term("class", on(cross_entropy, "label")),),
        metrics=(Metric("accuracy", on(accuracy, "label")),),
        optimizers=partial(nesterov, learning_rate=learning_rate),
        schedules=(Warmup(samples=2000, then=Cosine(learning_rate, samples=max_samples)),),
        clip_grad_norm=5.0,
        data=prepare,
        transforms=(Shift(pixels=1),),
        seed=seed,
        minibatch_size=minibatch_size,
        microbatch_size=microbatch_size,
        max_samples=max_samples,
        validate_every=10_000,
        save_every=5_000,
        threads=1,
    )


def make_model(*, dropout: float, seed: int) -> nn.Module:
    """The network, float64: 64 pixels, 512 and 256 hidden units, 10 logits."""
    return MLP(sizes=(64, 512, 256, 10), dropout=dropout, activation="gelu", seed=seed).double()


def nesterov(model: nn.Module, *, learning_rate: float) -> torch.optim.Optimizer:
    """Gradient descent with Nesterov momentum 0.9; `foreach` is named, because torch's choice depends on the device."""
    return torch.optim.SGD(
        model.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4, foreach=True
    )


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
    missing = [path for path in (train, valid) if not _is_there(path)]
    if missing:
        images, labels = load()
        held_out = rng.uniform(rng.key(0, "digits.held out"), np.arange(len(labels))) < HELD_OUT
        for path in missing:
            chosen = held_out if path == valid else ~held_out
            with DatasetWriter(path, source="sklearn.datasets.load_digits") as writer:
                writer.write({"image": images[chosen], "label": labels[chosen]})
    return Prepared(train=train, valid=valid)


def load() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All digits: images float32 (1797, 8, 8) from 0 to 1, labels int64 (1797,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError(
            "the recipe digits takes its data from 'scikit-learn', which is not installed: "
            'pip install "minibatch-timeline[train,convert]"'
        ) from error
    bunch = load_digits()
    return (bunch.images / 16.0).astype(np.float32), bunch.target.astype(np.int64)


def _is_there(path: Path) -> bool:
    """Whether a complete data set is at `path`; an unfinished one is written anew, a damaged one is an error."""
    if not path.exists():
        return False
    try:
        Dataset.open(path)
    except UnfinishedDatasetError:
        return False
    return True
