"""Who is to blame: gradient norms of single samples against a plain loop, whatever the way; ranking; spikes."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from minibatch import rng
from minibatch.models import noise
from minibatch.train import Term, Trainer, cross_entropy, on
from minibatch.train.batches import TensorBatch
from minibatch.train.travel import Past, blame, replay, worst_step
from minibatch.train.travel.gradients import sample_norms
from tests.train.small import CLASSES, FEATURES, TERMS, fields, make_source, write
from tests.train.travel.runs import SIZE, digits, hand_made, made, three_pieces

STEP = 17


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    return hand_made(tmp_path_factory.mktemp("blame"))


def plain_norms(past, step):
    """Gradient norms from the definition: Σ over terms of coefficient · w·m · loss / Σ w·m, sample by sample."""
    found = {}
    with past.standing(step - 1) as standing:
        trainer = standing.trainer
        batch = TensorBatch(trainer.source.next_minibatch(SIZE))
        weights = {
            "class": torch.as_tensor(fields()["zero"])[batch.rows],
            "fit": torch.as_tensor(fields()["has_target"]).double()[batch.rows],
        }
        keys = noise.bind(trainer.model, lambda name: rng.key(trainer.seed, f"noise.{name}"))
        for i, time in enumerate(batch.times.tolist()):
            one = batch.part(i, i + 1)
            trainer.model.zero_grad()
            with keys.at(one.times_tensor()):
                outputs = trainer.model(one["x"])
                objective = 0.0
                for term in TERMS:
                    values = term.loss(outputs, one)
                    # The mean of a masked regression counts each of its elements.
                    share = weights[term.name][i] / (weights[term.name].sum() * values[0].numel())
                    objective = objective + term.coefficient * share * values.sum()
                objective.backward()
            square = sum(float((p.grad**2).sum()) for p in trainer.model.parameters() if p.grad is not None)
            found[time] = math.sqrt(square)
    return found


@pytest.mark.parametrize("way", [None, "vmap", "one by one", "together"])
def test_gradient_norms_are_those_of_each_sample_alone(past, way):
    found = blame(past, STEP, by="gradient", way=way)
    expected = plain_norms(past, STEP)
    assert found.way == way or (way is None and found.way == "vmap")
    assert found.error < 1e-12
    assert found.replay.exact  # looking has changed nothing of the step
    for suspect in found.suspects:
        assert suspect.gradient_norm == pytest.approx(expected[suspect.time], rel=1e-10, abs=1e-15)
    norms = [suspect.gradient_norm for suspect in found.suspects]
    assert norms == sorted(norms, reverse=True)


def test_losses_and_places_are_those_of_the_step(past):
    found = blame(past, STEP, gradients=False)
    losses = replay(past, STEP).sample_losses()
    assert {(None, s.time): (s.row, s.loss) for s in found.suspects} == losses
    assert math.fsum(s.share for s in found.suspects) == pytest.approx(1.0)
    assert [s.loss for s in found.suspects] == sorted((s.loss for s in found.suspects), reverse=True)
    assert all(math.isnan(s.gradient_norm) for s in found.suspects)
    for suspect in found.suspects:
        assert (int(suspect.shard[6:11]), suspect.place) == divmod(suspect.row, 20)


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(FEATURES, 5), nn.BatchNorm1d(5), nn.Linear(5, CLASSES)).double()

    def forward(self, x):
        return self.layers(x)


def normalised(data, folder, **options):
    torch.manual_seed(1)
    model = Normalised()
    return Trainer(
        model, Term("class", on(cross_entropy, "label")), torch.optim.SGD(model.parameters(), lr=0.1),
        make_source(data), SIZE, None, "x", folder=folder, announce=lambda text: None, **options,
    )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"batch_norm": "leaf", "leaf_size": 3}])
def test_samples_that_meet_in_batch_statistics_are_followed_back_together(options, tmp_path):
    past = hand_made(tmp_path, trainer=normalised, steps=20, **options)
    found = blame(past, 13)
    assert found.way == "together"
    assert found.error < 1e-12
    assert found.replay.exact
    with pytest.raises((RuntimeError, ValueError)):
        blame(past, 13, way="vmap")


def negatives(outputs, batch):
    """In-batch negatives: every sample against all others."""
    logits = outputs["logits"] @ outputs["values"].repeat(1, 2)[:, :CLASSES].T
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)), reduction="none")


def compared(data, folder):
    return made(data, folder, terms=(TERMS[0], Term("pairs", negatives, over="minibatch")), check_unreached=False)


def test_samples_that_meet_in_a_loss_are_followed_back_together(tmp_path):
    past = hand_made(tmp_path, trainer=compared, steps=20)
    found = blame(past, 13)
    assert found.way == "together"
    assert found.error < 1e-12
    assert found.replay.exact


class Branching(nn.Module):
    """What vmap cannot follow: a branch on the data."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(FEATURES, CLASSES).double()

    def forward(self, x):
        return self.linear(x * 2.0 if bool((x > 100).any()) else x)


