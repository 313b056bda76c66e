"""ROI pooling against its plain twin: values, gradients, ties, regions beyond the image; equal bits on every run."""

import numpy as np
import pytest
import torch

from minibatch import rng
from minibatch.models.roi_pooling import exponents, roi_pool
from tests.plain import roi_pooling as plain

N, C, H, W, R = 2, 3, 11, 14, 9


def numbers(*shape, salt=0):
    return rng.uniform(rng.key(3, "test", salt), np.arange(np.prod(shape))).reshape(shape)


def regions(salt=0, *, beyond=0.0, n=N, r=R, height=H * 8, width=W * 8):
    """Regions in pixels, some of them tiny, some reaching out of the image by the share `beyond`."""
    low = (numbers(n, r, 2, salt=salt) * (1 + 2 * beyond) - beyond) * [width, height]
    sides = numbers(n, r, 2, salt=salt + 1) ** 2 * [width, height]
    most = np.array([width, height]) * (1 + beyond)
    return np.concatenate([low, np.minimum(low + sides, most)], -1).astype(np.float32)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 5), (7, 7), (16, 2)])
@pytest.mark.parametrize("beyond", [0.0, 0.4])
@pytest.mark.parametrize("ties", [False, True])
def test_values_and_gradients_are_those_of_the_plain_twin(size, beyond, ties):
    features = numbers(N, C, H, W, salt=9)
    if ties:  # as behind a ReLU
        features = np.floor(4 * features) - 1
    rois = regions(beyond=beyond)
    given = torch.tensor(features, requires_grad=True)
    pooled = roi_pool(given, torch.tensor(rois), size=size, scale=1 / 8)
    values, cells = plain.roi_pool(features, rois, size, 1 / 8)
    np.testing.assert_array_equal(pooled.detach().numpy(), values)
    with torch.no_grad():
        assert torch.equal(roi_pool(given, torch.tensor(rois), size=size, scale=1 / 8), pooled)
    weights = numbers(*values.shape, salt=5)
    pooled.backward(torch.tensor(weights))
    np.testing.assert_allclose(given.grad.numpy(), plain.gradient(features.shape, cells, weights), rtol=1e-12)


def test_halves_are_rounded_up_and_both_corners_belong_to_a_region():
    features = torch.arange(8.0).view(1, 1, 1, 8)
    for right, largest in ((11.9, 1.0), (12.0, 2.0), (20.0, 3.0)):  # torch.round(2.5) is 2
        rois = torch.tensor([[[0.0, 0.0, right, 0.0]]])
        assert roi_pool(features, rois, size=(1, 1), scale=1 / 8).item() == largest


def test_the_gradient_is_the_derivative():
    features = torch.tensor(numbers(N, 1, 5, 6, salt=9), requires_grad=True)
    rois = torch.tensor(regions(height=40, width=48))
    assert torch.autograd.gradcheck(lambda x: roi_pool(x, rois, size=(3, 2), scale=1 / 8), (features,))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_gradient_has_equal_bits_on_every_run(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    features = torch.tensor(numbers(4, 32, 30, 40, salt=9), dtype=torch.float32, device=device, requires_grad=True)
    rois = torch.tensor(regions(n=4, r=60, height=240, width=320), device=device)
    weights = torch.tensor(numbers(4, 60, 32, 5, 5), dtype=torch.float32, device=device)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        gradients = []
        for _ in range(3):
            pooled = roi_pool(features, rois, size=(5, 5), scale=1 / 8)
            gradients.append(torch.autograd.grad(pooled, features, weights)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    # A sample's gradient does not depend on its company.
    alone = roi_pool(features[1:2], rois[1:2], size=(5, 5), scale=1 / 8)
    assert torch.equal(torch.autograd.grad(alone, features, weights[1:2])[0][1], gradients[0][1])


def test_it_is_torchvisions_where_that_is_installed():
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    features = torch.tensor(numbers(N, C, H, W, salt=9), dtype=torch.float32, requires_grad=True)
    rois = torch.tensor(regions(beyond=0.2))
    size = (4, 8)  # powers of two, whose bin boundaries floats have exactly
    pooled = roi_pool(features, rois, size=size, scale=1 / 8)
    theirs = ops.roi_pool(features, list(rois), size, 1 / 8).view_as(pooled)
    assert torch.equal(pooled, theirs)
    weights = torch.tensor(numbers(*pooled.shape, salt=5), dtype=torch.float32)
    ours, other = (torch.autograd.grad(each, features, weights)[0] for each in (pooled, theirs))
    torch.testing.assert_close(ours, other)


def test_exponents_are_whole_logarithms():
    counts = torch.arange(1, 3000)
    assert exponents(counts).tolist() == [int(count).bit_length() - 1 for count in counts]


@pytest.mark.parametrize("rois", [torch.zeros(2, 4), torch.zeros(1, 5, 4), torch.zeros(2, 5, 5)])
def test_shapes_that_do_not_fit_are_refused(rois):
    with pytest.raises(ValueError, match=r"needs features \(n, c, h, w\) and rois \(n, r, 4\)"):
        roi_pool(torch.zeros(2, 3, 4, 4), rois, size=(1, 1), scale=1.0)


def test_no_regions_are_no_bins():
    features = torch.zeros(2, 3, 4, 4, requires_grad=True)
    pooled = roi_pool(features, torch.zeros(2, 0, 4), size=(2, 2), scale=1.0)
    assert pooled.shape == (2, 0, 3, 2, 2)
    pooled.sum().backward()
    assert not features.grad.any()
