"""Lance's own loader for PyTorch, which shuffles runs of neighbouring rows, not the rows: each minibatch is one run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from minibatch.tools.bench_data import Data
from minibatch.tools.peers import lance_take

prepare = lance_take.prepare


def minibatches(data: Data, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Minibatches of tensors; the last, short one of an epoch is left out."""
    from lance.sampler import ShardedBatchSampler
    from lance.torch.data import LanceDataset

    k, width = data.workload.k, data.values.shape[1]

    def tensors(batch: pa.RecordBatch, **_: Any) -> dict[str, Any]:
        import torch

        flat = batch["x"].flatten().to_numpy(zero_copy_only=False)
        label = batch["label"].to_numpy(zero_copy_only=False)
        return {"x": torch.tensor(flat).reshape(-1, width), "label": torch.tensor(label)}

    sampler = ShardedBatchSampler(0, 1, randomize=True, seed=seed)
    source: Any = LanceDataset(str(folder / lance_take.TABLE), batch_size=k, sampler=sampler, to_tensor_fn=tensors)
    while True:
        yield from (batch for batch in source if len(batch["label"]) == k)
