"""Text keys as 64-bit words: `fnv` of docs/order.md, over rows that lie end to end."""

import numpy as np
from numpy.typing import NDArray

from minibatch.kernels.compile import kernel

FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)


@kernel
def text_words(values: NDArray[np.uint8], offsets: NDArray[np.int64], out: NDArray[np.uint64]) -> None:
    """Write the 64-bit FNV-1a hash of the bytes values[offsets[i] : offsets[i + 1]] to `out[i]`; out is (n,)."""
    for i in range(out.shape[0]):
        word = FNV_OFFSET
        for at in range(offsets[i], offsets[i + 1]):
            word = (word ^ np.uint64(values[at])) * FNV_PRIME
        out[i] = word
