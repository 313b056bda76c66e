"""What cuda-convnet2 keeps of its images in batches.meta: the mean image, and the main directions of the colours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from minibatch import Dataset, MinibatchSource
from minibatch.train.config import Prepared
from minibatch.transforms import CenterCrop, ColorNoise, Transform, apply, color_components, name_operations

AT_ONCE = 500  # images


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelStatistics:
    """mean: of the images' middles, float32 (size, size, 3). vectors, deviations: see `transforms.color_components`."""

    mean: NDArray[np.float32]
    vectors: NDArray[np.float64]
    deviations: NDArray[np.float64]


def pixel_statistics(path: Path, *, size: int, most: int, decode: Sequence[Transform] = ()) -> PixelStatistics:
    """Of the field `image` of the data set at `path`: the middle `size` × `size` of `most` images at even distances.

    decode: transforms that make pixels of them, where they are encoded. All sums are exact and the directions rounded
    to six digits, so that no other library of linear algebra gives a resumed run other noise.
    """
    dataset = Dataset.open(path)
    count = min(most, len(dataset))
    chosen = np.arange(count) * len(dataset) // count
    operations = name_operations([*decode, CenterCrop(size=size)])
    total = np.zeros(())
    seen = 0

    def blocks() -> Iterator[NDArray[np.uint8]]:
        nonlocal total, seen
        for begin in range(0, count, AT_ONCE):
            rows = chosen[begin : begin + AT_ONCE]
            images = apply(operations, dataset.read(rows, ["image"]), 0, rows, rows)[0]["image"]
            total = total + images.sum(0, dtype=np.float64)
            seen += len(images)
            yield images

    vectors, deviations = color_components(blocks())
    return PixelStatistics(
        mean=(total / seen).astype(np.float32), vectors=vectors.round(6), deviations=deviations.round(6)
    )


def subtract_mean(
    model: nn.Module, prepared: Prepared, seed: int, *, size: int, most: int, decode: Sequence[Transform] = ()
) -> None:
    """For `RunConfig.start`: give the model, which has a layer `data`, the mean image of the training data."""
    mean = model.get_buffer("data.mean")
    found = pixel_statistics(prepared.train, size=size, most=most, decode=decode)
    with torch.no_grad():
        mean.copy_(torch.from_numpy(found.mean))


def noisy_source(
    prepared: Prepared,
    seed: int,
    *,
    transforms: Sequence[Transform],
    color_noise: float,
    size: int,
    most: int,
    decode: Sequence[Transform] = (),
) -> MinibatchSource:
    """For `RunConfig.source`: the training data with `transforms`, and cuda-convnet2's --color-noise behind them.

    There the noise comes after the mean was subtracted, and what is then divided by 1 + color_noise is the difference.
    Here the model subtracts the mean, so the noise is told where the middle of the colours is.
    """
    if color_noise:
        found = pixel_statistics(prepared.train, size=size, most=most, decode=decode)
        noise = ColorNoise(
            vectors=found.vectors,
            amounts=found.deviations,
            scale=color_noise,
            form="cuda-convnet2",
            center=found.mean.mean((0, 1), dtype=np.float64).round(6),
        )
        transforms = (*transforms, noise)
    return MinibatchSource(prepared.train, seed=seed, transforms=transforms)
