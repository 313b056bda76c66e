"""`minibatch show RUN`: how far a run is, what it has reached, its curves; `--png` draws them, also of several runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from minibatch.tools.braille import COLOURS, Series, draw
from minibatch.tools.run_files import Curve, Run, holds_a_run, read_run
from minibatch.tools.screen import counted, plain_table, print_json, screen, size_text, speaks_unicode

CHECKPOINTS_SHOWN = 8
TALL, LOW = 11, 6  # rows of the panels of losses, and of the others
SIDE_BY_SIDE = 38  # columns that a panel needs
MARKS = "●◆▲■▼★"


def show_runs(folders: Sequence[Path], *, png: Path | None, as_json: bool) -> None:
    """Show the runs in `folders`: one in full, several side by side.

    Raises ValueError for a folder that holds none.
    """
    for folder in folders:
        if not holds_a_run(folder):
            raise ValueError(f"{folder} holds no run: it has no ledger.jsonl, no validation.jsonl and no checkpoints")
    runs = [read_run(folder) for folder in folders]
    if png is not None:
        from minibatch.tools.pictures import draw_runs

        draw_runs(png, runs, short_names(runs))
        screen(stderr=True).print(Text(f"{counted(len(panels_of(runs)), 'panel')} in {png}"), soft_wrap=True)
    if as_json:
        documents = [as_document(run) for run in runs]
        print_json(documents[0] if len(runs) == 1 else {"runs": documents, "differences": differences_of(runs)})
    else:
        print_runs(runs, screen())


def as_document(run: Run) -> dict[str, Any]:
    """Everything about a run, curves included."""
    return {
        "path": str(run.path),
        "state": run.state,
        "process": run.process,
        "recipe": run.config.get("recipe"),
        "options": run.config.get("options"),
        "seed": run.config.get("seed"),
        "step": run.step,
        "nominal_time": run.nominal_time,
        "max_samples": run.target,
        "rows": run.rows,
        "sweeps": None if run.rows is None else run.nominal_time / run.rows,
        "samples_per_second": run.samples_per_second,
        "nonfinite_steps": run.nonfinite_steps,
        "held_out": extremes(run),
        "checkpoints": [
            {"name": c.name, "nominal_time": c.nominal_time, "bytes": c.bytes, "complete": c.complete}
            for c in run.checkpoints
        ],
        "result": run.result,
        "validations": [{"nominal_time": t, **values} for t, values in run.validations],
        "curves": {
            "losses": {name: {"t": list(one.t), "mean": list(one.mean)} for name, one in run.losses.items()},
            "learning_rates": [{"t": list(one.t), "mean": list(one.mean)} for one in run.rates],
            "grad_norm": None
            if run.grad_norm is None
            else {"t": list(run.grad_norm.t), "mean": list(run.grad_norm.mean)},
        },
    }


def extremes(run: Run) -> dict[str, dict[str, Any]]:
    """Of everything measured on held-out data: the last value, the lowest and the highest, and where they were."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for _, values in run.validations for name in values):
        pairs = [(t, v) for t, values in run.validations if (v := values.get(name)) is not None and math.isfinite(v)]
        if not pairs:
            continue
        low, high = min(pairs, key=lambda pair: pair[1]), max(pairs, key=lambda pair: pair[1])
        found[name] = {
            "last": pairs[-1][1],
            "lowest": low[1],
            "lowest_at": low[0],
            "highest": high[1],
            "highest_at": high[0],
        }
    return found


def print_runs(runs: Sequence[Run], console: Console) -> None:
    """The runs on one screen."""
    names = short_names(runs)
    if len(runs) == 1:
        print_state(runs[0], console)
    else:
        print_comparison(runs, names, console)
    print_curves(runs, names, console)
    if len(runs) == 1:
        print_held_out(runs[0], console)
        print_checkpoints(runs[0], console)


def print_state(run: Run, console: Console) -> None:
    """A few lines: what it is, how far it is, how fast, what was wrong."""
    console.print(Text(str(run.path), "bold"), soft_wrap=True)
    speed = f", {speed_text(run)}" if run.samples_per_second else ""
    console.print(Text(f"{title_of(run)}: {state_text(run)}{speed}"))
    console.print(Text(progress_text(run)))
    if run.nonfinite_steps:
        console.print(
            Text(f"{counted(run.nonfinite_steps, 'step')} with a loss or gradient that was not finite", "red")
        )
    console.print()


def title_of(run: Run) -> str:
    recipe = run.config.get("recipe") or "a run"
    return recipe if run.config.get("seed") is None else f"{recipe}, seed {run.config['seed']}"


def state_text(run: Run) -> str:
    if run.state == "running":
        return f"running in process {run.process}{share_of(run)}"
    return run.state if run.state == "finished" else f"stopped{share_of(run)}"


def share_of(run: Run) -> str:
    """How far it is, rounded down: 100 % is only what is done."""
    return f" at {math.floor(1000 * run.nominal_time / run.target) / 10:g} %" if run.target else ""


