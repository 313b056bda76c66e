"""Losses equal torch's own where it has one, the seed systems' where they say how; `on` finds outputs and fields."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minibatch import Ragged
from minibatch.train import binary_cross_entropy, class_weight, cross_entropy, huber, l1, mse, on
from minibatch.train.losses import (
    Temperature,
    contrastive,
    contrastive_margin,
    cosine,
    ctc,
    focal,
    gaussian_nll,
    hinge,
    kl,
    mmd,
    multiclass_hinge,
    of_batch,
    of_outputs,
    overshoot,
    present,
    sigmoid_focal,
)

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


def test_soft_targets_are_those_of_torch():
    soft = torch.softmax(T, 1)
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0], dtype=torch.float64)
    for options in ({}, {"label_smoothing": 0.2}):
        expected = F.cross_entropy(Z, soft, weight=weights, reduction="none", **options)
        assert torch.equal(cross_entropy(Z, soft, class_weights=weights.tolist(), **options), expected)
    hot = F.one_hot(LABELS, 4).double()
    assert torch.allclose(cross_entropy(Z, hot, clip=1e-8), cross_entropy(Z, LABELS), rtol=1e-14)


def test_other_losses_are_those_of_torch():
    pos_weight = [1.0, 2.0, 0.5, 4.0]
    y = (T > 0).double()
    expected = F.binary_cross_entropy_with_logits(Z, y, pos_weight=torch.tensor(pos_weight).double(), reduction="none")
    assert torch.allclose(binary_cross_entropy(Z, y, pos_weight=pos_weight, reduce="none"), expected, rtol=1e-14)
    for squared in (False, True):
        expected = F.multi_margin_loss(Z, LABELS, p=2 if squared else 1, reduction="none")
        assert torch.allclose(multiclass_hinge(Z, LABELS, over_classes="mean", squared=squared), expected, rtol=1e-14)
    assert torch.allclose(cosine(Z, T), F.cosine_embedding_loss(Z, T, torch.ones(6), reduction="none"), rtol=1e-12)
    soft = torch.softmax(T, 1)
    assert torch.allclose(kl(Z, soft), F.kl_div(Z.log_softmax(1), soft, reduction="none").sum(1), rtol=1e-12)
    for full in (False, True):
        for variance in (T.abs(), T.abs()[:, :1], torch.zeros_like(T)):
            expected = F.gaussian_nll_loss(Z, T, variance, full=full, reduction="none")
            assert torch.allclose(gaussian_nll(Z, variance, T, full=full, reduce="none"), expected, rtol=1e-14)


def test_a_variance_below_eps_has_the_gradient_of_torch():
    grads = []
    for loss in (
        lambda v: gaussian_nll(Z, v, T, reduce="none"),
        lambda v: F.gaussian_nll_loss(Z, T, v, reduction="none"),
    ):
        variance = torch.full_like(Z, 1e-9, requires_grad=True)
        loss(variance).sum().backward()
        grads.append(variance.grad)
    assert torch.allclose(*grads, rtol=1e-12)
    assert (grads[0] != 0).all()


@pytest.mark.parametrize("per_label", [False, True])
def test_ctc_is_that_of_torch_for_padded_and_ragged_targets(per_label):
    logits = torch.linspace(-2, 2, 3 * 6 * 4, dtype=torch.float64).view(3, 6, 4).sin()
    lengths, used = torch.tensor([2, 0, 3]), torch.tensor([6, 3, 5])
    padded = torch.tensor([[1, 2, 0], [0, 0, 0], [3, 1, 3]])
    expected = F.ctc_loss(logits.log_softmax(2).transpose(0, 1), padded, used, lengths, reduction="none")
    if per_label:
        expected = expected / lengths.clamp(min=1)
    ragged = Ragged.of([np.array([1, 2]), np.array([], np.int64), np.array([3, 1, 3])])
    read_only = np.array([1, 2, 3, 1, 3])
    read_only.flags.writeable = False
    batch = {"text": padded, "text_lengths": lengths, "ragged": ragged, "frames": used}
    batch |= {"mapped": Ragged(read_only, ragged.offsets), "audio": Ragged.of([np.zeros(int(n)) for n in used])}
    for loss in (
        on(ctc, "text", input_lengths=of_batch("frames"), target_lengths=of_batch("text_lengths"), per_label=per_label),
        on(ctc, "ragged", input_lengths=of_batch("frames"), per_label=per_label),
        on(ctc, "mapped", input_lengths=of_batch("audio"), per_label=per_label),
    ):
        assert torch.allclose(loss(logits, batch), expected, rtol=1e-12)


def test_focal_is_cross_entropy_at_gamma_0_and_less_beyond():
    assert torch.allclose(focal(Z, LABELS, gamma=0.0), cross_entropy(Z, LABELS), rtol=1e-14)
    y = (T > 0).double()
    half = sigmoid_focal(Z, y, gamma=0.0, class_weights=0.5, reduce="none")
    assert torch.allclose(half, 0.5 * binary_cross_entropy(Z, y, reduce="none"), rtol=1e-13)
    assert (focal(Z, LABELS) < cross_entropy(Z, LABELS)).all()


def test_focal_keeps_relative_precision_for_what_is_nearly_certain():
    """1 - p would be 0 or noise in float32; HALCON's form needs (1 - p)²."""
    logits = torch.tensor([[0.0, 25.0]])
    q = math.exp(-25.0) / (1.0 + math.exp(-25.0))
    assert focal(logits, torch.tensor([1]), gamma=0.5).item() == pytest.approx(math.sqrt(q) * -math.log1p(-q), rel=1e-4)
    wrong = sigmoid_focal(torch.tensor([[-25.0]]), torch.tensor([[0]]), gamma=0.5, class_weights=0.25)
    assert wrong.item() == pytest.approx(0.75 * math.sqrt(q) * -math.log1p(-q), rel=1e-4)


