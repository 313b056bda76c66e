"""Feed-forward nets from sizes: names, first weights, shapes, and errors that say which layer is wrong."""

import copy
import pickle

import pytest
import torch
from torch import nn

from minibatch.models.feedforward import ACTIVATIONS, Dense, FeedForward, LayerSpec, fill, layer_specs


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return dict(net.state_dict())


def same(one: nn.Module, other: nn.Module) -> bool:
    return state(one).keys() == state(other).keys() and all(
        torch.equal(value, state(other)[name]) for name, value in state(one).items()
    )


def test_layers_are_called_as_theanets_calls_them():
    net = FeedForward((100, {"size": 50, "name": "a"}, 80, {"size": 100, "name": "o"}))
    assert net.names == ("in", "a", "hid2", "o")
    assert net.hidden == ("a", "hid2")
    assert list(state(net)) == ["a.weight", "a.bias", "hid2.weight", "hid2.bias", "o.weight", "o.bias"]
    assert net.a.weight.shape == (50, 100)


def test_outputs_are_those_of_the_formula_layer_by_layer():
    net = FeedForward((3, (4, "tanh"), (5, "sigmoid"), 2), seed=3).double()
    x = torch.linspace(-1, 1, 21, dtype=torch.float64).reshape(7, 3)
    h1 = torch.tanh(x @ net.hid1.weight.T + net.hid1.bias)
    h2 = torch.sigmoid(h1 @ net.hid2.weight.T + net.hid2.bias)
    expected = h2 @ net.out.weight.T + net.out.bias
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)
    assert {name: tuple(h.shape) for name, h in net.activations(x).items()} == {
        "in": (7, 3),
        "hid1": (7, 4),
        "hid2": (7, 5),
        "out": (7, 2),
    }


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_keeps_samples_apart(activation):
    net = FeedForward((3, (4, activation), 2), seed=1)
    x = torch.arange(6.0).reshape(2, 3)
    torch.testing.assert_close(net(x)[1:], net(x[1:]))


def test_pixels_of_any_integer_type_and_shape_come_in():
    net = FeedForward((6, 2), seed=1)
    pixels = torch.arange(12, dtype=torch.uint8).reshape(2, 2, 3)
    assert torch.equal(net(pixels), net(pixels.reshape(2, 6).float()))
    assert net.double()(pixels).dtype == torch.float64


def test_first_weights_are_a_function_of_the_seed_and_of_the_layer_alone():
    assert same(FeedForward((4, 8, 3), seed=7), FeedForward((4, 8, 3), seed=7))
    assert not same(FeedForward((4, 8, 3), seed=7), FeedForward((4, 8, 3), seed=8))
    short, long = FeedForward((4, 8, 3), seed=7), FeedForward((4, 8, 8, 3), seed=7)
    assert torch.equal(short.hid1.weight, long.hid1.weight)
    square = FeedForward((8, 8, 8, 8), seed=7)
    assert not torch.equal(square.hid1.weight, square.hid2.weight)


def test_making_a_net_leaves_the_global_generator_alone():
    before = torch.default_generator.get_state()
    FeedForward((4, {"size": 8, "sparsity": 0.5}, 3), seed=7)
    assert torch.equal(before, torch.default_generator.get_state())


@pytest.mark.parametrize(("share", "zeros"), [(0.0, 0), (0.9, 2700), (0.5, 1500), (0.333, 999)])
def test_sparsity_is_exactly_that_share_of_the_first_weights(share, zeros):
    net = FeedForward((60, {"size": 50, "sparsity": share}, 2), seed=1)
    assert int((net.hid1.weight == 0).sum()) == zeros
    rows = (net.hid1.weight == 0).sum(1)
    assert share == 0.0 or int(rows.max()) < 60  # spread over the units


def test_std_is_the_deviation_of_the_first_weights():
    net = FeedForward((300, {"size": 200, "std": 0.01}, 2), seed=1)
    assert net.hid1.weight.std().item() == pytest.approx(0.01, rel=0.02)


def test_a_net_of_given_layers_shares_them():
    net = FeedForward((4, 3, 2), seed=1)
    head = Dense(3, LayerSpec(name="head", size=5, activation="linear"))
    fill(head, seed=9)
    part = FeedForward.of({"in": net.layers["in"], "hid1": net.hid1, "head": head})
    assert part.names == ("in", "hid1", "head")
    assert [spec.size for spec in part.specs] == [4, 3, 5]
    with torch.no_grad():
        part.hid1.bias.fill_(2.0)
    assert net.hid1.bias.tolist() == [2.0] * 3


def test_copies_are_nets_of_their_own():
    net = FeedForward((4, 3, 2), seed=1)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert same(net, other)
        assert other.hid1.weight is not net.hid1.weight


def test_specs_make_the_same_net_again():
    net = FeedForward((4, {"size": 3, "sparsity": 0.5, "activation": "tanh"}, 2), seed=5)
    assert layer_specs(net.specs) == net.specs
    assert same(net, FeedForward(net.specs, seed=5))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((4,), "two layers or more"),
        ("784", "two layers or more"),
        ((4, 0), "size=0"),
        ((4, 2.5), "size=2.5"),
        ((4, True), "size=True"),
        ((4, (3, "rellu"), 2), "'rellu' is not known"),
        ((4, (3, "relu", 0.1), 2), r"layer 1 is \(3, 'relu', 0.1\)"),
        ((4, {"name": "a"}, 2), "expected a size"),
        ((4, {"size": 3, "sparcity": 0.9}, 2), "sparcity"),
        ((4, {"size": 3, "sparsity": 1.0}, 2), "sparsity=1.0"),
        ((4, {"size": 3, "std": 0.0}, 2), "std=0.0"),
        ((4, {"size": 3, "name": "out"}, 2), "different names"),
        ((4, {"size": 3, "name": "a.b"}, 2), "different names"),
        ((4, {"size": 3, "name": "forward"}, 2), "no attributes of a module"),
        (((4, "relu"), 2), "layer 0 only takes the inputs"),
        ((4, 3, ("tied", "hid9")), "no layer before it"),
        ((4, 3, 5, ("tied", "hid1")), "take 3 inputs and give 4, here are 5"),
        ((4, 3, ("tied", "hid1"), ("tied", "hid2")), "tied"),
    ],
)
def test_wrong_layers_are_refused_by_name(layers, message):
    with pytest.raises(ValueError, match=message):
        FeedForward(layers)


def test_samples_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"takes 4 inputs per sample, got \(5,\)"):
        FeedForward((4, 2))(torch.ones(3, 5))
