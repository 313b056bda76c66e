"""Plain twin of `minibatch.kernels.gather` and `lists`: chunks are sequences of rows, a row is found by counting."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def locate(row: int, chunk_rows: Sequence[int]) -> tuple[int, int]:
    """The chunk that holds `row`, and its place in there; IndexError if none does."""
    if row >= 0:
        for chunk, rows in enumerate(chunk_rows):
            if row < rows:
                return chunk, row
            row -= rows
    raise IndexError(row)


def guesses(chunk_rows: Sequence[int], shift: int) -> list[int]:
    """For every bucket of 2^shift rows the chunk of its first row, and one more for the bucket behind the last."""
    total = sum(chunk_rows)
    firsts = [bucket << shift for bucket in range((total >> shift) + 2)]
    return [locate(row, chunk_rows)[0] if row < total else len(chunk_rows) - 1 for row in firsts]


def gather(rows: Sequence[int], chunks: Sequence[Any]) -> list[Any]:
    """The given rows of `chunks`, each a sequence of rows."""
    places = [locate(row, [len(chunk) for chunk in chunks]) for row in rows]
    return [chunks[chunk][place] for chunk, place in places]


def pack_bits(bits: NDArray[np.bool_], first_bit: int) -> NDArray[np.uint8]:
    """`bits` as Arrow stores them, the lowest of each byte first, behind `first_bit` bits that belong to others."""
    padded = [True] * first_bit + bits.reshape(-1).tolist()
    padded += [True] * (-len(padded) % 8)
    return np.array([sum(padded[i + k] << k for k in range(8)) for i in range(0, len(padded), 8)] or [255], np.uint8)


def laid_out(rows: Sequence[Sequence[Any]]) -> tuple[list[Any], list[int]]:
    """The elements of lists end to end, and where each list begins; one offset more than lists."""
    values: list[Any] = []
    offsets = [0]
    for row in rows:
        values.extend(row)
        offsets.append(len(values))
    return values, offsets


def padded(rows: Sequence[Sequence[Any]], filler: Any, width: int) -> list[list[Any]]:
    """Each list with `filler` behind it, up to `width` elements."""
    return [[*row, *[filler] * (width - len(row))] for row in rows]
