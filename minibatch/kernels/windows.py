"""Parts of images: where they lie, and their pixels copied to other places, whatever is in them.

"Bytes" are arrays of any dtype seen as uint8: moving a pixel is the same work for all. Arrays are C-contiguous, and
`out` never overlaps an input. Resizing is in `minibatch.kernels.resample`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from minibatch.kernels.compile import copy_bytes, kernel

# What stands outside an image: zeros, the nearest pixel, or the image mirrored at its edge pixel (as in numpy.pad).
ZERO, EDGE, REFLECT = range(3)


@kernel
def random_corners(
    words: NDArray[np.uint64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    crop_height: int,
    crop_width: int,
    pad_height: int,
    pad_width: int,
    out: NDArray[np.int64],
) -> None:
    """Write the top left corner of a window inside each padded image: out (n, 2), from words (n, 2).

    A window of crop_height × crop_width lies anywhere with equal probability (up to 2^-32); corners may be negative
    inside the padding. The padded image must be at least as large as the window.
    """
    half = np.uint64(32)
    for i in range(words.shape[0]):
        down = np.uint64(heights[i] + 2 * pad_height - crop_height + 1)
        right = np.uint64(widths[i] + 2 * pad_width - crop_width + 1)
        out[i, 0] = np.int64(((words[i, 0] >> half) * down) >> half) - pad_height
        out[i, 1] = np.int64(((words[i, 1] >> half) * right) >> half) - pad_width


@kernel
def random_boxes(
    numbers: NDArray[np.float64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    least_area: float,
    most_area: float,
    least_log_ratio: float,
    most_log_ratio: float,
    whole: bool,
    out: NDArray[np.int64],
) -> None:
    """Write a box (top, left, height, width) inside each image: out (n, 4), from numbers (n, tries, 4) in [0, 1).

    Each try takes an area (fraction of the image, uniform) and a ratio width / height (uniform in its logarithm); the
    first box that fits is taken, at a uniform place. If none fits: with `whole` the largest box in the middle whose
    ratio is allowed, else an empty box.
    """
    for i in range(numbers.shape[0]):
        height, width = heights[i], widths[i]
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = 0, 0, 0, 0
        found = False
        for j in range(numbers.shape[1]):
            area = (least_area + numbers[i, j, 0] * (most_area - least_area)) * (height * width)
            ratio = math.exp(least_log_ratio + numbers[i, j, 1] * (most_log_ratio - least_log_ratio))
            box_height = np.int64(math.floor(math.sqrt(area / ratio) + 0.5))
            box_width = np.int64(math.floor(math.sqrt(area * ratio) + 0.5))
            if 0 < box_height <= height and 0 < box_width <= width:
                out[i, 0] = np.int64(math.floor(numbers[i, j, 2] * (height - box_height + 1)))
                out[i, 1] = np.int64(math.floor(numbers[i, j, 3] * (width - box_width + 1)))
                out[i, 2], out[i, 3] = box_height, box_width
                found = True
                break
        if whole and not found:
            ratio = min(max(width / height, math.exp(least_log_ratio)), math.exp(most_log_ratio))
            box_height = max(np.int64(1), min(height, np.int64(math.floor(width / ratio + 0.5))))
            box_width = max(np.int64(1), min(width, np.int64(math.floor(height * ratio + 0.5))))
            out[i, 0], out[i, 1] = (height - box_height) // 2, (width - box_width) // 2
            out[i, 2], out[i, 3] = box_height, box_width


@kernel
def inside(at: int, size: int, mode: int) -> int:
    """The row or column of an image that stands at `at`, where 0 ≤ at < size is the image; -1 for a zero."""
    if 0 <= at < size:
        return at
    if mode == ZERO:
        return -1
    if mode == EDGE:
        return 0 if at < 0 else size - 1
    return -at if at < 0 else 2 * size - 2 - at


@kernel
def mirror_row(source: np.uint64, target: np.uint64, count: int, size: int) -> None:
    """Copy `count` pixels of `size` bytes from address `source` to address `target`, the last one first."""
    step = np.uint64(size)
    last = source + np.uint64(count - 1) * step
    if size == 3 and count > 2:
        # Four bytes at once, where the fourth is overwritten by the next pixel: twice as fast as three single ones.
        copy_bytes(target, last, 3)
        for j in range(1, count - 1):
            copy_bytes(target + np.uint64(j) * step, last - np.uint64(j) * step, 4)
        copy_bytes(target + np.uint64(count - 1) * step, source, 3)
    elif size == 1:
        for j in range(count):
            copy_bytes(target + np.uint64(j), last - np.uint64(j), 1)
    elif size == 4:
        for j in range(count):
            copy_bytes(target + np.uint64(j) * step, last - np.uint64(j) * step, 4)
    elif size == 12:
        for j in range(count):
            copy_bytes(target + np.uint64(j) * step, last - np.uint64(j) * step, 12)
    else:
        for j in range(count):
            copy_bytes(target + np.uint64(j) * step, last - np.uint64(j) * step, size)


@kernel
def crop(
    images: NDArray[np.uint8],
    corners: NDArray[np.int64],
    mirrored: NDArray[np.bool_],
    mode: int,
    out: NDArray[np.uint8],
) -> None:
    """Copy windows of images, each mirrored from left to right where `mirrored` says so.

    images bytes (n, height, width, pixel bytes), corners (n, views, 2) top and left, mirrored (n, views), out bytes
    (n, views, crop height, crop width, pixel bytes). A window may reach outside its image: `mode` says what stands
    there, and REFLECT allows less than a whole image beyond each edge.
    """
    height, width, size = images.shape[1], images.shape[2], images.shape[3]
    rows, columns = out.shape[2], out.shape[3]
    step = np.uint64(size)
    for i in range(images.shape[0]):
        image = np.uint64(images.ctypes.data) + np.uint64(i * height * width) * step
        for view in range(out.shape[1]):
            top, left, flip = corners[i, view, 0], corners[i, view, 1], mirrored[i, view]
            begin = min(columns, max(0, -left))  # the columns begin … end - 1 of the window lie inside the image
            end = max(begin, min(columns, width - left))
            window = np.uint64(out.ctypes.data) + np.uint64((i * out.shape[1] + view) * rows * columns) * step
            for y in range(rows):
                target = window + np.uint64(y * columns) * step
                row = inside(top + y, height, mode)
                if row < 0:
                    for x in range(columns):
                        for b in range(size):
                            out[i, view, y, x, b] = 0
                    continue
                source = image + np.uint64(row * width) * step
                if end > begin and flip:
                    mirror_row(
                        source + np.uint64(left + begin) * step,
                        target + np.uint64(columns - end) * step,
                        end - begin,
                        size,
                    )
                elif end > begin:
                    copy_bytes(
                        target + np.uint64(begin) * step, source + np.uint64(left + begin) * step, (end - begin) * size
                    )
                for j in range(columns - (end - begin)):  # what lies to the left and to the right of the image
                    x = j if j < begin else j + end - begin
                    column = inside(left + x, width, mode)
                    at = columns - 1 - x if flip else x
                    for b in range(size):
                        out[i, view, y, at, b] = 0 if column < 0 else images[i, row, column, b]


@kernel
def paste(
    images: NDArray[np.uint8], partners: NDArray[np.int64], boxes: NDArray[np.int64], out: NDArray[np.uint8]
) -> None:
    """Copy the pixels of each box (top, left, height, width) of image partners[i] to the same place of out[i].

    images and out bytes (n, height, width, pixel bytes), boxes (n, 4) inside the images.
    """
    height, width, size = images.shape[1], images.shape[2], images.shape[3]
    for i in range(images.shape[0]):
        for y in range(boxes[i, 0], boxes[i, 0] + boxes[i, 2]):
            row = np.uint64(((partners[i] * height + y) * width + boxes[i, 1]) * size)
            to = np.uint64(((i * height + y) * width + boxes[i, 1]) * size)
            copy_bytes(np.uint64(out.ctypes.data) + to, np.uint64(images.ctypes.data) + row, boxes[i, 3] * size)
