"""`DataLoader` around the data set, in this process and with workers: the union is exactly the axis, in order."""

import multiprocessing
import sys
import traceback
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, RandomSampler  # noqa: E402

from minibatch import DatasetWriter, MinibatchSource, SkipRows  # noqa: E402
from minibatch.torch import Loader, TensorForm, TimelineDataset, one_minibatch  # noqa: E402
from minibatch.torch.passes import Passes  # noqa: E402
from minibatch.transforms import GaussianNoise  # noqa: E402

ROWS = 23
START = "fork" if "fork" in multiprocessing.get_all_start_methods() and sys.platform == "linux" else "spawn"
# Python 3.12 warns of every fork while threads run; DataLoader forks all the same.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create . worker processes:UserWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("workers") / "numbers"
    with DatasetWriter(path, chunk_rows=4) as writer:
        writer.write({"x": np.arange(ROWS), "y": np.arange(ROWS, dtype=np.float32), "name": ["n"] * ROWS})
    return path


def loading(dataset, workers=2, **options):
    context = {"multiprocessing_context": START} if workers and "multiprocessing_context" not in options else {}
    return DataLoader(dataset, batch_size=None, num_workers=workers, **context, **options)


def axis(folder, start, stop, seed=3):
    return MinibatchSource(folder, seed=seed).at(start, stop - start).tolist()


def seen(batches):
    return [row for batch in batches for row in batch["x"].tolist()]


def told(batch):
    return batch.nominal_time, batch.nominal_end, batch.num_samples, batch.sweeps_ended


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_passes_with_any_number_of_workers_are_the_axis(folder, workers):
    options = {"seed": 3, "transforms": [GaussianNoise(field="y", sigma=1.0)]}
    loader = loading(TimelineDataset(folder, 5, **options), workers)
    alone = Loader(folder, 5, **options)
    assert len(loader) == 5
    for _ in range(2):
        for batch, expected in zip(loader, alone, strict=True):
            assert told(batch) == told(expected)
            assert torch.equal(batch["x"], expected["x"])
            assert torch.equal(batch["y"], expected["y"])
            assert batch["name"] == expected["name"]


@pytest.mark.parametrize("parts", [(2, 1), (5, 0), (5, 4), (7, 6)])
def test_workers_of_a_rank_read_its_parts(folder, parts):
    count, index = parts
    options = {"num_data_partitions": count, "partition_index": index, "seed": 3, "max_samples": 38}
    dataset = TimelineDataset(folder, 5, steps_per_epoch="axis", **options)
    alone = Loader(folder, 5, steps_per_epoch="axis", **options)
    for batch, expected in zip(loading(dataset), alone, strict=True):
        assert told(batch) == told(expected)
        assert torch.equal(batch["x"], expected["x"])


def test_workers_leave_out_holes(folder):
    options = {"seed": 3, "skip": [(4, 11), SkipRows([7])], "form": TensorForm(include=["times"])}
    got = list(loading(TimelineDataset(folder, 5, **options)))
    expected = list(Loader(folder, 5, **options))
    assert [batch["times"].tolist() for batch in got] == [batch["times"].tolist() for batch in expected]
    assert list(map(told, got)) == list(map(told, expected))


def test_persistent_workers_go_on_with_the_next_epoch(folder):
    loader = loading(TimelineDataset(folder, 5, seed=3), persistent_workers=True)
    assert seen([batch for _ in range(3) for batch in loader]) == axis(folder, 0, 75)


def test_spawned_workers_go_on_with_the_next_epoch(folder):
    loader = loading(TimelineDataset(folder, 5, seed=3, steps_per_epoch=2), 1, multiprocessing_context="spawn")
    assert seen([batch for _ in range(2) for batch in loader]) == axis(folder, 0, 20)


def test_a_pass_of_workers_that_is_broken_off_is_over(folder):
    dataset = TimelineDataset(folder, 5, seed=3)
    next(iter(loading(dataset)))
    assert len(dataset) == 5
    assert seen(loading(dataset)) == axis(folder, 25, 50)
    assert seen(dataset) == axis(folder, 50, 75), "and this process goes on where the workers ended"


