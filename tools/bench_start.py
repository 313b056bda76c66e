"""What a fresh process pays: the time to its first minibatch, also after a restore, and the memory it takes for itself.

Run as a program it is that process: it reads one JSON document from stdin and prints one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from minibatch.limits import text_of
from minibatch.tools.bench_data import Data, scaled
from minibatch.tools.bench_pairs import PAIRS, Row, row_of

MEMORY_STEPS = 2_000  # minibatches after which memory is looked at
GOAL_SECONDS, GOAL_MEMORY = 0.6, 200e6


def bench_start(data: Data, threads: int = 1, pairs: int = PAIRS) -> list[Row]:
    """Seconds from the start of Python to the first minibatch at nominal time 0, and after a restore at 90 % of a
    sweep, in turns; and the private memory after many minibatches."""
    job = {
        "folder": str(data.folder),
        "workload": data.workload.name,
        "rows": data.rows,
        "threads": threads,
        "time": 0,
        "steps": 1,
    }
    late = {**job, "time": data.rows * 9 // 10}
    run_child(job), run_child(late)
    measured = [(run_child(late)["seconds"], run_child(job)["seconds"]) for _ in range(pairs)]
    name = data.workload.name
    fresh = [(b, b) for _, b in measured]
    memory = run_child({**job, "steps": min(MEMORY_STEPS, 4 * data.rows // data.workload.k)})["private"]
    return [
        alone(f"{name}: first minibatch of a process", "s", [a for a, _ in fresh], f"< {GOAL_SECONDS}"),
        row_of(measured, name=f"{name}: the same, restored at 90 %", unit="s", against="at 0", goal="≈ 1"),
        alone(f"{name}: private memory", "MB", [memory / 1e6], f"< {GOAL_MEMORY / 1e6:.0f}"),
    ]


def alone(name: str, unit: str, figures: list[float], goal: str) -> Row:
    """Figures with nothing to compare them with but a goal."""
    ordered = sorted(figures)
    middle = ordered[len(ordered) // 2]
    return Row(name=name, unit=unit, ours=middle, least_ours=ordered[0], most_ours=ordered[-1], goal=goal)


def run_child(job: dict[str, Any]) -> dict[str, Any]:
    """What a fresh process says of `job`; its seconds count from before it was started."""
    begin = time.clock_gettime(time.CLOCK_MONOTONIC)
    command = [sys.executable, "-m", "minibatch.tools.bench_start"]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a measuring process failed with exit code {done.returncode}: {done.stderr.strip()[-800:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["seconds"] = found.pop("at") - begin
    return found


def private_memory() -> int:
    """Bytes that this process alone needs: anonymous and shared memory, not the cached pages of files; 0 if unknown."""
    return sum(
        int(line.split()[1]) * 1024
        for line in text_of(Path("/proc/self/status")).splitlines()
        if line.startswith(("RssAnon:", "RssShmem:"))
    )


def child(job: dict[str, Any]) -> dict[str, Any]:
    """Read `job["steps"]` minibatches from `job["time"]` on; when the first was there, and the most memory seen."""
    from minibatch.tools.bench_reader import open_reader, take

    data = Data(workload=scaled(job["workload"]), folder=Path(job["folder"]), rows=job["rows"])
    with open_reader(data, job["threads"]) as source:
        if job["time"]:
            source.restore_from_checkpoint({**source.get_checkpoint_state(), "nominal_time": job["time"]})
        take(source, data)
        at, private = time.clock_gettime(time.CLOCK_MONOTONIC), private_memory()
        for step in range(1, job["steps"]):
            take(source, data)
            if step % 50 == 0:
                private = max(private, private_memory())
    return {"at": at, "private": max(private, private_memory())}


if __name__ == "__main__":
    print(json.dumps(child(json.loads(sys.stdin.read()))))
