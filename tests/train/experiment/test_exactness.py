"""A call of train is a function of (net, data, options, seed): repeated, cut otherwise, interrupted and resumed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from minibatch import rng
from minibatch.errors import CheckpointError
from minibatch.train.digest import parameters_digest
from minibatch.train.experiment import Classifier, Experiment, Network
from minibatch.train.patience import best, stopped

ROOT = Path(__file__).parents[3]
ROWS = 60
OPTIONS = {
    "algo": "adam",
    "learning_rate": 0.01,
    "batch_size": 8,
    "validate_every": 1,
    "patience": 100,
    "max_iterations": 5,
    "input_noise": 0.1,
    "hidden_dropout": 0.3,
    "weight_l2": 1e-3,
    "hidden_l1": 1e-3,
    "monitors": {"hid1": 0.5},
}


def small(labelled: bool = True):
    x = rng.normal(rng.key(3, "test data"), np.arange(ROWS * 4)).reshape(ROWS, 4)
    return (x, (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0.5)) if labelled else x


def network(**options) -> Classifier:
    return Classifier((4, 8, 6, 3), seed=7, announce=lambda text: None, **{"dtype": "float64", **options})


def digest(net: Network) -> str:
    return parameters_digest(net.net)


def steps(values: Iterator, count: int) -> list:
    """The first `count` values; the generator is left open."""
    return [next(values) for _ in range(count)]


@pytest.mark.parametrize("algo", ["adam", "rmsprop", "sample", "layerwise", "pretrain"])
def test_the_same_call_gives_the_same_bits(algo):
    results = []
    for _ in range(2):
        net = network()
        values = list(net.itertrain(small(), **{**OPTIONS, "algo": algo}))
        results.append((digest(net), values))
    assert results[0] == results[1]
    other = Classifier((4, 8, 6, 3), seed=8, dtype="float64", announce=lambda text: None)
    other.train(small(), **{**OPTIONS, "algo": algo})
    assert digest(other) != results[0][0]


def test_a_second_call_is_another_run_with_another_order():
    net, twice = network(), network()
    first = net.train(small(), **{**OPTIONS, "patience": 100})
    twice.train(small(), **OPTIONS)
    again = twice.train(small(), **OPTIONS)
    assert first != again


def test_microbatches_change_no_gradient():
    whole, cut = network(), network()
    values = list(whole.itertrain(small(), **OPTIONS))
    for mine, theirs in zip(values, cut.itertrain(small(), microbatch_size=3, **OPTIONS), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one == pytest.approx(other, rel=1e-9)


def test_promised_bits_do_not_depend_on_microbatches():
    digests = set()
    for microbatch_size in (None, 32):
        net = network()
        net.train(small(), promise="bits", microbatch_size=microbatch_size, **{**OPTIONS, "batch_size": 60})
        digests.add(digest(net))
    assert len(digests) == 1


def test_iterations_are_passes_whose_minibatches_are_never_short():
    data = small()
    seen = []
    net = network()
    for values, _ in net.itertrain(data, **{**OPTIONS, "monitors": {"in": lambda units: units[:, 0]}}):
        seen.append(values)
    assert len(seen) == 5
    # 60 samples in minibatches of 8: the first pass takes 8 of them, 64 samples, the next ones fewer or as many.
    exact = Classifier((4, 8, 6, 3), seed=7, dtype="float64", announce=lambda text: None)
    options = {**OPTIONS, "batch_size": 15, "input_noise": 0.0, "monitors": {"in": lambda units: units[:, 0]}}
    values, _ = next(exact.itertrain(data, **options))
    assert values["in:out"] == pytest.approx(data[0][:, 0].mean(), abs=1e-12)


# --- patience and the best weights --------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_patience_tolerates_p_validations_without_improvement_and_the_best_weights_come_back(patience):
    train, valid = (small()[0][:20], small()[1][:20]), (small()[0][20:], small()[1][20:])
    net = network()
    options = {**OPTIONS, "patience": patience, "max_iterations": 200, "learning_rate": 0.05, "hidden_dropout": 0.0}
    kept = [digest(net)]
    losses: list[float] = []
    values = net.itertrain(train, valid, **options)
    measured = None
    for _, measured in values:
        losses.append(measured["loss"])
        kept.append(digest(net))
    assert measured is not None
    history = [initial_loss(train, valid, options), *losses]
    assert stopped(history, patience)
    assert not any(stopped(history[:n], patience) for n in range(1, len(history)))
    place = best(history)
    assert place is not None
    assert place < len(history) - 1
    assert digest(net) == kept[place]


def initial_loss(train, valid, options) -> float:
    """The validation loss before any training."""
    measured = network().itertrain(train, valid, **{**options, "validate_every": 1000, "learning_rate": 0.0})
    return next(measured)[1]["loss"]


def test_min_improvement_is_relative_to_the_best_so_far():
    net = network()
    values = list(net.itertrain(small(), **{**OPTIONS, "patience": 2, "min_improvement": 0.9, "max_iterations": 50}))
    assert len(values) == 3  # none of the first three losses is ten times less


def test_the_weights_that_training_ends_with_are_measured_too():
    train = small()
    net = network()
    values = list(net.itertrain(train, **{**OPTIONS, "validate_every": 1000, "max_iterations": 4}))
    assert digest(net) != digest(network())  # downhill would give the first weights back
    assert values[-1][0]["loss"] < values[0][0]["loss"]


def test_closing_the_generator_keeps_the_best_of_what_was_trained():
    net, whole = network(), network()
    values = net.itertrain(small(), **{**OPTIONS, "validate_every": 1000})
    steps(values, 3)
    values.close()
    whole.train(small(), **{**OPTIONS, "validate_every": 1000, "max_iterations": 3})
    assert digest(net) == digest(whole)


def test_leaving_the_loop_keeps_the_best_of_what_was_trained():
    net, whole = network(), network()
    for number, _ in enumerate(net.itertrain(small(), **OPTIONS), 1):
        if number == 3:
            break
    whole.train(small(), **{**OPTIONS, "max_iterations": 3})
    assert digest(net) == digest(whole)


def test_ctrl_c_ends_training_between_two_steps_with_the_best_weights():
    told: list[str] = []
    net, whole = network(), network()
    net.announce = told.append
    calls = 0

    def interrupting(units: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return units[:, 0]

    options = {**OPTIONS, "validate_every": 1000, "monitors": {"hid1": interrupting}}
    net.train(small(), **options)
    assert any("SIGINT" in text for text in told)
    # Validation calls the monitor once; nine steps were done when the signal came in the ninth.
    whole.train(small(), **{**options, "monitors": {"hid1": 0.5}, "iteration_size": 9, "max_iterations": 1})
    assert digest(net) == digest(whole)


@pytest.mark.parametrize("in_validation", [False, True])
def test_an_interruption_in_the_middle_of_a_step_gives_the_best_weights_back(in_validation):
    net = network()
    calls = 0

    def interrupted(units: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 12 and units.requires_grad is False and (len(units) == ROWS) == in_validation:
            raise KeyboardInterrupt
        return units[:, 0]

    kept = [digest(net)]
    losses = []
    for _, measured in net.itertrain(small(), **{**OPTIONS, "monitors": {"hid1": interrupted}}):
        kept.append(digest(net))
        losses.append(measured["loss"])
    assert 0 < len(losses) < 5
    place = best([10.0, *losses])
    assert place is not None
    assert digest(net) == kept[place]


def test_an_error_is_not_swallowed():
    def failing(units: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("of the user's")

    with pytest.raises(RuntimeError, match="of the user's"):
        network().train(small(), **{**OPTIONS, "monitors": {"hid1": failing}})


# --- saving progress ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algo", ["adam", "layerwise", "pretrain"])
@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_an_interrupted_call_goes_on_to_the_same_end(tmp_path, algo, stop_after):
    options = {**OPTIONS, "algo": algo, "batch_size": 7, "validate_every": 2}
    whole, first, second = network(), network(), network()
    everything = list(whole.itertrain(small(), **options))
    before = steps(first.itertrain(small(), save_progress=str(tmp_path), **options), min(stop_after, len(everything)))
    # As if the process had been killed: the generator is never closed, and a new one makes everything again.
    abandon(tmp_path)
    after = list(second.itertrain(small(), save_progress=str(tmp_path), **options))
    assert digest(second) == digest(whole)
    if len(before) == len(everything):  # nothing is left to train: what comes is a measurement of the net
        assert len(after) == 1
        after = []
    assert before + after == everything


@pytest.mark.parametrize("after_steps", [1, 4, 8, 9, 13])
def test_ctrl_c_within_an_iteration_is_as_if_it_had_never_been(tmp_path, after_steps):
    options = {**OPTIONS, "validate_every": 2, "patience": 1, "learning_rate": 0.03, "max_iterations": 30}
    whole, first, second = network(), network(), network()
    everything = list(whole.itertrain(small(), **options))
    steps_done = 0

    def interrupting(units: torch.Tensor) -> torch.Tensor:
        nonlocal steps_done
        steps_done += len(units) < ROWS  # not in validations
        if steps_done == after_steps and len(units) < ROWS:
            os.kill(os.getpid(), signal.SIGINT)
        return (units < 0.5).double().mean(1)

    watching = {**options, "monitors": {"hid1": interrupting}}
    before = list(first.itertrain(small(), save_progress=str(tmp_path), **watching))
    assert len(before) == after_steps // 8
    steps_done = 1000
    after = list(second.itertrain(small(), save_progress=str(tmp_path), **watching))
    assert digest(second) == digest(whole)
    assert results(before + after) == results(everything)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_by_a_signal_leaves_what_another_goes_on_from(tmp_path, number):
    script = f"""
