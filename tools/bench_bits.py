"""What promise="bits" costs beside "math", for leaves of several sizes: time by its parts, and memory.

python -m minibatch.tools.bench_bits [--samples 256] [--steps 20] [--repeats 5]

"bits" is slower for two reasons. The samples go through the model leaf by leaf: measured by "math" in microbatches of a
leaf, which is the same passes. And gradients are added exactly: the rest. Memory is that of fresh processes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from minibatch.errors import require
from minibatch.limits import text_of
from minibatch.tools.bench_engine import torch_threads
from minibatch.tools.bench_engine_cases import keyed, mlp
from minibatch.tools.bench_tables import Spread, Table, in_turns, print_table, spread_of
from minibatch.tools.screen import screen

if TYPE_CHECKING:
    import torch

    from minibatch.train import Trainer

Model = Literal["MLP", "conv net"]
MODELS: tuple[Model, ...] = ("MLP", "conv net")
LEAVES = (8, 16, 32, 64)
SAMPLES, STEPS, REPEATS = 256, 20, 5
SIDE, CLASSES = 16, 10
SIZES = (3 * SIDE * SIDE, 512, 512, CLASSES)  # 0.66 million parameters: much to add up for the work of a sample


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to compute a step: of `leaf_size` samples a pass (0: all in one), with the exact sum or without."""

    promise: Literal["math", "bits"]
    leaf_size: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What leaves of one size cost. ratio: bits ÷ math in one pass, passes: math in microbatches ÷ math in one pass.

    summing_ms: per step, bits less the same passes; per_leaf_us: of that, for each leaf. sums_bytes: what is held
    between leaves. peak: bytes of the process beyond those before its first step, under bits; math_peak: under math in
    one pass.
    """

    model: str
    leaf_size: int
    leaves: int
    parameters: int
    math_ms: float
    bits_ms: float
    ratio: Spread
    passes: Spread
    summing_ms: Spread
    per_leaf_us: float
    sums_bytes: int
    peak: int
    math_peak: int


def measure_bits(
    model: Model,
    *,
    samples: int = SAMPLES,
    leaves: Sequence[int] = LEAVES,
    steps: int = STEPS,
    repeats: int = REPEATS,
    threads: int | None = 1,
    memory: bool = True,
) -> list[Cost]:
    """The costs of leaves of every size, and of the whole minibatch as one, for a model."""
    require("torch", "train", "measuring promise='bits'")
    sizes = [*(size for size in leaves if size < samples), samples]
    ways = [Way(promise="math", leaf_size=0)]
    ways += [Way(promise=promise, leaf_size=size) for size in sizes for promise in ("math", "bits")]
    with torch_threads(threads), tempfile.TemporaryDirectory() as folder:
        trainers = [make_trainer(Path(folder), model, way, samples) for way in ways]
        try:
            loops = [_loop(trainer) for trainer in trainers]
            for loop in loops:
                loop(2)
            measured = [in_turns(loops, steps, max(1, steps // 5), time.perf_counter) for _ in range(repeats)]
        finally:
            for trainer in trainers:
                assert trainer.source is not None
                trainer.source.close()
    parameters = sum(parameter.numel() for parameter in trainers[0].model.parameters())
    math_peak = peak_of(model, ways[0], samples, threads) if memory else 0
    costs = []
    for size in sizes:
        passes, bits = ways.index(Way(promise="math", leaf_size=size)), ways.index(Way(promise="bits", leaf_size=size))
        summing = spread_of([1e3 * (one[bits] - one[passes]) for one in measured])
        exact = trainers[bits].gradient.exact
        assert exact is not None
        costs.append(
            Cost(
                model=model,
                leaf_size=size,
                leaves=samples // size,
                parameters=parameters,
                math_ms=1e3 * statistics.median(one[0] for one in measured),
                bits_ms=1e3 * statistics.median(one[bits] for one in measured),
                ratio=spread_of([one[bits] / one[0] for one in measured]),
                passes=spread_of([one[passes] / one[0] for one in measured]),
                summing_ms=summing,
                per_leaf_us=1e3 * summing.median * size / samples,
                sums_bytes=_held(exact),
                peak=peak_of(model, ways[bits], samples, threads) if memory else 0,
                math_peak=math_peak,
            )
        )
    return costs


def _held(exact: Any) -> int:
    """Bytes of the sums that are kept between leaves."""
    return sum(sums.numel() * sums.element_size() for sums in exact._sums.values())


def _loop(trainer: Trainer) -> Callable[[int], None]:
    def loop(steps: int) -> None:
        for _ in range(steps):
            trainer.train_minibatch()

    return loop


def make_trainer(folder: Path, model: Model, way: Way, samples: int) -> Trainer:
    """A Trainer of the model whose minibatches have `samples` samples; Adam, the mean cross entropy, no folder."""
    import torch

    from minibatch import MinibatchSource
    from minibatch.train import Term, Trainer, cross_entropy, on

    built = mlp(SIZES) if model == "MLP" else conv_net()
    return Trainer(
        built,
        Term("class", on(cross_entropy, "label")),
        torch.optim.Adam(built.parameters(), lr=1e-3),
        MinibatchSource(write_images(folder / "data", 4 * samples), seed=7),
        samples,
        None if way.promise == "bits" or not way.leaf_size else way.leaf_size,
        inputs=forward,
        promise=way.promise,
        leaf_size=way.leaf_size or samples,
    )


def forward(model: torch.nn.Module, batch: Any) -> torch.Tensor:
    """The logits of a model of images or of vectors."""
    import torch

    image = batch["image"]
    logits: torch.Tensor = model(image.flatten(1) if isinstance(model[0], torch.nn.Linear) else image)  # type: ignore[index]
    return logits


def write_images(path: Path, rows: int) -> Path:
    """A data set of images float32 (3, 16, 16) with labels."""
    import numpy as np

    from minibatch import DatasetWriter, rng

    if not path.exists():
        with DatasetWriter(path) as writer:
            values = rng.normal(rng.key(0, "bench.images"), np.arange(rows * 3 * SIDE * SIDE)).astype(np.float32)
            labels = rng.integers(rng.key(0, "bench.label"), np.arange(rows), CLASSES)
            writer.write({"image": values.reshape(rows, 3, SIDE, SIDE), "label": labels})
    return path


def conv_net() -> torch.nn.Module:
    """Three convolutions 3×3 with 32, 64 and 64 channels, and a linear layer: 57 thousand parameters."""
    from torch import nn

    convolutions: list[nn.Module] = []
    for before, after, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 2)):
        convolutions += [nn.Conv2d(before, after, 3, padding=1, stride=stride, device="meta"), nn.ReLU()]
    return keyed([*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES, device="meta")])


def peak_of(model: Model, way: Way, samples: int, threads: int | None) -> int:
    """Bytes by which a fresh process grows, at most, in five steps."""
    job = {"model": model, "way": asdict(way), "samples": samples, "threads": threads}
    command = [sys.executable, "-m", "minibatch.tools.bench_bits", "--child", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a measuring process failed with exit code {done.returncode}: {done.stderr.strip()[-800:]}")
    return int(done.stdout.split()[-1])


def child(job: dict[str, Any]) -> int:
    """The growth of this process in five steps, bytes: parameters, data and libraries are there before."""
    with torch_threads(job["threads"]), tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(Path(folder), job["model"], Way(**job["way"]), job["samples"])
        assert trainer.source is not None
        trainer.source.next_minibatch(job["samples"])
        trainer.source.seek(0)
        begin = forget_peak()
        _loop(trainer)(5)
        grown = peak_memory() - begin
        trainer.source.close()
    return max(0, grown)


def forget_peak() -> int:
    """Let the most memory of this process be what it has now; that, in bytes. 0 where only Linux could tell."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return peak_memory()
    return 0


