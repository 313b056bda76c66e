"""`minibatch train RECIPE --out DIR`: run a recipe, or go on with a run that was stopped or killed."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minibatch.errors import require
from minibatch.tools.screen import print_json

if TYPE_CHECKING:
    from minibatch.train.running import Outcome


def train(
    recipe: Annotated[str, typer.Argument(help="Which recipe, such as digits.")],
    out: Annotated[Path, typer.Option(help="Folder of the run: data, ledger, checkpoints, result.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in DIR, from its newest checkpoint.")
    ] = False,
    minibatch_size: Annotated[int | None, typer.Option(help="Samples per step.")] = None,
    microbatch_size: Annotated[
        int | None, typer.Option(help="Samples in the model at once; changes results by rounding only.")
    ] = None,
    max_samples: Annotated[int | None, typer.Option(help="Nominal time to train to, in samples.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of order, first weights and noise.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets (default: DIR/data).")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves to DIR/tensorboard.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress line.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
) -> None:
    """Run a recipe, or resume it: the bits it ends with do not depend on where it was interrupted.

    Ctrl-C and SIGTERM finish the step and save; the exit code is then 130 or 143.
    """
    for module in ("torch", "safetensors"):
        require(module, "train", "training")
    from minibatch.train.progress import ProgressLine, Reporter, Several, TensorBoard
    from minibatch.train.running import run_recipe
    from minibatch.train.stopping import EXIT_CODES, StopBetweenSteps

    given = {
        "minibatch_size": minibatch_size,
        "microbatch_size": microbatch_size,
        "max_samples": max_samples,
        "seed": seed,
    }
    reporters: list[Reporter] = [] if quiet else [ProgressLine()]
    if tensorboard:
        reporters.append(TensorBoard(out / "tensorboard"))
    begun = time.monotonic()
    with StopBetweenSteps() as stop:
        outcome = run_recipe(
            recipe,
            out,
            options={name: value for name, value in given.items() if value is not None},
            resume=resume,
            data=data,
            reporter=Several(*reporters),
            callbacks=[stop],
        )
    if outcome.stopped is not None:
        where = f"--data {data} " if data is not None else ""
        typer.echo(
            f"stopped by {outcome.stopped} after step {outcome.step:,} (nominal time {outcome.nominal_time:,}), saved "
            f"in {outcome.checkpoint}; go on with: minibatch train {recipe} --out {out} {where}--resume",
            err=True,
        )
        raise typer.Exit(EXIT_CODES[stop.signal] if stop.signal is not None else 1)
    seconds = time.monotonic() - begun
    if as_json:
        print_json(as_document(recipe, out, outcome, seconds))
    else:
        print_result(recipe, out, outcome, seconds)


def as_document(recipe: str, out: Path, outcome: "Outcome", seconds: float) -> dict[str, Any]:
    """The result of a finished run for JSON."""
    return {
        "recipe": recipe,
        "out": str(out),
        "steps": outcome.step,
        "samples": outcome.nominal_time,
        "validation": dict(outcome.validation),
        "parameters_digest": outcome.parameters_digest,
        "checkpoint": str(outcome.checkpoint),
        "seconds": seconds,
    }


def print_result(recipe: str, out: Path, outcome: "Outcome", seconds: float) -> None:
    """The closing table of a finished run."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{recipe}: {out}", title_justify="left", show_header=False)
    table.add_row("steps", f"{outcome.step:,}")
    table.add_row("samples", f"{outcome.nominal_time:,}")
    for name, value in outcome.validation.items():
        table.add_row(f"held out: {name}", "no samples" if value is None else f"{value:.5g}")
    table.add_row("parameters", outcome.parameters_digest)
    table.add_row("checkpoint", str(outcome.checkpoint))
    table.add_row("time", f"{seconds:.1f} s")
    Console().print(table)
