"""The sum of squares over many small arrays in one call: what the norm of a gradient needs at every step.

A dozen launches of a tensor library cost more than the arithmetic of a small model's gradient. Squares are added in
float64 on 512 lanes, so that the result is the same for any number of threads and does not overflow.
"""

from typing import Any

import numpy as np

from minibatch.kernels.compile import float32_array, kernel

LANES = 512


@kernel
def sum_of_squares(addresses: Any, counts: Any) -> float:
    """Σ x² over float32 arrays: int64 addresses (n,), and of how many numbers each, int64 counts (n,)."""
    lanes = np.zeros(LANES)
    for k in range(len(addresses)):
        values = float32_array(addresses[k], counts[k])
        whole = counts[k] // LANES
        for i in range(whole):
            for j in range(LANES):
                x = np.float64(values[i * LANES + j])  # Numba's float() would leave it single
                lanes[j] += x * x
        for i in range(whole * LANES, counts[k]):
            x = np.float64(values[i])
            lanes[i - whole * LANES] += x * x
    return float(lanes.sum())
