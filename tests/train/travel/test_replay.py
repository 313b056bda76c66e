"""A step again: the bits of then, the losses of its samples, and their sum against the ledger (acceptance test 8)."""

import json
import math
import shutil
from functools import partial

import numpy as np
import pytest
import torch

from minibatch.errors import CheckpointError
from minibatch.train import Trainer, cross_entropy, mse, on, parameters_digest, read_ledger
from minibatch.train.checkpoint import read
from minibatch.train.errors import NonFiniteError
from minibatch.train.schedules import Newbob
from minibatch.train.skips import Skip
from minibatch.train.terms import Term
from minibatch.train.travel import Past, replay
from tests.train.small import TERMS, TwoHeads, fields, make_source, write
from tests.train.travel.runs import SIZE, STEPS, digits, files, hand_made, made, resumed, three_pieces

BITS = {"promise": "bits", "leaf_size": 4, "microbatch_size": None}


@pytest.fixture(scope="module", params=[{}, BITS], ids=["math", "bits"])
def past(request, tmp_path_factory):
    return hand_made(tmp_path_factory.mktemp("replay"), **request.param)


@pytest.mark.parametrize("step", [1, 2, 11, 12, 13, 27, STEPS])
def test_a_step_comes_out_with_its_bits_and_its_samples_sum_to_the_ledger(past, step):
    found = replay(past, step)
    assert found.exact
    assert found.again == found.line == read_ledger(past.folder)[step - 1]
    for name, term in found.terms.items():
        assert term.numerator == term.ledger[0] == found.line.terms[name][0]
        assert term.difference == 0.0
        assert (term.denominator if len(term.rows) else 0.0) == found.line.terms[name][1]
        assert math.isclose(term.plain_sum, term.numerator, rel_tol=1e-14, abs_tol=1e-300)
        assert math.fsum(term.weighted.tolist()) == term.plain_sum
    total = math.fsum(loss for _, loss in found.sample_losses().values())
    assert math.isclose(total, found.line.total_loss, rel_tol=1e-13)


def test_weights_and_masks_stand_between_values_and_what_is_summed(past):
    found = replay(past, 20)
    data = fields()
    for name, term in found.terms.items():
        assert term.rows.tolist() == found.terms["class"].rows.tolist()
        assert len(term.times) == found.line.samples
        weights = data["zero"] if name == "class" else data["has_target"].astype(float)
        values = term.values.reshape(len(term.rows), -1).sum(1)
        np.testing.assert_allclose(term.weighted, values * weights[term.rows], rtol=1e-14)


def test_the_step_begins_at_the_nearest_checkpoint_and_nothing_of_the_run_is_changed(past):
    before = files(past.folder)
    steps = [saved.step for saved in past.checkpoints()]
    assert len(steps) > 3
    for step in (3, steps[1] + 1, steps[2], steps[2] + 2):
        found = replay(past, step)
        assert found.began.step == max(s for s in steps if s < step)
        assert found.ran == step - 1 - found.began.step
    assert files(past.folder) == before


def test_digests_and_the_saved_state_are_those_of_the_run(past, tmp_path):
    saved = past.checkpoints()[2]
    found = replay(past, saved.step, save=tmp_path / "state")
    mine, theirs = read(tmp_path / "state"), read(saved.path)
    assert mine.state["step"] == theirs.state["step"] == saved.step
    for side in ("model", "optimizer"):
        left, right = getattr(mine, side), getattr(theirs, side)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    model = TwoHeads(dropout=0.3).double()
    model.load_state_dict(mine.model)
    assert parameters_digest(model) == found.digests[1] != found.digests[0]


def test_without_checkpoints_the_first_weights_are_enough(tmp_path):
    past = hand_made(tmp_path)
    for saved in past.checkpoints():
        (saved.path / "state.json").unlink()
    found = replay(past, 15)
    assert found.exact
    assert (found.began, found.ran) == (None, 14)


def test_what_the_run_leaves_out_is_left_out_again(tmp_path):
    """Also where it was decided after the checkpoint that one begins from, as a rollback does."""
    past = hand_made(tmp_path, skips=[Skip(start=120, stop=131)])
    later = Past(past.folder, make=partial(made, tmp_path / "data"))
    for step in (14, 15, 20):
        assert replay(later, step).exact
    times = replay(later, 14).terms["class"].times
    assert len(times)
    assert not set(times.tolist()) & set(range(120, 131))


def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path):
    past = hand_made(tmp_path)
    saved = past.checkpoints()[2]
    with open(saved.path / "model.safetensors", "r+b") as file:
        file.truncate(100)
    found = replay(past, saved.step + 2)
    assert found.exact
    assert found.began.step == past.checkpoints()[1].step
    assert saved.path.name in found.passed_over[0]
    assert "truncated" in found.passed_over[0]


