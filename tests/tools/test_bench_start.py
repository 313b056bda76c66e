"""What a fresh process pays is measured in fresh processes."""

import time

import pytest

from minibatch.tools.bench_data import make, scaled
from minibatch.tools.bench_start import bench_start, run_child


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make(scaled("W2", 1e-3), tmp_path_factory.mktemp("bench"))


def test_start_restore_and_memory_have_a_row_each(data):
    begin = time.perf_counter()
    first, restored, memory = bench_start(data, pairs=1)
    passed = time.perf_counter() - begin
    assert 0.05 < first.ours < passed
    assert 0.05 < restored.ours < passed
    assert restored.ratio == pytest.approx(restored.ours / restored.theirs)
    assert (first.goal, memory.goal) == ("< 0.6", "< 200")
    assert 10 < memory.ours < 1000


def test_a_process_that_fails_says_why(data):
    with pytest.raises(RuntimeError, match="no such folder"):
        run_child({"folder": "/nothing", "workload": "W2", "rows": 4096, "threads": 1, "time": 0, "steps": 1})
