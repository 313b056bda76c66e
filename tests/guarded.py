"""Memory for the tests of kernels: at odd addresses, with bytes around it that must not change."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.plain import gather as plain

GUARD = 0xA5


def starts_of(chunk_rows: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(chunk_rows)]).astype(np.int64)


def located(rows: list[int], chunk_rows: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """The three arguments that every gather begins with."""
    chunks = np.array([plain.locate(row, chunk_rows)[0] for row in rows], np.int32)
    return np.array(rows, np.int64), chunks, starts_of(chunk_rows)


def guarded(size: int, lead: int = 3) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Memory of `size` bytes at an odd address, and the larger memory around it."""
    around = np.full(lead + size + 64, GUARD, np.uint8)
    return around[lead : lead + size], around


def assert_guards(around: NDArray[np.uint8], size: int, lead: int = 3) -> None:
    assert (around[:lead] == GUARD).all()
    assert (around[lead + size :] == GUARD).all()


def unaligned(content: NDArray[Any], lead: int) -> tuple[np.uint64, NDArray[np.uint8]]:
    """The address of a copy of `content` that begins `lead` bytes into an array, and that array."""
    flat = np.ascontiguousarray(content).reshape(-1).view(np.uint8)
    memory = np.full(lead + flat.size + 1, GUARD, np.uint8)
    memory[lead : lead + flat.size] = flat
    return np.uint64(memory.ctypes.data + lead), memory
