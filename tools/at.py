"""`minibatch at DIR T` and `minibatch when DIR ROW`: the axis itself, in both directions, without reading a row."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from minibatch import MinibatchSource, Window

BLOCK = 65_536  # places computed at a time, so that any count runs in little memory

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The data set.", show_default=False)]
Seed = Annotated[int, typer.Option(help="The seed of the order.")]
WindowRows = Annotated[
    int | None,
    typer.Option("--window", min=1, metavar="ROWS", help="The order of a Window of ROWS rows, not the full one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def at(
    directory: Directory,
    nominal_time: Annotated[int, typer.Argument(metavar="T", min=0, help="The nominal time.", show_default=False)],
    count: Annotated[int, typer.Option(min=1, help="How many times, from T on.")] = 1,
    seed: Seed = 0,
    window: WindowRows = None,
    as_json: Json = False,
) -> None:
    """Which rows stand at nominal time T, and in which sweep and at which place of it that is."""
    with open_axis(directory, seed, window) as source:
        rows, last = len(source.dataset), nominal_time + count - 1
        most = {"time": last, "sweep": last // rows, "place": rows - 1, "row": rows - 1}
        tell(source)
        report(records_at(source, nominal_time, count), most, as_json=as_json)


def when(
    directory: Directory,
    row: Annotated[int, typer.Argument(metavar="ROW", min=0, help="The number of a row.", show_default=False)],
    sweep: Annotated[int | None, typer.Option(min=0, help="The sweep to look in (default: 0).")] = None,
    sweeps: Annotated[int | None, typer.Option(min=1, help="Look in the first SWEEPS sweeps.")] = None,
    seed: Seed = 0,
    window: WindowRows = None,
    as_json: Json = False,
) -> None:
    """At which nominal time a sweep shows ROW, and at which place of the sweep that is."""
    if sweep is not None and sweeps is not None:
        raise typer.BadParameter("give --sweep or --sweeps, not both")
    first = sweep or 0
    last = first if sweeps is None else sweeps - 1
    with open_axis(directory, seed, window) as source:
        rows = len(source.dataset)
        records = ((source.when(row, sweep=each), each) for each in range(first, last + 1))
        most = {"time": (last + 1) * rows - 1, "sweep": last, "place": rows - 1, "row": rows - 1}
        tell(source)
        report(((time, each, time % rows, row) for time, each in records), most, as_json=as_json)


def open_axis(directory: Path, seed: int, window: int | None) -> MinibatchSource:
    """The source whose axis is asked about: full order, or that of a window."""
    return MinibatchSource(directory, seed=seed, shuffle="full" if window is None else Window(rows=window))


def tell(source: MinibatchSource) -> None:
    """Say on stderr of which axis the answer is: another seed or order has other rows."""
    typer.echo(f"seed {source.seed}, order {source.order.describe()}", err=True)


def records_at(source: MinibatchSource, start: int, count: int) -> Iterator[tuple[int, ...]]:
    """(time, sweep, place, row) of `count` nominal times from `start` on."""
    for begin in range(start, start + count, BLOCK):
        for time, row in enumerate(source.at(begin, min(BLOCK, start + count - begin)).tolist(), start=begin):
            yield time, *divmod(time, len(source.dataset)), row


def report(records: Iterable[tuple[int, ...]], most: dict[str, int], *, as_json: bool) -> None:
    """Print the records under the titles in `most`, whose values, the largest that can come, set the widths."""
    if as_json:
        print(json.dumps([dict(zip(most, record, strict=True)) for record in records]))
        return
    widths = [max(len(title), len(str(value))) for title, value in most.items()]
    for record in itertools.chain([tuple(most)], records):
        print("  ".join(str(value).rjust(width) for value, width in zip(record, widths, strict=True)))
