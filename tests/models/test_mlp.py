"""The multilayer perceptron: shapes, repeatable weights, clear errors."""

import pytest
import torch
from torch import nn

from minibatch.models import MLP, Dropout


def test_the_input_is_flattened_and_converted():
    model = MLP(sizes=(12, 7, 3), seed=1)
    pixels = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    assert model(pixels).shape == (2, 3)
    assert torch.equal(model(pixels), model(pixels.float().view(2, 12)))
    assert model.double()(pixels).dtype == torch.float64


def test_weights_are_a_function_of_the_seed_and_draw_nothing_from_the_global_generator():
    before = torch.default_generator.get_state()
    a, b, other = (MLP(sizes=(5, 4, 3), seed=seed) for seed in (7, 7, 8))
    assert torch.equal(torch.default_generator.get_state(), before)
    for ours, theirs in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(a.layers[0].weight, other.layers[0].weight)


def test_dropout_stands_in_front_of_every_layer_but_the_first():
    model = MLP(sizes=(5, 4, 3, 2), dropout=0.3, input_dropout=0.1, activation="tanh")
    assert [type(layer) for layer in model.layers] == [
        Dropout, nn.Linear, nn.Tanh, Dropout, nn.Linear, nn.Tanh, Dropout, nn.Linear,
    ]  # fmt: skip
    assert [layer.p for layer in model.layers if isinstance(layer, Dropout)] == [0.1, 0.3, 0.3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (5,)}, "two or more"),
        ({"sizes": (5, 0)}, "positive"),
        ({"sizes": (5, 2), "activation": "rule"}, "'rule'.*relu"),
        ({"sizes": (5, 2), "init": "he"}, "'he'.*he_normal"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MLP(**options)