import os
from tests.train.experiment.test_exactness import OPTIONS, network, small
calls = 0
def ending(units):
    global calls
    calls += 1
    if calls == 21:
        os.kill(os.getpid(), {int(number)})
    return (units < 0.5).double().mean(1)
network().train(small(), save_progress={str(tmp_path)!r}, **{{**OPTIONS, "monitors": {{"hid1": ending}}}})
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == -number, done.stderr
    whole, resumed = network(), network()
    everything = list(whole.itertrain(small(), **OPTIONS))
    after = list(resumed.itertrain(small(), save_progress=str(tmp_path), **OPTIONS))
    assert 0 < len(after) < 5
    assert results(after) == results(everything[-len(after) :])
    assert digest(resumed) == digest(whole)


def results(values: list) -> list:
    """What was trained and measured, without the monitors."""
    return [[(part["loss"], part["err"], part["acc"]) for part in pair] for pair in values]


def abandon(folder: Path) -> None:
    """Remove the locks that a killed process would have let go."""
    import gc

    gc.collect()
    for lock in folder.rglob("*.lock"):
        lock.unlink()


def test_a_call_that_has_ended_is_not_trained_again(tmp_path):
    first, second = network(save_progress=tmp_path), network(save_progress=tmp_path)
    first.train(small(), **OPTIONS)
    ((trained, measured),) = second.itertrain(small(), **OPTIONS)
    assert digest(second) == digest(first)
    assert trained == measured  # the validation is on the training data here
    assert measured["acc"] == pytest.approx(second.score(*small()))


