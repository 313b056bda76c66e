"""What a benchmark of the engine found, as a table: on the screen, as markdown, as JSON.

`minibatch bench` collects these in its report; each `python -m minibatch.tools.bench_…` prints its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.text import Text

from minibatch.tools.screen import plain_table


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of texts under titles; titles of numbers stand in `right`.

    notes: what must be known to read it. figures: the numbers behind the texts, for JSON, one mapping a row.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    right: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    figures: Sequence[Mapping[str, Any]] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Some figures in short: their median, least and most."""

    median: float
    least: float
    most: float

    def text(self, digits: int = 1) -> str:
        """The median with its spread.

        >>> spread_of([1.0, 2.0, 9.0]).text()
        '2.0 (1.0–9.0)'
        """
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f}–{self.most:,.{digits}f})"


def spread_of(figures: Sequence[float]) -> Spread:
    """Median, least and most of some figures.

    >>> spread_of([3.0, 1.0, 2.0]).median
    2.0
    """
    return Spread(median=statistics.median(figures), least=min(figures), most=max(figures))


def in_turns(loops: Sequence[Callable[[int], None]], steps: int, turn: int, clock: Callable[[], float]) -> list[float]:
    """Seconds a step of each loop, by `clock`: the median over turns of `turn` steps each, taken one after the other.

    What else the machine does meanwhile hits all of them; a turn that met a stall does not count.

    >>> ticks = iter(range(100))
    >>> in_turns([lambda steps: None, lambda steps: None], 4, 2, lambda: next(ticks))
    [0.5, 0.5]
    """
    seconds: list[list[float]] = [[] for _ in loops]
    for done in range(0, steps, turn):
        now = min(turn, steps - done)
        for number, loop in enumerate(loops):
            begun = clock()
            loop(now)
            seconds[number].append((clock() - begun) / now)
    return [statistics.median(mine) for mine in seconds]


def print_table(table: Table, console: Console) -> None:
    """The table with its title and notes; on a narrow screen columns of words take several lines."""
    shown = plain_table(*table.columns, right=table.right)
    shown.title, shown.title_justify, shown.title_style = f"\n{table.title}", "left", "bold"
    for name, column in zip(table.columns, shown.columns, strict=True):
        column.no_wrap = name in table.right
    for row in table.rows:
        shown.add_row(*map(Text, row))
    console.print(shown)
    for note in table.notes:
        console.print(Text(note), soft_wrap=False)


def markdown(table: Table) -> Iterator[str]:
    """The lines of the table in a file of benchmarks/.

    >>> table = Table(title="A", columns=("what", "µs"), right=("µs",), rows=[("a|b", "2")], notes=("One.",))
    >>> print("\\n".join(markdown(table)))
    ## A
    <BLANKLINE>
    | what | µs |
    |---|--:|
    | a/b | 2 |
    <BLANKLINE>
    One.
    """
    yield f"## {table.title}"
    yield ""
    yield f"| {' | '.join(table.columns)} |"
    yield f"|{'|'.join('--:' if name in table.right else '---' for name in table.columns)}|"
    for row in table.rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
    for note in table.notes:
        yield ""
        yield note


def document(table: Table) -> dict[str, Any]:
    """The table for JSON: its figures where it has them, else its texts."""
    rows = list(table.figures) or [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return {"title": table.title, "rows": [dict(row) for row in rows], "notes": list(table.notes)}
