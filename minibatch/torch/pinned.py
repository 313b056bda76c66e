"""Page-locked memory for the source's blocks: rows are gathered where the GPU can fetch them, without another copy."""

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minibatch.memory import Pool


class PinnedPool(Pool):
    """Memory owned by PyTorch's pinned allocator, for `MinibatchSource(…, pool=PinnedPool())`.

    A tensor that `to_tensors` makes of such memory shares PyTorch's own storage. So PyTorch knows of every copy to the
    GPU that is still running, on whatever stream, and gives the memory to nobody else before it has ended. (A
    tensor made by `torch.from_numpy` does not tell: copy that one with `non_blocking=False`.)

    `pinned=False` takes ordinary memory the same way, for machines without a GPU. A forked child, which cannot use its
    parent's GPU, gets ordinary memory too.

    >>> PinnedPool(pinned=False).take(100).shape
    (100,)
    """

    def __init__(self, *, pinned: bool = True) -> None:
        super().__init__()
        if pinned and not torch.cuda.is_available():
            raise RuntimeError("pinned memory needs a GPU, and PyTorch finds none here: leave out the pool")
        self.pinned = pinned
        self._process = os.getpid()

    def take(self, size: int) -> NDArray[np.uint8]:
        """Uninitialised memory: uint8 (size,)."""
        if size == 0 or os.getpid() != self._process:
            return np.empty(size, np.uint8)
        try:
            array: NDArray[np.uint8] = torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned).numpy()
        except RuntimeError as error:
            raise MemoryError(
                f"a block of {size:,} bytes of pinned memory cannot be allocated ({error}): ask for a smaller minibatch"
            ) from None
        return array

    def __reduce__(self) -> tuple[Any, ...]:
        return _pool_of, (self.pinned,)


def _pool_of(pinned: bool) -> PinnedPool:
    return PinnedPool(pinned=pinned and torch.cuda.is_available())


def owner_of(array: NDArray[Any]) -> Tensor | None:
    """The tensor whose memory `array` is a view of, if PyTorch owns that memory."""
    base = array.base
    if isinstance(base, np.ndarray):
        base = base.base  # views of views hold the array that the pool gave, and that one holds the tensor
    return base if isinstance(base, Tensor) else None


def sharing_storage(array: NDArray[Any], dtype: torch.dtype) -> Tensor | None:
    """`array` as a tensor in the storage that PyTorch owns; None where it does not own it, or not in one piece."""
    owner = owner_of(array)
    if owner is None or owner.dtype != torch.uint8 or not array.flags.c_contiguous or not array.nbytes:
        return None
    begin = array.__array_interface__["data"][0] - owner.data_ptr()
    return owner[begin : begin + array.nbytes].view(dtype).view(array.shape)
