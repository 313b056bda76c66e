"""The loop that everybody writes: what all engines are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minibatch.tools.peers.engines import Task

if TYPE_CHECKING:
    import torch


def train(task: Task, setting: str) -> torch.nn.Module:
    """Train until the minibatches end."""
    import torch.nn.functional as F

    model = task.network()
    optimizer = task.optimizer(model)
    for x, label in task.minibatches():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), label)
        loss.backward()
        optimizer.step()
    return model
