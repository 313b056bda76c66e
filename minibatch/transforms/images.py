"""Which pixels of an image are seen: flips, crops, views and sizes. Colours are in `minibatch.transforms.colours`."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from minibatch.errors import SchemaError
from minibatch.kernels import augment, resample
from minibatch.rng import Draws
from minibatch.transforms.operations import (
    Fields,
    checked_number,
    checked_range,
    checked_size,
    images_of,
    named,
    room,
    with_channels,
)

PADDINGS = {"zero": augment.ZERO, "edge": augment.EDGE, "reflect": augment.REFLECT}
METHODS = {
    "nearest": resample.NEAREST,
    "bilinear": resample.BILINEAR,
    "area": resample.AREA,
    "smooth": resample.SMOOTH,
}
Size = int | tuple[int, int]
Method = Literal["nearest", "bilinear", "area", "smooth"]


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
        """What stands outside the image, as `kernels.augment.crop` calls it."""
        return augment.ZERO

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
        """What stands outside the image, as `kernels.augment.crop` calls it."""
        return PADDINGS[self.padding_mode]

    def draw(self, draws: Draws) -> NDArray[np.uint64]:
        """What `corners` needs of the random numbers: uint64 (n, 2)."""
        return draws.bits((2,))

    def corners(
        self, words: NDArray[np.uint64], heights: NDArray[np.int64], widths: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Top and left of the crop in images of those sizes: int64 (n, 2)."""
        out = np.empty((len(words), 2), np.int64)
        augment.random_corners(words, heights, widths, *self.shape, *self.padded, out)
        return out


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Each image in another size: uint8 or float32 (n, height, width, …) becomes (n, *size, …).

    `size` is one number for a square, or (height, width); `shorter_side`, instead, keeps the proportions. `method`:
    "nearest"; "bilinear" between the four nearest pixels; "area", the mean over the area that a pixel covers; "smooth",
    bilinear that takes in more pixels when it shrinks (Pillow's BILINEAR). Pixels are squares and images are laid onto
    each other as wholes. uint8 results are rounded once, at the end.

    >>> images = np.array([[[0, 100], [100, 200]]], np.uint8)
    >>> Resize(size=1, method="area")({"image": images}, Draws(0, "resize", np.arange(1)))["image"].tolist()
    [[[100]]]
    """

    size: Size | None = None
    shorter_side: int | None = None
    method: Method = "bilinear"
    field: str = "image"

    def __post_init__(self) -> None:
        if (self.size is None) == (self.shorter_side is None):
            raise ValueError(f"Resize takes size=… or shorter_side=…, got {self.size!r} and {self.shorter_side!r}")
        checked_size(self.shorter_side if self.size is None else self.size, "Resize(size=…)")
        check_method(self)

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = images_of(self, fields, (np.uint8, np.float32))
        n, height, width = images.shape[:3]
        check_not_empty(self, images.shape)
        boxes = np.broadcast_to(np.array([0, 0, height, width]), (n, 4))
        return {**fields, self.field: resized(images, boxes, self.shape_for(height, width), METHODS[self.method])}

    def shape_for(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this size gets: int, int."""
        if self.size is not None:
            return checked_size(self.size, "size")
        assert self.shorter_side is not None
        shorter, side = min(height, width), self.shorter_side
        return (2 * height * side + shorter) // (2 * shorter), (2 * width * side + shorter) // (2 * shorter)


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """A random part of each image, resized: uint8 or float32 (n, height, width, …) becomes (n, *size, …).

    The part's area is a fraction of the image's, uniform in `scale`, and its width / height lies in `ratio`, uniform in
    the logarithm; the first of ten tries that fits is taken, at a uniform place, otherwise the largest allowed part in
    the middle (Szegedy et al. 2015, section 6, in torchvision's form). `method` as in `Resize`.

    >>> crop = RandomResizedCrop(size=(24, 32))
    >>> crop({"image": np.zeros((2, 60, 80, 3), np.uint8)}, Draws(7, "crop", np.arange(2)))["image"].shape
    (2, 24, 32, 3)
    """

    TRIES: ClassVar[int] = 10

    size: Size
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    method: Method = "bilinear"
    field: str = "image"

    def __post_init__(self) -> None:
        checked_size(self.size, "RandomResizedCrop(size=…)")
        checked_range(self.scale, "RandomResizedCrop(scale=…)", 0.0, 1.0)
        check_ratio(self.ratio, "RandomResizedCrop(ratio=…)")
        check_method(self)

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = images_of(self, fields, (np.uint8, np.float32))
        check_not_empty(self, images.shape)
        boxes = self.boxes(self.draw(draws), *sizes_of(images))
        return {**fields, self.field: resized(images, boxes, self.shape, METHODS[self.method])}

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the result."""
        return checked_size(self.size, "size")

    def draw(self, draws: Draws) -> NDArray[np.float64]:
        """What `boxes` needs of the random numbers: float64 (n, tries, 4)."""
        return draws.uniform((self.TRIES, 4))

    def boxes(
        self, numbers: NDArray[np.float64], heights: NDArray[np.int64], widths: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Top, left, height and width of the part of images of those sizes: int64 (n, 4)."""
        return random_boxes(numbers, heights, widths, self.scale, self.ratio, whole=True)


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
        return {**fields, self.field: windows(images, corners, flips, self.shape, augment.ZERO)}

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
    mode: int = augment.ZERO,
    mirrored: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """The window of `shape` (height, width) at `corners` (n, 2) of each image, mirrored where `mirrored` (n,) says
    so."""
    flips = np.zeros(len(images), np.bool_) if mirrored is None else mirrored
    return windows(images, corners[:, None], flips[:, None], shape, mode)[:, 0]


def windows(
    images: NDArray[Any], corners: NDArray[Any], mirrored: NDArray[np.bool_], shape: tuple[int, ...], mode: int
) -> NDArray[Any]:
    """Several windows of each image: (n, views, *shape, …), from corners (n, views, 2) and mirrored (n, views)."""
    out = room((*corners.shape[:2], *shape, *images.shape[3:]), images.dtype)
    places = np.ascontiguousarray(corners, np.int64)
    augment.crop(as_bytes(images, 3), places, np.ascontiguousarray(mirrored), mode, as_bytes(out, 4))
    return out


def resized(
    images: NDArray[Any],
    boxes: NDArray[np.int64],
    shape: tuple[int, int],
    method: int,
    mirrored: NDArray[np.bool_] | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """The boxes (n, 4) of uint8 or float32 images in another size: (n, *shape, …), written to `out` if given."""
    if out is None:
        out = room((len(images), *shape, *images.shape[3:]), images.dtype)
    rounding = np.float32(0.5 if images.dtype.kind == "u" else 0)
    flips = np.zeros(len(images), np.bool_) if mirrored is None else mirrored
    places = np.ascontiguousarray(boxes, np.int64)
    resample.resample(with_channels(images), places, flips, method, rounding, with_channels(out))
    return out


def random_boxes(
    numbers: NDArray[np.float64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    whole: bool,
) -> NDArray[np.int64]:
    """Boxes by area and ratio, int64 (n, 4): see `kernels.augment.random_boxes`."""
    out = np.empty((len(numbers), 4), np.int64)
    logs = math.log(ratio[0]), math.log(ratio[1])
    augment.random_boxes(numbers, heights, widths, float(scale[0]), float(scale[1]), *logs, whole, out)
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


def check_not_empty(transform: Any, shape: tuple[int, ...]) -> None:
    """Raise the error that says that there is no pixel to resize."""
    if 0 in shape[1:3]:
        raise SchemaError(f"{type(transform).__name__}: field {transform.field!r} has images without pixels: {shape}")


def check_method(transform: Any) -> None:
    """Raise the error that lists the methods unless `transform.method` is one."""
    if transform.method not in METHODS:
        raise ValueError(
            f"{type(transform).__name__}(method=…) must be one of {list(METHODS)}, got {transform.method!r}"
        )


def check_ratio(ratio: Any, what: str) -> None:
    """Raise an error unless `ratio` is two ascending finite numbers above 0."""
    low, high = checked_range(ratio, what, 0.0)
    if low == 0 or math.isinf(high):
        raise ValueError(f"{what} must be finite and above 0, got {ratio!r}")
