"""One run per folder, for as long as its process lives."""

import subprocess
import sys

import pytest

from minibatch.train import FolderInUseError
from minibatch.train.lock import FolderLock

HOLD = "import sys; from pathlib import Path; from minibatch.train.lock import FolderLock\nlock = FolderLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"  # noqa: E501


def test_a_second_holder_is_told_who_has_it(tmp_path):
    lock = FolderLock(tmp_path / "new")
    with pytest.raises(FolderInUseError, match=r"in use by this process \(\d+\): close\(\)"):
        FolderLock(tmp_path / "new")
    lock.release()
    again = FolderLock(tmp_path / "new")
    del again
    FolderLock(tmp_path / "new").release()


def test_another_process_has_it_until_it_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(FolderInUseError, match=f"in use by process {process.pid}: wait for it or stop it"):
            FolderLock(tmp_path)
        process.kill()
        process.wait()
    FolderLock(tmp_path).release()
