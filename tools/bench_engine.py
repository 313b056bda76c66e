"""What the engine costs per step beyond a loop by hand that does the same work, both in one process in turns.

python -m minibatch.tools.bench_engine [--steps 10000] [--repeats 5]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from minibatch.errors import require
from minibatch.tools.bench_engine_cases import CASES, SIZES, K, Loops, make_loops
from minibatch.tools.bench_tables import Table, in_turns, print_table, spread_of
from minibatch.tools.screen import screen

GOAL = 50.0  # microseconds a step
TURN = 100  # steps, a multiple of log_every: every turn has its share of what is done at log points
MAIN = ("plain", "ledger")  # measured over all steps, the others over a tenth of them
STEPS, REPEATS = 10_000, 7


def engine_overhead(
    case: str = "ledger", steps: int = STEPS, repeats: int = REPEATS, *, threads: int | None = 1
) -> dict[str, Any]:
    """Microseconds per step of the engine and of a loop by hand, and their difference: medians over `repeats`, spread.

    A repeat is `steps` of each in turns of a hundred; its figures are the medians of the turns. The engine also
    measures the gradient, checks that all is finite and, where the case says so, writes its ledger; the other loop does
    none of that. threads: that torch computes with meanwhile (None: as many as it has).
    """
    require("torch", "train", "measuring the engine")
    with torch_threads(threads) as used, tempfile.TemporaryDirectory() as folder:
        loops = make_loops(Path(folder), CASES[case])
        try:
            pairs = _repeated(loops, steps, repeats)
        finally:
            loops.close()
    raw, engine = spread_of([a for a, _ in pairs]), spread_of([b for _, b in pairs])
    more = spread_of([b - a for a, b in pairs])
    return {
        "case": case,
        "raw_us": raw.median,
        "engine_us": engine.median,
        "overhead_us": more.median,
        "overhead_us_least": more.least,
        "overhead_us_most": more.most,
        "steps": steps,
        "repeats": repeats,
        "minibatch_size": K,
        "model": SIZES,
        "threads": used,
    }


def _repeated(loops: Loops, steps: int, repeats: int) -> list[tuple[float, float]]:
    """Microseconds a step of the loop by hand and of the engine, `repeats` times, after a warm-up of both."""
    both = (loops.raw, loops.engine)
    for loop in both:
        loop(min(200, steps))
    found = []
    for _ in range(repeats):
        raw, engine = in_turns(both, steps, TURN, time.perf_counter)
        found.append((1e6 * raw, 1e6 * engine))
    return found


@contextmanager
def torch_threads(threads: int | None) -> Iterator[int]:
    """Inside, torch computes with so many threads (None: as many as before)."""
    import torch

    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield threads or before
    finally:
        torch.set_num_threads(before)


def overhead_table(
    steps: int = STEPS,
    repeats: int = REPEATS,
    *,
    cases: Sequence[str] = tuple(CASES),
    threads: int | None = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> Table:
    """Every feature of the engine against the loop by hand that does the same."""
    found = []
    for name in cases:
        progress(f"engine: {name}")
        of_case = steps if name in MAIN else max(1, steps // 10)
        found.append(engine_overhead(name, of_case, repeats, threads=threads))
    return Table(
        title="The engine's step beside a loop by hand",
        columns=("engine with", "loop by hand with", "by hand", "engine", "more µs (spread)", "goal"),
        right=("by hand", "engine", "more µs (spread)", "goal"),
        rows=[
            (
                one["case"],
                CASES[one["case"]].by_hand or "–",
                f"{one['raw_us']:.0f}",
                f"{one['engine_us']:.0f}",
                f"{one['overhead_us']:.1f} ({one['overhead_us_least']:.1f}–{one['overhead_us_most']:.1f})",
                f"< {GOAL:.0f}" if one["case"] in MAIN else "",
            )
            for one in found
        ],
        notes=(
            f"MLP {SIZES}, Adam, k = {K}, {found[0]['threads']} thread; {steps:,} steps of each in turns of {TURN} (a "
            f"tenth of them but for {' and '.join(MAIN)}), {repeats} times: medians of the turns, and of the repeats "
            "median (least–most). The engine also computes the norm of the gradient and checks that all is finite "
            'before the update; with "ledger" it writes a line a step. monitors: of every 50th step.',
        ),
        figures=found,
    )


def main(
    steps: Annotated[int, typer.Option(min=1, help="Steps of each loop in a repeat.")] = STEPS,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats behind each figure.")] = REPEATS,
    case: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
) -> None:
    """The engine beside loops by hand."""
    print_table(overhead_table(steps, repeats, cases=case or tuple(CASES)), screen())


if __name__ == "__main__":
    typer.run(main)
