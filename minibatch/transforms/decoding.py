"""Encoded images as arrays: JPEG through simplejpeg (libjpeg-turbo), PNG, WebP, TIFF, BMP and others through OpenCV.

Both are extras, `pip install "minibatch-timeline[images]"`. A few threads share the images of a call, each with memory
of its own for the whole image, from which what is wanted goes straight to its place in the result; the libraries hold
no lock of Python's meanwhile. What comes out does not depend on the number of threads.
"""

import itertools
import os
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from minibatch.arguments import checked_integer
from minibatch.errors import DatasetError, SchemaError, require
from minibatch.kernels import windows
from minibatch.ragged import Ragged
from minibatch.rng import Draws
from minibatch.transforms.images import CenterCrop, HorizontalFlip, RandomCrop, Size, check_fits
from minibatch.transforms.operations import Fields, room
from minibatch.transforms.sizes import METHODS, Method, RandomResizedCrop, Resize, resized

JPEG = b"\xff\xd8\xff"
CHANNELS = {"rgb": 3, "gray": 1}
MAX_PIXELS = 1 << 28  # a damaged header may promise more than memory has
REDUCTIONS = (8, 4, 2)
KEPT_BYTES = 4 << 20
MOST_SIZES = 4
IDLE: deque[NDArray[np.uint8]] = deque(maxlen=8)


class BrokenImageError(Exception):
    """An image that cannot be decoded; never seen outside this file."""


