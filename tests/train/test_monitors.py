"""The scales of weights, changes and gradients: right, in the right steps, nothing changed, nothing left over."""

import json

import numpy as np
import pytest
import torch

from minibatch.train import Trainer
from minibatch.train.monitors import UpdateScales, convnet_lines
from tests.train.small import TERMS, TwoHeads, make_source, make_trainer, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("monitors") / "data")


def as_numpy(trainer):
    return {n: p.detach().numpy().copy() for n, p in trainer.model.named_parameters()}


def test_scales_are_those_of_the_weights_before_and_after_the_step(data):
    shown, before, gradients = [], {}, {}
    with make_source(data) as source, make_trainer(source, log_every=2) as trainer:
        before[0] = as_numpy(trainer)

        def remember(trainer, result):
            before[result.step] = as_numpy(trainer)
            gradients[result.step] = {n: p.grad.numpy().copy() for n, p in trainer.model.named_parameters()}

        trainer.fit(max_samples=72, callbacks=[UpdateScales(20, show=shown.append), remember])
    assert [(one.step, one.nominal_time) for one in shown] == [(3, 27), (5, 45), (7, 63)]
    for scales in shown:
        old, new = before[scales.step - 1], before[scales.step]
        assert [one.name for one in scales.parameters] == list(old)
        for one in scales.parameters:
            weight, change = np.abs(old[one.name]).mean(), np.abs(new[one.name] - old[one.name]).mean()
            assert one.weight == pytest.approx(weight, rel=1e-12)
            assert one.change == pytest.approx(change, rel=1e-12)
            assert one.ratio == pytest.approx(change / weight if weight else 0.0, rel=1e-12)
            assert one.grad_norm == pytest.approx(np.linalg.norm(gradients[scales.step][one.name]), rel=1e-12)


def test_parameters_come_in_the_order_of_the_model_however_they_are_grouped(data):
    model = TwoHeads().double()
    names = [name for name, _ in model.named_parameters()]
    biases, weights = ([p for n, p in model.named_parameters() if n.endswith(kind)] for kind in ("bias", "weight"))
    optimizers = [torch.optim.SGD(biases, lr=0.02), torch.optim.SGD(weights, lr=0.01)]
    shown = []
    with make_source(data) as source:
        trainer = Trainer(model, TERMS, optimizers, source, minibatch_size=9, inputs="x")
        before = as_numpy(trainer)
        trainer.fit(max_samples=9, callbacks=[UpdateScales(9, show=shown.append)])
    assert [one.name for one in shown[0].parameters] == names
    for one in shown[0].parameters:
        assert one.weight == pytest.approx(np.abs(before[one.name]).mean(), rel=1e-12)
        assert one.change == pytest.approx(np.abs(as_numpy(trainer)[one.name] - before[one.name]).mean(), rel=1e-12)


def test_values_are_shown_at_log_points_and_the_rest_at_the_end(data):
    shown, seen = [], []
    with make_source(data) as source, make_trainer(source, log_every=4) as trainer:
        trainer.fit(
            max_samples=90,
            callbacks=[UpdateScales(9, show=lambda s: shown.append(s.step)), lambda t, r: seen.append(len(shown))],
        )
    assert seen == [0, 0, 0, 4, 4, 4, 4, 8, 8, 8]
    assert shown == list(range(1, 11))


def test_measuring_changes_nothing_and_leaves_no_hook_behind(data):
    def run(*callbacks):
        with make_source(data) as source, make_trainer(source) as trainer:
            trainer.fit(max_samples=90, callbacks=callbacks)
            hooks = [
                *trainer.optimizers[0]._optimizer_step_pre_hooks,
                *trainer.optimizers[0]._optimizer_step_post_hooks,
            ]
            return as_numpy(trainer), hooks

    (plain, _), (measured, hooks) = run(), run(UpdateScales(10))
    assert all((plain[name] == measured[name]).all() for name in plain)
    assert hooks == []


def test_several_optimizers_are_measured_in_the_same_step(data):
    shown = []
    model = TwoHeads().double()
    parts = [model.body.parameters(), [*model.classes.parameters(), *model.values.parameters()]]
    with (
        make_source(data) as source,
        Trainer(
            model, TERMS, [torch.optim.SGD(parts[0], lr=0.1), torch.optim.Adam(parts[1])], source, 9, inputs="x"
        ) as trainer,
    ):
        trainer.fit(max_samples=36, callbacks=[UpdateScales(18, show=shown.append)])
    assert [one.step for one in shown] == [2, 4]
    assert {one.name for one in shown[0].parameters} == {name for name, _ in model.named_parameters()}


def test_a_resumed_run_measures_the_same_steps_and_its_file_has_each_once(data, tmp_path):
    def run(folder, stop=None, resume=False):
        with make_source(data) as source, make_trainer(source, folder=folder, log_every=3) as trainer:
            if resume:
                trainer.restore_from_checkpoint()
            callbacks = [UpdateScales(20), lambda t, r: "stop" if r.step == stop else None]
            trainer.fit(max_samples=120, save_every=50, callbacks=callbacks)
        return (folder / "scales.jsonl").read_text()

    whole = run(tmp_path / "whole")
    run(tmp_path / "run", stop=8)
    # As if killed after step 8 with its checkpoint lost: step 7 is done, and measured, again.
    for path in (tmp_path / "run" / "checkpoints").glob("t-*72"):
        (path / "manifest.json").unlink()
    assert run(tmp_path / "run", resume=True) == whole
    documents = [json.loads(line) for line in whole.splitlines()]
    assert [document["t"] for document in documents] == [27, 45, 63, 81, 108, 120]
    weight = documents[0]["parameters"]["classes.layers.0.weight"]
    assert weight["ratio"] == pytest.approx(weight["change"] / weight["weight"])


def test_a_parameter_without_gradient_is_no_number_and_a_frozen_one_is_left_out(data, tmp_path):
    model = TwoHeads().double()
    for parameter in model.values.parameters():
        parameter.requires_grad_(False)
    unused = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    model.register_parameter("unused", unused)
    shown = []
    with (
        make_source(data) as source,
        Trainer(
            model,
            TERMS,
            torch.optim.SGD(model.parameters(), lr=0.1),
            source,
            9,
            inputs="x",
            check_unreached=False,
            folder=tmp_path / "run",
        ) as trainer,
    ):
        trainer.fit(max_samples=9, callbacks=[UpdateScales(9, show=shown.append)])
    by_name = {one.name: one for one in shown[0].parameters}
    assert not any(name.startswith("values.") for name in by_name)
    assert (by_name["unused"].weight, by_name["unused"].change) == (1.0, 0.0)
    assert np.isnan(by_name["unused"].grad_norm)
    written = json.loads((tmp_path / "run" / "scales.jsonl").read_text())
    assert written["parameters"]["unused"]["grad_norm"] is None
    assert "Layer '' unused: 1.000000e+00 [0.000000e+00] [0.000000e+00]" in convnet_lines(shown[0])