def test_halcon_divides_class_weights_by_their_sum():
    raw, normalized = (cross_entropy(Z, LABELS, class_weights=[1, 2, 3, 4], normalize=n) for n in (False, True))
    assert torch.allclose(raw, 10 * normalized, rtol=1e-14)
    weight = class_weight("label", [1, 2, 3, 4], normalize=True)({"label": LABELS})
    assert torch.allclose(weight * cross_entropy(Z, LABELS), normalized, rtol=1e-14)
    raw, normalized = (focal(Z, LABELS, class_weights=[1, 2, 3, 4], normalize=n) for n in (False, True))
    assert torch.allclose(raw, 10 * normalized, rtol=1e-14)


def test_theanets_losses_by_its_own_formulas():
    p, t = torch.softmax(Z, 1), torch.softmax(T, 1)
    eps = 1e-8
    tc = t.clip(eps, 1 - eps)
    expected = (tc * torch.log(tc / p.clip(eps, 1 - eps))).abs().mean()
    assert kl(Z, t, clip=eps, absolute=True, reduce="mean").mean().item() == pytest.approx(expected.item(), rel=1e-12)
    expected = torch.clamp((Z - Z.gather(1, LABELS[:, None])).amax(1), min=0).mean()  # 0.7
    assert multiclass_hinge(Z, LABELS, margin=0.0).mean().item() == pytest.approx(expected.item(), rel=1e-14)
    assert overshoot(Z, T).mean().item() == pytest.approx((Z - T).clamp(min=0).mean().item(), rel=1e-14)  # 0.6
    expected = -torch.log(p.gather(1, LABELS[:, None]).clip(0.2, 1)).mean()
    assert cross_entropy(Z, LABELS, clip=0.2).mean().item() == pytest.approx(expected.item(), rel=1e-14)
    density = torch.distributions.Normal(Z, (T.abs() + 1e-3).sqrt()).log_prob(T * 2).sum(1)
    ours = gaussian_nll(Z, T, T * 2, given="absolute", eps=1e-3, full=True, reduce="sum")
    assert torch.allclose(ours, -density, rtol=1e-13)


