"""Losses equal torch's own under every reduction, and refuse shapes that would broadcast."""

import pytest
import torch
import torch.nn.functional as F

from minibatch.train import binary_cross_entropy, class_weight, cross_entropy, huber, l1, mse, on

Z = torch.linspace(-3, 4, 24, dtype=torch.float64).view(6, 4).sin() * 3
LABELS = torch.tensor([0, 3, 2, 2, 1, 0])
T = torch.linspace(5, -2, 24, dtype=torch.float64).view(6, 4).cos()


def test_cross_entropy_is_that_of_torch():
    expected = F.cross_entropy(Z, LABELS, reduction="none")
    assert torch.equal(cross_entropy(Z, LABELS), expected)
    assert torch.equal(cross_entropy(Z, LABELS.to(torch.uint8)), expected)
    weights = [1.0, 2.0, 0.5, 4.0]
    weighted = F.cross_entropy(Z, LABELS, weight=torch.tensor(weights, dtype=torch.float64), reduction="none")
    assert torch.equal(cross_entropy(Z, LABELS, class_weights=weights), weighted)
    smooth = F.cross_entropy(Z, LABELS, label_smoothing=0.1, reduction="none")
    assert torch.equal(cross_entropy(Z, LABELS, label_smoothing=0.1), smooth)


def test_class_weights_as_weights_of_the_term_give_torchs_mean():
    weights = [1.0, 2.0, 0.5, 4.0]
    w = class_weight("label", weights)({"label": LABELS})
    ours = (w * cross_entropy(Z, LABELS)).sum() / w.sum()
    theirs = F.cross_entropy(Z, LABELS, weight=torch.tensor(weights, dtype=torch.float64))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-14)


def test_cross_entropy_per_element_and_missing_labels():
    logits = torch.linspace(-1, 1, 40).view(2, 4, 5)
    labels = torch.tensor([[0, 1, 2, 3, -1], [-1, -1, 0, 0, 1]])
    values = cross_entropy(logits, labels, missing=-1)
    assert values.shape == (2, 5)
    assert ((values == 0) == (labels == -1)).all()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (mse, F.mse_loss),
        (l1, F.l1_loss),
        (lambda *a, **o: huber(*a, beta=0.11, **o), lambda *a, **o: F.smooth_l1_loss(*a, beta=0.11, **o)),
        (lambda a, b, **o: binary_cross_entropy(a, b.abs(), **o), None),
    ],
)
def test_elementwise_losses_are_those_of_torch_in_every_reduction(ours, theirs):
    if theirs is None:
        elements = F.binary_cross_entropy_with_logits(Z, T.abs(), reduction="none")
    else:
        elements = theirs(Z, T, reduction="none")
    assert torch.equal(ours(Z, T, reduce="none"), elements)
    assert torch.equal(ours(Z, T), elements.mean(1))
    assert torch.equal(ours(Z, T, reduce="sum"), elements.sum(1))
    assert torch.equal(ours(Z[:, 0], T[:, 0]), ours(Z[:, :1], T[:, :1]))


def test_binary_targets_may_be_bool_or_integers():
    y = T > 0
    assert torch.equal(binary_cross_entropy(Z, y), binary_cross_entropy(Z, y.long()))


@pytest.mark.parametrize("loss", [mse, l1, huber, binary_cross_entropy])
def test_shapes_that_would_broadcast_are_refused(loss):
    with pytest.raises(ValueError, match=r"\(6, 1\).*\(6,\)"):
        loss(Z[:, :1], T[:, 0])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (Z, LABELS[:5], r"\(6, 4\).*\(5,\)"),
        (Z, LABELS[:, None], r"\(6, 1\)"),
        (Z, LABELS.double(), "float64"),
        (Z[:, 0], LABELS, r"\(6,\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        cross_entropy(logits, labels)


def test_options_are_checked():
    with pytest.raises(ValueError, match="beta"):
        huber(Z, T, beta=0.0)
    with pytest.raises(ValueError, match="'median'"):
        mse(Z, T, reduce="median")
    with pytest.raises(ValueError, match=r"2 numbers.*4 classes"):
        cross_entropy(Z, LABELS, class_weights=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"from 0 to 3.*0 to 1"):
        class_weight("label", [1.0, 2.0])({"label": LABELS})


def test_an_output_is_chosen_by_key_attribute_or_index():
    class Outputs:
        logits = Z

    batch = {"label": LABELS}
    expected = cross_entropy(Z, LABELS)
    for outputs, output in (({"logits": Z}, "logits"), (Outputs(), "logits"), ((T, Z), 1), (Z, None)):
        assert torch.equal(on(cross_entropy, "label", output=output)(outputs, batch), expected)
