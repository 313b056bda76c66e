"""Mean average precision of detections, by pycocotools, as an object for `metrics.Collected`."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from minibatch.errors import require

Boxes = tuple[Tensor, ...]


class AveragePrecision:
    """The average precision of each class, and their mean, at one threshold of intersection over union.

    classes: the names of labels 0, 1, …. threshold: from which a detection counts as that of a true box.
    `update(found, true)` takes one tuple per image: found (boxes (d, 4), scores (d,), labels (d,)), true (boxes (k, 4),
    labels (k,)), boxes as xmin, ymin, xmax, ymax. `compute()` returns the precision averaged over 101 levels of recall
    (that of COCO), by name of the class, and "mean" over the classes that occur; a class without a true box is NaN.
    At most 100 detections of a class count in an image, the surest.

    >>> import torch
    >>> metric = AveragePrecision(classes=("cat", "dog"), threshold=0.5)
    >>> box, one = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([1])
    >>> metric.update([(box, torch.tensor([0.9]), one)], [(box, one)])
    >>> metric.compute()
    {'mean': 1.0, 'cat': nan, 'dog': 1.0}
    """

    def __init__(self, *, classes: Sequence[str], threshold: float = 0.5) -> None:
        require("pycocotools", "train", "average precision")
        if not 0.0 < threshold < 1.0:
            raise ValueError(f"threshold={threshold}: expected an intersection over union between 0 and 1")
        self.classes, self.threshold = tuple(classes), threshold
        self.true: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []
        self.images = 0

    def update(self, found: Sequence[Boxes], true: Sequence[Boxes]) -> None:
        """Add what was found in some images, and what is in them."""
        if len(found) != len(true):
            raise ValueError(f"detections of {len(found)} images, boxes of {len(true)}")
        for (boxes, scores, labels), (true_boxes, true_labels) in zip(found, true, strict=True):
            self.images += 1
            for box, label in zip(as_corner_and_sides(true_boxes), true_labels.tolist(), strict=True):
                place = {"id": len(self.true) + 1, "image_id": self.images, "category_id": label}
                self.true.append({**place, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
            for box, score, label in zip(as_corner_and_sides(boxes), scores.tolist(), labels.tolist(), strict=True):
                self.found.append({"image_id": self.images, "category_id": label, "bbox": box, "score": score})

    def compute(self) -> dict[str, float]:
        """The average precision by name of the class, after "mean"."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        precision = np.full(len(self.classes), np.nan)
        if self.true:
            with contextlib.redirect_stdout(io.StringIO()):  # it tells how long it took
                true = COCO()
                true.dataset = {
                    "info": {},
                    "images": [{"id": number} for number in range(1, self.images + 1)],
                    "categories": [{"id": label, "name": name} for label, name in enumerate(self.classes)],
                    "annotations": self.true,
                }
                true.createIndex()
                found = true.loadRes(self.found) if self.found else empty(true)
                judged = COCOeval(true, found, "bbox")
                judged.params.iouThrs = np.array([self.threshold])
                judged.evaluate()
                judged.accumulate()
            levels = judged.eval["precision"][0, :, :, 0, -1]  # (levels of recall, classes); -1 without a true box
            precision = np.where((levels > -1).all(0), levels.mean(0), np.nan)
        mean = float(np.nanmean(precision)) if not np.isnan(precision).all() else float("nan")
        return {"mean": mean, **dict(zip(self.classes, precision.tolist(), strict=True))}


def as_corner_and_sides(boxes: Tensor) -> list[list[float]]:
    """Boxes as xmin, ymin, width and height."""
    corners = boxes.detach().double().cpu()
    sides = corners[:, 2:] - corners[:, :2]
    return [[*corner, *side] for corner, side in zip(corners[:, :2].tolist(), sides.tolist(), strict=True)]


def empty(like: Any) -> Any:
    """A result without a detection: pycocotools cannot make one of an empty list."""
    result = type(like)()
    result.dataset = {**like.dataset, "annotations": []}
    result.createIndex()
    return result
