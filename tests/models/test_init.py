"""Initialisation rules against the moments their sources state."""

import math

import pytest
import torch
from torch import nn

from minibatch.models import init

FAN_IN, FAN_OUT = 300, 200
VARIANCE = {"he_normal": 2 / FAN_IN, "glorot_uniform": 2 / (FAN_IN + FAN_OUT), "lecun_normal": 1 / FAN_IN}


@pytest.mark.parametrize("rule", VARIANCE)
def test_the_variance_is_the_stated_one(rule):
    layer = nn.Linear(FAN_IN, FAN_OUT, dtype=torch.float64)
    init.fill(layer, rule, seed=3)
    n = layer.weight.numel()
    assert layer.weight.mean().abs() < 5 * math.sqrt(VARIANCE[rule] / n)
    assert layer.weight.var().item() == pytest.approx(VARIANCE[rule], rel=5 * math.sqrt(2 / n))
    assert layer.bias.count_nonzero() == 0


def test_the_window_of_a_convolution_counts_as_inputs():
    layer = nn.Conv2d(8, 400, 5, dtype=torch.float64)
    init.fill(layer, "he_normal", seed=3)
    assert layer.weight.var().item() == pytest.approx(2 / (8 * 25), rel=0.05)


def test_orthogonal_rows_are_orthonormal():
    layer = nn.Linear(9, 5, dtype=torch.float64)
    init.fill(layer, "orthogonal", seed=3)
    assert torch.allclose(layer.weight @ layer.weight.T, torch.eye(5, dtype=torch.float64), atol=1e-12)


def test_the_gains_of_norm_layers_stay():
    layer = nn.LayerNorm(4)
    nn.init.constant_(layer.bias, 3.0)
    init.fill(layer, "he_normal", seed=3)
    assert layer.weight.tolist() == [1.0] * 4
    assert layer.bias.tolist() == [0.0] * 4


def test_every_rule_is_repeatable_and_depends_on_the_seed():
    for rule in init.RULES:
        layers = [nn.Linear(6, 5) for _ in range(3)]
        for layer, seed in zip(layers, (1, 1, 2**64 + 2), strict=True):
            init.fill(layer, rule, seed=seed)
        assert torch.equal(layers[0].weight, layers[1].weight)
        assert not torch.equal(layers[0].weight, layers[2].weight)