def progress_text(run: Run) -> str:
    """`step 1,563 · 100,000 of 100,000 samples · 69.01 sweeps of 1,449 rows`."""
    of_target = f" of {run.target:,}" if run.target else ""
    parts = [f"step {run.step:,}", f"{run.nominal_time:,}{of_target} samples"]
    if run.rows:
        parts.append(f"{run.nominal_time / run.rows:,.2f} sweeps of {counted(run.rows, 'row')}")
    return " · ".join(parts) if speaks_unicode() else ", ".join(parts)


def speed_text(run: Run) -> str:
    """How fast it is, and when it will be done if it goes on."""
    assert run.samples_per_second
    text = f"{run.samples_per_second:,.0f} samples/s"
    if run.state != "running" or not run.target:
        return text
    left = max(0.0, (run.target - run.nominal_time) / run.samples_per_second)
    return f"{text}, {left / 60:,.1f} min left" if left >= 90 else f"{text}, {left:.0f} s left"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve in a panel: of which run, called what, of held-out data or of training."""

    run: int
    what: str
    curve: Curve
    held_out: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What is drawn together. noisy: values of single steps, to be smoothed."""

    title: str
    lines: Sequence[Line]
    noisy: bool = True

    @property
    def alone(self) -> bool:
        """Whether there is nothing but held-out data."""
        return all(line.held_out for line in self.lines)


def panels_of(runs: Sequence[Run]) -> list[Panel]:
    """Each loss with its values on held-out data, each metric, the rates, the gradient."""
    panels: list[Panel] = []
    held_out = [validation_curves(run) for run in runs]
    names = dict.fromkeys(name for run in runs for name in run.losses)
    for name in names:
        lines = [
            Line(run=i, what="training", curve=run.losses[name]) for i, run in enumerate(runs) if name in run.losses
        ]
        title = "total loss" if name == "total_loss" else f"loss: {name}"
        panels.append(Panel(title=title, lines=lines + _held_out(held_out, name)))
    for name in dict.fromkeys(name for curves in held_out for name in curves if name not in names):
        panels.append(Panel(title=f"{name} on held-out data", lines=_held_out(held_out, name)))
    rates = [
        Line(run=i, what=f"optimizer {place}" if len(run.rates) > 1 else "", curve=one)
        for i, run in enumerate(runs)
        for place, one in enumerate(run.rates)
    ]
    norms = [Line(run=i, what="", curve=run.grad_norm) for i, run in enumerate(runs) if run.grad_norm is not None]
    panels += [Panel(title="learning rate", lines=rates, noisy=False)] if rates else []
    panels += [Panel(title="norm of the gradient", lines=norms)] if norms else []
    return panels


def _held_out(curves: Sequence[Mapping[str, Curve]], name: str) -> list[Line]:
    return [Line(run=i, what="held out", curve=one[name], held_out=True) for i, one in enumerate(curves) if name in one]


def line_name(line: Line, names: Sequence[str]) -> str:
    """What the legend says: the run where there are several, and what it is."""
    return " ".join(part for part in (names[line.run] if len(names) > 1 else "", line.what) if part)


def validation_curves(run: Run) -> dict[str, Curve]:
    """What was measured on held-out data, by name."""
    found = {}
    for name in dict.fromkeys(name for _, values in run.validations for name in values):
        pairs = [(t, v) for t, values in run.validations if (v := values.get(name)) is not None and math.isfinite(v)]
        if pairs:
            t, values = [t for t, _ in pairs], [v for _, v in pairs]
            found[name] = Curve(t=t, mean=values, low=values, high=values)
    return found


