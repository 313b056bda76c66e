"""`minibatch replay RUN STEP`: a step again, with the loss of every sample, and the proof that they add up to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from minibatch.tools.past import Data, Json, Run, asked_steps, interval_text, number_text, open_past
from minibatch.tools.screen import counted, plain_table, print_json, screen

if TYPE_CHECKING:
    from minibatch.train.travel import Replay


def replay(
    run: Run,
    step: Annotated[str, typer.Argument(metavar="STEP", help="A step.", show_default=False)],
    samples: Annotated[int, typer.Option(min=0, help="Show so many samples, those with the largest loss.")] = 10,
    anomaly: Annotated[
        bool, typer.Option("--anomaly", help="Find the operation that gives the first NaN (anomaly mode of autograd).")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Write a checkpoint of the state after the step there.")] = None,
    profile: Annotated[
        Path | None, typer.Option(metavar="OUT.json", help="Write a trace of the step, for Perfetto or Chrome.")
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Run STEP again, from the nearest checkpoint before it, and show the losses of its samples.

    They are put together as in the run, and compared with the ledger. Exit code 1 if anything came out otherwise.
    """
    first, stop = asked_steps(step)
    if stop != first + 1:
        raise typer.BadParameter("replay takes one step")
    if save is not None and save.exists():
        raise ValueError(f"{save} exists already: choose another place for the checkpoint")
    past = open_past(run, data)
    from minibatch.train import travel

    found = travel.replay(past, first, anomaly=anomaly, save=save, profile=profile)
    if as_json:
        print_json(as_document(found))
    else:
        print_replay(found, samples, screen())
        for what, path in (("checkpoint", save), ("trace", profile)):
            if path is not None:
                screen(stderr=True).print(Text(f"{what} written: {path}"), soft_wrap=True)
    if not found.exact:
        raise typer.Exit(1)


def as_document(found: Replay) -> dict[str, Any]:
    """A replayed step for JSON."""
    line = found.line
    return {
        "step": line.step,
        "t0": line.t0,
        "t1": line.t1,
        "checkpoint": None if found.began is None else {"path": str(found.began.path), "step": found.began.step},
        "steps_run": found.ran,
        "exact": found.exact,
        "first_unlike": found.unlike,
        "differences": {name: list(pair) for name, pair in found.differences.items()},
        "promise": found.promise,
        "total_loss": found.again.total_loss,
        "grad_norm": found.again.grad_norm,
        "digests": {"before": found.digests[0], "after": found.digests[1]},
        "stopped": found.stopped,
        "trace": found.trace,
        "passed_over": list(found.passed_over),
        "terms": {
            name: {
                "ledger": None if term.ledger is None else list(term.ledger),
                "numerator": term.numerator,
                "difference": term.difference,
                "plain_sum": term.plain_sum,
                "denominator": term.denominator,
                "coefficient": term.coefficient,
                "rows": term.rows.tolist(),
                "times": term.times.tolist(),
                "values": term.values.tolist(),
                "weighted": term.weighted.tolist(),
            }
            for name, term in found.terms.items()
        },
    }


def print_replay(found: Replay, samples: int, console: Console) -> None:
    """From where, the sums against the ledger, the largest samples, the verdict."""
    line = found.line
    for text in found.passed_over:
        console.print(Text(text, style="yellow"), soft_wrap=True)
    begin = "the first weights" if found.began is None else f"the checkpoint after step {found.began.step:,}"
    console.print(
        Text(
            f"step {line.step:,}: nominal time {interval_text(line.t0, line.t1)}, {counted(line.samples, 'sample')}; "
            f"run again from {begin} ({counted(found.ran, 'step')} before it)",
            style="bold",
        ),
        soft_wrap=True,
    )
    table = plain_table("term", "in the ledger", "sum of samples", "difference", right=("difference",))
    for name, term in found.terms.items():
        ledger = "-" if term.ledger is None else repr(term.ledger[0])
        table.add_row(Text(name), ledger, repr(term.numerator), f"{term.difference:.2g}")
    table.add_row("total loss", repr(line.total_loss), repr(found.again.total_loss), "")
    table.add_row("gradient norm", repr(line.grad_norm), repr(found.again.grad_norm), "")
    console.print(table)
    print_samples(found, samples, console)
    if found.stopped is not None:
        then = "" if found.line.finite else ", now as then"
        console.print(Text(f"\nthe step was refused{then}: {found.stopped}", style="yellow"), soft_wrap=True)
    if found.trace is not None:
        console.print(Text(f"\n{found.trace}"), soft_wrap=True)
    console.print(Text(f"\n{verdict(found)}", style="green" if found.exact else "red"), soft_wrap=True)


def print_samples(found: Replay, samples: int, console: Console) -> None:
    """The samples with the largest losses: over all terms, and the value of each term."""
    losses = found.sample_losses()
    largest = sorted(losses, key=lambda key: (-_rank(losses[key][1]), key[1]))[:samples]
    if not largest:
        return
    values = {
        name: dict(zip(term.times.tolist(), term.values.reshape(len(term.times), -1).sum(1).tolist(), strict=True))
        for name, term in found.terms.items()
        if len(term.times)
    }
    table = plain_table("time", "row", "adds to loss", *values, right=("time", "row", "adds to loss", *values))
    for stream, time in largest:
        row, loss = losses[stream, time]
        own = (
            number_text(by_time.get(time) if found.terms[name].stream == stream else None)
            for name, by_time in values.items()
        )
        table.add_row(f"{time:,}", f"{row:,}", number_text(loss), *own)
    console.print()
    console.print(table)
    if len(losses) > len(largest):
        console.print(f"… and {counted(len(losses) - len(largest), 'sample')} more (--samples, --json)")


def verdict(found: Replay) -> str:
    """The result in a sentence."""
    if found.exact and not found.line.finite:
        return (
            f"the {counted(found.ran, 'step')} before it came out with the bits of the ledger; this one is not finite"
        )
    if found.exact:
        return f"exact: this step and the {counted(found.ran, 'step')} before it came out with the bits of the ledger"
    if found.unlike is not None:
        return f"not the same bits: step {found.unlike:,} is the first that came out otherwise than in the ledger"
    unlike = ", ".join(f"{name} {then!r} → {now!r}" for name, (then, now) in found.differences.items())
    return f"not the same bits: {unlike}"


def _rank(value: float) -> float:
    return float("inf") if value != value else value
