"""`minibatch when DATA ROW`: at which nominal times a row is seen, the inverse of `minibatch at`, in closed form."""

from __future__ import annotations

from typing import Annotated

import typer

from minibatch.tools.at import (
    Directory,
    Json,
    LengthField,
    Seed,
    Sequences,
    Shuffle,
    WindowRows,
    chosen_order,
    open_axis,
    report,
    sweep_length,
    tell,
)


def when(
    directory: Directory,
    row: Annotated[int, typer.Argument(metavar="ROW", min=0, help="The number of a row.", show_default=False)],
    sweep: Annotated[int | None, typer.Option(min=0, help="The sweep to look in (default: 0).")] = None,
    sweeps: Annotated[int | None, typer.Option(min=1, help="Look in the first SWEEPS sweeps.")] = None,
    seed: Seed = 0,
    shuffle: Shuffle = None,
    window: WindowRows = None,
    sequences: Sequences = "whole",
    length_field: LengthField = None,
    as_json: Json = False,
) -> None:
    """At which nominal time a sweep shows ROW (a sequence: its first element), and at which place of the sweep."""
    if sweep is not None and sweeps is not None:
        raise typer.BadParameter("give --sweep or --sweeps, not both")
    first = sweep or 0
    last = first if sweeps is None else sweeps - 1
    with open_axis(directory, seed, chosen_order(shuffle, window), sequences, length_field) as source:
        length = sweep_length(source)
        records = ((source.when(row, sweep=each), each) for each in range(first, last + 1))
        most = {
            "time": (last + 1) * length - 1,
            "sweep": last,
            "place": length - 1,
            "row": len(source.dataset) - 1,
        }
        tell(source)
        report(((time, each, time % length, row) for time, each in records), most, as_json=as_json)
