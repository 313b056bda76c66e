"""`minibatch verify-resume RUN`: the last steps before a checkpoint again, from the one before; are all bits equal?

Exit code 0 says that they are, 1 that something differs, 2 that it could not be found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from minibatch.tools.past import Data, Json, Run, open_past, shortened
from minibatch.tools.screen import counted, plain_table, print_json, screen

if TYPE_CHECKING:
    from minibatch.train.travel import TensorDifference, Verification

TENSORS_SHOWN = 8


def verify_resume(
    run: Run,
    steps: Annotated[
        int | None, typer.Option(min=1, help="At least so many steps (default: those since the checkpoint before).")
    ] = None,
    at: Annotated[int | None, typer.Option(metavar="STEP", help="The checkpoint at or before this step.")] = None,
    microbatch: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Cut the steps into microbatches of N: is the promise kept?"),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Relative; 0 asks for equal bits, the default without --microbatch.")
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Run the last steps before a checkpoint again and compare every ledger line and every tensor.

    The folder of the run is only read.
    """
    past = open_past(run, data)
    from minibatch.train import travel

    found = travel.verify_resume(past, steps=steps, at=at, microbatch_size=microbatch, tolerance=tolerance)
    if as_json:
        print_json(as_document(found))
    else:
        print_verification(found, screen())
    if not found.holds:
        raise typer.Exit(1)


def as_document(found: Verification) -> dict[str, Any]:
    """The result for JSON."""
    return {
        "holds": found.holds,
        "checkpoint": {"path": str(found.target.path), "step": found.target.step},
        "began": None if found.began is None else {"path": str(found.began.path), "step": found.began.step},
        "steps": found.steps,
        "lines_compared": found.lines,
        "first_step": found.first,
        "differences": {name: list(pair) for name, pair in found.differences.items()},
        "largest_relative_difference": dict(found.drift),
        "tensors": [vars(each) for each in found.tensors],
        "digests": list(found.digests),
        "promise": found.promise,
        "microbatch_size": found.microbatch_size,
        "tolerance": found.tolerance,
        "environment": list(found.environment),
    }


def print_verification(found: Verification, console: Console) -> None:
    """What was run, what came of it, and what differs."""
    begin = "the first weights" if found.began is None else f"the checkpoint after step {found.began.step:,}"
    cut = "" if found.microbatch_size is None else f", in microbatches of {found.microbatch_size:,}"
    console.print(
        Text(f"{counted(found.steps, 'step')} from {begin} to the one after step {found.target.step:,}{cut}", "bold"),
        soft_wrap=True,
    )
    for text in found.environment:
        console.print(Text(f"changed since then: {text}", style="yellow"), soft_wrap=True)
    table = plain_table("", "then", "now")
    table.add_row("parameters", *found.digests)
    console.print(table)
    if found.microbatch_size is not None or found.tolerance:
        table = plain_table("largest relative difference", "", right=("",))
        for name, value in found.drift.items():
            table.add_row(Text(name), f"{value:.2g}")
        console.print(table)
    if found.first is not None:
        console.print(Text(f"step {found.first:,} is the first that differs:", style="red"))
        for name, (then, now) in found.differences.items():
            console.print(Text(f"  {name}: {then!r} → {now!r}"), soft_wrap=True)
    print_tensors(found.tensors, console)
    if found.holds:
        how = "equal in all bits" if not found.tolerance else f"equal within {found.tolerance:.1g} (relative)"
        what = f"{counted(found.lines, 'ledger line')} and all tensors of the checkpoint"
        console.print(Text(f"{what} are {how}; promise: {found.promise}", style="green"), soft_wrap=True)
    else:
        console.print(Text(f"the run did not repeat; its promise: {found.promise}", style="red"))


def print_tensors(tensors: Sequence[TensorDifference], console: Console) -> None:
    """A table of tensors that differ, the first ones of the model."""
    if not tensors:
        return
    table = plain_table("tensor", "elements", "largest", "relative", "at", right=("elements", "largest", "relative"))
    for each in tensors[:TENSORS_SHOWN]:
        if each.problem is not None:
            table.add_row(Text(shortened(each.name)), Text(each.problem), "", "", "")
        else:
            at = Text(str(list(each.index)))
            share = f"{each.elements:,} of {each.count:,}"
            table.add_row(Text(shortened(each.name)), share, f"{each.largest:.2g}", f"{each.relative:.2g}", at)
    console.print(table)
    if len(tensors) > TENSORS_SHOWN:
        console.print(f"… and {counted(len(tensors) - TENSORS_SHOWN, 'tensor')} more")
