"""What the reader is measured against does the work that it is said to do."""

import numpy as np
import pytest

from minibatch.kernels.limit import bare_gather, bare_padded
from minibatch.tools import bench_reader
from minibatch.tools.bench_data import make, scaled
from minibatch.tools.bench_reader import open_reader, take
from minibatch.tools.peers.check import check_minibatches


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


def test_the_bare_gathers_copy_the_rows():
    table = np.arange(30, dtype=np.uint16).reshape(10, 3)
    rows = np.array([7, 0, 7, 9])
    out = np.empty((4, 3), np.uint16)
    bare_gather(table, rows, out)
    assert out.tolist() == table[rows].tolist()

    offsets = np.array([0, 2, 2, 5, 6])
    padded = np.full((3, 4), 99, np.int32)
    bare_padded(np.arange(1, 7, dtype=np.int32), offsets, np.array([2, 1, 0]), padded)
    assert padded.tolist() == [[3, 4, 5, 0], [0, 0, 0, 0], [1, 2, 0, 0]]


@pytest.mark.parametrize("name", ["W2", "W5", "W6"])
@pytest.mark.parametrize("threads", bench_reader.THREADS)
def test_the_reader_gives_what_the_workload_says(name, threads, cache):
    data = make(scaled(name, 1e-4), cache)
    with open_reader(data, threads) as source:
        minibatches = (dict(zip(("x", "label"), take(source, data), strict=True)) for _ in range(4))
        assert check_minibatches(minibatches, data) == "no row twice in a whole sweep"


@pytest.mark.parametrize("name", ["W3", "W5", "W6"])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_minibatch_of_the_limit_is_done_once(name, threads, cache):
    data = make(scaled(name, 1e-4), cache)
    done = []
    step = bench_reader.limit_step(data)
    bench_reader.on_threads(lambda i: (step(i), done.append(i)), 5, threads)
    assert sorted(done) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("name", "goal"), [("W1", "≥ 0.85"), ("W2", "≥ 0.75"), ("W6", "≥ 0.85")])
def test_a_row_says_what_was_compared_and_the_goal(name, goal, cache):
    row = bench_reader.bench_reader(make(scaled(name, 1e-4), cache), pairs=3)
    assert (row.name, row.against, row.goal) == (f"{name}: reader, 1 thread", "bare gather, 1 thread", goal)
    assert row.ours > 0
    assert row.theirs > 0
    assert row.least <= row.ratio <= row.most
