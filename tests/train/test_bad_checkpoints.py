"""Checkpoints that are damaged, foreign, newer or never got onto the disk: refused by name, the one before is used."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from minibatch import MinibatchSource
from minibatch.errors import CheckpointError
from minibatch.train import (
    EMA,
    Skip,
    Spikes,
    Term,
    Trainer,
    checkpoint,
    ledger,
    mse,
    newest_complete,
    on,
    parameters_digest,
    read_ledger,
    staging,
)
from minibatch.train.checkpoint import Content, verify
from minibatch.train.digest import file_digest
from minibatch.train.errors import FolderInUseError
from tests.train.small import fields, make_source, make_trainer, write

ROOT = Path(__file__).parents[2]
FILES = ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bad checkpoints") / "data")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """The folder of a run with checkpoints at 27, 54 and 81."""
    folder = tmp_path_factory.mktemp("run")
    with make_source(data) as source, make_trainer(source, folder=folder) as trainer:
        trainer.fit(max_samples=81, save_every=27)
    return folder


@pytest.fixture
def copied(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def trainer_of(data, folder=None, **options):
    return make_trainer(make_source(data), folder=folder, **options)


def digest_at(data, time, **options):
    trainer = trainer_of(data, **options)
    trainer.fit(max_samples=time)
    return parameters_digest(trainer.model)


# Half written.


@pytest.mark.parametrize("file", FILES)
def test_a_file_cut_at_every_byte_is_refused_by_name(copied, file):
    path = copied / "checkpoints" / "t-000000000081"
    whole = (path / file).read_bytes()
    # Where the content cannot be the reason, one size is as good as the next; the manifest is read as a document.
    last = len(whole) - (file == "manifest.json")  # without the last line's end it still says all of it
    sizes = range(last) if last < 3000 else {*range(0, last, 13), *range(256), last - 1}
    for size in sizes:
        (path / file).write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=file):
            verify(path)
    assert newest_complete(path.parent).path.name == "t-000000000054"


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
def test_a_large_file_cut_at_every_4_kib_or_never_written_in_full_is_refused(tmp_path, file):
    large = {"w": torch.arange(100_000.0)}
    for time_, scale in ((10, 1.0), (20, 2.0)):
        tensors = {name: scale * tensor for name, tensor in large.items()}
        checkpoint.write(checkpoint.place(tmp_path, time_), Content(model=tensors, optimizer=tensors, state={}))
    path = tmp_path / "t-000000000020"
    whole = (path / file).read_bytes()
    assert len(whole) > 400_000
    for size in range(0, len(whole), 4096):
        with open(path / file, "rb+") as cut:
            cut.truncate(size)
        with pytest.raises(CheckpointError, match=rf"{file} has .* bytes, its manifest says .* truncated"):
            verify(path)
        assert newest_complete(tmp_path).path.name == "t-000000000010"
        # As some file systems leave it after a crash: the length is there, its last pages are not.
        with open(path / file, "rb+") as holed:
            holed.truncate(len(whole))
        with pytest.raises(CheckpointError, match=rf"{file} is damaged"):
            verify(path)
        (path / file).write_bytes(whole)
    verify(path)


def test_a_manifest_that_says_something_else_is_refused_whatever_it_says(copied):
    path = copied / "checkpoints" / "t-000000000081"
    real = json.loads((path / "manifest.json").read_bytes())
    files = real["files"]
    documents = [
        [], {}, None, 3, "text", {"format": 1}, {"format": None, "files": files}, {"format": "1", "files": files},
        {"format": 1, "files": []}, {"format": 1, "files": {}}, {"format": 1, "files": {"model.safetensors": 3}},
        {"format": 1, "files": {**files, "../../../etc/passwd": {"bytes": 1, "xxh3_128": "0"}}},
        {"format": 1, "files": {name: said for name, said in files.items() if name != "state.json"}},
    ]  # fmt: skip
    for document in documents:
        signed = {**document, "digest": checkpoint._digest(document)} if isinstance(document, dict) else document
        (path / "manifest.json").write_text(json.dumps(signed))
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            checkpoint.read(path)
        assert newest_complete(path.parent).path.name == "t-000000000054"


def test_a_state_without_what_a_run_needs_changes_nothing(copied, data):
    path = copied / "checkpoints" / "t-000000000081"
    whole = json.loads((path / "state.json").read_text())
    for entry in ("step", "nominal_time", "seed", "source", "optimizers", "settings", "environment"):
        rewrite(path, {name: value for name, value in whole.items() if name != entry})
        trainer = trainer_of(data)
        before = parameters_digest(trainer.model)
        with pytest.raises(CheckpointError, match=rf"state\.json lacks {entry}"):
            trainer.restore_from_checkpoint(path)
        assert (parameters_digest(trainer.model), trainer.nominal_time, trainer.step) == (before, 0, 0)


def rewrite(path, state, **manifest):
    """Another state.json, or another manifest, with the digests to fit."""
    (path / "state.json").write_text(json.dumps(state))
    document = json.loads((path / "manifest.json").read_bytes())
    document.pop("digest")
    document["files"]["state.json"] = {
        "bytes": (path / "state.json").stat().st_size,
        "xxh3_128": file_digest(path / "state.json"),
    }
    document |= manifest
    (path / "manifest.json").write_text(json.dumps({**document, "digest": checkpoint._digest(document)}))


def test_one_of_a_newer_version_is_passed_over_and_kept(copied, data):
    path = copied / "checkpoints" / "t-000000000081"
    rewrite(path, json.loads((path / "state.json").read_text()), format=checkpoint.FORMAT + 1)
    before = (path / "manifest.json").read_bytes()
    said = []
    with trainer_of(data, copied, announce=said.append) as trainer:
        with pytest.raises(CheckpointError, match=r"has format 2, this version reads up to 1: update"):
            trainer.restore_from_checkpoint(path)
        assert trainer.restore_from_checkpoint().nominal_time == 54
        assert "update minibatch-timeline" in said[0]
        trainer.train_minibatch()
    assert [p.read_bytes() for p in copied.glob("checkpoints/t-000000000081*/manifest.json")] == [before]


# Of something else.


def test_of_another_model_data_set_optimizer_or_averages_nothing_is_taken_over(copied, data, tmp_path):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(6, 5)

        def forward(self, x):
            return self.body(x.float())

    def other_model(source):
        model = Other()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        return Trainer(model, Term("x", lambda out, batch: out.sum(1)), sgd, source, 9, inputs="x")

    changed = write(tmp_path / "other data", target=-fields()["target"])
    makers = {
        "of another model: ": (data, other_model),
        "fingerprint": (changed, make_trainer),
        "seed": (data, lambda source: make_trainer(source, seed=99)),
        "without a source": (data, lambda source: make_trainer(None, seed=5)),
    }
    for message, (path, make) in makers.items():
        with make_source(path) as source:
            trainer = make(source)
            before = parameters_digest(trainer.model)
            with pytest.raises(CheckpointError, match=message):
                trainer.restore_from_checkpoint(copied / "checkpoints" / "t-000000000081")
            assert (parameters_digest(trainer.model), trainer.nominal_time, trainer.step) == (before, 0, 0)


def test_other_averages_are_refused_before_anything_is_changed(data, tmp_path):
    trainer = trainer_of(data, averaging=EMA(halflife=20))
    trainer.train_minibatch()
    trainer.save_checkpoint(tmp_path / "c")
    other = trainer_of(data, averaging=EMA(halflife=20))
    other.model.values.requires_grad_(False)
    other = Trainer(
        other.model, trainer.terms, torch.optim.Adam(other.model.parameters()), make_source(data), 9, inputs="x",
        averaging=EMA(halflife=20),
    )  # fmt: skip
    before = parameters_digest(other.model)
    with pytest.raises(CheckpointError, match=r"other averages than this run: .*values.* is not averaged here"):
        other.restore_from_checkpoint(tmp_path / "c")
    assert (parameters_digest(other.model), other.nominal_time) == (before, 0)


@pytest.mark.parametrize("where", ["", "checkpoints", "ledger.jsonl", "nowhere"])
def test_a_path_that_is_no_checkpoint_says_what_it_is(copied, data, where):
    with pytest.raises(CheckpointError) as caught:
        trainer_of(data).restore_from_checkpoint(copied / where)
    expected = (
        "there is no checkpoint at" if where in ("ledger.jsonl", "nowhere") else "is no checkpoint but the folder"
    )
    assert expected in str(caught.value)
    assert where or "t-000000000081" in str(caught.value)


# What is written never takes the place of something else.


def test_a_folder_or_file_of_something_else_is_not_replaced(data, tmp_path):
    trainer = trainer_of(data)
    trainer.train_minibatch()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"home holds what is of no checkpoint \(thesis\.txt\)"):
        trainer.save_checkpoint(tmp_path / "home")
    with pytest.raises(CheckpointError, match="is a file, and a checkpoint is a folder"):
        trainer.save_checkpoint(tmp_path / "file")
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "x"
    (tmp_path / "empty").mkdir()
    for _ in range(2):  # an empty folder, then the checkpoint that is there
        verify(trainer.save_checkpoint(tmp_path / "empty"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "home"]


@pytest.mark.parametrize("name", ["ä ß 日本", "with 'quotes' and \"more\"", " spaces ", "%s{}", "a" * 200])
def test_names_of_folders_may_be_anything(data, tmp_path, name):
    for _ in range(2):
        with trainer_of(data, tmp_path / name) as trainer:
            if trainer.holds_a_run():
                assert trainer.restore_from_checkpoint().step == 2
            trainer.train_minibatch()
            trainer.train_minibatch()
            trainer.save_checkpoint(wait=False)
    assert [line.step for line in read_ledger(tmp_path / name)] == [1, 2, 3, 4]


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.complex128)])
def test_tensors_that_files_cannot_hold_are_refused_by_name(data, tmp_path, tensor):
    for wait in (True, False):
        with trainer_of(data, tmp_path / f"run {wait}") as trainer:
            trainer.model.register_buffer("odd", tensor)
            trainer.train_minibatch()
            with pytest.raises(
                CheckpointError, match=r"the model's odd is a tensor of .* which checkpoints cannot hold"
            ):
                trainer.save_checkpoint(wait=wait)
            del trainer.model.odd
            trainer.save_checkpoint(wait=wait)


# Disk full.

CALLS = {
    "save_file": checkpoint,
    "sync_file": checkpoint,
    "sync_folder": checkpoint,
    "mkdir": Path,
    "write_text": Path,
    "rename": Path,
    "fsync": os,
}


class Full:
    """Raises `error` in the call number `at` of everything that writes; a file is by then half written."""

    def __init__(self, patch, at, code=errno.ENOSPC):
        self.left, self.code = at, code
        for name, owner in CALLS.items():
            patch.setattr(owner, name, self.failing(getattr(owner, name), name))

    def failing(self, real, name):
        def call(*arguments, **options):
            self.left -= 1
            if self.left != 0:
                return real(*arguments, **options)
            if name == "save_file":
                arguments[1].write_bytes(b"half of it")
            if name == "write_text":
                arguments[0].write_bytes(b"{")
            raise OSError(self.code, os.strerror(self.code))

        return call


@pytest.mark.parametrize("wait", [True, False], ids=["at once", "by a thread"])
def test_a_disk_that_is_full_at_any_call_leaves_the_checkpoints_that_were_there(data, tmp_path, wait):
    expected = {time_: digest_at(data, time_) for time_ in (9, 18, 27)}
    failures = 0
    for at in range(1, 40):
        folder = tmp_path / str(at)
        with trainer_of(data, folder) as trainer:
            trainer.train_minibatch()
            trainer.save_checkpoint()
            trainer.train_minibatch()
            with pytest.MonkeyPatch.context() as patch:
                full = Full(patch, at)
                said = ""
                try:
                    trainer.save_checkpoint(wait=wait)
                    trainer.wait_for_saves()
                except CheckpointError as error:
                    said = str(error)
            if full.left > 0:  # there are no more calls than that
                assert not said
                break
            assert not said or "No space left on device" in said
            failures += bool(said)
            found = newest_complete(folder / "checkpoints")
            assert found.path.name in ("t-000000000009", "t-000000000018")
            assert not [path for path in (folder / "checkpoints").iterdir() if path.name.startswith(".writing")]
            trainer.train_minibatch()  # room again
            trainer.save_checkpoint(wait=wait)
        assert parameters_digest(trainer.model) == expected[27]
        assert [line.step for line in read_ledger(folder)] == [1, 2, 3]
        with trainer_of(data, folder) as again:
            assert again.restore_from_checkpoint().nominal_time == 27
            assert parameters_digest(again.model) == expected[27]
    else:
        pytest.fail("a save makes fewer calls than that")
    assert failures >= 12


@pytest.mark.parametrize("at", [1, 2])
def test_a_full_disk_while_replacing_a_checkpoint_leaves_it(data, tmp_path, at):
    trainer = trainer_of(data)
    trainer.train_minibatch()
    trainer.save_checkpoint(tmp_path / "c")
    before = parameters_digest(trainer.model)
    trainer.train_minibatch()
    with pytest.MonkeyPatch.context() as patch:
        renames = []

        def rename(self, target):
            renames.append(self.name)
            if len(renames) == at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return os.rename(self, target)

        patch.setattr(Path, "rename", rename)
        with pytest.raises(CheckpointError, match="No space left"):
            trainer.save_checkpoint(tmp_path / "c")
    again = trainer_of(data)
    again.restore_from_checkpoint(tmp_path / "c")
    assert (again.step, parameters_digest(again.model)) == (1, before)


@pytest.mark.parametrize("kept", [0, 7, 200])
def test_a_full_disk_at_a_log_point_loses_no_line_of_the_ledger(data, tmp_path, kept):
    """Part of the lines may get onto the disk; once there is room, the ledger is as if nothing had been."""
    with trainer_of(data, tmp_path / "run", log_every=2) as trainer:
        trainer.train_minibatch()
        trainer.train_minibatch()
        trainer.train_minibatch()
        with pytest.MonkeyPatch.context() as patch:

            class Small:
                """A file on a disk with room for `kept` bytes more."""

                def __init__(self, file):
                    self.file, self.room = file, kept

                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    self.file.close()

                def __getattr__(self, name):
                    return getattr(self.file, name)

                def write(self, text):
                    if not self.room:
                        raise OSError(errno.ENOSPC, "No space left on device")
                    part, self.room = text[: self.room], 0
                    return self.file.write(part)

            patch.setattr(ledger, "open", lambda *a, **b: Small(io.open(*a, **b)), raising=False)  # noqa: SIM115, UP020
            with pytest.raises(OSError, match=r"No space left on device: .*ledger\.jsonl"):
                trainer.train_minibatch()
        assert trainer.step == 4
        trainer.train_minibatch()
        trainer.save_checkpoint()
        assert [line.step for line in read_ledger(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert parameters_digest(trainer.model) == digest_at(data, 45)


LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
from torch import nn
from minibatch.errors import CheckpointError
from minibatch.train import Term, Trainer, newest_complete, parameters_digest

folder, wait = Path(sys.argv[1]), sys.argv[2] == "wait"
model = nn.Linear(300, 100)
term = Term("x", lambda outputs, batch: outputs.square().sum(1))
trainer = Trainer(model, term, torch.optim.SGD(model.parameters(), lr=1e-4), None, 4, inputs="x", folder=folder)
step = lambda: trainer.train_minibatch({"x": torch.ones(4, 300)})
step()
trainer.save_checkpoint()
step()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # a checkpoint has 120 KB
try:
    trainer.save_checkpoint(wait=wait)
    trainer.wait_for_saves()
    said = "saved"
except CheckpointError as error:
    said = str(error)
left = sorted(path.name for path in (folder / "checkpoints").iterdir())
newest = newest_complete(folder / "checkpoints").path.name
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
step()
trainer.save_checkpoint(wait=wait)
trainer.close()
print(json.dumps([said, left, newest, newest_complete(folder / "checkpoints").path.name]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("wait", ["thread"])
def test_a_real_limit_on_the_size_of_files_is_told_and_survived(tmp_path, wait):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "run", wait], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    said, left, newest, last = json.loads(done.stdout)
    assert "could not be written" in said
    assert "File too large" in said
    assert "Make room" in said
    assert left == ["t-000000000004"]
    assert (newest, last) == ("t-000000000004", "t-000000000012")


def test_a_folder_that_cannot_be_written_is_told_and_can_still_be_restored_from(run, data, tmp_path):
    """Not by permissions, which do not bind everybody; by what the system would say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "mkdir", raising(OSError(errno.EROFS, "Read-only file system")))
        trainer = trainer_of(data)
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        assert trainer.restore_from_checkpoint(run / "checkpoints" / "t-000000000081").step == 9
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
        with pytest.raises(CheckpointError, match="Read-only file system") as caught:
            trainer.save_checkpoint(tmp_path / "c")
        assert "Make room" not in str(caught.value)
    trainer.save_checkpoint(tmp_path / "c")


