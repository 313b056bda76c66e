"""The tied autoencoder gives digits back, sparsely; and a classifier with few labels begins with what it learnt."""

import numpy as np
import pytest
import torch

from minibatch import Dataset
from minibatch.train.recipes.digits_autoencoder import digits_autoencoder, digits_few_labels, labelled
from minibatch.train.recipes.digits_data import prepare
from minibatch.train.running import make_trainer, run_recipe
from minibatch.train.saved_model import load_model

SHORT = {"max_samples": 20_000, "hidden": "64"}
FEW = {"hidden": "48,32", "pretraining_samples": 4_000, "max_samples": 640}


def quiet(text: str) -> None:
    """Tests print nothing."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "data"
    prepare(folder)
    return folder


def test_it_gives_back_what_is_behind_the_noise_and_hidden_l1_makes_units_silent(data, tmp_path):
    sparse, dense = (
        run_recipe("digits_autoencoder", tmp_path / name, options={**SHORT, **changes}, data=data, say=quiet)
        for name, changes in (("sparse", {"hidden_l1": 0.003}), ("dense", {"hidden_l1": 0.0}))
    )
    samples = Dataset.open(data / "valid").read(range(348))
    spread = samples["image"].reshape(348, 64).var(0).mean()
    assert dense.validation["err"] < 0.5 * spread
    assert sparse.validation["err"] < 0.8 * spread
    assert sparse.report["active"] < 0.7 * dense.report["active"]
    assert (tmp_path / "sparse" / "reconstructions.png").stat().st_size > 10_000
    model = load_model(tmp_path / "dense").model
    x = torch.from_numpy(samples["image"])
    hidden = torch.relu(x.flatten(1) @ model.hid1.weight.T + model.hid1.bias)
    assert torch.allclose(model(x), hidden @ model.hid1.weight + model.hid1_back.bias, atol=1e-5)
    assert float((hidden > 0).double().mean()) == pytest.approx(dense.report["active"], abs=1e-4)


def test_the_labels_are_chosen_by_a_key_of_the_seed(data):
    prepared = prepare(data)
    rows = []
    for seed in (1, 1, 2):
        with labelled(prepared, seed, labels=100) as source:
            assert len(source.dataset) == 100
            batch = source.next_minibatch(100)
            rows.append({image.tobytes() for image in batch["image"]})
    assert rows[0] == rows[1]
    assert len(rows[0]) >= 99
    assert len(rows[0] & rows[2]) < 30
    with pytest.raises(ValueError, match="labels=1450: expected 1 to 1449"):
        labelled(prepared, 1, labels=1450)


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def test_pretraining_changes_the_hidden_layers_alone_and_is_a_function_of_the_seed(data):
    prepared = prepare(data)
    options = {"hidden": (48, 32), "pretraining_samples": 25_000}
    begun = []
    for seed, pretrained in ((1, True), (1, True), (1, False), (2, True)):
        config = digits_few_labels(seed=seed, pretrained=pretrained, **options)
        with config.source(prepared, seed) as source:
            begun.append(make_trainer(config, source, None, quiet, start=prepared))
    first, again, scratch, other = map(weights, begun)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert {name for name in first if not torch.equal(first[name], scratch[name])} == {
        "hid1.weight", "hid1.bias", "hid2.weight", "hid2.bias",
    }  # fmt: skip
    assert not torch.equal(first["hid1.weight"], other["hid1.weight"])
    x = torch.from_numpy(Dataset.open(data / "valid").read(range(348))["image"])
    codes = [trainer.model.eval().activations(x)["hid2"].detach() for trainer in begun]
    assert float(codes[0].std(0).mean()) > 1.5 * float(codes[2].std(0).mean()), "digits differ more in what they give"


def test_a_deep_net_with_few_labels_needs_pretraining(data, tmp_path):
    accuracy = {}
    for pretrained in (True, False):
        options = {"hidden": "100,80,60,40", "pretraining_samples": 15_000, "max_samples": 20_000,
                   "pretrained": pretrained}  # fmt: skip
        outcome = run_recipe("digits_few_labels", tmp_path / str(pretrained), options=options, data=data, say=quiet)
        accuracy[pretrained] = outcome.validation["accuracy"]
    assert accuracy[True] > accuracy[False] + 0.2
    assert accuracy[True] > 0.6


def test_a_pretrained_run_that_was_stopped_ends_with_the_same_bits(data, tmp_path):
    whole = run_recipe("digits_few_labels", tmp_path / "whole", options=FEW, data=data, say=quiet)
    stop = [lambda trainer, result: "a test" if result.step == 7 else None]
    run_recipe("digits_few_labels", tmp_path / "run", options=FEW, data=data, callbacks=stop, say=quiet)
    resumed = run_recipe("digits_few_labels", tmp_path / "run", options={}, data=data, resume=True, say=quiet)
    assert resumed.parameters_digest == whole.parameters_digest


def test_two_encoding_layers_are_mirrored():
    model = digits_autoencoder(hidden=(30, 20)).model(seed=3).eval()
    assert model.code == "hid2"
    assert model.get_submodule("hid1_back").partner is model.get_submodule("hid1")
    assert np.shape(model(torch.zeros(2, 8, 8)).detach()) == (2, 64)
