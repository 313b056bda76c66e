"""`next_minibatch` against what no reader can beat: a bare loop that copies rows whose numbers are known beforehand.

For images the bare loop only decodes (no crop, no flip), on as many threads as the reader may use; for sequences it
pads each minibatch to its longest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minibatch import MinibatchSource
from minibatch.errors import require
from minibatch.kernels.limit import bare_gather, bare_padded
from minibatch.order import make_order
from minibatch.tools.bench_data import CROP_SIDE, Data
from minibatch.tools.bench_pairs import PAIRS, Row, compare
from minibatch.tools.peers.work import decode_whole

BYTES_A_RUN = 1.5e9  # of minibatches, so that one run takes about a quarter of a second
IMAGES_A_RUN = 2_000
THREADS = (1, 2)  # that read, or decode
Step = Callable[[int], None]  # does minibatch number i


def open_reader(data: Data, threads: int, seed: int = 1) -> MinibatchSource:
    """The source of a workload as a user would open it; for images the threads are those that decode."""
    transforms: list[Any] = []
    if data.workload.kind == "images":
        from minibatch.transforms import DecodeImage, HorizontalFlip, RandomCrop

        crop = RandomCrop(size=CROP_SIDE)
        transforms = [DecodeImage(field="x", crop=crop, flip=HorizontalFlip(), threads=threads)]
        threads = 1  # one that reads; it waits for those that decode
    return MinibatchSource(data.dataset, seed=seed, sequences="rows", transforms=transforms, threads=threads)


def steps_of(data: Data) -> int:
    """Minibatches of one run: at most a sweep, and about as many bytes for every workload."""
    workload = data.workload
    if workload.kind == "images":
        return max(2, min(data.rows, IMAGES_A_RUN) // workload.k)
    sample = 600 * 4 if workload.kind == "sequences" else workload.width * data.values.itemsize
    return max(8, min(data.rows // workload.k, int(BYTES_A_RUN / (workload.k * sample))))


def bench_reader(data: Data, threads: int = 1, pairs: int = PAIRS) -> Row:
    """The reader with `threads` reading threads against the bare loop on as many."""
    workload, steps = data.workload, steps_of(data)
    step = limit_step(data)

    def limit() -> float:
        start = time.perf_counter()
        on_threads(step, steps, threads)
        return steps * workload.k / (time.perf_counter() - start)

    def ours() -> float:
        with open_reader(data, threads) as source:
            take(source, data)
            start = time.perf_counter()
            for _ in range(steps):
                take(source, data)
            return steps * workload.k / (time.perf_counter() - start)

    goal = ("≥ 0.75" if workload.name == "W2" else "≥ 0.85") if threads == 1 or workload.kind == "images" else ""
    against = "bare decoding" if workload.kind == "images" else "bare gather"
    count = f"{threads} thread{'s' * (threads > 1)}"
    return compare(
        ours,
        limit,
        name=f"{workload.name}: reader, {count}",
        unit="images/s" if workload.kind == "images" else "rows/s",
        against=f"{against}, {count}",
        goal=goal,
        detail=workload.described,
        pairs=pairs,
    )


def take(source: MinibatchSource, data: Data) -> tuple[Any, Any]:
    """The next minibatch as a model wants it: x (padded, if these are sequences) and label."""
    batch = source.next_minibatch(data.workload.k)
    x = batch["x"]
    return (x.padded() if data.workload.kind == "sequences" else x), batch["label"]


def limit_step(data: Data) -> Step:
    """What does minibatch number i of the bare loop: the rows are known, and nothing is checked."""
    workload, k, labels = data.workload, data.workload.k, np.arange(data.rows)
    known = make_order("full", rows=data.rows, chunk_rows=1, seed=2).rows_at(0, data.rows)

    def wanted(i: int) -> Any:
        start = i * k % max(1, data.rows - k)
        rows = known[start : start + k]
        np.take(labels, rows, out=np.empty(len(rows), np.int64), mode="clip")
        return rows

    if workload.kind == "images":
        require("simplejpeg", "images", "the limit of decoding")
        encoded = [data.row(number).tobytes() for number in range(data.rows)]

        def decode(i: int) -> None:
            for row in wanted(i):
                decode_whole(encoded[row])

        return decode

    values = np.asarray(data.values)
    if workload.kind == "sequences":
        offsets = np.asarray(data.offsets)

        def pad(i: int) -> None:
            rows = wanted(i)
            longest = int((offsets[rows + 1] - offsets[rows]).max())
            bare_padded(values, offsets, rows, np.empty((len(rows), longest), values.dtype))

        return pad

    def gather(i: int) -> None:
        rows = wanted(i)
        bare_gather(values, rows, np.empty((len(rows), values.shape[1]), values.dtype))

    return gather


def on_threads(step: Step, steps: int, threads: int) -> None:
    """All minibatches, each thread taking every `threads`-th."""

    def run(first: int) -> None:
        for i in range(first, steps, threads):
            step(i)

    others = [threading.Thread(target=run, args=(first,)) for first in range(1, threads)]
    for other in others:
        other.start()
    run(0)
    for other in others:
        other.join()
