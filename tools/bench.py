"""`minibatch bench`: how fast order, reader and engine are, as ratios to plain alternatives measured in the same run.

Each comparison takes turns (A B A B …) in one process after a warm-up of both, and reports medians with their spread:
absolute figures of a shared machine mean little, ratios of neighbouring runs mean more.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from minibatch import Dataset, DatasetWriter, MinibatchSource, Window, __version__
from minibatch.kernels.limit import bare_gather
from minibatch.order import make_order

PARTS = ("order", "reader", "engine")
# rows, shape of a row, dtype, minibatch size; the second field is an int64 label
WORKLOADS: dict[str, tuple[int, tuple[int, ...], str, int]] = {
    "W1": (1_000_000, (784,), "uint8", 256),
    "W2": (2_000_000, (32,), "float32", 1024),
    "W3": (200_000, (2048,), "uint16", 16),
    "W4": (6_000, (224, 224, 3), "uint8", 64),
}
REPEATS = 7


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison: our rate and theirs (median of the repeats), and the ratio of the pairs with its spread."""

    name: str
    unit: str
    ours: float
    theirs: float
    against: str
    ratio: float
    least: float
    most: float
    goal: str


def compare(
    ours: Callable[[], float], theirs: Callable[[], float], *, name: str, unit: str, against: str, goal: str
) -> Row:
    """Rates of two functions that each do their work once and return it, measured in turns."""
    ours(), theirs()
    pairs = [(ours(), theirs()) for _ in range(REPEATS)]
    ratios = sorted(a / b for a, b in pairs)
    return Row(
        name=name,
        unit=unit,
        ours=float(np.median([a for a, _ in pairs])),
        theirs=float(np.median([b for _, b in pairs])),
        against=against,
        ratio=ratios[len(ratios) // 2],
        least=ratios[0],
        most=ratios[-1],
        goal=goal,
    )


def bench_order(rows: int = 10_000_000) -> list[Row]:
    """Places a second of each order against NumPy's permutation of the same number of elements."""
    generator = np.random.default_rng(0)

    def shuffled() -> float:
        start = time.perf_counter()
        generator.permutation(rows)
        return rows / (time.perf_counter() - start)

    def ordered(shuffle: Any) -> Callable[[], float]:
        order = make_order(shuffle, rows=rows, chunk_rows=10_000, seed=7)
        block = np.empty(65_536, np.int64)  # as the reader does: the order of a sweep is never held

        def run() -> float:
            start = time.perf_counter()
            for place in range(0, rows - len(block), len(block)):
                order.fill(place, block)
            return (rows // len(block) * len(block)) / (time.perf_counter() - start)

        return run

    kinds = {"full": "full", "windowed": Window(rows=1_000_000), "sequential": None}
    against = f"numpy permutation, n = {rows:.0e}"
    return [
        compare(ordered(shuffle), shuffled, name=f"order: {kind}", unit="places/s", against=against, goal="> 1")
        for kind, shuffle in kinds.items()
    ]


def make_workload(folder: Path, rows: int, shape: tuple[int, ...], dtype: str) -> tuple[Dataset, Any]:
    """The data set of a workload and the same rows as one plain memory map, both written once."""
    width = int(np.prod(shape))
    raw = np.memmap(folder / "raw", dtype, "w+", shape=(rows, width))
    generator = np.random.default_rng(0)
    with DatasetWriter(folder / "dataset") as writer:
        for start in range(0, rows, 50_000):
            stop = min(rows, start + 50_000)
            raw[start:stop] = generator.integers(0, 200, (stop - start, width)).astype(dtype)
            writer.write({"x": raw[start:stop].reshape(-1, *shape), "label": np.arange(start, stop)})
    return Dataset.open(folder / "dataset"), raw


def bench_reader(workload: str) -> Row:
    """`next_minibatch` against a bare one-thread gather of the same rows with row numbers known beforehand."""
    rows, shape, dtype, k = WORKLOADS[workload]
    with tempfile.TemporaryDirectory() as name:
        dataset, raw = make_workload(Path(name), rows, shape, dtype)
        labels = np.arange(rows)
        known = np.random.default_rng(0).permutation(rows)
        steps = max(8, min(rows // k, int(1.5e9 / (k * raw.shape[1] * raw.itemsize))))

        def limit() -> float:
            start = time.perf_counter()
            for step in range(steps):
                wanted = known[(step * k) % (rows - k) :][:k]
                out = np.empty((k, raw.shape[1]), dtype)
                bare_gather(raw, wanted, out)
                np.take(labels, wanted, out=np.empty(k, np.int64), mode="clip")
            return steps * k / (time.perf_counter() - start)

        def ours() -> float:
            with MinibatchSource(dataset, seed=1) as source:
                source.next_minibatch(k)
                start = time.perf_counter()
                for _ in range(steps):
                    batch = source.next_minibatch(k)
                    batch["x"], batch["label"]
                return steps * k / (time.perf_counter() - start)

        described = f"reader {workload}: {rows:,} × {'×'.join(map(str, shape))} {dtype}, k = {k}"
        goal = "≥ 0.75" if workload == "W2" else "≥ 0.85"
        return compare(ours, limit, name=described, unit="rows/s", against="bare gather, one thread", goal=goal)


def machine() -> dict[str, str]:
    """What a result must say about where it was measured."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "machine": f"{processor}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "minibatch": f"{__version__} ({commit.stdout.strip() or 'no commit'})",
        "date": time.strftime("%Y-%m-%d"),
    }


def as_markdown(rows: list[Row], engine: dict[str, Any] | None) -> str:
    """The results as they go into benchmarks/."""
    lines = [f"- {name}: {value}" for name, value in machine().items()]
    lines += [f"- command: `minibatch {' '.join(sys.argv[1:])}`", f"- {REPEATS} pairs a row, in turns, one process", ""]
    if rows:
        lines += ["| what | ours | against | theirs | ratio (spread) | goal |", "|---|--:|---|--:|--:|--:|"]
    for row in rows:
        rates = f"{millions(row.ours)} {row.unit} | {row.against} | {millions(row.theirs)}"
        lines.append(f"| {row.name} | {rates} | {spread_of(row)} | {row.goal} |")
    if engine is not None:
        lines += ["", engine_line(engine)]
    return "\n".join(lines) + "\n"


def millions(rate: float) -> str:
    """A rate in millions.

    >>> millions(12_883_375), millions(154_429)
    ('12.9 M', '0.154 M')
    """
    return f"{rate / 1e6:,.1f} M" if rate >= 1e6 else f"{rate / 1e6:.3f} M"


def spread_of(row: Row) -> str:
    """The median ratio, and its least and most."""
    return f"{row.ratio:.2f} ({row.least:.2f}–{row.most:.2f})"


def engine_line(engine: dict[str, Any]) -> str:
    """The engine's overhead in a sentence."""
    return (
        f"Engine: {engine['overhead_us']:.0f} µs a step over a raw loop of the same work "
        f"({engine['overhead_us_least']:.0f}–{engine['overhead_us_most']:.0f}; the raw step takes "
        f"{engine['raw_us']:.0f} µs; goal < 50): Adam, MLP {engine['model']}, k = {engine['minibatch_size']}, "
        f"{engine['steps']} steps in turns, {engine['repeats']} times, {engine['threads']} thread"
    )


def bench(
    parts: Annotated[list[str] | None, typer.Argument(help=f"Any of {', '.join(PARTS)}; all if none is named.")] = None,
    workload: Annotated[list[str] | None, typer.Option(help="Workloads of the reader: W1 … W4.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    write: Annotated[Path | None, typer.Option(help="Also write the results to this markdown file.")] = None,
) -> None:
    """Measure throughput against plain alternatives, in one run; use an idle machine."""
    chosen = parts or list(PARTS)
    loads = workload or ["W1"]
    for name, known in [*((part, PARTS) for part in chosen), *((load, tuple(WORKLOADS)) for load in loads)]:
        if name not in known:
            raise ValueError(f"unknown {name!r}: expected one of {', '.join(known)}")
    console = Console(stderr=json_output)
    rows: list[Row] = []
    engine: dict[str, Any] | None = None
    with console.status("measuring") as status:
        if "order" in chosen:
            status.update("order")
            rows += bench_order()
        for load in loads if "reader" in chosen else ():
            status.update(f"reader {load}: writing the data, then {REPEATS} pairs")
            rows.append(bench_reader(load))
        if "engine" in chosen:
            status.update("engine")
            from minibatch.tools.bench_engine import engine_overhead

            engine = engine_overhead()
    if json_output:
        print(json.dumps({"machine": machine(), "rows": [vars(row) for row in rows], "engine": engine}, indent=1))
    else:
        table = Table("what, and against what", "ours", "ratio (spread)", "goal")
        for row in rows:
            table.add_row(f"{row.name}\n  {row.against}", f"{millions(row.ours)} {row.unit}", spread_of(row), row.goal)
        if rows:
            console.print(table)
        if engine is not None:
            console.print(engine_line(engine), highlight=False)
    if write is not None:
        write.write_text(as_markdown(rows, engine), encoding="utf-8")
