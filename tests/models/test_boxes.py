"""Boxes of a detector: overlaps and suppression against plain twins, refinements as the inverse of the targets."""

import numpy as np
import pytest
import torch

from minibatch import rng
from minibatch.models.boxes import overlaps, refined, suppressed
from minibatch.transforms import boxes as transforms_boxes
from minibatch.transforms.rois import refinements
from tests.plain import boxes as plain


def some(count, salt=0, side=40):
    numbers = rng.uniform(rng.key(5, "test", salt), np.arange(count * 4)).reshape(count, 4)
    return np.concatenate([side * numbers[:, :2], side * numbers[:, :2] + 1 + side * numbers[:, 2:]], 1)


def test_overlaps_are_those_of_the_plain_twin_here_and_in_transforms():
    ones, others = some(7), np.concatenate([some(5, 1), some(1, 1)[:, [0, 1, 0, 1]], some(2)])
    expected = [[plain.overlap(one, other) for other in others.tolist()] for one in ones.tolist()]
    np.testing.assert_allclose(overlaps(torch.tensor(ones), torch.tensor(others)).numpy(), expected, rtol=1e-14)
    np.testing.assert_allclose(transforms_boxes.overlaps(ones, others), expected, rtol=1e-14)


def test_two_boxes_without_an_area_do_not_overlap():
    points = torch.zeros(2, 4)
    assert overlaps(points, points).tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("limit", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("count", [0, 1, 60])
def test_suppression_is_that_of_the_plain_twin(limit, count):
    boxes = some(count)
    scores = np.round(rng.uniform(1, np.arange(count)), 1)  # with ties
    kept = suppressed(torch.tensor(boxes), torch.tensor(scores), overlap=limit)
    assert kept.tolist() == plain.suppressed(boxes.tolist(), scores.tolist(), limit)
    assert limit in (0.0, 1.0) or count < 2 or 1 < len(kept) < count


def test_refined_undoes_the_targets_of_the_transform():
    rois, boxes = some(50).astype(np.float32), some(50, 3).astype(np.float32)
    targets = refinements(rois, boxes)
    expected = [plain.refinement(roi, box) for roi, box in zip(rois.tolist(), boxes.tolist(), strict=True)]
    np.testing.assert_allclose(targets, expected, rtol=1e-4, atol=1e-4)
    found = refined(torch.tensor(rois), torch.tensor(targets), image=(100, 100))
    np.testing.assert_allclose(found.numpy(), boxes, rtol=1e-4, atol=1e-4)


def test_refined_boxes_stay_in_the_image_and_finite():
    wild = torch.tensor([[900.0, -900.0, 1e6, 1e6], [0.0, 0.0, -1e6, 5.0]])
    found = refined(torch.tensor([[2.0, 3.0, 8.0, 9.0]]).expand(2, 4), wild, image=(20, 30))
    assert torch.isfinite(found).all()
    assert (found >= 0).all()
    assert (found <= torch.tensor([30.0, 20.0, 30.0, 20.0])).all()
