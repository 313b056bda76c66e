"""`minibatch demo`, which is `make demo`: real data → shards → training → SIGKILL → resume → the same bits.

Everything happens in processes of its own through the command line, as a user would do it, and everything that is shown
was read back from the files they left. Without a network: the digits are those that scikit-learn ships. Takes about a
minute on two cores; ends with a table, and exit code 1 if one line of it is not as it should be.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from minibatch import MinibatchSource
from minibatch.errors import MinibatchError, require
from minibatch.tools.pictures import Lane, draw_curves, draw_strip
from minibatch.tools.screen import print_json

SEED = 7
SHOWN = 128  # samples in the strip
GOAL = 0.97  # of the held-out digits
PATIENCE_SECONDS = 300


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the closing table: what was claimed, what was seen, and whether the one bears out the other."""

    claim: str
    seen: str
    holds: bool


def command(*arguments: str | Path) -> list[str]:
    """The command line `minibatch …` for this interpreter, installed or not."""
    return [sys.executable, "-m", "minibatch.tools.cli", *map(str, arguments)]


def run(console: Console, *arguments: str | Path) -> None:
    """Run `minibatch …` and show it; its failure is ours."""
    console.print(f"[bold]$ minibatch {' '.join(map(str, arguments))}[/bold]", highlight=False)
    done = subprocess.run(command(*arguments), check=False, stdout=2 if console.stderr else None)
    if done.returncode:
        raise MinibatchError(f"`minibatch {' '.join(map(str, arguments))}` ended with exit code {done.returncode}")


def ledger_of(folder: Path) -> list[dict[str, Any]]:
    """The steps that a run has written to its ledger so far; a line being written is left out."""
    path = folder / "ledger.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def train_and_kill(console: Console, folder: Path, *arguments: str | Path, at_step: int) -> int:
    """Start a run, and kill it with SIGKILL once its ledger has reached `at_step`; the last step found there."""
    console.print(f"[bold]$ minibatch {' '.join(map(str, arguments))}[/bold]", highlight=False)
    process = subprocess.Popen(command(*arguments), stdout=2 if console.stderr else None)
    begun = time.monotonic()
    while True:
        lines = ledger_of(folder)
        if lines and lines[-1]["step"] >= at_step and any((folder / "checkpoints").glob("t-*")):
            break
        if process.poll() is not None:
            raise MinibatchError(f"the run to be killed ended by itself with exit code {process.returncode}")
        if time.monotonic() - begun > PATIENCE_SECONDS:
            process.kill()
            raise MinibatchError(f"the run to be killed did not reach step {at_step} in {PATIENCE_SECONDS} s")
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    process.wait()
    console.print(f"[red]killed[/red] with exit code {process.returncode} at step {lines[-1]['step']}")
    return int(lines[-1]["step"])


