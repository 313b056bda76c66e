"""cuda-convnet2's two networks: the logits of plain NumPy, the sizes and first weights of the layer files."""

import numpy as np
import pytest
import torch

from minibatch.models.alexnet import AlexNet
from minibatch.models.convnet import ConvNet
from tests.plain import convnet as plain

DRAW = np.random.default_rng(4)


def large_weights(model):
    """The weights by name as NumPy, all of a size that lets something through every layer."""
    model.double().eval()
    model.data.mean.copy_(torch.from_numpy(DRAW.uniform(100, 140, tuple(model.data.mean.shape))))
    for name, parameter in model.named_parameters():
        if name.endswith("weight"):
            fan_in = parameter[0].numel() if "local" not in name else parameter.shape[1]
            drawn = DRAW.normal(size=tuple(parameter.shape)) / np.sqrt(fan_in)
        else:
            drawn = DRAW.normal(size=tuple(parameter.shape))
        parameter.data = torch.from_numpy(drawn)
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("size", [4, 7, 12])
def test_the_cifar_network_is_that_of_the_layer_file(size):
    model = ConvNet(size=size, classes=4, widths=(5, 4, 3, 2))
    weights = large_weights(model)
    images = DRAW.integers(0, 255, (3, size, size, 3)).astype(np.uint8)
    with torch.no_grad():
        found = model(torch.from_numpy(images))
    np.testing.assert_allclose(found, plain.convnet(images.astype(np.float64), weights), rtol=1e-10)
    assert found.std() > 0.1


@pytest.mark.parametrize("size", [36, 64])
def test_the_imagenet_network_is_that_of_the_layer_file(size):
    model = AlexNet(size=size, classes=4, widths=(5, 4, 3, 2, 3), hidden=6)
    weights = large_weights(model)
    images = DRAW.integers(0, 255, (2, size, size, 3)).astype(np.uint8)
    with torch.no_grad():
        found = model(torch.from_numpy(images))
    np.testing.assert_allclose(found, plain.alexnet(images.astype(np.float64), weights), rtol=1e-10)


def test_sizes_and_first_weights_are_those_of_the_files():
    model = ConvNet(seed=1)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    assert shapes["local3.weight"] == (36, 3 * 3 * 64, 64)
    assert shapes["fc10.weight"] == (10, 32 * 36)
    deviations = {name: value.std().item() for name, value in model.named_parameters() if name.endswith("weight")}
    wanted = {"conv1": 0.0001, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01}
    assert deviations == pytest.approx({f"{name}.weight": one for name, one in wanted.items()}, rel=0.05)
    biases = {name: value.unique().tolist() for name, value in model.named_parameters() if name.endswith("bias")}
    assert set(map(tuple, biases.values())) == {(0.0,)}


def test_the_imagenet_network_sees_the_whole_crop_of_224():
    small = AlexNet(size=224, classes=7, widths=(2, 2, 2, 2, 3), hidden=5, seed=1)
    assert small.fc4096a.in_features == 3 * 6 * 6, "224 → 55 → 27 → 13 → 6"
    assert small.fc1000.bias.unique().tolist() == [-7.0]
    assert small.conv2.bias.unique().tolist() == [1.0]
    assert small.conv3.bias.unique().tolist() == [0.0]
    seen = []
    small.conv1.register_forward_hook(lambda module, given, output: seen.append(tuple(output.shape)))
    small.eval()(torch.zeros(1, 224, 224, 3))
    assert seen == [(1, 2, 55, 55)], "with a last window that stands out; torch alone would give 54"


def test_weights_are_a_function_of_the_seed_and_draw_nothing_from_the_global_generator():
    before = torch.default_generator.get_state()
    options = {"size": 36, "classes": 3, "widths": (2, 2, 2, 2, 2), "hidden": 4}
    for make in (lambda seed: ConvNet(size=8, seed=seed), lambda seed: AlexNet(**options, seed=seed)):
        one, same, other = make(7), make(7), make(8)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
        assert not torch.equal(one.conv1.weight, other.conv1.weight)
    assert torch.equal(torch.default_generator.get_state(), before)


@pytest.mark.parametrize("make", [lambda: ConvNet(size=3), lambda: AlexNet(size=35), lambda: AlexNet(size=8)])
def test_a_crop_that_leaves_nothing_is_refused(make):
    with pytest.raises(ValueError, match="expected a crop of at least"):
        make()
