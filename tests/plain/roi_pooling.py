"""Plain twin of `models.roi_pooling`: cell by cell, in Python, in the order of Girshick's RoIPoolLayer."""

import math

import numpy as np


def rounded(value: float) -> int:
    """To the nearest whole number, halves away from zero as in C."""
    return math.floor(abs(value) + 0.5) * (1 if value >= 0 else -1)


def roi_pool(
    features: np.ndarray, rois: np.ndarray, size: tuple[int, int], scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Values (n, r, c, p, q), and the row and column of the cell that each came from, (-1, -1) where there was none."""
    n, c, h, w = features.shape
    r, (p, q) = rois.shape[1], size
    values = np.zeros((n, r, c, p, q), features.dtype)
    cells = np.full((n, r, c, p, q, 2), -1)
    for i, j in np.ndindex(n, r):
        left, top, right, bottom = (rounded(float(corner) * scale) for corner in rois[i, j])
        rows, columns = max(bottom - top + 1, 1), max(right - left + 1, 1)
        for channel, a, b in np.ndindex(c, p, q):
            begin = min(max(top + (a * rows) // p, 0), h), min(max(left + (b * columns) // q, 0), w)
            end = min(max(top - (-(a + 1) * rows) // p, 0), h), min(max(left - (-(b + 1) * columns) // q, 0), w)
            best = -math.inf
            for y in range(begin[0], end[0]):
                for x in range(begin[1], end[1]):
                    if features[i, channel, y, x] > best:
                        best = features[i, channel, y, x]
                        values[i, j, channel, a, b] = best
                        cells[i, j, channel, a, b] = y, x
    return values, cells


def gradient(shape: tuple[int, ...], cells: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """What reaches the features (n, c, h, w): each bin's gradient at the cell that it came from."""
    result = np.zeros(shape)
    for i, j, channel, a, b in np.ndindex(*gradients.shape):
        y, x = cells[i, j, channel, a, b]
        if y >= 0:
            result[i, channel, y, x] += gradients[i, j, channel, a, b]
    return result
