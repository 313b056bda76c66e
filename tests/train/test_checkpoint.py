"""Checkpoints are complete or recognisably not: every file cut, flipped or missing; the disk full; a writer killed."""

import errno
import gc
import json
import shutil
import subprocess
import sys
import weakref

import pytest
import torch

from minibatch.errors import CheckpointError
from minibatch.train import checkpoint, newest_complete, parameters_digest
from minibatch.train.checkpoint import Content
from tests.train.small import make_source, make_trainer, write

FILES = ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with three checkpoints, and its data."""
    data = write(tmp_path_factory.mktemp("checkpoint") / "data")
    folder = tmp_path_factory.mktemp("run")
    with make_source(data) as source, make_trainer(source, folder=folder) as trainer:
        trainer.fit(max_samples=81, save_every=27)
    return data, folder


@pytest.fixture
def copied(run, tmp_path):
    """A copy of it, to be damaged."""
    data, folder = run
    shutil.copytree(folder, tmp_path / "run")
    return data, tmp_path / "run"


def content(value=1.0):
    return Content(
        model={"w": torch.full((3,), value)}, optimizer={"0/w/step": torch.tensor(4.0)}, state={"step": 3, "text": "ä"}
    )


def test_what_is_written_is_read(tmp_path):
    path = checkpoint.place(tmp_path / "new" / "folder", 1234)
    checkpoint.write(path, content())
    assert sorted(file.name for file in path.iterdir()) == FILES
    back = checkpoint.read(path)
    assert torch.equal(back.model["w"], torch.ones(3))
    assert back.optimizer["0/w/step"].item() == 4.0
    assert back.state == {"step": 3, "text": "ä"}
    assert newest_complete(path.parent).path == path
    assert [file.name for file in path.parent.iterdir()] == ["t-000000001234"]


def test_nothing_is_pickled(run):
    _, folder = run
    for file in (folder / "checkpoints").rglob("*"):
        if file.is_file():
            assert file.suffix in (".json", ".safetensors")
            assert b"torch_utils" not in file.read_bytes()


@pytest.mark.parametrize("file", FILES)
def test_a_file_cut_anywhere_is_noticed_and_the_checkpoint_before_it_used(copied, file):
    data, folder = copied
    path = folder / "checkpoints" / "t-000000000081"
    whole = (path / file).read_bytes()
    for size in sorted(
        {0, 1, 7, 8, 9, 100, len(whole) // 3, len(whole) // 2, len(whole) - 2, *range(0, len(whole), 997)}
    ):
        (path / file).write_bytes(whole[:size])
        found = newest_complete(folder / "checkpoints")
        assert found.path == folder / "checkpoints" / "t-000000000054", size
        assert [skipped.path for skipped in found.skipped] == [path]
        assert file in found.skipped[0].why
    said = []
    with make_source(data) as source, make_trainer(source, folder=folder, announce=said.append) as trainer:
        restored = trainer.restore_from_checkpoint()
        assert (restored.step, len(restored.skipped)) == (6, 1)
        assert f"checkpoint t-000000000081 is not used: {folder}" in said[0]
        trainer.fit(max_samples=81, save_every=27)  # the damaged one is replaced
        digest = parameters_digest(trainer.model)
    assert newest_complete(folder / "checkpoints").path == path
    assert newest_complete(folder / "checkpoints").skipped == ()
    with make_source(data) as source, make_trainer(source) as trainer:
        trainer.fit(max_samples=81)
        assert parameters_digest(trainer.model) == digest


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_noticed(copied, file):
    _, folder = copied
    path = folder / "checkpoints" / "t-000000000081"
    whole = (path / file).read_bytes()
    for place in {0, 8, len(whole) // 5, len(whole) // 2, len(whole) - 2, *range(0, len(whole), 311)}:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 7)
        (path / file).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=file):
            checkpoint.verify(path)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_noticed(copied, file):
    _, folder = copied
    path = folder / "checkpoints" / "t-000000000081"
    (path / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        checkpoint.read(path)
    assert newest_complete(folder / "checkpoints").path.name == "t-000000000054"


def test_files_of_two_checkpoints_do_not_mix(copied):
    _, folder = copied
    new, old = (folder / "checkpoints" / name for name in ("t-000000000081", "t-000000000054"))
    shutil.copy(old / "model.safetensors", new / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        checkpoint.verify(new)


def test_when_all_are_damaged_all_are_named(copied):
    data, folder = copied
    for path in (folder / "checkpoints").iterdir():
        (path / "manifest.json").unlink()
    with make_source(data) as source, make_trainer(source, folder=folder) as trainer:
        with pytest.raises(CheckpointError, match=r"t-000000000081.*t-000000000054.*t-000000000027"):
            trainer.restore_from_checkpoint()
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            trainer.restore_from_checkpoint(folder / "nowhere")


def test_a_newer_format_asks_for_an_update(tmp_path):
    path = checkpoint.place(tmp_path, 1)
    checkpoint.write(path, content())
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match=r"format 99.*update"):
        checkpoint.verify(path)


def test_the_order_is_that_of_nominal_time(tmp_path):
    for time in (5, 10**13, 999_999_999_999, 64):
        checkpoint.write(checkpoint.place(tmp_path, time), content())
    assert [checkpoint.time_of(p) for p in checkpoint.checkpoints_in(tmp_path)] == [5, 64, 999_999_999_999, 10**13]


def test_only_the_last_ones_are_kept_and_leftovers_go(tmp_path):
    for time in range(1, 7):
        checkpoint.write(checkpoint.place(tmp_path, time), content())
    for leftover in (".writing-t-000000000009", ".replaced-t-000000000003", ".removing-t-000000000001"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "model.safetensors").write_bytes(b"half")
    checkpoint.tidy(tmp_path, keep_last=2, announce=pytest.fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t-000000000005", "t-000000000006"]
    checkpoint.tidy(tmp_path, keep_last=None, announce=pytest.fail)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_writer_killed_while_replacing_leaves_the_one_before(tmp_path):
    path = checkpoint.place(tmp_path, 5)
    checkpoint.write(path, content(1.0))
    path.rename(tmp_path / ".replaced-t-000000000005")  # where a kill between the two renames of `write` stops
    shutil.copytree(tmp_path / ".replaced-t-000000000005", tmp_path / ".writing-t-000000000005")
    found = newest_complete(tmp_path)
    assert checkpoint.read(found.path).model["w"][0] == 1.0
    checkpoint.tidy(tmp_path, keep_last=1, announce=pytest.fail)
    assert newest_complete(tmp_path).path == found.path
    checkpoint.write(path, content(2.0))
    checkpoint.tidy(tmp_path, keep_last=1, announce=pytest.fail)
    assert [p.name for p in tmp_path.iterdir()] == ["t-000000000005"]
    assert checkpoint.read(path).model["w"][0] == 2.0


FULL = """
import resource, sys, torch
from pathlib import Path
from minibatch.errors import CheckpointError
from minibatch.train.checkpoint import Content, newest_complete, place, write