def raising(error):
    def call(*arguments, **options):
        raise error

    return call


# Two at once, and signals.


def test_a_second_run_in_the_folder_is_refused_also_from_another_process_and_as_a_copy(data, tmp_path):
    import copy

    with trainer_of(data, tmp_path / "run") as trainer:
        trainer.train_minibatch()
        with pytest.raises(FolderInUseError, match="is in use by this process"):
            trainer_of(data, tmp_path / "run")
        opening = f"RunFolder({str(tmp_path / 'run')!r}, ledger=True, keep_last=None, announce=print)"
        code = f"from minibatch.train.folder import RunFolder; {opening}"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert f"in use by process {os.getpid()}" in done.stderr
        with pytest.raises(TypeError, match="cannot be copied, because two runs would write"):
            copy.deepcopy(trainer)
    with trainer_of(data, tmp_path / "run") as trainer, pytest.raises(CheckpointError, match="already holds a run"):
        trainer.train_minibatch()


SLOW_SAVE = """
import sys, time
from pathlib import Path
import torch
from minibatch.train import checkpoint, parameters_digest
from tests.train.small import make_source, make_trainer

torch.set_num_threads(1)
real, done = checkpoint.sync_file, []
def slow(path):
    if len(done) >= 8:
        print("saving", path.name, flush=True)
        time.sleep(0.1)
    done.append(path.name)
    real(path)
checkpoint.sync_file = slow
with make_source(Path(sys.argv[1])) as source, make_trainer(source, folder=sys.argv[2], log_every=1) as trainer:
    if trainer.holds_a_run():
        trainer.restore_from_checkpoint()
    ended = trainer.fit(max_samples=270, save_every=27, stop_on_signals=True)
    print("digest", parameters_digest(trainer.model), trainer.nominal_time, flush=True)
sys.exit(ended.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM")
@pytest.mark.parametrize("file", ["manifest.json"])
def test_sigterm_during_a_save_leaves_whole_checkpoints_and_nothing_half(data, tmp_path, file):
    command = [sys.executable, "-c", SLOW_SAVE, data, tmp_path / "run"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line == f"saving {file}\n":
                process.send_signal(signal.SIGTERM)
                break
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    time_ = int(said.split()[-1])
    assert time_ < 270
    kept = checkpoint.checkpoints_in(tmp_path / "run" / "checkpoints")
    for path in kept:
        verify(path)
    assert checkpoint.time_of(kept[-1]) == time_
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [path.name for path in kept]
    assert digest_at(data, time_) in said
    with trainer_of(data, tmp_path / "run") as trainer:
        trainer.restore_from_checkpoint()
        trainer.fit(max_samples=270)
        assert parameters_digest(trainer.model) == digest_at(data, 270)


def test_an_error_of_the_thread_is_raised_once_and_by_close(data, tmp_path):
    for call in ("save_checkpoint", "wait_for_saves", "close"):
        trainer = trainer_of(data, tmp_path / call)
        trainer.train_minibatch()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "save_file", raising(OSError(errno.ENOSPC, "No space left on device")))
            trainer.save_checkpoint(wait=False)
            with pytest.raises(CheckpointError, match="No space left"):
                getattr(trainer, call)()
        trainer.wait_for_saves()
        trainer.close()
        assert staging.Background().wait() is None
        make_trainer(make_source(data), folder=tmp_path / call).close()  # the folder was let go


# A resume in the middle of what looks back.


@pytest.mark.parametrize("killed_at", [3, 4, 5, 6, 9])
def test_a_rollback_after_a_resume_leaves_out_what_it_would_have_without(tmp_path, killed_at):
    target = fields()["target"]
    target[30] = 1e4
    data = write(tmp_path / "data", target=target)
    spikes = Spikes(action="rollback", rollback_steps=2, warmup=4, window=8, factor=8.0)

    def start(folder):
        return trainer_of(data, folder, spikes=spikes)

    with start(tmp_path / "whole") as whole:
        whole.fit(max_samples=135, save_every=9)
        assert whole.streams.skips[0] == Skip(start=18, stop=45, why=whole.streams.skips[0].why)
    with start(tmp_path / "run") as first:
        first.fit(max_samples=9 * killed_at, save_every=9)
    with start(tmp_path / "run") as second:
        second.restore_from_checkpoint()
        second.fit(max_samples=135, save_every=9)
    assert second.streams.skips == whole.streams.skips
    assert parameters_digest(second.model) == parameters_digest(whole.model)


def test_validations_of_a_branch_that_was_left_are_forgotten(data, tmp_path):
    """Also where the other branch has as many of them."""
    trainer = trainer_of(data, validation=data)
    trainer.train_minibatch()
    trainer.save_checkpoint(tmp_path / "c")
    trainer.validate()
    first = trainer.values["class"]
    trainer.restore_from_checkpoint(tmp_path / "c")
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(0.5)
    second = trainer.validate()
    assert trainer.values["class"] == ((9, second["class"]),) != first


def test_a_checkpoint_of_float16_scales_numbers_and_odd_tensors_comes_back(tmp_path):
    """Empty, 0-dim, bool, integer, non-contiguous and half tensors."""

    def start():
        model = nn.Module()
        torch.manual_seed(1)
        model.weight = nn.Parameter(torch.randn(3, 2).t())
        model.empty, model.scalar = nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.tensor(1.5))
        model.brief = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
        model.register_buffer("flags", torch.tensor([True, False]))
        model.register_buffer("nothing", torch.zeros(0, dtype=torch.int16))
        model.forward = lambda x: (x @ model.weight * model.scalar).sum(1) + model.brief.sum().float()
        adam = torch.optim.Adam(model.parameters(), lr=0.1)
        term = Term("fit", lambda out, batch: (out - 1.0).square())
        return Trainer(model, term, adam, None, 3, inputs="x", check_unreached=False, precision="fp16", seed=1)

    batch = {"x": np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2)}
    trainer = start()
    trainer.train_minibatch(batch)
    trainer.save_checkpoint(tmp_path / "c")
    other = start()
    other.restore_from_checkpoint(tmp_path / "c")
    for one in (trainer, other):
        for _ in range(3):
            one.train_minibatch(batch)
    assert parameters_digest(trainer.model) == parameters_digest(other.model)
    assert other.model.weight.stride() == trainer.model.weight.stride() == (1, 2)


def test_lists_and_packed_sequences_resume_with_the_same_bits(tmp_path):
    from minibatch import DatasetWriter

    draw = np.random.default_rng(5)
    words = [draw.normal(size=draw.integers(1, 9)) for _ in range(31)]
    with DatasetWriter(tmp_path / "data") as writer:
        writer.write({"w": words, "y": [2 * w for w in words]})

    def start(sequences, **options):
        model = nn.Linear(1, 1).double()
        nn.init.ones_(model.weight), nn.init.zeros_(model.bias)
        mask = "token_mask" if sequences == "packed" else "w_mask"
        return Trainer(
            model, Term("fit", on(mse, "y", reduce="none"), mask=mask), torch.optim.Adam(model.parameters(), lr=0.01),
            MinibatchSource(tmp_path / "data", seed=2, sequences=sequences, **options), 16,
            inputs=lambda model, batch: model(batch["w"][..., None]).squeeze(-1), promise="bits", leaf_size=2,
        )  # fmt: skip

    for sequences, options in (("packed", {"block": 8}), ("whole", {}), ("rows", {})):
        trainer = start(sequences, **options)
        for _ in range(3):
            trainer.train_minibatch()
        trainer.save_checkpoint(tmp_path / sequences)
        other = start(sequences, **options)
        other.restore_from_checkpoint(tmp_path / sequences)
        intervals = [[one.train_minibatch().interval for _ in range(4)] for one in (trainer, other)]
        assert intervals[0] == intervals[1]
        assert parameters_digest(trainer.model) == parameters_digest(other.model)
