"""Where a minibatch is cut for the passes through the model: into microbatches, or into leaves of nominal time.

A leaf is a group of consecutive places of the axis, [j·size, (j + 1)·size): which leaves a step has depends on its
interval alone, so that arithmetic done leaf by leaf is the same however a run is cut, stopped and resumed.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Cuts = list[tuple[int, int]]


def microbatches(n: int, size: int | None) -> Cuts:
    """[start, stop) of consecutive microbatches of at most `size` of n samples; all in one for None.

    >>> microbatches(5, 2), microbatches(5, None), microbatches(0, None)
    ([(0, 2), (2, 4), (4, 5)], [(0, 5)], [])
    """
    size = n if size is None else size
    return [(start, min(start + size, n)) for start in range(0, n, size)] if n else []


def leaves(places: NDArray[np.int64], size: int) -> Cuts:
    """[start, stop) of the samples of each leaf: int64 places (n,), ascending; leaves without samples are left out.

    >>> leaves(np.array([6, 7, 8, 9, 12]), 4)
    [(0, 2), (2, 4), (4, 5)]
    """
    if not len(places):
        return []
    borders = np.flatnonzero(np.diff(places // size)) + 1
    edges = [0, *borders.tolist(), len(places)]
    return list(pairwise(edges))
