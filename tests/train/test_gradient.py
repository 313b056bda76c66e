"""The gradient of a minibatch does not depend on how it is cut: to 1e-12 in float64, against formulas by hand."""

import math

import numpy as np
import pytest
import torch

from minibatch import rng
from minibatch.models import noise
from minibatch.train import Term, Trainer, binary_cross_entropy, cross_entropy, huber, l1, mse, on
from tests.train.small import FEATURES, TwoHeads, fields, make_source, write

SIZE, SHORT = 28, 13
MICROBATCHES = (1, 2, 4, 7)
WEIGHTS = (None, "uniform", "zero", "extreme", "nothing")
DENOMINATORS = ("weights", "count", "nominal", 3.5, None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gradient") / "data")


# Every loss twice: as the engine has it, and written out here with nothing but arithmetic.


def by_hand_cross_entropy(out, batch):
    z = out["logits"]
    shifted = z - z.max(1, keepdim=True).values
    return shifted.exp().sum(1).log() - shifted[torch.arange(len(z)), batch["label"]]


def by_hand_huber(out, batch):
    x = (out["values"] - batch["target"]).abs()
    return torch.where(x < 0.5, x * x, x - 0.25).sum(1) / 2


def by_hand_binary(out, batch):
    p = 1 / (1 + (-out["values"]).exp())
    y = batch["binary"].double()
    return -(y * p.log() + (1 - y) * (1 - p).log()).sum(1) / 2


LOSSES = {
    "cross_entropy": (on(cross_entropy, "label", output="logits"), by_hand_cross_entropy),
    "mse": (on(mse, "target", output="values"), lambda o, b: ((o["values"] - b["target"]) ** 2).sum(1) / 2),
    "l1": (on(l1, "target", output="values"), lambda o, b: (o["values"] - b["target"]).abs().sum(1) / 2),
    "huber": (on(huber, "target", output="values", beta=0.5), by_hand_huber),
    "binary_cross_entropy": (on(binary_cross_entropy, "binary", output="values"), by_hand_binary),
}


def whole_batch(model, out_of_noise, rows, times, objective):
    """Gradients by name of `objective(outputs, columns)`, computed in one piece by plain autograd."""
    columns = {name: torch.from_numpy(values[rows]) for name, values in fields().items()}
    model.zero_grad(set_to_none=True)
    with out_of_noise.at(torch.from_numpy(times)):
        objective(model(columns["x"]), columns).backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def close(ours, theirs, tolerance=1e-12):
    """Equal to `tolerance`, relative to the whole gradient."""
    assert ours.keys() == theirs.keys()
    size = math.sqrt(sum(g.square().sum().item() for g in theirs.values() if g is not None))
    for name, expected in theirs.items():
        got = ours[name]
        if got is None or expected is None:
            assert got is None or not got.any(), name
            assert expected is None or not expected.any(), name
        else:
            assert (got - expected).abs().max().item() <= tolerance * max(size, 1e-300), name


def stepped(source, terms, *, size=SIZE, microbatches=1, dropout=0.0, start=0, **options):
    """The trainer and its result after one step of zero learning rate, gradients left in place."""
    model = TwoHeads(dropout=dropout).double()
    source.seek(start)
    n = min(size, 66 - start)
    trainer = Trainer(
        model, terms, torch.optim.SGD(model.parameters(), lr=0.0), source, size, math.ceil(n / microbatches),
        inputs="x", check_unreached=False, announce=lambda text: None, **options,
    )  # fmt: skip
    result = trainer.train_minibatch()
    assert result.num_samples == n
    return trainer, result


def gradients(trainer):
    return {name: p.grad for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_the_formula_for_any_cut(data, loss, denominator):
    function, by_hand = LOSSES[loss]
    columns = fields()
    with make_source(data, max_samples=66) as source:
        for start, n in ((0, SIZE), (66 - SHORT, SHORT)):
            rows, times = source.at(start, n), np.arange(start, start + n)
            for weight in WEIGHTS:
                w = np.ones(n) if weight is None else columns[weight][rows]
                d = {"weights": w.sum(), "count": n, "nominal": SIZE, None: 1.0}.get(denominator, denominator)
                reference = TwoHeads().double()
                keys = noise.bind(reference, lambda name: 0)

                def objective(out, batch, w=w, d=d):
                    total = (torch.from_numpy(w) * by_hand(out, batch)).sum()
                    return 0.7 * total / d if d else 0.0 * total

                expected = whole_batch(reference, keys, rows, times, objective)
                term = Term("it", function, weight=weight, denominator=denominator, coefficient=0.7)
                for count in MICROBATCHES:
                    trainer, result = stepped(source, term, microbatches=count, start=start)
                    close(gradients(trainer), expected)
                    if weight == "nothing" and denominator == "weights":
                        assert result["it"] is None
                        assert result.absent == ("it",)
                        assert result["total_loss"] == 0.0
                    else:
                        outputs = reference(torch.from_numpy(columns["x"][rows]))
                        batch = {name: torch.from_numpy(values[rows]) for name, values in columns.items()}
                        value = (torch.from_numpy(w) * by_hand(outputs, batch)).sum().item() / d
                        assert result["it"] == pytest.approx(value, rel=1e-12)
                        assert result["total_loss"] == pytest.approx(0.7 * value, rel=1e-12)


@pytest.mark.parametrize("microbatches", MICROBATCHES)
def test_dropout_and_two_terms_with_masks_are_exact_too(data, microbatches):
    terms = [
        Term("class", on(cross_entropy, "label", output="logits"), weight="extreme", denominator="count"),
        Term("fit", on(mse, "target", output="values"), weight="zero", mask="has_target", coefficient=0.3),
    ]
    columns = fields()
    with make_source(data) as source:
        trainer, result = stepped(source, terms, microbatches=microbatches, dropout=0.4, start=17, seed=99)
        rows, times = source.at(17, SIZE), np.arange(17, 17 + SIZE)
    reference = TwoHeads(dropout=0.4).double()
    keys = noise.bind(reference, lambda name: rng.key(99, f"noise.{name}"))
    extreme, zero, mask = (torch.from_numpy(columns[name][rows]) for name in ("extreme", "zero", "has_target"))

    def objective(out, batch):
        first = (extreme * by_hand_cross_entropy(out, batch)).sum() / SIZE
        squares = ((out["values"] - batch["target"]) ** 2).mean(1)
        return first + 0.3 * (zero * mask * squares).sum() / (zero * mask).sum()

    close(gradients(trainer), whole_batch(reference, keys, rows, times, objective))
    assert set(result) == {"total_loss", "class", "fit"}
    assert result["total_loss"] == pytest.approx(result["class"] + 0.3 * result["fit"], rel=1e-12)


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize(
    ("weight", "mask"),
    [
        (None, None),
        ("element_weight", None),
        (None, "element_mask"),
        ("zero", "element_mask"),
        ("element_weight", "has_target"),
        ("zero", "has_target"),
    ],
)
def test_values_per_element_count_each_element(data, weight, mask, denominator):
    columns = fields()
    with make_source(data) as source:
        rows, times = source.at(0, SIZE), np.arange(SIZE)
        ones = np.ones((SIZE, 2))

        def per_element(name):
            values = columns[name][rows].astype(float) if name else ones
            return values if values.ndim == 2 else values[:, None] * ones

        w, m = per_element(weight), per_element(mask)
        d = {"weights": (w * m).sum(), "count": m.sum(), "nominal": SIZE, None: 1.0}.get(denominator, denominator)
        reference = TwoHeads().double()
        keys = noise.bind(reference, lambda name: 0)

        def objective(out, batch):
            return (torch.from_numpy(w * m) * (out["values"] - batch["target"]) ** 2).sum() / d

        expected = whole_batch(reference, keys, rows, times, objective)
        term = Term(
            "it", on(mse, "target", output="values", reduce="none"), weight=weight, mask=mask, denominator=denominator
        )
        for count in MICROBATCHES:
            trainer, result = stepped(source, term, microbatches=count)
            close(gradients(trainer), expected)
            assert result.denominators == pytest.approx((d,), rel=1e-12)


def test_a_function_may_give_weights_from_several_fields(data):
    columns = fields()
    with make_source(data) as source:
        rows = source.at(0, SIZE)
        w = columns["zero"][rows] * (1 + columns["label"][rows])
        term = Term(
            "it",
            on(cross_entropy, "label", output="logits"),
            weight=lambda batch: batch["zero"] * (1 + batch["label"]),
            mask=lambda batch: batch["x"][:, 0].numpy() > -1.0,
        )
        _, result = stepped(source, term, microbatches=4)
    mask = columns["x"][rows, 0] > -1.0
    assert result.denominators == pytest.approx(((w * mask).sum(),), rel=1e-12)


def test_what_is_masked_may_be_anything(tmp_path):
    """A missing target that is NaN, and a loss that is infinite where the weight is 0, contribute exactly nothing."""
    target = fields()["target"].copy()
    target[~fields()["has_target"]] = np.nan
    broken = write(tmp_path / "broken", target=target)

    def loss(out, batch):
        # NaN targets are replaced inside the loss, where their gradient would be NaN; their values stay NaN
        values = mse(out["values"], torch.nan_to_num(batch["target"]))
        return torch.where(batch["target"].isnan().any(1), math.nan, values)

    whole = write(tmp_path / "whole")
    results = []
    for path in (broken, whole):
        with make_source(path) as source:
            trainer, result = stepped(source, Term("fit", loss, mask="has_target"), microbatches=2)
            results.append((result["fit"], gradients(trainer)))
    assert results[0][0] == results[1][0]
    close(results[0][1], results[1][1], tolerance=0)


def test_coefficients_may_be_scheduled_by_nominal_time(data):
    with make_source(data) as source:
        term = Term("it", on(cross_entropy, "label", output="logits"), coefficient=lambda t: t / 100)
        _, result = stepped(source, term, start=20)
        assert result["total_loss"] == pytest.approx(0.2 * result["it"], rel=1e-12)
        with pytest.raises(ValueError, match=r"'it'.*nominal time 20 is inf"):
            stepped(source, Term("it", term.loss, coefficient=lambda t: math.inf), start=20)


def test_a_term_that_reaches_no_parameter_is_only_watched(data):
    with make_source(data) as source:
        watched = Term("size", lambda out, batch: batch["x"].square().sum(1))
        term = Term("class", on(cross_entropy, "label", output="logits"))
        both, result = stepped(source, [term, watched], microbatches=2)
        alone, _ = stepped(source, term, microbatches=2)
    assert result["size"] == pytest.approx((fields()["x"][source.at(0, SIZE)] ** 2).sum(1).mean())
    close(gradients(both), gradients(alone), tolerance=0)


SHAPES = {
    "mean": (lambda out, batch: out["logits"].mean(), r"float64 \(\).*\(28,\).*not their mean"),
    "transposed": (lambda out, batch: out["logits"].T, r"float64 \(3, 28\).*\(28,\)"),
    "integers": (lambda out, batch: out["logits"].argmax(1), r"int64 \(28,\).*floating"),
    "none": (lambda out, batch: None, "NoneType"),
    "numpy": (lambda out, batch: out["logits"].detach().numpy()[:, 0], r"float64 \(28,\)"),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_loss_of_the_wrong_shape_shows_the_shapes_of_everything(data, kind):
    loss, message = SHAPES[kind]
    with make_source(data) as source, pytest.raises(ValueError, match=message) as raised:
        stepped(source, Term("odd", loss))
    assert "term 'odd'" in str(raised.value)
    assert "logits: float64 (28, 3)" in str(raised.value)
    assert f"x: float64 (28, {FEATURES})" in str(raised.value)
    assert source.nominal_time == 0


def test_an_error_in_a_model_or_loss_gets_the_shapes_as_notes(data):
    with make_source(data) as source, pytest.raises(RuntimeError) as raised:
        stepped(source, Term("odd", lambda out, batch: out["logits"] @ batch["x"]))
    notes = " ".join(raised.value.__notes__)
    assert "x: float64 (28, 6)" in notes
    assert "values: float64 (28, 2)" in notes


def test_weights_must_fit_the_loss(data):
    with make_source(data) as source:
        with pytest.raises(ValueError, match=r"'it'.*\(28, 2\).*loss \(28,\)"):
            stepped(source, Term("it", on(mse, "target", output="values"), weight="element_weight"))
        with pytest.raises(ValueError, match=r"weight has shape \(28, 2\).*mask \(28, 6\)"):
            stepped(
                source,
                Term("it", LOSSES["mse"][0], weight="element_weight", mask=lambda batch: batch["x"] > 0),
            )
        sizes = iter((3, 2))
        term = Term("it", lambda out, batch: out["logits"][:, : next(sizes)])
        with pytest.raises(ValueError, match=r"2 values per sample.*\(14, 2\).*3 in the one before"):
            stepped(source, term, microbatches=2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.5])
def test_weights_that_are_no_weights_name_term_field_and_rows(tmp_path, bad):
    weights = np.ones(53)
    weights[[8, 41]] = bad
    path = write(tmp_path / "data", uniform=weights)
    term = Term("class", LOSSES["cross_entropy"][0], weight="uniform")
    with make_source(path, shuffle=None) as source:
        with pytest.raises(ValueError, match=r"term 'class': weight field 'uniform'.*rows \[8\]"):
            stepped(source, term)
        assert source.nominal_time == 0
        with pytest.raises(ValueError, match=r"rows \[41\]"):
            stepped(source, term, start=28)


def test_masks_that_are_no_masks_name_term_field_and_rows(tmp_path):
    path = write(tmp_path / "data", has_target=np.where(np.arange(53) == 5, 2, 1))
    with make_source(path, shuffle=None) as source:
        with pytest.raises(ValueError, match=r"term 'fit': mask field 'has_target' is \[2\].*\[5\]"):
            stepped(source, Term("fit", LOSSES["mse"][0], mask="has_target"))
        stepped(source, Term("fit", LOSSES["mse"][0], mask="has_target"), size=5)


def test_unknown_fields_are_named_with_those_there_are(data):
    with make_source(data) as source:
        with pytest.raises(KeyError, match=r"'importance'.*x, label"):
            stepped(source, Term("it", LOSSES["mse"][0], weight="importance"))
        with pytest.raises(KeyError, match=r"'lable'.*label"):
            stepped(source, Term("it", on(cross_entropy, "lable", output="logits")))


def test_of_large_losses_no_weights_are_kept_between_steps(data):
    """Each has another value where the coefficient is scheduled; of 64 MB a step memory would soon be full."""
    with make_source(data) as source:
        model = torch.nn.Linear(FEATURES, 20_000).double()
        big = Term("big", lambda outputs, batch: outputs.square(), coefficient=lambda t: 1 / (1 + t))
        small = Term("small", lambda outputs, batch: outputs[:, 0].square(), coefficient=lambda t: 1 / (1 + t))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
        trainer = Trainer(model, [big, small], optimizer, source, 9, inputs="x")
        for _ in range(5):
            trainer.train_minibatch()
        kept = sum(seed.numel() for seed in trainer.gradient._seeds.values())
        assert 0 < kept < 100  # those of the small term
