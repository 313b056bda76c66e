"""How everything is measured: two things in turns (A B A B …), and of their ratios the median with its spread.

Absolute figures of a shared machine mean little; ratios of neighbouring runs mean more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PAIRS = 7


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison: both figures (medians), and the ratio ours / theirs of the pairs with its least and most.

    `theirs` and the ratios are 0 where there is nothing to compare with; then `least_ours` and `most_ours` tell the
    spread.
    """

    name: str
    unit: str
    ours: float
    least_ours: float
    most_ours: float
    theirs: float = 0.0
    against: str = ""
    ratio: float = 0.0
    least: float = 0.0
    most: float = 0.0
    goal: str = ""
    detail: str = ""  # what does not fit a screen of 80 columns


def compare(
    ours: Callable[[], float],
    theirs: Callable[[], float],
    *,
    name: str,
    unit: str,
    against: str,
    goal: str = "",
    detail: str = "",
    pairs: int = PAIRS,
) -> Row:
    """Figures of two functions that each do their work once and return it, measured in turns after one run of each."""
    ours(), theirs()
    measured = [(ours(), theirs()) for _ in range(pairs)]
    return row_of(measured, name=name, unit=unit, against=against, goal=goal, detail=detail)


def row_of(
    measured: list[tuple[float, float]], *, name: str, unit: str, against: str, goal: str = "", detail: str = ""
) -> Row:
    """The comparison that pairs (ours, theirs) amount to.

    >>> row_of([(2.0, 1.0), (3.0, 1.0), (8.0, 2.0)], name="x", unit="rows/s", against="y").ratio
    3.0
    """
    mine = sorted(a for a, _ in measured)
    ratios = sorted(a / b for a, b in measured)
    return Row(
        name=name,
        unit=unit,
        ours=float(np.median(mine)),
        least_ours=mine[0],
        most_ours=mine[-1],
        theirs=float(np.median([b for _, b in measured])),
        against=against,
        ratio=float(np.median(ratios)),
        least=ratios[0],
        most=ratios[-1],
        goal=goal,
        detail=detail,
    )


def rate_text(rate: float) -> str:
    """A rate in the unit that suits it.

    >>> rate_text(12_883_375), rate_text(154_429), rate_text(4_180)
    ('12.9 M', '154 k', '4.18 k')
    """
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if rate >= 0.9995 * factor:
            value = rate / factor
            return f"{value:,.0f} {unit}" if value >= 99.95 else f"{value:.3g} {unit}"
    return f"{rate:.3g}"


def spread_text(row: Row) -> str:
    """The median ratio, and its least and most; of a figure without another to compare with, its own."""
    if not row.against:
        return f"({row.least_ours:.2f}–{row.most_ours:.2f})" if row.least_ours < row.most_ours else ""
    digits = 2 if row.ratio < 99.5 else 0
    return f"{row.ratio:.{digits}f} ({row.least:.{digits}f}–{row.most:.{digits}f})"
