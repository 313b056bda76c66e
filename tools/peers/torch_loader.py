"""PyTorch's DataLoader at its quickest: `__getitems__` gathers a whole minibatch, and nothing is left to collate.

Without workers, which make small rows 10 to 60 times slower; with two where JPEG images are decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minibatch.tools.bench_data import Data
from minibatch.tools.peers.work import gathered


class Rows:
    """A map-style data set over the plain files."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.rows

    def __getitems__(self, rows: list[int]) -> dict[str, Any]:
        import torch

        return {name: torch.from_numpy(values) for name, values in gathered(self.data, rows).items()}


def as_it_is(batch: Any) -> Any:
    """The minibatch: it is one already."""
    return batch


def minibatches(data: Data, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Minibatches of tensors, epoch after epoch, in an order of torch's own seed."""
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        Rows(data),  # type: ignore[arg-type]
        batch_size=data.workload.k,
        shuffle=True,
        drop_last=True,
        collate_fn=as_it_is,
        num_workers=2 if data.workload.kind == "images" else 0,
        persistent_workers=data.workload.kind == "images",
    )
    while True:
        yield from loader
