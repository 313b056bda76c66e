"""Locally connected layers, response normalisation and the input layer: equal to plain NumPy, and to torch's own."""

import numpy as np
import pytest
import torch

from minibatch.models.convnet_layers import LocallyConnected, Pixels, ResponseNorm, begin, pool, pooled
from tests.plain import convnet as plain

DRAW = np.random.default_rng(3)


@pytest.mark.parametrize(("size", "maps", "power"), [(9, 12, 0.75), (5, 3, 0.75), (3, 7, 0.5), (1, 4, 1.0)])
def test_response_norm_is_the_formula_and_torchs_layer(size, maps, power):
    x = DRAW.normal(size=(2, maps, 3, 2)) * 30
    layer = ResponseNorm(size, channels=maps, scale=0.01, power=power, offset=2.0).double()
    found = layer(torch.from_numpy(x))
    np.testing.assert_allclose(found, plain.response_norm(x, size, 0.01, power, 2.0), rtol=1e-12)
    theirs = torch.nn.LocalResponseNorm(size, alpha=0.01, beta=power, k=2.0)
    np.testing.assert_allclose(found, theirs(torch.from_numpy(x)), rtol=1e-12)


def test_response_norm_has_torchs_gradient_and_saves_nothing():
    x = torch.from_numpy(DRAW.normal(size=(2, 11, 3, 3)) * 20).requires_grad_()
    weights = torch.from_numpy(DRAW.normal(size=(2, 11, 3, 3)))
    layer = ResponseNorm(9, channels=11, scale=0.001).double()
    ours, theirs = (
        torch.autograd.grad((function(x) * weights).sum(), x)[0]
        for function in (layer, torch.nn.LocalResponseNorm(9, alpha=0.001, beta=0.75, k=1.0))
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)
    assert layer.state_dict() == {}


@pytest.mark.parametrize(("size", "window", "padding"), [(4, 3, 1), (5, 3, 0), (3, 1, 0), (4, 5, 2)])
def test_locally_connected_is_the_formula(size, window, padding):
    layer = LocallyConnected(2, 3, size=size, window=window, padding=padding).double()
    layer.weight.data = torch.from_numpy(DRAW.normal(size=tuple(layer.weight.shape)))
    layer.bias.data = torch.from_numpy(DRAW.normal(size=tuple(layer.bias.shape)))
    x = DRAW.normal(size=(3, 2, size, size))
    found = layer(torch.from_numpy(x)).detach()
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    np.testing.assert_allclose(found, plain.locally_connected(x, weight, bias, window, padding), rtol=1e-11)


def test_locally_connected_with_equal_weights_everywhere_is_a_convolution_with_the_same_gradient():
    layer = LocallyConnected(2, 3, size=6, window=3, padding=1).double()
    kernel = torch.from_numpy(DRAW.normal(size=(3, 2, 3, 3)))
    layer.weight.data = kernel.permute(2, 3, 1, 0).reshape(1, 18, 3).expand(36, 18, 3).clone()
    x = torch.from_numpy(DRAW.normal(size=(4, 2, 6, 6))).requires_grad_()
    same = torch.nn.functional.conv2d(x, kernel.requires_grad_(), padding=1)
    torch.testing.assert_close(layer(x), same)
    weights = torch.from_numpy(DRAW.normal(size=tuple(same.shape)))
    own = torch.autograd.grad((layer(x) * weights).sum(), [x, layer.weight])
    theirs = torch.autograd.grad((same * weights).sum(), [x, kernel])
    torch.testing.assert_close(own[0], theirs[0])
    torch.testing.assert_close(own[1].sum(0).reshape(3, 3, 2, 3).permute(3, 2, 0, 1), theirs[1])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pixels_are_the_middle_without_the_mean(dtype):
    layer = Pixels(2).double()
    layer.mean.copy_(torch.arange(12.0).view(2, 2, 3))
    images = torch.from_numpy(DRAW.integers(0, 255, (3, 5, 4, 3))).to(dtype)
    expected = (images[:, 1:3, 1:3].double() - layer.mean).permute(0, 3, 1, 2)
    assert torch.equal(layer(images), expected)
    assert torch.equal(layer(images[:, 1:3, 1:3]), expected), "crops and views are taken as they are"
    assert list(layer.state_dict()) == ["mean"]


def test_pooling_windows_may_stand_out_as_in_cuda_convnet():
    for size in (24, 12, 55, 7, 3):
        x = DRAW.normal(size=(1, 2, size, size))
        found = pool()(torch.from_numpy(x))
        assert found.shape[2] == pooled(size)
        np.testing.assert_array_equal(found, plain.pooled(x))


def test_first_values_have_the_deviation_of_the_file_and_draw_nothing_from_the_global_generator():
    before = torch.default_generator.get_state()

    def made(seed):
        layers = {"one": torch.nn.Linear(100, 200, device="meta"), "two": torch.nn.Conv2d(20, 30, 5, device="meta")}
        net = torch.nn.ModuleDict({**layers, "three": LocallyConnected(9, 20, size=6, window=3)})
        begin(net, {"one": (0.03, -7.0), "two": (0.01, 1.0), "three": (0.04, 0.0)}, seed=seed)
        return {name: value.detach() for name, value in net.named_parameters()}

    one, same, other = made(5), made(5), made(6)
    assert torch.equal(torch.default_generator.get_state(), before)
    for layer, deviation, bias in (("one", 0.03, -7.0), ("two", 0.01, 1.0), ("three", 0.04, 0.0)):
        weight = f"{layer}.weight"
        assert torch.equal(one[weight], same[weight])
        assert not torch.equal(one[weight], other[weight])
        assert one[weight].std().item() == pytest.approx(deviation, rel=0.03)
        assert abs(one[weight].mean().item()) < 0.03 * deviation
        assert one[f"{layer}.bias"].unique().tolist() == [bias]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResponseNorm(4, channels=3, scale=1.0), "expected an odd size"),
        (lambda: LocallyConnected(1, 1, size=2, window=4), "a window that fits"),
        (lambda: LocallyConnected(1, 1, size=4, window=3)(torch.zeros(1, 1, 5, 5)), "every place of 4 × 4"),
        (lambda: Pixels(4)(torch.zeros(1, 3, 8, 8)), r"\(1, 3, 8, 8\): expected \(n, height, width, 3\)"),
        (lambda: Pixels(4)(torch.zeros(1, 8, 3, 3)), "at least 4 × 4 pixels"),
        (lambda: Pixels(4)(torch.zeros(8, 8, 3)), "expected"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
