"""What a network may be given: arrays, data sets, sources, functions, weights; and what it refuses, by name."""

import numpy as np
import pytest
import torch

from minibatch import Dataset, DatasetWriter, MinibatchSource, rng
from minibatch.errors import CheckpointError, SchemaError
from minibatch.train import NonFiniteError
from minibatch.train.digest import parameters_digest
from minibatch.train.every import Minutes, Samples
from minibatch.train.experiment import Autoencoder, Classifier, Experiment, Regressor, Settings
from minibatch.train.schedules import Steps

ROWS = 40
X = rng.normal(rng.key(3, "test data"), np.arange(ROWS * 4)).reshape(ROWS, 4)
Y = (X[:, 0] > 0).astype(np.int64)
QUICK = {"algo": "adam", "learning_rate": 0.02, "batch_size": 8, "max_iterations": 3, "validate_every": 1}


def quiet(text: str) -> None:
    """Tests print nothing."""


def classifier(**options) -> Classifier:
    return Classifier((4, 6, 2), seed=7, dtype="float64", announce=quiet, **options)


def trained(data, valid=None, **options) -> str:
    net = classifier()
    net.train(data, valid, **{**QUICK, **options})
    return parameters_digest(net.net)


def written(folder, **fields):
    with DatasetWriter(folder) as writer:
        writer.write(fields)
    return folder


def test_arrays_lists_tensors_and_data_sets_train_alike(tmp_path):
    folder = written(tmp_path / "data", x=X, label=Y)
    expected = trained((X, Y))
    assert trained([X.tolist(), Y.tolist()]) == expected
    assert trained((torch.from_numpy(X), torch.from_numpy(Y))) == expected
    assert trained(folder) == expected
    assert trained(str(folder)) == expected
    assert trained(Dataset.open(folder)) == expected
    assert trained(folder, fields=("x", "label")) == expected
    renamed = written(tmp_path / "renamed", image=X.reshape(ROWS, 2, 2), digit=Y)
    assert trained(renamed) == expected
    assert trained(renamed, (X, Y)) == trained((X, Y), renamed) == expected


def test_a_source_is_trained_on_as_it_is_and_goes_on_where_it_stands():
    from minibatch.train.arrays import as_dataset

    net = classifier()
    with MinibatchSource(as_dataset((X, Y), ["x", "label"]), seed=5) as source:
        source.seek(16)
        values = list(net.itertrain(source, **QUICK))
        assert len(values) == 3
        assert source.nominal_time == 16 + 3 * ROWS
    ended = classifier()
    with MinibatchSource(as_dataset((X, Y), ["x", "label"]), seed=5, max_sweeps=2) as source:
        assert len(list(ended.itertrain(source, **{**QUICK, "max_iterations": 50}))) == 2


def test_fields_are_named_where_a_data_set_has_others(tmp_path):
    folder = written(tmp_path, a=Y, b=X, c=X)
    with pytest.raises(SchemaError, match=r"has the fields a, b, c: pass fields= .* x, label"):
        trained(folder)
    assert trained(folder, fields=("b", "a")) == trained((X, Y))


def test_validation_is_on_what_is_given_or_held_out_or_the_training_data():
    train, valid = (X[:30], Y[:30]), (X[30:], Y[30:])
    net = classifier()
    _, measured = net.train(train, valid, **QUICK)
    assert measured["acc"] * 10 == pytest.approx(round(measured["acc"] * 10))
    _, on_itself = classifier().train(train, **QUICK)
    assert on_itself["acc"] * 30 == pytest.approx(round(on_itself["acc"] * 30))
    held_out = classifier()
    _, measured = held_out.train((X, Y), valid_fraction=0.3, **QUICK)
    assert 0 <= measured["acc"] <= 1
    with pytest.raises(ValueError, match="but valid_data is given, too"):
        classifier().train(train, valid, valid_fraction=0.1)
    with pytest.raises(ValueError, match="none is left"):
        classifier().train((X, Y), valid_fraction=1e-9)
    with pytest.raises(ValueError, match="must have the same ones, weights included"):
        classifier().train((X, Y, np.ones(ROWS)), valid, **QUICK)


def test_what_is_held_out_is_the_same_in_every_call():
    from minibatch.train.experiment.networks import opening

    net = classifier()
    settings = Settings(valid_fraction=0.3)
    one, other = (opening.open_data((X, Y), None, net._roles(), settings, seed=7) for _ in range(2))
    assert one.valid.fingerprint == other.valid.fingerprint
    assert len(one.train) + len(one.valid) == ROWS
    assert 4 <= len(one.valid) <= 20


