"""Unbalanced classes: weights of classes and of examples are one gradient, exact for any cut and a short minibatch."""

import json

import numpy as np
import pytest
import torch

from minibatch import Dataset, MinibatchSource
from minibatch.train.recipes import digits_data
from minibatch.train.recipes.weighted import CLASS_WEIGHTS, RARE, prepare, recalls, weighted
from minibatch.train.running import make_trainer, run_recipe
from minibatch.train.saved_model import load_model


def quiet(text: str) -> None:
    """Tests print nothing."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weighted") / "data"
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def both(data, tmp_path_factory):
    """Short runs with and without weights: {weights: (folder, outcome)}."""
    folder = tmp_path_factory.mktemp("weighted runs")
    found = {}
    for weights in ("none", "class"):
        options = {"weights": weights, "max_samples": 20_000}
        if found:
            options["beside"] = str(folder / "none")
        found[weights] = (
            folder / weights,
            run_recipe("weighted", folder / weights, options=options, data=data, say=quiet),
        )
    return found


def test_one_in_twenty_of_five_classes_is_left_and_the_held_out_rows_are_all_there(data):
    train, valid = (Dataset.open(data / part) for part in ("train", "valid"))
    labels = train.read(range(len(train)))["label"]
    _, everything = digits_data.load()
    before = np.bincount(everything[~digits_data.held_out(1797)], minlength=10)
    counts = np.bincount(labels, minlength=10)
    rare = np.isin(np.arange(10), RARE)
    assert len(RARE) == 5
    assert (counts[~rare] == before[~rare]).all()
    assert 15 < before[rare].sum() / counts[rare].sum() < 25
    assert counts[rare].min() >= 1
    assert len(valid) == 348
    weight = train.read(range(len(train)))["weight"]
    assert (weight == np.array(CLASS_WEIGHTS)[labels]).all()
    assert set(weight) == {1.0, 20.0}


def test_weights_raise_the_balanced_accuracy(both):
    without, weighed = (both[name][1] for name in ("none", "class"))
    assert weighed.validation["balanced_accuracy"] > without.validation["balanced_accuracy"] + 0.05
    assert weighed.report["recall, rare"] > without.report["recall, rare"] + 0.1
    assert without.report["recall, common"] > 0.9


def test_what_is_reported_is_what_was_counted(data, both):
    folder, outcome = both["class"]
    valid = Dataset.open(data / "valid")
    samples = valid.read(range(len(valid)))
    with torch.no_grad():
        answers = load_model(folder).model(torch.from_numpy(samples["image"])).argmax(1).numpy()
    share = [np.mean(answers[samples["label"] == digit] == digit) for digit in range(10)]
    assert outcome.validation["balanced_accuracy"] == pytest.approx(np.mean(share), abs=1e-6)
    assert outcome.report["recall, rare"] == pytest.approx(np.mean([share[digit] for digit in RARE]))
    assert recalls(load_model(folder).model, weighted().data(data)) == pytest.approx(share)
    assert (folder / "recall.png").stat().st_size > 5_000
    assert json.loads((folder / "result.json").read_text())["report"] == dict(outcome.report)


@pytest.mark.parametrize(
    ("weights", "microbatch_size"), [("class", None), ("class", 7), ("example", 7), ("example", 64)]
)
def test_every_step_is_the_weighted_mean_of_the_whole_minibatch_also_of_a_short_one(data, weights, microbatch_size):
    config = weighted(weights=weights, microbatch_size=microbatch_size, max_samples=164, dropout=0.0)
    with MinibatchSource(data / "train", seed=1, transforms=config.transforms, max_samples=164) as source:
        trainer = make_trainer(config, source, None)
        trainer.model.double()
        expected, losses, sizes = by_hand(data, trainer.model, config)
        found = list(trainer.itertrain())
    assert [result.num_samples for result in found] == sizes == [64, 64, 36]
    assert [result["class"] for result in found] == pytest.approx(losses, rel=1e-13)
    for name, parameter in trainer.model.named_parameters():
        assert torch.allclose(parameter, expected[name], rtol=0, atol=1e-14), name


def by_hand(data, model, config):
    """The weights after a sweep's beginning, the losses and sizes of its minibatches: Σ w·loss / Σ w, plain torch."""
    values = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    first, first_bias, last, last_bias = values.values()
    optimizer = torch.optim.SGD(values.values(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    losses, sizes, time = [], [], 0
    with MinibatchSource(data / "train", seed=1, transforms=config.transforms, max_samples=164) as source:
        while batch := source.next_minibatch(64):
            x = torch.from_numpy(batch["image"]).double().flatten(1)
            y = torch.from_numpy(batch["label"])
            w = torch.tensor(CLASS_WEIGHTS, dtype=torch.float64)[y]
            logits = torch.relu(x @ first.T + first_bias) @ last.T + last_bias
            each = torch.logsumexp(logits, 1) - logits[torch.arange(len(y)), y]
            loss = (w * each).sum() / w.sum()
            optimizer.param_groups[0]["lr"] = config.schedules[0](time)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            sizes.append(len(y))
            time += len(y)
    return {name: value.detach() for name, value in values.items()}, losses, sizes


def test_both_ways_to_say_it_and_every_cut_end_with_the_same_bits(data, tmp_path):
    digests = set()
    for number, (weights, cut) in enumerate([("class", None), ("example", None), ("example", 32)]):
        options = {"weights": weights, "microbatch_size": cut, "max_samples": 300, "promise": "bits"}
        outcome = run_recipe("weighted", tmp_path / str(number), options=options, data=data, say=quiet)
        digests.add(outcome.parameters_digest)
    assert len(digests) == 1
