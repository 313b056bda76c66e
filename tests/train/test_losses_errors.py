"""Losses at their limits: huge logits, half precision, empty minibatches, missing targets, and input they refuse."""

import math
import warnings

import numpy as np
import pytest
import torch

from minibatch import Ragged
from minibatch.train import losses
from minibatch.train.losses import (
    Temperature,
    Uncertainty,
    binary_cross_entropy,
    class_weight,
    contrastive,
    contrastive_margin,
    cosine,
    cross_entropy,
    ctc,
    focal,
    gaussian_nll,
    hinge,
    huber,
    kl,
    l1,
    mmd,
    mse,
    multiclass_hinge,
    of_outputs,
    on,
    overshoot,
    sigmoid_focal,
    sum_of_squares,
    uncertain,
)

HUGE = [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, -1e4]]
LABELS = torch.tensor([1, 0, 2])
BITS = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])

# Every loss of n samples as a function of one floating tensor (n, 3), so that all of them can be asked the same.
OF_SCORES = {
    "cross_entropy": lambda z: cross_entropy(z, LABELS[: len(z)], class_weights=[1.0, 2.0, 3.0], label_smoothing=0.1),
    "cross_entropy, clip": lambda z: cross_entropy(z, LABELS[: len(z)], clip=1e-8),
    "cross_entropy, soft": lambda z: cross_entropy(z, BITS[: len(z)] / 2),
    "binary_cross_entropy": lambda z: binary_cross_entropy(z, BITS[: len(z)], pos_weight=[1.0, 2.0, 0.5]),
    "focal": lambda z: focal(z, LABELS[: len(z)], class_weights=[1.0, 2.0, 3.0]),
    "focal, gamma below 1": lambda z: focal(z, LABELS[: len(z)], gamma=0.5),
    "sigmoid_focal": lambda z: sigmoid_focal(z, BITS[: len(z)]),
    "sigmoid_focal, gamma below 1": lambda z: sigmoid_focal(z, BITS[: len(z)], gamma=0.5, class_weights=[0.1, 0.2, 1]),
    "hinge": lambda z: hinge(z, BITS[: len(z)]),
    "multiclass_hinge": lambda z: multiclass_hinge(z, LABELS[: len(z)]),
    "kl": lambda z: kl(z, BITS[: len(z)] / 2),
    "kl, theanets": lambda z: kl(z, BITS[: len(z)] / 2, clip=1e-8, absolute=True, reduce="mean"),
    "mse": lambda z: mse(z, BITS[: len(z)]),
    "l1": lambda z: l1(z, BITS[: len(z)]),
    "huber": lambda z: huber(z, BITS[: len(z)]),
    "overshoot": lambda z: overshoot(z, BITS[: len(z)]),
    "sum_of_squares": lambda z: sum_of_squares(z),
    "cosine": lambda z: cosine(z, BITS[: len(z)] + 1),
    "gaussian_nll": lambda z: gaussian_nll(z, torch.full((len(z), 1), 1e-9), BITS[: len(z)], eps=0.01),
    "gaussian_nll, absolute": lambda z: gaussian_nll(BITS[: len(z)], z, BITS[: len(z)], given="absolute", eps=1e-3),
    "mmd": lambda z: mmd(z, BITS[: len(z)]),
    "contrastive": lambda z: contrastive(z, BITS[: len(z)], temperature=0.01),
    "contrastive, not normalized": lambda z: contrastive(z, BITS[: len(z)], normalize=False),
    "contrastive_margin": lambda z: contrastive_margin(z, BITS[: len(z)]),
    "ctc": lambda z: ctc(z[:, :, None] * torch.tensor([1.0, 0.5, -1.0]), torch.ones(len(z), 2, dtype=torch.int64)),
}


@pytest.mark.parametrize("name", OF_SCORES)
def test_huge_scores_give_finite_values_and_gradients(name):
    z = torch.tensor(HUGE, requires_grad=True)
    values = OF_SCORES[name](z)
    assert values.shape == (3,)
    values.sum().backward()
    assert torch.isfinite(values).all(), values
    assert torch.isfinite(z.grad).all(), z.grad


