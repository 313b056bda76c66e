"""Plain twins of `minibatch.models.unpooling`: one window after the other, in Python numbers."""

import numpy as np
from numpy.typing import NDArray


def max_pool(images: NDArray[np.float64], window: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The first of the largest numbers of every window, and its place in it, row by row."""
    n, c, h, w = images.shape
    maxima = np.zeros((n, c, h // window, w // window))
    places = np.zeros(maxima.shape, np.int64)
    for at in np.ndindex(*maxima.shape):
        i, j, top, left = at
        best = None
        for place in range(window * window):
            value = images[i, j, top * window + place // window, left * window + place % window]
            if best is None or value > best:
                best, places[at] = value, place
        maxima[at] = best
    return maxima, places


def unpool(values: NDArray[np.float64], places: NDArray[np.int64], window: int) -> NDArray[np.float64]:
    """Zeros, and every value at its place in its window."""
    n, c, h, w = values.shape
    images = np.zeros((n, c, h * window, w * window))
    for at in np.ndindex(*values.shape):
        i, j, row, column = at
        down, right = divmod(int(places[at]), window)
        images[i, j, row * window + down, column * window + right] = values[at]
    return images
