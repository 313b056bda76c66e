"""Every loss equals its plain twin, in value and in gradient, for any shapes and options; twins know no torch."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minibatch.train import losses
from tests.plain import losses as plain

SHAPES = [(), (1,), (3,), (2, 3)]


def pick(draw, *choices):
    return choices[int(draw.integers(len(choices)))]


def shape(draw):
    return (int(draw.integers(1, 5)), *pick(draw, *SHAPES))


def reduce(draw):
    return pick(draw, "mean", "sum", "none")


def regression(draw):
    """Outputs, targets and options; of some targets nothing is known."""
    size = shape(draw)
    targets = draw.normal(size=size)
    options = {"reduce": reduce(draw)}
    if pick(draw, True, False):
        targets[draw.uniform(size=size) < 0.3] = np.nan
        options["missing"] = float("nan")
    return [draw.normal(size=size)], [targets], options


def huber(draw):
    inputs, fixed, options = regression(draw)
    return inputs, fixed, {**options, "beta": pick(draw, 0.11, 1.0, 3.0)}


def class_weights(draw, classes):
    return {
        "class_weights": pick(draw, None, draw.uniform(0.1, 3.0, size=classes).tolist()),
        "normalize": bool(pick(draw, True, False)),
    }


def labelled(draw):
    """Scores (n, classes, …) and labels (n, …), some of them -1 with missing=-1."""
    n, *rest = shape(draw)
    classes = int(draw.integers(2, 6))
    labels = draw.integers(classes, size=(n, *rest))
    options = {}
    if pick(draw, True, False):
        labels[draw.uniform(size=labels.shape) < 0.3] = -1
        options["missing"] = -1
    return [2.0 * draw.normal(size=(n, classes, *rest))], [labels], options


def cross_entropy(draw):
    inputs, fixed, options = labelled(draw)
    weights = class_weights(draw, inputs[0].shape[1])
    if weights["class_weights"] is not None:
        options |= weights
    return inputs, fixed, {**options, **pick(draw, {}, {"label_smoothing": 0.1}, {"clip": 0.2})}


def soft_cross_entropy(draw):
    inputs, _, options = cross_entropy(draw)
    options.pop("missing", None)
    return inputs, [draw.uniform(size=inputs[0].shape)], options


def focal(draw):
    inputs, fixed, options = labelled(draw)
    weights = class_weights(draw, inputs[0].shape[1])
    if weights["class_weights"] is not None:
        options |= weights
    return inputs, fixed, {**options, "gamma": pick(draw, 0.0, 0.5, 1.0, 2.0, 5.0)}


def binary(draw):
    size = shape(draw)
    targets = pick(draw, draw.uniform(size=size), (draw.uniform(size=size) < 0.5).astype(np.float64))
    options = {"reduce": reduce(draw)}
    if pick(draw, True, False):
        targets[draw.uniform(size=size) < 0.3] = -1.0
        options["missing"] = -1.0
    return [2.0 * draw.normal(size=size)], [targets], options


def per_label(draw, size, most):
    one = float(draw.uniform(0.1, most))
    return pick(draw, None, one, draw.uniform(0.1, most, size=size[1]).tolist() if len(size) > 1 else one)


def binary_cross_entropy(draw):
    inputs, fixed, options = binary(draw)
    pos_weight = per_label(draw, inputs[0].shape, 4.0)
    return inputs, fixed, {**options, "pos_weight": pos_weight, "label_smoothing": pick(draw, 0.0, 0.2)}


def sigmoid_focal(draw):
    inputs, fixed, options = binary(draw)
    weights = per_label(draw, inputs[0].shape, 1.0)
    return inputs, fixed, {**options, "class_weights": weights, "gamma": pick(draw, 0.0, 0.5, 2.0)}


def hinge(draw):
    inputs, fixed, options = binary(draw)
    fixed = [np.where(fixed[0] == -1.0, -1.0, np.round(fixed[0]))]
    options.pop("missing", None)  # -1 is the other class here
    return inputs, fixed, {**options, "margin": pick(draw, 0.5, 1.0), "squared": pick(draw, True, False)}


def multiclass_hinge(draw):
    inputs, fixed, options = labelled(draw)
    options |= {"margin": pick(draw, 0.0, 1.0), "squared": pick(draw, True, False)}
    return inputs, fixed, {**options, "over_classes": pick(draw, "max", "sum", "mean")}


def kl(draw):
    n, *rest = shape(draw)
    size = (n, int(draw.integers(2, 6)), *rest)
    targets = draw.uniform(size=size)
    targets[draw.uniform(size=size) < 0.2] = 0.0
    targets /= targets.sum(1, keepdims=True) + 1e-300
    options = {"absolute": pick(draw, True, False), "clip": pick(draw, None, 1e-8, 0.1), "reduce": reduce(draw)}
    return [draw.normal(size=size)], [targets], options


def gaussian_nll(draw):
    (mean,), (targets,), options = regression(draw)
    size = mean.shape
    spread = pick(draw, size, (size[0], *[1] * (len(size) - 1)))
    given = pick(draw, "variance", "log_variance", "absolute")
    variance = draw.uniform(0.2, 2.0, size=spread) if given == "variance" else draw.normal(size=spread) + 0.01
    return [mean, variance], [targets], {**options, "given": given, "full": pick(draw, True, False), "eps": 1e-3}


def towers(draw):
    n = int(draw.integers(1, 6))
    size = (n, int(draw.integers(1, 4)))
    options = {
        "keys": pick(draw, None, draw.integers(3, size=n)),
        "mask": pick(draw, None, draw.uniform(size=n) < 0.7),
        "normalize": pick(draw, True, False) if size[1] > 1 else False,
        "symmetric": pick(draw, True, False),
    }
    return [draw.normal(size=size), draw.normal(size=size)], [], options


def contrastive(draw):
    inputs, fixed, options = towers(draw)
    return inputs, fixed, {**options, "temperature": pick(draw, 0.3, 1.0)}


def contrastive_margin(draw):
    inputs, fixed, options = towers(draw)
    return inputs, fixed, {**options, "margin": 0.7, "negatives": pick(draw, "max", "sum", "mean")}


def mmd(draw):
    size = (int(draw.integers(1, 6)), *pick(draw, (1,), (3,), (2, 2)))
    options = {
        "bandwidths": pick(draw, (1.0,), (0.5, 2.0, 8.0)),
        "unbiased": pick(draw, True, False),
        "mask": pick(draw, None, draw.uniform(size=size[0]) < 0.7),
    }
    return [draw.normal(size=size), draw.normal(size=size) + 1.0], [], options


def ctc(draw):
    n, steps, classes = int(draw.integers(1, 3)), int(draw.integers(3, 5)), int(draw.integers(2, 4))
    blank = int(draw.integers(classes))
    others = [c for c in range(classes) if c != blank]
    lengths = draw.integers(0, 3, size=n)
    targets = draw.choice(others, size=(n, 2))
    targets[:, 1] = np.where((lengths == 2) & (targets[:, 0] == targets[:, 1]) & (steps < 3), blank, targets[:, 1])
    used = np.maximum(draw.integers(0, steps + 1, size=n), 2 * lengths - 1)
    options = {"input_lengths": used, "target_lengths": lengths, "blank": blank, "per_label": pick(draw, True, False)}
    return [draw.normal(size=(n, steps, classes))], [targets], options


def single(draw):
    return [draw.normal(size=shape(draw))], [], {"reduce": reduce(draw)}


def vectors(draw):
    size = (int(draw.integers(1, 5)), *pick(draw, (2,), (5,), (2, 3)))
    return [draw.normal(size=size), draw.normal(size=size)], [], {}


CASES = {
    "mse": regression,
    "l1": regression,
    "huber": huber,
    "overshoot": regression,
    "sum_of_squares": single,
    "cosine": vectors,
    "cross_entropy": cross_entropy,
    "soft cross_entropy": soft_cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "focal": focal,
    "sigmoid_focal": sigmoid_focal,
    "hinge": hinge,
    "multiclass_hinge": multiclass_hinge,
    "kl": kl,
    "gaussian_nll": gaussian_nll,
    "mmd": mmd,
    "contrastive": contrastive,
    "contrastive_margin": contrastive_margin,
    "ctc": ctc,
}


def as_torch(value):
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=0)
def test_values_and_gradients_are_those_of_the_twin(name, seed):
    draw = np.random.default_rng(seed)
    inputs, fixed, options = CASES[name](draw)
    function = name.split()[-1]
    ours, twin = getattr(losses, function), getattr(plain, function)
    tensors = [torch.from_numpy(array).requires_grad_() for array in inputs]
    rest = [torch.from_numpy(array) for array in fixed]
    values = ours(*tensors, *rest, **{option: as_torch(value) for option, value in options.items()})
    expected = twin(*inputs, *fixed, **options)
    assert values.dtype == torch.float64
    assert values.shape == expected.shape
    np.testing.assert_allclose(values.detach().numpy(), expected, rtol=1e-9, atol=1e-12)

    direction = draw.uniform(0.5, 2.0, size=expected.shape)
    values.backward(torch.from_numpy(direction))
    slopes = plain.gradient(lambda *moved: twin(*moved, *fixed, **options), inputs, direction)
    for tensor, slope in zip(tensors, slopes, strict=True):
        np.testing.assert_allclose(tensor.grad.numpy(), slope, rtol=1e-5, atol=1e-7)


def test_every_loss_has_a_twin():
    """A new loss without a line in CASES fails here."""
    functions = {name for name, value in vars(losses).items() if callable(value) and name.islower()}
    helpers = {"on", "of_batch", "of_outputs", "class_weight", "present", "uncertain"}
    assert functions - helpers == {name.split()[-1] for name in CASES}


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_shares_of_mmd_add_up_to_the_statistic(seed):
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(5, 2)), draw.normal(size=(5, 2)) * 2.0
    shares = losses.mmd(torch.from_numpy(x), torch.from_numpy(y), bandwidths=(3.0,))
    assert shares.mean().item() == pytest.approx(plain.mmd_squared(x, y, 3.0), abs=1e-12)


def test_second_derivatives_are_right():
    """ESGD takes gradients of gradients: of the losses that are written out here they are checked, too."""
    draw = np.random.default_rng(1)
    z = torch.from_numpy(draw.normal(size=(3, 4))).requires_grad_()
    labels, y = torch.tensor([0, 3, 1]), torch.from_numpy((draw.uniform(size=(3, 4)) < 0.5) * 1.0)
    for function in (
        lambda z: losses.focal(z, labels),
        lambda z: losses.sigmoid_focal(z, y),
        lambda z: losses.kl(z, y),
        lambda z: losses.mmd(z, y),
        lambda z: losses.contrastive(z, y + 0.1, temperature=0.5),
        lambda z: losses.cross_entropy(z, labels, clip=1e-8),
        lambda z: losses.gaussian_nll(z, z.exp(), y),
    ):
        assert torch.autograd.gradgradcheck(function, (z,), raise_exception=True)
