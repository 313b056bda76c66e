"""`minibatch who RUN STEP`: which rows were in a step, or in which steps a row was; nothing was recorded for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from minibatch.tools.past import Data, Json, Run, asked_steps, interval_text, labels_of, open_past
from minibatch.tools.screen import counted, plain_table, print_json, screen

if TYPE_CHECKING:
    from minibatch.train.travel import Occurrence, StepRows

Row = Annotated[int | None, typer.Option(min=0, help="Say in which steps this row was, instead.")]


def who(
    run: Run,
    step: Annotated[
        str | None, typer.Argument(metavar="STEP", help="A step, or A:B for A … B - 1.", show_default=False)
    ] = None,
    row: Row = None,
    stream: Annotated[str | None, typer.Option(help="Of a joint run: the source that ROW is of.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Which rows were in STEP: nominal time, shard and number in it, sweep. Or with --row, in which steps a row was.

    Computed from the step's interval of nominal time and the seed: a run needs no checkpoint for it.
    """
    if (step is None) == (row is None):
        raise typer.BadParameter("give a STEP, or --row ROW")
    past = open_past(run, data)
    from minibatch.train import travel

    if row is not None:
        found = list(travel.when_seen(past, row, stream=stream))
        if as_json:
            print_json([vars(each) for each in found])
        else:
            print_occurrences(row, found, screen())
        return
    assert step is not None
    first, stop = asked_steps(step)
    documents = []
    with past.source(first) as source:
        datasets = {axis.stream: axis.source.dataset for axis in travel.axes_of(source)}
        for each in travel.who(past, first, stop):
            name, labels = labels_of(datasets[each.stream], each.rows)
            if as_json:
                documents.append(as_document(each, name, labels))
            else:
                print_step(each, name, labels, screen())
    if as_json:
        print_json(documents)


def as_document(found: StepRows, label: str | None, labels: Sequence[str]) -> dict[str, Any]:
    """The rows of a step for JSON."""
    columns: dict[str, Sequence[Any]] = {
        "time": found.times.tolist(),
        "row": found.rows.tolist(),
        "shard": found.shards,
        "index": found.places.tolist(),
    }
    if found.sweeps is not None:
        columns["sweep"] = found.sweeps.tolist()
    if found.elements is not None:
        columns["elements"] = found.elements.tolist()
    if label is not None:
        columns[label] = labels
    columns["left_out"] = [why or None for why in found.left_out]
    line = found.line
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    where = {"step": line.step, "t0": line.t0, "t1": line.t1, "samples": line.samples}
    return where | ({} if found.stream is None else {"stream": found.stream}) | {"rows": rows}


def print_step(found: StepRows, label: str | None, labels: Sequence[str], console: Console) -> None:
    """A line about the step, and a table of its rows."""
    line = found.line
    stream = "" if found.stream is None else f", source {found.stream}"
    title = f"step {line.step:,}{stream}: nominal time {interval_text(line.t0, line.t1)}"
    left = sum(bool(why) for why in found.left_out)
    holes = f", {counted(left, 'place')} left out" if left else ""
    console.print(Text(f"{title}, {counted(int(found.present.sum()), 'row')}{holes}", style="bold"), soft_wrap=True)
    titles = ["time", "row", "shard", "index"]
    titles += ["sweep"] * (found.sweeps is not None) + ["elements"] * (found.elements is not None)
    titles += ([] if label is None else [label]) + ["left out"] * bool(left)
    table = plain_table(*titles, right=("time", "row", "index", "sweep", "elements"))
    for i, row in enumerate(found.rows.tolist()):
        cells = [f"{found.times[i]:,}", f"{row:,}", found.shards[i], f"{found.places[i]:,}"]
        if found.sweeps is not None:
            cells.append(f"{found.sweeps[i]:,}")
        if found.elements is not None:
            cells.append(f"{found.elements[i]:,}")
        if label is not None:
            cells.append(labels[i])
        if left:
            cells.append(found.left_out[i])
        table.add_row(*map(Text, cells))
    console.print(table)


def print_occurrences(row: int, found: Sequence[Occurrence], console: Console) -> None:
    """A table of the steps that a row was in."""
    if not found:
        console.print(f"row {row:,} was in no step")
        return
    table = plain_table("step", "time", "sweep", "left out", right=("step", "time", "sweep"))
    for each in found:
        step = "-" if each.step is None else f"{each.step:,}"
        table.add_row(step, f"{each.time:,}", f"{each.sweep:,}", each.left_out)
    console.print(Text(f"row {row:,}", style="bold"))
    console.print(table)
