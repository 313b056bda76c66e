"""Outputs averaged over views: the formulas against NumPy, and the views of cuda-convnet2 pixel by pixel."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from minibatch import DatasetWriter
from minibatch.train import Metric, Term, cross_entropy, evaluate, metrics, mse, on
from minibatch.train.batches import Samples, TensorBatch
from minibatch.train.multiview import MultiView, mean_of_sigmoid, mean_of_softmax, views_named
from minibatch.transforms import MultiCrop

DRAW = np.random.default_rng(5)


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


def softmax(values):
    powers = np.exp(values - values.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def plus(amount):
    return lambda fields, draws: {**fields, "x": fields["x"] + amount}


def batch_of(**fields):
    return TensorBatch(Samples(fields, time=0))


def test_the_mean_of_probabilities_is_what_numpy_says():
    logits = DRAW.normal(size=(4, 5, 3)) * 4
    averaged = mean_of_softmax(torch.from_numpy(logits))
    expected = np.mean([softmax(view) for view in logits], axis=0)
    assert averaged.dtype == torch.float64
    np.testing.assert_allclose(averaged.exp(), expected, rtol=1e-12)
    labels = torch.tensor([0, 1, 2, 0, 1])
    np.testing.assert_allclose(cross_entropy(averaged, labels), -np.log(expected[np.arange(5), labels]), rtol=1e-12)
    yes = mean_of_sigmoid(torch.from_numpy(logits))
    np.testing.assert_allclose(torch.sigmoid(yes), (1 / (1 + np.exp(-logits))).mean(0), rtol=1e-12)


def test_probabilities_that_vanish_in_one_view_do_not_become_nan():
    logits = torch.tensor([[[0.0, 1000.0]], [[0.0, -1000.0]]])
    np.testing.assert_allclose(mean_of_softmax(logits), np.log([[0.5, 0.5]]))
    assert torch.isfinite(mean_of_softmax(logits.expand(2, 1, 2) * 1e30)).all()


def test_one_view_gives_what_the_model_gives():
    model = nn.Linear(3, 4).double()
    x = DRAW.normal(size=(6, 3))
    views = MultiView(views=(lambda fields, draws: fields,), inputs="x")
    plain = model(torch.from_numpy(x))
    np.testing.assert_allclose(views(model, batch_of(x=x)).exp().detach(), torch.softmax(plain, 1).detach(), rtol=1e-12)


def test_outputs_keep_their_structure_and_each_may_be_averaged_in_its_own_way():
    x = DRAW.normal(size=(2, 3))
    views = (plus(0.0), (plus(1.0), plus(1.0)))
    both = x, x + 2
    mean = np.mean(both, axis=0)
    probability = np.mean([softmax(one) for one in both], axis=0)

    def said(model, average):
        return MultiView(views=views, inputs=lambda _, batch: model(batch["x"]), average=average)(None, batch_of(x=x))

    found = said(
        lambda x: {"class": x, "value": x, "number": 3}, {"class": "softmax", "value": "mean", "number": "mean"}
    )
    np.testing.assert_allclose(found["class"].exp(), probability)
    np.testing.assert_allclose(found["value"], mean)
    assert found["number"] == 3
    pair = said(lambda x: Pair(x, x), {0: "softmax", 1: "mean"})
    assert isinstance(pair, Pair)
    np.testing.assert_allclose(pair.second, mean)
    np.testing.assert_allclose(said(lambda x: [x], "mean")[0], mean)
    with pytest.raises(ValueError, match="does not say how to average the output 'value'"):
        said(lambda x: {"class": x, "value": x}, {"class": "softmax"})
    with pytest.raises(ValueError, match="names several outputs, and the model has one"):
        said(lambda x: x, {0: "mean"})


def test_ten_and_nine_views_of_images_are_those_of_cuda_convnet2():
    image = np.arange(36, dtype=np.float32).reshape(1, 6, 6, 1)
    label = np.array([1])
    batch = batch_of(image=image, label=label)

    def shown(kind):
        return [*MultiView(views=views_named(kind, size=4, field="image"), inputs="image").shown(batch)]

    ten = shown("corners")
    whole = image[0, :, :, 0]
    five = [whole[:4, :4], whole[:4, 2:], whole[2:, :4], whole[2:, 2:], whole[1:5, 1:5]]
    assert len(ten) == 10
    for found, expected in zip(ten, [*five, *(view[:, ::-1] for view in five)], strict=True):
        np.testing.assert_array_equal(found["image"][0, :, :, 0], expected)
    nine = shown("grid")
    expected = [whole[y : y + 4, x : x + 4] for y in (0, 1, 2) for x in (0, 1, 2)]
    assert len(nine) == 9
    for found, view in zip(nine, expected, strict=True):
        np.testing.assert_array_equal(found["image"][0, :, :, 0], view)
        assert found["label"] == 1


def test_losses_and_metrics_of_views_are_exact_for_any_cut(tmp_path):
    x, labels = DRAW.normal(size=(23, 3)), DRAW.integers(0, 4, 23)
    with DatasetWriter(tmp_path / "data") as writer:
        writer.write({"x": x, "label": labels, "weight": np.linspace(0, 2, 23)})
    model = nn.Linear(3, 4).double()
    views = MultiView(views=(plus(0.0), plus(0.5), plus(-1.0)), inputs="x")
    found = [
        evaluate(
            model,
            tmp_path / "data",
            inputs=views,
            terms=[Term("class", on(cross_entropy, "label"), weight="weight")],
            metrics=[Metric("accuracy", on(metrics.accuracy, "label"))],
            minibatch_size=size,
        )
        for size in (1, 7, 100)
    ]
    with torch.no_grad():
        shown = [softmax(model(torch.from_numpy(x + by)).numpy()) for by in (0.0, 0.5, -1.0)]
    probability = np.mean(shown, axis=0)
    weights = np.linspace(0, 2, 23)
    loss = -(weights * np.log(probability[np.arange(23), labels])).sum() / weights.sum()
    for one in found:
        assert one["class"] == pytest.approx(loss, rel=1e-12)
        assert one["accuracy"] == np.mean(probability.argmax(1) == labels)


def test_then_comes_after_every_view_and_draws_are_those_of_the_samples():
    def noisy(fields, draws):
        return {**fields, "x": fields["x"] + draws.normal((3,))}

    x = np.zeros((4, 3))
    views = MultiView(views=(plus(0.0), plus(1.0)), then=(noisy,), inputs="x", average="mean")
    whole = views(nn.Identity(), batch_of(x=x))
    later = views(nn.Identity(), TensorBatch(Samples({"x": x[2:]}, time=2)))
    torch.testing.assert_close(whole[2:], later, rtol=0, atol=0)
    assert whole.std() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": ()}, r"views=\(\): expected at least one"),
        ({"average": "median"}, "average='median': expected one of 'softmax', 'sigmoid', 'mean'"),
        ({"average": {"a": "median"}}, "expected one of 'softmax'"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        MultiView(**{"views": (plus(0.0),), "inputs": "x", **options})


def test_numbers_are_no_logits_and_every_view_has_every_sample():
    views = MultiView(views=(plus(0.0),), inputs="x")
    with pytest.raises(ValueError, match=r"the outputs have shape \(3,\): pass average='mean'"):
        views(nn.Identity(), batch_of(x=np.zeros(3)))

    def dropping(fields, draws):
        draws.drop(np.array([True, False, False]))
        return fields

    with pytest.raises(ValueError, match="dropped 1 of 3 samples"):
        MultiView(views=(dropping,), inputs="x", average="mean")(nn.Identity(), batch_of(x=np.zeros((3, 1))))


def test_regression_outputs_are_averaged_as_they_are(tmp_path):
    with DatasetWriter(tmp_path / "data") as writer:
        writer.write({"x": np.ones((5, 1)), "y": np.zeros((5, 1))})
    views = MultiView(views=(plus(0.0), plus(2.0)), inputs="x", average="mean")
    value = evaluate(nn.Identity(), tmp_path / "data", inputs=views, terms=[Term("fit", on(mse, "y"))])["fit"]
    assert value == 4.0
    assert isinstance(views_named("corners", size=3, field="a"), MultiCrop)
