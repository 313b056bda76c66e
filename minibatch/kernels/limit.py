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


@kernel
def bare_padded(values: NDArray[Any], offsets: NDArray[np.int64], rows: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Copy sequences rows (n,), of which sequence r is values[offsets[r]:offsets[r + 1]], to `out` (n, width) and fill
    up with zeros; `width` is at least the longest; rows are not checked."""
    for i in range(rows.shape[0]):
        begin, end = offsets[rows[i]], offsets[rows[i] + 1]
        for j in range(end - begin):
            out[i, j] = values[begin + j]
        for j in range(end - begin, out.shape[1]):
            out[i, j] = 0
