"""A small run that has everything a step can have: two terms, weights, a mask, dropout, clipping, a schedule."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from minibatch import DatasetWriter, MinibatchSource, rng
from minibatch.models import MLP
from minibatch.train import Metric, Term, Trainer, cross_entropy, metrics, mse, on
from minibatch.train.schedules import Cosine, Warmup

ROWS = 53
FEATURES, CLASSES = 6, 3


def fields(rows: int = ROWS) -> dict[str, np.ndarray]:
    """Columns of a small classification and regression problem; every kind of weight and mask among them."""
    draw = np.random.default_rng(11)
    x = draw.normal(size=(rows, FEATURES))
    numbers = np.arange(rows)
    return {
        "x": x,
        "label": np.argmax(x[:, :CLASSES] + 0.3 * draw.normal(size=(rows, CLASSES)), axis=1),
        "target": np.stack([x.sum(1), np.sin(x[:, 0])], axis=1),
        "binary": (draw.uniform(size=(rows, 2)) < 0.4).astype(np.int64),
        "uniform": np.full(rows, 2.5),
        "zero": np.where(numbers % 3 == 1, 0.0, 1.0 + 0.01 * numbers),
        "extreme": np.where(numbers % 7 == 2, 1e4, 1.0),
        "nothing": np.zeros(rows),
        "has_target": numbers % 4 != 0,
        "element_mask": draw.uniform(size=(rows, 2)) < 0.6,
        "element_weight": draw.uniform(size=(rows, 2)),
    }


def write(path: Path, rows: int = ROWS, **changes: np.ndarray) -> Path:
    """The data set of `fields`, some columns changed."""
    with DatasetWriter(path, chunk_rows=5, shard_rows=20) as writer:
        writer.write({**fields(rows), **changes})
    return path


class TwoHeads(nn.Module):
    """Logits and a regression from one body with dropout: outputs {"logits": (n, 3), "values": (n, 2)}."""

    def __init__(self, *, dropout: float = 0.0, seed: int = 1) -> None:
        super().__init__()
        self.body = MLP(sizes=(FEATURES, 8, 7), dropout=dropout, input_dropout=dropout, seed=seed)
        self.classes = MLP(sizes=(7, CLASSES), seed=seed + 1)
        self.values = MLP(sizes=(7, 2), seed=seed + 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.tanh(self.body(x))
        return {"logits": self.classes(hidden), "values": self.values(hidden)}


TERMS = (
    Term("class", on(cross_entropy, "label", output="logits"), weight="zero"),
    Term("fit", on(mse, "target", output="values"), mask="has_target", coefficient=0.3),
)
METRICS = (Metric("accuracy", on(metrics.accuracy, "label", output="logits")),)


def make_source(data: Path, **options) -> MinibatchSource:
    return MinibatchSource(data, **{"seed": 5, **options})


def make_trainer(source: MinibatchSource | None, *, dropout: float = 0.3, lr: float = 0.02, **options) -> Trainer:
    """A new Trainer of the small run, as a new process would make it; float64, Adam, 9 samples a step."""
    model = TwoHeads(dropout=dropout, seed=rng.key(5, "init")).double()
    defaults = {
        "terms": TERMS,
        "optimizers": torch.optim.Adam(model.parameters(), lr=lr),
        "minibatch_size": 9,
        "microbatch_size": 4,
        "inputs": "x",
        "schedules": Warmup(samples=30, then=Cosine(lr, samples=400)),
        "clip_grad_norm": 0.5,
        "metrics": METRICS,
        "announce": lambda text: None,
    }
    return Trainer(model, source=source, **{**defaults, **options})