def test_hinge_takes_either_sign_of_no():
    y = T > 0
    assert torch.equal(hinge(Z, y), hinge(Z, y.long() * 2 - 1))
    assert torch.allclose(hinge(Z, y, reduce="none"), (1 - Z * (y.double() * 2 - 1)).clamp(min=0), rtol=1e-14)


def test_mmd_is_zero_between_a_set_and_its_rearrangement():
    assert mmd(Z, Z.flip(0)).mean().item() == pytest.approx(0.0, abs=1e-14)
    assert mmd(Z, Z + 3.0).mean().item() > 0.1


def test_mmd_far_from_zero_is_as_precise_as_near_it():
    near, far = mmd(Z.float(), T.float()), mmd(Z.float() + 1000.0, T.float() + 1000.0)
    assert torch.allclose(near, far, atol=1e-3)


def test_contrastive_is_cross_entropy_in_both_directions():
    scores = F.normalize(Z, dim=1) @ F.normalize(T, dim=1).T / 0.3
    places = torch.arange(6)
    expected = (
        F.cross_entropy(scores, places, reduction="none") + F.cross_entropy(scores.T, places, reduction="none")
    ) / 2
    assert torch.allclose(contrastive(Z, T, temperature=0.3), expected, rtol=1e-12)
    for temperature in (torch.tensor(0.3), torch.full((6,), 0.3), lambda: torch.tensor(0.3)):
        assert torch.allclose(contrastive(Z, T, temperature=temperature), expected, rtol=1e-6)


def test_one_pair_alone_has_no_negatives():
    for loss in (contrastive, contrastive_margin):
        assert loss(Z[:1], T[:1]).tolist() == [0.0]


def test_what_needs_the_whole_minibatch_says_so():
    for function in (contrastive, contrastive_margin, mmd):
        assert on(function, "y").over == "minibatch"
    assert on(mse, "y").over == "sample"


def test_a_temperature_at_its_limit_can_leave_it_but_not_pass():
    temperature = Temperature(0.02, least=0.01)
    assert temperature().item() == pytest.approx(0.02)
    with torch.no_grad():
        temperature.log_scale.fill_(10.0)
    assert temperature().item() == pytest.approx(0.01)
    for sign, passes in ((1.0, False), (-1.0, True)):
        temperature.log_scale.grad = None
        (sign * temperature()).backward()
        # Descent on +temperature would raise the scale further; on -temperature it lowers it.
        assert (temperature.log_scale.grad.item() != 0.0) is passes


def test_several_outputs_and_fields_become_arguments_and_options():
    batch = {"y": T, "keys": torch.tensor([0, 0, 1, 2, 3, 4])}
    outputs = {"mean": Z, "variance": T.abs(), "scale": torch.full((6,), 0.5)}
    loss = on(gaussian_nll, "y", output=("mean", "variance"))
    assert torch.equal(loss(outputs, batch), gaussian_nll(Z, T.abs(), T))
    loss = on(contrastive, output=["mean", "variance"], temperature=of_outputs("scale"), keys=of_batch("keys"))
    expected = contrastive(Z, T.abs(), batch["keys"], temperature=0.5)
    assert torch.allclose(loss(outputs, batch), expected, rtol=1e-12)
    assert torch.equal(on(mse, "y", output=(0,))((Z,), batch), mse(Z, T))


def test_present_tells_where_a_field_has_values():
    assert present("y")({"y": torch.tensor([[1.0, math.nan]])}).tolist() == [[True, False]]
    assert present("y", missing=-1)({"y": torch.tensor([0, -1])}).tolist() == [True, False]
