"""Lance: `take` of the rows of each minibatch from its own columnar files, in an order that is ours."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from minibatch.tools.bench_data import Data
from minibatch.tools.peers.huggingface import record_batches
from minibatch.tools.peers.work import decoded, padded, row_numbers

TABLE = "table.lance"


def prepare(data: Data, folder: Path) -> None:
    """The rows as a Lance table."""
    import lance

    shutil.rmtree(folder / TABLE, ignore_errors=True)
    batches = record_batches(data, fixed=data.workload.kind == "arrays")
    schema = next(record_batches(data, fixed=data.workload.kind == "arrays", most=1)).schema
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches), str(folder / TABLE))


def minibatches(data: Data, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Minibatches of arrays."""
    import lance

    table, kind = lance.dataset(str(folder / TABLE)), data.workload.kind
    for rows in row_numbers(data, seed):
        batch = table.take(rows)
        label, x = batch["label"].to_numpy(), batch["x"].combine_chunks()
        if kind == "arrays":
            x = x.flatten().to_numpy().reshape(len(label), -1)
        elif kind == "images":
            x = decoded(x.to_pylist(), label)
        else:
            flat, offsets = x.values.to_numpy(), x.offsets.to_numpy()
            x = padded([flat[start:stop] for start, stop in itertools.pairwise(offsets)])
        yield {"x": x, "label": np.asarray(label)}