folder = Path(sys.argv[1])
content = lambda n: Content(model={"w": torch.ones(n)}, optimizer={}, state={})
write(place(folder, 1), content(10))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for time in (2, 3):
    try:
        write(place(folder, time), content(100_000))
    except CheckpointError as error:
        print("refused:", error)
print(newest_complete(folder).path.name, [path.name for path in folder.iterdir()])
"""


def test_a_file_that_the_system_cuts_off_is_an_error(tmp_path):
    """Not a mocked error: the kernel refuses every byte beyond a limit, as a full disk does."""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert all(line.startswith("refused:") and "could not be written" in line for line in lines[:2])
    assert lines[2] == "t-000000000001 ['t-000000000001']"


@pytest.mark.parametrize("call", ["save_file", "sync_file", "sync_folder"])
def test_a_full_disk_loses_nothing(copied, monkeypatch, call):
    data, folder = copied
    before = {path: path.read_bytes() for path in (folder / "checkpoints").rglob("*") if path.is_file()}

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with make_source(data) as source, make_trainer(source, folder=folder) as trainer:
        trainer.restore_from_checkpoint()
        trainer.train_minibatch()
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, call, full)
            with pytest.raises(CheckpointError, match=r"t-000000000090 could not be written.*No space left.*Make room"):
                trainer.save_checkpoint()
        after = {path: path.read_bytes() for path in (folder / "checkpoints").rglob("*") if path.is_file()}
        if call != "sync_folder":  # which comes after the renaming, too
            assert after == before
        assert newest_complete(folder / "checkpoints").path.name == "t-000000000081"
        trainer.save_checkpoint()
    assert newest_complete(folder / "checkpoints").path.name == "t-000000000090"


def test_a_full_disk_does_not_lose_the_checkpoint_that_is_replaced(tmp_path, monkeypatch):
    path = checkpoint.place(tmp_path, 5)
    checkpoint.write(path, content(1.0))

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync_file", full)
    with pytest.raises(CheckpointError):
        checkpoint.write(path, content(2.0))
    assert checkpoint.read(path).model["w"][0] == 1.0
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_old_checkpoints_that_cannot_be_removed_are_announced_only(tmp_path, monkeypatch):
    for time in (1, 2):
        checkpoint.write(checkpoint.place(tmp_path, time), content())

    def denied(path, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checkpoint.shutil, "rmtree", denied)
    said = []
    checkpoint.tidy(tmp_path, keep_last=1, announce=said.append)
    assert len(said) == 1
    assert "could not be removed" in said[0]


def test_a_checkpoint_of_another_run_does_not_take_over_a_folder_that_holds_one(run, copied):
    """Else the first step would cut off the ledger there, and set the checkpoints aside, of a run nobody named."""
    data, other = run
    _, folder = copied
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with make_source(data) as source, make_trainer(source, folder=folder) as trainer:
        trainer.restore_from_checkpoint(other / "checkpoints" / "t-000000000027")
        for attempt in (trainer.train_minibatch, trainer.save_checkpoint):
            with pytest.raises(CheckpointError, match="already holds a run"):
                attempt()
    assert {path: path.read_bytes() for path in before} == before
    assert len(checkpoint.checkpoints_in(folder / "checkpoints")) == 3
    with make_source(data) as source, make_trainer(source, folder=folder) as trainer:
        trainer.restore_from_checkpoint(folder / "checkpoints" / "t-000000000027")  # its own does
        assert trainer.train_minibatch().step == 4


@pytest.mark.parametrize("restore_best", [False, True])
def test_a_trainer_that_was_closed_is_given_back_to_memory_with_its_model(run, tmp_path, restore_best):
    data, _ = run
    with make_source(data) as source:
        trainer = make_trainer(source, folder=tmp_path / "run", validation=data)
        trainer.fit(max_samples=18, validate_every=9, restore_best=restore_best)
        trainer.close()
    left = [weakref.ref(trainer), weakref.ref(trainer.model)]
    del trainer
    gc.collect()
    assert [ref() for ref in left] == [None, None]
