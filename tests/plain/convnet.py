"""The layers of models/convnet_layers.py in NumPy, float64: one output value after the other, as the formulas say."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def response_norm(x: Array, size: int, scale: float, power: float, offset: float) -> Array:
    """x (n, maps, h, w); each value by the squares of `size` maps around its own: cuda-convnet2's cmrnorm."""
    out = np.empty_like(x)
    maps = x.shape[1]
    for n, m, y, c in np.ndindex(x.shape):
        around = range(max(0, m - size // 2), min(maps, m + size // 2 + 1))
        squares = sum(x[n, other, y, c] ** 2 for other in around)
        out[n, m, y, c] = x[n, m, y, c] / (offset + scale / size * squares) ** power
    return out


def locally_connected(x: Array, weight: Array, bias: Array, window: int, padding: int) -> Array:
    """x (n, i, h, w), weight (l, k·k·i, o), bias (l, o): (n, o, h', w')."""
    n, channels, height, width = x.shape
    side = height + 2 * padding - window + 1
    out = np.empty((n, weight.shape[2], side, side))
    for s, o, top, left in np.ndindex(out.shape):
        place = top * side + left
        total = bias[place, o]
        for row in range(window):
            for column in range(window):
                y, z = top + row - padding, left + column - padding
                if 0 <= y < height and 0 <= z < width:
                    for i in range(channels):
                        total += x[s, i, y, z] * weight[place, (row * window + column) * channels + i, o]
        out[s, o, top, left] = total
    return out


def pooled(x: Array) -> Array:
    """The largest of windows of 3 × 3 at stride 2, the last of which may stand out: x (n, i, h, w)."""
    n, channels, height, width = x.shape
    rows, columns = (int(np.ceil((length - 3) / 2)) + 1 for length in (height, width))
    out = np.empty((n, channels, rows, columns))
    for y in range(rows):
        for z in range(columns):
            out[:, :, y, z] = x[:, :, 2 * y : 2 * y + 3, 2 * z : 2 * z + 3].max((2, 3))
    return out


def convolved(x: Array, weight: Array, bias: Array, padding: int, stride: int = 1) -> Array:
    """x (n, i, h, w), weight (o, i, k, k): cuda-convnet2's modules, the last of which may stand out over zeros."""
    n, _, height, _ = x.shape
    filters, window = weight.shape[0], weight.shape[2]
    side = 1 + int(np.ceil((2 * padding + height - window) / stride))
    after = max(0, (side - 1) * stride + window - height - padding)
    framed = np.pad(x, ((0, 0), (0, 0), (padding, after), (padding, after)))
    out = np.empty((n, filters, side, side))
    for y in range(side):
        for z in range(side):
            seen = framed[:, :, y * stride : y * stride + window, z * stride : z * stride + window]
            out[:, :, y, z] = np.einsum("nikl,oikl->no", seen, weight) + bias
    return out


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def convnet(images: Array, weights: dict[str, Array]) -> Array:
    """The logits of models/convnet.py: layers-cifar10-11pct.cfg, of crops (n, size, size, 3)."""
    x = (images - weights["data.mean"]).transpose(0, 3, 1, 2)
    x = relu(convolved(x, weights["conv1.weight"], weights["conv1.bias"], 2))
    x = response_norm(pooled(x), 9, 0.001, 0.75, 1.0)
    x = relu(convolved(x, weights["conv2.weight"], weights["conv2.bias"], 2))
    x = pooled(response_norm(x, 9, 0.001, 0.75, 1.0))
    x = relu(locally_connected(x, weights["local3.weight"], weights["local3.bias"], 3, 1))
    x = relu(locally_connected(x, weights["local4.weight"], weights["local4.bias"], 3, 1))
    return x.reshape(len(x), -1) @ weights["fc10.weight"].T + weights["fc10.bias"]


def alexnet(images: Array, weights: dict[str, Array]) -> Array:
    """The logits of models/alexnet.py when testing: layers-imagenet-1gpu.cfg, of crops (n, size, size, 3)."""
    x = (images - weights["data.mean"]).transpose(0, 3, 1, 2)
    x = convolved(x, weights["conv1.weight"], weights["conv1.bias"], 0, 4)
    x = relu(pooled(response_norm(x, 5, 1e-4, 0.75, 2.0)))
    x = relu(convolved(x, weights["conv2.weight"], weights["conv2.bias"], 2))
    x = pooled(response_norm(x, 5, 1e-4, 0.75, 2.0))
    x = relu(convolved(x, weights["conv3.weight"], weights["conv3.bias"], 1))
    x = relu(convolved(x, weights["conv4.weight"], weights["conv4.bias"], 1))
    x = relu(pooled(convolved(x, weights["conv5.weight"], weights["conv5.bias"], 1)))
    x = relu(x.reshape(len(x), -1) @ weights["fc4096a.weight"].T + weights["fc4096a.bias"]) / 2
    x = relu(x @ weights["fc4096b.weight"].T + weights["fc4096b.bias"]) / 2
    return x @ weights["fc1000.weight"].T + weights["fc1000.bias"]