def test_a_data_set_that_workers_read_does_not_guess_where_its_user_is(folder):
    dataset = TimelineDataset(folder, 5, seed=3)
    batches = iter(loading(dataset))
    last = [next(batches) for _ in range(2)][-1]
    with pytest.raises(RuntimeError, match="worker processes read ahead of what you were given"):
        dataset.state_dict()
    state = dataset.state_dict(after=last)
    assert state["nominal_time"] == 10
    del batches
    dataset.load_state_dict(state)
    assert seen(loading(dataset, 3)) == axis(folder, 10, 25), "and any number of workers may go on from there"
    with pytest.raises(TypeError, match="copy without nominal_end"):
        dataset.state_dict(after=dict(last))


def test_another_number_of_workers_in_a_later_pass_is_refused(folder, monkeypatch):
    dataset = TimelineDataset(folder, 5, seed=3)
    list(loading(dataset, 2))
    worker = SimpleNamespace(id=0, num_workers=1)
    monkeypatch.setattr("minibatch.torch.dataset.get_worker_info", lambda: worker)
    with pytest.raises(RuntimeError, match="this pass has 1 worker processes, an earlier one had 2"):
        iter(dataset)


def test_without_workers_the_state_is_that_of_what_was_given(folder):
    dataset = TimelineDataset(folder, 5, seed=3)
    for number, batch in enumerate(loading(dataset, 0), 1):
        assert dataset.state_dict()["nominal_time"] == 5 * number
        assert dataset.state_dict(after=batch) == dataset.state_dict()


def test_a_loader_with_workers_has_the_exact_state_and_takes_any_number_on_resume(folder):
    loader = Loader(folder, 5, seed=3, num_workers=2, multiprocessing_context=START)
    batches = iter(loader)
    before = [next(batches) for _ in range(2)]
    state = loader.state_dict()
    assert state["nominal_time"] == 10
    rest = [*batches, *loader]
    assert seen(before + rest) == axis(folder, 0, 50)
    loader.close()
    for workers, size in ((0, 5), (1, 4)):
        again = Loader(folder, size, seed=3, steps_per_epoch=10, num_workers=workers, multiprocessing_context=None)
        again.load_state_dict(state)
        batches = iter(again)
        assert seen([next(batches) for _ in range(3)]) == axis(folder, 10, 10 + 3 * size)


@pytest.mark.skipif(START != "fork", reason="a function inside a test cannot be pickled for a spawned worker")
def test_an_error_in_a_worker_reaches_the_user(folder):
    def fail(fields, draws):
        raise ValueError("cannot augment this")

    loader = Loader(folder, 5, num_workers=1, transforms=[fail], multiprocessing_context="fork")
    with pytest.raises(ValueError, match="cannot augment this") as caught:
        next(iter(loader))
    traceback.clear_frames(caught.tb)  # DataLoader waits five seconds for workers that the garbage collector ends


def test_batching_minibatches_again_is_refused_with_what_to_write(folder):
    dataset = TimelineDataset(folder, 5, seed=3)
    for size in (1, 4):
        with pytest.raises(TypeError, match=r"write DataLoader\(dataset, batch_size=None\)"):
            next(iter(DataLoader(dataset, batch_size=size)))
    with pytest.raises(ValueError, match="must be 1"):
        next(iter(DataLoader(dataset, batch_size=2, collate_fn=one_minibatch)))
    dataset.source.seek(0)
    assert seen(DataLoader(dataset, batch_size=1, collate_fn=one_minibatch)) == axis(folder, 0, 25)


def test_shuffling_or_sampling_again_is_refused_by_dataloader_itself(folder):
    dataset = TimelineDataset(folder, 5, seed=3)
    with pytest.raises(ValueError, match="shuffle"):
        DataLoader(dataset, batch_size=None, shuffle=True)
    with pytest.raises(ValueError, match="sampler"):
        DataLoader(dataset, batch_size=None, sampler=RandomSampler(range(4)))


def test_passes_are_counted_for_each_worker_alone():
    passes = Passes()
    assert [passes.count(0, 2), passes.count(0, 2), passes.count(1, 2)] == [0, 1, 0]
    assert passes.begun == 2
    with pytest.raises(RuntimeError, match="an earlier one had 2"):
        passes.count(2, 3)
    with pytest.raises(ValueError, match="at most 1024 workers"):
        passes.count(1024, 2000)
    passes.restart(30, 0)
    assert (passes.base, passes.begun) == (30, 1)
    passes.restart(None)
    assert (passes.base, passes.begun) == (None, 0)
