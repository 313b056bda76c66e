"""Accelerate: the loop of its documentation, with everything prepared, or with only model and optimizer."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from minibatch.tools.peers.engines import Task

if TYPE_CHECKING:
    import torch


def train(task: Task, setting: str) -> torch.nn.Module:
    """Train until the minibatches end."""
    import torch.nn.functional as F
    from accelerate import Accelerator
    from torch.utils.data import DataLoader, IterableDataset

    class Minibatches(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            return task.minibatches()

    accelerator = Accelerator(cpu=True)
    network = task.network()
    model, optimizer = accelerator.prepare(network, task.optimizer(network))
    lean = setting == "lean"
    loader: Any = Minibatches() if lean else accelerator.prepare(DataLoader(Minibatches(), batch_size=None))
    for x, label in loader:
        with nullcontext() if lean else accelerator.accumulate(model):
            loss = F.cross_entropy(model(x), label)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    unwrapped: torch.nn.Module = accelerator.unwrap_model(model)
    return unwrapped
