"""Detection: Fast R-CNN on blood cells, 640 × 480 photographs with boxes around red and white cells and platelets.

    minibatch convert BCCD_Dataset data/bccd/train --subset trainval
    minibatch convert BCCD_Dataset data/bccd/valid --subset test
    minibatch train detection --data data/bccd --out runs/detection

The data are BCCD (https://github.com/Shenggan/BCCD_Dataset, MIT licence): 364 images with boxes in Pascal VOC's format,
of which 292 are trained on. Any other such data set will do: `--set classes=…` and the sizes of its objects, `anchors`.

Images are halved, 320 × 240 pixels. A grid of some 3,000 anchors is the same for all of them; a transform samples 64 of
them, and of copies of the boxes, as regions of each image, with labels and targets (`transforms.SampleRois`), and
mirrors images with their boxes. The net (models/fast_rcnn.py) is trained from nothing. Its losses have HALCON's form:
focal for the classes (`class_weights`, background first; `gamma=0` is cross entropy), Huber with β = 0.11 for the
boxes, where background counts for nothing. HALCON adds them up; here they are means, of classes over all regions (by
weight), of boxes over those that show one, so that boxes count at least four times as much as in Fast R-CNN, which
divides both by all regions. Denominators are those of the whole minibatch, so `batch_size_multiplier`, HALCON's
word for the number of passes that a step is divided into, saves memory and changes nothing but rounding; with
`--set promise=bits` nothing at all.

Measured is the average precision of each kind of cell at an overlap of 0.5 or more, and their mean, by pycocotools. The
report says which share of the held-out boxes an anchor overlaps by 0.5 or more (`covered`), and draws six images with
their boxes and what was found, detections.png.

Expected: a mean average precision of 0.85 on the 72 held-out images (seeds 1, 2 and 3: 0.833, 0.831 and 0.875):
platelets 0.72 to 0.84, red cells 0.80, many of which the data leave out, white cells 0.96 to 0.98; in about 4 min on
one core.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minibatch import MinibatchSource, Ragged
from minibatch.arguments import checked_integer, checked_number
from minibatch.errors import require
from minibatch.models.fast_rcnn import Detections, FastRCNN
from minibatch.train.average_precision import AveragePrecision
from minibatch.train.batches import TensorBatch
from minibatch.train.config import Prepared, RunConfig
from minibatch.train.finished import Finished
from minibatch.train.losses import class_weight, focal, of_batch, on, present
from minibatch.train.losses.boxes import own_boxes
from minibatch.train.metrics import Collected
from minibatch.train.recipes.converted import converted
from minibatch.train.schedules import Cosine, Warmup
from minibatch.train.terms import Term
from minibatch.transforms import AnchorGrid, DecodeImage, FlipWithBoxes, ResizeBoxes, SampleRois
from minibatch.transforms.boxes import overlaps

BCCD = ("Platelets", "RBC", "WBC")
SHOWN, LEAST_SHOWN = 6, 0.5  # images, and the score of a detection
FIELDS = ("image", "size", "boxes", "labels")


def detection(
    *,
    seed: int = 7,
    minibatch_size: int = 8,
    batch_size_multiplier: int = 2,
    max_samples: int = 292 * 24,
    learning_rate: float = 2e-3,
    image: tuple[int, int] = (240, 320),
    anchors: tuple[float, ...] = (20.0, 28.0, 52.0, 76.0, 104.0),
    rois: int = 64,
    channels: tuple[int, ...] = (24, 48, 96, 96, 96),
    gamma: float = 2.0,
    classes: tuple[str, ...] = BCCD,
    class_weights: tuple[float, ...] | None = None,
    threads: int | None = 2,
) -> RunConfig:
    """The configuration: steps of `minibatch_size` images in `batch_size_multiplier` passes, `rois` regions of each.

    anchors: sides of squares in pixels of the resized `image`, (height, width). class_weights: of background and of
    every class in `classes`; None for 1.

    >>> config = detection(minibatch_size=6, batch_size_multiplier=4, max_samples=1000)
    >>> config.microbatch_size, len(config.model(seed=1).anchors)
    (2, 3140)
    """
    require("pycocotools", "train", "the recipe detection")  # said here, not when the first validation is due
    checked_integer(minibatch_size, "minibatch_size", least=1)
    checked_integer(batch_size_multiplier, "batch_size_multiplier", least=1)
    checked_number(gamma, "gamma", least=0)
    weights = class_weights or (1.0,) * (1 + len(classes))
    grid = AnchorGrid(image=image, sizes=anchors, step=1 / 3)
    return RunConfig(
        model=partial(make_model, grid=grid, channels=channels, classes=len(classes)),
        inputs=("image", "rois"),
        terms=(
            Term(
                "class",
                on(focal, "roi_labels", output="logits", gamma=gamma),
                weight=class_weight("roi_labels", weights),
            ),
            Term(
                "box",
                on(own_boxes, "roi_targets", output="refinements", labels=of_batch("roi_labels"), beta=0.11),
                mask=present("roi_labels", missing=0),
            ),
        ),
        metrics=(Collected("AP@0.5", partial(AveragePrecision, classes=classes), arguments=found_and_true),),
        optimizers=partial(adam, learning_rate=learning_rate),
        schedules=(Warmup(samples=600, then=Cosine(learning_rate, samples=max_samples)),),
        clip_grad_norm=5.0,
        data=partial(converted, "detection"),
        source=partial(source_of, grid=grid, rois=rois),
        validation_source=partial(validation_of, grid=grid, rois=rois),
        validation_size=8,
        seed=seed,
        minibatch_size=minibatch_size,
        microbatch_size=-(-minibatch_size // batch_size_multiplier),
        max_samples=max_samples,
        validate_every=292 * 8,
        save_every=292 * 4,
        threads=threads,
        device="auto",
        report=partial(report, grid=grid, rois=rois, classes=classes),
    )


def make_model(*, grid: AnchorGrid, channels: Sequence[int], classes: int, seed: int) -> nn.Module:
    """The network for images and anchors of `grid`."""
    return FastRCNN(
        classes=classes, anchors=torch.from_numpy(grid.boxes), image=grid.image, channels=channels, seed=seed
    )


def adam(model: nn.Module, *, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW; `foreach` is named, because torch's choice depends on the device."""
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, foreach=True)


