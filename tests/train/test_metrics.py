"""Metrics per sample against plain Python, and values of all samples together by torchmetrics."""

import json
import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from minibatch import DatasetWriter
from minibatch.train import Metric, evaluate, mse, on
from minibatch.train.metrics import Collected, accuracy, hamming, top_k, top_k_error
from tests.plain import losses as plain

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    import torchmetrics
    from torchmetrics.classification import BinaryAUROC, MulticlassConfusionMatrix, MulticlassF1Score
    from torchmetrics.retrieval import RetrievalMAP

ROWS = 37


@pytest.fixture(scope="module")
def columns():
    draw = np.random.default_rng(2)
    return {
        "x": draw.normal(size=(ROWS, 4)),
        "label": draw.integers(4, size=ROWS),
        "binary": draw.integers(2, size=ROWS),
        "query": np.arange(ROWS) // 5,
        "known": draw.uniform(size=ROWS) < 0.7,
        "places": draw.uniform(size=(ROWS, 4)) < 0.5,
        "nothing": np.zeros(ROWS, bool),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory, columns):
    path = tmp_path_factory.mktemp("metrics") / "data"
    with DatasetWriter(path) as writer:
        writer.write(columns)
    return path


def measured(data, *metrics, size=10):
    return evaluate(nn.Identity(), data, inputs="x", metrics=metrics, minibatch_size=size)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=0)
def test_top_k_is_read_off_the_sorted_list_with_ties_and_nan(seed):
    draw = np.random.default_rng(seed)
    shape = [(5,), (3, 2)][int(draw.integers(2))]
    classes = int(draw.integers(1, 6))
    logits = draw.integers(-2, 3, size=(shape[0], classes, *shape[1:])).astype(np.float64)  # many are equal
    logits[draw.uniform(size=logits.shape) < 0.1] = np.nan
    labels = draw.integers(classes, size=shape)
    for k in range(1, classes + 1):
        ours = top_k(torch.from_numpy(logits), torch.from_numpy(labels), k=k)
        assert np.array_equal(ours.numpy(), plain.top_k(logits, labels, k))
        assert torch.equal(top_k_error(torch.from_numpy(logits), torch.from_numpy(labels), k=k), 1.0 - ours)


def test_top_1_is_accuracy():
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [3.0, 1.0, 2.0]])
    for label in range(3):
        labels = torch.full((3,), label)
        assert torch.equal(top_k(logits, labels, k=1), accuracy(logits, labels))


def test_a_label_that_is_no_class_is_never_among_the_largest():
    logits = torch.zeros(2, 3)
    assert top_k(logits, torch.tensor([-1, 3]), k=3).tolist() == [0.0, 0.0]


@given(seed=st.integers(0, 2**32 - 1))
def test_hamming_counts_labels_that_differ(seed):
    draw = np.random.default_rng(seed)
    scores, targets = draw.normal(size=(4, 3, 2)), draw.integers(2, size=(4, 3, 2))
    for reduce in ("mean", "sum", "none"):
        for threshold in (0.0, 0.5):
            options = {"threshold": threshold, "reduce": reduce}
            ours = hamming(torch.from_numpy(scores), torch.from_numpy(targets), **options).numpy()
            np.testing.assert_allclose(ours, plain.hamming(scores, targets, **options), rtol=1e-15)
    assert torch.equal(hamming(torch.ones(1, 2), torch.tensor([[True, False]])), torch.tensor([0.5]).double())


@pytest.mark.parametrize("size", [1, 7, 37, 1000])
def test_f1_is_that_of_all_samples_together(data, columns, size):
    make = partial(MulticlassF1Score, num_classes=4)
    f1 = Collected("f1", make, target="label")
    each = Collected("each", partial(make, average=None), target="label")
    result = measured(data, f1, each, Metric("accuracy", on(accuracy, "label")), size=size)
    x, y = torch.from_numpy(columns["x"]), torch.from_numpy(columns["label"])
    assert result["f1"] == pytest.approx(float(make()(x, y)), rel=1e-6)
    expected = partial(make, average=None)()(x, y).tolist()
    assert [result[f"each/{c}"] for c in range(4)] == pytest.approx(expected, rel=1e-6)
    assert set(result) == {"f1", "accuracy", "each/0", "each/1", "each/2", "each/3"}


def test_an_area_under_a_curve_does_not_depend_on_minibatches(data):
    auroc = Collected("auroc", BinaryAUROC, target="binary", output=0)

    class First(nn.Module):
        def forward(self, x):
            return (torch.sigmoid(x[:, 0]),)

    values = {evaluate(First(), data, inputs="x", metrics=[auroc], minibatch_size=size)["auroc"] for size in (1, 5, 37)}
    assert len(values) == 1
    assert 0.0 < values.pop() < 1.0


