"""Plain twins of `minibatch.ragged` and `sparse`: sequences are Python lists, sparse vectors lists of pairs."""

from collections.abc import Sequence
from typing import Any


def width(rows: Sequence[Sequence[Any]], multiple_of: int = 1) -> int:
    """The length of the longest row, rounded up."""
    longest = max(map(len, rows), default=0)
    while longest % multiple_of:
        longest += 1
    return longest


def padded(rows: Sequence[Sequence[Any]], value: Any, multiple_of: int = 1) -> list[list[Any]]:
    """Every row with `value` behind its end."""
    return [[*row, *[value] * (width(rows, multiple_of) - len(row))] for row in rows]


def mask(rows: Sequence[Sequence[Any]], multiple_of: int = 1) -> list[list[bool]]:
    """Where `padded` has values."""
    return [[place < len(row) for place in range(width(rows, multiple_of))] for row in rows]


def padded_nested(rows: Sequence[Sequence[Sequence[Any]]], value: Any, multiple_of: int = 1) -> list[list[list[Any]]]:
    """Every row of rows as one cuboid: the inner width is that of all inner rows together."""
    inner = width([each for row in rows for each in row])
    filled = [[[*each, *[value] * (inner - len(each))] for each in row] for row in rows]
    return [[*row, *[[value] * inner] * (width(rows, multiple_of) - len(row))] for row in filled]


def mask_nested(rows: Sequence[Sequence[Sequence[Any]]], multiple_of: int = 1) -> list[list[list[bool]]]:
    """Where `padded_nested` has values."""
    return padded_nested([[[True] * len(each) for each in row] for row in rows], False, multiple_of)


def dense(rows: Sequence[Sequence[tuple[int, Any]]], size: int, zero: Any) -> list[list[Any]]:
    """Sparse vectors, pairs of index and value, in full: what stands twice at one index is added up."""
    out = [[zero] * size for _ in rows]
    for row, pairs in zip(out, rows, strict=True):
        for index, value in pairs:
            row[index] = row[index] or value if isinstance(zero, bool) else row[index] + value
    return out
