"""theanets' document "Training a Model", section by section: its calls, translated, do what it says on real data.

Rates are larger and iterations fewer than its defaults, so that all of it takes seconds.
"""

import numpy as np
import pytest

from minibatch.train.experiment import Autoencoder, Classifier, Experiment, Regressor
from tests.train.experiment.digits import digits

QUICK = {"learning_rate": 1e-3, "validate_every": 2, "max_iterations": 30}


def quiet(text: str) -> None:
    """Tests print nothing."""


# --- Specifying a Trainer -----------------------------------------------------------------------------------------


def test_the_easiest_way_to_train_a_model():
    train, valid = digits()
    exp = Experiment(Classifier, layers=(64, 100, 10), seed=1, announce=quiet)
    exp.train(train, valid, algorithm="nag", learning_rate=0.1, momentum=0.9, max_iterations=15, validate_every=3)
    assert exp.score(*valid) >= 0.95


def test_newbob_is_several_calls_each_with_a_new_optimizer():
    train, valid = digits()
    exp = Experiment(Classifier, layers=(64, 50, 10), seed=1, announce=quiet)
    losses = []
    for e in (-2, -3, -4):
        _, measured = exp.train(
            train, valid, algorithm="nag", learning_rate=10**e, momentum=1 - 10 ** (e + 1), max_iterations=10
        )
        losses.append(measured["loss"])
    exp.train(train, valid, algorithm="rmsprop", learning_rate=0.0001, momentum=0.9, max_iterations=10)
    assert exp.network.calls == 4
    assert losses[0] > losses[1]
    assert exp.score(*valid) >= 0.95


# --- Available Trainers -------------------------------------------------------------------------------------------

RATES = {
    "sgd": {"learning_rate": 0.5},
    "nag": {"learning_rate": 0.1, "momentum": 0.9},
    "rprop": {"learning_rate": 1e-3, "batch_size": 1400},
    "rmsprop": {"learning_rate": 1e-3},
    "adagrad": {"learning_rate": 0.02},
    "adadelta": {},
    "esgd": {"learning_rate": 0.01},
    "adam": {"learning_rate": 2e-3},
}


@pytest.mark.parametrize("preset", [None, "theanets"])
@pytest.mark.parametrize("algo", RATES)
def test_every_optimizer_of_the_document_trains(algo, preset):
    train, valid = digits()
    net = Classifier((64, 32, 10), seed=1, announce=quiet)
    iterations = {"rprop": 100, "rmsprop": 8, "adadelta": 20}.get(algo, 4)
    net.train(train, valid, algo=algo, preset=preset, max_iterations=iterations, validate_every=2, **RATES[algo])
    assert net.score(*valid) > 0.8


def test_sample_is_fast_and_needs_further_tuning():
    train, valid = digits()
    net = Classifier((64, 400, 10), seed=1, announce=quiet)
    before = net.score(*valid)
    values = list(net.itertrain(train, valid, algo="sample"))
    assert len(values) == 1
    assert values[0][1]["acc"] == pytest.approx(net.score(*valid))
    assert net.score(*valid) > before + 0.3
    net.train(train, valid, **QUICK)
    assert net.score(*valid) >= 0.95


def test_layerwise_trains_layer_after_layer_and_reaches_its_goal():
    train, valid = digits()
    net = Classifier((64, 64, 48, 32, 10), seed=1, announce=quiet)
    values = list(net.itertrain(train, valid, algo="layerwise", **{**QUICK, "max_iterations": 8}))
    assert len(values) == 3 * 8
    assert net.score(*valid) >= 0.95


def test_pretrain_is_unsupervised_and_training_goes_on_from_there():
    train, valid = digits()
    net = Classifier((64, 48, 24, 10), seed=1, announce=quiet)
    last_layer = net.net.out.weight.detach().clone()
    values = list(net.itertrain(train[0], valid[0], algo="pretrain", **{**QUICK, "max_iterations": 6}))
    assert len(values) == 2 * 6
    for stage in (values[:6], values[6:]):
        assert stage[-1][1]["err"] < 0.7 * stage[0][0]["err"]
    assert "acc" not in values[0][0]
    assert (net.net.out.weight == last_layer).all()
    net.train(train, valid, **QUICK)
    assert net.score(*valid) >= 0.95


def test_a_tied_autoencoder_is_trained_layerwise_from_the_outside():
    train, valid = digits()
    net = Autoencoder((64, 48, 24, 48, 64), tied=True, seed=1, announce=quiet)
    stages = list(net.itertrain(train[0], valid[0], algo="layerwise", subalgo="adam", **{**QUICK, "max_iterations": 5}))
    assert len(stages) == 10
    assert net.score(valid[0]) > 0.4
    assert stages[-1][1]["err"] < 0.9 * stages[5][0]["err"]