@pytest.mark.parametrize("size", [1, 5, 37])
def test_floating_point_sums_are_double(data, columns, size):
    error = Collected("rmse", partial(torchmetrics.MeanSquaredError, squared=False), target="x", output="first")

    class Half(nn.Module):
        def forward(self, x):
            return {"first": x.float() / 2}

    result = evaluate(Half(), data, inputs="x", metrics=[error], minibatch_size=size)["rmse"]
    x = columns["x"]
    expected = math.sqrt(((x.astype(np.float32) / 2 - x) ** 2).mean())
    assert result == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("size", [1, 10, 37])
def test_a_mask_keeps_samples_or_elements(data, columns, size):
    f1 = Collected("f1", partial(MulticlassF1Score, num_classes=4), target="label", mask="known")
    known = columns["known"]
    expected = MulticlassF1Score(num_classes=4)(
        torch.from_numpy(columns["x"][known]), torch.from_numpy(columns["label"][known])
    )
    assert measured(data, f1, size=size)["f1"] == pytest.approx(float(expected), rel=1e-6)
    chosen = Collected("mae", torchmetrics.MeanAbsoluteError, target="x", output=0, mask="places")

    class Zero(nn.Module):
        def forward(self, x):
            return [torch.zeros_like(x)]

    result = evaluate(Zero(), data, inputs="x", metrics=[chosen], minibatch_size=size)["mae"]
    assert result == pytest.approx(np.abs(columns["x"][columns["places"]]).mean(), rel=1e-12)


def test_further_fields_are_handed_over_by_name(data, columns):
    retrieval = Collected("map", RetrievalMAP, target="binary", output=0, fields={"indexes": "query"}, mask="known")

    class First(nn.Module):
        def forward(self, x):
            return (torch.sigmoid(x[:, 0]),)

    result = evaluate(First(), data, inputs="x", metrics=[retrieval], minibatch_size=8)["map"]
    k = columns["known"]
    scores = torch.sigmoid(torch.from_numpy(columns["x"][k, 0]))
    expected = RetrievalMAP()(scores, torch.from_numpy(columns["binary"][k]), torch.from_numpy(columns["query"][k]))
    assert result == pytest.approx(float(expected), rel=1e-6)


def test_arguments_may_be_made_by_a_function_and_results_be_named(data, columns):
    def arguments(outputs, batch):
        return outputs.argmax(1) > 1, batch["label"] > 1

    def collection():
        return torchmetrics.MetricCollection({"confusion": MulticlassConfusionMatrix(2)})

    result = measured(data, Collected("all", collection, arguments=arguments))
    said, true = columns["x"].argmax(1) > 1, columns["label"] > 1
    for t in (0, 1):
        for s in (0, 1):
            assert result[f"all/confusion/{t}/{s}"] == ((true == t) & (said == s)).sum()
    assert json.loads(json.dumps(dict(result))) == dict(result)


def test_what_was_never_updated_or_is_undefined_has_no_value(data):
    class Undefined(torchmetrics.Metric):
        def update(self, outputs, targets):
            pass

        def compute(self):
            return torch.tensor(math.nan)

    nothing = Collected("nothing", partial(MulticlassF1Score, num_classes=4), target="label", mask="nothing")
    result = measured(data, nothing, Collected("undefined", Undefined, target="label"))
    assert result["nothing"] is None
    assert result["undefined"] is None


def test_modes_and_gradients_are_untouched_and_every_validation_begins_anew(data):
    f1 = Collected("f1", partial(MulticlassF1Score, num_classes=4), target="label")
    assert measured(data, f1)["f1"] == measured(data, f1)["f1"]


def test_names_must_differ_from_those_of_results_too(data):
    make = partial(MulticlassF1Score, num_classes=4, average=None)
    for first, second in (
        (Collected("f1", make, target="label"), Collected("f1", make, target="label")),
        (Metric("f1/2", on(mse, "x")), Collected("f1", make, target="label")),
    ):
        with pytest.raises(ValueError, match=r"different names.*f1"):
            measured(data, first, second)


def test_what_cannot_be_collected_is_refused(data):
    for options in ({}, {"target": "x", "arguments": lambda outputs, batch: ()}):
        with pytest.raises(ValueError, match=r"'f1'.*either target=.*or arguments="):
            Collected("f1", MulticlassF1Score, **options)
    with pytest.raises(ValueError, match="leave output, mask and fields out"):
        Collected("f1", MulticlassF1Score, arguments=lambda outputs, batch: (), mask="known")
    with pytest.raises(TypeError, match=r"'f1'.*dict, without compute.*torchmetrics"):
        measured(data, Collected("f1", dict, target="label"))

    class Many(torchmetrics.Metric):
        def update(self, outputs, targets):
            pass

        def compute(self):
            return torch.zeros(70, 70)

    with pytest.raises(ValueError, match=r"'many'.*\(70, 70\).*4096"):
        measured(data, Collected("many", Many, target="label"))
    with pytest.raises((ValueError, RuntimeError)) as caught:
        measured(data, Collected("wrong", partial(MulticlassF1Score, num_classes=4), target="query"))
    assert any("metric 'wrong' was given" in note for note in caught.value.__notes__)
