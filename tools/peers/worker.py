"""One loader in a process of its own: it takes commands as lines of JSON on stdin and answers on stdout.

`{"do": "prepare"}` writes the library's own format, `{"do": "check"}` checks minibatches, `{"do": "run", "seconds": s}`
reads for that long. The clock of the first minibatch starts when the harness itself has been loaded.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minibatch.tools.bench_data import Data, scaled
from minibatch.tools.bench_start import private_memory
from minibatch.tools.peers import PEERS
from minibatch.tools.peers.check import check_minibatches

OURS = "minibatch"  # "minibatch-2" is with two reading threads


class Worker:
    """The loader `name` over `data`; its own files lie in `folder`."""

    def __init__(self, name: str, data: Data, folder: Path) -> None:
        self.name, self.data, self.folder = name, data, folder
        self.before = private_memory()
        self.most = 0
        self.batches: Iterator[Any] = iter(())

    def open(self) -> dict[str, Any]:
        """The first minibatch, and how long it took from the import of the library on."""
        begin = time.perf_counter()
        if self.name.startswith(OURS):
            module = importlib.import_module("minibatch.tools.peers.ours")
            batches = module.minibatches(self.data, 1, self.folder, int(self.name.partition("-")[2] or 1))
        else:
            module = importlib.import_module(f"minibatch.tools.peers.{PEERS[self.name].file}")
            batches = module.minibatches(self.data, 1, self.folder)
        first = next(batches)
        self.batches = itertools.chain([first], batches)
        return {"first": time.perf_counter() - begin, "k": len(first["label"])}

    def prepare(self) -> dict[str, Any]:
        """The library's own files, if it has any; `done` is written behind them."""
        module = importlib.import_module(f"minibatch.tools.peers.{PEERS[self.name].file}")
        begin = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        if hasattr(module, "prepare") and not (self.folder / "done").exists():
            module.prepare(self.data, self.folder)
        (self.folder / "done").touch()
        return {"seconds": time.perf_counter() - begin}

    def check(self) -> dict[str, Any]:
        """Whether the minibatches are right; the sweep goes on from there."""
        peer = PEERS.get(self.name)
        shuffle, resizes = (peer.shuffle, peer.resizes) if peer else ("rows", False)
        return {"checked": check_minibatches(self.batches, self.data, shuffle=shuffle, resizes=resizes)}

    def run(self, seconds: float) -> dict[str, Any]:
        """Samples a second over `seconds`."""
        samples, batches, now = 0, self.batches, time.perf_counter
        begin = now()
        end = begin + seconds
        while True:
            samples += len(next(batches)["label"])
            if (stop := now()) >= end:
                break
        self.most = max(self.most, private_memory())
        return {"rate": samples / (stop - begin), "private": max(0, self.most - self.before)}


def serve(worker: Worker, answer: Callable[[dict[str, Any]], None]) -> None:
    """Do what the lines on stdin say until they end; an exception is an answer, too."""
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer(getattr(worker, job.pop("do"))(**job))
        except Exception as error:  # whatever the library raises: the table says so
            text = " ".join(str(error).split())
            answer({"error": f"{type(error).__name__}: {text[:300]}"})


def main() -> None:
    """The process: its argument is a JSON document with the loader, the workload, and where the data lie."""
    given = json.loads(sys.argv[1])
    # What the libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(document: dict[str, Any]) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    data = Data(workload=scaled(given["workload"]), folder=Path(given["folder"]), rows=given["rows"])
    serve(Worker(given["peer"], data, Path(given["own"])), answer)
    answers.close()
    os._exit(0)  # without waiting for the threads and processes that a library has left behind


if __name__ == "__main__":
    main()
