"""`minibatch fork`: says where the branch begins and how to go on, or goes on and compares."""

import json
import shutil

import pytest

from tests.tools.samples import run
from tests.train.travel.runs import digits


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("fork") / "run")


def test_a_branch_says_what_is_changed_and_how_to_go_on(past, tmp_path):
    out = tmp_path / "branch"
    result = run("fork", past.folder, out, "--at", 330, "--set", "learning_rate=0.1")
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    assert f"{out} begins after step 20 of {past.folder}, at nominal time 320" in shown
    assert "options.learning_rate: 0.2 → 0.1" in shown
    assert f"go on with: minibatch train demo --out {out} --resume" in shown
    result = run("train", "demo", "--out", out, "--resume", "--quiet")
    assert result.exit_code == 0, result.output
    assert "resumed after step 20" in result.stderr
    assert run("verify-resume", out).exit_code == 0


def test_a_trained_branch_is_compared_at_equal_times(past, tmp_path):
    result = run("fork", past.folder, tmp_path / "a", "--at-step", 25, "--exact", "--set", "dropout=0.1", "--train")
    assert result.exit_code == 0, result.output
    assert "B - A" in result.stdout
    document = json.loads(
        run("fork", past.folder, tmp_path / "b", "--at-step", 25, "--set", "dropout=0.1", "--train", "--json").stdout
    )
    assert document["begins"] == {"step": 20, "nominal_time": 320}
    first, last = document["validations"]
    assert first["run"] == first["fork"]
    assert (last["nominal_time"], last["run"] == last["fork"]) == (640, False)


def test_weights_that_are_not_those_of_the_run_are_refused(past, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(past.folder, copy, ignore=shutil.ignore_patterns(".lock"))
    text = (copy / "ledger.jsonl").read_text()
    (copy / "ledger.jsonl").write_text(text.replace(repr(past.ledger.line_at(23).grad_norm), "0.5"))
    result = run("fork", copy, tmp_path / "branch", "--at-step", 25, "--exact")
    assert result.exit_code in (1, 2)
    assert "step 23 came out otherwise than in the ledger" in " ".join(result.stderr.split())
    assert not (tmp_path / "branch").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "seed=3"], "its seed stays 7"),
        (["--at", "5", "--at-step", "3"], "not both"),
        (["--set", "learning_rate"], "NAME=VALUE"),
    ],
)
def test_what_cannot_be_forked_is_one_line_and_leaves_nothing(past, tmp_path, arguments, said):
    result = run("fork", past.folder, tmp_path / "branch", *arguments)
    assert result.exit_code in (1, 2)
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "branch").exists()
