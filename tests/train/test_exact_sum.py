"""The sum of leaves: against exact fractions, in every order, and on the path of other devices."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch.kernels import exact
from minibatch.train.exact_sum import ExactSum, add_on_device, sum_of
from tests.plain import exact as plain

SINGLE = st.floats(-(2.0**17), 2.0**17, width=32)
DOUBLE = st.floats(-(2.0**17), 2.0**17)


def total_of(gradients: list[torch.Tensor]) -> torch.Tensor:
    parameter = torch.zeros_like(gradients[0], requires_grad=True)
    total = ExactSum({"p": parameter})
    for gradient in gradients:
        parameter.grad = gradient.clone()
        total.add()
    total.finish()
    assert parameter.grad is not None
    return parameter.grad


@settings(max_examples=100, deadline=None)
@given(st.lists(SINGLE, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_single_precision_is_the_rounded_sum_of_fractions_in_any_order(summands, random):
    expected = np.float32(plain.exact_sum(summands, 2))
    for _ in range(3):
        got = total_of([torch.tensor([x], dtype=torch.float32) for x in summands])
        assert got.numpy()[0] == expected
        random.shuffle(summands)


@settings(max_examples=100, deadline=None)
@given(st.lists(DOUBLE, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_double_precision_is_the_rounded_sum_of_fractions_in_any_order(summands, random):
    expected = plain.exact_sum(summands, 3)
    for _ in range(3):
        assert total_of([torch.tensor([x], dtype=torch.float64) for x in summands]).item() == expected
        random.shuffle(summands)


@settings(max_examples=50, deadline=None)
@given(st.lists(DOUBLE, min_size=1, max_size=20), st.sampled_from([2, 3]))
def test_other_devices_add_the_same_bits_as_the_kernels(summands, levels):
    kernel = np.zeros((levels, 1))
    device = torch.zeros(levels, 1, dtype=torch.float64)
    add = exact.add_three if levels == 3 else exact.add_two
    for x in summands:
        add(np.array([x]), kernel)
        add_on_device(torch.tensor([x], dtype=torch.float64), device)
    assert device.numpy().tobytes() == kernel.tobytes()


def test_the_largest_sum_allowed_is_exact():
    step = torch.tensor([2.0**18 - 2.0**-6], dtype=torch.float32)
    gradients = [step] * (exact.MAX_SUMMANDS - 1) + [torch.tensor([2.0**-50])]
    expected = np.float32(plain.exact_sum([float(g) for g in gradients], 2))
    assert total_of(gradients).item() == expected
    assert total_of(gradients[::-1]).item() == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2.0**18, -(2.0**30)])
def test_what_has_no_exact_sum_gives_nan(bad):
    assert math.isnan(total_of([torch.tensor([1.0]), torch.tensor([bad]), torch.tensor([1.0])]).item())


def test_too_many_leaves_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match="larger leaf_size"):
        total_of([torch.tensor([1.0])] * (exact.MAX_SUMMANDS + 1))


def test_a_parameter_without_gradients_keeps_none():
    used, unused = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    total = ExactSum({"used": used, "unused": unused})
    used.grad = torch.ones(2)
    total.add()
    assert used.grad is None
    total.finish()
    assert unused.grad is None
    assert used.grad.tolist() == [1.0, 1.0]
    used.grad, unused.grad = None, torch.ones(2)  # the next step begins anew
    total.add()
    total.finish()
    assert used.grad is None
    assert unused.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients_are_summed_exactly(dtype):
    gradients = [torch.tensor([x], dtype=dtype) for x in (1.0, 2.0**-8, -1.0)]
    assert total_of(gradients).item() == 2.0**-8


def test_a_power_of_two_scales_without_rounding():
    parameter = torch.zeros(1, requires_grad=True)
    total = ExactSum({"p": parameter})
    for gradient in (65536.0 * 3, 65536.0 * 2.0**-20):
        parameter.grad = torch.tensor([gradient])
        total.add(scale=2.0**-16)
    total.finish()
    assert parameter.grad.item() == np.float32(3 + 2.0**-20)


def test_sparse_gradients_are_refused_by_name():
    parameter = torch.zeros(3, 2, requires_grad=True)
    parameter.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 2), (3, 2), check_invariants=True)
    with pytest.raises(ValueError, match="embedding has a sparse one"):
        ExactSum({"embedding": parameter}).add()


def test_host_numbers_are_summed_with_one_rounding():
    assert sum_of([0.1] * 10) == 1.0
    assert math.isnan(sum_of([1e308] * 10))
