"""Places a second of each order, against NumPy's permutation of the same number of elements."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minibatch import Window
from minibatch.order import make_order
from minibatch.tools.bench_pairs import PAIRS, Row, compare


def bench_order(rows: int = 10_000_000, pairs: int = PAIRS) -> list[Row]:
    """Full, windowed and sequential order in blocks, as the reader computes them: a sweep's order is never held."""
    generator = np.random.default_rng(0)

    def shuffled() -> float:
        start = time.perf_counter()
        generator.permutation(rows)
        return rows / (time.perf_counter() - start)

    def ordered(shuffle: Any) -> Callable[[], float]:
        order = make_order(shuffle, rows=rows, chunk_rows=10_000, seed=7)
        block = np.empty(min(rows, 65_536), np.int64)

        def run() -> float:
            start = time.perf_counter()
            for place in range(0, rows - len(block) + 1, len(block)):
                order.fill(place, block)
            return (rows // len(block) * len(block)) / (time.perf_counter() - start)

        return run

    kinds = {"full": "full", "windowed": Window(rows=max(1, rows // 10)), "sequential": None}
    against = f"numpy permutation, n = {rows:.0e}"
    return [
        compare(
            ordered(shuffle),
            shuffled,
            name=f"order: {kind}",
            unit="places/s",
            against=against,
            goal="> 1",
            pairs=pairs,
        )
        for kind, shuffle in kinds.items()
    ]
