"""Validation is the exact mean over the data set, whatever the minibatch size, and leaves the model as it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from minibatch import Dataset, MinibatchSource
from minibatch.train import Metric, Term, Trainer, evaluate, metrics, mse, on
from tests.train.small import ROWS, TERMS, TwoHeads, fields, make_source, make_trainer, write

ACCURACY = Metric("accuracy", on(metrics.accuracy, "label", output="logits"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("validation") / "data")


def by_hand(model):
    """Every value over the whole data set at once."""
    columns = {name: torch.from_numpy(values) for name, values in fields().items()}
    model.eval()
    with torch.no_grad():
        out = model(columns["x"])
    losses = torch.nn.functional.cross_entropy(out["logits"], columns["label"], reduction="none")
    squares = ((out["values"] - columns["target"]) ** 2).mean(1)
    w, m = columns["zero"], columns["has_target"]
    right = (out["logits"].argmax(1) == columns["label"]).double()
    return {
        "class": ((w * losses).sum() / w.sum()).item(),
        "fit": (squares[m].sum() / m.sum()).item(),
        "accuracy": right.mean().item(),
        "weighted": ((w * m * right).sum() / (w * m).sum()).item(),
    }


@pytest.mark.parametrize("k", [1, 2, 7, 16, 52, 53, 1000])
def test_any_minibatch_size_gives_the_mean_over_the_data_set(data, k):
    model = TwoHeads(dropout=0.5).double()
    weighted = Metric("weighted", ACCURACY.values, weight="zero", mask="has_target")
    result = evaluate(model, data, inputs="x", terms=TERMS, metrics=[ACCURACY, weighted], minibatch_size=k)
    assert dict(result) == pytest.approx(by_hand(model), rel=1e-13)
    assert result.samples == ROWS


def test_a_mean_of_means_would_differ(data):
    """The short last minibatch has 5 of 53 samples: the mean of means is another number, so the test above can fail."""
    model = TwoHeads().double()
    parts = []
    with make_source(data, shuffle=None) as source:
        for batch in source.minibatches(16):
            out = model(torch.from_numpy(batch["x"]))
            parts.append(mse(out["values"], torch.from_numpy(batch["target"])).mean().item())
            if source.nominal_time >= 48:
                break
        parts.append(mse(*(v[48:] for v in (model(torch.from_numpy(fields()["x"]))["values"],
                                            torch.from_numpy(fields()["target"])))).mean().item())  # fmt: skip
    exact = evaluate(model, data, inputs="x", terms=[Term("fit", on(mse, "target", output="values"))])["fit"]
    assert abs(np.mean(parts) - exact) > 1e-3


def test_modes_are_put_back_and_no_gradient_is_left(data):
    model = TwoHeads(dropout=0.5).double()
    model.values.eval()
    modes = [module.training for module in model.modules()]
    evaluate(model, data, inputs="x", terms=TERMS)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(RuntimeError):
        evaluate(model, data, inputs="x", terms=[Term("odd", lambda out, batch: out["logits"] @ batch["x"])])
    assert [module.training for module in model.modules()] == modes


def test_data_may_be_a_path_a_data_set_or_a_source_anywhere(data):
    model = TwoHeads().double()
    values = []
    source = MinibatchSource(data, seed=3)
    source.next_minibatch(30)
    for form in (data, Dataset.open(data), source):
        values.append(evaluate(model, form, inputs="x", terms=TERMS, metrics=[ACCURACY], minibatch_size=9)["accuracy"])
    source.close()
    assert len(set(values)) == 1


def test_the_limits_of_a_source_hold(data):
    with make_source(data, shuffle=None, max_samples=10) as source:
        result = evaluate(TwoHeads().double(), source, inputs="x", metrics=[ACCURACY], minibatch_size=4)
    assert result.samples == 10


def test_what_has_no_samples_is_none(data):
    nothing = Metric("nothing", ACCURACY.values, weight="nothing")
    assert evaluate(TwoHeads().double(), data, inputs="x", metrics=[nothing])["nothing"] is None


def test_names_must_differ(data):
    with pytest.raises(ValueError, match="different names"):
        evaluate(TwoHeads().double(), data, inputs="x", terms=TERMS, metrics=[Metric("class", ACCURACY.values)])


def test_metrics_by_hand():
    logits = torch.tensor([[1.0, 3.0, 2.0], [9.0, 1.0, 2.0]])
    labels = torch.tensor([2, 0])
    assert metrics.accuracy(logits, labels).tolist() == [0.0, 1.0]
    assert metrics.error(logits, labels).tolist() == [1.0, 0.0]
    assert metrics.top_k(logits, labels, k=2).tolist() == [1.0, 1.0]
    for wrong in (lambda: metrics.accuracy(logits[:, 0], labels), lambda: metrics.top_k(logits, labels, k=4)):
        with pytest.raises(ValueError, match="logits"):
            wrong()


def test_a_trainer_validates_and_writes_it_down(data, tmp_path):
    with make_source(data) as source, make_trainer(source, validation=data, folder=tmp_path / "run") as trainer:
        trainer.train_minibatch()
        result = trainer.validate()
        assert (result.step, result.nominal_time) == (1, 9)
        assert dict(result) == pytest.approx({k: v for k, v in by_hand(trainer.model).items() if k in result})
    line = (tmp_path / "run" / "validation.jsonl").read_text()
    assert '"step": 1' in line
    with make_source(data) as source, pytest.raises(ValueError, match="validation="):
        make_trainer(source).validate()


def test_validating_on_the_training_source_does_not_move_training(data):
    with make_source(data) as source:
        trainer = make_trainer(source, validation=source)
        trainer.train_minibatch()
        assert trainer.validate().samples == ROWS
        assert (source.nominal_time, trainer.nominal_time) == (9, 9)
        assert trainer.train_minibatch().interval == (9, 18)


def test_every_stream_is_measured_on_its_own_validation_set(data, tmp_path):
    other = write(tmp_path / "other", rows=31)
    model = TwoHeads().double()
    class_, fit = (replace(term, stream=stream) for term, stream in zip(TERMS, "ab", strict=True))
    metrics_ = [replace(ACCURACY, stream="a"), replace(ACCURACY, name="other", stream="b")]
    both = evaluate(model, {"a": data, "b": other}, inputs="x", terms=[class_, fit], metrics=metrics_)
    first = evaluate(model, data, inputs="x", terms=TERMS, metrics=[ACCURACY])
    second = evaluate(model, other, inputs="x", terms=TERMS, metrics=[ACCURACY])
    assert both.samples == ROWS + 31
    assert dict(both) == {"class": first["class"], "accuracy": first["accuracy"],
                          "fit": second["fit"], "other": second["accuracy"]}  # fmt: skip
    assert second["accuracy"] != first["accuracy"]
    inputs = {"a": "x", "b": lambda model, batch: model(batch["x"] * 0)}
    changed = evaluate(model, {"a": data, "b": other}, inputs=inputs, terms=[class_, fit])
    assert changed["class"] == first["class"]
    assert changed["fit"] != second["fit"]
    only_b = evaluate(model, {"b": other}, inputs="x", terms=[class_, fit])
    assert (only_b["class"], only_b["fit"]) == (None, second["fit"])


def test_streams_that_do_not_fit_are_refused(data):
    model = TwoHeads().double()
    with pytest.raises(ValueError, match=r"'class' is of no stream.*sets of a:"):
        evaluate(model, {"a": data}, inputs="x", terms=TERMS)
    term = replace(TERMS[0], stream="a")
    with pytest.raises(ValueError, match="inputs for b, but none for a"):
        evaluate(model, {"a": data}, inputs={"b": "x"}, terms=[term])
    with pytest.raises(TypeError, match=r"streams a: give a data set for each"):
        evaluate(model, data, inputs={"a": "x"}, terms=[term])
    with pytest.raises(ValueError, match="different names"):
        evaluate(model, {"a": data}, inputs="x", terms=[term, term])


class Caching(torch.nn.Module):
    """Keeps a tensor that it makes at its first call, as models do with positions and masks."""

    def __init__(self):
        super().__init__()
        self.heads = TwoHeads().double()
        self.gain = torch.nn.Parameter(torch.ones(6, dtype=torch.float64))
        self.kept = None

    def forward(self, x):
        if self.kept is None:
            self.kept = torch.linspace(1, 2, 6, dtype=torch.float64)
        return self.heads(x * (self.gain * self.kept))


def test_a_model_that_keeps_a_tensor_from_its_validation_still_trains(data):
    with make_source(data) as source:
        model = Caching()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer = Trainer(model, TERMS, optimizer, source, 9, inputs="x", validation=data)
        trainer.validate()
        assert model.kept is not None
        assert trainer.train_minibatch().updated


PAIRS = Term("pairs", lambda outputs, batch: (outputs["values"] @ outputs["values"].T).square().mean(1),
             over="minibatch")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"microbatch_size": None}, 1024),
        ({"microbatch_size": 4}, 4),
        ({"microbatch_size": 5000}, 1024),
        ({"microbatch_size": 4, "validation_size": 7}, 7),
        ({"microbatch_size": 4, "terms": [*TERMS, PAIRS]}, 9),
        ({"microbatch_size": None, "terms": [*TERMS, PAIRS], "minibatch_size": lambda t: 16}, 16),
    ],
)
def test_validation_measures_as_many_at_once_as_training_does_or_as_is_given(data, options, size):
    """What fits in training fits here; a term that compares samples needs as many of them as there."""
    seen = []
    with make_source(data) as source:
        trainer = make_trainer(source, validation=data, dropout=0.0, **options)
        assert trainer.validation_size == size
        trainer.model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
        values = trainer.validate()
        full, rest = divmod(ROWS, size)
        assert seen == [size] * full + [rest] * bool(rest)
        again = trainer.validate(8, record=False)
        assert seen[-1] == ROWS % 8
        assert again["fit"] == pytest.approx(values["fit"], rel=1e-12)


@pytest.mark.parametrize("size", [0, -1])
def test_a_validation_size_is_at_least_one(data, size):
    with make_source(data) as source, pytest.raises(ValueError, match="validation_size"):
        make_trainer(source, validation=data, validation_size=size)


@pytest.mark.parametrize("size", [ROWS, ROWS + 7])  # the second is a minibatch that comes out short
@pytest.mark.parametrize("denominator", ["weights", "count", "nominal", 3.5, None])
@pytest.mark.parametrize(
    ("weight", "mask"), [(None, None), ("zero", None), (None, "has_target"), ("extreme", "has_target")]
)
def test_the_mean_of_a_step_is_what_a_validation_measures_of_the_same_samples(data, denominator, weight, mask, size):
    """Whatever the objective is divided by: so that curves of training and validation can be laid over each other."""
    each = Term("each", on(mse, "target", output="values"), weight=weight, mask=mask, denominator=denominator)
    parts = Term("parts", lambda outputs, batch: (outputs["values"] - batch["target"]).square(), weight=weight,
                 mask=mask and "element_mask", denominator=denominator, coefficient=0.3)  # fmt: skip
    nothing = replace(each, name="nothing", mask=lambda batch: batch.times < 0)
    terms = (each, parts, nothing)
    with make_source(data, shuffle=None, max_samples=ROWS) as source:
        trainer = make_trainer(
            source, terms=terms, dropout=0.0, minibatch_size=size, microbatch_size=7, validation=data, metrics=(),
            check_unreached=False,
        )  # fmt: skip
        measured = trainer.validate()
        result = trainer.train_minibatch()
    assert result.num_samples == ROWS
    for name in ("each", "parts"):
        assert result.mean(name) == pytest.approx(measured[name], rel=1e-12)
    assert result.mean("nothing") is None
    assert measured["nothing"] is None
    if denominator in (3.5, None):
        assert result["each"] != pytest.approx(result.mean("each"), rel=1e-3)