def test_functions_give_minibatches_of_any_size_in_iterations_of_their_length():
    class Loader:
        def __init__(self) -> None:
            self.calls = 0

        def __len__(self) -> int:
            return 5

        def __call__(self):
            self.calls += 1
            return [X[: 4 + self.calls], Y[: 4 + self.calls]]

    train, valid = Loader(), Loader()
    values = list(classifier().itertrain(train, valid, **QUICK))
    assert len(values) == 3
    assert train.calls == 15
    assert valid.calls == 5  # once: what is measured stays the same from validation to validation
    alone = Loader()
    assert len(list(classifier().itertrain(alone, **QUICK))) == 3
    assert alone.calls == 15  # the first five were also validated on
    shorter = Loader()
    assert len(list(classifier().itertrain(shorter, **QUICK, iteration_size=2))) == 3
    assert shorter.calls == 6


def test_pretrain_takes_inputs_with_or_without_labels(tmp_path):
    folder = written(tmp_path, image=X, digit=Y)
    expected = trained(X, algo="pretrain")
    for data in (
        (X, Y),
        [X, Y],
        X.tolist(),
        (X,),
        {"x": X, "label": Y},
        folder,
        lambda number: (X[8 * number % 40 :][:8], Y[8 * number % 40 :][:8]),
    ):
        digest = trained(data, (X, Y), algo="pretrain", **({"iteration_size": 5} if callable(data) else {}))
        assert callable(data) or digest == expected


def test_weights_count_samples_and_elements():
    weights = np.where(np.arange(ROWS) < 20, 1.0, 0.0)
    assert trained((X, Y, weights)) != trained((X, Y))
    net = classifier()
    _, measured = net.train((X, Y, weights), **QUICK)
    assert measured["acc"] == pytest.approx(net.score(X, Y, weights)) == pytest.approx(net.score(X[:20], Y[:20]))
    targets = np.stack([X[:, 0], 5 + X[:, 1]], 1)
    only_first = Regressor((4, 2), seed=1, dtype="float64", announce=quiet)
    only_first.train((X, targets, np.tile([1.0, 0.0], (ROWS, 1))), **{**QUICK, "max_iterations": 100})
    error = np.abs(only_first.predict(X) - targets).mean(0)
    assert error[0] < 0.3 < 3 < error[1]
    by_sample = Regressor((4, 2), seed=1, dtype="float64", announce=quiet)
    by_sample.train((X, targets, weights), **QUICK)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y + 1), "label 2 of sample .* is out of range, .* classes 0 … 1"),
        ((X, Y - 1), "label -1 of sample"),
        ((X, Y.astype(float)), "labels are float64"),
        ((X, Y[:, None]), "expected integers"),
        ((X, Y[:10]), "different numbers of samples"),
        (X, r"expected \(x, label\) \(and perhaps weight\), a tuple of arrays"),
        ((X[:, :3], Y), "takes 4 inputs per sample"),
        ((X, Y, -np.ones(ROWS)), "NaN, infinite or negative"),
    ],
)
def test_data_that_do_not_fit_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        classifier().train(data, **QUICK)


def test_targets_and_inputs_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"targets have the shape \(40, 2\), expected \(n, 1\)"):
        Regressor((4, 1), announce=quiet).train((X, X[:, :2]))
    with pytest.raises(ValueError, match=r"expected \(x\), a tuple of arrays; got 2 items"):
        Autoencoder((4, 2, 4), announce=quiet).train((X, Y))


def test_a_sample_that_is_no_number_is_named_and_the_weights_stay():
    bad = X.copy()
    bad[17, 2] = np.nan
    net = classifier()
    before = parameters_digest(net.net)
    with pytest.raises(NonFiniteError, match="rows"):
        net.train((bad, Y), (X, Y), **{**QUICK, "batch_size": ROWS})
    assert parameters_digest(net.net) == before


