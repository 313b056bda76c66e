"""What every command prints: one JSON document, or lines and tables that fit the screen, 80 columns without one."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from rich.console import Console
from rich.table import Table


def print_json(document: Any) -> None:
    """Print `document` as one JSON document on stdout; NaN and infinities, which JSON has not, become text.

    >>> print_json({"least": float("-inf")})
    {
     "least": "-inf"
    }
    """
    text = json.dumps(finite(document), indent=1, ensure_ascii=not speaks_unicode(), allow_nan=False)
    sys.stdout.write(text + "\n")


def finite(document: Any) -> Any:
    """`document` with numbers that JSON has not replaced by their names."""
    if isinstance(document, float) and not math.isfinite(document):
        return str(document)
    if isinstance(document, dict):
        return {str(key): finite(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [finite(value) for value in document]
    return document


def speaks_unicode() -> bool:
    """Whether stdout can take any character."""
    return (sys.stdout.encoding or "ascii").lower().replace("-", "").startswith("utf")


def screen(*, stderr: bool = False) -> Console:
    """The terminal; where there is none, 80 columns (or $COLUMNS) without colours."""
    return Console(highlight=False, stderr=stderr)


def plain_table(*titles: str, right: tuple[str, ...] = ()) -> Table:
    """A table without lines; the columns in `right` are numbers."""
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right" if title in right else "left", no_wrap=True, overflow="ellipsis")
    return table


def size_text(size: float) -> str:
    """Bytes in the unit that suits them.

    >>> size_text(812), size_text(7_840_000), size_text(25_000_000_000)
    ('812 bytes', '7.8 MB', '25.0 GB')
    """
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= 0.9995 * factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size:,.0f} bytes"


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "row"), counted(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"
