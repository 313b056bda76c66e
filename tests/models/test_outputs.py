"""Modules by pattern, and tensors within outputs."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

from minibatch.models.outputs import first_tensor, modules_matching, sample_axis, with_first_tensor


def blocks() -> nn.Module:
    block = nn.ModuleDict({"attention": nn.Linear(2, 2), "act": nn.ReLU()})
    return nn.ModuleDict(
        {"blocks": nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.ReLU()), block]), "head": nn.ReLU()}
    )


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("blocks.*", ["blocks.0", "blocks.1.attention", "blocks.1.act"]),
        ("*", ["blocks.0", "blocks.1.attention", "blocks.1.act", "head"]),
        ("blocks.0.*", ["blocks.0.0", "blocks.0.1"]),
        (("head", "*.act"), ["blocks.1.act", "head"]),
        ("[bh]*", ["blocks.0", "blocks.1.attention", "blocks.1.act", "head"]),
    ],
)
def test_the_outermost_modules_that_are_called_are_found(pattern, names):
    assert list(modules_matching(blocks(), pattern)) == names


def test_names_that_begin_alike_are_not_inside_each_other():
    model = nn.ModuleDict({"a": nn.ReLU(), "ab": nn.ReLU()})
    assert list(modules_matching(model, "a*")) == ["a", "ab"]


class Pair(NamedTuple):
    label: torch.Tensor
    value: torch.Tensor


def test_the_first_floating_tensor_is_found_and_replaced_in_every_container():
    x, y, label = torch.ones(2), torch.zeros(2), torch.tensor([1])
    for value in (x, (label, x, x), [x, y], {"label": label, "x": (y, x)}, Pair(label, x)):
        found = first_tensor(value)
        replaced = with_first_tensor(value, found, torch.full((2,), 7.0))
        assert type(replaced) is type(value)
        assert first_tensor(replaced).tolist() == [7.0, 7.0]
        assert first_tensor(value) is found
    twice = with_first_tensor((x, x), x, y)
    assert twice[0] is y
    assert twice[1] is x
    for nothing in (label, (label, {}), None, "text", 3):
        assert first_tensor(nothing) is None


def test_torchs_layers_with_time_first_are_known():
    states = torch.ones(7, 5, 4)
    assert sample_axis(nn.LSTM(2, 4), states) == 1
    assert sample_axis(nn.LSTM(2, 4), states[0]) == 0
    assert sample_axis(nn.MultiheadAttention(4, 2), states) == 1
    assert sample_axis(nn.TransformerEncoderLayer(4, 2), states) == 1
    assert sample_axis(nn.TransformerEncoderLayer(4, 2, batch_first=True), states) == 0
    assert sample_axis(nn.Linear(4, 4), states) == 0
