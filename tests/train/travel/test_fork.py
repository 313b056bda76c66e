"""A branch of a run: the same past, the same data and noise, and the one change from there on."""

import json
import shutil

import pytest

from minibatch.errors import CheckpointError
from minibatch.train import read_ledger
from minibatch.train.running import run_recipe
from minibatch.train.travel import Past, diff_runs, fork, paired_validations, replay, verify_resume, who
from minibatch.train.travel.fork import origin_of
from tests.train.travel.runs import digits, files, three_pieces


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    return digits(tmp_path_factory.mktemp("fork") / "run")


def trained(out):
    run_recipe("demo", out, options={}, resume=True, say=lambda text: None)
    return Past(out)


def test_without_a_change_the_branch_is_the_run(past, tmp_path):
    before = files(past.folder)
    made = fork(past, tmp_path / "branch", step=25, changes={})
    assert made.begins.step == 20
    assert made.changes == ()
    branch = trained(made.folder)
    assert not diff_runs(past, branch).any
    assert files(past.folder) == before


def test_exactly_at_a_step_the_run_is_gone_forward_to(past, tmp_path):
    made = fork(past, tmp_path / "branch", step=25, changes={}, exact=True)
    assert (made.begins.step, made.begins.nominal_time) == (25, 400)
    assert len(read_ledger(made.folder)) == 25
    assert not diff_runs(past, trained(made.folder)).any


def test_weights_that_are_not_those_of_the_run_are_never_forked(past, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(past.folder, run, ignore=shutil.ignore_patterns(".lock"))
    lines = (run / "ledger.jsonl").read_text().splitlines()
    document = json.loads(lines[22])
    document["grad_norm"] *= 1 + 1e-15
    lines[22] = json.dumps(document)
    (run / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(CheckpointError, match=r"step 23 came out otherwise .* fork from a checkpoint .*step 0, 10, 20"):
        fork(run, tmp_path / "branch", step=25, changes={}, exact=True)
    assert not (tmp_path / "branch").exists()
    assert fork(run, tmp_path / "branch", step=22, changes={}, exact=True).begins.step == 22


def test_a_branch_of_a_run_in_pieces_begins_with_the_bits_and_knows_the_options_of_then(tmp_path):
    past = three_pieces(tmp_path / "run")
    made = fork(past, tmp_path / "branch", step=25, changes={"log_every": "5"}, exact=True)
    assert all("max_samples" not in line for line in made.changes)
    branch = trained(made.folder)
    assert branch.ledger.last().t1 == 480  # that of the second piece
    for step in (17, 25, 26, 30):
        assert replay(branch, step).exact
        assert branch.ledger.line_at(step) == past.ledger.line_at(step)
    assert verify_resume(branch, steps=30).holds


def test_one_change_takes_effect_from_there_on_and_nothing_else_does(past, tmp_path):
    made = fork(past, tmp_path / "branch", nominal_time=330, changes={"learning_rate": "0.05"})
    assert made.begins.step == 20
    assert any("0.2 → 0.05" in line for line in made.changes)
    branch = trained(made.folder)
    found = diff_runs(past, branch)
    assert (found.first, set(found.differences)) == (21, {"lr"})
    steps = [[each.rows.tolist() for each in who(run, 1, 41)] for run in (past, branch)]
    assert steps[0] == steps[1]
    assert replay(branch, 33).exact
    pairs = paired_validations(past, branch)
    assert [a.nominal_time for a, _ in pairs] == [320, 640]
    assert dict(pairs[0][0]) == dict(pairs[0][1])
    assert dict(pairs[1][0]) != dict(pairs[1][1])


def test_dropout_keeps_its_noise_where_another_part_changes(past, tmp_path):
    """The first step of the branch has the losses of the run, bit for bit: data, weights and masks are the same."""
    branch = trained(fork(past, tmp_path / "branch", step=20, changes={"learning_rate": "0.01"}).folder)
    mine, theirs = past.ledger.line_at(21), branch.ledger.line_at(21)
    assert (mine.terms, mine.grad_norm) == (theirs.terms, theirs.grad_norm)
    assert past.ledger.line_at(22).terms != branch.ledger.line_at(22).terms


def test_the_folder_says_where_it_comes_from(past, tmp_path):
    made = fork(past, tmp_path / "branch", step=30, changes={"log_every": "5"})
    origin = json.loads((made.folder / "fork.json").read_text())
    assert origin["run"] == str(past.folder)
    assert (origin["step"], origin["nominal_time"]) == (30, 480)
    assert origin["changes"] == list(made.changes)
    assert origin_of(made.folder) == origin
    trained(made.folder)
    assert origin_of(made.folder) == origin
    assert origin_of(past.folder) is None


def test_by_default_a_branch_begins_at_the_newest_checkpoint(past, tmp_path):
    assert fork(past, tmp_path / "branch", changes={"max_samples": "800"}).begins.step == 40
    assert trained(tmp_path / "branch").ledger.last().t1 == 800


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"changes": {"seed": "8"}}, ValueError, r"its seed stays 7 \(given: 8\)"),
        ({"changes": {"learning_rat": "0.1"}}, ValueError, "did you mean .*learning_rate"),
        ({"changes": {}, "step": 3, "nominal_time": 5}, ValueError, "not both"),
        ({"changes": {}, "exact": True}, ValueError, "exact=True needs"),
        ({"changes": {}, "nominal_time": 10**6, "exact": True}, ValueError, "no step of .* has nominal time 1,000,000"),
    ],
)
def test_what_cannot_be_forked_leaves_nothing(past, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        fork(past, tmp_path / "branch", **options)
    assert not (tmp_path / "branch").exists()


def test_a_folder_that_holds_something_is_left_alone(past, tmp_path):
    (tmp_path / "branch").mkdir()
    (tmp_path / "branch" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty"):
        fork(past, tmp_path / "branch", changes={})
    assert files(tmp_path / "branch") == {"notes.txt": b"mine"}


def test_before_the_first_checkpoint_only_the_exact_way_leads(tmp_path):
    past = digits(tmp_path / "run", keep_last=1)
    for saved in past.checkpoints()[:-1]:
        shutil.rmtree(saved.path)
    with pytest.raises(CheckpointError, match=r"its first is after step 40; exact=True \(--exact\)"):
        fork(past, tmp_path / "branch", step=12, changes={})
    made = fork(past, tmp_path / "branch", step=12, changes={}, exact=True)
    assert made.begins.step == 12
    assert not diff_runs(past, trained(made.folder)).any