def test_a_run_that_goes_on_can_be_looked_into(tmp_path):
    data = write(tmp_path / "data")
    make = partial(made, data)
    with make(tmp_path / "run") as running:  # which holds the lock of its folder
        running.save_checkpoint()
        running.fit(max_samples=20 * SIZE, save_every=50)
        past = Past(tmp_path / "run", make=make)
        assert replay(past, 13).exact
        first = parameters_digest(running.model)
        running.fit(max_samples=30 * SIZE, save_every=50)
        assert parameters_digest(running.model) != first
        assert replay(past, 27).exact
        running.source.close()


def test_other_weights_show_as_the_first_step_that_differs(tmp_path):
    past = hand_made(tmp_path)
    lines = (past.folder / "ledger.jsonl").read_text().splitlines()
    document = json.loads(lines[16])
    document["grad_norm"] += 1e-9
    lines[16] = json.dumps(document)
    (past.folder / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    found = replay(past, 17)
    assert not found.exact
    assert set(found.differences) == {"grad_norm"}
    later = replay(past, 19)
    assert later.unlike == 17
    assert not later.exact
    assert not later.differences


def test_another_dropout_does_not_go_unnoticed(tmp_path):
    past = hand_made(tmp_path)
    other = Past(past.folder, make=partial(made, tmp_path / "data", dropout=0.4))
    found = replay(other, 14)
    assert not found.exact
    assert found.terms["class"].difference != 0.0


def poisoned(data, folder):
    """A run that meets a NaN in row 30."""
    term = Term("fit", on(mse, "target", output="values"))
    return made(data, folder, terms=(TERMS[0], term), check_unreached=False)


def test_a_step_that_stopped_the_run_shows_all_its_samples(tmp_path):
    target = fields()["target"].copy()
    target[30, 1] = np.nan
    data = write(tmp_path / "data", target=target)
    make = partial(poisoned, data)
    with make(tmp_path / "run") as running, running.source:
        running.save_checkpoint()
        with pytest.raises(NonFiniteError):
            running.fit(max_samples=10 * SIZE)
    bad = read_ledger(tmp_path / "run")[-1]
    assert not bad.finite
    found = replay(Past(tmp_path / "run", make=make), bad.step)
    assert "nominal time" in found.stopped
    assert found.exact
    assert not found.again.finite
    assert len(found.terms["fit"].rows) == len(found.terms["class"].rows) == SIZE
    assert found.terms["fit"].rows[np.isnan(found.terms["fit"].weighted)].tolist() == [30]
    assert np.isfinite(found.terms["class"].weighted).all()
    assert found.digests[0] == found.digests[1]


class Rooted(torch.nn.Module):
    """Its gradient is NaN where an input is 0, though its output is not."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 3, dtype=torch.float64)

    def forward(self, x):
        return self.linear(torch.sqrt((self.linear.weight.sum() * 0.0).abs()) + x)


def rooted(data, folder):
    torch.manual_seed(0)
    model = Rooted()
    return Trainer(
        model, Term("class", on(cross_entropy, "label")), torch.optim.SGD(model.parameters(), lr=0.1),
        make_source(data), SIZE, None, "x", folder=folder, announce=lambda text: None,
    )  # fmt: skip


def test_anomaly_mode_names_the_operation_that_gives_the_first_nan(tmp_path):
    data = write(tmp_path / "data")
    make = partial(rooted, data)
    with make(tmp_path / "run") as running, running.source:
        running.save_checkpoint()
        with pytest.raises(NonFiniteError):
            running.train_minibatch()
    found = replay(Past(tmp_path / "run", make=make), 1, anomaly=True)
    assert "returned nan values" in found.stopped
    assert "torch.sqrt" in found.trace
    assert math.isfinite(found.terms["class"].numerator)


def test_a_profile_is_a_trace_of_the_step(tmp_path):
    past = hand_made(tmp_path, steps=3)
    replay(past, 3, profile=tmp_path / "trace.json")
    names = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert any("addmm" in str(name) for name in names)


def test_a_run_of_a_recipe_is_made_again_from_its_folder(tmp_path):
    past = digits(tmp_path / "run")
    before = files(past.folder)
    threads = torch.get_num_threads()
    for step in (1, 17, 40):
        assert replay(past.folder, step).exact
    assert torch.get_num_threads() == threads
    assert files(past.folder) == before


def reacting(data, folder):
    """Its rate falls where a validation does not improve, and the terms do not improve by a half."""
    falling = Newbob(rate=0.05, watches="class", threshold=0.5, relative=True)
    return made(data, folder, schedules=falling, validation=data)


def test_rates_that_react_to_validations_are_those_of_then(tmp_path):
    data = write(tmp_path / "data")
    make = partial(reacting, data)
    with make(tmp_path / "run") as running, running.source:
        running.validate()
        running.fit(max_samples=STEPS * SIZE, save_every=250, validate_every=40)
    past = Past(tmp_path / "run", make=make)
    rates = [line.lr[0] for line in read_ledger(past.folder)]
    assert len(set(rates)) > 4
    for step in (3, 20, 27, 39):
        found = replay(past, step)
        assert found.exact
        assert found.again.lr == (rates[step - 1],)


def test_each_step_has_the_configuration_of_its_time(tmp_path):
    run = tmp_path / "run"
    past = digits(run, max_samples=480)
    from minibatch.train.running import run_recipe

    run_recipe("demo", run, options={"max_samples": 800, "learning_rate": 0.05}, resume=True, say=lambda text: None)
    assert replay(past, 25).exact  # with the rate of then, which nothing but a checkpoint says
    assert replay(past, 45).exact


@pytest.fixture(scope="module")
def in_pieces(tmp_path_factory):
    """A run of three pieces that keeps one checkpoint; its rates depend on max_samples, another in each piece."""
    return three_pieces(tmp_path_factory.mktemp("pieces") / "run")


@pytest.mark.parametrize("step", [1, 17, 20, 21, 30, 31, 50])
def test_a_step_before_a_resume_with_other_options_has_the_bits_of_then(in_pieces, step):
    assert [saved.step for saved in in_pieces.checkpoints() if saved.step] == [50]
    found = replay(in_pieces, step)
    assert found.exact
    assert found.again.lr == found.line.lr
    assert (found.digests[0] != found.digests[1]) == (step > 1)  # the warm-up begins with a rate of 0


def test_another_configuration_than_that_of_a_step_gives_other_bits(in_pieces, tmp_path):
    """So that the test before this one can fail."""
    lines = [json.loads(line) for line in (in_pieces.folder / "configs.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 20, 30]
    out = tmp_path / "run"
    shutil.copytree(in_pieces.folder, out, ignore=shutil.ignore_patterns(".lock"))
    (out / "configs.jsonl").write_text(json.dumps({"step": 0, "config": lines[-1]["config"]}) + "\n")
    assert not replay(out, 17).exact


def test_a_run_without_the_file_of_configurations_is_guessed_from_checkpoints_and_says_so(in_pieces, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(in_pieces.folder, out, ignore=shutil.ignore_patterns(".lock"))
    (out / "configs.jsonl").unlink()
    said = []
    past = Past(out, say=said.append)
    assert not replay(past, 17).exact  # the checkpoints of then are gone
    assert replay(past, 17).line.step == 17
    (text,) = said
    assert "does not say which configuration its steps had" in text
    assert "t-000000000800" in text


def test_where_the_file_begins_with_a_later_resume_only_earlier_steps_are_guessed(tmp_path):
    said = []
    digits(tmp_path / "run", max_samples=320)
    (tmp_path / "run" / "configs.jsonl").unlink()  # as if of an older version
    resumed(tmp_path / "run", max_samples=480)
    past = Past(tmp_path / "run", say=said.append)
    assert replay(past, 25).exact
    assert not said
    for step in (7, 20):
        assert replay(past, step).exact
    assert said


def test_a_recipe_that_has_changed_since_is_named(tmp_path):
    past = digits(tmp_path / "run", max_samples=64)
    text = (past.folder / "configs.jsonl").read_text()
    (past.folder / "configs.jsonl").write_text(text.replace('"leaf_size": 32', '"leaf_size": 16'))
    said = []
    replay(Past(past.folder, say=said.append), 2)
    assert said == [f"{past.folder / 'configs.jsonl'} says otherwise than its recipe now: leaf_size: 16 → 32"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: (run / "config.json").unlink(), None),
        (lambda run: (run / "config.json").write_text("{"), None),
        (lambda run: [(run / "configs.jsonl").unlink(), (run / "config.json").unlink()], None),
        (
            lambda run: [(run / "configs.jsonl").unlink(), (run / "config.json").write_text("{")],
            "config.json is damaged",
        ),
        (lambda run: (run / "data").rename(run / "elsewhere"), "say in which folder they lie"),
        (lambda run: (run / "ledger.jsonl").unlink(), "no ledger"),
    ],
)
def test_what_is_missing_is_said(change, message, tmp_path):
    past = digits(tmp_path / "run", max_samples=64)
    change(past.folder)
    if message is None:
        assert replay(Past(past.folder), 2).exact  # configs.jsonl has it, and the checkpoints
        return
    with pytest.raises((CheckpointError, ValueError, FileNotFoundError), match=message):
        replay(Past(past.folder), 4)


def test_a_run_by_hand_asks_for_its_trainer(tmp_path):
    past = hand_made(tmp_path)
    with pytest.raises(CheckpointError, match="pass make="):
        replay(past.folder, 5)
    with pytest.raises(ValueError, match="in the run's own folder"):
        replay(Past(past.folder, make=lambda folder: past.make(past.folder)), 5)