def read_lane(data: Path, title: str, *, k: int, num_ranks: int = 1) -> Lane:
    """What `num_ranks` readers, each with a source of its own, get of the first minibatches of `k`, laid side by
    side."""
    sources = [MinibatchSource(data, seed=SEED, max_samples=SHOWN) for _ in range(num_ranks)]
    rows: list[int] = []
    readers: list[int] = []
    borders: list[int] = []
    for _ in range(SHOWN // k):
        for rank, source in enumerate(sources):
            part = source.next_minibatch(k, num_data_partitions=num_ranks, partition_index=rank)
            rows += part.rows.tolist()
            readers += [rank] * part.num_samples
        borders.append(len(rows))
    for source in sources:
        source.close()
    return Lane(title=title, rows=np.array(rows), readers=np.array(readers), borders=borders)


def report_rows(data: str, k: int, state: str | None = None) -> None:
    """Print the rows of each minibatch and the state after it as a line of JSON: the process that is killed."""
    with MinibatchSource(data, seed=SEED, max_samples=SHOWN) as source:
        if state is not None:
            source.restore_from_checkpoint(json.loads(state))
        for batch in source.minibatches(k):
            print(json.dumps([batch.rows.tolist(), source.get_checkpoint_state()]), flush=True)
            time.sleep(0.05)


def killed_lane(data: Path, title: str, *, k: int, then: int) -> Lane:
    """A reader that is killed after two minibatches of `k`, and another that goes on from its state with `then`."""
    program = "import sys; from minibatch.tools.demo import report_rows as r; a = sys.argv; r(a[1], int(a[2]), *a[3:])"

    def read(*arguments: str) -> Iterator[tuple[list[int], Any]]:
        with subprocess.Popen(
            [sys.executable, "-c", program, str(data), *arguments], stdout=subprocess.PIPE, text=True
        ) as process:
            if process.stdout is None:
                raise AssertionError("the process was started with a pipe")
            try:
                for line in process.stdout:
                    rows, state = json.loads(line)
                    yield rows, state
            finally:
                process.kill()

    rows: list[int] = []
    borders: list[int] = []
    state = None
    for some, state in read(str(k)):  # noqa: B007  (the last state is what the other process gets)
        rows += some
        borders.append(len(rows))
        if len(borders) == 2:
            break  # closes the generator, which kills the process
    killed = len(rows)
    for some, _ in read(str(then), json.dumps(state)):
        rows += some
        borders.append(len(rows))
    readers = np.array([0] * killed + [2] * (len(rows) - killed))
    return Lane(title=title, rows=np.array(rows), readers=readers, borders=borders)


def strip(data: Path, picture: Path) -> Finding:
    """Read the first samples in five ways, draw them, and compare."""
    lanes = [
        read_lane(data, "k = 32", k=32),
        read_lane(data, "k = 64", k=64),
        read_lane(data, "k = 64, 2 ranks", k=64, num_ranks=2),
        read_lane(data, "k = 64, 4 ranks", k=64, num_ranks=4),
        killed_lane(data, "k = 32, killed,\nresumed with k = 24", k=32, then=24),
    ]
    with MinibatchSource(data, seed=SEED) as source:
        everything = source.dataset.read(np.arange(len(source.dataset)))
    draw_strip(picture, lanes, everything["image"], everything["label"])
    equal = sum(np.array_equal(lane.rows, lanes[0].rows) for lane in lanes)
    return Finding(
        claim="the same samples in the same order, however they are read",
        seen=f"{equal} of {len(lanes)} ways equal over {SHOWN} samples",
        holds=equal == len(lanes),
    )


def final_parameters(folder: Path) -> dict[str, Any]:
    """The parameters in the newest checkpoint of a run, by name."""
    from safetensors.numpy import load_file

    newest = sorted((folder / "checkpoints").glob("t-*"))[-1]
    return dict(load_file(newest / "model.safetensors"))


def furthest(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The largest difference between two sets of parameters, relative to the largest of each tensor."""
    return max(
        float(np.abs(a.astype(np.float64) - theirs[name]).max() / max(float(np.abs(a).max()), 1e-30))
        for name, a in ours.items()
    )


def curves(whole: Path, resumed: Path, picture: Path, killed_at: int) -> Finding:
    """Draw the losses of both runs, and compare them and the intervals they belong to."""
    ours, theirs = ledger_of(whole), ledger_of(resumed)
    same_steps = [(a["t0"], a["t1"]) for a in ours] == [(b["t0"], b["t1"]) for b in theirs]
    losses = [
        np.array([line["total_loss"] for line in lines[: min(len(ours), len(theirs))]]) for lines in (ours, theirs)
    ]
    times = np.array([line["t1"] for line in ours[: len(losses[0])]])
    draw_curves(picture, times, losses[0], losses[1], killed_at)
    most = float(np.abs(losses[0] - losses[1]).max())
    return Finding(
        claim="the loss curves of both runs coincide",
        seen=f"{len(ours)} and {len(theirs)} steps, largest difference {most:g}",
        holds=same_steps and most == 0,
    )


def shown(findings: Sequence[Finding]) -> Table:
    """The closing table."""
    table = Table("", "claim", "seen", title="what was shown", title_justify="left")
    for finding in findings:
        table.add_row("[green]✓[/green]" if finding.holds else "[red]✗[/red]", finding.claim, finding.seen)
    return table


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for data, runs and pictures; what an earlier demo left is replaced.")
    ] = Path("demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print what was shown as one JSON document.")] = False,
) -> None:
    """Convert, train, be killed, resume: the same bits, with pictures and a table."""
    for module, extra in (("torch", "train"), ("matplotlib", "train"), ("sklearn", "convert")):
        require(module, extra, "the demo")
    console = Console(stderr=as_json)  # of which the commands that are run get the stdout, too
    begun = time.monotonic()
    data, whole, killed, cut = out / "digits", out / "uninterrupted", out / "killed", out / "microbatches"
    for folder in (data, whole, killed, cut):
        shutil.rmtree(folder, ignore_errors=True)

    run(console, "convert", "sklearn:digits", data, "--quiet")
    run(console, "check", data)
    findings = [strip(data, out / "strip.png")]

    run(console, "train", "demo", "--out", whole)
    steps = len(ledger_of(whole))
    last = train_and_kill(console, killed, "train", "demo", "--out", killed, at_step=steps // 2)
    resumed_at = sorted((killed / "checkpoints").glob("t-*"))[-1].name.removeprefix("t-")
    run(console, "train", "demo", "--out", killed, "--resume")
    run(console, "train", "demo", "--out", cut, "--microbatch-size", "13")

    results = {folder: json.loads((folder / "result.json").read_text()) for folder in (whole, killed, cut)}
    accuracy = float(results[whole]["validation"]["accuracy"])
    digests = [results[folder]["parameters_digest"] for folder in (whole, killed)]
    distance = furthest(final_parameters(whole), final_parameters(cut))
    findings += [
        Finding(claim=f"at least {GOAL:.0%} of the held-out digits", seen=f"{accuracy:.2%}", holds=accuracy >= GOAL),
        Finding(
            claim=f"killed at step {last} of {steps} and resumed: the same bits",
            seen=f"parameters {digests[0][:12]}… and {digests[1][:12]}…",
            holds=digests[0] == digests[1],
        ),
        curves(whole, killed, out / "curves.png", int(resumed_at)),
        Finding(
            claim="cut into microbatches of 13: the same up to rounding",
            seen=f"parameters differ by {distance:.1e} at most, accuracy {results[cut]['validation']['accuracy']:.2%}",
            holds=distance < 1e-2,
        ),
    ]
    console.print(shown(findings))
    console.print(
        f"{time.monotonic() - begun:.0f} s; pictures: {out / 'strip.png'}, {out / 'curves.png'}", highlight=False
    )
    if as_json:
        print_json({"out": str(out), "findings": [asdict(finding) for finding in findings]})
    if not all(finding.holds for finding in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(demo)