def peak_memory() -> int:
    """The most memory this process has had since `forget_peak`, bytes; 0 where only Linux could tell."""
    for line in text_of(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def bits_table(
    *,
    samples: int = SAMPLES,
    steps: int = STEPS,
    repeats: int = REPEATS,
    models: Sequence[Model] = MODELS,
    leaves: Sequence[int] = LEAVES,
    threads: int | None = 1,
    memory: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> Table:
    """ "bits" beside "math", for both models and all leaves."""
    costs: list[Cost] = []
    for model in models:
        progress(f"bits: {model}")
        costs += measure_bits(
            model, samples=samples, leaves=leaves, steps=steps, repeats=repeats, threads=threads, memory=memory
        )
    figures = ("math ms", "bits ms", "bits ÷ math", "passes ÷ math", "summing ms", "µs a leaf", "sums MB", "peak MB")
    return Table(
        title='promise="bits" beside "math"',
        columns=("model", "leaf", *figures),
        right=("leaf", *figures),
        rows=[
            (
                f"{cost.model}, {cost.parameters / 1e3:,.0f} k",
                "whole" if cost.leaves == 1 else str(cost.leaf_size),
                f"{cost.math_ms:.2f}",
                f"{cost.bits_ms:.2f}",
                cost.ratio.text(2),
                cost.passes.text(2),
                cost.summing_ms.text(2),
                f"{cost.per_leaf_us:.0f}",
                f"{cost.sums_bytes / 1e6:.1f}",
                f"{cost.peak / 1e6:.0f} ({cost.math_peak / 1e6:.0f})" if cost.peak else "–",
            )
            for cost in costs
        ],
        notes=(
            f"{samples} samples a step, images 3×{SIDE}×{SIDE}, Adam; {steps} steps of each in turns, {repeats} times. "
            'math: all samples in one pass. passes: "math" in microbatches of a leaf, the same passes without the '
            "exact sum. summing: the rest. sums: what is held between leaves, two float64 a value; peak: growth of a "
            'fresh process in five steps, the state of Adam included (in brackets: "math").',
        ),
        figures=[asdict(cost) for cost in costs],
    )


def main(
    samples: Annotated[int, typer.Option(min=8, help="Samples a step.")] = SAMPLES,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each way in a repeat.")] = STEPS,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats behind each figure.")] = REPEATS,
    of_child: Annotated[str | None, typer.Option("--child", hidden=True)] = None,
) -> None:
    """What promise="bits" costs."""
    if of_child is not None:
        print(child(json.loads(of_child)))
        return
    table = bits_table(samples=samples, steps=steps, repeats=repeats, progress=screen(stderr=True).print)
    print_table(table, screen())


if __name__ == "__main__":
    typer.run(main)
