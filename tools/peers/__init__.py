"""Other loaders on the same work, for `minibatch bench --peers`: one row of `PEERS` and one file of this folder each.

A peer's file has `minibatches(data, seed, folder)`, which yields minibatches for ever, sweep after sweep, each shuffled
anew and none of them short: a mapping of "label" (k,), the numbers of the rows, and "x", what `tools/bench_data.py`
says of the workload: (k, width) arrays, (k, 224, 224, 3) images or (k, longest) padded sequences. NumPy arrays or
tensors, whatever the library gives. Where the library needs a format of its own, `prepare(data, folder)` writes it.
A peer is written as its documentation would have it, but for the gather: that is done for a whole minibatch at a time,
where the library lets a user do that.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

EVERY = ("W1", "W2", "W3", "W4", "W5", "W6")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A loader: its file here, what must be importable, how to install that, and what it shuffles.

    `shuffle` is "rows" for a full shuffle, "minibatches" where only whole runs of neighbouring rows change places.
    `resizes` says that its crop of images is not a window of the image, so that its pixels cannot be checked.
    """

    name: str
    file: str
    needs: tuple[str, ...]
    install: str
    what: str
    shuffle: str = "rows"
    workloads: tuple[str, ...] = EVERY
    resizes: bool = False


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name="torch",
            file="torch_loader",
            needs=("torch", "simplejpeg"),
            install="torch simplejpeg",
            what="DataLoader, no workers (W5: 2), hand-written __getitems__ on a memmap",
        ),
        Peer(
            name="huggingface",
            file="huggingface",
            needs=("datasets", "simplejpeg"),
            install="datasets simplejpeg",
            what="Hugging Face datasets, shuffle, format numpy",
        ),
        Peer(
            name="grain",
            file="grain_dataset",
            needs=("grain", "simplejpeg"),
            install="grain simplejpeg",
            what="MapDataset.range.shuffle.batch.map(gather); W5: 2 read threads",
        ),
        Peer(
            name="spdl",
            file="spdl_pipeline",
            needs=("spdl", "simplejpeg"),
            install="spdl simplejpeg",
            what="Pipeline around a gather; W5: 2 threads",
        ),
        Peer(
            name="streaming",
            file="mosaicml",
            needs=("streaming", "torch", "simplejpeg"),
            install="mosaicml-streaming simplejpeg",
            what="MosaicML StreamingDataset, py1e, DataLoader without workers",
        ),
        Peer(
            name="lance",
            file="lance_take",
            needs=("lance", "simplejpeg"),
            install="pylance simplejpeg",
            what="take of rows in a random order",
        ),
        Peer(
            name="lance-batches",
            file="lance_batches",
            needs=("lance", "torch"),
            install="pylance torch",
            what="LanceDataset of PyTorch with a shuffling ShardedBatchSampler",
            shuffle="minibatches",
            workloads=("W1", "W2", "W3", "W4"),
        ),
        Peer(
            name="ffcv",
            file="ffcv_loader",
            needs=("ffcv", "torch", "simplejpeg"),
            install="ffcv torch simplejpeg",
            what="Loader, OrderOption.RANDOM, one thread (W5: 2, random resized crop)",
            resizes=True,
        ),
        Peer(
            name="tf.data",
            file="tf_data",
            needs=("tensorflow",),
            install="tensorflow-cpu",
            what="range.shuffle.batch.map(gather) of a tensor; W5: decode_and_crop_jpeg in 2 threads",
        ),
    )
}


def missing(peer: Peer) -> list[str]:
    """The modules of a peer that are not installed."""
    return [module for module in peer.needs if importlib.util.find_spec(module) is None]
