"""What the numbers of a pixel are: normalised, shifted along the colours' main directions, jittered."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minibatch.errors import SchemaError
from minibatch.kernels import augment
from minibatch.rng import Draws
from minibatch.transforms.operations import (
    Fields,
    checked_number,
    images_of,
    room,
    with_channels,
)

# Whole numbers that float32 holds exactly, and float32 itself.
PIXELS = (np.uint8, np.int8, np.uint16, np.int16, np.float32)
PIXELS_AT_ONCE = 256
# Luma of ITU-R BT.601, as in Pillow's and torchvision's conversion to grey.
GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True, eq=False)
class Normalize:
    """(x - mean) / std as float32, of images (n, height, width) or (n, height, width, channels).

    The images are integers of 8 or 16 bits, or float32. `mean` and `std` are one number, one per channel, or a whole
    image of the images' shape (a mean image). `unit` is what 1.0 of them is in the images: 255 for uint8 images whose
    mean was taken in 0 … 1. `channels_first` gives (n, channels, height, width). Computed as
    (x - mean·unit)·(1 / (std·unit)), the brackets rounded to float32.

    >>> normalize = Normalize(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), unit=255, channels_first=True)
    >>> images = np.full((2, 4, 6, 3), 255, np.uint8)
    >>> out = normalize({"image": images}, Draws(0, "normalize", np.arange(2)))["image"]
    >>> out.shape, out.dtype, float(out[0, 0, 0, 0])
    ((2, 3, 4, 6), dtype('float32'), 2.0)
    """

    mean: ArrayLike = 0.0
    std: ArrayLike = 1.0
    unit: float = 1.0
    channels_first: bool = False
    field: str = "image"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = np.array(getattr(self, name), np.float64)
            if values.ndim > 3 or not np.isfinite(values).all():
                raise ValueError(
                    f"Normalize({name}=…) must be finite numbers: one, one per channel, or an image; got {values!r:.80}"
                )
            # Copied, and small ones as plain numbers: what the caller writes into its array later changes nothing here.
            plain = float(values) if values.ndim == 0 else tuple(values.tolist()) if values.ndim == 1 else values
            object.__setattr__(self, name, plain)
        if (np.asarray(self.std) <= 0).any():
            raise ValueError(f"Normalize(std=…) must be above 0, got {self.std!r:.80}")
        if not 0 < self.unit < math.inf:
            raise ValueError(f"Normalize(unit=…) must be finite and above 0, got {self.unit!r}")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = images_of(self, fields, PIXELS)
        n, height, width, channels = with_channels(images).shape
        mean = (self.fitted("mean", images.shape) * self.unit).astype(np.float32)
        factor = (1.0 / (self.fitted("std", images.shape) * self.unit)).astype(np.float32)
        # One number per channel is written out for a line of pixels: long loops over neighbours run in vectors.
        period = max(mean.shape, factor.shape)
        if not self.channels_first:
            out = room(images.shape, np.float32)
            period = (1, width, channels) if period == (1, 1, channels) else period
            lines = [np.ascontiguousarray(np.broadcast_to(each, period)).reshape(-1) for each in (mean, factor)]
            if images.size:
                augment.normalise(images.reshape(n, -1), lines[0], lines[1], out.reshape(n, -1))
            return {**fields, self.field: out}
        out = room((n, channels, height, width), np.float32)
        planes = [np.broadcast_to(each, period).reshape(-1, channels).T for each in (mean, factor)]
        augment.normalise_channels_first(
            images.reshape(n, height * width, channels),
            np.ascontiguousarray(planes[0]),
            np.ascontiguousarray(planes[1]),
            out.reshape(n, channels, height * width),
        )
        return {**fields, self.field: out if images.ndim == 4 else out[:, 0]}

    def fitted(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """`mean` or `std` as (1, 1, channels) or (height, width, channels), for images (n, …) of that shape."""
        values = np.asarray(getattr(self, name), np.float64)
        channels = shape[3] if len(shape) == 4 else 1
        if values.ndim == 0:
            return np.full((1, 1, channels), values)
        if values.ndim == 1 and values.shape == (channels,):
            return values.reshape(1, 1, channels)
        if values.ndim > 1 and values.shape in (shape[1:], (*shape[1:3], channels)):
            return values.reshape(*shape[1:3], channels)
        raise SchemaError(
            f"Normalize: field {self.field!r} has images of shape {shape[1:]}, but {name} has shape {values.shape}: "
            f"expected one number, {channels} (one per channel), or the shape of an image; crop a mean image first"
        )


@dataclass(frozen=True, kw_only=True)
class ColorNoise:
    """Move all pixels of an image by the same random colour along the main directions of the data's colours.

    Images (n, height, width, channels), 8 or 16 bits or float32, become float32: x + Σ_j a_j·amounts[j]·vectors[j],
    with a_j normal of standard deviation `scale`, one for each image and direction. The `form` "alexnet" is that
    (Krizhevsky et al. 2012, section 4.1, where the amounts are the eigenvalues); "cuda-convnet2" then divides by
    1 + scale, and its amounts are the standard deviations along the directions. `color_components` computes both.
    cuda-convnet2 divides what the mean was taken from. For images that still have theirs, give it as `center`, one
    number or one per channel: center + (x - center + noise) / (1 + scale).

    >>> noise = ColorNoise(vectors=((1, 0, 0), (0, 1, 0), (0, 0, 1)), amounts=(1, 0, 0))
    >>> out = noise({"image": np.zeros((1, 2, 2, 3), np.uint8)}, Draws(7, "noise", np.arange(1)))["image"]
    >>> bool(out[0, 0, 0, 0] == out[0, 1, 1, 0] != 0), bool(out[..., 1:].any())
    (True, False)
    """

    vectors: ArrayLike
    amounts: ArrayLike
    scale: float = 0.1
    form: Literal["alexnet", "cuda-convnet2"] = "alexnet"
    center: ArrayLike = 0.0
    field: str = "image"

    def __post_init__(self) -> None:
        vectors, amounts = np.array(self.vectors, np.float64), np.array(self.amounts, np.float64)
        if vectors.ndim != 2 or amounts.shape != vectors.shape[:1]:
            raise ValueError(
                "ColorNoise takes vectors (directions, channels) and amounts (directions,), "
                f"got shapes {vectors.shape} and {amounts.shape}"
            )
        if not (np.isfinite(vectors).all() and np.isfinite(amounts).all()):
            raise ValueError(f"ColorNoise: vectors and amounts must be finite, got {vectors} and {amounts}")
        checked_number(self.scale, "ColorNoise(scale=…)", most=math.inf)
        if self.form not in ("alexnet", "cuda-convnet2"):
            raise ValueError(f"ColorNoise(form=…) must be 'alexnet' or 'cuda-convnet2', got {self.form!r}")
        center = np.array(self.center, np.float64)
        if center.shape not in ((), vectors.shape[1:]) or not np.isfinite(center).all():
            raise ValueError(
                f"ColorNoise(center=…) must be finite: one number, or {vectors.shape[1]}, one per channel; got "
                f"{self.center!r:.80}"
            )
        object.__setattr__(self, "vectors", tuple(tuple(vector) for vector in vectors.tolist()))
        object.__setattr__(self, "amounts", tuple(amounts.tolist()))
        object.__setattr__(self, "center", tuple(center.tolist()) if center.ndim else float(center))

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = with_channels(images_of(self, fields, PIXELS))
        n, height, width, channels = images.shape
        vectors = np.asarray(self.vectors, np.float64)
        if channels != vectors.shape[1]:
            raise SchemaError(
                f"ColorNoise: field {self.field!r} has {channels} channels, its vectors have {vectors.shape[1]}"
            )
        alphas = draws.normal((len(vectors),)) * self.scale
        shifts = np.zeros((n, channels))
        for j, amount in enumerate(np.asarray(self.amounts)):
            # A sum in a fixed order, where a product of matrices may add up otherwise for another n.
            shifts += alphas[:, j, None] * amount * vectors[j]
        factor = np.float32(1.0)
        if self.form == "cuda-convnet2":
            # center + (x - center + noise) / (1 + scale), as one sum and one product.
            factor = np.float32(1.0 / (1.0 + self.scale))
            shifts += self.scale * np.asarray(self.center, np.float64)
        out = room(fields[self.field].shape, np.float32)
        line = np.empty(max(1, min(height * width, PIXELS_AT_ONCE)) * channels, np.float32)
        elements = height * width * channels
        flat = images.reshape(n, elements)
        augment.shift_colours(flat, shifts.astype(np.float32), factor, line, out.reshape(n, elements))
        return {**fields, self.field: out}


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Scale brightness, contrast and saturation of each image by random factors: uint8 or float32, which it stays.

    Each number b gives a factor uniform in max(0, 1 - b) … 1 + b; 0 changes nothing. In this order: x becomes b·x; then
    the contrast, x around the grey mean of the image; then the saturation, x around the pixel's own grey (weights
    0.299, 0.587, 0.114; images of one channel are their own grey). Computed in float32; uint8 is cut to 0 … 255 and
    rounded once, at the end, float32 is not cut.

    >>> jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4)
    >>> jitter({"image": np.full((2, 4, 4, 3), 9, np.uint8)}, Draws(7, "jitter", np.arange(2)))["image"].dtype
    dtype('uint8')
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    field: str = "image"

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            checked_number(getattr(self, name), f"ColorJitter({name}=…)", most=1e6)

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = with_channels(images_of(self, fields, (np.uint8, np.float32)))
        n, height, width, channels = images.shape
        if channels not in (1, 3):
            raise SchemaError(f"ColorJitter: field {self.field!r} has {channels} channels, expected 1 or 3")
        ranges = np.array([self.brightness, self.contrast, self.saturation])
        low, high = np.maximum(0.0, 1.0 - ranges), 1.0 + ranges
        factors = low + draws.uniform((3,)) * (high - low)
        weights = np.array(GREY if channels == 3 else [1.0], np.float32)
        whole = images.dtype.kind == "u"
        least, most, rounding = np.array([0, 255, 0.5] if whole else [-np.inf, np.inf, 0], np.float32)
        out = room((n, height * width, channels), images.dtype)
        flat = images.reshape(n, height * width, channels)
        augment.jitter_colours(flat, factors, weights, least, most, rounding, out)
        return {**fields, self.field: out.reshape(fields[self.field].shape)}


def color_components(images: Iterable[NDArray[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The main directions of the pixels' colours and the standard deviations along them, largest first.

    From images (…, channels), one array or several, possibly of different sizes: `vectors` (channels, channels), one
    direction a row, its largest component positive, and `deviations` (channels,). Their squares are the eigenvalues
    of the colours' covariance.

    >>> vectors, deviations = color_components([np.array([[0, 0, 0], [2, 2, 2]], np.uint8)])
    >>> (vectors[0] ** 2).round(6), deviations.round(6)
    (array([0.333333, 0.333333, 0.333333]), array([1.732051, 0.      , 0.      ]))
    """
    count, total, products = 0, np.zeros(()), np.zeros(())
    for image in images:
        pixels = np.asarray(image, np.float64).reshape(-1, np.shape(image)[-1])
        count += len(pixels)
        total = total + pixels.sum(0)
        products = products + pixels.T @ pixels
    if count < 1:
        raise ValueError("no pixels: give at least one image (…, channels)")
    mean = total / count
    eigenvalues, columns = np.linalg.eigh(products / count - np.outer(mean, mean))
    vectors = columns.T[::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], 1)
    return vectors * np.sign(largest), np.sqrt(np.maximum(eigenvalues[::-1], 0.0))
