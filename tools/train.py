"""`minibatch train RECIPE --out DIR`: run a recipe, or go on with a run that was stopped or killed."""

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from minibatch.tools.run_options import require_training
from minibatch.tools.screen import print_json

if TYPE_CHECKING:
    from minibatch.train.loop import Callback
    from minibatch.train.progress import Reporter
    from minibatch.train.running import Outcome

Progress = Literal["line", "convnet", "mindspore", "none"]
MEASURED_EVERY = 5_000  # samples between measurements of the layers, for --progress convnet; chosen by taste


def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe by name (digits), or your own: module:function, path/to/file.py:function.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run: configuration, data, ledger, checkpoints, result.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in DIR, from its newest checkpoint; what was changed in the recipe since, or by "
            "--set, takes effect and is printed.",
        ),
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change an option of the recipe (learning_rate=0.1) or anything in the configuration it returns, by "
            "dotted path: log_every=10, terms.class.coefficient=0.5, schedules.0.then.rate=0.01, "
            "'schedules.0=Cosine(0.1, samples=50000)', 'save_every=Minutes(5)', clip_grad_norm=none. Again for more.",
        ),
    ] = None,
    minibatch_size: Annotated[int | None, typer.Option(help="Samples per step.")] = None,
    microbatch_size: Annotated[
        int | None, typer.Option(help="Samples in the model at once; changes results by rounding only.")
    ] = None,
    max_samples: Annotated[int | None, typer.Option(help="Nominal time to train to, in samples.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of order, first weights and noise.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|fetch",
            help="Folder of the data sets train and valid (default: DIR/data); or the raw data as they come, an "
            "archive, file or folder, which are converted into DIR/data first; or the word fetch, which downloads them "
            "before (a folder of that name is ./fetch). `minibatch recipes NAME` says what a recipe takes.",
        ),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the complete configuration as JSON, and train nothing.")
    ] = False,
    progress: Annotated[
        Progress,
        typer.Option(
            help="A line on stderr; the lines of cuda-convnet2 with the scales of all layers; those of MindSpore's "
            "LossMonitor, at each log point and epoch; none."
        ),
    ] = "line",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write curves to DIR/tensorboard.")] = False,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="Send curves to Weights & Biases, if that is installed.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="The same as --progress none.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
) -> None:
    """Run a recipe, or resume it: the bits it ends with do not depend on where it was interrupted.

    Ctrl-C and SIGTERM finish the step and save; a second Ctrl-C ends at once, and a resume goes on from the last
    checkpoint.

    Exit codes: 0 the run is finished; 1 it cannot go on (the error says why); 2 the command line makes no sense; 130
    stopped by Ctrl-C; 143 stopped by SIGTERM.
    """
    require_training("training")
    from minibatch.tools.recipe_data import made_ready
    from minibatch.train.running import run_recipe
    from minibatch.train.stopping import EXIT_CODES, StopBetweenSteps

    given = {
        "minibatch_size": minibatch_size,
        "microbatch_size": microbatch_size,
        "max_samples": max_samples,
        "seed": seed,
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    set_by_name = parsed(changes or ())
    if twice := [name for name in options if name in set_by_name]:
        flag = f"--{twice[0].replace('_', '-')}"
        raise ValueError(f"{flag} {options[twice[0]]} and --set {twice[0]}={set_by_name[twice[0]]}: give one of them")
    options |= set_by_name
    if print_config:
        show_config(recipe, out, options, resume=resume)
        return
    if out is None:
        raise typer.BadParameter("a run needs a folder", param_hint="--out")
    folder = made_ready(recipe, out, data, options, resume=resume, quiet=quiet or as_json)
    begun = time.monotonic()
    with StopBetweenSteps() as stop:
        reporter, callbacks = reporters(out, "none" if quiet else progress, tensorboard, wandb)
        outcome = run_recipe(
            recipe,
            out,
            options=options,
            resume=resume,
            data=folder,
            reporter=reporter,
            callbacks=[*callbacks, stop],
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
    draw_curves(out)
    if as_json:
        print_json(as_document(recipe, out, outcome, seconds))
    else:
        print_result(recipe, out, outcome, seconds)


def parsed(changes: Sequence[str]) -> dict[str, str]:
    """What `--set NAME=VALUE` says, by name; the last of several for one name counts.

    >>> parsed(["a.b=1", "c=x=y"])
    {'a.b': '1', 'c': 'x=y'}
    """
    found = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--set {change}: expected NAME=VALUE, such as log_every=10")
        found[name.strip()] = value
    return found


def show_config(recipe: str, out: Path | None, options: dict[str, Any], *, resume: bool) -> None:
    """Print the configuration that a run would have, as config.json will hold it."""
    from minibatch.train import recipes
    from minibatch.train.config import described
    from minibatch.train.running import config_for

    config = recipes.configure(recipe, options) if out is None else config_for(recipe, out, options, resume=resume)
    print_json(described(config))


def reporters(out: Path, progress: Progress, tensorboard: bool, wandb: bool) -> tuple["Reporter", list["Callback"]]:
    """Who is told of a run, and the callbacks that measure for them."""
    from minibatch.train.callbacks import LossMonitor
    from minibatch.train.monitors import UpdateScales
    from minibatch.train.progress import ConvnetLines, JsonLines, ProgressLine, Several, TensorBoard, WandB

    told: list[Reporter] = []
    callbacks: list[Callback] = []
    if progress == "line":
        told.append(ProgressLine())
    elif progress == "convnet":
        scales = UpdateScales(MEASURED_EVERY)
        callbacks.append(scales)
        told.append(ConvnetLines(scales=scales))
    elif progress == "mindspore":
        callbacks.append(LossMonitor())
    if tensorboard:
        told.append(TensorBoard(out / "tensorboard"))
    if wandb:
        told.append(WandB(out))
    told.append(JsonLines(out / "metrics.jsonl"))  # what `minibatch show` takes speeds from
    return Several(*told), callbacks


def draw_curves(out: Path) -> None:
    """Draw the curves of a finished run as OUT/curves.png, as `minibatch show OUT --png` does."""
    if importlib.util.find_spec("matplotlib") is None:  # a run must not fail for want of a picture
        return
    from minibatch.tools.pictures import draw_runs
    from minibatch.tools.run_files import read_run

    draw_runs(out / "curves.png", [read_run(out)], [out.name])


def as_document(recipe: str, out: Path, outcome: "Outcome", seconds: float) -> dict[str, Any]:
    """The result of a finished run for JSON."""
    return {
        "recipe": recipe,
        "out": str(out),
        "steps": outcome.step,
        "samples": outcome.nominal_time,
        "validation": dict(outcome.validation),
        "report": dict(outcome.report),
        "parameters_digest": outcome.parameters_digest,
        "best_nominal_time": outcome.best_nominal_time,
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
    for name, value in outcome.report.items():
        table.add_row(f"report: {name}", f"{value:.5g}")
    table.add_row("parameters", outcome.parameters_digest)
    table.add_row("checkpoint", str(outcome.checkpoint))
    if outcome.best_nominal_time is not None:
        table.add_row("best weights", f"those at nominal time {outcome.best_nominal_time:,}")
    if pictures := sorted(path.name for path in out.glob("*.png")):
        table.add_row("pictures", ", ".join(pictures))
    table.add_row("time", f"{seconds:.1f} s")
    Console().print(table)
