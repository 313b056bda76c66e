"""One call per update: the loop that a user copies ends as the command does, with the same bits in every process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from minibatch.train import parameters_digest
from minibatch.train.recipes.digits_data import prepare
from minibatch.train.recipes.step_by_step import step_by_step, train_minibatch, train_step_by_step
from minibatch.train.running import make_trainer, run_recipe

STEPS = 40
LOOP = """
import sys
from pathlib import Path
from minibatch.train import parameters_digest
from minibatch.train.recipes.step_by_step import train_step_by_step

print(parameters_digest(train_step_by_step(Path(sys.argv[1]), steps=int(sys.argv[2]), say=lambda text: None).model))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("step_by_step") / "data"
    prepare(folder)
    return folder


def quiet(text: str) -> None:
    """Tests print nothing."""


def halves(**options):
    """A trainer of steps of 2 · 16 samples, and 32 samples."""
    trainer = make_trainer(step_by_step(**options), None, None)
    draw = np.random.default_rng(3)
    samples = [{"image": draw.uniform(size=(8, 8)).astype(np.float32), "label": np.int64(i % 10)} for i in range(32)]
    return trainer, samples


def test_the_loop_in_another_process_and_the_command_in_this_one_end_with_the_same_bits(data, tmp_path):
    command = [sys.executable, "-c", LOOP, str(data), str(STEPS)]
    root = Path(__file__).parents[3]
    found = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout.strip()
    whole = {"max_samples": step_by_step().minibatch_size * STEPS}
    rates = {"schedules": (*step_by_step().schedules,)}  # of a run of the usual length
    outcome = run_recipe("step_by_step", tmp_path, options={**whole, **rates}, data=data, say=quiet)
    assert found == outcome.parameters_digest
    assert not torch.are_deterministic_algorithms_enabled()  # again, after the run


def test_during_the_run_algorithms_are_deterministic(data, tmp_path):
    seen = []
    look = [lambda trainer, result: seen.append(torch.are_deterministic_algorithms_enabled())]
    run_recipe("step_by_step", tmp_path, options={"max_samples": 64}, data=data, say=quiet, callbacks=look)
    assert seen == [True, True]


def test_the_loop_learns_and_says_how_it_goes(data):
    said = []
    trainer = train_step_by_step(data, steps=200, say=said.append)
    told = [line for line in said if "updates" in line]
    losses = [float(line.split("total loss ")[1].split(",")[0]) for line in told]
    assert [line.split()[0] for line in told] == ["100", "200"]
    assert losses[1] < 0.1 * np.log(10)  # a tenth, because ten equal class weights are 0.1 each
    assert trainer.validation is None
    assert trainer.nominal_time == 200 * 32


def test_a_step_returns_the_total_and_every_part_of_it():
    trainer, samples = halves(weight_prior=0.01)
    weights = [p.detach().double() for name, p in trainer.model.named_parameters() if p.ndim > 1]
    prior = 0.005 * float(sum(w.square().sum() for w in weights))
    result = train_minibatch(trainer, samples)
    assert set(result) == {"total_loss", "class", "weight_prior"}
    assert result["weight_prior"] == pytest.approx(prior, rel=1e-6)
    assert result["total_loss"] == pytest.approx(result["class"] + result["weight_prior"], rel=1e-12)
    assert result["class"] == pytest.approx(0.1 * np.log(10), rel=0.3)


def test_the_multiplier_is_exact_and_the_update_is_halcons():
    weights = (3.0, *[1.0] * 9)
    results, parameters = [], []
    for size, multiplier in ((32, 1), (16, 2), (4, 8)):
        trainer, samples = halves(batch_size=size, batch_size_multiplier=multiplier, class_weights=weights, dropout=0.0,
                                  weight_prior=0.02, learning_rate=0.3)  # fmt: skip
        trainer.model.double()
        first = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        results.append([train_minibatch(trainer, samples) for _ in range(3)])
        parameters.append({name: p.detach() for name, p in trainer.model.named_parameters()})
    for result, values in zip(results, parameters, strict=True):
        assert result[-1] == pytest.approx(results[0][-1], rel=1e-13)
        assert all(torch.allclose(p, parameters[0][name], rtol=0, atol=1e-14) for name, p in values.items())
    expected, losses = by_hand(first, samples, torch.tensor(weights, dtype=torch.float64))
    assert [result["class"] for result in results[0]] == pytest.approx(losses, rel=1e-12)
    for name, value in expected.items():
        assert torch.allclose(value, parameters[0][name], rtol=0, atol=1e-13)


def by_hand(parameters, samples, class_weights, *, rate=0.3, momentum=0.9, prior=0.02, steps=3):
    """HALCON's formulas: loss 1/n Σ cw_y/Σ cw · -log p_y + α/2 Σ w² (no biases); v ← μ v - λ ∇L, w ← w + v."""
    values = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    velocity = {name: torch.zeros_like(value) for name, value in values.items()}
    x = torch.from_numpy(np.stack([sample["image"] for sample in samples])).double().flatten(1)
    y = torch.tensor([int(sample["label"]) for sample in samples])
    names = list(values)
    losses = []
    for _ in range(steps):
        hidden = torch.relu(x @ values[names[0]].T + values[names[1]])
        logits = hidden @ values[names[2]].T + values[names[3]]
        log_p = logits - torch.logsumexp(logits, 1, keepdim=True)
        shares = class_weights[y] / class_weights.sum()
        loss = -(shares * log_p[torch.arange(len(y)), y]).sum() / len(y)
        losses.append(float(loss.detach()))
        total = loss + prior / 2 * sum(value.square().sum() for name, value in values.items() if value.ndim > 1)
        gradients = torch.autograd.grad(total, list(values.values()))
        with torch.no_grad():
            for (name, value), gradient in zip(values.items(), gradients, strict=True):
                velocity[name] = momentum * velocity[name] - rate * gradient
                value += velocity[name]
    return {name: value.detach() for name, value in values.items()}, losses


@pytest.mark.parametrize("given", [0, 16, 31, 64])
def test_another_number_of_samples_than_the_batch_size_times_the_multiplier_is_refused(given):
    trainer, samples = halves()
    before = parameters_digest(trainer.model)
    with pytest.raises(
        ValueError, match=f"got {given} samples, expected 32: batch_size 16 times batch_size_multiplier 2"
    ):
        train_minibatch(trainer, (samples * 2)[:given])
    assert parameters_digest(trainer.model) == before
    assert trainer.step == 0
