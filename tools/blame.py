"""`minibatch blame RUN STEP`: the samples of a step by their share of the loss and by the norm of their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from minibatch.tools import show, show_images
from minibatch.tools.past import Data, Json, Run, asked_steps, interval_text, labels_of, number_text, open_past
from minibatch.tools.screen import counted, plain_table, print_json, screen

if TYPE_CHECKING:
    from minibatch import Dataset
    from minibatch.train.travel import Blame, Spike, Suspect

SHEET_IMAGES = 36


def blame(
    run: Run,
    step: Annotated[
        str, typer.Argument(metavar="STEP", help="A step, or A:B for the worst of A … B - 1.", show_default=False)
    ],
    by: Annotated[Literal["loss", "gradient"], typer.Option(help="What samples are ranked by.")] = "loss",
    count: Annotated[int, typer.Option(min=1, help="Show so many samples.")] = 10,
    gradients: Annotated[
        bool, typer.Option("--gradients/--no-gradients", help="Compute the gradient norm of every sample.")
    ] = True,
    images: Annotated[Path | None, typer.Option(metavar="OUT.png", help="Draw the worst samples on a sheet.")] = None,
    field: Annotated[str | None, typer.Option(help="The field with the images, if there are several.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Rank the samples of STEP by what they add to the loss, or by the norm of their own gradient.

    Of several steps the one that stands out most from those before it is taken. Exit code 1 if the step came out
    otherwise than in the ledger, so that the ranking is that of other weights.
    """
    first, stop = asked_steps(step)
    past = open_past(run, data)
    from minibatch.train import travel

    spike = None
    if stop > first + 1:
        spike = travel.worst_step(past, first, stop)
        first = spike.step
    found = travel.blame(past, first, by=by, gradients=gradients)
    with past.source(first) as source:
        datasets = {axis.stream: axis.source.dataset for axis in travel.axes_of(source)}
        if images is not None:
            drawn = draw(found.suspects[:SHEET_IMAGES], datasets, field, images)
            screen(stderr=True).print(Text(f"{counted(drawn, 'image')} in {images}"), soft_wrap=True)
        shown = found.suspects if as_json else found.suspects[:count]
        labels = [labels_of(datasets[each.stream], [each.row]) for each in shown]
    if as_json:
        print_json(as_document(found, spike, labels))
    else:
        print_blame(found, spike, labels, screen())
    if not found.replay.exact:
        raise typer.Exit(1)


def as_document(found: Blame, spike: Spike | None, labels: Sequence[tuple[str | None, list[str]]]) -> dict[str, Any]:
    """The ranking for JSON."""
    line = found.replay.line
    return {
        "step": line.step,
        "t0": line.t0,
        "t1": line.t1,
        "by": found.by,
        "spike": None if spike is None else {**vars(spike), "times": spike.times},
        "exact": found.replay.exact,
        "gradients": None if found.way is None else {"way": found.way, "error": found.error},
        "samples": [
            {**vars(each), **({} if name is None else {name: texts[0]})}
            for each, (name, texts) in zip(found.suspects, labels, strict=True)
        ],
    }


def print_blame(
    found: Blame, spike: Spike | None, labels: Sequence[tuple[str | None, list[str]]], console: Console
) -> None:
    """The step, and a table of its worst samples."""
    line = found.replay.line
    if spike is not None:
        console.print(
            Text(
                f"the {spike.what} of step {spike.step:,} is {spike.value:.4g}, {spike.times:.3g} times what is usual "
                "before it"
            ),
            soft_wrap=True,
        )
    title = f"step {line.step:,}: nominal time {interval_text(line.t0, line.t1)}, {counted(line.samples, 'sample')}"
    numbers = f"loss {number_text(line.total_loss)}, gradient norm {number_text(line.grad_norm)}"
    console.print(Text(f"{title}, {numbers}", style="bold"), soft_wrap=True)
    label = next((name for name, _ in labels if name is not None), None)
    norms = found.way is not None
    titles = ["row", "shard", "index", *([] if label is None else [label]), "adds to loss", "share"]
    titles += ["gradient norm"] * norms
    table = plain_table(*titles, right=("row", "index", "adds to loss", "share", "gradient norm"))
    for each, (_, texts) in zip(found.suspects, labels, strict=False):
        cells = [f"{each.row:,}", each.shard, f"{each.place:,}", *([] if label is None else texts)]
        cells += [number_text(each.loss), f"{each.share:.1%}"] + [number_text(each.gradient_norm)] * norms
        table.add_row(*map(Text, cells))
    console.print(table)
    if len(found.suspects) > len(labels):
        console.print(f"… and {counted(len(found.suspects) - len(labels), 'sample')} more (--count, --json)")
    if norms:
        console.print(f"gradients {found.way}; their sum is that of the step to {found.error:.1g}")
    if not found.replay.exact:
        console.print(Text("the step did not come out with the bits of the ledger: see minibatch replay", style="red"))


def draw(suspects: Sequence[Suspect], datasets: dict[str | None, Dataset], field: str | None, path: Path) -> int:
    """Draw the images of samples on a sheet, the worst first; how many they are."""
    pictures, captions = [], []
    for rank, each in enumerate(suspects, 1):
        dataset, row = datasets[each.stream], np.array([each.row])
        name = show.image_field(dataset, row, field)
        pictures.append(show.pixels_of_row(dataset.read(row, [name])[name][0], name, each.row))
        captions.append(f"{rank}: {each.row} {labels_of(dataset, row)[1][0]} {each.share:.0%}")
    show_images.write_sheet(path, pictures, captions)
    return len(pictures)
