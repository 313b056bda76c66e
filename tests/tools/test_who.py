"""`minibatch who`: the rows of a step, on the screen and as JSON, and the steps of a row."""

import json

import numpy as np
import pytest

from minibatch import Dataset
from minibatch.train.travel import who
from tests.tools.samples import program, run
from tests.train.travel.runs import digits


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("who") / "run")


def test_a_step_is_shown_with_shard_index_sweep_and_label(past):
    result = run("who", past.folder, 7)
    assert result.exit_code == 0
    title, head, *lines = result.stdout.splitlines()
    assert title == "step 7: nominal time [96, 112), 16 rows"
    assert head.split() == ["time", "row", "shard", "index", "sweep", "label"]
    (step,) = who(past, 7)
    labels = Dataset.open(past.folder / "data" / "train").read(step.rows)["label"]
    for line, time, row, label in zip(lines, step.times, step.rows, labels, strict=True):
        shown = line.replace(",", "").split()
        assert shown == [str(time), str(row), "shard-00000.arrow", str(row), "0", str(label)]
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_range_of_steps_as_json_has_every_row(past):
    documents = json.loads(run("who", past.folder, "3:6", "--json").stdout)
    assert [each["step"] for each in documents] == [3, 4, 5]
    rows = [row["row"] for each in documents for row in each["rows"]]
    assert rows == np.concatenate([each.rows for each in who(past, 3, 6)]).tolist()
    assert all(row["left_out"] is None for each in documents for row in each["rows"])


def test_the_steps_of_a_row_lead_back_to_it(past):
    row = int(next(iter(who(past, 7))).rows[0])
    found = json.loads(run("who", past.folder, "--row", row, "--json").stdout)
    assert found[0]["step"] == 7
    for each in found:
        rows = json.loads(run("who", past.folder, each["step"], "--json").stdout)[0]["rows"]
        assert (each["time"], row) in [(one["time"], one["row"]) for one in rows]
    shown = run("who", past.folder, "--row", row).stdout
    assert shown.splitlines()[0] == f"row {row:,}"


def test_it_needs_no_checkpoint_and_no_lock(past):
    with_lock = (past.folder / ".lock").read_bytes()
    assert program("who", past.folder, "2").returncode == 0
    assert (past.folder / ".lock").read_bytes() == with_lock


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["41"], 1, "has no step 41: it has the steps 1 to 40"),
        (["x"], 2, "step 'x': expected a number, or A:B"),
        (["0"], 2, "steps are counted from 1"),
        (["5:5"], 2, "expected 1 <= A < B"),
        ([], 2, "give a STEP, or --row ROW"),
        (["3", "--row", "4"], 2, "give a STEP, or --row ROW"),
        (["--row", "4", "--stream", "a"], 1, "this run has the streams None"),
        (["--row", "99999"], 1, "row must be at most"),
        (["3", "--data", "nowhere"], 1, "are not in nowhere: say in which folder they lie"),
    ],
)
def test_what_makes_no_sense_is_one_line(past, arguments, code, said):
    result = run("who", past.folder, *arguments)
    assert result.exit_code == code
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_a_folder_without_a_run_is_said_to_be_none(tmp_path):
    result = run("who", tmp_path, 3)
    assert result.exit_code == 1
    assert "holds no run" in " ".join(result.stderr.split())
