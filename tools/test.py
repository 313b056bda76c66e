"""`minibatch test RUN`: exact values of a run's terms and metrics on held-out or other data; nothing is trained."""

# ruff: noqa: PT028 - `test` is the command, and no test

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from minibatch.tools.run_options import Averaged, Checkpoint, Data, Json, Keep, Run, require_training
from minibatch.tools.screen import print_json

if TYPE_CHECKING:
    from minibatch.train.testing import Measurement


def test(
    run: Run,
    checkpoint: Checkpoint = "newest",
    averaged: Averaged = None,
    data: Data = None,
    multiview: Annotated[
        Literal["corners", "grid", "recipe"] | None,
        typer.Option(
            help="Average over several views of each sample: corners and centre of images, also mirrored (10), or a "
            "grid of 3 x 3 (9), both with --crop; or as the recipe's `multiview` says."
        ),
    ] = None,
    crop: Annotated[int | None, typer.Option(help="Height and width of a view.")] = None,
    field: Annotated[str, typer.Option(help="The field with the images.")] = "image",
    average: Annotated[
        Literal["softmax", "sigmoid", "mean"],
        typer.Option(help="What is averaged over views: probabilities of classes, of labels, or the outputs."),
    ] = "softmax",
    stream: Annotated[str | None, typer.Option(help="Of a joint model: whose terms to measure.")] = None,
    test_out: Annotated[
        Path | None, typer.Option(help="Write row and outputs of every sample to this folder, as a data set.")
    ] = None,
    keep: Keep = None,
    minibatch_size: Annotated[
        int | None, typer.Option(help="Samples in the model at once (default: as the run validates).", min=1)
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a run's model on its validation data, or on another data set: every term and metric, exactly.

    The run's folder stays as it is; it may still be training.
    """
    require_training("testing")
    from minibatch.train.multiview import MultiView, views_named
    from minibatch.train.testing import measure_run

    if (multiview in ("corners", "grid")) != (crop is not None):
        raise typer.BadParameter("the views and their size belong together", param_hint="--multiview, --crop")
    views: Any = multiview
    if multiview in ("corners", "grid") and crop is not None:
        crops = views_named(multiview, size=crop, field=field)
        views = lambda inputs: MultiView(views=crops, inputs=inputs, average=average)  # noqa: E731

    begun = time.monotonic()
    tested = measure_run(
        run,
        which=checkpoint,
        averaged=averaged,
        data=data,
        views=views,
        stream=stream,
        predictions=test_out,
        fields=keep or (),
        minibatch_size=minibatch_size,
    )
    seconds = time.monotonic() - begun
    if as_json:
        print_json(as_document(run, tested, seconds))
    else:
        print_values(run, tested, seconds)


def as_document(run: Path, tested: "Measurement", seconds: float) -> dict[str, Any]:
    """What was measured, for JSON: values, and the numerators and denominators that they are made of."""
    validation = tested.validation
    return {
        "run": str(run),
        "checkpoint": str(tested.saved.path),
        "step": validation.step,
        "nominal_time": validation.nominal_time,
        "samples": validation.samples,
        "views": tested.views,
        "values": dict(validation),
        "pairs": {name: list(pair) for name, pair in validation.pairs.items()},
        "seconds": seconds,
    }


def print_values(run: Path, tested: "Measurement", seconds: float) -> None:
    """The values as a table."""
    from rich.console import Console
    from rich.table import Table

    validation = tested.validation
    table = Table(title=f"{run}, {tested.saved.path.name}", title_justify="left", show_header=False)
    for name, value in validation.items():
        table.add_row(name, "no samples" if value is None else f"{value:.6g}")
    table.add_row("samples", f"{validation.samples:,}" + (f" in {tested.views} views" if tested.views > 1 else ""))
    table.add_row("weights", f"after step {validation.step:,}, at nominal time {validation.nominal_time:,}")
    table.add_row("time", f"{seconds:.1f} s")
    Console().print(table)
