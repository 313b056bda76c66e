"""One of several processes that read together; started by test_torch_ranks.py with the environment that torchrun sets.

Prints one line of JSON.
"""

import json
import sys
import tempfile

import torch
from torch.utils.data import DataLoader

from minibatch.torch import Loader, TimelineDataset, one_minibatch

SIZE = 5


def read(batches):
    return [batch["x"].tolist() for batch in batches]


def connected(make):
    torch.distributed.init_process_group("gloo")
    try:
        return make()
    finally:
        torch.distributed.destroy_process_group()


def loader(folder):
    made_before = Loader(folder, SIZE, seed=3, ahead=1)
    return connected(lambda: read(made_before) + read(made_before))


def workers(folder):
    dataset = TimelineDataset(folder, SIZE, seed=3)
    return connected(lambda: read(DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")))


def spawned(folder):
    dataset = TimelineDataset(folder, SIZE, seed=3)
    return connected(lambda: read(DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")))


def accelerate(folder):
    from accelerate import Accelerator

    accelerator = Accelerator()
    made = Loader(folder, SIZE, seed=3, device=accelerator.device, ahead=2)
    prepared = accelerator.prepare(made)
    accelerator.register_for_checkpointing(prepared)
    checkpoint = [tempfile.mkdtemp() if accelerator.is_main_process else None]
    torch.distributed.broadcast_object_list(checkpoint)
    batches = iter(prepared)
    next(batches)
    next(batches)
    accelerator.save_state(checkpoint[0])
    accelerator.wait_for_everyone()
    at = made.state_dict()["nominal_time"]
    uninterrupted = read([*batches, *prepared])
    made.source.seek(0)
    accelerator.load_state(checkpoint[0])
    resumed = read([*prepared, *prepared])
    try:
        iter(TimelineDataset(folder, SIZE))
        refused = ""
    except RuntimeError as error:
        refused = str(error)
    accelerator.end_training()
    return {
        "prepared": type(prepared).__name__,
        "at": at,
        "uninterrupted": uninterrupted,
        "resumed": resumed,
        "refused": refused,
    }


def with_accelerate(folder, dispatch):
    from accelerate import Accelerator, DataLoaderConfiguration

    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatch))
    dataset = TimelineDataset(folder, SIZE, seed=3, steps_per_epoch=4, num_data_partitions=1, partition_index=0)
    size = {"batch_size": None} if dispatch else {"batch_size": 1, "collate_fn": one_minibatch}
    got = read(accelerator.prepare(DataLoader(dataset, **size)))
    accelerator.end_training()
    return got


if __name__ == "__main__":
    what, folder = sys.argv[1:]
    programs = {
        "loader": loader,
        "workers": workers,
        "spawned": spawned,
        "accelerate": accelerate,
        "dispatch": lambda folder: with_accelerate(folder, True),
        "shard": lambda folder: with_accelerate(folder, False),
    }
    print(json.dumps(programs[what](folder)))
