"""MosaicML Streaming: MDS shards on the disk, its default shuffle (py1e), PyTorch's DataLoader without workers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minibatch.tools.bench_data import Data
from minibatch.tools.peers.work import decoded, padded

SHARDS = "shards"


def prepare(data: Data, folder: Path) -> None:
    """The rows as MDS shards; raw bytes, which are quicker to write and read than its arrays."""
    from streaming import MDSWriter

    shutil.rmtree(folder / SHARDS, ignore_errors=True)
    rows = data.values if data.workload.kind == "arrays" else None
    with MDSWriter(out=str(folder / SHARDS), columns={"x": "bytes", "label": "int"}) as writer:
        for number in range(data.rows):
            row = data.row(number) if rows is None else rows[number]
            writer.write({"x": row.tobytes(), "label": number})


def minibatches(data: Data, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Minibatches of arrays; the bytes of all rows are joined at once."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    workload = data.workload
    clean_stale_shared_memory()  # of earlier processes, which leave it behind when they are killed

    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        label = np.array([sample["label"] for sample in samples])
        rows = [np.frombuffer(sample["x"], workload.dtype) for sample in samples]
        if workload.kind == "images":
            return {"x": decoded(rows, label), "label": label}
        return {"x": padded(rows) if workload.kind == "sequences" else np.stack(rows), "label": label}

    source = StreamingDataset(local=str(folder / SHARDS), shuffle=True, shuffle_seed=seed, batch_size=workload.k)
    loader: Any = DataLoader(source, batch_size=workload.k, drop_last=True, collate_fn=collate)
    while True:
        yield from loader
