"""`minibatch diff RUN RUN`: exit codes as diff(1), configuration, step, tensor, verdict."""

import json

import pytest

from tests.tools.samples import run
from tests.train.travel.runs import digits


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("diff") / "run")


@pytest.fixture(scope="module")
def other(past, tmp_path_factory):
    return digits(tmp_path_factory.mktemp("other") / "run", data=past.folder / "data", learning_rate=0.1)


def test_a_run_and_itself_are_exit_code_0(past):
    result = run("diff", past.folder, past.folder)
    assert result.exit_code == 0, result.output
    assert "the same: all 40 steps have equal bits" in result.stdout


def test_two_runs_that_part_are_exit_code_1_with_step_and_tensor(past, other):
    result = run("diff", past.folder, other.folder, "--data", past.folder / "data")
    assert result.exit_code == 1, result.output
    shown = " ".join(result.stdout.split())
    assert "options.learning_rate: 0.2 → 0.1" in shown
    assert "step 2 is the first that differs" in shown
    assert "different: the runs part at step 2; first tensor: layers.0.weight (parameters after step 2)" in shown
    document = json.loads(run("diff", past.folder, other.folder, "--no-replay", "--json").stdout)
    assert document["differ"]
    assert document["first_step"] == 2
    assert document["tensors_of"] == "checkpoints at nominal time 160"
    assert [pair["nominal_time"] for pair in document["validations"]] == [320, 640]


def test_data_sets_are_compared_as_before_and_a_run_with_one_is_an_error(past):
    train = past.folder / "data" / "train"
    result = run("diff", train, train)
    assert result.exit_code == 0
    assert "fingerprints are equal" in result.stdout
    assert run("diff", past.folder, train).exit_code == 2
