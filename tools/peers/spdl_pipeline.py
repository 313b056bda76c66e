"""SPDL: its pipeline of threads around a gather of whole minibatches; the order is ours, as it has none of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minibatch.tools.bench_data import Data
from minibatch.tools.peers.work import gathered, row_numbers


def minibatches(data: Data, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Minibatches of arrays; two threads decode images, one gathers rows."""
    from spdl.pipeline import PipelineBuilder

    threads = 2 if data.workload.kind == "images" else 1
    builder: Any = PipelineBuilder().add_source(row_numbers(data, seed))
    builder = builder.pipe(lambda rows: gathered(data, rows), concurrency=threads, output_order="input").add_sink(4)
    pipeline = builder.build(num_threads=threads)
    with pipeline.auto_stop():
        yield from pipeline.get_iterator()
