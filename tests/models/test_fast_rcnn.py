"""Fast R-CNN: shapes, samples that do not depend on each other, and detections that follow from the heads."""

import numpy as np
import pytest
import torch

from minibatch import rng
from minibatch.models.fast_rcnn import FastRCNN
from minibatch.models.tile_net import TileNet
from minibatch.transforms import AnchorGrid

IMAGE = (48, 64)
GRID = AnchorGrid(image=IMAGE, sizes=(12, 24), step=0.5)


def net(**options):
    defaults = {"classes": 3, "anchors": torch.from_numpy(GRID.boxes), "image": IMAGE, "channels": (8, 8, 16, 16, 16)}
    return FastRCNN(**{**defaults, "hidden": 16, "seed": 4, **options})


def images(n, size=IMAGE):
    words = rng.integers(rng.key(3, "images"), np.arange(n * size[0] * size[1] * 3), 256)
    return torch.from_numpy(words.reshape(n, *size, 3).astype(np.uint8))


def test_outputs_have_the_shapes_that_losses_expect():
    model = net()
    outputs = model(images(2), torch.from_numpy(GRID.boxes[None, :7]).expand(2, -1, -1))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "logits": (2, 4, 7),
        "refinements": (2, 7, 3, 4),
    }
    assert outputs["logits"].abs().max() < 2
    assert set(model.eval()(images(1))) == {"detections"}


def test_a_sample_does_not_depend_on_its_company_and_the_seed_decides_all():
    rois = torch.from_numpy(GRID.boxes[None, :7]).expand(3, -1, -1)
    whole, alone = net()(images(3), rois), net()(images(3)[1:2], rois[1:2])
    torch.testing.assert_close(whole["logits"][1:2], alone["logits"])
    assert not torch.equal(net(seed=5)(images(3), rois)["logits"], whole["logits"])


def test_it_takes_one_size_of_images():
    with pytest.raises(ValueError, match=r"takes images \(48, 64, 3\), got \(64, 48, 3\)"):
        net()(images(1, (64, 48)))
    with pytest.raises(ValueError, match="five multiples of 8"):
        net(channels=(8, 8, 12, 8, 8))


class Told(FastRCNN):
    """A detector whose heads say what they are told of every region."""

    def look(self, features, rois):
        centres = (rois[..., :2] + rois[..., 2:]) / 2
        inside = ((centres - torch.tensor([30.0, 20.0])).abs() < 3).all(-1)
        logits = torch.zeros(len(rois), 1 + self.classes, rois.shape[1])
        logits[:, 0] = 4.0
        logits[:, 2] = 9.0 * inside  # class 1
        return logits, torch.zeros(*rois.shape[:2], self.classes, 4)


def test_detections_are_what_the_heads_say_thinned_out():
    anchors = torch.from_numpy(AnchorGrid(image=IMAGE, sizes=(12, 24), step=0.125).boxes)
    model = Told(classes=3, anchors=anchors, image=IMAGE, channels=(8,) * 5, least_score=0.5, overlap=0.2)
    (found,) = model.eval()(images(1))["detections"]
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    assert len(centres) >= 1
    assert ((centres - torch.tensor([30.0, 20.0])).abs() < 3).all()
    assert found.labels.tolist() == [1] * len(centres)
    assert (found.scores > 0.9).all()
    model.overlap = 1.0
    assert len(model(images(1))["detections"][0].scores) > len(centres)
    model.most = 1
    assert len(model(images(1))["detections"][0].scores) == 1


def test_the_surest_detections_come_first():
    (found,) = net(least_score=0.0, seed=8).eval()(images(1))["detections"]
    assert 1 < len(found.scores) <= 100
    assert (found.scores.diff() <= 0).all()
    assert set(found.labels.tolist()) == {0, 1, 2}


def test_a_tile_net_sees_tiles_of_any_size():
    model = TileNet(things=5, channels=(8, 16), seed=2).eval()
    assert model(images(2)).shape == (2, 5)
    assert model(images(2, (20, 20))).shape == (2, 5)
    torch.testing.assert_close(model(images(2))[1:], model(images(2)[1:]))
    assert torch.equal(model(images(2)), TileNet(things=5, channels=(8, 16), seed=2).eval()(images(2)))
    with pytest.raises(ValueError, match="multiples of 8"):
        TileNet(things=5, channels=(12,))
