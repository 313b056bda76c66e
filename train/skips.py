"""Intervals of nominal time that a run leaves out: their samples weigh nothing, while time counts on.

They are part of the run's configuration: kept in its folder as skips.json and in every checkpoint, so that a run given
the same intervals from the beginning ends with the same weights.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.storage import write_atomically

FILE = "skips.json"


@dataclass(frozen=True, kw_only=True)
class Skip:
    """The nominal times [start, stop) of a run's axis, and why they are left out.

    >>> Skip(start=128, stop=192, why="loss 81.2 in step 3").stop
    192
    """

    start: int
    stop: int
    why: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(
                f"Skip: [{self.start}, {self.stop}) is no interval of nominal time: expected 0 ≤ start < stop"
            )


def kept(places: NDArray[np.int64], skips: Sequence[Skip]) -> NDArray[np.bool_] | None:
    """Which samples at nominal `places`, int64 (n,), are in no skip: bool (n,); None if all are.

    >>> kept(np.arange(4), [Skip(start=1, stop=3)]).tolist()
    [True, False, False, True]
    """
    keep = np.ones(len(places), np.bool_)
    for skip in skips:
        keep &= (places < skip.start) | (places >= skip.stop)
    return None if keep.all() else keep


def as_documents(skips: Sequence[Skip]) -> list[dict[str, Any]]:
    """Skips for JSON."""
    return [{"start": skip.start, "stop": skip.stop, "why": skip.why} for skip in skips]


def from_documents(documents: Sequence[Mapping[str, Any]]) -> list[Skip]:
    """What `as_documents` was made of."""
    return [Skip(start=d["start"], stop=d["stop"], why=d.get("why", "")) for d in documents]


def write(folder: Path, skips: Sequence[Skip]) -> None:
    """Write the skips of a run into its folder."""
    write_atomically(folder / FILE, (json.dumps(as_documents(skips), indent=1) + "\n").encode())
