"""Lightning: its Trainer with its defaults, without what it logs and shows, or "barebones", as it measures itself."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from minibatch.tools.peers.engines import Task

if TYPE_CHECKING:
    import torch

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "lean": {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "barebones": {"barebones": True},
}


def train(task: Task, setting: str) -> torch.nn.Module:
    """Train until the minibatches end: one epoch."""
    import lightning
    import torch.nn.functional as F

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = task.network()

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], number: int) -> torch.Tensor:
            x, label = batch
            loss = F.cross_entropy(self.network(x), label)
            if setting == "default":
                self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return task.optimizer(self.network)

    class Minibatches:
        def __iter__(self) -> Any:
            return task.minibatches()

    module = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            accelerator="cpu", devices=1, max_epochs=1, default_root_dir=task.own, **SETTINGS[setting]
        )
        trainer.fit(module, Minibatches())
    return module.network