def branching(data, folder):
    torch.manual_seed(1)
    model = Branching()
    return Trainer(
        model, Term("class", on(cross_entropy, "label")), torch.optim.SGD(model.parameters(), lr=0.1),
        make_source(data), SIZE, None, "x", folder=folder, announce=lambda text: None,
    )  # fmt: skip


def test_where_samples_cannot_be_vectorised_each_goes_alone(tmp_path):
    past = hand_made(tmp_path, trainer=branching, steps=20)
    found = blame(past, 13)
    assert (found.way, found.replay.exact) == ("one by one", True)
    assert found.error < 1e-12


def test_gradients_that_do_not_add_up_are_an_error(past):
    """As where a model looks at something besides its samples."""

    def after_gradient(engine, parts):
        for parameter in engine.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(2.0)
        sample_norms(engine, parts)

    with pytest.raises(RuntimeError, match=r"do not add up .*vmap: off by 0\.5; one by one: off by 0\.5"):
        replay(past, STEP, after_gradient=after_gradient)


def test_the_row_with_an_absurd_target_is_found(tmp_path):
    target = fields()["target"].copy()
    target[33] *= 300.0
    past = hand_made(tmp_path, data=write(tmp_path / "data", target=target))
    spike = worst_step(past, 1, 41)
    for by in ("loss", "gradient"):
        found = blame(past, spike.step, by=by)
        assert found.suspects[0].row == 33
    assert found.suspects[0].share > 0.9


def with_losses(path, losses):
    path.mkdir()
    lines = [
        {"step": i, "t0": i, "t1": i + 1, "samples": 1, "terms": {"a": [loss, 1.0]}, "total_loss": loss,
         "grad_norm": 1.0, "lr": [0.1], "finite": loss != "nan"}
        for i, loss in enumerate(losses, 1)
    ]  # fmt: skip
    (path / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Past(path)


def test_the_worst_step_stands_out_from_those_before_it_and_not_from_the_beginning(tmp_path):
    losses = [10.0 / i for i in range(1, 60)]
    losses[40] *= 3
    past = with_losses(tmp_path / "a", losses)
    found = worst_step(past, 1, 60)
    assert (found.step, found.what) == (41, "loss")
    assert found.value == losses[40]
    assert found.times == pytest.approx(losses[40] / np.median(losses[8:40]))
    assert worst_step(past, 42, 60).step != 41
    losses[50] = "nan"
    assert worst_step(with_losses(tmp_path / "b", losses), 1, 60).step == 51
    with pytest.raises(ValueError, match="has no step 70"):
        worst_step(past, 70, 80)


def test_wrong_words_are_refused(past):
    with pytest.raises(ValueError, match="expected 'loss' or 'gradient'"):
        blame(past, STEP, by="guilt")


def test_a_run_of_a_recipe_with_keyed_dropout_is_vectorised(tmp_path):
    found = blame(digits(tmp_path / "run").folder, 17, by="gradient")
    assert (found.way, found.replay.exact) == ("vmap", True)
    assert found.error < 1e-12


def test_a_step_before_a_resume_with_other_options_is_blamed_with_the_weights_of_then(tmp_path):
    past = three_pieces(tmp_path / "run")
    for step in (17, 24):
        found = blame(past, step)
        assert found.replay.exact
        total = math.fsum(suspect.loss for suspect in found.suspects)
        assert total == pytest.approx(past.ledger.line_at(step).total_loss, rel=1e-6)


def test_streams_of_a_joint_run_are_told_apart(tmp_path):
    from tests.train import test_joint

    data = write(tmp_path / "a"), write(tmp_path / "b", rows=31)

    def make(folder):
        return test_joint.make_trainer(test_joint.make_joint(data), folder=folder)

    with make(tmp_path / "run") as running:
        for step in range(10):
            if step in (0, 5):
                running.save_checkpoint()
            running.train_minibatch()
    past = Past(tmp_path / "run", make=make)
    found = blame(past, 8, by="gradient")
    assert found.replay.exact
    assert found.error < 1e-12
    assert {s.stream: sum(other.stream == s.stream for other in found.suspects) for s in found.suspects} == {
        "a": 9,
        "b": 3,
    }
