"""Pooling with places and unpooling: torch's values and gradients, by nothing that is not deterministic."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from minibatch.models.unpooling import MaxPool, Unpool
from tests.plain import unpooling as plain

# Few different numbers, so that windows have ties; with both infinities.
VALUES = st.sampled_from([0.0, 1.0, -2.5, 3.0, float("inf"), float("-inf")])


def images_of(shape, *, seed=0, levels=None):
    draw = np.random.default_rng(seed)
    return torch.tensor(draw.integers(0, levels, shape) if levels else draw.normal(size=shape), dtype=torch.float64)


def in_plane(places, window):
    """Places in windows as torch counts them, in the plane of h · w pixels."""
    h, w = places.shape[2:]
    rows = torch.arange(h)[:, None] * window + places // window
    columns = torch.arange(w) * window + places % window
    return rows * w * window + columns


@given(st.integers(1, 3), st.data())
def test_both_are_their_plain_twins_ties_and_infinities_included(window, data):
    shape = tuple(data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.integers(1, 3))))
    count = int(np.prod(shape)) * window * window
    numbers = np.array(data.draw(st.lists(VALUES, min_size=count, max_size=count)))
    images = numbers.reshape(*shape[:2], shape[2] * window, shape[3] * window)
    maxima, places = MaxPool(window)(torch.tensor(images))
    expected, expected_places = plain.max_pool(images, window)
    assert maxima.numpy().tolist() == expected.tolist()
    assert places.tolist() == expected_places.tolist()
    assert Unpool(window)(maxima, places).tolist() == plain.unpool(expected, expected_places, window).tolist()


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("window", [1, 2, 4])
def test_values_and_gradients_are_those_of_torch(window, levels):
    images = images_of((3, 2, 8, 12), levels=levels).requires_grad_()
    maxima, places = MaxPool(window)(images)
    theirs, indices = F.max_pool2d(images, window, return_indices=True)
    assert torch.equal(maxima, theirs)
    assert torch.equal(in_plane(places, window), indices)
    back = Unpool(window)(maxima, places)
    assert torch.equal(back, F.max_unpool2d(theirs, indices, window))
    seed = images_of(back.shape, seed=1)
    ours = torch.autograd.grad(back, images, seed, retain_graph=True)[0]
    assert torch.equal(ours, torch.autograd.grad(F.max_unpool2d(theirs, indices, window), images, seed)[0])
    assert ours.any()


def test_gradients_are_those_of_finite_differences():
    images = images_of((2, 2, 4, 6)).requires_grad_()
    assert torch.autograd.gradcheck(MaxPool(2), (images,))  # of the maxima: places are integers
    places = MaxPool(2)(images)[1]
    values = images_of((2, 2, 2, 3), seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: Unpool(2)(values, places), (values,))
    assert torch.autograd.gradgradcheck(lambda images: MaxPool(2)(images)[0].square(), (images,))


def test_nothing_is_refused_under_deterministic_algorithms_where_torch_refuses_its_own():
    images = images_of((2, 3, 8, 8)).requires_grad_()
    maxima, indices = F.max_pool2d(images, 2, return_indices=True)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="deterministic"):
            F.max_unpool2d(maxima, indices, 2)
        Unpool(2)(*MaxPool(2)(images)).square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(before)
    assert int((images.grad != 0).sum()) == maxima.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_and_layouts_are_kept(dtype):
    images = images_of((2, 3, 8, 8)).to(dtype)
    maxima, places = MaxPool(4)(images)
    assert (maxima.dtype, places.dtype) == (dtype, torch.int64)
    other, _ = MaxPool(4)(images.to(memory_format=torch.channels_last))
    assert torch.equal(maxima, other)
    assert Unpool(4)(maxima, places).dtype == dtype


def test_a_window_with_a_nan_gives_nan_as_in_torch():
    images = images_of((1, 1, 4, 4))
    images[0, 0, 1, 2] = float("nan")
    assert torch.equal(MaxPool(2)(images)[0].isnan(), F.max_pool2d(images, 2).isnan())


@pytest.mark.parametrize("layer", [MaxPool, Unpool])
def test_windows_that_overlap_or_are_none_are_refused(layer):
    with pytest.raises(ValueError, match=r"window=3, stride=2.*side by side \(stride 3\)"):
        layer(3, stride=2)
    with pytest.raises(ValueError, match="window=0"):
        layer(0)
    assert layer(3, stride=3).window == 3


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"2 × 2 needs images .* multiples of 2, got \(1, 1, 5, 4\)"):
        MaxPool(2)(torch.zeros(1, 1, 5, 4))
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        MaxPool(2)(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="one shape"):
        Unpool(2)(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3, dtype=torch.int64))
