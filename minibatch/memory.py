"""Memory for blocks, used again when nothing looks at it any more.

Touching fresh pages costs more than the gather itself (1.3 GB/s against 6, measured 2026-11).
"""

import mmap
import weakref
from collections import deque
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

POOLED_BYTES = 1 << 20  # smaller blocks come from NumPy, which keeps small memory warm by itself
KEPT_REGIONS = 6
SHARED_BYTES = 16 << 20  # regions up to this size serve all pools of the process, also those to come
SHARED: deque[mmap.mmap] = deque(maxlen=KEPT_REGIONS)


class Pool:
    """Memory for blocks: a region is given out again once no array over it is alive.

    Every array that a caller may hold keeps the region's root array alive (as its `base`), and a weak reference to the
    root says when the last of them is gone: nobody has to give anything back, and nothing held is ever overwritten.
    Large regions go with their pool, up to `KEPT_REGIONS` of others stay for the next one.
    """

    def __init__(self) -> None:
        self._large: deque[mmap.mmap] = deque(maxlen=KEPT_REGIONS)
        self._watched: dict[int, weakref.ref[NDArray[np.uint8]]] = {}

    def take(self, size: int) -> NDArray[np.uint8]:
        """Uninitialised memory: uint8 (size,)."""
        if size < POOLED_BYTES:
            return np.empty(size, np.uint8)
        whole = -(-size // POOLED_BYTES) * POOLED_BYTES
        free = SHARED if whole <= SHARED_BYTES else self._large
        for _ in range(len(free)):
            try:
                region = free.pop()  # the last one used is still in the cache
            except IndexError:  # another thread was faster
                break
            if size <= len(region) <= 2 * size + POOLED_BYTES:
                return self._root(region, size, free)
            free.appendleft(region)
        try:
            region = anonymous(whole)
        except (OSError, OverflowError, ValueError) as error:
            raise MemoryError(
                f"a block of {size:,} bytes cannot be allocated ({error}): ask for a smaller minibatch"
            ) from None
        return self._root(region, size, free)

    def _root(self, region: mmap.mmap, size: int, free: deque[mmap.mmap]) -> NDArray[np.uint8]:
        root = np.frombuffer(region, np.uint8, size)
        watched, name = self._watched, id(root)

        def recycle(reference: weakref.ref[NDArray[np.uint8]]) -> None:
            watched.pop(name, None)
            free.append(region)

        self._watched[name] = weakref.ref(root, recycle)
        return root


def anonymous(size: int) -> mmap.mmap:
    """Fresh memory of this process alone: a forked child gets a copy, where Python's default would share it."""
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows, which does not fork
        return mmap.mmap(-1, size)
    region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            region.madvise(mmap.MADV_HUGEPAGE)
    return region
