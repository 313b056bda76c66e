"""`minibatch fork RUN OUT`: a branch of a run with one thing changed, and the same data and noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from minibatch.tools.diff_runs import print_validations
from minibatch.tools.past import Data, Json, Run, open_past
from minibatch.tools.screen import print_json, screen
from minibatch.tools.train import parsed

if TYPE_CHECKING:
    from minibatch.train.travel import Forked


def fork(
    run: Run,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of the branch.", show_default=False)],
    at: Annotated[int | None, typer.Option(min=0, metavar="T", help="Where it begins: a nominal time.")] = None,
    at_step: Annotated[int | None, typer.Option(min=0, metavar="STEP", help="Where it begins: after a step.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="What is changed, as in minibatch train. Again for more."),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Run forward to that place, rather than begin at the checkpoint before it."),
    ] = False,
    train: Annotated[bool, typer.Option("--train", help="Train it to its end, and compare it with RUN.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Begin a branch of RUN in OUT, from its newest checkpoint at or before T (default: the newest of all).

    Data, order, weights so far and noise stay those of RUN, so that the runs differ by the change alone.
    """
    past = open_past(run, data)
    from minibatch.train import travel
    from minibatch.train.running import run_recipe

    forked = travel.fork(past, out, changes=parsed(changes or ()), nominal_time=at, step=at_step, exact=exact)
    pairs = []
    if train:
        if not as_json:
            print_fork(forked, screen(), trained=True)
        run_recipe(forked.recipe, out, options={}, resume=True, data=data)
        pairs = travel.paired_validations(past, travel.Past(out))
    if as_json:
        document = {**vars(forked), "folder": str(out), "run": str(run)}
        document["begins"] = {"step": forked.begins.step, "nominal_time": forked.begins.nominal_time}
        document["validations"] = [{"nominal_time": a.nominal_time, "run": dict(a), "fork": dict(b)} for a, b in pairs]
        print_json(document)
    elif train:
        screen().print(Text(f"A is {run}, B is {out}"), soft_wrap=True)
        print_validations(pairs, screen())
    else:
        print_fork(forked, screen(), trained=False)


def print_fork(forked: Forked, console: Console, *, trained: bool) -> None:
    """Where the branch begins, what is changed, how to go on."""
    begins = forked.begins
    console.print(
        Text(f"{forked.folder} begins after step {begins.step:,} of {forked.run}, at nominal time "
             f"{begins.nominal_time:,}", style="bold"),
        soft_wrap=True,
    )  # fmt: skip
    for line in forked.changes or ("nothing is changed",):
        console.print(Text(f"  {line}"), soft_wrap=True)
    if not trained:
        console.print(
            Text(f"go on with: minibatch train {forked.recipe} --out {forked.folder} --resume"), soft_wrap=True
        )
