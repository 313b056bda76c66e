"""Loops of the transforms over whole minibatches: pixels filled, mixed, scaled and disturbed.

Every kernel treats sample i by itself, from parameters of its own that were drawn before (`minibatch.rng.Draws`), so
its result does not depend on who else is in the minibatch. Arrays are C-contiguous and `out` never overlaps an input.
Moving pixels is in `minibatch.kernels.windows`, resizing in `minibatch.kernels.resample`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from minibatch.kernels.compile import kernel
from minibatch.kernels.permute import draw


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
