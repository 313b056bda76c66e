"""Checkpoints written by a thread: the state of their moment, errors that surface, and nothing half done."""

import threading

import pytest
import torch

from minibatch.errors import CheckpointError
from minibatch.train import checkpoint, parameters_digest
from minibatch.train.checkpoint import checkpoints_in, newest_complete
from minibatch.train.staging import Background, Staging
from tests.train.small import make_source, make_trainer, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("staging") / "data")


@pytest.fixture
def held(monkeypatch):
    """Lets checkpoints be written only after it is set."""
    allowed = threading.Event()
    whole = checkpoint.write

    def slowly(path, content):
        assert allowed.wait(30)
        whole(path, content)

    monkeypatch.setattr(checkpoint, "write", slowly)
    return allowed


def test_a_checkpoint_holds_the_moment_of_its_save_however_late_it_is_written(data, tmp_path, held):
    with make_source(data) as source, make_trainer(source, folder=tmp_path / "run") as trainer:
        trainer.train_minibatch()
        digest = parameters_digest(trainer.model)
        path = trainer.save_checkpoint(wait=False)
        for _ in range(5):
            trainer.train_minibatch()
        assert not path.exists()
        assert parameters_digest(trainer.model) != digest
        held.set()
        trainer.wait_for_saves()
    with make_source(data) as source:
        other = make_trainer(source)
        assert other.restore_from_checkpoint(path).step == 1
        assert parameters_digest(other.model) == digest


def test_the_next_save_and_close_wait(data, tmp_path, held):
    with make_source(data) as source, make_trainer(source, folder=tmp_path / "run") as trainer:
        for _ in range(3):
            trainer.train_minibatch()
            timer = threading.Timer(0.1, held.set)
            timer.start()
            trainer.save_checkpoint(wait=False)
    assert len(checkpoints_in(tmp_path / "run" / "checkpoints")) == 3
    assert newest_complete(tmp_path / "run" / "checkpoints").skipped == ()


def test_a_save_elsewhere_does_not_disturb_the_one_under_way(data, tmp_path, held):
    with make_source(data) as source, make_trainer(source, folder=tmp_path / "run") as trainer:
        trainer.train_minibatch()
        digest = parameters_digest(trainer.model)
        first = trainer.save_checkpoint(wait=False)
        trainer.train_minibatch()
        threading.Timer(0.1, held.set).start()
        second = trainer.save_checkpoint(tmp_path / "elsewhere")
    for path, step in ((first, 1), (second, 2)):
        with make_source(data) as source:
            other = make_trainer(source)
            assert other.restore_from_checkpoint(path).step == step
            assert (parameters_digest(other.model) == digest) == (step == 1)


def test_a_failed_write_is_raised_at_the_next_save_and_the_run_can_go_on(data, tmp_path, monkeypatch):
    def full(path, content):
        raise CheckpointError("no space left on device")

    with make_source(data) as source, make_trainer(source, folder=tmp_path / "run") as trainer:
        trainer.train_minibatch()
        good = trainer.save_checkpoint()
        trainer.train_minibatch()
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write", full)
            trainer.save_checkpoint(wait=False)
            with pytest.raises(CheckpointError, match="no space left"):
                trainer.wait_for_saves()
        trainer.wait_for_saves()  # said once
        assert newest_complete(tmp_path / "run" / "checkpoints").path == good
        trainer.train_minibatch()
        assert trainer.save_checkpoint().exists()


def test_staging_uses_its_memory_again():
    staging = Staging()
    first = staging.copied({"a": torch.ones(3), "b": torch.zeros(2, dtype=torch.int64)})
    address = first["a"].data_ptr()
    second = staging.copied({"a": torch.full((3,), 2.0), "b": torch.ones(2, dtype=torch.int64)})
    assert second["a"].data_ptr() == address
    assert second["a"].tolist() == [2.0] * 3
    third = staging.copied({"a": torch.zeros(4)})
    assert list(third) == ["a"]
    assert third["a"].shape == (4,)


def test_what_a_thread_raises_becomes_a_checkpoint_error():
    background = Background()
    background.run(lambda: 1 / 0)
    with pytest.raises(CheckpointError, match="division"):
        background.wait()
    background.wait()


def test_going_back_waits_for_the_checkpoint_that_is_being_written(data, tmp_path, held):
    """It belongs to the branch that is left: written late, it would lie among those of the run that goes on."""
    folder = tmp_path / "run" / "checkpoints"
    with make_source(data) as source, make_trainer(source, folder=tmp_path / "run") as trainer:
        held.set()
        first = trainer.save_checkpoint()
        held.clear()
        for _ in range(2):
            trainer.train_minibatch()
        trainer.save_checkpoint(wait=False)
        timer = threading.Timer(0.2, held.set)
        timer.start()
        trainer.restore_from_checkpoint(first)
        timer.join()
        trainer.train_minibatch()
        trainer.wait_for_saves()
        assert sorted(path.name for path in folder.iterdir()) == ["t-000000000000", "t-000000000018.given-up-1"]
