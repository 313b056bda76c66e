"""Loops of the transforms over whole minibatches: pixels moved, mixed, scaled and disturbed.

Every kernel treats sample i by itself, from parameters of its own that were drawn before (`minibatch.rng.Draws`), so
its result does not depend on who else is in the minibatch. Arrays are C-contiguous and `out` never overlaps an input.
"Bytes" are arrays of any dtype seen as uint8: moving a pixel is the same work whatever is in it. Resizing is in
`minibatch.kernels.resample`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from minibatch.kernels.compile import copy_bytes, kernel
from minibatch.kernels.permute import draw

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


@kernel
def fill_boxes(boxes: NDArray[np.int64], values: NDArray[np.generic], out: NDArray[np.generic]) -> None:
    """Set the pixels of out (n, height, width, channels) inside boxes (n, boxes, 4) to `values` (channels,)."""
    for i in range(boxes.shape[0]):
        for j in range(boxes.shape[1]):
            top, left = boxes[i, j, 0], boxes[i, j, 1]
            for y in range(top, top + boxes[i, j, 2]):
                for x in range(left, left + boxes[i, j, 3]):
                    for channel in range(out.shape[3]):
                        out[i, y, x, channel] = values[channel]


@kernel
def fill_boxes_with_bytes(keys: NDArray[np.uint64], boxes: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """Set the pixels of out (n, height, width, channels) inside box i to random bytes: the upper 8 bits of the words
    0, 1, … of the stream keys[i], row by row."""
    for i in range(boxes.shape[0]):
        used = np.uint64(0)
        for y in range(boxes[i, 0], boxes[i, 0] + boxes[i, 2]):
            for x in range(boxes[i, 1], boxes[i, 1] + boxes[i, 3]):
                for channel in range(out.shape[3]):
                    out[i, y, x, channel] = np.uint8(draw(keys[i], used) >> np.uint64(56))
                    used += np.uint64(1)


@kernel
def standard_normal(key: np.uint64, index: np.uint64) -> float:
    """Number `index` of the normal numbers of a stream, as `permute.fill_normal` gives them."""
    u = (np.float64(draw(key, index << np.uint64(1)) >> np.uint64(11)) + 1.0) * 2.0**-53
    v = np.float64(draw(key, (index << np.uint64(1)) | np.uint64(1)) >> np.uint64(11)) * 2.0**-53
    return math.sqrt(-2.0 * math.log(u)) * math.cos(2.0 * math.pi * v)


@kernel
def fill_boxes_with_normals(keys: NDArray[np.uint64], boxes: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """As `fill_boxes_with_bytes`, with the standard normal numbers 0, 1, … of the stream keys[i]."""
    for i in range(boxes.shape[0]):
        used = np.uint64(0)
        for y in range(boxes[i, 0], boxes[i, 0] + boxes[i, 2]):
            for x in range(boxes[i, 1], boxes[i, 1] + boxes[i, 3]):
                for channel in range(out.shape[3]):
                    out[i, y, x, channel] = standard_normal(keys[i], used)
                    used += np.uint64(1)


@kernel
def add_normal(keys: NDArray[np.uint64], values: NDArray[np.floating], sigma: float, out: NDArray[np.floating]) -> None:
    """out[i, j] = values[i, j] + sigma · (normal number j of the stream keys[i]), computed in float64."""
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j] = np.float64(values[i, j]) + standard_normal(keys[i], np.uint64(j)) * sigma


@kernel
def drop_elements(
    keys: NDArray[np.uint64],
    threshold: np.uint64,
    values: NDArray[np.floating],
    factor: np.floating,
    out: NDArray[np.floating],
) -> None:
    """out[i, j] = 0 where the upper 53 bits of word j of the stream keys[i] are below `threshold`, else value · factor.

    values and out (n, elements), `factor` of their dtype.
    """
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            if draw(keys[i], np.uint64(j)) >> np.uint64(11) < threshold:
                out[i, j] = 0
            else:
                out[i, j] = values[i, j] * factor


@kernel
def partners(times: NDArray[np.int64], neighbourhood: int, words: NDArray[np.uint64], out: NDArray[np.int64]) -> None:
    """Write another sample of the same neighbourhood for each: out (n,) positions; one that is alone gets itself.

    Neighbourhood g are the samples of nominal times g·neighbourhood … (g + 1)·neighbourhood - 1 that are there, side by
    side in ascending `times`. Each of the others has equal probability (up to 2^-32).
    """
    begin, n = 0, times.shape[0]
    half = np.uint64(32)
    while begin < n:
        end = begin + 1
        while end < n and times[end] // neighbourhood == times[begin] // neighbourhood:
            end += 1
        members = end - begin
        for i in range(begin, end):
            hop = np.int64(((words[i] >> half) * np.uint64(members - 1)) >> half) + 1
            out[i] = begin + (i - begin + hop) % members
        begin = end


@kernel
def mix(
    values: NDArray[np.generic],
    others: NDArray[np.int64],
    own: NDArray[np.float32],
    foreign: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """out[i] = own[i] · values[i] + foreign[i] · values[others[i]], in float32; values and out (n, elements)."""
    for i in range(values.shape[0]):
        a, b, other = own[i], foreign[i], others[i]
        for j in range(values.shape[1]):
            out[i, j] = a * np.float32(values[i, j]) + b * np.float32(values[other, j])


@kernel
def normalise(
    values: NDArray[np.generic], mean: NDArray[np.float32], factor: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """out[i, j] = (values[i, j] - mean[j % period]) · factor[j % period], in float32.

    values and out (n, elements); mean and factor (period,), a divisor of the elements: a line or a whole image.
    """
    period = mean.shape[0]
    for i in range(values.shape[0]):
        for begin in range(0, values.shape[1], period):
            source, target = values[i, begin : begin + period], out[i, begin : begin + period]
            for j in range(period):
                target[j] = (np.float32(source[j]) - mean[j]) * factor[j]


@kernel
def normalise_channels_first(
    values: NDArray[np.generic], mean: NDArray[np.float32], factor: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """out[i, c, j] = (values[i, j, c] - mean) · factor, in float32: pixels with their channels become planes.

    mean and factor are (channels, 1) or (channels, pixels).
    """
    channels = values.shape[2]
    for i in range(values.shape[0]):
        for channel in range(channels):
            if mean.shape[1] == 1:
                m, f = mean[channel, 0], factor[channel, 0]
                for j in range(values.shape[1]):
                    out[i, channel, j] = (np.float32(values[i, j, channel]) - m) * f
            else:
                for j in range(values.shape[1]):
                    out[i, channel, j] = (np.float32(values[i, j, channel]) - mean[channel, j]) * factor[channel, j]


@kernel
def shift_colours(
    values: NDArray[np.generic],
    shifts: NDArray[np.float32],
    factor: np.float32,
    line: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """out[i, j] = (values[i, j] + shifts[i, j % channels]) · factor, in float32; values and out (n, elements).

    `line`, a whole number of pixels long, is memory to write the shifts out in: long loops run in vectors.
    """
    channels, elements = shifts.shape[1], values.shape[1]
    for i in range(values.shape[0]):
        for begin in range(0, line.shape[0], channels):
            for channel in range(channels):
                line[begin + channel] = shifts[i, channel]
        for begin in range(0, elements, line.shape[0]):
            end = min(begin + line.shape[0], elements)
            source, target = values[i, begin:end], out[i, begin:end]
            for j in range(end - begin):
                target[j] = (np.float32(source[j]) + line[j]) * factor


@kernel
def jitter_colours(
    values: NDArray[np.generic],
    factors: NDArray[np.float64],
    weights: NDArray[np.float32],
    least: np.float32,
    most: np.float32,
    rounding: np.float32,
    out: NDArray[np.generic],
) -> None:
    """Scale brightness, contrast and saturation of each image by factors (n, 3), in float32.

    values and out (n, pixels, channels). x becomes b·x; then c·x + (1 - c)·(grey mean of the image); then
    s·x + (1 - s)·(grey of the pixel), where grey is the sum of `weights` (channels,) times the channels. Means are sums
    in float64, pixel after pixel. Results are cut to least … most, and `rounding` (0.5 for integers, 0 for floats) is
    added before they are stored.
    """
    pixels, channels = values.shape[1], values.shape[2]
    sums = np.zeros(channels, np.float64)
    for i in range(values.shape[0]):
        bright, contrast, saturation = factors[i, 0], factors[i, 1], factors[i, 2]
        for channel in range(channels):
            total = 0.0
            if contrast != 1.0:
                for j in range(pixels):
                    total += np.float64(values[i, j, channel])
            sums[channel] = total
        mean = 0.0
        for channel in range(channels):
            mean += np.float64(weights[channel]) * sums[channel] / max(1, pixels)
        scale, shift = np.float32(bright * contrast), np.float32((1.0 - contrast) * (bright * mean))
        own, rest = np.float32(saturation), np.float32(1.0 - saturation)
        if channels == 3:  # written out, which is three times as fast
            for j in range(pixels):
                red = np.float32(values[i, j, 0]) * scale + shift
                green = np.float32(values[i, j, 1]) * scale + shift
                blue = np.float32(values[i, j, 2]) * scale + shift
                grey = rest * (weights[0] * red + weights[1] * green + weights[2] * blue)
                out[i, j, 0] = min(max(own * red + grey, least), most) + rounding
                out[i, j, 1] = min(max(own * green + grey, least), most) + rounding
                out[i, j, 2] = min(max(own * blue + grey, least), most) + rounding
            continue
        for j in range(pixels):
            grey = np.float32(0)
            for channel in range(channels):
                grey += weights[channel] * (np.float32(values[i, j, channel]) * scale + shift)
            for channel in range(channels):
                x = np.float32(values[i, j, channel]) * scale + shift
                out[i, j, channel] = min(max(own * x + rest * grey, least), most) + rounding


@kernel
def log_gamma_variate(key: np.uint64, used: int, shape: float) -> tuple[float, int]:
    """The logarithm of a number with the gamma distribution of that shape, and how many words are used up after it.

    Marsaglia and Tsang 2000; below shape 1 by their section 6, as logarithm, because the number itself may be 0.
    """
    unit = 2.0**-53
    boost = 0.0
    if shape < 1.0:
        boost = math.log((np.float64(draw(key, np.uint64(used)) >> np.uint64(11)) + 1.0) * unit) / shape
        used += 1
        shape += 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        u = (np.float64(draw(key, np.uint64(used)) >> np.uint64(11)) + 1.0) * unit
        v = np.float64(draw(key, np.uint64(used + 1)) >> np.uint64(11)) * unit
        w = (np.float64(draw(key, np.uint64(used + 2)) >> np.uint64(11)) + 1.0) * unit
        used += 3
        x = math.sqrt(-2.0 * math.log(u)) * math.cos(2.0 * math.pi * v)
        cube = (1.0 + c * x) * (1.0 + c * x) * (1.0 + c * x)
        if cube > 0.0 and math.log(w) < 0.5 * x * x + d - d * cube + d * math.log(cube):
            return math.log(d * cube) + boost, used


@kernel
def fill_beta(keys: NDArray[np.uint64], alpha: float, beta: float, out: NDArray[np.float64]) -> None:
    """Write numbers with the beta distribution to out (n, numbers), row i from words 0, 1, … of the stream keys[i]."""
    for i in range(keys.shape[0]):
        used = 0
        for j in range(out.shape[1]):
            first, used = log_gamma_variate(keys[i], used, alpha)
            second, used = log_gamma_variate(keys[i], used, beta)
            gap = second - first
            # exp of a large number would be infinite, which is right, but a warning without the JIT
            out[i, j] = 0.0 if gap > 700.0 else 1.0 / (1.0 + math.exp(gap))
