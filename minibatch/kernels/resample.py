"""Images resized by two passes of short weighted sums: nearest pixel, bilinear, area, and bilinear with smoothing.

Own loops and not OpenCV's: its results for uint8 are fixed-point numbers that depend on the instructions of the
processor, and it takes one image a call, with the GIL held in between. Here each pixel is the same float32 sum on every
machine, whole minibatches take one call, and boxes of differing size go to one size.
"""

import math

import numpy as np
from numpy.typing import NDArray

from minibatch.kernels.compile import kernel

NEAREST, BILINEAR, AREA, SMOOTH = range(4)


@kernel
def fill_taps(
    method: int, length: int, starts: NDArray[np.int64], counts: NDArray[np.int64], weights: NDArray[np.float32]
) -> None:
    """Write which pixels of a line of `length` make each pixel of a line of len(starts), and with which weights.

    Pixel o of the result is the sum over k < counts[o] of weights[o, k] times pixel starts[o] + k. Pixels are unit
    intervals whose centres lie at one half, and lines are laid onto each other as wholes. weights has at least
    `most_taps(method, length, len(starts))` columns.
    """
    size = starts.shape[0]
    scale = length / size
    for o in range(size):
        if method == NEAREST:
            starts[o], counts[o], weights[o, 0] = ((2 * o + 1) * length) // (2 * size), 1, 1.0
        elif method == BILINEAR:
            centre = (o + 0.5) * scale - 0.5
            first = np.int64(math.floor(centre))
            if first < 0:
                starts[o], counts[o], weights[o, 0] = 0, 1, 1.0
            elif first >= length - 1:
                starts[o], counts[o], weights[o, 0] = length - 1, 1, 1.0
            else:
                starts[o], counts[o] = first, 2
                weights[o, 0], weights[o, 1] = 1.0 - (centre - first), centre - first
        elif method == AREA:  # overlaps in units of 1 / size, so that they are integers
            first, last = (o * length) // size, ((o + 1) * length - 1) // size
            starts[o], counts[o] = first, last - first + 1
            for k in range(last - first + 1):
                begin, end = max(o * length, (first + k) * size), min((o + 1) * length, (first + k + 1) * size)
                weights[o, k] = (end - begin) / length
        else:  # a triangle as wide as the shrinking asks for, cut at the edges (Pillow's BILINEAR)
            support = max(scale, 1.0)
            centre = (o + 0.5) * scale
            first = max(np.int64(0), np.int64(math.floor(centre - support + 0.5)))
            last = min(np.int64(length), np.int64(math.floor(centre + support + 0.5))) - 1
            total = 0.0
            for k in range(last - first + 1):
                total += max(0.0, 1.0 - abs((first + k + 0.5 - centre) / support))
            starts[o], counts[o] = first, last - first + 1
            for k in range(last - first + 1):
                weights[o, k] = max(0.0, 1.0 - abs((first + k + 0.5 - centre) / support)) / total


@kernel
def most_taps(method: int, length: int, size: int) -> int:
    """An upper bound of the pixels that make one pixel when `length` become `size`."""
    if method == NEAREST:
        return 1
    if method == BILINEAR:
        return 2
    return 2 * ((length + size - 1) // size) + 2


@kernel
def sum_pixels(
    line: NDArray[np.float32],
    channels: int,
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    weights: NDArray[np.float32],
    mirrored: bool,
    rounding: np.float32,
    out: NDArray[np.generic],
) -> None:
    """Write the pixels that the taps make of a line (pixels · channels,), in reverse if `mirrored`."""
    size = starts.shape[0]
    for x in range(size):
        at = np.uint64(starts[x] * channels)  # unsigned: no test whether an index counts from the end
        to = np.uint64((size - 1 - x if mirrored else x) * channels)
        for channel in range(channels):
            total = weights[x, 0] * line[at + np.uint64(channel)]
            for k in range(1, counts[x]):
                total += weights[x, k] * line[at + np.uint64(k * channels + channel)]
            out[to + np.uint64(channel)] = total + rounding


@kernel
def sum_pixels_of_three(
    line: NDArray[np.float32],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    weights: NDArray[np.float32],
    mirrored: bool,
    rounding: np.float32,
    out: NDArray[np.generic],
) -> None:
    """`sum_pixels` for three channels, with their sums side by side: most images have three."""
    size = starts.shape[0]
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    for x in range(size):
        at = np.uint64(starts[x] * 3)
        to = np.uint64((size - 1 - x if mirrored else x) * 3)
        weight = weights[x, 0]
        red, green, blue = weight * line[at], weight * line[at + one], weight * line[at + two]
        for k in range(1, counts[x]):
            at += three
            weight = weights[x, k]
            red += weight * line[at]
            green += weight * line[at + one]
            blue += weight * line[at + two]
        out[to] = red + rounding
        out[to + one] = green + rounding
        out[to + two] = blue + rounding


@kernel
def resample(
    images: NDArray[np.generic],
    boxes: NDArray[np.int64],
    mirrored: NDArray[np.bool_],
    method: int,
    rounding: np.float32,
    out: NDArray[np.generic],
) -> None:
    """Resize the box (top, left, height, width) of each image to out[i], mirrored from left to right where said so.

    images (n, height, width, channels) and out (n, new height, new width, channels) of one dtype, boxes (n, 4) inside
    the images and not empty. First sums of lines, then sums of pixels, both float32 from the first tap to the last;
    `rounding` (0.5 for integers, 0 for floats) is added before the number is stored.
    """
    rows, columns, channels = out.shape[1], out.shape[2], out.shape[3]
    row_starts, row_counts = np.empty(rows, np.int64), np.empty(rows, np.int64)
    column_starts, column_counts = np.empty(columns, np.int64), np.empty(columns, np.int64)
    tallest, widest = 1, 1
    for i in range(boxes.shape[0]):
        tallest, widest = max(tallest, boxes[i, 2]), max(widest, boxes[i, 3])
    row_weights = np.empty((rows, most_taps(method, tallest, rows)), np.float32)
    column_weights = np.empty((columns, most_taps(method, widest, columns)), np.float32)
    line = np.empty(widest * channels, np.float32)
    for i in range(images.shape[0]):
        top, left, height, width = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        fill_taps(method, height, row_starts, row_counts, row_weights)
        fill_taps(method, width, column_starts, column_counts, column_weights)
        source = images[i].reshape(images.shape[1], images.shape[2] * channels)
        begin, elements = left * channels, width * channels
        for y in range(rows):
            weight = row_weights[y, 0]
            row = source[top + row_starts[y], begin : begin + elements]
            for j in range(elements):
                line[j] = weight * np.float32(row[j])
            for k in range(1, row_counts[y]):
                weight = row_weights[y, k]
                row = source[top + row_starts[y] + k, begin : begin + elements]
                for j in range(elements):
                    line[j] += weight * np.float32(row[j])
            target = out[i, y].reshape(columns * channels)
            if channels == 3:
                sum_pixels_of_three(line, column_starts, column_counts, column_weights, mirrored[i], rounding, target)
            else:
                sum_pixels(line, channels, column_starts, column_counts, column_weights, mirrored[i], rounding, target)
