"""`minibatch diff RUN RUN`: where two runs part: configuration, first step, first tensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from minibatch.storage import MANIFEST
from minibatch.tools.past import number_text, open_past
from minibatch.tools.screen import counted, plain_table, print_json, screen
from minibatch.tools.verify_resume import print_tensors

if TYPE_CHECKING:
    from minibatch.train.travel import RunDifferences
    from minibatch.train.validation import Validation

LINES_SHOWN = 20
VALIDATIONS_SHOWN = 6


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, and no data set."""
    files = ("ledger.jsonl", "config.json", "checkpoints")
    return not (folder / MANIFEST).exists() and any((folder / name).exists() for name in files)


def diff_runs(first: Path, second: Path, *, replay: bool, data: Path | None, as_json: bool) -> bool:
    """Compare two runs and print what differs; whether anything that they computed does."""
    sides = [open_past(folder, data) for folder in (first, second)]
    from minibatch.train import travel

    found = travel.diff_runs(*sides, replay=replay)
    if as_json:
        print_json(as_document(found))
    else:
        print_differences(first, second, found, screen())
    return found.any


def as_document(found: RunDifferences) -> dict[str, Any]:
    """What differs, for JSON."""
    return {
        "differ": found.any,
        "configuration": list(found.configuration),
        "steps": list(found.steps),
        "first_step": found.first,
        "differences": {name: list(pair) for name, pair in found.differences.items()},
        "tensors": [vars(each) for each in found.tensors],
        "tensors_of": found.where or None,
        "unknown": found.unknown,
        "validations": [{"nominal_time": a.nominal_time, "A": dict(a), "B": dict(b)} for a, b in found.validations],
    }


def print_differences(first: Path, second: Path, found: RunDifferences, console: Console) -> None:
    """Configuration, first step, first tensor, values on held-out data, verdict."""
    table = plain_table("", "A", "B")
    table.add_row("run", Text(str(first)), Text(str(second)))
    table.add_row("steps", *(f"{steps:,}" for steps in found.steps))
    console.print(table)
    if found.configuration:
        console.print(Text("\nconfiguration, A → B", style="bold"))
        for line in found.configuration[:LINES_SHOWN]:
            console.print(Text(f"  {line}"), soft_wrap=True)
        if len(found.configuration) > LINES_SHOWN:
            console.print(f"  … and {len(found.configuration) - LINES_SHOWN:,} more")
    if found.first is not None:
        console.print(Text(f"\nstep {found.first:,} is the first that differs", style="bold"))
        table = plain_table("", "A", "B")
        for name, pair in found.differences.items():
            table.add_row(Text(f"  {name}"), *(Text(repr(value)) for value in pair))
        console.print(table)
    if found.tensors:
        console.print(Text(f"\n{found.where}: {counted(len(found.tensors), 'tensor')} differ", style="bold"))
        print_tensors(found.tensors, console)
    elif found.where:
        console.print(Text(f"\nequal tensors: {found.where}"), soft_wrap=True)
    if found.unknown is not None:
        console.print(Text(f"\n{found.unknown}", style="yellow"), soft_wrap=True)
    print_validations(found.validations, console)
    console.print()
    console.print(Text(verdict(found), style="red" if found.any else "green"), soft_wrap=True)


def print_validations(pairs: Sequence[tuple[Validation, Validation]], console: Console) -> None:
    """The last values on held-out data of both runs, at equal nominal times."""
    if not pairs:
        return
    table = plain_table("time", "held out", "A", "B", "B - A", right=("time", "A", "B", "B - A"))
    for a, b in pairs[-VALIDATIONS_SHOWN:]:
        for name in a:
            mine, other = a[name], b.get(name)
            apart = None if mine is None or other is None else other - mine
            table.add_row(f"{a.nominal_time:,}", Text(name), *map(number_text, (mine, other, apart)))
    console.print()
    console.print(table)


def verdict(found: RunDifferences) -> str:
    """The result in a sentence."""
    if not found.any:
        inspite = f", in spite of {counted(len(found.configuration), 'difference')} in the configuration"
        return f"the same: all {counted(found.steps[0], 'step')} have equal bits" + inspite * bool(found.configuration)
    parts = []
    if found.first is not None:
        parts.append(f"the runs part at step {found.first:,}")
    elif found.steps[0] != found.steps[1]:
        longer = "A" if found.steps[0] > found.steps[1] else "B"
        more = abs(found.steps[0] - found.steps[1])
        parts.append(f"equal steps as far as both go; {longer} has {counted(more, 'step')} more")
    if found.tensors:
        parts.append(f"first tensor: {found.tensors[0].name} ({found.where})")
    return "different: " + "; ".join(parts)
