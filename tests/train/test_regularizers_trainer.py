"""Regularizers and attached noise in a Trainer: one gradient for any cut, values by name, coefficients over time."""

import pytest
import torch

from minibatch import MinibatchSource
from minibatch.models import noise
from minibatch.train import Term, Trainer, cross_entropy, on
from minibatch.train.regularizers import (
    Contractive,
    HiddenL1,
    MaxNorm,
    WeightL1,
    WeightL2,
    WeightPrior,
)
from minibatch.train.schedules import Exponential
from tests.plain import regularizers as plain
from tests.train.small import TwoHeads, make_source, write

HIDDEN = ["body", "classes"]
EVERYTHING = (
    WeightL2(coefficient=0.03, reduce="mean_of_means"),
    WeightL1(coefficient=Exponential(0.01, factor=0.5, samples=20), pattern="body.*"),
    WeightPrior(coefficient=0.02, pattern="values.*"),
    HiddenL1(coefficient=lambda t: 0.02 + 0.001 * t, pattern=HIDDEN, reduce="mean"),
    Contractive(coefficient=0.05, pattern=HIDDEN),
    Contractive(coefficient=0.04, pattern="body", samples=2, name="estimated"),
    Contractive(coefficient=0.03, pattern=HIDDEN, form="theanets", reduce="mean_of_means", name="of theanets"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("small") / "data")


def trained(data, steps: int = 5, *, attached: bool = True, **options) -> tuple[Trainer, list]:
    model = TwoHeads(seed=3).double()
    if attached:
        places = {"input": noise.GaussianNoise(0.1), "body.layers.1": [noise.Dropout(0.3), noise.DropPath(0.2)]}
        noise.attach(model, places)
    trainer = Trainer(
        model,
        Term("class", on(cross_entropy, "label", output="logits"), weight="zero"),
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        make_source(data),
        9,
        inputs="x",
        check_unreached=False,
        **options,
    )
    results = [trainer.train_minibatch() for _ in range(steps)]
    return trainer, results


@pytest.mark.parametrize("microbatch_size", [1, 2, 4, 7])
def test_everything_together_is_exact_for_any_cut(data, microbatch_size):
    whole, expected = trained(data, regularizers=EVERYTHING)
    cut, results = trained(data, regularizers=EVERYTHING, microbatch_size=microbatch_size)
    for ours, theirs in zip(cut.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    for result, one in zip(results, expected, strict=True):
        assert result["total_loss"] == pytest.approx(one["total_loss"], rel=1e-12)
        assert result["of theanets"] == pytest.approx(one["of theanets"], rel=1e-12)
    plainly, _ = trained(data)
    assert not torch.equal(next(plainly.model.parameters()), next(whole.model.parameters()))


def test_every_part_has_its_value_under_its_name(data):
    _, results = trained(data, 1, attached=False, regularizers=EVERYTHING)
    fresh = TwoHeads(seed=3).double()
    with MinibatchSource(data, seed=5) as source:
        x = torch.tensor(source.next_minibatch(9)["x"])
    body = fresh.body(x)
    hidden = [body, fresh.classes(torch.tanh(body))]
    assert results[0]["hidden_l1"] == pytest.approx(
        plain.hidden([h.detach().abs().numpy() for h in hidden], "mean"), rel=1e-13
    )
    weights = {name: p.detach().numpy() for name, p in fresh.named_parameters() if p.ndim > 1}
    values = {
        "weight_l2": 0.03 * plain.penalty(list(weights.values()), 2, "mean_of_means"),
        "weight_l1": 0.01 * plain.penalty([w for name, w in weights.items() if name.startswith("body")], 1, "sum"),
        "weight_prior": 0.01 * plain.penalty([weights["values.layers.0.weight"]], 2, "sum"),
    }
    assert dict(results[0].regularizers) == pytest.approx(values, rel=1e-13)
    terms = {"class": 1.0, "hidden_l1": 0.02, "contractive": 0.05, "estimated": 0.04, "of theanets": 0.03}
    assert results[0]["total_loss"] == pytest.approx(
        sum(c * results[0][name] for name, c in terms.items()) + sum(values.values()), rel=1e-13
    )


def test_coefficients_follow_nominal_time(data):
    trainer, results = trained(data, 4, regularizers=EVERYTHING)
    at = trainer.terms  # the user's terms stay what they were
    assert [term.name for term in at] == ["class"]
    for number, result in enumerate(results):
        assert dict(zip(result.names, result.coefficients, strict=True))["hidden_l1"] == pytest.approx(
            0.02 + 0.001 * 9 * number
        )


def test_resuming_with_regularizers_and_attached_noise_is_exact(data, tmp_path):
    whole, _ = trained(data, 5, regularizers=EVERYTHING)
    first, _ = trained(data, 2, regularizers=EVERYTHING)
    path = first.save_checkpoint(tmp_path / "saved")
    second, _ = trained(data, 0, regularizers=EVERYTHING, microbatch_size=4, announce=lambda text: None)
    second.restore_from_checkpoint(path)
    for _ in range(3):
        second.train_minibatch()
    for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_attached_noise_is_written_down_in_the_settings(data, tmp_path):
    said = []
    first, _ = trained(data, 1, announce=said.append)
    path = first.save_checkpoint(tmp_path / "saved")
    second, _ = trained(data, 0, attached=False, announce=said.append)
    second.restore_from_checkpoint(path)
    text = "\n".join(said)
    assert "noise.input_noise" in text
    assert "body.layers.1.output_noise" in text
    assert list(first.model.state_dict()) == list(second.model.state_dict())


def test_norm_bounds_and_soft_thresholds_hold_after_every_step(data):
    bounds = [MaxNorm(coefficient=0.5, pattern="body.*"), WeightL1(coefficient=0.3, proximal=True, pattern="classes.*")]
    trainer, _ = trained(data, 6, regularizers=bounds)
    for name, weight in trainer.model.named_parameters():
        if weight.ndim > 1 and name.startswith("body"):
            assert weight.norm(dim=1).max() <= 0.5 + 1e-12
        if name == "classes.layers.0.weight":
            assert (weight == 0).any()


@pytest.mark.parametrize("promise", ["math", "bits"])
def test_bits_hold_for_regularizers_of_activations(data, promise):
    options = {"regularizers": EVERYTHING, "promise": promise}
    if promise == "bits":
        options["leaf_size"] = 2
    one, _ = trained(data, 3, **options)
    other, _ = trained(data, 3, microbatch_size=4, **options)
    for ours, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        if promise == "bits":
            assert torch.equal(ours, theirs)
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_a_compiled_trainer_has_the_same_hidden_l1_and_masks(data):
    regularizers = [HiddenL1(coefficient=0.1, pattern=HIDDEN), WeightL2(coefficient=0.01)]
    one, expected = trained(data, 3, regularizers=regularizers, microbatch_size=4)
    other, results = trained(data, 3, regularizers=regularizers, microbatch_size=4, compile={"backend": "aot_eager"})
    for ours, theirs in zip(other.model.parameters(), one.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    assert results[-1]["hidden_l1"] == pytest.approx(expected[-1]["hidden_l1"], rel=1e-12)


def test_a_name_of_a_term_cannot_be_that_of_a_regularizer(data):
    with pytest.raises(ValueError, match="class"):
        trained(data, 0, regularizers=[HiddenL1(coefficient=0.1, pattern="body", name="class")])
