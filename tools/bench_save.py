"""How long training stalls for a checkpoint: written by a thread while it goes on, and with everybody waiting for it.

python -m minibatch.tools.bench_save [--saves 7] [--step-ms 50]

An MLP of 12 million parameters with Adam, 140 MB of state. Windows of steps are measured in turns: without a save, with
`save_checkpoint(wait=False)` before the first of them, with `wait=True`. The extra time of the first step is the stall;
that of the rest of the window is what the writing thread takes from training meanwhile.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from minibatch.errors import require
from minibatch.tools.bench_engine import torch_threads
from minibatch.tools.bench_engine_cases import mlp
from minibatch.tools.bench_tables import Spread, Table, print_table, spread_of
from minibatch.tools.screen import screen, size_text

if TYPE_CHECKING:
    from minibatch.train import Trainer

Kind = Literal["no save", "wait=False", "wait=True"]
KINDS: tuple[Kind, ...] = ("no save", "wait=False", "wait=True")
SIZES = (256, 2304, 2304, 2304, 256)
STEP_MS, SAVES, WINDOW = 50.0, 7, 12
SAMPLES = (8, 16, 32, 64, 128, 256, 512)  # minibatch sizes tried for a step of the length asked for


@dataclass(frozen=True, kw_only=True)
class Stall:
    """What saving costs, in ms. step_ms: the median step without a save; k: its minibatch size.

    call: of `save_checkpoint` itself. first, mean_of_first: the extra time of the step with the save, as spread and
    mean; rest: of all later steps of the window together, beyond as many of a window without a save; longest: the extra
    time of the longest of these.
    """

    kind: Kind
    call: Spread
    first: Spread
    mean_of_first: float
    rest: Spread
    longest: float


@dataclass(frozen=True, kw_only=True)
class Saves:
    """All that was measured. write_ms: the whole of `save_checkpoint(wait=True)`, by itself."""

    step_ms: float
    samples: int
    parameters: int
    state_bytes: int
    write_ms: Spread
    stalls: tuple[Stall, ...]


def measure_saves(
    *,
    saves: int = SAVES,
    window: int = WINDOW,
    step_ms: float = STEP_MS,
    threads: int | None = 1,
    sizes: tuple[int, ...] = SIZES,
    folder: Path | None = None,
) -> Saves:
    """The stalls of `saves` checkpoints of each kind. folder: on the disk that is meant, else a temporary one."""
    require("torch", "train", "measuring checkpoints")
    with torch_threads(threads), tempfile.TemporaryDirectory(dir=folder) as path:
        trainer, samples = trainer_with_step(Path(path), step_ms, sizes)
        try:
            trainer.save_checkpoint()  # the first save makes the memory that later ones use again
            trainer.save_checkpoint(wait=False)
            trainer.wait_for_saves()
            writes: list[float] = []
            windows: dict[Kind, list[list[float]]] = {kind: [] for kind in KINDS}
            calls: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
            for _ in range(saves):
                for kind, mine in windows.items():
                    call, steps = _window(trainer, kind, window)
                    mine.append(steps)
                    calls[kind].append(call)
                    trainer.wait_for_saves()
                writes.append(_milliseconds(trainer.save_checkpoint))
            state_bytes = _bytes_below(Path(path) / "run" / "checkpoints") // 2
        finally:
            trainer.close()
            assert trainer.source is not None
            trainer.source.close()
    plain = windows["no save"]
    step = statistics.median(one for steps in plain for one in steps)
    calm = sum(statistics.median(steps[number] for steps in plain) for number in range(1, window))
    return Saves(
        step_ms=step,
        samples=samples,
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        state_bytes=state_bytes,
        write_ms=spread_of(writes),
        stalls=tuple(
            Stall(
                kind=kind,
                call=spread_of(calls[kind]),
                first=spread_of([steps[0] - step for steps in mine]),
                mean_of_first=statistics.mean(steps[0] - step for steps in mine),
                rest=spread_of([sum(steps[1:]) - calm for steps in mine]),
                longest=max(max(steps[1:], default=step) for steps in mine) - step,
            )
            for kind, mine in windows.items()
        ),
    )


def _window(trainer: Trainer, kind: Kind, steps: int) -> tuple[float, list[float]]:
    """Milliseconds of the save alone, and of every step of a window; the save belongs to the first."""
    call = 0.0 if kind == "no save" else _milliseconds(lambda: trainer.save_checkpoint(wait=kind == "wait=True"))
    found = [_milliseconds(trainer.train_minibatch) for _ in range(steps)]
    return call, [call + found[0], *found[1:]]


def _milliseconds(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - begun)


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def trainer_with_step(folder: Path, step_ms: float, sizes: tuple[int, ...]) -> tuple[Trainer, int]:
    """A Trainer whose step takes about `step_ms`, by its minibatch size, which is returned, too; warmed up."""
    import numpy as np
    import torch

    from minibatch import DatasetWriter, MinibatchSource, rng
    from minibatch.train import Term, Trainer, mse, on

    rows = 2 * max(SAMPLES)
    with DatasetWriter(folder / "data") as writer:
        x = rng.normal(rng.key(0, "bench.x"), np.arange(rows * sizes[0])).astype(np.float32).reshape(rows, -1)
        writer.write({"x": x, "y": np.zeros((rows, sizes[-1]), np.float32)})
    model = mlp(sizes)
    trainer = Trainer(
        model,
        Term("fit", on(mse, "y")),
        torch.optim.Adam(model.parameters(), lr=1e-5),
        MinibatchSource(folder / "data", seed=7),
        SAMPLES[0],
        inputs="x",
        folder=folder / "run",
        keep_last=2,
    )
    nearest: tuple[float, int] | None = None
    for samples in SAMPLES:
        trainer.minibatch_size = samples
        trainer.train_minibatch()
        milliseconds = statistics.median(_milliseconds(trainer.train_minibatch) for _ in range(5))
        if nearest is None or abs(milliseconds - step_ms) < nearest[0]:
            nearest = abs(milliseconds - step_ms), samples
        if milliseconds > step_ms:
            break
    assert nearest is not None
    trainer.minibatch_size = nearest[1]
    return trainer, nearest[1]


def save_table(
    *,
    saves: int = SAVES,
    window: int = WINDOW,
    step_ms: float = STEP_MS,
    threads: int | None = 1,
    sizes: tuple[int, ...] = SIZES,
    folder: Path | None = None,
) -> Table:
    """The stall of a checkpoint, in ms and in steps."""
    found = measure_saves(saves=saves, window=window, step_ms=step_ms, threads=threads, sizes=sizes, folder=folder)
    return Table(
        title=f"Saving beside a step of {found.step_ms:.0f} ms",
        columns=("save", "call ms", "stall ms (spread)", "mean", "most, in steps", "later steps ms", "longest", "goal"),
        right=("call ms", "stall ms (spread)", "mean", "most, in steps", "later steps ms", "longest"),
        rows=[
            (
                stall.kind,
                f"{stall.call.median:.0f}",
                stall.first.text(0),
                f"{stall.mean_of_first:.1f}",
                f"{stall.first.most / found.step_ms:.2f}",
                stall.rest.text(0),
                f"{stall.longest:.1f}",
                "< 1 step" if stall.kind == "wait=False" else "",
            )
            for stall in found.stalls
        ],
        notes=(
            f"{found.parameters / 1e6:.1f} million parameters with Adam, {size_text(found.state_bytes)} a checkpoint; "
            f"k = {found.samples}; {saves} windows of {window} steps of each kind, in turns. call: save_checkpoint "
            "alone; stall: the extra time of the step with it over the median step without; later steps: the extra "
            "time of all others of the window together, and of the longest of them. A save by itself takes "
            f"{found.write_ms.text(0)} ms, synced.",
        ),
        figures=[{"step_ms": found.step_ms, "write_ms": asdict(found.write_ms), **asdict(s)} for s in found.stalls],
    )


def main(
    saves: Annotated[int, typer.Option(min=1, help="Checkpoints of each kind.")] = SAVES,
    step_ms: Annotated[float, typer.Option(min=0.1, help="How long a step should take.")] = STEP_MS,
    folder: Annotated[Path | None, typer.Option(help="A folder on the disk that is meant.")] = None,
) -> None:
    """The stall of a checkpoint."""
    print_table(save_table(saves=saves, step_ms=step_ms, folder=folder), screen())


if __name__ == "__main__":
    typer.run(main)
