"""Numeric gradients: they agree where the backward pass is right, with noise and all, and find what is wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from minibatch import DatasetWriter
from minibatch.train import RunConfig, Term, Trainer, cross_entropy, l1, mse, on, recipes
from minibatch.train.config import Prepared
from minibatch.train.gradient_check import Probe, check_config, check_gradients, chosen_elements, failures
from minibatch.train.regularizers import WeightL2
from tests.train import small

TINY = "tests.train.tiny_recipe:tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for data sets, which the recipe fills."""
    return tmp_path_factory.mktemp("check") / "data"


def config_of(model, **options):
    """A configuration with two terms, a mask, weights, and a regularizer."""

    def data(folder):
        if not folder.exists():
            small.write(folder)
        return Prepared(train=folder)

    defaults = {
        "model": model, "inputs": "x", "terms": small.TERMS, "optimizers": Probe.of, "data": data, "minibatch_size": 9,
        "max_samples": 90, "seed": 5, "regularizers": (WeightL2(coefficient=0.01),),
    }  # fmt: skip
    return RunConfig(**{**defaults, **options})


def test_the_gradients_of_a_recipe_agree_with_dropout_weights_clipping_and_schedules_set(folder):
    config = recipes.configure(TINY, {"clip_grad_norm": "0.001", "model.dropout": "0.5", "microbatch_size": "2"})
    checks = check_config(config, folder, elements=4)
    assert [check.name for check in checks] == ["layers.0.weight", "layers.0.bias", "layers.3.weight", "layers.3.bias"]
    assert not failures(checks)
    assert max(check.error for check in checks) < 1e-6
    assert all(3 <= len(check.elements) <= 5 for check in checks)
    assert any(element.gradient for check in checks for element in check.elements)


def test_float32_models_and_data_are_checked_in_float64(tmp_path):
    with DatasetWriter(tmp_path / "data") as writer:
        writer.write({"x": small.fields()["x"].astype(np.float32), "label": small.fields()["label"]})
    config = config_of(
        lambda seed: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)),
        terms=(Term("class", on(cross_entropy, "label")),),
        data=lambda folder: Prepared(train=folder),
    )
    assert not failures(check_config(config, tmp_path / "data"))


def test_terms_masks_coefficients_and_regularizers_are_part_of_the_objective(tmp_path):
    config = config_of(lambda seed: small.TwoHeads(dropout=0.3, seed=seed))
    checks = check_config(config, tmp_path / "data", elements=3)
    assert not failures(checks)
    without = check_config(replace(config, regularizers=()), tmp_path / "data", elements=3)
    weights = [(a, b) for a, b in zip(checks, without, strict=True) if len(a.shape) == 2]
    assert all(a.elements[0].gradient != b.elements[0].gradient for a, b in weights)
    heavy = check_config(replace(config, terms=(replace(small.TERMS[0], coefficient=2.0), small.TERMS[1])),
                         tmp_path / "data", elements=3)  # fmt: skip
    assert not failures(heavy)
    assert heavy[0].elements != checks[0].elements


def test_another_nominal_time_has_other_samples_and_noise(tmp_path):
    config = config_of(lambda seed: small.TwoHeads(dropout=0.5, seed=seed))
    first, later = (check_config(config, tmp_path / "data", elements=2, nominal_time=at) for at in (0, 20))
    assert not failures(first)
    assert not failures(later)
    assert first[0].elements != later[0].elements
    assert check_config(config, tmp_path / "data", elements=2) == first, "the same elements and numbers every time"


class Broken(torch.autograd.Function):
    """x², whose backward pass forgets the 2."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * x


class Wrong(nn.Module):
    """A linear layer that is right, before one whose backward pass is wrong."""

    def __init__(self):
        super().__init__()
        self.right = nn.Linear(6, 3, dtype=torch.float64)
        self.wrong = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x):
        return self.right(x) + Broken.apply(self.wrong)


def test_a_wrong_backward_pass_is_found_by_the_name_of_its_parameter(tmp_path):
    config = config_of(lambda seed: Wrong(), terms=(Term("class", on(cross_entropy, "label")),), regularizers=())
    checks = check_config(config, tmp_path / "data")
    assert failures(checks) == ["wrong"]
    wrong = checks[[check.name for check in checks].index("wrong")]
    for element in wrong.elements:
        assert element.numeric == pytest.approx(2 * element.gradient, rel=1e-6)
    assert wrong.error == pytest.approx(0.5, rel=1e-6)
    assert len(wrong.elements) == 3


def test_a_tiny_gradient_that_is_wrong_is_found_too(tmp_path):
    class Faint(Wrong):
        def forward(self, x):
            return self.right(x) + 1e-6 * Broken.apply(self.wrong)

    config = config_of(lambda seed: Faint(), terms=(Term("class", on(cross_entropy, "label")),), regularizers=())
    assert failures(check_config(config, tmp_path / "data")) == ["wrong"]


def test_kinks_are_told_from_mistakes(tmp_path):
    class Kinked(nn.Module):
        """|w|-like losses close to their kinks: a step of 6e-6 crosses them, a smaller one does not."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([2e-6, -2e-6, 1.0], dtype=torch.float64))

        def forward(self, x):
            return self.weight.relu().expand(len(x), 3) + 0.0 * x[:, :3]

    def zeros(outputs, batch):
        return l1(outputs, torch.zeros_like(outputs))

    config = config_of(lambda seed: Kinked(), terms=(Term("fit", zeros),), regularizers=())
    assert not failures(check_config(config, tmp_path / "data"))


def test_an_objective_that_counts_its_calls_is_refused(tmp_path):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls = nn.Linear(6, 3, dtype=torch.float64), 0

        def forward(self, x):
            self.calls += 1
            return self.layer(x) * self.calls

    config = config_of(lambda seed: Counting(), terms=(Term("class", on(cross_entropy, "label")),), regularizers=())
    with pytest.raises(ValueError, match="two evaluations of the same objective gave"):
        check_config(config, tmp_path / "data")


def test_a_trainer_of_ones_own_stands_where_it_stood(tmp_path):
    source = small.make_source(small.write(tmp_path / "data"))
    model = small.TwoHeads(dropout=0.3).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = Trainer(model, small.TERMS, Probe.of(model), source, 9, inputs="x")
    source.seek(9)
    given = {name: values[:9] for name, values in small.fields().items()}
    assert not failures(check_gradients(trainer, given, elements=2))
    assert (trainer.step, trainer.nominal_time) == (0, 9)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    source.close()


def test_what_cannot_be_checked_is_refused():
    model = small.TwoHeads()
    trainer = Trainer(model, Term("fit", on(mse, "target", output="values")), Probe.of(model), None, 4, inputs="x")
    with pytest.raises(ValueError, match=r"numeric gradients need float64: call model.double\(\); body.layers"):
        check_gradients(trainer, {})
    model = small.TwoHeads().double()
    trainer = Trainer(model, small.TERMS, torch.optim.SGD(model.parameters(), lr=0.1), None, 4, inputs="x")
    with pytest.raises(ValueError, match="expected a Trainer with Probe"):
        check_gradients(trainer, {})


def test_elements_are_distinct_keyed_and_include_the_largest_gradient():
    gradient = torch.zeros(40, 25)
    gradient[31, 7] = -2.0
    chosen = chosen_elements(gradient, 10, 7)
    assert len(set(chosen)) == 11
    assert 31 * 25 + 7 in chosen
    assert chosen == chosen_elements(gradient, 10, 7)
    assert chosen != chosen_elements(gradient, 10, 8)
    assert chosen_elements(torch.tensor(3.0), 10, 7) == [0]
