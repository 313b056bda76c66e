"""Other training engines on the same work, for `minibatch bench engines`: a row of `ENGINES` and a file of this folder.

An engine's file has `train(task, setting)`, which trains `task.network()` with `task.optimizer(model)` on the mean
cross entropy of all minibatches that `task.minibatches()` gives, in their order, until they end, and returns the model.
It is written as the engine's documentation would have it. How long the steps take is seen by the minibatches
themselves, which are asked for one after the other: so nothing is hooked into any engine.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Minibatches = Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine in one setting: its file here, what must be importable and how to install that, and what it does."""

    name: str
    file: str
    setting: str
    what: str
    needs: tuple[str, ...] = ("torch",)
    install: str = "torch"

    @property
    def ours(self) -> bool:
        return self.file == "our_engine"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every engine is given. data: the folder of the data set; own: an empty folder for what the engine writes."""

    data: Path
    own: Path
    minibatches: Minibatches

    def network(self) -> torch.nn.Module:
        """The model of `bench_engine`, always with the same first weights."""
        from minibatch.tools.bench_engine_cases import network

        return network()

    def optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        import torch

        from minibatch.tools.bench_engine_cases import RATE

        return torch.optim.Adam(model.parameters(), lr=RATE)


RAW = "by hand"
LIGHTNING, ACCELERATE = ("torch", "lightning"), ("torch", "accelerate")
ENGINES = {
    engine.name: engine
    for engine in (
        Engine(name=RAW, file="by_hand", setting="", what="the five lines of a loop in PyTorch, data in memory"),
        Engine(name="minibatch", file="our_engine", setting="source", what="its source, its ledger in a folder"),
        Engine(name="minibatch, lean", file="our_engine", setting="lean", what="its source, no folder"),
        Engine(name="minibatch, given", file="our_engine", setting="given", what="data in memory, ledger in a folder"),
        Engine(
            name="lightning",
            file="lightning_engine",
            setting="default",
            what="defaults: logger, progress bar, checkpoints; self.log of the loss",
            needs=LIGHTNING,
            install="lightning",
        ),
        Engine(
            name="lightning, lean",
            file="lightning_engine",
            setting="lean",
            what="no logger, progress bar, checkpoints, summary; nothing logged",
            needs=LIGHTNING,
            install="lightning",
        ),
        Engine(
            name="lightning, barebones",
            file="lightning_engine",
            setting="barebones",
            what="barebones=True, its setting for measuring overhead",
            needs=LIGHTNING,
            install="lightning",
        ),
        Engine(
            name="accelerate",
            file="accelerate_engine",
            setting="default",
            what="model, optimizer and loader prepared, accumulate(); it logs nothing",
            needs=ACCELERATE,
            install="accelerate",
        ),
        Engine(
            name="accelerate, lean",
            file="accelerate_engine",
            setting="lean",
            what="model and optimizer prepared, data in memory as they are",
            needs=ACCELERATE,
            install="accelerate",
        ),
    )
}


def missing(engine: Engine) -> list[str]:
    """The modules of an engine that are not installed."""
    return [module for module in engine.needs if importlib.util.find_spec(module) is None]
