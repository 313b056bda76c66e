"""`minibatch verify-resume`: exit code 0 for equal bits, 1 with the first step and tensor, 2 for what went wrong."""

import json
import shutil

import pytest

from tests.tools.samples import run
from tests.train.travel.runs import digits, files


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("verify") / "run")


def test_a_run_that_repeats_is_exit_code_0(past):
    before = files(past.folder)
    result = run("verify-resume", past.folder)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert "10 steps from the checkpoint after step 30 to the one after step 40" in shown
    assert "10 ledger lines and all tensors of the checkpoint are equal in all bits; promise: math" in shown
    assert files(past.folder) == before


def test_options_choose_checkpoint_steps_and_microbatches(past):
    document = json.loads(run("verify-resume", past.folder, "--steps", 12, "--at", 35, "--json").stdout)
    assert (document["holds"], document["steps"], document["checkpoint"]["step"]) == (True, 20, 30)
    result = run("verify-resume", past.folder, "--microbatch", 3)
    assert result.exit_code == 0
    assert "in microbatches of 3" in result.stdout
    assert "largest relative difference" in result.stdout


def test_what_differs_is_named_and_exit_code_1(past):
    result = run("verify-resume", past.folder, "--microbatch", 3, "--tolerance", 0)
    assert result.exit_code == 1
    shown = " ".join(result.stdout.split())
    assert "is the first that differs" in shown
    assert "layers.0.weight" in shown
    assert max(map(len, result.stdout.splitlines()[5:])) <= 90


def test_what_cannot_be_verified_is_exit_code_2(past, tmp_path):
    result = run("verify-resume", tmp_path)
    assert result.exit_code == 2
    shutil.copytree(past.folder, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", ".lock"))
    result = run("verify-resume", tmp_path / "run")
    assert result.exit_code == 2
    assert "nothing to verify" in result.stderr
