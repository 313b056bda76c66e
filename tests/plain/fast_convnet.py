"""The network of models/fast_convnet.py in NumPy, float64, written from the table at its top; and patch whitening."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def convolved(x: Array, weight: Array, padding: int) -> Array:
    """x (n, i, h, w), weight (o, i, k, k), stride 1, zeros around."""
    k = weight.shape[2]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    high, wide = x.shape[2] - k + 1, x.shape[3] - k + 1
    out = np.zeros((len(x), len(weight), high, wide))
    for dy in range(k):
        for dx in range(k):
            out += np.einsum("nihw,oi->nohw", x[:, :, dy : dy + high, dx : dx + wide], weight[:, :, dy, dx])
    return out


def halved(x: Array) -> Array:
    """The largest of every 2 × 2; an odd last row or column is left out."""
    h, w = x.shape[2] // 2, x.shape[3] // 2
    return np.maximum.reduce([x[:, :, dy : 2 * h : 2, dx : 2 * w : 2] for dy in (0, 1) for dx in (0, 1)])


def normalised(x: Array, shift: Array) -> Array:
    """Every channel less its mean over the samples, divided by its deviation (biased, plus 1e-5 in the variance)."""
    mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    return (x - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None] + shift[:, None, None]


def gelu(x: Array) -> Array:
    """x · Φ(x)."""
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def fast_convnet(images: NDArray[Any], weights: dict[str, Array]) -> Array:
    """Logits (n, c) in training mode of images (n, h, w, 3) from 0 to 255."""
    x = ((images.astype(np.float64) / 255.0 - MEAN) / STD).transpose(0, 3, 1, 2)
    x = gelu(convolved(x, weights["whitening.weight"], 0) + weights["whitening.bias"][:, None, None])
    for stage in ("stage1", "stage2", "stage3"):
        x = halved(convolved(x, weights[f"{stage}.conv1.weight"], 1))
        x = gelu(normalised(x, weights[f"{stage}.norm1.bias"]))
        x = convolved(x, weights[f"{stage}.conv2.weight"], 1)
        x = gelu(normalised(x, weights[f"{stage}.norm2.bias"]))
    return x.max(axis=(2, 3)) @ weights["head.weight"].T / 9.0


def patches(images: Array, size: int) -> Array:
    """Every size × size window of images (n, c, h, w), each channel's pixels row by row: (windows, c · size²)."""
    n, _, h, w = images.shape
    return np.array(
        [
            images[i, :, y : y + size, x : x + size].reshape(-1)
            for i in range(n)
            for y in range(h - size + 1)
            for x in range(w - size + 1)
        ]
    )
