"""Autoencoders: codes in the middle, tied weights that are one tensor with two uses."""

import copy

import pytest
import torch

from minibatch.models.autoencoder import Autoencoder
from minibatch.models.feedforward import Tied


def test_decoding_a_code_gives_the_reconstruction():
    net, x = Autoencoder((6, 4, 2, 4, 6), seed=1), torch.linspace(0, 1, 18).reshape(3, 6)
    assert net.code == "hid2"
    assert net.encode(x).shape == (3, 2)
    for layer in (None, "hid1", "hid3", "in"):
        assert torch.equal(net.decode(net.encode(x, layer), layer), net(x))
    with pytest.raises(ValueError, match="'hid9' is no layer of this net; it has in, hid1"):
        net.encode(x, "hid9")


def test_tied_layers_use_the_weights_of_their_mirror_images_transposed():
    net = Autoencoder((6, (4, "tanh"), (2, "sigmoid"), (4, "tanh"), 6), tied=True, seed=1).double()
    x = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(3, 6)
    w1, w2 = net.hid1.weight, net.hid2.weight
    with torch.no_grad():
        net.hid3.bias.copy_(torch.arange(4.0))
    h1 = torch.tanh(x @ w1.T + net.hid1.bias)
    h2 = torch.sigmoid(h1 @ w2.T + net.hid2.bias)
    h3 = torch.tanh(h2 @ w2 + net.hid3.bias)
    torch.testing.assert_close(net(x), h3 @ w1 + net.out.bias, rtol=1e-12, atol=1e-12)


def test_tied_weights_have_one_name_and_the_gradient_of_both_uses():
    net = Autoencoder((3, 2, 3), tied=True, activation="linear", seed=1).double()
    names = [name for name, _ in net.named_parameters()]
    assert names == ["hid1.weight", "hid1.bias", "out.bias"]
    assert list(net.state_dict()) == names
    x = torch.eye(3, dtype=torch.float64)
    net(x).square().sum().backward()
    w = net.hid1.weight.detach().clone().requires_grad_()
    ((x @ w.T) @ w).square().sum().backward()
    torch.testing.assert_close(net.hid1.weight.grad, w.grad)


def test_a_copy_ties_its_own_weights():
    net = Autoencoder((3, 2, 3), tied=True, seed=1)
    other = copy.deepcopy(net)
    assert isinstance(other.out, Tied)
    assert other.out.partner is other.hid1
    assert other.out.partner is not net.hid1


def test_single_layers_may_be_tied_and_biases_may_have_activations():
    net = Autoencoder((6, 4, ("tied", "hid1")), seed=1)
    assert net.names == ("in", "hid1", "out")
    assert torch.equal(net.out.partner.weight, net.hid1.weight)


@pytest.mark.parametrize(
    ("layers", "tied", "message"),
    [
        ((6, 4, 5), False, "last layer must have 6 units"),
        ((6, 4, 3, 6), True, "equal from both ends"),
        ((6, 4, 4, 6), True, "odd number"),
    ],
)
def test_layers_that_are_no_autoencoder_are_refused(layers, tied, message):
    with pytest.raises(ValueError, match=message):
        Autoencoder(layers, tied=tied)