@pytest.mark.parametrize("algo", ["adam", "layerwise", "pretrain", "sample"])
def test_a_script_that_is_run_again_gets_the_values_of_a_call_that_has_ended(tmp_path, algo):
    first, second = network(save_progress=tmp_path), network(save_progress=tmp_path)
    options = {**OPTIONS, "algo": algo}
    _, expected = min(first.itertrain(small(), **options), key=lambda values: values[1]["loss"])
    trained, measured = second.train(small(), **options)
    assert digest(second) == digest(first)
    assert trained.keys() == measured.keys() == expected.keys()
    if algo in ("adam", "sample"):
        assert measured == pytest.approx(expected, rel=1e-12)


def test_a_function_of_minibatches_gives_its_values_again_too(tmp_path):
    options = {**OPTIONS, "iteration_size": 3, "save_progress": str(tmp_path)}

    def minibatch(number: int):
        return tuple(column[8 * number % ROWS :][:8] for column in small())

    network().train(minibatch, small(), **options)
    _, measured = network().train(minibatch, small(), **options)
    assert measured["acc"] > 0


def test_another_algorithm_in_the_same_folder_is_refused_with_what_to_do(tmp_path):
    network().train(small(), save_progress=str(tmp_path), **OPTIONS)
    with pytest.raises(CheckpointError, match=r"cannot go on .* pass another save_progress=, or delete .*train-1"):
        network().train(small(), save_progress=str(tmp_path), **{**OPTIONS, "algo": "rmsprop"})


def test_a_script_of_several_calls_goes_on_in_the_one_where_it_was(tmp_path):
    def script(net: Classifier, stop_in_second: bool = False) -> None:
        net.train(small(), **OPTIONS)
        values = net.itertrain(small(), **{**OPTIONS, "algo": "rmsprop"})
        if stop_in_second:
            steps(values, 2)
            values.close()
            return
        list(values)

    whole, first, second = network(), network(save_progress=tmp_path), network(save_progress=tmp_path)
    script(whole)
    script(first, stop_in_second=True)
    script(second)
    assert digest(second) == digest(whole)


def test_functions_of_minibatches_are_resumed_where_they_were(tmp_path):
    x, y = small()

    def minibatch(number: int):
        rows = rng.integers(rng.key(1, "rows", number), np.arange(8), ROWS)
        return x[rows], y[rows]

    def counted():
        numbers = iter(range(1000))
        return lambda: minibatch(next(numbers))

    options = {**OPTIONS, "iteration_size": 6}
    digests = set()
    for make in (lambda: minibatch, counted):
        whole, first, second = network(), network(), network()
        everything = list(whole.itertrain(make(), small(), **options))
        folder = str(tmp_path / str(len(digests) + (make is counted)))
        values = first.itertrain(make(), small(), save_progress=folder, **options)
        before = steps(values, 2)
        values.close()
        after = list(second.itertrain(make(), small(), save_progress=folder, **options))
        assert before + after == everything
        digests |= {digest(whole), digest(second)}
    assert len(digests) == 1


def test_an_experiment_is_the_network_that_it_holds():
    exp = Experiment(Classifier, (4, 8, 6, 3), seed=7, dtype="float64", announce=lambda text: None)
    net = network()
    assert exp.train(small(), **OPTIONS) == net.train(small(), **OPTIONS)
    assert digest(exp.network) == digest(net)
