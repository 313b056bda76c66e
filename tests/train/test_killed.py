"""kill -9 at ten random moments, resume after each: the same final bits, and a ledger without a gap."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minibatch.train import newest_complete, read_ledger
from tests.train.small import write

ROOT = Path(__file__).parents[2]
KILLS = 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_run_killed_ten_times_ends_with_the_same_bits(tmp_path):
    data = write(tmp_path / "data")
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.killed_run", data, folder, "2026", str(KILLS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["status"] == 0, done.stderr
    # every life was ended by the signal, and each got further than the one before
    assert [killed for killed, _ in seen["moments"]] == [True] * KILLS
    assert seen["moments"][-1][1] > 200
    assert seen["digests"][0] == seen["digests"][1]

    ours, theirs = read_ledger(folder), read_ledger(tmp_path / "whole")
    assert ours == theirs
    assert [line.step for line in ours] == list(range(1, 301))
    assert (folder / "validation.jsonl").read_bytes() == (tmp_path / "whole" / "validation.jsonl").read_bytes()
    found = newest_complete(folder / "checkpoints")
    assert found.path.name == "t-000000002700"
    # what the killed writers left is gone
    assert len(list((folder / "checkpoints").iterdir())) == 3
