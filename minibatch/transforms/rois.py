"""Regions of interest for Fast R-CNN: a fixed grid of anchors, and a sample of them with labels and targets.

Boxes as in boxes.py. Source: Girshick 2015, "Fast R-CNN", arXiv:1504.08083, section 2.3; the anchors stand in for
selective search, as in Ren et al. 2015, "Faster R-CNN", arXiv:1506.01497, section 3.1.1.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from minibatch import rng
from minibatch.arguments import checked_integer
from minibatch.transforms.boxes import boxes_of, list_of, overlaps
from minibatch.transforms.operations import Fields, checked_number, checked_size

HARD = 0.1  # overlap from which background is hard to tell from a box


@dataclass(frozen=True, kw_only=True)
class AnchorGrid:
    """Boxes of some sizes all over an image of `image` = (height, width): the same for every image.

    sizes: the sides of squares in pixels. step: the distance of their centres as a share of the size, at most. Squares
    are cut at the borders of the image.

    >>> AnchorGrid(image=(20, 40), sizes=(20,), step=1.0).boxes.tolist()
    [[0.0, 0.0, 20.0, 20.0], [20.0, 0.0, 40.0, 20.0]]
    """

    image: tuple[int, int]
    sizes: tuple[float, ...]
    step: float = 0.25

    def __post_init__(self) -> None:
        checked_size(self.image, "AnchorGrid(image=…)")
        if not self.sizes or not all(0 < size < math.inf for size in self.sizes):
            raise ValueError(f"AnchorGrid(sizes=…) must be one or more numbers of pixels above 0, got {self.sizes!r}")
        if not 0 < self.step <= 4:
            raise ValueError(f"AnchorGrid(step=…) must be above 0 and at most 4, got {self.step!r}")

    @cached_property
    def boxes(self) -> NDArray[np.float32]:
        """All anchors, size by size, row by row: float32 (anchors, 4)."""
        return np.concatenate([self.of_size(size) for size in self.sizes])

    def of_size(self, size: float) -> NDArray[np.float32]:
        """The anchors of one size: float32 (anchors, 4)."""
        height, width = self.image
        rows, columns = (max(1, math.ceil(side / (size * self.step))) for side in (height, width))
        y, x = np.meshgrid(
            (np.arange(rows) + 0.5) * height / rows, (np.arange(columns) + 0.5) * width / columns, indexing="ij"
        )
        corners = np.stack([x - size / 2, y - size / 2, x + size / 2, y + size / 2], -1).reshape(-1, 4)
        return np.asarray(np.clip(corners, 0, [width, height, width, height]).astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class SampleRois:
    """A fixed number of regions of every image, with what a detector should say about them.

    Candidates are the anchors, the boxes themselves, and `jitter` copies of each box, moved by up to `shift` of its
    sides and scaled by up to e^±`shift` (at most 0.4). A candidate belongs to the box that it overlaps most; from an
    intersection over union of `positive` on it shows that box, below it shows background. At most the share
    `foreground` of `rois` are of boxes, taken from one box after another in turn, so that rare ones have their part; of
    the background the share `hard` overlaps a box by 0.1 or more, as far as there are such. All choices are random.

    New fields: `rois` float32 (n, rois, 4), boxes in pixels; `roi_labels` int64 (n, rois): 0 for background, 1 + label
    for a box; `roi_targets` float32 (n, rois, 4): see `refinements`, 0 for background.

    >>> from minibatch import Ragged
    >>> grid = AnchorGrid(image=(64, 64), sizes=(16, 32))
    >>> fields = {
    ...     "boxes": Ragged(np.array([[8, 8, 40, 40]], np.float32), np.array([0, 1])),
    ...     "labels": Ragged(np.array([2]), np.array([0, 1])),
    ... }
    >>> sampled = SampleRois(grid=grid, rois=8)(fields, rng.Draws(7, "SampleRois", np.arange(1)))
    >>> sampled["rois"].shape, sampled["roi_labels"].tolist()
    ((1, 8, 4), [[3, 3, 0, 0, 0, 0, 0, 0]])
    """

    grid: AnchorGrid
    rois: int = 64
    positive: float = 0.5
    foreground: float = 0.25
    hard: float = 0.5
    jitter: int = 4
    shift: float = 0.15
    boxes: str = "boxes"
    labels: str = "labels"

    def __post_init__(self) -> None:
        checked_integer(self.rois, "SampleRois(rois=…)", least=1)
        checked_integer(self.jitter, "SampleRois(jitter=…)", least=0)
        for name in ("foreground", "hard"):
            checked_number(getattr(self, name), f"SampleRois({name}=…)")
        checked_number(self.positive, "SampleRois(positive=…)", least=0.01)
        checked_number(self.shift, "SampleRois(shift=…)", most=0.4)
        if len(self.grid.boxes) < self.rois:
            raise ValueError(f"SampleRois(rois={self.rois}) of only {len(self.grid.boxes)} anchors: {self.grid}")

    def __call__(self, fields: Fields, draws: rng.Draws) -> Fields:
        boxes = boxes_of(self.boxes, fields)
        labels = list_of(self.labels, fields, boxes)
        keys = [int(key) for key in draws.bits()]
        n, count = len(boxes), self.rois
        rois, targets = np.empty((n, count, 4), np.float32), np.zeros((n, count, 4), np.float32)
        classes = np.zeros((n, count), np.int64)
        for i, key in enumerate(keys):
            candidates, nearest, overlap = self.candidates(boxes[i], rng.key(key, "jitter"))
            chosen = self.choose(nearest, overlap, rng.uniform(rng.key(key, "choice"), np.arange(len(candidates))))
            rois[i] = candidates[chosen]
            found = overlap[chosen] >= self.positive
            own = nearest[chosen][found]
            if len(own):
                classes[i, found] = 1 + labels[i][own]
                targets[i, found] = refinements(rois[i][found], boxes[i][own])
        return {**fields, "rois": rois, "roi_labels": classes, "roi_targets": targets}

    def candidates(
        self, boxes: NDArray[np.float32], key: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
        """Candidates float32 (c, 4) for boxes (k, 4); which box is nearest, int64 (c,), and its overlap, float64 (c,).

        Of boxes that overlap equally the first is nearest. Without any box there are only the anchors, overlap 0.
        """
        anchors = self.grid.boxes
        if not len(boxes):
            return anchors, np.zeros(len(anchors), np.int64), np.zeros(len(anchors))
        height, width = self.grid.image
        numbers = 2 * rng.uniform(key, np.arange(len(boxes) * self.jitter * 4)).reshape(-1, 4) - 1
        copies = np.repeat(boxes.astype(np.float64), self.jitter, axis=0)
        sides = copies[:, 2:] - copies[:, :2]
        centres = (copies[:, 2:] + copies[:, :2]) / 2 + self.shift * numbers[:, :2] * sides
        halves = sides * np.exp(self.shift * numbers[:, 2:]) / 2
        moved = np.clip(np.concatenate([centres - halves, centres + halves], 1), 0, [width, height, width, height])
        candidates = np.concatenate([anchors, boxes, moved.astype(np.float32)])
        overlap = overlaps(candidates.astype(np.float64), boxes.astype(np.float64))
        nearest = overlap.argmax(1)
        return candidates, nearest, overlap[np.arange(len(candidates)), nearest]

    def choose(
        self, nearest: NDArray[np.int64], overlap: NDArray[np.float64], priorities: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """The places of `rois` candidates, int64 (rois,), those of boxes first; lower priorities are taken first."""
        order = np.argsort(priorities, kind="stable")
        positive = order[overlap[order] >= self.positive]
        by_box = positive[np.argsort(nearest[positive], kind="stable")]
        _, starts, counts = np.unique(nearest[by_box], return_index=True, return_counts=True)
        turns = np.arange(len(by_box)) - np.repeat(starts, counts)
        positive = by_box[np.lexsort((priorities[by_box], turns))]
        hard = order[(overlap[order] >= HARD) & (overlap[order] < self.positive)]
        easy = order[overlap[order] < min(HARD, self.positive)]
        taken = min(len(positive), int(self.foreground * self.rois))
        difficult = round(self.hard * (self.rois - taken))
        return np.concatenate([positive[:taken], hard[:difficult], easy, hard[difficult:], positive[taken:]])[
            : self.rois
        ]


def refinements(rois: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """How rois (n, 4) are to be changed to become boxes (n, 4): float32 (n, 4), undone by `models.boxes.refined`.

    The centre moves by (Δx, Δy) · (w, h) / 10, the sides grow by the factors exp(Δw / 5) and exp(Δh / 5): Girshick et
    al. 2014, arXiv:1311.2524, appendix C, divided by the usual standard deviations 0.1 and 0.2.

    >>> refinements(np.array([[0, 0, 10, 20]], np.float32), np.array([[1, 0, 11, 20]], np.float32)).tolist()
    [[1.0, 0.0, 0.0, 0.0]]
    """
    sides, wanted = rois[:, 2:] - rois[:, :2], boxes[:, 2:] - boxes[:, :2]
    moves = ((boxes[:, 2:] + boxes[:, :2]) - (rois[:, 2:] + rois[:, :2])) / 2 / sides
    return np.asarray(np.concatenate([10 * moves, 5 * np.log(wanted / sides)], 1))