# --- Providing Data: see test_data.py; Specifying Regularizers ------------------------------------------------------


def test_a_regression_of_inputs_from_an_overcomplete_layer_with_sparse_activity():
    train, valid = digits()
    results = {}
    for hidden_l1 in (0.0, 0.01):
        exp = Experiment(Autoencoder, layers=(64, 100, 64), seed=1, announce=quiet)
        exp.train(train[0], valid[0], hidden_l1=hidden_l1, **{**QUICK, "max_iterations": 10})
        codes = exp.encode(valid[0])
        results[hidden_l1] = np.abs(codes).sum(1).mean()
        assert exp.score(valid[0]) > 0.4
    assert results[0.01] < 0.5 * results[0.0]


def test_decay_makes_weights_small_and_weight_l1_makes_many_of_them_tiny():
    train, valid = digits()
    found = {}
    for options in ({}, {"weight_l2": 1e-2}, {"weight_l1": 1e-3}):
        net = Classifier((64, 32, 10), seed=1, announce=quiet)
        net.train(train, valid, **QUICK, **options)
        weights = net.net.hid1.weight.detach()
        found[next(iter(options), "")] = (weights.square().sum().item(), (weights.abs() < 1e-2).float().mean().item())
    assert found["weight_l2"][0] < 0.5 * found[""][0]
    assert found["weight_l1"][1] > 2 * found[""][1]


@pytest.mark.parametrize(
    "options",
    [
        {"input_noise": 0.1},
        {"hidden_noise": 0.1},
        {"input_dropout": 0.3},
        {"hidden_dropout": 0.3},
        {"contractive": 1e-4},
    ],
)
def test_noise_dropout_and_contraction_act_in_training_and_leave_the_net_without_them(options):
    train, valid = digits()
    net = Classifier((64, 50, 10), seed=1, announce=quiet)
    plain = Classifier((64, 50, 10), seed=1, announce=quiet)
    quick = {"algo": "adam", **QUICK, "max_iterations": 8}
    values, _ = net.train(train, valid, **quick, **options)
    plainly, _ = plain.train(train, valid, **quick)
    assert values["loss"] != plainly["loss"]
    assert net.score(*valid) >= 0.85
    assert [name for name, _ in net.net.named_modules()] == [name for name, _ in plain.net.named_modules()]
    assert (net.outputs(valid[0]) == net.outputs(valid[0])).all()


def test_an_autoencoder_with_named_layers_and_noise_reconstructs_the_clean_inputs():
    train, valid = digits()
    exp = Experiment(
        Autoencoder,
        (64, {"size": 50, "name": "a"}, {"size": 40, "name": "b"}, {"size": 64, "name": "o"}),
        seed=1,
        announce=quiet,
    )
    before = exp.score(valid[0])
    values, _ = exp.train(train[0], valid[0], input_noise=0.1, hidden_noise=0.1, **QUICK)
    assert exp.score(valid[0]) > 0.7 > before
    assert values["loss"] == values["err"]


# --- Training as Iteration ----------------------------------------------------------------------------------------


def test_training_as_iteration_gives_losses_errors_and_accuracies():
    train, valid = digits()
    exp = Experiment(Classifier, layers=(64, 32, 10), seed=1, announce=quiet)
    losses = []
    for values, measured in exp.itertrain(train, valid, weight_l2=1e-4, **{**QUICK, "max_iterations": 5}):
        assert list(values) == ["loss", "err", "acc"] == list(measured)
        assert values["loss"] > values["err"]
        assert measured["loss"] > measured["err"]
        losses.append(values["loss"])
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)
    weights = sum(float(p.detach().double().square().sum()) for n, p in exp.net.named_parameters() if "weight" in n)
    assert measured["loss"] - measured["err"] == pytest.approx(1e-4 * weights, rel=0.1)


def test_a_regressor_has_an_error_and_no_accuracy():
    train, _ = digits()
    targets = train[0][:, 20:28].sum(1)
    net = Regressor((64, 16, 1), seed=1, announce=quiet)
    values, measured = net.train((train[0], targets), valid_fraction=0.2, algo="adam", **QUICK)
    assert list(values) == ["loss", "err"] == list(measured)
    assert net.score(train[0], targets) > 0.9


# --- Saving Progress: see test_progress.py --------------------------------------------------------------------------
