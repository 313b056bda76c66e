"""Hugging Face datasets: an Arrow stream file, mapped; `shuffle` makes a permutation, `iter` takes rows through it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from minibatch.tools.bench_data import Data
from minibatch.tools.peers.work import decoded, padded

FILE = "data.arrow"


def prepare(data: Data, folder: Path) -> None:
    """The rows as the Arrow stream that the library reads."""
    kind = data.workload.kind
    with open(folder / FILE, "wb") as file:
        writer = None
        for batch in record_batches(data, fixed=kind == "arrays"):
            writer = writer or pa.ipc.new_stream(file, batch.schema)
            writer.write_batch(batch)
        if writer is not None:
            writer.close()


def record_batches(data: Data, *, fixed: bool, most: int = 1_000) -> Iterator[pa.RecordBatch]:
    """All rows as record batches with the columns "x" and "label", at most `most` rows each."""
    for start in range(0, data.rows, most):
        stop = min(data.rows, start + most)
        label = pa.array(np.arange(start, stop))
        if fixed:
            flat = pa.array(np.asarray(data.values[start:stop]).reshape(-1))
            x = pa.FixedSizeListArray.from_arrays(flat, data.values.shape[1])
        else:
            marks = data.offsets[start : stop + 1]
            flat = np.asarray(data.values[marks[0] : marks[-1]])
            begins = pa.array((marks - marks[0]).astype(np.int32))
            if data.workload.kind == "images":
                x = pa.Array.from_buffers(pa.binary(), stop - start, [None, begins.buffers()[1], pa.py_buffer(flat)])
            else:
                x = pa.ListArray.from_arrays(begins, pa.array(flat))
        yield pa.record_batch({"x": x, "label": label})


def minibatches(data: Data, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Minibatches of arrays, shuffled anew for each epoch."""
    import datasets

    table = datasets.Dataset.from_file(str(folder / FILE))
    kind, k, epoch = data.workload.kind, data.workload.k, 0
    while True:
        shuffled = table.shuffle(seed=seed + epoch, keep_in_memory=True).with_format("numpy")
        for batch in shuffled.iter(batch_size=k, drop_last_batch=True):
            x, label = batch["x"], batch["label"]
            if kind == "images":
                x = decoded(list(x), np.asarray(label))
            elif kind == "sequences":
                x = padded(list(x))
            yield {"x": x, "label": label}
        epoch += 1
