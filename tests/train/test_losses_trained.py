"""Losses in a step of the engine: learned weights of tasks, missing targets, and pairs across microbatches."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from minibatch import DatasetWriter, MinibatchSource
from minibatch.train import Term, Trainer, evaluate, mse, on
from minibatch.train.losses import (
    Temperature,
    Uncertainty,
    contrastive,
    contrastive_margin,
    cross_entropy,
    mmd,
    of_batch,
    of_outputs,
    present,
    uncertain,
)

ROWS = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Numbers with two tasks, each of which some samples lack."""
    path = tmp_path_factory.mktemp("tasks") / "data"
    draw = np.random.default_rng(3)
    depth = draw.normal(size=(ROWS, 2))
    depth[draw.uniform(size=(ROWS, 2)) < 0.3] = np.nan
    with DatasetWriter(path) as writer:
        label = np.where(draw.uniform(size=ROWS) < 0.4, -1, draw.integers(3, size=ROWS))
        x = draw.normal(size=(ROWS, 4))
        writer.write({"x": x, "y": draw.normal(size=(ROWS, 3)), "label": label, "depth": depth, "key": label % 2})
    return path


class Tasks(nn.Module):
    """Two linear heads, two towers, and what is learned beside them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict(
            {name: nn.Linear(4, size) for name, size in (("class", 3), ("depth", 2), ("tower", 3))}
        )
        for number, parameter in enumerate(self.layers.parameters()):
            parameter.data = torch.linspace(-1.0, 1.0, parameter.numel()).add(0.1 * number).sin().view_as(parameter)
        self.uncertainty = Uncertainty(["class", "depth"], initial=0.3)
        self.temperature = Temperature(0.5)

    def forward(self, x):
        outputs = {name: layer(x) for name, layer in self.layers.items()}
        return {**outputs, "s": self.uncertainty(len(x))["depth"], "class_s": self.uncertainty(len(x))["class"]}


def step(data, terms_of, *, microbatch_size=None):
    """Gradients of one minibatch of all samples, by name, from the change that SGD makes."""
    model = Tasks().double()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with MinibatchSource(data, shuffle=None) as source:
        trainer = Trainer(
            model, terms_of(model), torch.optim.SGD(model.parameters(), lr=1.0), source, ROWS, microbatch_size,
            inputs="x", announce=lambda text: None, check_unreached=False,
        )  # fmt: skip
        assert trainer.train_minibatch()
        trainer.close()
    return {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}


def tasks_with(head_of):
    def terms_of(model):
        heads = head_of(model)
        label = on(cross_entropy, "label", output="class", missing=-1)
        depth = on(mse, "depth", output="depth", missing=math.nan, reduce="none")
        return [
            Term("class", uncertain(label, heads["class"], "class"), mask=present("label", missing=-1)),
            Term("depth", uncertain(depth, heads["depth"], "depth", kind="regression"), mask=present("depth")),
        ]

    return terms_of


MODULE = tasks_with(lambda model: dict.fromkeys(("class", "depth"), model.uncertainty))
OUTPUTS = tasks_with(lambda model: {"class": of_outputs("class_s"), "depth": of_outputs("s")})


@pytest.mark.parametrize("terms_of", [MODULE, OUTPUTS], ids=["module", "outputs"])
@pytest.mark.parametrize("microbatch_size", [None, 1, 5, 7])
def test_the_gradient_of_log_variances_is_that_of_the_papers_objective(data, terms_of, microbatch_size):
    """d/ds [e⁻ˢ·L + s/2] = ½ - e⁻ˢ·L with L the mean over what is there, for any microbatch."""
    gradients = step(data, terms_of, microbatch_size=microbatch_size)
    plain = Tasks().double()
    label = on(cross_entropy, "label", output="class", missing=-1)
    depth = on(mse, "depth", output="depth", missing=math.nan, reduce="none")
    terms = [
        Term("class", label, mask=present("label", missing=-1)),
        Term("depth", depth, mask=present("depth")),
    ]
    means = evaluate(plain, data, inputs="x", terms=terms)
    expected = [0.5 - math.exp(-0.3) * means["class"], 0.5 - 0.5 * math.exp(-0.3) * means["depth"]]
    # The log-variances are float32 numbers in a float64 model: 0.3 is rounded.
    assert gradients["uncertainty.log_variances"].tolist() == pytest.approx(expected, rel=1e-6)


def test_the_gradient_of_a_task_is_scaled_by_its_uncertainty(data):
    def bare(model):
        return [
            Term("class", on(cross_entropy, "label", output="class", missing=-1), mask=present("label", missing=-1))
        ]

    name = "layers.class.weight"
    ratio = step(data, MODULE)[name] / step(data, bare)[name]
    assert torch.allclose(ratio, torch.full_like(ratio, math.exp(-0.3)), rtol=1e-6)


def test_missing_targets_leave_every_gradient_finite(data):
    for name, gradient in step(data, MODULE, microbatch_size=5).items():
        assert torch.isfinite(gradient).all(), name


def keep(batch):
    return batch["key"] == 0


OVER_MINIBATCH = {
    "contrastive": lambda model: on(
        contrastive, "y", output="tower", temperature=model.temperature, keys=of_batch("label")
    ),
    "contrastive_margin": lambda model: on(contrastive_margin, "y", output="tower", negatives="sum"),
    "mmd": lambda model: on(mmd, "y", output="tower", bandwidths=(1.0, 4.0)),
}


@pytest.mark.parametrize("name", OVER_MINIBATCH)
def test_microbatches_do_not_change_what_compares_samples(data, name):
    def terms_of(model):
        return [Term("pairs", OVER_MINIBATCH[name](model), over="minibatch", mask=keep)]

    whole = step(data, terms_of)
    assert whole["layers.tower.weight"].abs().max() > 1e-4
    if name == "contrastive":
        assert whole["temperature.log_scale"].abs() > 1e-4
    for size in (1, 5, 12):
        for parameter, gradient in step(data, terms_of, microbatch_size=size).items():
            assert torch.allclose(gradient, whole[parameter], rtol=1e-10, atol=1e-14), (parameter, size)
