"""`minibatch at DATA T`: which rows stand at a nominal time, computed from the axis alone, without reading a row."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from minibatch import MinibatchSource, Window
from minibatch.tools.screen import print_json

BLOCK = 65_536  # places computed at a time, so that any count runs in little memory
SHUFFLES = ("full", "none")
COUNTED = ("whole", "rows")

Directory = Annotated[Path, typer.Argument(metavar="DATA", help="The data set.", show_default=False)]
Seed = Annotated[int, typer.Option(help="The seed of the order.")]
Shuffle = Annotated[str | None, typer.Option(help="The order: full (default) or none.", show_default=False)]
WindowRows = Annotated[
    int | None,
    typer.Option("--window", min=1, metavar="ROWS", help="The order of a Window of ROWS rows, not the full one."),
]
Sequences = Annotated[
    str, typer.Option(help="What time counts where rows are sequences: whole (their elements) or rows.")
]
LengthField = Annotated[
    str | None, typer.Option(help="The list field whose elements time counts (default: the longest).")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def at(
    directory: Directory,
    nominal_time: Annotated[int, typer.Argument(metavar="T", min=0, help="The nominal time.", show_default=False)],
    count: Annotated[int, typer.Option(min=1, help="How many times, from T on.")] = 1,
    seed: Seed = 0,
    shuffle: Shuffle = None,
    window: WindowRows = None,
    sequences: Sequences = "whole",
    length_field: LengthField = None,
    as_json: Json = False,
) -> None:
    """Which rows stand at nominal time T, and in which sweep and at which place of it that is."""
    with open_axis(directory, seed, chosen_order(shuffle, window), sequences, length_field) as source:
        last, length = nominal_time + count - 1, sweep_length(source)
        most = {"time": last, "sweep": last // length, "place": length - 1, "row": len(source.dataset) - 1}
        tell(source)
        report(records_at(source, nominal_time, count, length), most, as_json=as_json)


def open_axis(
    directory: Path, seed: int, order: Literal["full"] | Window | None, sequences: str, length_field: str | None
) -> MinibatchSource:
    """The source whose axis is asked about."""
    if sequences not in COUNTED:
        raise typer.BadParameter(f"--sequences {sequences!r}: expected {' or '.join(COUNTED)}")
    counted: Literal["whole", "rows"] = "whole" if sequences == "whole" else "rows"
    return MinibatchSource(directory, seed=seed, shuffle=order, sequences=counted, length_field=length_field)


def sweep_length(source: MinibatchSource) -> int:
    """How long a sweep is: when the row that comes first in the second one is seen there."""
    first = int(source.order.rows_at(len(source.dataset), 1)[0])
    return source.when(first, sweep=1)


def chosen_order(shuffle: str | None, window: int | None) -> Literal["full"] | Window | None:
    """What `shuffle=` of a source must be for the options of a command line."""
    if shuffle is not None and shuffle not in SHUFFLES:
        raise typer.BadParameter(f"--shuffle {shuffle!r}: expected {' or '.join(SHUFFLES)}; for a window --window ROWS")
    if window is not None:
        if shuffle is not None:
            raise typer.BadParameter("give --shuffle or --window, not both")
        return Window(rows=window)
    return None if shuffle == "none" else "full"


def tell(source: MinibatchSource) -> None:
    """Say on stderr of which axis the answer is: another seed or order has other rows."""
    typer.echo(f"seed {source.seed}, order {source.order.describe()}", err=True)


def records_at(source: MinibatchSource, start: int, count: int, length: int) -> Iterator[tuple[int, ...]]:
    """(time, sweep, place, row) of `count` nominal times from `start` on; a sweep takes `length` of them."""
    for begin in range(start, start + count, BLOCK):
        for time, row in enumerate(source.at(begin, min(BLOCK, start + count - begin)).tolist(), start=begin):
            yield time, *divmod(time, length), row


def report(records: Iterable[tuple[int, ...]], most: dict[str, int], *, as_json: bool) -> None:
    """Print the records under the titles in `most`, whose values, the largest that can come, set the widths."""
    if as_json:
        print_json([dict(zip(most, record, strict=True)) for record in records])
        return
    widths = [max(len(title), len(str(value))) for title, value in most.items()]
    for record in itertools.chain([tuple(most)], records):
        print("  ".join(str(value).rjust(width) for value, width in zip(record, widths, strict=True)))
