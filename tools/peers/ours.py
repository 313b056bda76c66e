"""This project's own source in the peers' harness: what it is compared with, measured in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minibatch.tools.bench_data import Data
from minibatch.tools.bench_reader import open_reader, take


def minibatches(data: Data, seed: int, folder: Path, threads: int = 1) -> Iterator[dict[str, Any]]:
    """Minibatches of the endless axis."""
    source = open_reader(data, threads, seed)
    while True:
        x, label = take(source, data)
        yield {"x": x, "label": label}
