"""scikit-learn's digits for these tests: 1,400 to train on and 397 to validate on, chosen by a key."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from minibatch import rng

TRAINED_ON = 1400
Pair = tuple[NDArray[np.float32], NDArray[np.int64]]


@cache
def digits() -> tuple[Pair, Pair]:
    """(inputs float32 (n, 64) from 0 to 1, labels int64 (n,)) of the training and of the validation part."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.argsort(rng.bits(rng.key(0, "tests.digits"), np.arange(len(bunch.target))))
    x, y = (bunch.data[order] / 16.0).astype(np.float32), bunch.target[order].astype(np.int64)
    return (x[:TRAINED_ON], y[:TRAINED_ON]), (x[TRAINED_ON:], y[TRAINED_ON:])
