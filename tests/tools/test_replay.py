"""`minibatch replay`: the table of sums, the samples, the exit code."""

import json

import pytest

from minibatch.train.checkpoint import verify
from tests.tools.samples import run
from tests.train.travel.runs import digits, files


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("replay") / "run")


def test_both_sums_and_their_difference_are_printed(past):
    result = run("replay", past.folder, 25, "--samples", 3)
    assert result.exit_code == 0, result.output
    line = past.ledger.line_at(25)
    shown = " ".join(result.stdout.split())
    assert "step 25: nominal time [384, 400), 16 samples; run again from the checkpoint after step 20" in shown
    numerator = repr(line.terms["class"][0])
    assert f"class {numerator} {numerator} 0 " in shown
    assert repr(line.grad_norm) in shown
    assert "13 samples more" in shown
    assert "exact: this step and the 4 steps before it came out with the bits of the ledger" in shown
    assert max(map(len, result.stdout.splitlines()[1:4])) <= 80


def test_as_json_every_sample_has_its_loss(past):
    document = json.loads(run("replay", past.folder, 25, "--json").stdout)
    term = document["terms"]["class"]
    assert len(term["rows"]) == len(term["weighted"]) == 16
    assert sum(term["weighted"]) == pytest.approx(term["numerator"], rel=1e-14)
    assert (document["exact"], term["difference"], document["checkpoint"]["step"]) == (True, 0.0, 20)


def test_a_ledger_that_says_otherwise_is_exit_code_1(past, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(past.folder, copy, ignore=shutil.ignore_patterns(".lock"))
    text = (copy / "ledger.jsonl").read_text()
    norm = repr(past.ledger.line_at(25).grad_norm)
    (copy / "ledger.jsonl").write_text(text.replace(norm, "0.5"))
    result = run("replay", copy, 25)
    assert result.exit_code == 1
    assert f"not the same bits: grad_norm 0.5 → {norm}" in " ".join(result.stdout.split())
    result = run("replay", copy, 27)
    assert result.exit_code == 1
    assert "step 25 is the first that came out otherwise" in " ".join(result.stdout.split())


def test_the_state_after_the_step_is_saved_where_one_asks(past, tmp_path):
    before = files(past.folder)
    assert run("replay", past.folder, 22, "--save", tmp_path / "state").exit_code == 0
    verify(tmp_path / "state")
    again = run("replay", past.folder, 22, "--save", tmp_path / "state")
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert files(past.folder) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["41"], "has no step 41"), (["3:5"], "replay takes one step"), (["-3"], "No such option")],
)
def test_what_cannot_be_replayed_is_exit_code_2(past, arguments, said):
    result = run("replay", past.folder, *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())