def test_settings_that_make_no_sense_are_refused_before_anything_is_done():
    for options, message in (
        ({"patience": -1}, "patience must be at least 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"hidden_l1": -0.1}, "hidden_l1=-0.1"),
        ({"input_dropout": 1.0}, "input_dropout=1.0"),
        ({"validate_every": Minutes(1.0)}, "clock"),
        ({"save_every": 0}, "save_every=0"),
        ({"algo": "rmsprob"}, "did you mean 'rmsprop'"),
        ({"hiden_noise": 0.1}, "did you mean 'hidden_noise'"),
        ({"halflive": 3.0}, "halfli"),
        ({"algo": "sgd", "algorithm": "nag"}, "given twice"),
        ({"monitors": {"hid7": 0.5}}, "hid7"),
        ({"monitors": {"hid1:outside": 0.5}}, "hid1:outside"),
        ({"monitors": {"hid1": "half"}}, "no level"),
        ({"fields": ("x",)}, "fields"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            classifier().train((X, Y), **{**QUICK, **options})
    with pytest.raises(ValueError, match="this net has none"):
        Classifier((4, 2), announce=quiet).train((X, Y), hidden_noise=0.1)
    with pytest.raises(ValueError, match="this net has none"):
        Classifier((4, 2), announce=quiet).train((X, Y), hidden_l1=0.1)


def test_rates_may_be_schedules_of_samples_and_validation_may_count_samples():
    constant, stepped = classifier(), classifier()
    constant.train((X, Y), **{**QUICK, "algo": "sgd", "learning_rate": 0.1})
    rate = Steps((0.1, 0.0), borders=(ROWS,))
    values = list(stepped.itertrain((X, Y), **{**QUICK, "algo": "sgd", "learning_rate": rate}))
    assert values[1][1] == values[2][1]
    often = classifier()
    measured = [v for _, v in often.itertrain((X, Y), **{**QUICK, "validate_every": Samples(3 * ROWS)})]
    assert measured[0] == measured[1] != measured[2]


def test_gradients_and_layers_are_monitored():
    net = classifier()
    values, measured = net.train(
        (X, Y), monitors={"hid1:out": (0.0, 1e9), "hid1:pre": torch.abs}, monitor_gradients=True, **QUICK
    )
    assert values["hid1:out<0.0"] == 0.0 == measured["hid1:out<0.0"]
    assert values["hid1:out<1000000000.0"] == 1.0
    assert measured["hid1:pre"] > 0
    gradients = {name: value for name, value in values.items() if name.startswith("grad(")}
    assert list(gradients) == ["grad(hid1.weight)", "grad(hid1.bias)", "grad(out.weight)", "grad(out.bias)"]
    assert all(value > 0 for value in gradients.values())


def test_monitored_gradients_are_those_of_the_objective_before_clipping():
    net = classifier()
    probe = classifier()
    logits = probe.net(torch.from_numpy(X))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(Y)).backward()
    values, _ = net.train(
        (X, Y), monitor_gradients=True, max_gradient_norm=1e-6, **{**QUICK, "batch_size": ROWS, "max_iterations": 1}
    )
    for name, parameter in probe.net.named_parameters():
        assert values[f"grad({name})"] == pytest.approx(float(parameter.grad.square().sum()), rel=1e-9)


@pytest.mark.parametrize(
    ("options", "largest"),
    [
        ({"max_gradient_elem": 1e-3}, 1e-3),
        ({"max_gradient_norm": 1e-3}, 1e-3),
        ({"max_gradient_elem": 1e-3, "max_gradient_norm": 1e-9}, 1e-3),
    ],
)
def test_gradients_are_limited_by_parameter_or_element_and_the_element_wins(options, largest):
    net = classifier()
    before = {name: p.detach().clone() for name, p in net.net.named_parameters()}
    net.train((X, Y), algo="sgd", learning_rate=1.0, batch_size=ROWS, max_iterations=1, **options)
    moved = max(float((p.detach() - before[name]).abs().max()) for name, p in net.net.named_parameters())
    assert 0.05 * largest < moved <= largest * (1 + 1e-9)


# --- predicting, saving, loading ----------------------------------------------------------------------------------


def test_predictions_agree_with_the_net():
    net = classifier()
    logits = net.net(torch.from_numpy(X)).detach().numpy()
    assert np.array_equal(net.outputs(X), logits)
    assert np.array_equal(net.predict(X), logits.argmax(1))
    assert np.array_equal(net.classify(X.tolist()), net.predict(torch.from_numpy(X)))
    probabilities = net.predict_proba(X)
    assert np.allclose(probabilities, np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    assert net.score(X, net.predict(X)) == 1.0
    sparse = pytest.importorskip("scipy.sparse")
    assert np.allclose(net.predict_proba(sparse.csr_matrix(X)), probabilities)


def test_a_classifier_says_softmax_or_nothing_of_its_last_layer():
    plain = Classifier((4, 6, (2, "softmax")), seed=7, dtype="float64", announce=quiet)
    assert np.array_equal(plain.outputs(X), classifier().outputs(X))
    with pytest.raises(ValueError, match="gives logits, which need no activation; got 'relu'"):
        Classifier((4, (2, "relu")))


def test_scores_are_those_of_scikit_learn():
    skmetrics = pytest.importorskip("sklearn.metrics")
    net = Regressor((4, 3, 2), seed=1, dtype="float64", announce=quiet)
    targets = np.stack([X[:, 0], 5 + X[:, 1]], 1)
    weights = np.arange(1.0, ROWS + 1)
    one = Regressor((4, 3, 1), seed=1, dtype="float64", announce=quiet)
    for w in (None, weights):
        expected = skmetrics.r2_score(targets[:, 0], one.predict(X)[:, 0], sample_weight=w)
        assert one.score(X, targets[:, 0], w) == pytest.approx(expected)
    error = ((net.predict(X) - targets) ** 2).sum()
    assert net.score(X, targets) == pytest.approx(1 - error / ((targets - targets.mean(0)) ** 2).sum())
    with pytest.raises(ValueError, match="do not vary"):
        one.score(X, np.ones(ROWS))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Classifier((4, (6, "tanh"), (2, "softmax")), seed=7, announce=quiet),
        lambda: Regressor((4, {"size": 6, "sparsity": 0.5, "name": "a"}, 1), seed=7, loss="mae", announce=quiet),
        lambda: Autoencoder((4, 3, 2, 3, 4), tied=True, seed=7, dtype="float64", announce=quiet),
    ],
)
def test_a_saved_network_is_the_same_again(make, tmp_path):
    net = make()
    net.calls = 3
    net.save(tmp_path / "net")
    net.save(tmp_path / "net")
    again = type(net).load(tmp_path / "net")
    assert parameters_digest(again.net) == parameters_digest(net.net)
    assert np.array_equal(again.outputs(X), net.outputs(X))
    assert again.description() == net.description()
    assert {file.suffix for file in (tmp_path / "net").iterdir()} == {".safetensors", ".json"}


def test_networks_of_other_kinds_layers_and_losses_are_refused(tmp_path):
    classifier().save(tmp_path / "net")
    with pytest.raises(CheckpointError, match="holds a Classifier, not a Regressor"):
        Regressor.load(tmp_path / "net")
    with pytest.raises(FileNotFoundError, match="no saved model"):
        Classifier.load(tmp_path / "nothing")
    own = Regressor((4, 1), loss=own_loss, announce=quiet)
    own.save(tmp_path / "own")
    with pytest.raises(CheckpointError, match="own_loss: pass it as loss="):
        Regressor.load(tmp_path / "own")
    assert Regressor.load(tmp_path / "own", loss=own_loss).loss is own_loss
    (tmp_path / "net" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="truncated"):
        Classifier.load(tmp_path / "net")


def own_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).abs().pow(1.5).mean(1)


