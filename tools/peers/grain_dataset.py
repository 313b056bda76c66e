"""Grain: its order of row numbers in minibatches, and a gather of whole minibatches as the map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minibatch.tools.bench_data import Data
from minibatch.tools.peers.work import gathered


def minibatches(data: Data, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Minibatches of arrays; every repetition is shuffled anew."""
    import grain

    # Short minibatches at the end of an epoch are left out before the repetition, which shuffles each epoch apart.
    rows = grain.MapDataset.range(data.rows).shuffle(seed=seed).batch(data.workload.k, drop_remainder=True)
    batches = rows.repeat().map(lambda numbers: gathered(data, numbers))
    if data.workload.kind == "images":
        yield from batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    number = 0
    while True:
        yield batches[number]
        number += 1