def print_curves(runs: Sequence[Run], names: Sequence[str], console: Console) -> None:
    """The panels: the first as wide as the screen, the others beside each other."""
    panels = panels_of(runs)
    if not panels:
        console.print(Text("no steps yet", "dim"))
        return
    width, unicode = min(console.width, 160), speaks_unicode()
    series = [(panel.title, panel_series(panel, names, console)) for panel in panels]
    first, rest = series[0], series[1:]
    console.print(Group(*draw(*first, width=width, height=TALL, unicode=unicode, xlabel="samples")))
    across = max(1, min(3, width // SIDE_BY_SIDE, len(rest) or 1))
    for begin in range(0, len(rest), across):
        row = rest[begin : begin + across]
        table = Table.grid(padding=(0, 2, 0, 0))
        each = (width - 2 * (across - 1)) // across
        for _ in row:
            table.add_column(width=each, no_wrap=True)
        table.add_row(*(Group(*draw(*one, width=each, height=LOW, unicode=unicode)) for one in row))
        console.print()
        console.print(table)


def panel_series(panel: Panel, names: Sequence[str], console: Console) -> list[Series]:
    """The lines of a panel for the terminal: curves of training smoothed, held-out values as marks."""
    made = []
    for place, line in enumerate(panel.lines):
        x, y, sign = line.curve.t, line.curve.mean, MARKS[line.run % len(MARKS)]
        by_run = len(names) > 1 or panel.alone
        colour = COLOURS[(line.run if by_run else place) % len(COLOURS)]
        name = line_name(line, names) if len(panel.lines) > 1 else ""
        if line.held_out and not panel.alone:
            made.append(Series(name=name, x=x, y=y, colour=colour, marks=sign))
            continue
        radius = len(y) // 40 if panel.noisy and not line.held_out else 0
        made.append(Series(name=name, x=x, y=smoothed(y, radius), colour=colour))
        if line.held_out and len(x) <= console.width // 6:
            made.append(Series(name="", x=x, y=y, colour=colour, marks=sign))
    return made


def smoothed(values: Sequence[float], radius: int) -> list[float]:
    """The mean of each value with `radius` on either side; at the beginning, where curves are steep, with fewer on both
    sides, and at the end with fewer behind it.

    >>> smoothed([0, 3, 6, 0], 1)
    [0.0, 3.0, 3.0, 3.0]
    """
    if radius < 1:
        return list(values)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    found = []
    for place in range(len(values)):
        before = min(radius, place)
        stop = min(place + before + 1, len(values))
        found.append((sums[stop] - sums[place - before]) / (stop - place + before))
    return found


def print_held_out(run: Run, console: Console) -> None:
    """The last values on held-out data, and the best of each sense."""
    found = extremes(run)
    if not found:
        return
    table = plain_table(
        "held out", "last", "lowest", "at", "highest", "at ", right=("last", "lowest", "at", "highest", "at ")
    )
    for name, values in found.items():
        numbers = (f"{values[key]:.5g}" for key in ("last", "lowest", "highest"))
        last, lowest, highest = numbers
        table.add_row(
            Text(name, "bold"), last, lowest, f"{values['lowest_at']:,}", highest, f"{values['highest_at']:,}"
        )
    console.print()
    console.print(table)
    console.print(
        Text(f"{counted(len(run.validations), 'validation')}, the last at {run.validations[-1][0]:,} samples", "dim")
    )


def print_checkpoints(run: Run, console: Console) -> None:
    """The newest checkpoints, with size, and what they are the best of."""
    if not run.checkpoints:
        return
    best: dict[int, list[str]] = {}
    for name, values in extremes(run).items():
        for sense in ("lowest", "highest"):
            best.setdefault(values[f"{sense}_at"], []).append(f"{sense} {name}")
    table = plain_table("checkpoint", "samples", "size", "", right=("samples", "size"))
    table.columns[3].no_wrap = False  # so that it gives way where it is narrow, and not the numbers
    table.columns[3].overflow = "fold"
    shown = run.checkpoints[-CHECKPOINTS_SHOWN:]
    if len(shown) < len(run.checkpoints):
        table.add_row(f"{len(run.checkpoints) - len(shown):,} earlier …")
    for one in shown:
        note = "not complete" if not one.complete else ", ".join(best.get(one.nominal_time, ()))
        table.add_row(Text(one.name), f"{one.nominal_time:,}", size_text(one.bytes), Text(note))
    console.print()
    console.print(table)


def print_comparison(runs: Sequence[Run], names: Sequence[str], console: Console) -> None:
    """The runs beside each other: state, last values, and in what their configurations differ."""
    table = plain_table("", *names, right=tuple(names))
    table.add_row("state", *(state_text(run) for run in runs))
    table.add_row("step", *(f"{run.step:,}" for run in runs))
    table.add_row("samples", *(f"{run.nominal_time:,}" for run in runs))
    held_out = [extremes(run) for run in runs]
    for name in dict.fromkeys(name for values in held_out for name in values):
        for sense in ("last", "lowest", "highest"):
            cells = [f"{values[name][sense]:.5g}" if name in values else "" for values in held_out]
            table.add_row(f"{sense} {name}", *cells)
    for path, values in differences_of(runs).items():
        table.add_row(Text(path, "dim"), *(Text("not set" if value is None else json.dumps(value)) for value in values))
    console.print(table)
    console.print()


def differences_of(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Where the configurations differ: {dotted path: the value of each run}."""
    flat = [dict(flattened(run.config)) for run in runs]
    paths = dict.fromkeys(path for one in flat for path in one)
    # What was asked for is said by the configuration itself; options and changes would only say it again.
    found = {path: [one.get(path) for one in flat] for path in paths if not path.startswith(("options.", "set."))}
    return {path: values for path, values in found.items() if any(value != values[0] for value in values)}


def flattened(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """The values in a JSON document, each with its path."""
    if isinstance(value, Mapping) and value:
        return [
            pair for key, inner in value.items() for pair in flattened(inner, f"{path}.{key}" if path else str(key))
        ]
    if isinstance(value, list) and value:
        return [pair for place, inner in enumerate(value) for pair in flattened(inner, f"{path}[{place}]")]
    return [(path, value)]


def short_names(runs: Sequence[Run]) -> list[str]:
    """The end of each path, as long as needed to tell the runs apart; one that is there twice gets a number, too."""
    parts = [run.path.resolve().parts for run in runs]
    lengths = range(1, max(map(len, parts)) + 1)
    length = next(n for n in lengths if len({each[-n:] for each in parts}) == len(set(parts)))
    names = [str(Path(*each[-length:])) for each in parts]
    return [f"{name} ({at + 1})" if names.count(name) > 1 else name for at, name in enumerate(names)]