def test_a_loss_is_a_name_or_a_function():
    targets = X[:, :1]
    for loss in ("mse", "mae", "huber", own_loss):
        net = Regressor((4, 1), seed=1, loss=loss, announce=quiet)
        net.train((X, targets), **{**QUICK, "max_iterations": 30})
        assert net.score(X, targets) > 0.5
    with pytest.raises(ValueError, match="loss='msee' is not known"):
        Regressor((4, 1), loss="msee")


def test_progress_is_loaded_where_it_was_saved(tmp_path):
    net = classifier(save_progress=tmp_path)
    net.train((X, Y), **QUICK)
    told: list[str] = []
    again = Classifier((4, 6, 2), seed=7, dtype="float64", save_progress=tmp_path, announce=told.append)
    assert parameters_digest(again.net) == parameters_digest(net.net)
    assert "train-1" in told[0]
    exp = Experiment(Classifier, (4, 6, 2), seed=1, announce=quiet)
    exp.load(tmp_path)
    assert parameters_digest(exp.network.net) == parameters_digest(net.net)
    with pytest.raises(CheckpointError, match="of another net"):
        Classifier((4, 5, 2), save_progress=tmp_path, announce=quiet)


def test_the_number_of_the_call_takes_the_place_of_the_braces(tmp_path):
    net = classifier(save_progress=tmp_path / "digits-{}")
    net.train((X, Y), **QUICK)
    net.train((X, Y), **QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits-1", "digits-2"]
    assert Classifier.load(tmp_path / "digits-2").calls == 2


@pytest.mark.parametrize("save_every", [1, 2, 1e-9, -1])
def test_progress_is_saved_every_so_many_iterations_or_minutes(tmp_path, save_every):
    options = {**QUICK, "max_iterations": 4, "validate_every": 100, "save_every": save_every}
    values = classifier().itertrain((X, Y), save_progress=str(tmp_path), **options)
    times = []
    for _ in range(3):
        next(values)
        folder = tmp_path / "train-1" / "checkpoints"
        times.append(max(int(path.name.removeprefix("t-")) for path in folder.iterdir()))
    values.close()
    assert times == {1: [40, 80, 120], 2: [0, 80, 80], 1e-9: [40, 80, 120], -1: [0, 0, 0]}[save_every]
