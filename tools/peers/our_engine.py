"""This project's own engine among the others: with its source ("source", "lean" without a folder) or "given" data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minibatch.tools.peers.engines import Task

if TYPE_CHECKING:
    import torch


def train(task: Task, setting: str) -> torch.nn.Module:
    """Train as often as there are minibatches; with its source, the engine takes its own, which are the same."""
    from minibatch import MinibatchSource
    from minibatch.tools.bench_engine_cases import K
    from minibatch.train import Term, Trainer, cross_entropy, on

    model = task.network()
    source = None if setting == "given" else MinibatchSource(task.data, seed=7)
    with Trainer(
        model,
        Term("class", on(cross_entropy, "label")),
        task.optimizer(model),
        source,
        K,
        inputs="x",
        folder=None if setting == "lean" else task.own / "run",
    ) as trainer:
        for x, label in task.minibatches():
            trainer.train_minibatch({"x": x, "label": label} if source is None else None)
    if source is not None:
        source.close()
    return model
