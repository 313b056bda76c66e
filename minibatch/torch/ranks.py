"""Which part of every minibatch this process reads."""

import os
import sys
from typing import Any

import torch.distributed

from minibatch.arguments import checked_integer


def partition(num_data_partitions: int | None, partition_index: int | None) -> tuple[int, int]:
    """The number of parts and the index of this process's: as given, or those of `torch.distributed`.

    Raises RuntimeError where several processes were started and have not been connected yet: each of them would read
    everything.

    >>> partition(None, None), partition(4, 3)
    ((1, 0), (4, 3))
    """
    if (num_data_partitions is None) != (partition_index is None):
        raise ValueError(
            f"num_data_partitions and partition_index are given together, got {num_data_partitions} and "
            f"{partition_index}"
        )
    if num_data_partitions is not None:
        count = checked_integer(num_data_partitions, "num_data_partitions", least=1)
        return count, checked_integer(partition_index, "partition_index", least=0, most=count - 1)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    started = os.environ.get("WORLD_SIZE", "1")
    if started.isdecimal() and int(started) > 1:
        raise RuntimeError(
            f"WORLD_SIZE is {started}, but torch.distributed is not initialised, so that every process would read "
            f"every sample: call torch.distributed.init_process_group first, or give num_data_partitions= and "
            f"partition_index="
        )
    return 1, 0


def refuse_splitting_twice(num_data_partitions: int | None) -> None:
    """Raise where Accelerate may split what `torch.distributed` has split already: most samples would never be seen."""
    state: Any = sys.modules.get("accelerate.state")
    shared = getattr(getattr(state, "PartialState", None), "_shared_state", None) or {}
    if num_data_partitions is None and shared.get("num_processes", 1) > 1:
        raise RuntimeError(
            f"Accelerate runs {shared['num_processes']} processes and splits what a DataLoader gives among them. Use "
            f"minibatch.torch.Loader, which it leaves as it is and which splits by itself; or, for "
            f"accelerator.prepare(DataLoader(dataset)), TimelineDataset(…, num_data_partitions=1, partition_index=0)"
        )
