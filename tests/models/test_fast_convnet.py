"""The fast network: equal to its plain twin, whitened patches, first weights that are what they should be."""

import numpy as np
import pytest
import torch

from minibatch import rng
from minibatch.models.fast_convnet import FastConvNet, patches_of, scaled, whiten, whitening_filters
from tests.plain import fast_convnet as plain

WIDTHS = (26, 8, 12)


def photographs(count: int, side: int = 32) -> torch.Tensor:
    """Bytes (count, side, side, 3) whose neighbours go together, in different measure in each colour."""
    draws = rng.normal(rng.key(5, "photographs"), np.arange(count * (side + 4) * (side + 4) * 3))
    noise = draws.reshape(count, side + 4, side + 4, 3)
    smooth = sum(noise[:, y : y + side, x : x + side] for y in range(4) for x in range(4)) / 4
    smooth[..., 1] += 0.7 * smooth[..., 0]
    return torch.from_numpy((128 + 40 * smooth).clip(0, 255).astype(np.uint8))


def test_it_equals_its_plain_twin():
    net = FastConvNet(widths=WIDTHS, classes=7, seed=3).double()
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            if parameter.ndim == 1 and parameter.requires_grad:
                parameter.copy_(torch.from_numpy(rng.normal(rng.key(1, "shift", number), np.arange(len(parameter)))))
    images = photographs(3)
    found = net.train()(images).detach().numpy()
    weights = {name: tensor.detach().numpy() for name, tensor in net.state_dict().items()}
    expected = plain.fast_convnet(images.numpy(), weights)
    assert found.shape == (3, 7)
    # Means and deviations of the colours are rounded to float32 in the model.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_bytes_and_numbers_and_other_sizes_are_taken():
    net = FastConvNet(widths=WIDTHS, seed=1).eval()
    images = photographs(2, side=19)
    assert torch.equal(net(images), net(images.float()))
    assert net(photographs(2, side=9)).shape == (2, 10)


def test_first_weights_are_a_function_of_the_seed_and_filters_begin_as_the_identity():
    before = torch.default_generator.get_state()
    a, b, other = (FastConvNet(widths=WIDTHS, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(torch.default_generator.get_state(), before)
    assert all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())
    assert not torch.equal(a.stage1.conv1.weight, other.stage1.conv1.weight)
    for stage in (a.stage1, a.stage2, a.stage3):
        same = min(stage.conv1.in_channels, stage.conv1.out_channels)
        x = torch.from_numpy(rng.normal(rng.key(1, "x"), np.arange(stage.conv1.in_channels * 25))).float()
        x = x.view(1, -1, 5, 5)
        torch.testing.assert_close(stage.conv1(x)[:, :same], x[:, :same])
    assert a.stage1.conv1.weight[24:].abs().min() > 0, "the other two are drawn"


def test_gains_and_whitening_are_not_trained():
    net = FastConvNet(widths=WIDTHS, seed=1)
    fixed = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    gains = {f"stage{i}.norm{j}.weight" for i in (1, 2, 3) for j in (1, 2)}
    assert fixed == {"whitening.weight", *gains}
    assert all(net.get_parameter(name).eq(1).all() for name in gains)


def test_patches_are_those_of_the_plain_loop():
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.float64).view(2, 3, 4, 5)
    np.testing.assert_array_equal(patches_of(images, 2).numpy(), plain.patches(images.numpy(), 2))


def test_whitened_patches_have_mean_square_one_and_nothing_in_common():
    images = photographs(40)
    net = FastConvNet(widths=WIDTHS, seed=1)
    whiten(net, images)
    with torch.no_grad():
        seen = net.whitening(scaled(images, net.mean, net.std)).double()
    outputs = seen.permute(0, 2, 3, 1).reshape(-1, 24)
    torch.testing.assert_close(outputs[:, 12:], -outputs[:, :12])
    products = outputs[:, :12].T @ outputs[:, :12] / len(outputs)
    pixels = plain.patches(scaled(images, net.mean, net.std).double().numpy(), 2)
    values = np.linalg.eigvalsh(pixels.T @ pixels / len(pixels))[::-1]
    expected = np.diag(values / (values + 5e-4))
    np.testing.assert_allclose(products.numpy(), expected, atol=2e-4)
    assert expected.diagonal().min() > 0.5, "no direction of these images is as good as empty"


def test_the_sign_of_a_filter_does_not_depend_on_the_library():
    patches = torch.from_numpy(rng.normal(rng.key(2, "patches"), np.arange(600)).reshape(100, 6))
    rows = whitening_filters(patches, floor=0.0)
    assert (rows.gather(1, rows.abs().argmax(1, keepdim=True)) > 0).all()
    # v Λ^(-1/2): rows W with Wᵀ W the inverse of the second moments.
    moments = patches.T @ patches / 100
    torch.testing.assert_close(rows.T @ rows, torch.linalg.inv(moments))


def test_other_widths_than_three_are_refused():
    with pytest.raises(ValueError, match=r"widths=\(8, 8\): expected the channels of three stages"):
        FastConvNet(widths=(8, 8))
