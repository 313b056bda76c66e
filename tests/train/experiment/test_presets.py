"""A preset in quick work: every convention of the system holds, as if the Trainer were made with the preset itself."""

import math

import numpy as np
import pytest
import torch

from minibatch import rng
from minibatch.train.experiment import Autoencoder, Classifier, Regressor
from minibatch.train.experiment.settings import settings_of
from minibatch.train.presets import SYSTEMS, preset

ROWS = 64
X = rng.normal(rng.key(3, "test data"), np.arange(ROWS * 4)).reshape(ROWS, 4)
LABELS = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)
WEIGHTS = 0.5 + (np.arange(ROWS) % 3)
ONE_STEP = {"algo": "sgd", "learning_rate": 0.1, "batch_size": ROWS, "max_iterations": 1, "validate_every": 1}


def quiet(text: str) -> None:
    """Tests print nothing."""


def classifier(*hidden: int) -> Classifier:
    return Classifier((4, *hidden, 3), seed=7, dtype="float64", announce=quiet)


def change(net, *arguments, layer="out", **options):
    """How the weights of a layer were changed by one step, and the values of the iteration."""
    before = net.net.get_submodule(layer).weight.detach().clone()
    values, measured = net.train(*arguments, **{**ONE_STEP, **options})
    return net.net.get_submodule(layer).weight.detach() - before, values, measured


def per_sample(net) -> torch.Tensor:
    """The gradients of cross entropy by the last layer, of every sample (n, 3, 4), for a net of one layer."""
    logits = net.net(torch.from_numpy(X)).detach()
    error = torch.softmax(logits, 1) - torch.nn.functional.one_hot(torch.from_numpy(LABELS), 3)
    return error[:, :, None] * torch.from_numpy(X)[:, None]


