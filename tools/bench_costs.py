"""What the engine costs beside its steps: a line of the ledger, a self-check, and the time to the first step.

python -m minibatch.tools.bench_costs
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from minibatch.errors import require
from minibatch.tools.bench_engine import torch_threads
from minibatch.tools.bench_engine_cases import CASES, K, make_engine, make_raw, write_data
from minibatch.tools.bench_pairs import PAIRS
from minibatch.tools.bench_tables import Spread, Table, in_turns, print_table, spread_of
from minibatch.tools.screen import screen

LINES, FLUSHED_EVERY = 2_000, 50
STEP_US = 5_000.0  # of the step that the goal is meant for: 5 ms
LEDGER_GOAL = 0.01


def ledger_line_us(lines: int = LINES, repeats: int = PAIRS) -> Spread:
    """Microseconds for a line of the ledger: made, kept, and written at log points, as a run does it."""
    from minibatch.train.ledger import Lines, line_of

    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = make_engine(Path(folder), CASES["plain"])
        results = [trainer.train_minibatch() for _ in range(FLUSHED_EVERY)]
        _close(trainer)
        found = []
        for repeat in range(repeats):
            ledger = Lines(Path(folder) / f"{repeat}.jsonl")
            begun = time.perf_counter()
            for number in range(lines):
                ledger.add(line_of(results[number % FLUSHED_EVERY]))
                if number % FLUSHED_EVERY == FLUSHED_EVERY - 1:
                    ledger.flush()
            found.append(1e6 * (time.perf_counter() - begun) / lines)
    return spread_of(found)


def ledger_step_us(steps: int = LINES, repeats: int = PAIRS) -> Spread:
    """Microseconds by which a ledger in a folder makes a whole step longer: two engines in turns."""
    with tempfile.TemporaryDirectory() as folder:
        made = [make_engine(Path(folder), CASES[case]) for case in ("ledger", "plain")]
        try:
            loops = [loop for _, loop in made]
            for loop in loops:
                loop(min(200, steps))
            pairs = [in_turns(loops, steps, 2 * FLUSHED_EVERY, time.perf_counter) for _ in range(repeats)]
        finally:
            for trainer, _ in made:
                _close(trainer)
    return spread_of([1e6 * (a - b) for a, b in pairs])


def selfcheck_steps(repeats: int = PAIRS) -> tuple[Spread, Spread]:
    """Milliseconds of a self-check of the small network's run, and how many of its steps that is."""
    from minibatch.train.selfcheck import selfcheck

    with tempfile.TemporaryDirectory() as folder:
        trainer, loop = make_engine(Path(folder), CASES["plain"])
        loop(20)

        def check(times: int) -> None:
            for _ in range(times):
                selfcheck(trainer)

        check(1)
        pairs = [in_turns((check, loop), 1, 1, time.perf_counter) for _ in range(repeats)]
        _close(trainer)
    return spread_of([1e3 * check for check, _ in pairs]), spread_of([check / step for check, step in pairs])


def first_steps(pairs: int = PAIRS) -> list[dict[str, dict[str, float]]]:
    """Seconds of fresh processes to the end of their first step, of the engine and of a loop by hand, and of their
    parts.

    seconds: from before the process was started; torch, engine: of importing both; construction; step: the first one.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder) / "data")
        for who in ("engine", "by hand"):
            first_step(who, folder)
        return [{who: first_step(who, folder) for who in ("engine", "by hand")} for _ in range(pairs)]


def first_step(who: str, folder: str) -> dict[str, float]:
    """The same of one fresh process."""
    begun = time.clock_gettime(time.CLOCK_MONOTONIC)
    command = [sys.executable, "-m", "minibatch.tools.bench_costs", who, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a measuring process failed with exit code {done.returncode}: {done.stderr.strip()[-800:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    found["seconds"] = found.pop("at") - begun
    return found


def child(who: str, folder: str) -> dict[str, float]:
    """Import, make what is needed and do one step; when that was done, and how long each took."""
    marks = [time.perf_counter()]

    def mark() -> None:
        marks.append(time.perf_counter())

    import torch  # noqa: F401

    mark()
    if who == "engine":
        import minibatch.train  # noqa: F401
    mark()
    with tempfile.TemporaryDirectory() as own:
        (Path(own) / "data").symlink_to(Path(folder) / "data")
        loop: Callable[[int], None]
        if who == "engine":
            trainer, loop = make_engine(Path(own), CASES["ledger"])
            mark()
            loop(1)
            at = time.clock_gettime(time.CLOCK_MONOTONIC)
            mark()
            _close(trainer)
        else:
            _, source, loop = make_raw(Path(own), CASES["plain"])
            mark()
            loop(1)
            at = time.clock_gettime(time.CLOCK_MONOTONIC)
            mark()
            source.close()
    parts = [b - a for a, b in pairwise(marks)]
    return {"at": at, **dict(zip(("torch", "engine", "construction", "step"), parts, strict=True))}


def _close(trainer: Any) -> None:
    trainer.close()
    trainer.source.close()


def costs_table(
    *,
    repeats: int = PAIRS,
    lines: int = LINES,
    threads: int | None = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> Table:
    """Ledger, self-check and first step."""
    require("torch", "train", "measuring the engine")
    with torch_threads(threads):
        progress("a line of the ledger")
        line, step = ledger_line_us(lines, repeats), ledger_step_us(lines, repeats)
        progress("a self-check")
        check_ms, check_steps = selfcheck_steps(repeats)
    progress("fresh processes")
    starts = first_steps(repeats)
    engine = spread_of([one["engine"]["seconds"] for one in starts])
    more = spread_of([one["engine"]["seconds"] - one["by hand"]["seconds"] for one in starts])
    parts = {
        name: spread_of([one["engine"][part] for one in starts]).median
        for name, part in (
            ("torch", "torch"),
            ("minibatch.train", "engine"),
            ("construction", "construction"),
            ("step", "step"),
        )
    }
    said = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items())
    return Table(
        title="Beside the steps",
        columns=("what", "figure (spread)", "of a 5 ms step", "goal"),
        right=("figure (spread)", "of a 5 ms step"),
        rows=[
            (
                "a line of the ledger, by itself",
                f"{line.text()} µs",
                f"{line.median / STEP_US:.2%}",
                f"< {LEDGER_GOAL:.0%}",
            ),
            (
                "a step with ledger over one without",
                f"{step.text()} µs",
                f"{step.median / STEP_US:.2%}",
                f"< {LEDGER_GOAL:.0%}",
            ),
            ("a self-check", f"{check_ms.text()} ms", "", ""),
            ("the same, in steps", check_steps.text(), "", ""),
            ("start of Python to the end of the first step", f"{engine.text(2)} s", "", ""),
            ("the same over a loop by hand with the same source", f"{more.text(2)} s", "", ""),
        ],
        notes=(
            f"MLP of bench_engine, k = {K}; {lines:,} lines, written every {FLUSHED_EVERY}; {repeats} repeats in "
            f"turns, median (least–most). Of the first step: import of {said}; the rest is Python and the harness.",
        ),
        figures=[
            {"ledger_line_us": line.median, "ledger_step_us": step.median, "selfcheck_ms": check_ms.median},
            *({"first step": one} for one in starts),
        ],
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(child(sys.argv[1], sys.argv[2])))
    else:
        print_table(costs_table(progress=screen(stderr=True).print), screen())
