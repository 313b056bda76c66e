"""What is disturbed or taken away: noise, zeroed elements, erased boxes."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from minibatch.arguments import checked_integer
from minibatch.errors import SchemaError
from minibatch.kernels import augment
from minibatch.rng import Draws
from minibatch.transforms.images import sizes_of
from minibatch.transforms.operations import (
    Fields,
    checked_number,
    checked_range,
    checked_size,
    images_of,
    named,
    numbers_of,
    room,
    with_channels,
)
from minibatch.transforms.sizes import check_ratio, random_boxes

Fill = float | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Add normal noise of standard deviation `sigma` to each element of the floating-point field `field`.

    >>> draws = Draws(0, "noise", np.arange(2))
    >>> noisy = GaussianNoise(field="x", sigma=0.1)({"x": np.zeros((2, 3), np.float32)}, draws)
    >>> noisy["x"].dtype
    dtype('float32')
    """

    field: str
    sigma: float

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise ValueError(f"GaussianNoise(sigma=…) must be finite and at least 0, got {self.sigma!r}")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        values = named(self.field, fields)
        if values.dtype.kind != "f":
            raise SchemaError(f"GaussianNoise: field {self.field!r} has dtype {values.dtype}, expected floating point")
        if values.dtype not in (np.float32, np.float64):  # half precision, which kernels do not know
            noisy = values + draws.normal(values.shape[1:]) * self.sigma
            return {**fields, self.field: noisy.astype(values.dtype)}
        keys = streams(draws)
        out = room(values.shape, values.dtype)
        augment.add_normal(keys, in_rows(values), float(self.sigma), in_rows(out))
        return {**fields, self.field: out}


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """Set each element of the float32 or float64 field `field` to 0 with that probability.

    With `scale`, the others are multiplied by 1 / (1 - probability), so that the mean stays as it is.

    >>> out = Dropout(field="x", probability=0.5)({"x": np.ones((1, 6), np.float32)}, Draws(7, "drop", np.arange(1)))
    >>> sorted(set(out["x"].reshape(-1).tolist()))
    [0.0, 2.0]
    """

    field: str
    probability: float
    scale: bool = True

    def __post_init__(self) -> None:
        checked_number(self.probability, "Dropout(probability=…)")
        if self.scale and self.probability == 1:
            raise ValueError("Dropout(probability=1) leaves nothing to scale: set scale=False")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        values = numbers_of(self, fields, (np.float32, np.float64))
        factor = values.dtype.type(1.0 / (1.0 - self.probability) if self.scale else 1.0)
        keys = streams(draws)
        out = room(values.shape, values.dtype)
        threshold = np.uint64(math.ceil(self.probability * 2.0**53))
        augment.drop_elements(keys, threshold, in_rows(values), factor, in_rows(out))
        return {**fields, self.field: out}


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """Set `count` boxes of each image to `fill`: DeVries and Taylor 2017. uint8 or float32 (n, height, width, …).

    The middle of a box of `size`, one number for a square or (height, width), lies at any pixel with equal probability:
    what reaches outside the image is cut off. `fill` is one number, or one per channel.

    >>> images = np.ones((1, 8, 8), np.float32)
    >>> int(Cutout(size=2)({"image": images}, Draws(7, "cut", np.arange(1)))["image"].sum())
    60
    """

    size: int | tuple[int, int]
    count: int = 1
    fill: Fill = 0.0
    field: str = "image"

    def __post_init__(self) -> None:
        checked_size(self.size, "Cutout(size=…)")
        checked_integer(self.count, "Cutout(count=…)", least=1)

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = images_of(self, fields, (np.uint8, np.float32))
        words = draws.bits((self.count, 2)) >> np.uint64(32)
        shape = np.array(images.shape[1:3], np.uint64)
        middles = ((words * shape) >> np.uint64(32)).astype(np.int64)
        size, most = np.array(checked_size(self.size, "size")), np.array(images.shape[1:3])
        begins = np.maximum(middles - size // 2, 0)
        ends = np.minimum(middles - size // 2 + size, most)
        boxes = np.concatenate([begins, np.maximum(ends - begins, 0)], 2)
        values = fill_of(self, images, self.fill)
        out = copied(images)
        augment.fill_boxes(boxes, values, with_channels(out))
        return {**fields, self.field: out}


@dataclass(frozen=True, kw_only=True)
class RandomErasing:
    """Erase a box of each image with that probability: Zhong et al. 2017. uint8 or float32 (n, height, width, …).

    The box's area is a fraction of the image's, uniform in `scale`; its width / height lies in `ratio`, uniform in the
    logarithm; the first of ten tries that fits is taken, at a uniform place, otherwise nothing is erased. `fill` is a
    number, one per channel, or "noise": random bytes for uint8, standard normal numbers for float32.

    >>> images = np.ones((1, 8, 8), np.float32)
    >>> erased = RandomErasing(probability=1.0)({"image": images}, Draws(7, "erase", np.arange(1)))["image"]
    >>> bool(0 < (erased == 0).sum() < 64)
    True
    """

    TRIES: ClassVar[int] = 10

    probability: float = 0.5
    scale: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)
    fill: Fill | Literal["noise"] = 0.0
    field: str = "image"

    def __post_init__(self) -> None:
        checked_number(self.probability, "RandomErasing(probability=…)")
        checked_range(self.scale, "RandomErasing(scale=…)", 0.0, 1.0)
        check_ratio(self.ratio, "RandomErasing(ratio=…)")
        if isinstance(self.fill, str) and self.fill != "noise":
            raise ValueError(f"RandomErasing(fill=…) must be numbers or 'noise', got {self.fill!r}")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = images_of(self, fields, (np.uint8, np.float32))
        erased = draws.uniform() < self.probability
        numbers = draws.uniform((self.TRIES, 4))
        boxes = random_boxes(numbers, *sizes_of(images), self.scale, self.ratio, whole=False)
        boxes[~erased] = 0
        out = copied(images)
        pixels = with_channels(out)
        if self.fill != "noise":
            augment.fill_boxes(boxes[:, None], fill_of(self, images, self.fill), pixels)
        elif images.dtype == np.uint8:
            augment.fill_boxes_with_bytes(streams(draws), boxes, pixels)
        else:
            augment.fill_boxes_with_normals(streams(draws), boxes, pixels)
        return {**fields, self.field: out}


def streams(draws: Draws) -> NDArray[np.uint64]:
    """A stream of random words of its own for each sample: uint64 (n,) keys."""
    return np.ascontiguousarray(draws.bits((1,))[:, 0])


def in_rows(values: NDArray[Any]) -> NDArray[Any]:
    """(n, …) as (n, elements): the same memory where it is contiguous."""
    return np.ascontiguousarray(values).reshape(len(values), math.prod(values.shape[1:]))


def copied(images: NDArray[Any]) -> NDArray[Any]:
    """A copy in recycled memory."""
    out = room(images.shape, images.dtype)
    np.copyto(out, images)
    return out


def fill_of(transform: Any, images: NDArray[Any], fill: Any) -> NDArray[Any]:
    """`fill` as one value per channel in the dtype of the images, or the error that says why it cannot be."""
    channels = images.shape[3] if images.ndim == 4 else 1
    given = np.asarray(fill, np.float64)
    if given.ndim > 1 or given.size not in (1, channels):
        raise SchemaError(
            f"{type(transform).__name__}: field {transform.field!r} has {channels} channels, fill has {given.size}"
        )
    if images.dtype == np.uint8 and ((given < 0) | (given > 255) | (given % 1 != 0)).any():
        raise SchemaError(f"{type(transform).__name__}: uint8 images cannot hold fill={fill!r}")
    return np.ascontiguousarray(np.broadcast_to(given, channels)).astype(images.dtype)
