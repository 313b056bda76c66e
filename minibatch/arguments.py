"""Arguments that users give, checked: an error says what was given and what was expected."""

import math
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


def checked_number(
    value: Any, what: str, *, least: float | None = None, above: float | None = None, most: float = math.inf
) -> float:
    """`value` as a finite float, in [least, most] and more than `above`, or the error that names `what`.

    >>> checked_number(0.5, "missing", least=0, most=1)
    0.5
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{what} must be a number, got {value!r} of type {type(value).__name__}")
    number = float(value)
    fits = math.isfinite(number) and number <= most
    if not fits or (least is not None and number < least) or (above is not None and number <= above):
        bounds = [
            f"{sign} {bound:g}"
            for sign, bound in ((">=", least), (">", above), ("<=", most))
            if bound is not None and math.isfinite(bound)
        ]
        raise ValueError(f"{what} must be a finite number {' and '.join(bounds)}, got {number}".replace(" ,", ","))
    return number
