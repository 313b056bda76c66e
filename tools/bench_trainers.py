"""Training engines on the same model, data and optimizer: each in a process of its own, in turns, over a loop by hand.

python -m minibatch.tools.bench_trainers [--steps 2000] [--repeats 5]

Lightning and Accelerate are measured where they are installed; nothing here depends on them:

    python -m venv engines && engines/bin/pip install "minibatch-timeline[train]" lightning accelerate
    engines/bin/minibatch bench engines
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from minibatch.errors import require
from minibatch.tools.bench_engine_cases import SIZES, K, write_data
from minibatch.tools.bench_peers import Process
from minibatch.tools.bench_tables import Table, print_table, spread_of
from minibatch.tools.peers.engines import ENGINES, RAW, missing
from minibatch.tools.screen import screen

STEPS, REPEATS, TURN = 2_000, 5, 100
CHECKED_STEPS = 20
TOLERANCE = 1e-3  # of Σ|w|: what rounding grows to within the steps of the check; a skipped step is 100 times more


@dataclass(frozen=True, kw_only=True)
class Timed:
    """An engine's microseconds a step, and how many more than those of the loop by hand: of every repeat."""

    engine: str
    micro: Sequence[float] = ()
    more: Sequence[float] = ()
    error: str = ""


class EngineProcess(Process):
    """An engine in a process of its own, which trains only while it is told to."""

    def __init__(self, engine: str, data: Path, own: Path, threads: int) -> None:
        given = {"engine": engine, "data": str(data), "own": str(own), "threads": threads}
        command = [sys.executable, "-W", "ignore", "-m", "minibatch.tools.peers.engine_worker", json.dumps(given)]
        self.peer = engine
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._noise)


def time_engines(
    names: Sequence[str],
    *,
    steps: int = STEPS,
    repeats: int = REPEATS,
    threads: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Timed]:
    """Every engine of `names` and the loop by hand, in turns of a hundred steps; a repeat's figures are medians of
    turns.

    Before, each trains a few steps, after which its weights must be those of the loop by hand. An engine that fails has
    a line that says why.
    """
    require("torch", "train", "measuring engines")
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = write_data(folder / "data")
        running: dict[str, Process] = {}
        expected: list[float] = []
        for name in dict.fromkeys((RAW, *names)):
            progress(name)
            process = stack.enter_context(EngineProcess(name, data, folder / name, threads))
            try:
                weights = process.ask("check", steps=CHECKED_STEPS)["weights"]
                expected = expected or weights
                check_weights(weights, expected)
                process.ask("begin")
                process.ask("run", steps=2 * TURN)
                running[name] = process
            except RuntimeError as error:
                if name == RAW:
                    raise
                failed[name] = str(error)
        turns: dict[str, list[list[float]]] = {name: [] for name in running}
        for number in range(repeats):
            progress(f"repeat {number + 1} of {repeats}")
            for mine in turns.values():
                mine.append([])
            for done in range(0, steps, TURN):
                now = min(TURN, steps - done)
                for name, process in running.items():
                    turns[name][-1].append(1e6 * process.ask("run", steps=now)["seconds"] / now)
    timed = []
    for name in names:
        if name in failed:
            timed.append(Timed(engine=name, error=failed[name]))
            continue
        pairs = list(zip(turns[name], turns[RAW], strict=True))
        more = [statistics.median(a - b for a, b in zip(mine, raw, strict=True)) for mine, raw in pairs]
        timed.append(Timed(engine=name, micro=[statistics.median(mine) for mine, _ in pairs], more=more))
    return timed


def check_weights(weights: Sequence[float], expected: Sequence[float]) -> None:
    """Raise RuntimeError unless the sums of |w| are those expected, up to rounding."""
    if len(weights) != len(expected):
        raise RuntimeError(f"it has trained {len(weights)} parameters, the loop by hand {len(expected)}")
    for number, (mine, other) in enumerate(zip(weights, expected, strict=True)):
        if abs(mine - other) > TOLERANCE * max(abs(other), 1e-6):
            raise RuntimeError(
                f"after {CHECKED_STEPS} steps, the sum of |w| of parameter {number} is {mine:.6g}, that of the loop by "
                f"hand {other:.6g}: it does other work"
            )


def absent(names: Sequence[str]) -> list[str]:
    """A line for each engine that is not installed, with the command that installs it."""
    lines = {}
    for name in names:
        engine = ENGINES[name]
        if modules := missing(engine):
            lines[engine.install] = (
                f"{engine.needs[-1]} is not installed ({', '.join(modules)} missing), so it is not measured: pip "
                f"install {engine.install}, best into an environment of its own"
            )
    return list(lines.values())


def trainers_table(
    names: Sequence[str] | None = None,
    *,
    steps: int = STEPS,
    repeats: int = REPEATS,
    threads: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> Table:
    """All engines that are installed, over the loop by hand; notes say which are not."""
    names = list(names or ENGINES)
    found = time_engines(
        [name for name in names if not missing(ENGINES[name])],
        steps=steps,
        repeats=repeats,
        threads=threads,
        progress=progress,
    )
    rows = []
    for one in found:
        what = ENGINES[one.engine].what
        if one.error:
            rows.append((one.engine, what, "–", f"failed: {one.error}", ""))
            continue
        more = "–" if one.engine == RAW else spread_of(one.more).text()
        goal = "below the others" if ENGINES[one.engine].ours else ""
        rows.append((one.engine, what, f"{statistics.median(one.micro):.0f}", more, goal))
    versions = [f"{name} {_version(name)}" for name in ("torch", "lightning", "accelerate")]
    return Table(
        title="Engines over a loop by hand, per step",
        columns=("engine", "setting", "µs", "more µs (spread)", "goal"),
        right=("µs", "more µs (spread)"),
        rows=rows,
        notes=(
            f"{', '.join(versions)}. MLP {SIZES}, Adam, k = {K}, {threads} thread, each in a process of its own; turns "
            f"of {TURN} steps one after the other, {steps:,} steps of each in a repeat, {repeats} repeats: medians of "
            "the differences of neighbouring turns, and of the repeats median (least–most). Weights after "
            f"{CHECKED_STEPS} steps were equal. Ours also reads and shuffles (but for given data), and computes the "
            "norm of the gradient and whether all is finite, before every update.",
            *absent(names),
        ),
        figures=[asdict(one) for one in found],
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def main(
    steps: Annotated[int, typer.Option(min=1, help="Steps of each engine in a repeat.")] = STEPS,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats behind each figure.")] = REPEATS,
    threads: Annotated[int, typer.Option(min=1, help="That torch computes with.")] = 1,
) -> None:
    """Engines over a loop by hand."""
    say = screen(stderr=True).print
    print_table(trainers_table(steps=steps, repeats=repeats, threads=threads, progress=say), screen())


if __name__ == "__main__":
    typer.run(main)
