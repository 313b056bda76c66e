"""One engine in a process of its own: it takes commands as lines of JSON on stdin and answers on stdout.

`{"do": "check", "steps": n}` trains so many steps and tells the weights, `{"do": "begin"}` starts the training that is
measured, and then each `{"do": "run", "steps": n}` lets it go on for n steps and tells their seconds.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minibatch.tools.peers.engines import ENGINES, Engine, Task

if TYPE_CHECKING:
    import torch

    Minibatch = tuple[torch.Tensor, torch.Tensor]

Answer = Callable[[dict[str, Any]], None]


class Worker:
    """The engine `engine` on the data set in `data`; what it writes goes into folders in `own`."""

    def __init__(self, engine: Engine, data: Path, own: Path, answer: Answer) -> None:
        self.engine, self.data, self.own, self.answer = engine, data, own, answer
        self.in_memory = in_memory(data)
        self.trainings = 0

    def train(self, minibatches: Callable[[], Iterator[Minibatch]]) -> torch.nn.Module:
        module = importlib.import_module(f"minibatch.tools.peers.{self.engine.file}")
        self.trainings += 1
        own = self.own / f"training {self.trainings}"
        own.mkdir(parents=True)
        model: torch.nn.Module = module.train(
            Task(data=self.data, own=own, minibatches=minibatches), self.engine.setting
        )
        return model

    def check(self, steps: int) -> dict[str, Any]:
        """The sum of |w| of every parameter after `steps` steps."""
        model = self.train(lambda: iter(self.in_memory[:steps]))
        return {"weights": [float(parameter.detach().abs().sum()) for parameter in model.parameters()]}

    def begin(self) -> dict[str, Any]:
        """The training that is measured; it ends when stdin does."""
        self.train(self.metronome)
        return {"ended": True}

    def metronome(self) -> Iterator[Minibatch]:
        """The minibatches for ever, as many as the next command asks for, and the answer how long they took.

        The clock stops when the minibatch behind the last one is asked for: by then, the last step has been made.
        An engine that asks for one minibatch ahead is a step behind at both ends.
        """
        self.answer({"begun": True})
        place, data = 0, self.in_memory
        for line in sys.stdin:
            steps = json.loads(line)["steps"]
            begun = time.perf_counter()
            for _ in range(steps):
                yield data[place]
                place = (place + 1) % len(data)
            self.answer({"seconds": time.perf_counter() - begun})


def in_memory(data: Path) -> list[Minibatch]:
    """The minibatches of the first sweep, as tensors."""
    import torch

    from minibatch import MinibatchSource
    from minibatch.tools.bench_engine_cases import ROWS, K

    with MinibatchSource(data, seed=7) as source:
        batches = [source.next_minibatch(K) for _ in range(ROWS // K)]
        return [(torch.tensor(batch["x"]), torch.tensor(batch["label"])) for batch in batches]


def main() -> None:
    """The process: its argument is a JSON document with the engine, the folders, and torch's threads."""
    import torch

    given = json.loads(sys.argv[1])
    # What the libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_threads(given["threads"])

    def answer(document: dict[str, Any]) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    worker = Worker(ENGINES[given["engine"]], Path(given["data"]), Path(given["own"]), answer)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer(getattr(worker, job.pop("do"))(**job))
        except Exception as error:  # whatever the library raises: the table says so
            answer({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
    answers.close()
    os._exit(0)  # without waiting for what a library has left behind


if __name__ == "__main__":
    main()