@pytest.mark.parametrize("microbatch_size", [None, 13])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("system", [None, *SYSTEMS])
def test_losses_are_divided_and_rates_meant_as_the_system_has_it(system, weighted, microbatch_size):
    data = (X, LABELS, WEIGHTS) if weighted else (X, LABELS)
    w = torch.from_numpy(WEIGHTS if weighted else np.ones(ROWS))
    g = (w[:, None, None] * per_sample(classifier())).sum(0)
    gradient = g / w.sum() if system in (None, "theanets") else g / ROWS  # CNTK's is a rate per minibatch, for sums
    moved, _, _ = change(classifier(), data, preset=system, microbatch_size=microbatch_size)
    torch.testing.assert_close(moved, -0.1 * gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("system", SYSTEMS)
def test_errors_of_iterations_and_validations_are_means_over_samples(system, weighted):
    data = (X, LABELS, WEIGHTS) if weighted else (X, LABELS)
    net = classifier()
    loss = torch.nn.functional.cross_entropy(
        net.net(torch.from_numpy(X)).detach(), torch.from_numpy(LABELS), reduction="none"
    ).numpy()
    w = WEIGHTS if weighted else np.ones(ROWS)
    expected = float((w * loss).sum() / (w.sum() if system == "theanets" else ROWS))
    _, values, _ = change(net, data, preset=system, learning_rate=1e-12, batch_size=16)
    assert values["err"] == values["loss"] == pytest.approx(expected, rel=1e-6)
    _, measured = net.train(data, **{**ONE_STEP, "learning_rate": 1e-12, "preset": system})
    assert measured["err"] == pytest.approx(expected, rel=1e-6)


def test_errors_are_the_same_means_after_a_resume(tmp_path):
    targets, elements = X[:, :2], np.stack([WEIGHTS, np.ones(ROWS)], 1)
    options = {"preset": "cntk", "algo": "sgd", "learning_rate": 1e-3, "batch_size": 8, "save_every": 1e-12}

    def regressor(announce=quiet):
        return Regressor((4, 2), seed=7, dtype="float64", announce=announce)

    def cut(units: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise RuntimeError("cut")
        return units[:, 0]

    for data in ((X, targets), (X, targets, elements)):
        calls = 0
        whole, _ = regressor().train(data, max_iterations=1, **options)
        folder = str(tmp_path / str(len(data)))
        with pytest.raises(RuntimeError, match="cut"):
            regressor().train(data, max_iterations=1, save_progress=folder, monitors={"out": cut}, **options)
        told: list[str] = []
        resumed, _ = regressor(told.append).train(data, max_iterations=1, save_progress=folder, **options)
        assert any("resumed after step" in text for text in told)
        assert resumed["err"] == pytest.approx(whole["err"], rel=1e-12)


def test_the_options_that_a_system_has_for_losses_hold():
    targets = X[:, :2]
    moved = {
        system: change(Regressor((4, 2), seed=7, dtype="float64", announce=quiet), (X, targets), preset=system)[0]
        for system in ("halcon", "cntk")
    }
    torch.testing.assert_close(moved["cntk"], 2 * moved["halcon"])  # sums over the two elements, where halcon has means
    net = Regressor((4, 2), seed=7, dtype="float64", loss="huber", announce=quiet)
    error = (net.net(torch.from_numpy(X)).detach() - torch.from_numpy(targets)).numpy()
    slope = np.clip(error / 0.11, -1, 1)  # of HALCON's β, summed over everything
    found, _, _ = change(net, (X, targets), preset="halcon", learning_rate=1e-3)
    np.testing.assert_allclose(found.numpy(), -1e-3 * slope.T @ X, rtol=1e-6)


def test_penalties_are_those_of_the_system_or_refused():
    def penalty(net, **options):
        _, values, measured = change(net, (X, LABELS), learning_rate=1e-12, **options)
        assert values["loss"] - values["err"] == pytest.approx(measured["loss"] - measured["err"], rel=1e-6)
        return measured["loss"] - measured["err"]

    net = classifier(6)
    squares = [float(w.detach().square().mean()) for w in (net.net.hid1.weight, net.net.out.weight)]
    assert penalty(net, preset="theanets", weight_l2=0.1) == pytest.approx(0.1 * sum(squares), rel=1e-6)
    sums = penalty(net, preset=preset("theanets", reduce="sum"), weight_l2=0.1)
    assert sums == pytest.approx(penalty(net, weight_l2=0.1), rel=1e-6)
    hidden = [penalty(net, hidden_l1=0.1, preset=system) for system in ("theanets", None)]
    assert hidden[0] == pytest.approx(hidden[1] / 6, rel=1e-6)
    with pytest.raises(ValueError, match="'halcon' has no regularizer 'weight_l2'; it has weight_prior"):
        classifier().train((X, LABELS), preset="halcon", weight_l2=0.1, **ONE_STEP)
    with pytest.raises(ValueError, match="'cntk' has no regularizer 'hidden_l1'"):
        classifier(6).train((X, LABELS), preset="cntk", hidden_l1=0.1, **ONE_STEP)
    decayed, _, _ = change(classifier(), (X, LABELS), preset="halcon", weight_prior=0.5)
    plain, _, _ = change(classifier(), (X, LABELS), preset="halcon")
    torch.testing.assert_close(decayed, plain - 0.1 * 0.5 * classifier().net.out.weight.detach())


def test_contraction_has_the_form_of_the_system():
    values = [
        change(Autoencoder((4, (3, "tanh"), 4), seed=7, dtype="float64", announce=quiet), X, preset=system,
               contractive=0.1, learning_rate=1e-12, layer="hid1")[1]
        for system in ("theanets", None)
    ]  # fmt: skip
    theirs, ours = ((value["loss"] - value["err"]) for value in values)
    assert 0 < theirs < 0.5 * ours  # of the mean of the units, and the mean over the inputs


@pytest.mark.parametrize(
    ("system", "factor"), [(None, "norm"), ("theanets", "norm"), ("mindspore", "all"), ("cntk", "element")]
)
def test_gradients_are_clipped_in_the_form_of_the_system(system, factor):
    gradient = per_sample(classifier()).mean(0)
    bias = torch.softmax(classifier().net(torch.from_numpy(X)).detach(), 1).mean(0)
    bias -= torch.nn.functional.one_hot(torch.from_numpy(LABELS), 3).double().mean(0)
    norms = {"norm": gradient.norm(), "all": torch.cat([gradient.flatten(), bias]).norm()}
    limit = 0.01
    if factor == "element":
        expected = gradient.clamp(-limit, limit)
    else:
        expected = gradient * limit / norms[factor]
    found, _, _ = change(classifier(), (X, LABELS), preset=system, max_gradient_norm=limit)
    torch.testing.assert_close(found, -0.1 * expected, rtol=1e-5, atol=1e-9)


def test_clipping_that_a_system_does_not_have_is_refused():
    with pytest.raises(ValueError, match="'halcon' has no gradient clipping"):
        classifier().train((X, LABELS), preset="halcon", max_gradient_norm=1.0, **ONE_STEP)
    with pytest.raises(ValueError, match="only 'theanets' clips by elements"):
        classifier().train((X, LABELS), preset="cntk", max_gradient_elem=1.0, **ONE_STEP)


def test_dropout_is_rescaled_as_the_system_does():
    values = {
        system: change(classifier(), (X, LABELS), preset=system, input_dropout=0.5, learning_rate=1e-12,
                       monitors={"out": lambda units: units.abs().amax(1)})[1]["out:out"]
        for system in (None, "mindspore", "theanets")
    }  # fmt: skip
    assert values["theanets"] == pytest.approx(values[None] / 2) == pytest.approx(values["mindspore"] / 2)
    with pytest.raises(ValueError, match='dropout="test" of the preset'):
        classifier().train((X, LABELS), preset=preset("theanets", dropout="test"), input_dropout=0.5)


def test_a_system_has_defaults_of_its_own():
    found = {name: settings_of({"preset": name, "learning_rate": 0.1}) for name in (None, *SYSTEMS)}
    assert {name: (one.algo, one.subalgo, one.batch_size) for name, one in found.items()} == {
        None: ("rmsprop", "rmsprop", 64),
        "theanets": ("rmsprop", "rmsprop", 32),
        "convnet": ("sgd", "sgd", 128),
        "cntk": ("sgd", "sgd", 64),
        "halcon": ("sgd", "sgd", 64),
        "mindspore": ("momentum", "momentum", 64),
    }
    assert settings_of({"preset": "convnet", "batch_size": 7, "algorithm": "nag"}).batch_size == 7
    with pytest.raises(ValueError, match="did you mean 'convnet'"):
        settings_of({"preset": "convnets"})
    with pytest.raises(ValueError, match="'convnet' has no default learning rate"):
        classifier().train((X, LABELS), preset="convnet", max_iterations=1)
    assert math.isclose(
        float(change(classifier(), (X, LABELS), preset="convnet", mom=0.9, wc=0.1)[0].norm()),
        float(change(classifier(), (X, LABELS), momentum=0.9, weight_decay=0.1)[0].norm()),
        rel_tol=1e-12,
    )


@pytest.mark.parametrize("algo", ["layerwise", "pretrain", "sample"])
def test_stages_follow_the_system_too(algo):
    nets = {}
    for system in (None, "cntk"):
        net = Classifier((4, 5, 4, 3), seed=7, dtype="float64", announce=quiet)
        net.train((X, LABELS), **{**ONE_STEP, "algo": algo, "subalgo": "sgd", "preset": system})
        nets[system] = net.net.hid1.weight.detach()
    ratio = float((nets["cntk"] - nets[None]).norm() / nets[None].norm())
    if algo == "pretrain":  # sums over the inputs, where the mean squared error has means
        assert ratio > 1e-3
    else:
        assert ratio < 1e-9
