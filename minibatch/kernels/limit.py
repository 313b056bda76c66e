"""What a reader cannot beat on one thread: a bare gather whose row numbers are known beforehand, for `minibatch bench`.

Written as anybody would write it in Numba, without the prefetching of `gather`, so that a ratio to it means something.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.kernels.compile import kernel


@kernel
def bare_gather(table: NDArray[Any], rows: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Copy rows (n,) of `table` (m, width) to `out` (n, width), element by element; rows are not checked."""
    for i in range(rows.shape[0]):
        row = rows[i]
        for j in range(table.shape[1]):
            out[i, j] = table[row, j]
