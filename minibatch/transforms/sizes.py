"""Images in other sizes: resized as wholes, or random parts of them."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from minibatch.errors import SchemaError
from minibatch.kernels import resample, windows
from minibatch.rng import Draws
from minibatch.transforms.images import Size, sizes_of
from minibatch.transforms.operations import Fields, checked_range, checked_size, images_of, room, with_channels

METHODS = {
    "nearest": resample.NEAREST,
    "bilinear": resample.BILINEAR,
    "area": resample.AREA,
    "smooth": resample.SMOOTH,
}
Method = Literal["nearest", "bilinear", "area", "smooth"]


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
    """Boxes by area and ratio, int64 (n, 4): see `kernels.windows.random_boxes`."""
    out = np.empty((len(numbers), 4), np.int64)
    logs = math.log(ratio[0]), math.log(ratio[1])
    windows.random_boxes(numbers, heights, widths, float(scale[0]), float(scale[1]), *logs, whole, out)
    return out


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
