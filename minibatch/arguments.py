"""Arguments that users give, checked: an error says what was given and what was expected."""

import operator
from typing import Any

import numpy as np


def checked_integer(value: Any, what: str, *, least: int, most: int = 2**62) -> int:
    """`value` as a Python integer in [least, most], or the error that names `what`; a bool is not an integer.

    >>> checked_integer(np.int64(5), "k", least=1)
    5
    """
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{what} must be an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be an integer, got {value!r} of type {type(value).__name__}") from None
    if number < least:
        raise ValueError(f"{what} must be at least {least}, got {number}")
    if number > most:
        raise ValueError(f"{what} must be at most {most}, got {number}")
    return number
