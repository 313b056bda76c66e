"""Ranks of `torch.distributed`: each reads its part, without being told, also in workers and under Accelerate."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from minibatch import DatasetWriter, MinibatchSource  # noqa: E402
from minibatch.torch import Loader, TimelineDataset  # noqa: E402
from minibatch.torch.ranks import partition  # noqa: E402

ROWS, SIZE, RANKS = 23, 5, 2
PROGRAM = Path(__file__).parent / "torch_ranks.py"

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="needs gloo"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ranks") / "numbers"
    with DatasetWriter(path, chunk_rows=4) as writer:
        writer.write({"x": np.arange(ROWS)})
    return path


def run(what, folder):
    """What each rank of a run of two processes printed: one JSON value each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), what, str(folder)],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(RANKS),
                "LOCAL_WORLD_SIZE": str(RANKS),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "ACCELERATE_USE_CPU": "true",
                "PYTHONPATH": os.pathsep.join([str(PROGRAM.parents[2]), os.environ.get("PYTHONPATH", "")]),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


def axis(folder, start, stop):
    return MinibatchSource(folder, seed=3).at(start, stop - start).tolist()


@pytest.mark.parametrize("what", ["loader", "workers", "spawned"])
def test_ranks_read_their_parts_of_every_minibatch(folder, what):
    first, second = run(what, folder)
    whole = [one + other for one, other in zip(first, second, strict=True)]
    times = range(0, SIZE * len(whole), SIZE)
    assert whole == [axis(folder, time, time + SIZE) for time in times]
    assert [len(one) for one in first] == [3] * len(first)


def test_accelerate_leaves_a_loader_as_it_is_and_its_checkpoint_has_the_state(folder):
    pytest.importorskip("accelerate")
    for rank in run("accelerate", folder):
        assert rank["prepared"] == "Loader"
        assert rank["at"] == 10
        assert rank["resumed"] == rank["uninterrupted"]
        assert rank["refused"].startswith("Accelerate runs 2 processes and splits what a DataLoader gives")


def test_accelerate_may_dispatch_whole_minibatches_among_ranks(folder):
    pytest.importorskip("accelerate")
    first, second = run("dispatch", folder)
    # Each rank is handed a whole minibatch in turn.
    times = range(0, SIZE * 4, 2 * SIZE)
    assert first == [axis(folder, time, time + SIZE) for time in times]
    assert second == [axis(folder, time + SIZE, time + 2 * SIZE) for time in times]


def test_accelerate_may_split_by_skipping_whole_minibatches(folder):
    pytest.importorskip("accelerate")
    first, second = run("shard", folder)
    times = range(0, SIZE * 4, 2 * SIZE)
    assert first == [axis(folder, time, time + SIZE) for time in times]
    assert second == [axis(folder, time + SIZE, time + 2 * SIZE) for time in times]


def test_processes_that_are_not_connected_do_not_all_read_everything(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for make in (Loader, TimelineDataset):
        with pytest.raises(RuntimeError, match=r"WORLD_SIZE is 2, but torch\.distributed is not initialised"):
            next(iter(make(folder, SIZE)))
        given = make(folder, SIZE, num_data_partitions=2, partition_index=1)
        assert next(iter(given)).num_samples == 2
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert partition(None, None) == (1, 0)
