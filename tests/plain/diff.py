"""The slow twin of `minibatch diff`: which rows of two columns differ, value by value, in plain Python."""

import struct
from typing import Any

import numpy as np


def plain_rows(column: Any) -> list[Any]:
    """The rows of a column as nested Python lists; numbers as their bits."""
    if hasattr(column, "indices"):  # sparse
        return [[bits(part) for part in column[place]] for place in range(len(column))]
    return [bits(column[place]) for place in range(len(column))]


def bits(value: Any) -> Any:
    """A value as something that is equal only to what has the same bits."""
    if isinstance(value, np.floating):
        return struct.pack("d", value), bool(np.isnan(value)) and value.tobytes()
    if isinstance(value, str | bytes | int | np.generic):
        return value
    return [bits(each) for each in value]


def differing_rows(one: Any, two: Any) -> list[int]:
    """The places at which the columns differ, ascending."""
    pairs = zip(plain_rows(one), plain_rows(two), strict=True)
    return [place for place, (mine, other) in enumerate(pairs) if mine != other]
