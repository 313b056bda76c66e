"""theanets' newbob on the digits: a shorter run learns, its stages, and a resume within each of them."""

from itertools import pairwise

import pytest
import torch

from minibatch.models.noise import GaussianNoise
from minibatch.train import read_ledger
from minibatch.train.recipes import configure
from minibatch.train.recipes.digits import digits
from minibatch.train.recipes.digits_data import prepare
from minibatch.train.running import run_recipe


def quiet(text: str) -> None:
    """Tests print nothing."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "data"
    prepare(folder)
    return folder


def stop_at(step):
    return lambda trainer, result: "a test" if result.step == step else None


def test_a_run_of_a_fifth_of_the_length_recognises_most_digits(data, tmp_path):
    outcome = run_recipe("digits", tmp_path, options={"max_samples": 80_000}, data=data, say=quiet)
    assert outcome.validation["accuracy"] >= 0.9
    assert 0 < outcome.validation["class"] < 0.3


def test_the_stages_are_those_of_the_manual():
    config = digits(max_samples=1000)
    model = config.model(seed=1)
    optimizer = config.optimizers(model)
    (group,) = optimizer.param_groups
    stages = [(stage["optimizer"], stage["lr"], stage["momentum"], stage["nesterov"]) for stage in group["stages"]]
    assert stages == [
        ("Momentum", 0.01, 0.9, True), ("Momentum", 0.001, 0.99, True), ("Momentum", 0.0001, 0.999, True),
        ("GravesRMSprop", 0.0001, 0.9, False),
    ]  # fmt: skip
    at = [group["schedules"]["stage"](t) for t in (0, 399, 400, 600, 800, 999)]
    assert at == [0, 0, 1, 2, 3, 3]
    noise = [(name, m.sigma) for name, m in model.named_modules() if isinstance(m, GaussianNoise)]
    assert noise == [("hid1.output_noise", digits.__kwdefaults__["hidden_noise"])]
    assert config.regularizers[0].coefficient == digits.__kwdefaults__["weight_l2"]


def test_a_run_stopped_in_every_stage_ends_with_the_same_bits(data, tmp_path):
    options = {"max_samples": 640, "promise": "bits", "save_every": 100_000}
    whole = run_recipe("digits", tmp_path / "whole", options=options, data=data, say=quiet)
    options["microbatch_size"] = 32
    for step in (3, 8, 10, 13, 16):  # stages begin at steps 8, 12 and 16
        stop = [stop_at(step)]
        run_recipe("digits", tmp_path / "run", options=options, data=data, resume=step > 3, callbacks=stop, say=quiet)
        options = {}
    resumed = run_recipe("digits", tmp_path / "run", options={}, data=data, resume=True, say=quiet)
    assert resumed.parameters_digest == whole.parameters_digest
    assert [line.lr[0] for line in read_ledger(tmp_path / "run")] == (
        [0.01] * 8 + [0.001] * 4 + [0.0001] * 4 + [0.0001] * 4
    )


def test_the_reacting_form_halves_the_rate_when_the_accuracy_stops_improving(data, tmp_path):
    options = {"max_samples": 3200, "newbob": "reacting", "validate_every": 320}
    run_recipe("digits", tmp_path / "whole", options=options, data=data, say=quiet)
    rates = [line.lr[0] for line in read_ledger(tmp_path / "whole")]
    nag = rates[:80]
    assert nag[0] == 0.01
    assert rates[80:] == [0.0001] * 20
    assert all(after in (before, before / 2) for before, after in pairwise(nag))
    run_recipe("digits", tmp_path / "run", options=options, data=data, callbacks=[stop_at(45)], say=quiet)
    run_recipe("digits", tmp_path / "run", options={}, data=data, resume=True, say=quiet)
    assert [line.lr[0] for line in read_ledger(tmp_path / "run")] == rates


def test_a_reacting_newbob_needs_validations():
    config = configure("digits", {"newbob": "reacting"})
    assert config.validate_every
    rate = config.optimizers(config.model(seed=1)).param_groups[0]["schedules"]["lr"]
    assert rate.watches == "accuracy"
    assert torch.is_tensor(next(config.model(seed=1).parameters()))
