"""tf.data: row numbers shuffled whole, in minibatches, and a gather from a tensor in memory; its own JPEG decoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minibatch.tools.bench_data import CROP_SIDE, Data
from minibatch.tools.peers.work import MARGIN


def minibatches(data: Data, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Minibatches of arrays; row numbers, not rows, are in the shuffle buffer, which holds all of them."""
    import tensorflow as tf

    workload, k = data.workload, data.workload.k
    rows = tf.data.Dataset.range(data.rows).shuffle(data.rows, seed=seed, reshuffle_each_iteration=True).repeat()
    if workload.kind == "images":
        encoded = tf.constant([data.row(number).tobytes() for number in range(data.rows)])

        def decode(number: Any) -> dict[str, Any]:
            drawn = tf.random.stateless_uniform([3], [seed, number], 0, MARGIN, tf.int32)
            window = [drawn[0], drawn[1], CROP_SIDE, CROP_SIDE]
            image = tf.io.decode_and_crop_jpeg(encoded[number], window, channels=3)
            return {"x": tf.cond(drawn[2] % 2 == 0, lambda: image, lambda: image[:, ::-1]), "label": number}

        batches = rows.map(decode, num_parallel_calls=2).batch(k, drop_remainder=True)
    elif workload.kind == "sequences":
        ragged = tf.RaggedTensor.from_row_splits(np.asarray(data.values), np.asarray(data.offsets))
        batches = rows.batch(k, drop_remainder=True).map(
            lambda numbers: {"x": tf.gather(ragged, numbers).to_tensor(), "label": numbers}
        )
    else:
        table = tf.constant(np.asarray(data.values))
        batches = rows.batch(k, drop_remainder=True).map(
            lambda numbers: {"x": tf.gather(table, numbers), "label": numbers}
        )
    yield from batches.prefetch(4).as_numpy_iterator()
