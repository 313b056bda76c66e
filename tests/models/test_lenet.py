"""LeNet: layer by layer the function of the paper's figure, and MindSpore's first weights."""

import numpy as np
import pytest
import torch

from minibatch.models.init import RULES
from minibatch.models.lenet import LeNet


def plain(model, image):
    """The logits of one image (32, 32), in loops over NumPy arrays."""
    weights = [p.detach().numpy().astype(np.float64) for p in model.parameters()]
    maps = image.numpy().astype(np.float64)[None]
    for kernel, bias in (weights[0:2], weights[2:4]):
        windows = np.lib.stride_tricks.sliding_window_view(maps, (5, 5), axis=(1, 2))
        maps = np.maximum(np.einsum("chwij,ocij->ohw", windows, kernel) + bias[:, None, None], 0)
        count, height, width = maps.shape
        maps = maps.reshape(count, height // 2, 2, width // 2, 2).max((2, 4))
    assert maps.shape == (16, 5, 5)
    units = maps.reshape(-1)
    for place in (4, 6, 8):
        units = weights[place] @ units + weights[place + 1]
        units = np.maximum(units, 0) if place < 8 else units
    return units


def test_the_logits_are_those_of_a_plain_twin():
    model = LeNet(init="he_normal", seed=3)
    images = torch.linspace(-1, 1, 2 * 32 * 32).reshape(2, 32, 32).sin()
    found = model(images).detach().numpy()
    assert found == pytest.approx(np.stack([plain(model, image) for image in images]), abs=1e-5)
    assert torch.equal(model(images[:, None]), model(images))


def test_the_first_weights_are_mindspores():
    model = LeNet(seed=5)
    deviations = [p.std().item() for p in model.parameters() if p.ndim > 1]
    assert deviations == pytest.approx([0.01, 0.01, 0.02, 0.02, 0.02], rel=0.15)
    assert all(not p.any() for p in model.parameters() if p.ndim == 1)
    same, other = LeNet(seed=5), LeNet(seed=6)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, same.get_parameter(name))
    assert not torch.equal(next(model.parameters()), next(other.parameters()))


def test_no_number_is_drawn_from_torchs_generator():
    before = torch.get_rng_state()
    for init in ("mindspore", *RULES):
        LeNet(init=init)
    assert torch.equal(before, torch.get_rng_state())


def test_sizes_and_names_are_checked():
    assert LeNet(classes=3, channels=2)(torch.zeros(4, 2, 32, 32)).shape == (4, 3)
    with pytest.raises(ValueError, match=r"images of 32 × 32 pixels, got .*28, 28.*resize them"):
        LeNet()(torch.zeros(1, 28, 28))
    with pytest.raises(ValueError, match="init='xavier' is not known; one of mindspore, he_normal"):
        LeNet(init="xavier")
    with pytest.raises(ValueError, match="classes=0"):
        LeNet(classes=0)
