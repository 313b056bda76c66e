"""Fast R-CNN: a small convolutional body, region of interest pooling, and two heads, one for classes, one for boxes.

Shapes: n images · h × w pixels · r regions of an image · k classes without the background · f channels of the
features · p × p bins · d detections of an image.

Source: Girshick 2015, "Fast R-CNN", arXiv:1504.08083. Regions come from outside in training; in eval mode the net also
looks at all its anchors, improves the best of them and looks again.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minibatch.models import init as initialisation
from minibatch.models.boxes import refined, suppressed
from minibatch.models.roi_pooling import roi_pool

STRIDE = 8


class Detections(NamedTuple):
    """What was found in one image, the surest first: boxes (d, 4) in pixels, scores (d,), labels int64 (d,)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class FastRCNN(nn.Module):
    """Logits (n, 1 + k, r) and refinements (n, r, k, 4) of regions (n, r, 4) of images uint8 (n, h, w, 3).

    The outputs are "logits" (class 0 is background), "refinements" (see `models.boxes.refined`), one per class, and in
    eval mode "detections", a list of `Detections` with labels from 0 to k - 1.

    classes: k. anchors: (a, 4) in pixels of `image`, the (height, width) that every image has. channels: of the five
    convolutions, three of them with stride 2, each with a group norm, so that samples do not depend on each other.
    bins: p. hidden: units below the heads. looks: how often detections are refined; proposals: how many anchors are
    looked at again. least_score: of a detection; overlap: from which the worse of two detections of a class goes; most:
    detections of an image. seed: of the weights.

    >>> net = FastRCNN(classes=2, anchors=torch.tensor([[0.0, 0.0, 32.0, 32.0]]), image=(32, 64), channels=(8,) * 5)
    >>> outputs = net(torch.zeros(3, 32, 64, 3, dtype=torch.uint8), torch.ones(3, 5, 4))
    >>> outputs["logits"].shape, outputs["refinements"].shape
    (torch.Size([3, 3, 5]), torch.Size([3, 5, 2, 4]))
    """

    anchors: Tensor

    def __init__(
        self,
        *,
        classes: int,
        anchors: Tensor,
        image: tuple[int, int],
        channels: Sequence[int] = (24, 48, 96, 96, 96),
        bins: int = 5,
        hidden: int = 128,
        looks: int = 2,
        proposals: int = 200,
        least_score: float = 0.05,
        overlap: float = 0.4,
        most: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(channels) != 5 or any(count < 8 or count % 8 for count in channels):
            raise ValueError(f"channels={tuple(channels)}: expected five multiples of 8, for group norms of 8 groups")
        self.classes, self.image, self.bins = classes, (image[0], image[1]), bins
        self.looks, self.proposals = looks, proposals
        self.least_score, self.overlap, self.most = least_score, overlap, most
        self.register_buffer("anchors", anchors.float(), persistent=False)
        layers: list[nn.Module] = []
        for number, (below, above) in enumerate(pairwise((3, *channels))):
            window, stride = (5, 2) if number == 0 else (3, 2 if number in (1, 2) else 1)
            layers += [
                nn.utils.skip_init(nn.Conv2d, below, above, window, stride, window // 2, bias=False),
                nn.GroupNorm(8, above),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.shared = nn.utils.skip_init(nn.Linear, channels[-1] * bins * bins, hidden)
        self.classifier = nn.utils.skip_init(nn.Linear, hidden, 1 + classes)
        self.refiner = nn.utils.skip_init(nn.Linear, hidden, 4 * classes)
        initialisation.fill(self, "he_normal", seed=seed)
        with torch.no_grad():
            # So that the first logits are near 0 and the first boxes are the regions: Girshick 2015, section 4.1.
            for head in (self.classifier, self.refiner):
                head.weight.mul_(0.1)

    def forward(self, images_nhw3: Tensor, rois_nr4: Tensor | None = None) -> dict[str, Tensor | list[Detections]]:
        if tuple(images_nhw3.shape[1:]) != (*self.image, 3):
            raise ValueError(f"the net takes images {(*self.image, 3)}, got {tuple(images_nhw3.shape[1:])}")
        pixels = images_nhw3.movedim(-1, 1).to(self.shared.weight.dtype) / 127.5 - 1.0
        features_nfhw = self.body(pixels)
        outputs: dict[str, Tensor | list[Detections]] = {}
        if rois_nr4 is not None:
            outputs["logits"], outputs["refinements"] = self.look(features_nfhw, rois_nr4)
        if not self.training:
            outputs["detections"] = [self.detect(features_nfhw[i : i + 1]) for i in range(len(features_nfhw))]
        return outputs

    def look(self, features_nfhw: Tensor, rois_nr4: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, 1 + k, r) and refinements (n, r, k, 4) of regions (n, r, 4)."""
        pooled_nrfpp = roi_pool(features_nfhw, rois_nr4, size=(self.bins, self.bins), scale=1.0 / STRIDE)
        hidden_nrh = torch.relu(self.shared(pooled_nrfpp.flatten(2)))
        return self.classifier(hidden_nrh).transpose(1, 2), self.refiner(hidden_nrh).unflatten(-1, (-1, 4))

    @torch.no_grad()
    def detect(self, features_1fhw: Tensor) -> Detections:
        """The detections in one image."""
        boxes_r4 = self.anchors.to(features_1fhw.dtype)
        for number in range(self.looks):
            logits_1cr, refinements_1rk4 = self.look(features_1fhw, boxes_r4[None])
            scores_rk = logits_1cr[0].softmax(0)[1:].T
            boxes_rk4 = refined(boxes_r4[:, None], refinements_1rk4[0], image=self.image)
            if number < self.looks - 1:
                best = scores_rk.max(1)
                chosen = best.values.argsort(descending=True, stable=True)[: self.proposals]
                boxes_r4 = boxes_rk4[chosen, best.indices[chosen]]
        found = []
        for label in range(self.classes):
            sure = (scores_rk[:, label] >= self.least_score).nonzero().flatten()
            boxes, scores = boxes_rk4[sure, label], scores_rk[sure, label]
            kept = suppressed(boxes, scores, overlap=self.overlap)
            found.append((boxes[kept], scores[kept], torch.full_like(kept, label)))
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = scores.argsort(descending=True, stable=True)[: self.most]
        return Detections(boxes[order], scores[order], labels[order])
