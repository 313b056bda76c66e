"""`minibatch bench --peers`: this source and other loaders on the same work, each in a process of its own, in turns."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from minibatch.tools.bench_data import Data
from minibatch.tools.bench_pairs import PAIRS, Row, row_of
from minibatch.tools.bench_reader import THREADS
from minibatch.tools.peers import PEERS, missing
from minibatch.tools.peers.worker import OURS

SECONDS = 0.3  # that each loader reads in its turn
PATIENCE = 600.0  # seconds after which a loader that does not answer is given up


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A loader on a workload: ours against it, or why there is no figure."""

    workload: str
    detail: str
    peer: str
    what: str
    shuffle: str
    row: Row | None = None
    first_seconds: float = 0.0
    private: float = 0.0
    checked: str = ""
    error: str = ""


class Process:
    """A loader in a process of its own, which reads only while it is told to."""

    def __init__(self, peer: str, data: Data, own: Path) -> None:
        given = {
            "peer": peer,
            "workload": data.workload.name,
            "folder": str(data.folder),
            "rows": data.rows,
            "own": str(own),
        }
        command = [sys.executable, "-W", "ignore", "-m", "minibatch.tools.peers.worker", json.dumps(given)]
        self.peer = peer
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._noise)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._child.kill()
        self._child.communicate()
        self._noise.close()

    def ask(self, do: str, patience: float = PATIENCE, **options: Any) -> dict[str, Any]:
        """What the process answers; RuntimeError if it has died, does not answer in time, or says that it failed."""
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps({"do": do, **options}).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(f"{self.peer} has ended: {self._said()}") from None
        if not select.select([child.stdout], [], [], patience)[0]:
            raise RuntimeError(f"{self.peer} did not {do} within {patience:.0f} s")
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.peer} has ended: {self._said()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def _said(self) -> str:
        self._noise.seek(0)
        return " ".join(self._noise.read().decode(errors="replace").split())[-300:] or "it said nothing"


def bench_peers(
    data: Data,
    names: Sequence[str],
    *,
    seconds: float = SECONDS,
    pairs: int = PAIRS,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Measured]:
    """The source with each number of reading threads, and the loaders `names`, against the source with the most.

    A loader that fails has a line that says why. Loaders that are not installed are left out.
    """
    found = []
    own = data.folder / "peers"
    with Process(f"{OURS}-{max(THREADS)}", data, own) as ours:
        ours.ask("open")
        ours.ask("check")
        ours.ask("run", seconds=seconds)
        for name in [f"{OURS}-{threads}" for threads in THREADS] + list(names):
            peer = PEERS.get(name)
            if peer and (data.workload.name not in peer.workloads or missing(peer)):
                continue
            progress(f"{data.workload.name}: {name}")
            entry = Measured(
                workload=data.workload.name,
                detail=data.workload.described,
                peer=name,
                what=peer.what if peer else f"this source, reading threads: {name.partition('-')[2]}",
                shuffle=peer.shuffle if peer else "rows",
            )
            try:
                found.append(measure(ours, entry, data, own / name, seconds, pairs))
            except RuntimeError as error:
                found.append(replace(entry, error=str(error)))
    return found


def measure(ours: Process, entry: Measured, data: Data, own: Path, seconds: float, pairs: int) -> Measured:
    """`entry` with its figures. The loader's own files are made by a process before, so that the first minibatch is
    that of a user's next run."""
    name = entry.peer
    if name in PEERS and not (own / "done").exists():
        with Process(name, data, own) as maker:
            maker.ask("prepare")
    with Process(name, data, own) as theirs:
        first = theirs.ask("open")["first"]
        checked = theirs.ask("check")["checked"]
        theirs.ask("run", seconds=seconds)
        measured = []
        for _ in range(pairs):
            a, b = ours.ask("run", seconds=seconds), theirs.ask("run", seconds=seconds)
            measured.append((a["rate"], b["rate"]))
        row = row_of(measured, name=data.workload.name, unit="samples/s", against=name)
        return replace(entry, row=row, first_seconds=first, private=b["private"], checked=checked)


def absent(names: Sequence[str]) -> list[str]:
    """A line for each loader that is not installed, with the command that installs it."""
    lines = []
    for name in names:
        if modules := missing(PEERS[name]):
            lines.append(f"{name} is not installed ({', '.join(modules)} missing): pip install {PEERS[name].install}")
    return lines