@pytest.mark.parametrize("name", OF_SCORES)
def test_huge_scores_give_the_values_of_double_precision(name):
    exact = OF_SCORES[name](torch.tensor(HUGE, dtype=torch.float64)).double()
    assert torch.allclose(OF_SCORES[name](torch.tensor(HUGE)).double(), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", OF_SCORES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    z = torch.tensor([[1.5, -2.0, 0.25], [0.5, 3.0, -1.0], [2.0, -0.5, 1.0]])  # exact in both
    half = z.to(dtype).requires_grad_()
    values = OF_SCORES[name](half)
    assert values.dtype == torch.float32
    assert torch.allclose(values, OF_SCORES[name](z), rtol=1e-6, atol=1e-6)
    values.sum().backward()
    assert half.grad.dtype == dtype
    assert torch.isfinite(half.grad).all()


@pytest.mark.parametrize("name", ["mmd", "contrastive", "contrastive_margin"])
def test_products_keep_their_precision_under_autocast(name):
    z = torch.tensor([[1.1, -2.3, 0.7], [0.5, 3.3, -1.9], [2.2, -0.4, 1.6]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = OF_SCORES[name](z)
    assert torch.equal(inside, OF_SCORES[name](z))


@pytest.mark.parametrize("name", OF_SCORES)
def test_an_empty_minibatch_gives_no_values(name):
    z = torch.zeros(0, 3, requires_grad=True)
    values = OF_SCORES[name](z)
    assert values.shape == (0,)
    values.sum().backward()


@pytest.mark.parametrize(
    ("loss", "missing", "targets"),
    [
        (mse, math.nan, torch.tensor([[1.0, math.nan, 2.0]])),
        (l1, math.nan, torch.tensor([[1.0, math.nan, 2.0]])),
        (huber, -1, torch.tensor([[1, -1, 2]])),
        (overshoot, math.nan, torch.tensor([[1.0, math.nan, -2.0]], dtype=torch.float64)),
        (binary_cross_entropy, -1, torch.tensor([[1, -1, 0]])),
        (binary_cross_entropy, math.nan, torch.tensor([[1, math.nan, 0]])),
        (sigmoid_focal, -1, torch.tensor([[1, -1, 0]], dtype=torch.int8)),
        (hinge, math.nan, torch.tensor([[1, math.nan, 0]])),
        (lambda z, t, **o: gaussian_nll(z, z.abs() + 1, t, **o), math.nan, torch.tensor([[1, math.nan, 0]])),
    ],
)
def test_missing_targets_have_no_loss_and_no_gradient(loss, missing, targets):
    z = torch.tensor([[0.5, 0.3, 1.0]], requires_grad=True)
    values = loss(z, targets, missing=missing, reduce="none")
    values.sum().backward()
    assert values[0, 1] == 0.0
    assert z.grad[0, 1] == 0.0
    assert torch.isfinite(z.grad).all()
    assert (z.grad[0, [0, 2]] != 0).any()
    whole = loss(z.detach()[:, [0, 2]], targets[:, [0, 2]], reduce="none")
    assert torch.allclose(values.detach()[:, [0, 2]], whole)


@pytest.mark.parametrize("loss", [mse, l1, huber, overshoot])
def test_missing_targets_of_less_precision_have_no_loss_either(loss):
    z = torch.tensor([0.1], dtype=torch.float64, requires_grad=True)  # its float32 is another number
    value = loss(z, torch.tensor([math.nan]), missing=math.nan)
    value.sum().backward()
    assert (value.item(), z.grad.item()) == (0.0, 0.0)


@pytest.mark.parametrize("loss", [cross_entropy, focal, multiclass_hinge])
def test_missing_labels_have_no_loss_and_no_gradient(loss):
    z = torch.tensor(HUGE, requires_grad=True)
    values = loss(z, torch.tensor([-7, 0, 2]), missing=-7)
    values.sum().backward()
    assert values[0] == 0.0
    assert (z.grad[0] == 0).all()
    assert torch.equal(values[1:], loss(z, torch.tensor([1, 0, 2]))[1:])


@pytest.mark.parametrize("loss", [cross_entropy, focal, multiclass_hinge, lambda *a: cross_entropy(*a, clip=1e-8)])
@pytest.mark.parametrize("label", [3, -1, -100])
def test_labels_out_of_range_are_named_with_the_range(loss, label):
    with pytest.raises(ValueError, match=rf"labels \[{label}\] in samples \[1\].*3 classes.*0 to 2"):
        loss(torch.tensor(HUGE), torch.tensor([0, label, 2]))


def test_a_label_that_is_neither_class_nor_missing_is_out_of_range():
    with pytest.raises(ValueError, match=r"labels \[5\].*missing=-1"):
        cross_entropy(torch.tensor(HUGE), torch.tensor([-1, 5, 2]), missing=-1)


@pytest.mark.parametrize("loss", [binary_cross_entropy, sigmoid_focal])
def test_binary_targets_out_of_range_are_refused(loss):
    with pytest.raises(ValueError, match=r"targets from -1 to 2.*0 to 1.*missing="):
        loss(torch.zeros(1, 3), torch.tensor([[-1, 0, 2]]))


ELEMENTWISE = (mse, l1, huber, overshoot, binary_cross_entropy, sigmoid_focal, hinge)


@pytest.mark.parametrize("loss", [*ELEMENTWISE, cosine, kl, mmd, contrastive, contrastive_margin])
def test_shapes_that_would_broadcast_are_refused(loss):
    for wrong in (torch.zeros(6), torch.zeros(6, 2), torch.zeros(1, 1)):
        with pytest.raises(ValueError, match=r"float32 \(6, 1\).*float32 \("):
            loss(torch.zeros(6, 1), wrong)


@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_reductions_have_names(loss):
    with pytest.raises(ValueError, match=r"'median'.*'mean', 'sum' or 'none'"):
        loss(torch.zeros(2, 1), torch.zeros(2, 1), reduce="median")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: focal(torch.zeros(2, 3), torch.zeros(2)), r"focal needs.*integer labels.*float32 \(2,\)"),
        (lambda: focal(torch.zeros(2, 1), torch.tensor([0, 0])), "two classes or more"),
        (lambda: focal(torch.zeros(2, 3), torch.tensor([0, 0]), gamma=-1.0), "gamma=-1.0"),
        (lambda: focal(torch.zeros(2, 3), torch.tensor([0, 0]), class_weights=[1.0]), "1 numbers.*3 classes"),
        (lambda: sigmoid_focal(torch.zeros(2, 3), torch.zeros(2, 3), class_weights=1.5), "from 0 to 1"),
        (lambda: sigmoid_focal(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, 1)), r"\(2, 3, 1\)"),
        (lambda: binary_cross_entropy(torch.zeros(2), torch.zeros(2), pos_weight=[1.0, 2.0]), "one number per label"),
        (lambda: binary_cross_entropy(torch.zeros(2, 1), torch.zeros(2, 1), label_smoothing=2.0), "label_smoothing=2"),
        (lambda: cross_entropy(torch.zeros(2, 3), torch.zeros(2, 2)), r"float32 \(2, 3\) and float32 \(2, 2\)"),
        (lambda: cross_entropy(torch.zeros(2, 3), torch.tensor([0, 0]), clip=2.0), "clip=2.0"),
        (lambda: cross_entropy(torch.zeros(2, 3), torch.tensor([0, 0]), clip=0.1, label_smoothing=0.1), "together"),
        (lambda: cross_entropy(torch.zeros(2, 3), torch.tensor([0, 0]), label_smoothing=1.1), "label_smoothing=1.1"),
        (lambda: cross_entropy(torch.zeros(2, 3), torch.tensor([0, 0]), class_weights=[1.0, -1, 1]), "finite and ≥ 0"),
        (lambda: class_weight("y", [0.0, 0.0], normalize=True), "all 0"),
        (lambda: multiclass_hinge(torch.zeros(2, 3), torch.tensor([0, 0]), over_classes="min"), "'min'"),
        (lambda: kl(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64)), r"probabilities.*int64 \(2, 3\)"),
        (lambda: kl(torch.zeros(2, 3), torch.zeros(2, 3), clip=0.7), "clip=0.7"),
        (lambda: gaussian_nll(torch.zeros(2, 3), torch.ones(2), torch.zeros(2, 3)), r"\(2, 3\) and float32 \(2,\)"),
        (lambda: gaussian_nll(torch.zeros(2), -torch.ones(2), torch.zeros(2)), "variance of -1.*log_variance"),
        (lambda: gaussian_nll(torch.zeros(2), torch.ones(2), torch.zeros(2), given="std"), "'std'"),
        (lambda: gaussian_nll(torch.zeros(2), torch.ones(2), torch.zeros(2), eps=-1), "eps=-1"),
        (lambda: mmd(torch.zeros(2), torch.zeros(2)), r"vectors \(n, size\)"),
        (lambda: mmd(torch.zeros(2, 1), torch.zeros(2, 1), bandwidths=()), r"bandwidths=\(\)"),
        (lambda: mmd(torch.zeros(2, 1), torch.zeros(2, 1), mask=torch.ones(3)), r"\(3,\), expected \(2,\)"),
        (lambda: cosine(torch.zeros(2), torch.zeros(2)), r"vectors \(n, size\)"),
        (lambda: sum_of_squares(torch.tensor(1.0)), r"\(n, …\)"),
        (lambda: contrastive(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3)), r"keys have shape \(3,\)"),
        (lambda: contrastive(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0.0), "temperature=0.0"),
        (lambda: contrastive(torch.zeros(2, 3), torch.zeros(2, 3), temperature=torch.ones(3)), r"\(3,\), expected"),
        (lambda: contrastive(torch.zeros(2), torch.zeros(2)), "two towers"),
        (lambda: contrastive_margin(torch.zeros(2, 1), torch.zeros(2, 1), negatives="all"), "'all'"),
        (lambda: Temperature(0.001), "least ≤ initial"),
        (lambda: ctc(torch.zeros(2, 3), torch.ones(2, 1)), r"logits \(n, time, classes\)"),
        (lambda: ctc(torch.zeros(2, 3, 4), torch.ones(2, 1)), "integer targets"),
        (lambda: ctc(torch.zeros(2, 3, 4), torch.tensor([[1]])), r"n = 2.*int64 \(1, 1\)"),
        (lambda: ctc(torch.zeros(2, 3, 4), torch.tensor([[1], [4]])), r"labels \[4\].*0 to 3"),
        (lambda: ctc(torch.zeros(2, 3, 4), torch.tensor([[1], [0]])), "blank, 0.*target_lengths"),
        (lambda: ctc(torch.zeros(2, 3, 4), torch.tensor([[1], [1]]), blank=4), "blank=4"),
        (lambda: ctc(torch.zeros(2, 3, 4), torch.tensor([[1], [1]]), target_lengths=torch.tensor([1, 2])), "0 to 1"),
        (lambda: ctc(torch.zeros(2, 3, 4), torch.tensor([[1], [1]]), input_lengths=[3]), r"int64 \(1,\)"),
        (lambda: ctc(torch.zeros(2, 3, 4), Ragged.of([np.array([1])])), "Ragged of 2"),
        (lambda: Uncertainty([]), "names of tasks"),
        (lambda: Uncertainty(["a"]).log_variance("b"), "no task 'b'.* a"),
        (lambda: uncertain(on(mse, "y"), Uncertainty(["a"]), "b"), "no task 'b'"),
        (lambda: uncertain(on(mse, "y"), Uncertainty(["a"]), "a", kind="other"), "'other'"),
        (lambda: uncertain(on(mse, "y"), of_outputs("s"), "a")({"s": torch.zeros(2)}, {}), "no output|y"),
        (lambda: on(mse, "y", output="missing")({"there": torch.zeros(1)}, {"y": 0}), r"'missing'.*there: float32"),
        (lambda: on(mse, "y", output=2)((torch.zeros(1),), {"y": 0}), r"no output 2.*float32 \(1,\)"),
        (lambda: on(mse, "y", output="z")(torch.zeros(1), {"y": 0}), r"no output 'z'.*float32 \(1,\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_shapes_or_values(call, message):
    with pytest.raises((ValueError, KeyError), match=message):
        call()


def test_a_loss_must_be_a_function():
    with pytest.raises(TypeError, match="function"):
        uncertain(3, Uncertainty(["a"]), "a")


def test_class_weights_made_during_validation_serve_training():
    weights = [0.125, 7.0, 3.0]  # of no other test: kept from the first use on
    with torch.inference_mode():
        cross_entropy(torch.zeros(1, 3), torch.tensor([0]), class_weights=weights)
    z = torch.zeros(1, 3, requires_grad=True)
    cross_entropy(z, torch.tensor([1]), class_weights=weights).sum().backward()
    assert z.grad[0, 0] == pytest.approx(7.0 / 3)


def test_no_loss_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for loss in OF_SCORES.values():
            loss(torch.tensor(HUGE, requires_grad=True)).sum().backward()


def test_a_ctc_sample_that_cannot_be_written_is_infinite_or_left_out():
    z = torch.zeros(2, 1, 3, requires_grad=True)
    targets = torch.tensor([[1, 2], [1, 1]])
    lengths = torch.tensor([2, 1])
    assert torch.isinf(ctc(z, targets, target_lengths=lengths)).tolist() == [True, False]
    values = ctc(z, targets, target_lengths=lengths, zero_infinity=True)
    values.sum().backward()
    assert values[0] == 0.0
    assert (z.grad[0] == 0).all()
    assert (z.grad[1] != 0).any()


def test_every_public_name_is_a_loss_or_listed_here():
    others = {"Reduce", "Compared", "ClassWeight", "Present", "OfBatch", "OfOutputs", "Uncertain", "Uncertainty"}
    capital = {name for name in vars(losses) if name[0].isupper()}
    assert capital == others | {"Temperature"}
