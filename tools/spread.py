"""`minibatch spread RUN …`: what finished runs reached that differ only in their seed, and how far they differ.

One number of one run says little: a difference between two settings counts where it is larger than what another seed
makes. Runs of different recipes, with other settings or of other data, come in lines of their own.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from minibatch.storage import MANIFEST
from minibatch.tools.machine import described
from minibatch.tools.run_files import CONFIG, METRICS, RESULT, Run, document, holds_a_run, parsed, read_run
from minibatch.tools.screen import counted, plain_table, print_json, screen

Runs = Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of runs.", show_default=False)]
TITLES = ("recipe", "changed", "seeds", "samples", "held out", "mean", "least … most", "training")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Runs that differ only in their seed: every value of their results by name, in the order of `seeds`.

    data: the fingerprints of the data sets in the runs' folders, as far as they are there. seconds: in training steps,
    without validations and saves; None of a run that did not note it.
    """

    recipe: str
    changed: Mapping[str, Any]
    data: Mapping[str, str]
    seeds: Sequence[int]
    samples: int
    values: Mapping[str, Sequence[float]]
    seconds: Sequence[float | None]


def spread(
    runs: Runs,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table in markdown, with the machine.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Mean and spread of what finished runs reached that differ only in their seed."""
    for folder in runs:
        if not holds_a_run(folder):
            raise ValueError(f"{folder} holds no run: it has no ledger.jsonl, no validation.jsonl and no checkpoints")
    found = spreads(read_run(folder) for folder in runs)
    if as_json:
        print_json({"machine": described(), "spreads": [vars(one) for one in found]})
    elif markdown:
        typer.echo(as_markdown(found))
    else:
        for one in found:
            print_spread(one, screen())


def spreads(runs: Iterable[Run]) -> list[Spread]:
    """The runs, put together where only the seed differs; ValueError for one that is not finished."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.result is None:
            raise ValueError(f"{run.path} is {run.state}: only finished runs have a result")
        same = [run.config.get("recipe"), changed(run), data_of(run.path)]
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(run)
    return [together(sorted(group, key=seed_of)) for group in groups.values()]


def together(runs: Sequence[Run]) -> Spread:
    """Runs that differ only in their seed as one value."""
    seeds = [seed_of(run) for run in runs]
    if len(set(seeds)) < len(seeds):
        paths = ", ".join(str(run.path) for run in runs)
        raise ValueError(f"two of {paths} have the same recipe, settings and seed {seeds}: name one of them")
    results = [values_of(run) for run in runs]
    names = [name for name in results[0] if all(isinstance(result.get(name), int | float) for result in results)]
    return Spread(
        recipe=str(runs[0].config.get("recipe")),
        changed=changed(runs[0]),
        data=data_of(runs[0].path),
        seeds=seeds,
        samples=runs[0].nominal_time,
        values={name: [float(result[name]) for result in results] for name in names},
        seconds=[training_seconds(run.path) for run in runs],
    )


def changed(run: Run) -> dict[str, Any]:
    """What was chosen by hand, but for the seed."""
    return {name: value for name, value in (run.config.get("set") or {}).items() if name != "seed"}


def seed_of(run: Run) -> int:
    """The seed of a run; ValueError where its configuration is not there or damaged."""
    seed = run.config.get("seed")
    if not isinstance(seed, int):
        raise ValueError(f"{run.path / CONFIG} is damaged or not there: a seed was expected, it has {seed!r}")
    return seed


def values_of(run: Run) -> dict[str, Any]:
    """What a finished run reached: held out, and in its report; ValueError where its result is damaged."""
    found: dict[str, Any] = {}
    for name in ("validation", "report"):
        values = (run.result or {}).get(name, {})
        if not isinstance(values, dict):
            raise ValueError(f"{run.path / RESULT} is damaged: {name!r} is {values!r}, expected values by name")
        found |= values
    return found


def data_of(folder: Path) -> dict[str, str]:
    """The fingerprints of the data sets that lie in a run's folder, or that it links to."""
    manifests = {part: document(folder / "data" / part / MANIFEST) or {} for part in ("train", "valid")}
    return {part: str(manifest["fingerprint"]) for part, manifest in manifests.items() if "fingerprint" in manifest}


def training_seconds(folder: Path) -> float | None:
    """Seconds in the training steps of a run, over all of its resumes; None where nobody noted them."""
    path = folder / METRICS
    if not path.exists():
        return None
    return sum(float(line["seconds"]) for line in parsed(path.read_bytes()) if line.get("kind") == "train")


def print_spread(one: Spread, console: Console) -> None:
    """What the runs have in common in a line, and below it each value: mean, least and most, all of them."""
    changes = "".join(f" {name}={value}" for name, value in one.changed.items())
    about = [f"seed{'s' * (len(one.seeds) > 1)} {', '.join(map(str, one.seeds))}", f"{one.samples:,} samples"]
    if time := time_of(one):
        about.append(f"{time} of training")
    console.print(Text(f"{one.recipe}{changes}: {' · '.join(about)}"), soft_wrap=True)
    table = plain_table("", "mean", "least", "most", "each", right=("mean", "least", "most"))
    for column in table.columns[1:4]:
        column.min_width = 8  # a long name is cut before these are, and many seeds go on in the next line
    table.columns[4].no_wrap = False
    for name, values in one.values.items():
        numbers = [f"{value:.4g}" for value in (statistics.fmean(values), min(values), max(values), *values)]
        table.add_row(name, *numbers[:3], " ".join(numbers[3:]))
    console.print(table)


def lines_of(one: Spread) -> list[list[str]]:
    """The lines of the table in markdown: one a value, the first with what the runs have in common."""
    changes = ", ".join(f"{name}={value}" for name, value in one.changed.items())
    head = [one.recipe, changes, " ".join(map(str, one.seeds)), f"{one.samples:,}"]
    lines: list[list[str]] = []
    for name, values in one.values.items():
        extent = f"{min(values):.4g} … {max(values):.4g}" if len(values) > 1 else ""
        ends = [name, f"{statistics.fmean(values):.4g}", extent, "" if lines else time_of(one)]
        lines.append([*([""] * 4 if lines else head), *ends])
    return lines or [[*head, "", "", "", time_of(one)]]


def time_of(one: Spread) -> str:
    """The median time of training, "" where nobody noted it."""
    known = [seconds for seconds in one.seconds if seconds is not None]
    return duration(statistics.median(known)) if known else ""


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(8.34), duration(754)
    ('8.3 s', '12.6 min')
    """
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def as_markdown(found: Sequence[Spread]) -> str:
    """The table in markdown; below it, the machine."""
    rows = [list(TITLES), ["---", "---", "---", "---:", "---", "---:", "---", "---:"]]
    rows += [line for one in found for line in lines_of(one)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    about = ", ".join(f"{name}: {value}" for name, value in described().items())
    runs = counted(sum(len(one.seeds) for one in found), "run")
    return f"{table}\n\n{runs}; {about}"
