"""Data several times as large as memory, from a cold cache: what the order of rows costs, in rows a second and memory.

Each run is a process of its own. Before it, the shards are dropped from the page cache; then the process is told by its
limit of the resident set (`ulimit -m`) how much memory there is, and keeps to it where it can. Linux does not enforce
that limit, so a full shuffle, whose pages nobody can let go in time, is stopped when its resident memory reaches it: up
to there every row comes from disk. In a container or `systemd-run -p MemoryMax=…` with a limit of that size or less
the kernel does enforce it, and the same command measures that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minibatch import Dataset, DatasetWriter, MinibatchSource, Window
from minibatch.limits import text_of
from minibatch.storage import MANIFEST
from minibatch.tools.bench_data import MAKERS, Workload
from minibatch.tools.bench_pairs import Row, row_of
from minibatch.tools.bench_start import alone

DATA_BYTES, LIMIT = 2 << 30, 512 << 20
WINDOWS_IN_LIMIT = 4  # two windows and what else a process needs
ROW_BYTES, K = 784, 256
SECONDS = 20.0  # a run lasts at most
LOOK_EVERY = 16  # minibatches
PAIRS = 3


def beyond_memory(
    cache: Path,
    say: Callable[[str], None] = lambda what: None,
    *,
    data_bytes: int = DATA_BYTES,
    limit: int = LIMIT,
    pairs: int = PAIRS,
    seconds: float = SECONDS,
) -> list[Row]:
    """A windowed order against a full shuffle, and rows as they are stored; and the most resident memory of each.

    Raises `RuntimeError` where the page cache cannot be emptied (only Linux can).
    """
    if not hasattr(os, "posix_fadvise") or sys.platform != "linux":
        raise RuntimeError("a cold page cache needs Linux: there is no way here to drop files from it")
    rows = data_bytes // ROW_BYTES
    workload = Workload(name=f"memory-{rows}", rows=rows, shape=(ROW_BYTES,), k=K)
    folder = made(workload, cache, say)
    window = max(1, limit // WINDOWS_IN_LIMIT // ROW_BYTES)
    orders = {"full": "full shuffle", "window": f"windows of {window:,} rows", "none": "no shuffle"}
    found: dict[str, list[dict[str, Any]]] = {order: [] for order in orders}
    for number in range(pairs):
        for order, named in orders.items():
            say(f"beyond memory: {named}, run {number + 1} of {pairs}")
            drop_cached(folder)
            job = {"folder": str(folder), "order": order, "window": window, "limit": limit, "seconds": seconds}
            found[order].append(run_child(job))
    size = f"{data_bytes / 2**30:.1f} GiB, memory of {limit / 2**20:.0f} MiB, cold"
    results = []
    for order, named in orders.items():
        rates = [run["rows"] / run["seconds"] for run in found[order]]
        if order == "full":
            results.append(alone(f"beyond memory: {named}", "rows/s", rates, ""))
        else:
            against = [run["rows"] / run["seconds"] for run in found["full"]]
            measured = list(zip(rates, against, strict=True))
            name = f"beyond memory: {named}"
            results.append(row_of(measured, name=name, unit="rows/s", against="full shuffle", detail=size))
        peaks = [run["resident"] / 2**20 for run in found[order]]
        goal = f"< {limit / 2**20:.0f}" if order != "full" else ""
        results.append(alone(f"beyond memory: {named}, resident", "MiB", peaks, goal))
    return results


def made(workload: Workload, cache: Path, say: Callable[[str], None]) -> Path:
    """The folder of the data set, written now unless it is there."""
    folder = cache / workload.name
    if not (folder / MANIFEST).exists():
        say(f"beyond memory: the data, in {cache} (made once)")
        shutil.rmtree(folder, ignore_errors=True)
        with DatasetWriter(folder, source=f"benchmark {workload.name}") as writer:
            for piece in MAKERS["arrays"](workload):
                writer.write({"x": piece})
    return folder


def drop_cached(folder: Path) -> None:
    """Take the shards of a data set out of the page cache."""
    for shard in Dataset.open(folder).manifest.shards:
        descriptor = os.open(folder / shard.file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def run_child(job: dict[str, Any]) -> dict[str, Any]:
    """What a fresh process says of `job`."""
    command = [sys.executable, "-m", "minibatch.tools.bench_memory"]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a measuring process failed with exit code {done.returncode}: {done.stderr.strip()[-800:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(job: dict[str, Any]) -> dict[str, Any]:
    """Read until the sweep, the time or the memory is up: rows, seconds, and the most resident memory in bytes."""
    import resource

    resource.setrlimit(resource.RLIMIT_RSS, (job["limit"], resource.RLIM_INFINITY))
    shuffles: dict[str, Any] = {"full": "full", "window": Window(rows=job["window"]), "none": None}
    rows = resident = steps = 0
    with MinibatchSource(job["folder"], 1, shuffles[job["order"]], max_sweeps=1) as source:
        begin = time.perf_counter()
        for batch in source.minibatches(K):
            batch["x"]
            rows, steps = rows + len(batch), steps + 1
            if steps % LOOK_EVERY == 0:
                resident = max(resident, resident_memory())
                late = time.perf_counter() - begin > job["seconds"]
                if late or (resident > job["limit"] and job["order"] == "full"):
                    break
        spent = time.perf_counter() - begin
    return {"rows": rows, "seconds": spent, "resident": max(resident, resident_memory())}


def resident_memory() -> int:
    """Bytes of this process that are in memory, mapped pages of files included."""
    fields = text_of(Path("/proc/self/statm")).split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


if __name__ == "__main__":
    print(json.dumps(child(json.loads(sys.stdin.read()))))