@dataclass(frozen=True, kw_only=True)
class DecodeImage:
    """Encoded images of `field` (bytes, or lists of uint8) as uint8 (n, height, width, 3); (n, height, width) for
    "gray".

    All images of a call must come out in one shape. For data of differing sizes give `size`, one number or (height,
    width), or `shorter_side`, by which each is first resized (`method` as in `Resize`), or a `crop`: a `RandomCrop`,
    `CenterCrop` or `RandomResizedCrop`, done here on each image while it is in the cache; so is the `flip`. Their own
    `field` does not matter, and their random numbers are this operation's: first the crop's, then the flip's.

    `reduced`: JPEGs that are to be resized are decoded at 1/2, 1/4 or 1/8 of their size where that is still as large
    as asked for; faster, and other pixels. `strict=False` accepts JPEGs that are cut off or have foreign bytes in
    them, as far as they go. Orientation tags are ignored, transparency and what goes beyond 8 bits are cut off.

    An image that cannot be decoded, or is smaller than the crop, is a `DatasetError` that names its row; with
    `broken="hole"` the sample is dropped instead, and nominal time counts on over it. `threads` never changes a result.

    >>> import simplejpeg
    >>> grey = simplejpeg.encode_jpeg(np.full((20, 30, 3), 128, np.uint8))
    >>> decode = DecodeImage(crop=RandomCrop(size=16), flip=HorizontalFlip())
    >>> decode({"image": np.array([grey, grey], object)}, Draws(7, "decode", np.arange(2)))["image"].shape
    (2, 16, 16, 3)
    """

    field: str = "image"
    channels: Literal["rgb", "gray"] = "rgb"
    size: Size | None = None
    shorter_side: int | None = None
    method: Method = "smooth"
    crop: RandomCrop | CenterCrop | RandomResizedCrop | None = None
    flip: HorizontalFlip | None = None
    reduced: bool = False
    strict: bool = True
    broken: Literal["error", "hole"] = "error"
    threads: int = 2

    def __post_init__(self) -> None:
        require("simplejpeg", "images", "DecodeImage")
        require("cv2", "images", "DecodeImage")
        for name, choices in (("channels", tuple(CHANNELS)), ("broken", ("error", "hole"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"DecodeImage({name}=…) must be one of {choices}, got {getattr(self, name)!r}")
        checked_integer(self.threads, "DecodeImage(threads=…)", least=1)
        if self.size is not None or self.shorter_side is not None:
            Resize(size=self.size, shorter_side=self.shorter_side, method=self.method)
        elif self.reduced:
            raise ValueError("DecodeImage(reduced=True) needs size=… or shorter_side=…: it says how far")
        if self.crop is not None and not isinstance(self.crop, RandomCrop | CenterCrop | RandomResizedCrop):
            raise TypeError(
                f"DecodeImage(crop=…) takes a RandomCrop, CenterCrop or RandomResizedCrop, got {self.crop!r}"
            )
        if self.flip is not None and not isinstance(self.flip, HorizontalFlip):
            raise TypeError(f"DecodeImage(flip=…) takes a HorizontalFlip, got {self.flip!r}")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        encoded = encoded_images(self.field, fields)
        drawn = None if self.crop is None else self.crop.draw(draws)
        mirrored = np.zeros(len(encoded), np.bool_) if self.flip is None else self.flip.draw(draws)
        work = Work(self, encoded, drawn, mirrored, self.first_shape(encoded))
        work.run(min(self.threads, os.cpu_count() or 1, len(encoded)))
        if work.broken:
            at = min(work.broken)
            if self.broken == "error":
                raise DatasetError(
                    f"field {self.field!r}, {named_sample(draws, at)}: {work.broken[at]}; "
                    'broken="hole" leaves such samples out'
                )
            mask = np.zeros(len(encoded), np.bool_)
            mask[list(work.broken)] = True
            work.out[mask] = 0
            draws.drop(mask)
        if work.other_shapes:
            at = min(work.other_shapes)
            raise SchemaError(
                f"field {self.field!r}: images differ in size: {named_sample(draws, at)} is "
                f"{'×'.join(map(str, work.other_shapes[at]))}, others are {'×'.join(map(str, work.shape))}; "
                "give size=…, or shorter_side=… with crop=…, or crop=…"
            )
        return {**fields, self.field: work.out if self.channels == "rgb" else work.out[..., 0]}

    def first_shape(self, encoded: Any) -> tuple[int, int]:
        """(height, width) of all results: by the arguments, or else that of the first image that can be decoded."""
        if self.crop is not None:
            return self.crop.shape
        resize = self.resize
        if resize is not None and resize.size is not None:
            return resize.shape_for(0, 0)
        for image in encoded:
            try:
                height, width = decoded(self, image, None).shape[:2]
            except BrokenImageError:
                continue
            return (height, width) if resize is None else resize.shape_for(height, width)
        return 0, 0

    @cached_property
    def resize(self) -> Resize | None:
        """What is done to a decoded image before the crop."""
        if self.size is None and self.shorter_side is None:
            return None
        return Resize(size=self.size, shorter_side=self.shorter_side, method=self.method)


class Work:
    """The images of one call, shared by threads: each takes the next one until none is left."""

    def __init__(
        self, decode: DecodeImage, encoded: Any, drawn: Any, mirrored: NDArray[np.bool_], shape: tuple[int, int]
    ) -> None:
        self.decode = decode
        self.encoded = encoded
        self.drawn = drawn
        self.mirrored = mirrored
        self.shape = shape
        self.out = room((len(encoded), *shape, CHANNELS[decode.channels]), np.uint8)
        self.nowhere = np.zeros((1, 2), np.int64)
        self.known_corners: dict[tuple[int, int], NDArray[np.int64]] = {}
        self.broken: dict[int, str] = {}
        self.other_shapes: dict[int, tuple[int, int]] = {}
        self.failures: dict[int, BaseException] = {}

    def run(self, threads: int) -> None:
        """Decode everything, in this thread and `threads` - 1 others, which are gone when this returns.

        Starting a thread takes 50 µs, a third of an image: a pool that outlives the call would gain nothing, and would
        have to survive forks and the end of the interpreter.
        """
        places = itertools.count()
        others = [
            threading.Thread(target=self.take, args=(places,), name="minibatch-decode", daemon=True)
            for _ in range(threads - 1)
        ]
        for thread in others:
            thread.start()
        self.take(places)
        for thread in others:
            thread.join()
        if self.failures:
            raise self.failures[min(self.failures)]

    def take(self, places: Iterator[int]) -> None:
        """Decode one image after another until there are none left, or one fails in a way nobody thought of."""
        scratch = Scratch()
        try:
            self.take_with(places, scratch)
        finally:
            scratch.give_back()

    def take_with(self, places: Iterator[int], scratch: "Scratch") -> None:
        """`take`, with memory for whole images."""
        for i in places:
            if i >= len(self.encoded) or self.failures:
                return
            try:
                self.place(i, decoded(self.decode, self.encoded[i], scratch))
            except BrokenImageError as error:
                self.broken[i] = str(error)
            except BaseException as error:
                self.failures[i] = error
                return

    def place(self, i: int, image: NDArray[np.uint8]) -> None:
        """Resize, crop and mirror image i, uint8 (height, width, channels), into its place."""
        decode, crop, flip, out = self.decode, self.decode.crop, self.mirrored[i : i + 1], self.out[i : i + 1]
        resize = decode.resize
        if resize is not None:
            shape = resize.shape_for(*image.shape[:2])
            box = np.array([[0, 0, *image.shape[:2]]])
            if crop is None:
                if shape != self.shape:
                    self.other_shapes[i] = shape
                    return
                resized(image[None], box, shape, METHODS[resize.method], flip, out)
                return
            image = resized(image[None], box, shape, METHODS[resize.method])[0]
        height, width = image.shape[:2]
        if isinstance(crop, RandomResizedCrop):
            sizes = np.array([height]), np.array([width])
            resized(image[None], crop.boxes(self.drawn[i : i + 1], *sizes), crop.shape, METHODS[crop.method], flip, out)
            return
        corners, outside = self.nowhere, windows.ZERO
        if crop is not None:
            check_crop(crop, height, width)
            corners, outside = self.corners(crop, i, height, width), crop.outside
        elif (height, width) != self.shape:
            self.other_shapes[i] = (height, width)
            return
        # a pixel of uint8 channels is its bytes
        windows.crop(image[None], corners[:, None], flip[:, None], outside, out[:, None])

    def corners(self, crop: RandomCrop | CenterCrop, i: int, height: int, width: int) -> NDArray[np.int64]:
        """Where the crop of image i begins; worked out for all images at once where they are of few sizes."""
        size = (height, width)
        if size not in self.known_corners:
            if len(self.known_corners) == MOST_SIZES:
                return crop.corners(self.drawn[i : i + 1], np.array([height]), np.array([width]))
            count = len(self.encoded)
            self.known_corners[size] = crop.corners(self.drawn, np.full(count, height), np.full(count, width))
        return self.known_corners[size][i : i + 1]


def check_crop(crop: RandomCrop | CenterCrop, height: int, width: int) -> None:
    """Raise `BrokenImageError` if an image of that size is too small for the crop."""
    if crop.shape[0] <= height and crop.shape[1] <= width and crop.outside != windows.REFLECT:
        return
    try:
        check_fits(crop, (1, height, width))
    except SchemaError:
        raise BrokenImageError(
            f"has {height} × {width} pixels, too few for {crop}; resize first: size=… or shorter_side=…"
        ) from None


class Scratch:
    """Memory for one decoded image, used again for the next, and in the next call: fresh pages would cost 3 %."""

    def __init__(self) -> None:
        try:
            self.memory = IDLE.pop()
        except IndexError:
            self.memory = np.empty(0, np.uint8)

    def take(self, size: int) -> NDArray[np.uint8]:
        """uint8 (size,), not written."""
        if len(self.memory) < size:
            self.memory = np.empty(size, np.uint8)
        return self.memory[:size]

    def give_back(self) -> None:
        """Leave the memory to the next call, unless it is much; nothing that is returned to anybody lies in it."""
        memory, self.memory = self.memory, np.empty(0, np.uint8)
        if len(memory) <= KEPT_BYTES:
            IDLE.append(memory)


def decoded(decode: DecodeImage, image: Any, scratch: Scratch | None) -> NDArray[np.uint8]:
    """The image as uint8 (height, width, channels), perhaps reduced, in `scratch` if given; or `BrokenImageError`."""
    if not isinstance(image, bytes | bytearray | memoryview | np.ndarray):
        raise BrokenImageError(f"is {type(image).__name__}, expected the bytes of an encoded image")
    if isinstance(image, np.ndarray) and image.dtype != np.uint8:
        raise BrokenImageError(f"is an array of {image.dtype}, expected the uint8 of an encoded image")
    head = bytes(image[:3])
    if not len(image):
        raise BrokenImageError("is empty: 0 bytes")
    found = decoded_jpeg(decode, image, scratch) if head == JPEG else None
    return decoded_by_opencv(decode, image) if found is None else found


def decoded_jpeg(decode: DecodeImage, image: Any, scratch: Scratch | None) -> NDArray[np.uint8] | None:
    """A JPEG decoded by simplejpeg; None for the four colours of print, which it does not convert."""
    import simplejpeg

    options: dict[str, Any] = {}
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(image, strict=decode.strict)
        if colours in ("CMYK", "YCCK"):
            return None
        if height * width > MAX_PIXELS:
            raise BrokenImageError(f"is a JPEG of {height} × {width} pixels, more than {MAX_PIXELS:,}")
        factor = reduction(decode, height, width)
        if factor > 1:
            height, width = -(-height // factor), -(-width // factor)
            options = {"min_height": height, "min_width": width, "min_factor": factor}
        if scratch is not None:
            options["buffer"] = scratch.take(height * width * CHANNELS[decode.channels])
        pixels = simplejpeg.decode_jpeg(image, decode.channels, strict=decode.strict, **options)
    except ValueError as error:
        raise BrokenImageError(f"is a JPEG of {len(image):,} bytes that cannot be decoded: {error}") from None
    return np.asarray(pixels)


def reduction(decode: DecodeImage, height: int, width: int) -> int:
    """By how much a JPEG of that size is decoded smaller: 8, 4, 2 or 1, and still at least as large as asked for."""
    resize = decode.resize
    if not decode.reduced or resize is None:
        return 1
    wanted = resize.shape_for(height, width)
    for factor in REDUCTIONS:
        if -(-height // factor) >= wanted[0] and -(-width // factor) >= wanted[1]:
            return factor
    return 1


def decoded_by_opencv(decode: DecodeImage, image: Any) -> NDArray[np.uint8]:
    """An image of any other format that OpenCV knows."""
    import cv2

    flags = cv2.IMREAD_COLOR_RGB if decode.channels == "rgb" else cv2.IMREAD_GRAYSCALE
    data = np.frombuffer(image, np.uint8)
    try:
        pixels = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise BrokenImageError(f"cannot be decoded: {error}") from None
    if pixels is None:
        raise BrokenImageError(
            f"has {len(data):,} bytes, beginning with {bytes(data[:8]).hex(' ')}, that OpenCV cannot decode: "
            "damaged, cut off, or of an unknown format"
        )
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], CHANNELS[decode.channels]))


def encoded_images(field: str, fields: Fields) -> Any:
    """The encoded images of `field`, one after another: an object array (n,), or a Ragged of uint8."""
    if field not in fields:
        raise SchemaError(f"there is no field {field!r}: the minibatch has {list(fields)}")
    values = fields[field]
    if isinstance(values, Ragged) and values.dtype == np.uint8 and values.values.ndim == 1:
        return values
    if isinstance(values, np.ndarray) and values.dtype == object and values.ndim == 1:
        return values
    got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
    raise SchemaError(f"DecodeImage: field {field!r} is {got}, expected a field of bytes, or of lists of uint8")


def named_sample(draws: Draws, at: int) -> str:
    """Which sample, for an error: "row 17 (nominal time 203)"."""
    time = f"nominal time {draws.times[at]}"
    return time if draws.rows is None else f"row {draws.rows[at]} ({time})"
