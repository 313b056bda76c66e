"""Average precision, worked out by hand, and the loss of boxes against plain loops."""

import math
import sys

import numpy as np
import pytest
import torch

from minibatch import rng
from minibatch.errors import MissingExtraError
from minibatch.train.average_precision import AveragePrecision
from minibatch.train.losses.boxes import own_boxes

CLASSES = ("cat", "dog")
BOX, OTHER, FAR = [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [50.0, 50.0, 60.0, 60.0]
CLOSE = [0.0, 0.0, 10.0, 6.0]  # overlaps BOX by 0.6


def found(*detections):
    """Boxes, scores and labels of (box, score, label)."""
    boxes, scores, labels = zip(*detections, strict=True) if detections else ((), (), ())
    return torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.int64)


def true(*objects):
    boxes, labels = zip(*objects, strict=True) if objects else ((), ())
    return torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64)


def measured(pairs, **options):
    metric = AveragePrecision(classes=CLASSES, **options)
    for detections, objects in pairs:
        metric.update([detections], [objects])
    return metric.compute()


def test_the_precision_is_the_mean_over_101_levels_of_recall():
    # Ranked: a hit, a miss, a hit: precision 1 up to recall 1/2, then 2/3. Levels 0 to 0.50 are 51 of 101.
    pair = found((BOX, 0.9, 0), (FAR, 0.8, 0), (OTHER, 0.7, 0)), true((BOX, 0), (OTHER, 0))
    assert measured([pair])["cat"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    # A second detection of one object is a miss, and so is one of another class.
    pair = found((BOX, 0.9, 0), (BOX, 0.8, 0), (OTHER, 0.7, 1)), true((BOX, 0), (OTHER, 0))
    assert measured([pair])["cat"] == pytest.approx(51 / 101)


def test_the_threshold_decides_what_is_found():
    pair = found((CLOSE, 0.9, 1)), true((BOX, 1))
    assert measured([pair], threshold=0.5)["dog"] == pytest.approx(1.0)
    assert measured([pair], threshold=0.65)["dog"] == 0.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        AveragePrecision(classes=CLASSES, threshold=50)


def test_images_are_apart_and_how_they_are_handed_over_changes_nothing():
    pairs = [
        (found((BOX, 0.9, 0)), true((OTHER, 0))),
        (found((OTHER, 0.8, 0)), true((OTHER, 0))),
        (found(), true((BOX, 1))),
        (found((FAR, 0.3, 1)), true()),
    ]
    one_by_one = measured(pairs)
    assert one_by_one["cat"] == pytest.approx(51 / 101 * 0.5)
    assert one_by_one["dog"] == 0.0
    assert one_by_one["mean"] == pytest.approx(one_by_one["cat"] / 2)
    metric = AveragePrecision(classes=CLASSES)
    metric.update(*zip(*pairs, strict=True))
    assert metric.compute() == one_by_one


def test_a_hundred_detections_of_each_class_count_in_an_image():
    misses = [(FAR, 0.9, label) for label in (0, 1) for _ in range(99)]
    objects = true((BOX, 0), (BOX, 1))
    hundredth = measured([(found(*misses, (BOX, 0.5, 0), (BOX, 0.5, 1)), objects)])
    assert hundredth["cat"] == hundredth["dog"] == pytest.approx(1 / 100)
    later = measured([(found(*misses, (FAR, 0.8, 0), (BOX, 0.5, 0), (BOX, 0.5, 1)), objects)])
    assert (later["cat"], later["dog"]) == (0.0, pytest.approx(1 / 100))


def test_a_class_that_does_not_occur_has_no_precision():
    result = measured([(found((BOX, 0.9, 1)), true((BOX, 0)))])
    assert result["cat"] == result["mean"] == 0.0
    assert math.isnan(result["dog"])
    assert all(math.isnan(value) for value in measured([(found((BOX, 0.9, 1)), true())]).values())
    assert measured([(found(), true((BOX, 0)))])["mean"] == 0.0


def test_it_prints_nothing(capfd):
    measured([(found((BOX, 0.9, 0)), true((BOX, 0)))])
    assert capfd.readouterr() == ("", "")


def test_the_library_that_it_needs_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingExtraError, match="pycocotools"):
        AveragePrecision(classes=CLASSES)


@pytest.mark.parametrize("beta", [1.0, 0.11])
def test_the_loss_of_boxes_is_that_of_each_regions_own_class(beta):
    n, r, k = 3, 5, 2
    numbers = rng.normal(7, np.arange(n * r * (k + 1) * 4)).reshape(n, r, k + 1, 4)
    refinements = torch.tensor(numbers[:, :, :k], requires_grad=True)
    targets = torch.tensor(numbers[:, :, k])
    labels = torch.tensor(rng.integers(9, np.arange(n * r), k + 1).reshape(n, r))
    values = own_boxes(refinements, targets, labels=labels, beta=beta)
    expected = np.zeros((n, r))
    for i, j in np.ndindex(n, r):
        if labels[i, j]:
            for x in (numbers[i, j, labels[i, j] - 1] - numbers[i, j, k]).tolist():
                expected[i, j] += x * x / (2 * beta) if abs(x) < beta else abs(x) - beta / 2
    np.testing.assert_allclose(values.detach().numpy(), expected, rtol=1e-12)
    values.sum().backward()
    reached = refinements.grad.abs().sum(-1) > 0
    assert torch.equal(reached, torch.arange(1, k + 1) == labels[..., None])


def test_shapes_that_do_not_fit_a_loss_of_boxes_are_refused():
    with pytest.raises(ValueError, match="own_boxes needs refinements"):
        own_boxes(torch.zeros(2, 5, 3, 4), torch.zeros(2, 4, 4), labels=torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="own_boxes needs refinements"):
        own_boxes(torch.zeros(2, 5, 4), torch.zeros(2, 5, 4), labels=torch.zeros(2, 5, dtype=torch.int64))
