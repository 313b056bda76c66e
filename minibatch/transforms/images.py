"""Which pixels of an image are seen: flips, crops and views. Other sizes are in `minibatch.transforms.sizes`."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from minibatch.errors import SchemaError
from minibatch.kernels import windows
from minibatch.rng import Draws
from minibatch.transforms.operations import (
    Fields,
    checked_number,
    checked_size,
    images_of,
    named,
    room,
)

PADDINGS = {"zero": windows.ZERO, "edge": windows.EDGE, "reflect": windows.REFLECT}
Size = int | tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class HorizontalFlip:
    """Mirror each image of `field`, (n, height, width, …) of any dtype, from left to right with that probability.

    >>> flip = HorizontalFlip(field="image", probability=1.0)
    >>> flip({"image": np.array([[[1, 2, 3]]])}, Draws(0, "flip", np.zeros(1, np.int64)))["image"].tolist()
    [[[3, 2, 1]]]
    """

    field: str = "image"
    probability: float = 0.5

    def __post_init__(self) -> None:
        checked_number(self.probability, "HorizontalFlip(probability=…)")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = named(self.field, fields)
        if images.ndim < 3 or images.dtype.hasobject:
            raise SchemaError(
                f"HorizontalFlip: field {self.field!r} has shape {images.shape} and dtype {images.dtype}, "
                "expected numbers (n, height, width, …)"
            )
        corners = np.zeros((len(images), 2), np.int64)
        return {**fields, self.field: cropped(images, corners, images.shape[1:3], mirrored=self.draw(draws))}

    def draw(self, draws: Draws) -> NDArray[np.bool_]:
        """Which images are mirrored: bool (n,)."""
        return np.asarray(draws.uniform() < self.probability)


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """The middle of each image: (n, height, width, …) of any dtype becomes (n, *size, …).

    `size` is one number for a square, or (height, width); an odd rest is cut below and on the right.

    >>> images = np.arange(16).reshape(1, 4, 4)
    >>> CenterCrop(size=2)({"image": images}, Draws(0, "crop", np.arange(1)))["image"].tolist()
    [[[5, 6], [9, 10]]]
    """

    size: Size
    field: str = "image"

    def __post_init__(self) -> None:
        checked_size(self.size, "CenterCrop(size=…)")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = images_of(self, fields)
        check_fits(self, images.shape)
        heights, widths = sizes_of(images)
        corners = self.corners(self.draw(draws), heights, widths)
        return {**fields, self.field: cropped(images, corners, self.shape)}

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the result."""
        return checked_size(self.size, "size")

    @cached_property
    def padded(self) -> tuple[int, int]:
        """Rows and columns added at each side before the crop."""
        return 0, 0

    @property
    def outside(self) -> int:
        """What stands outside the image, as `kernels.windows.crop` calls it."""
        return windows.ZERO

    def draw(self, draws: Draws) -> NDArray[np.uint64]:
        """What `corners` needs of the random numbers: nothing, uint64 (n, 0)."""
        return np.empty((len(draws.times), 0), np.uint64)

    def corners(
        self, words: NDArray[np.uint64], heights: NDArray[np.int64], widths: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Top and left of the crop in images of those sizes: int64 (n, 2)."""
        return np.stack([(heights - self.shape[0]) // 2, (widths - self.shape[1]) // 2], 1)


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """A window of each image at a random place: (n, height, width, …) of any dtype becomes (n, *size, …).

    Every place inside the image is as likely as any other; with `padding`, one number or (rows, columns) for each side,
    also those that reach that far outside it. There stands what `padding_mode` says: "zero", "edge" (the nearest
    pixel) or "reflect" (the image mirrored at its edge pixel, as in numpy.pad).

    >>> crop = RandomCrop(size=32, padding=4)
    >>> crop({"image": np.zeros((2, 32, 32, 3), np.uint8)}, Draws(7, "crop", np.arange(2)))["image"].shape
    (2, 32, 32, 3)
    """

    size: Size
    padding: Size = 0
    padding_mode: Literal["zero", "edge", "reflect"] = "zero"
    field: str = "image"

    def __post_init__(self) -> None:
        checked_size(self.size, "RandomCrop(size=…)")
        checked_size(self.padding, "RandomCrop(padding=…)", least=0)
        if self.padding_mode not in PADDINGS:
            raise ValueError(f"RandomCrop(padding_mode=…) must be one of {list(PADDINGS)}, got {self.padding_mode!r}")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = images_of(self, fields)
        check_fits(self, images.shape)
        heights, widths = sizes_of(images)
        corners = self.corners(self.draw(draws), heights, widths)
        return {**fields, self.field: cropped(images, corners, self.shape, mode=self.outside)}

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the result."""
        return checked_size(self.size, "size")

    @cached_property
    def padded(self) -> tuple[int, int]:
        """Rows and columns added at each side before the crop."""
        return checked_size(self.padding, "padding", least=0)

    @property
    def outside(self) -> int:
        """What stands outside the image, as `kernels.windows.crop` calls it."""
        return PADDINGS[self.padding_mode]

    def draw(self, draws: Draws) -> NDArray[np.uint64]:
        """What `corners` needs of the random numbers: uint64 (n, 2)."""
        return draws.bits((2,))

    def corners(
        self, words: NDArray[np.uint64], heights: NDArray[np.int64], widths: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Top and left of the crop in images of those sizes: int64 (n, 2)."""
        out = np.empty((len(words), 2), np.int64)
        windows.random_corners(words, heights, widths, *self.shape, *self.padded, out)
        return out


@dataclass(frozen=True, kw_only=True)
class MultiCrop:
    """Several views of each image, for testing: (n, height, width, …) of any dtype becomes (n, views, *size, …).

    "corners": top left, top right, bottom left, bottom right, centre; "grid": a grid of 3 × 3, row by row (the two
    forms of cuda-convnet2's --multiview-test). With `flips`, all of them once more, mirrored. Average what the model
    says about the views.

    >>> views = MultiCrop(size=24)({"image": np.zeros((2, 32, 32, 3))}, Draws(0, "views", np.arange(2)))["image"]
    >>> views.shape
    (2, 10, 24, 24, 3)
    """

    size: Size
    views: Literal["corners", "grid"] = "corners"
    flips: bool = True
    field: str = "image"

    def __post_init__(self) -> None:
        checked_size(self.size, "MultiCrop(size=…)")
        if self.views not in ("corners", "grid"):
            raise ValueError(f"MultiCrop(views=…) must be 'corners' or 'grid', got {self.views!r}")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = images_of(self, fields)
        check_fits(self, images.shape)
        places = self.places(images.shape[1], images.shape[2])
        mirrored = [False] * len(places) + [True] * len(places) * self.flips
        corners = np.broadcast_to(np.array(places * (2 if self.flips else 1)), (len(images), len(mirrored), 2))
        flips = np.broadcast_to(np.array(mirrored), corners.shape[:2])
        return {**fields, self.field: views_of(images, corners, flips, self.shape, windows.ZERO)}

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(height, width) of a view."""
        return checked_size(self.size, "size")

    @cached_property
    def padded(self) -> tuple[int, int]:
        """Rows and columns added at each side: none."""
        return 0, 0

    def places(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of each view of an image of that size, the mirrored ones apart."""
        down, right = height - self.shape[0], width - self.shape[1]
        if self.views == "grid":
            return [(y, x) for y in (0, down // 2, down) for x in (0, right // 2, right)]
        return [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]


def sizes_of(images: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The height and the width of each image, int64 (n,) both."""
    return np.full(len(images), images.shape[1], np.int64), np.full(len(images), images.shape[2], np.int64)


def cropped(
    images: NDArray[Any],
    corners: NDArray[np.int64],
    shape: tuple[int, ...],
    mode: int = windows.ZERO,
    mirrored: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """The window of `shape` (height, width) at `corners` (n, 2) of each image, mirrored where `mirrored` (n,) says
    so."""
    flips = np.zeros(len(images), np.bool_) if mirrored is None else mirrored
    return views_of(images, corners[:, None], flips[:, None], shape, mode)[:, 0]


def views_of(
    images: NDArray[Any], corners: NDArray[Any], mirrored: NDArray[np.bool_], shape: tuple[int, ...], mode: int
) -> NDArray[Any]:
    """Several windows of each image: (n, views, *shape, …), from corners (n, views, 2) and mirrored (n, views)."""
    out = room((*corners.shape[:2], *shape, *images.shape[3:]), images.dtype)
    places = np.ascontiguousarray(corners, np.int64)
    windows.crop(as_bytes(images, 3), places, np.ascontiguousarray(mirrored), mode, as_bytes(out, 4))
    return out


def as_bytes(images: NDArray[Any], axes: int) -> NDArray[np.uint8]:
    """The same memory as uint8, the axes behind the first `axes` as one: the bytes of a pixel."""
    size = math.prod(images.shape[axes:]) * images.itemsize
    flat = np.ascontiguousarray(images).reshape(-1)
    return flat.view(np.uint8).reshape(*images.shape[:axes], size)


def check_fits(transform: Any, shape: tuple[int, ...]) -> None:
    """Raise the error that says by how much images of `shape` are too small for the crop, or for its reflection."""
    who = f"{type(transform).__name__}: field {transform.field!r}"
    for name, length, size, pad in zip(("rows", "columns"), shape[1:3], transform.shape, transform.padded, strict=True):
        if size > length + 2 * pad:
            raise SchemaError(
                f"{who} has images of {length} {name}, with {pad} more on each side, but the crop wants {size}: "
                "ask for less, pad more, or resize first"
            )
        if pad >= length and getattr(transform, "padding_mode", "zero") == "reflect":
            raise SchemaError(f"{who} has images of {length} {name}: they can be reflected by at most {length - 1}")
        if pad and not length:
            raise SchemaError(f"{who} has images of no {name}")
