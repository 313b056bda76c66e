"""Plain twins of `minibatch.transforms`: one sample at a time, from numbers drawn one by one.

`sample` says what a transform makes of a sample, given its random numbers; `mixed` what MixUp and CutMix make of all
samples of some neighbourhoods. Arithmetic is in float32 where the transforms say so, in the order in which they say it.
"""

import math
from typing import Any

import numpy as np

from minibatch import transforms
from tests.plain.rng import draw
from tests.plain.rng import normal as plain_normal
from tests.plain.source import PlainDraws

Sample = dict[str, Any]
f32 = np.float32


def sample(transform: Any, fields: Sample, draws: PlainDraws) -> Sample:
    """The fields of one sample after `transform`."""
    made = TWINS[type(transform)](transform, fields[transform.field], draws)
    return {**fields, transform.field: made}


def place(draws: PlainDraws, bound: int) -> int:
    return draws.integer(bound)


def pair(size: Any) -> tuple[int, int]:
    return tuple(size) if isinstance(size, tuple) else (size, size)


def coloured(image: np.ndarray) -> np.ndarray:
    """An image with a channel axis."""
    return image if image.ndim == 3 else image[:, :, None]


def flip(transform: Any, image: np.ndarray, draws: PlainDraws) -> np.ndarray:
    return image[:, ::-1] if draws.uniform() < transform.probability else image


def center_crop(transform: Any, image: np.ndarray, draws: PlainDraws) -> np.ndarray:
    height, width = pair(transform.size)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def random_crop(transform: Any, image: np.ndarray, draws: PlainDraws) -> np.ndarray:
    (height, width), (above, beside) = pair(transform.size), pair(transform.padding)
    mode = {"zero": "constant", "edge": "edge", "reflect": "reflect"}[transform.padding_mode]
    padded = np.pad(image, [(above, above), (beside, beside)] + [(0, 0)] * (image.ndim - 2), mode)
    top = place(draws, padded.shape[0] - height + 1)
    left = place(draws, padded.shape[1] - width + 1)
    return padded[top : top + height, left : left + width]


