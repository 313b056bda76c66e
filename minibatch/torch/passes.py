"""How many passes worker processes have begun: a few integers in memory that they share with the main process.

A `DataLoader` tells its data set nothing: each pass starts workers with a copy of it that stands where the main
process's stands, for ever. So each worker counts its passes here, in a place of its own, which takes no lock.
"""

from collections.abc import Sequence
from multiprocessing.context import get_spawning_popen
from multiprocessing.sharedctypes import RawArray
from typing import Any

MAX_WORKERS = 1024


class Passes:
    """Passes begun by worker processes since nominal time `base` (None: since where the source stood)."""

    def __init__(self, values: Sequence[int] = ()) -> None:
        # [base or -1, then for each worker: of how many workers it was one, passes begun]
        self._shared = RawArray("q", 1 + 2 * MAX_WORKERS)
        self._shared[0] = -1
        for i, value in enumerate(values):
            self._shared[i] = value

    @property
    def base(self) -> int | None:
        """The nominal time that passes are counted from, if not where the source stood."""
        return self._shared[0] if self._shared[0] >= 0 else None

    @property
    def begun(self) -> int:
        """Passes begun by any worker."""
        return int(max(self._shared[2::2]))

    def count(self, worker: int, workers: int) -> int:
        """Count a pass of one of `workers`: how many it has begun before.

        Raises RuntimeError where the number of workers has changed: passes counted by others are then unknown.
        """
        if worker >= MAX_WORKERS:
            raise ValueError(f"worker {worker}: at most {MAX_WORKERS} workers can share a TimelineDataset")
        slot = 1 + 2 * worker
        others = {self._shared[i] for i in range(1, len(self._shared), 2)} - {0, workers}
        if others:
            raise RuntimeError(
                f"this pass has {workers} worker processes, an earlier one had {others.pop()}: make a new "
                f"TimelineDataset, restore its state, or use minibatch.torch.Loader, which takes any number at any time"
            )
        self._shared[slot] = workers
        self._shared[slot + 1] += 1
        return int(self._shared[slot + 1]) - 1

    def restart(self, base: int | None, worker: int | None = None) -> None:
        """Count from `base` on: all workers, or the one that calls."""
        self._shared[0] = -1 if base is None else base
        slots = range(1, len(self._shared)) if worker is None else (1 + 2 * worker, 2 + 2 * worker)
        for i in slots:
            self._shared[i] = 0

    def __getstate__(self) -> dict[str, Any]:
        # Only what is handed to a new process can go on sharing memory; any other copy counts for itself.
        if get_spawning_popen() is not None:
            return {"_shared": self._shared}
        return {"values": list(self._shared)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "values" in state:
            self.__init__(state["values"])  # type: ignore[misc]
        else:
            self._shared = state["_shared"]