def source_of(prepared: Prepared, seed: int, *, grid: AnchorGrid, rois: int) -> MinibatchSource:
    """Images of the training set, mirrored by chance, and regions of them."""
    return MinibatchSource(
        prepared.train,
        seed=seed,
        sequences="rows",
        fields=FIELDS,
        transforms=(
            DecodeImage(size=grid.image, reduced=True),
            ResizeBoxes(size=grid.image),
            FlipWithBoxes(horizontal=0.5, vertical=0.5),
            SampleRois(grid=grid, rois=rois),
        ),
    )


def validation_of(prepared: Prepared, seed: int, *, grid: AnchorGrid, rois: int) -> MinibatchSource:
    """The held-out images as they are, and regions of them that no seed changes."""
    assert prepared.valid is not None
    return MinibatchSource(
        prepared.valid,
        seed=0,
        shuffle=None,
        sequences="rows",
        fields=FIELDS,
        transforms=(
            DecodeImage(size=grid.image, reduced=True),
            ResizeBoxes(size=grid.image),
            SampleRois(grid=grid, rois=rois),
        ),
    )


def found_and_true(outputs: Any, batch: TensorBatch) -> tuple[list[Any], list[tuple[Tensor, Tensor]]]:
    """What `AveragePrecision` compares: the detections in each image, and its boxes and labels."""
    rows = zip(batch["boxes"], batch["labels"], batch["boxes_lengths"].tolist(), strict=True)
    return outputs["detections"], [(boxes[:count], labels[:count]) for boxes, labels, count in rows]


def report(finished: Finished, *, grid: AnchorGrid, rois: int, classes: Sequence[str]) -> dict[str, float]:
    """The share of held-out boxes that an anchor covers, and a picture of what was found in six images."""
    with validation_of(finished.prepared, 0, grid=grid, rois=rois) as source:
        samples = source.next_minibatch(len(source.dataset))
    boxes = samples["boxes"]
    covered = overlaps(boxes.values.astype(np.float64), grid.boxes.astype(np.float64)).max(1) >= 0.5
    device = next(finished.model.parameters()).device
    with torch.no_grad():
        found = finished.model(torch.from_numpy(np.array(samples["image"][:SHOWN])).to(device))["detections"]
    figure = draw(samples["image"], boxes, found, classes)
    figure.savefig(finished.out / "detections.png", dpi=100)
    return {"covered": float(covered.mean())}


def draw(images: Any, boxes: Ragged, found: Sequence[Detections], classes: Sequence[str]) -> Any:
    """A figure of the images in which `found` is: their boxes dashed, and what was found, by class, with its score."""
    require("matplotlib", "train", "drawing what was found")
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    for i, (axes, detections) in enumerate(zip(figure.subplots(2, 3).flat, found, strict=True)):
        axes.imshow(images[i])
        axes.set_axis_off()
        for box in boxes[i].tolist():
            axes.add_patch(Rectangle(box[:2], box[2] - box[0], box[3] - box[1], fill=False, ls=":", lw=2, ec="white"))
        for box, score, label in zip(*(part.tolist() for part in detections), strict=True):
            if score < LEAST_SHOWN:
                continue
            colour = f"C{label}"
            axes.add_patch(Rectangle(box[:2], box[2] - box[0], box[3] - box[1], fill=False, lw=1.2, ec=colour))
            axes.text(box[0] + 1, box[1] + 8, f"{score:.2f}", color=colour, fontsize=7)
    handles = [Rectangle((0, 0), 1, 1, fill=False, ec=f"C{label}", label=name) for label, name in enumerate(classes)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(classes))
    figure.suptitle(f"Dotted: boxes of the data; coloured: found, with a score of {LEAST_SHOWN} or more")
    return figure