def multi_crop(transform: Any, image: np.ndarray, draws: PlainDraws) -> np.ndarray:
    height, width = pair(transform.size)
    down, right = image.shape[0] - height, image.shape[1] - width
    corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    if transform.views == "grid":
        corners = [(y, x) for y in (0, down // 2, down) for x in (0, right // 2, right)]
    views = [image[top : top + height, left : left + width] for top, left in corners]
    return np.stack(views + [view[:, ::-1] for view in views] * transform.flips)


def taps(method: str, length: int, size: int) -> list[list[tuple[int, float]]]:
    """For each pixel of a line of `size`: which pixels of a line of `length` make it, with which weights."""
    scale = length / size
    lines = []
    for o in range(size):
        if method == "nearest":
            lines.append([(math.floor((o + 0.5) * length / size), 1.0)])
        elif method == "bilinear":
            at = min(max((o + 0.5) * scale - 0.5, 0), length - 1)
            first = int(at)
            lines.append([(first, 1 - (at - first))] + [(first + 1, at - first)] * (at < length - 1))
        elif method == "area":
            overlaps = [(j, min((o + 1) * length, (j + 1) * size) - max(o * length, j * size)) for j in range(length)]
            lines.append([(j, overlap / length) for j, overlap in overlaps if overlap > 0])
        else:
            support, centre = max(scale, 1), (o + 0.5) * scale
            reached = range(max(0, math.floor(centre - support + 0.5)), min(length, math.floor(centre + support + 0.5)))
            heights = [max(0.0, 1 - abs((j + 0.5 - centre) / support)) for j in reached]
            total = 0.0
            for height in heights:
                total += height
            lines.append([(j, height / total) for j, height in zip(reached, heights, strict=True)])
    return lines


def resized(image: np.ndarray, shape: tuple[int, int], method: str) -> np.ndarray:
    pixels = coloured(image).astype(f32)
    lines = []
    for line in taps(method, image.shape[0], shape[0]):
        total = f32(line[0][1]) * pixels[line[0][0]]
        for at, weight in line[1:]:
            total = total + f32(weight) * pixels[at]
        lines.append(total)
    out = np.empty((*shape, pixels.shape[2]), f32)
    for x, column in enumerate(taps(method, image.shape[1], shape[1])):
        for y, line in enumerate(lines):
            total = f32(column[0][1]) * line[column[0][0]]
            for at, weight in column[1:]:
                total = total + f32(weight) * line[at]
            out[y, x] = total
    if image.dtype == np.uint8:
        out = np.floor(out + f32(0.5))
    return out.astype(image.dtype).reshape(shape + image.shape[2:])


def resize_shape(transform: Any, height: int, width: int) -> tuple[int, int]:
    if transform.size is not None:
        return pair(transform.size)
    scale = transform.shorter_side / min(height, width)
    return math.floor(height * scale + 0.5), math.floor(width * scale + 0.5)


def resize(transform: Any, image: np.ndarray, draws: PlainDraws) -> np.ndarray:
    return resized(image, resize_shape(transform, *image.shape[:2]), transform.method)


def box(transform: Any, height: int, width: int, draws: PlainDraws) -> tuple[int, int, int, int] | None:
    """The first of ten tries that fits; all of them are drawn."""
    tries = [[draws.uniform() for _ in range(4)] for _ in range(10)]
    (small, large), (flat, tall) = transform.scale, transform.ratio
    for area, ratio, top, left in tries:
        area = (small + area * (large - small)) * (height * width)
        ratio = math.exp(math.log(flat) + ratio * (math.log(tall) - math.log(flat)))
        rows, columns = math.floor(math.sqrt(area / ratio) + 0.5), math.floor(math.sqrt(area * ratio) + 0.5)
        if 0 < rows <= height and 0 < columns <= width:
            return math.floor(top * (height - rows + 1)), math.floor(left * (width - columns + 1)), rows, columns
    return None


def random_resized_crop(transform: Any, image: np.ndarray, draws: PlainDraws) -> np.ndarray:
    height, width = image.shape[:2]
    found = box(transform, height, width, draws)
    if found is None:
        ratio = min(max(width / height, transform.ratio[0]), transform.ratio[1])
        rows, columns = (
            max(1, min(height, round_half_up(width / ratio))),
            max(1, min(width, round_half_up(height * ratio))),
        )
        found = (height - rows) // 2, (width - columns) // 2, rows, columns
    top, left, rows, columns = found
    return resized(image[top : top + rows, left : left + columns], pair(transform.size), transform.method)


def round_half_up(x: float) -> int:
    return math.floor(x + 0.5)


def normalize(transform: Any, image: np.ndarray, draws: PlainDraws) -> np.ndarray:
    pixels = coloured(image)
    mean, std = (np.asarray(getattr(transform, name), np.float64) for name in ("mean", "std"))
    mean, std = (each[:, :, None] if each.shape == image.shape and image.ndim == 2 else each for each in (mean, std))
    out = np.empty(pixels.shape, f32)
    for y, x, c in np.ndindex(pixels.shape):
        m, s = (each.item() if each.ndim == 0 else each[c] if each.ndim == 1 else each[y, x, c] for each in (mean, std))
        out[y, x, c] = (f32(pixels[y, x, c]) - f32(m * transform.unit)) * f32(1 / (s * transform.unit))
    if transform.channels_first:
        planes = np.stack([out[:, :, c] for c in range(out.shape[2])])
        return planes if image.ndim == 3 else planes[0]
    return out.reshape(image.shape)


def color_noise(transform: Any, image: np.ndarray, draws: PlainDraws) -> np.ndarray:
    alphas = [number * transform.scale for number in draws.normals(len(transform.vectors))]
    colour = [0.0] * len(transform.vectors[0])
    for alpha, amount, vector in zip(alphas, transform.amounts, transform.vectors, strict=True):
        colour = [c + alpha * amount * v for c, v in zip(colour, vector, strict=True)]
    if transform.form == "alexnet":
        return (coloured(image).astype(f32) + np.array(colour, f32)).reshape(image.shape)
    center = np.asarray(transform.center, np.float64)
    out = center + (coloured(image).astype(np.float64) - center + colour) / (1 + transform.scale)
    return out.astype(f32).reshape(image.shape)


def color_jitter(transform: Any, image: np.ndarray, draws: PlainDraws) -> np.ndarray:
    factors = []
    for change in (transform.brightness, transform.contrast, transform.saturation):
        low = max(0.0, 1 - change)
        factors.append(low + draws.uniform() * (1 + change - low))
    bright, contrast, saturation = factors
    pixels = coloured(image)
    weights = [f32(0.299), f32(0.587), f32(0.114)] if pixels.shape[2] == 3 else [f32(1)]
    mean = 0.0
    for c, weight in enumerate(weights):
        total = 0.0
        for value in pixels[:, :, c].reshape(-1).tolist():
            total += value
        mean += float(weight) * total / pixels[:, :, c].size
    scaled = pixels.astype(f32) * f32(bright * contrast) + f32((1 - contrast) * (bright * mean))
    grey = np.zeros(pixels.shape[:2], f32)
    for c, weight in enumerate(weights):
        grey = grey + weight * scaled[:, :, c]
    out = f32(saturation) * scaled + f32(1 - saturation) * grey[:, :, None]
    if image.dtype == np.uint8:
        out = np.floor(np.clip(out, 0, 255) + f32(0.5))
    return out.astype(image.dtype).reshape(image.shape)


def gaussian_noise(transform: Any, values: np.ndarray, draws: PlainDraws) -> np.ndarray:
    noise = np.array(draws.normals(values.size)).reshape(values.shape)
    return (values + noise * transform.sigma).astype(values.dtype)


def dropout(transform: Any, values: np.ndarray, draws: PlainDraws) -> np.ndarray:
    stream = draws.word()
    kept = [(draw(stream, j) >> 11) / 2**53 >= transform.probability for j in range(values.size)]
    factor = values.dtype.type(1 / (1 - transform.probability) if transform.scale else 1)
    return np.where(np.array(kept, bool).reshape(values.shape), values * factor, values.dtype.type(0))


def cutout(transform: Any, image: np.ndarray, draws: PlainDraws) -> np.ndarray:
    out, (rows, columns) = image.copy(), pair(transform.size)
    for _ in range(transform.count):
        top = place(draws, image.shape[0]) - rows // 2
        left = place(draws, image.shape[1]) - columns // 2
        out[max(0, top) : max(0, top + rows), max(0, left) : max(0, left + columns)] = transform.fill
    return out


def random_erasing(transform: Any, image: np.ndarray, draws: PlainDraws) -> np.ndarray:
    erased = draws.uniform() < transform.probability
    found = box(transform, *image.shape[:2], draws)
    stream = draws.word() if transform.fill == "noise" else None
    if not erased or found is None:
        return image
    top, left, rows, columns = found
    out = image.copy()
    part = coloured(out)[top : top + rows, left : left + columns]
    if stream is None:
        part[...] = transform.fill
    elif image.dtype == np.uint8:
        part[...] = np.array([draw(stream, j) >> 56 for j in range(part.size)], np.uint8).reshape(part.shape)
    else:
        part[...] = np.array([plain_normal(stream, j) for j in range(part.size)]).reshape(part.shape)
    return out


def one_hot(transform: Any, label: Any, draws: PlainDraws) -> np.ndarray:
    return np.array([1 if c == label else 0 for c in range(transform.classes)], transform.dtype)


def vector(label: Any, classes: int) -> list[Any]:
    return [f32(c == label) for c in range(classes)] if np.ndim(label) == 0 else [f32(y) for y in label]


def label_smoothing(transform: Any, label: Any, draws: PlainDraws) -> np.ndarray:
    keep, share = f32(1 - transform.epsilon), f32(transform.epsilon / transform.classes)
    return np.array([y * keep + share for y in vector(label, transform.classes)], f32)


def cast(transform: Any, values: Any, draws: PlainDraws) -> np.ndarray:
    kind = np.dtype(transform.dtype)
    step = f32 if kind == np.float32 else np.float64
    numbers = []
    for value in np.asarray(values).reshape(-1).tolist():
        number: Any = value
        if kind.kind == "f" or isinstance(value, float) or (transform.scale, transform.shift) != (1, 0):
            number = step(value) * step(transform.scale) + step(transform.shift)
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            number = min(max(number if isinstance(number, int) else rounded(float(number)), limits.min), limits.max)
        numbers.append(number)
    return np.array(numbers, kind).reshape(np.shape(values))


def rounded(number: float) -> float:
    return number if math.isinf(number) else round(number)


TWINS: dict[type, Any] = {
    transforms.HorizontalFlip: flip,
    transforms.CenterCrop: center_crop,
    transforms.RandomCrop: random_crop,
    transforms.MultiCrop: multi_crop,
    transforms.Resize: resize,
    transforms.RandomResizedCrop: random_resized_crop,
    transforms.Normalize: normalize,
    transforms.ColorNoise: color_noise,
    transforms.ColorJitter: color_jitter,
    transforms.GaussianNoise: gaussian_noise,
    transforms.Dropout: dropout,
    transforms.Cutout: cutout,
    transforms.RandomErasing: random_erasing,
    transforms.OneHot: one_hot,
    transforms.LabelSmoothing: label_smoothing,
    transforms.Cast: cast,
}


def beta(stream: int, alpha: float, other: float, used: int = 0) -> tuple[float, int]:
    """A number with the beta distribution from the words `used`, … of a stream, and how many are used after it."""
    logs = []
    for shape in (alpha, other):
        boost = 0.0
        if shape < 1:
            boost = math.log(((draw(stream, used) >> 11) + 1) / 2**53) / shape
            used, shape = used + 1, shape + 1
        d = shape - 1 / 3
        while True:
            u, v, w = (draw(stream, used + j) >> 11 for j in range(3))
            used += 3
            x = math.sqrt(-2 * math.log((u + 1) / 2**53)) * math.cos(2 * math.pi * (v / 2**53))
            root = 1 + x / math.sqrt(9 * d)
            if root > 0 and math.log((w + 1) / 2**53) < x * x / 2 + d - d * root**3 + d * math.log(root**3):
                logs.append(math.log(d * root**3) + boost)
                break
    return (0.0 if logs[1] - logs[0] > 700 else 1 / (1 + math.exp(logs[1] - logs[0]))), used


def mixed(transform: Any, samples: dict[int, Sample], name: str, seed: int) -> dict[int, Sample]:
    """What MixUp or CutMix makes of the samples at those nominal times: whole neighbourhoods, but for holes."""
    out = {}
    for time, fields in samples.items():
        group = sorted(t for t in samples if t // transform.neighbourhood == time // transform.neighbourhood)
        draws = PlainDraws(seed, name, time)
        word = draws.word()
        hop = ((word >> 32) * (len(group) - 1) >> 32) + 1
        partner = samples[group[(group.index(time) + hop) % len(group)]]
        own, _ = beta(draws.word(), transform.alpha, transform.alpha)
        if draws.uniform() >= transform.probability or len(group) == 1:
            own = 1.0
        out[time] = mixed_pair(transform, fields, partner, own, draws)
    return out


def mixed_pair(transform: Any, a: Sample, b: Sample, own: float, draws: PlainDraws) -> Sample:
    image, other = a[transform.field], b[transform.field]
    if isinstance(transform, transforms.MixUp):
        weight = f32(own)
        made = weight * image.astype(f32) + (f32(1) - weight) * other.astype(f32)
    else:
        height, width = image.shape[:2]
        rows, columns = int(math.sqrt(1 - own) * height), int(math.sqrt(1 - own) * width)
        top, left = place(draws, height) - rows // 2, place(draws, width) - columns // 2
        replaced = np.zeros((height, width), bool)
        replaced[max(0, top) : max(0, top + rows), max(0, left) : max(0, left + columns)] = True
        made = image.copy()
        made[replaced] = other[replaced]
        weight = f32((~replaced).sum() / replaced.size)
    out = {**a, transform.field: made}
    if transform.label is None or transform.classes is None:
        out["lambda"] = weight
        if transform.label is not None:
            out[transform.label + "_b"] = b[transform.label]
        return out
    pairs = zip(*(vector(each[transform.label], transform.classes) for each in (a, b)), strict=True)
    out[transform.label] = np.array([weight * y + (f32(1) - weight) * z for y, z in pairs], f32)
    return out
