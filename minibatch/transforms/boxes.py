"""Images and the boxes of the objects in them, changed in step: other sizes, mirrors, parts; and what a part shows.

Boxes are a list field of float32 (4,): xmin, ymin, xmax, ymax in pixels, half-open, x to the right and y down, so that
the whole image is [0, 0, width, height]. Lists of other fields have one element per box, in the same order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch import ragged
from minibatch.arguments import checked_integer
from minibatch.errors import SchemaError
from minibatch.ragged import Ragged
from minibatch.rng import Draws
from minibatch.transforms.images import Size
from minibatch.transforms.operations import Fields, checked_number, checked_size, images_of, named


@dataclass(frozen=True, kw_only=True)
class ResizeBoxes:
    """The boxes of images that are resized to `size`, one number or (height, width), without a crop.

    original: the field with the height and width that the boxes are measured in, integers (n, 2), which becomes `size`.

    >>> boxes = Ragged(np.array([[64, 48, 640, 480]], np.float32), np.array([0, 1]))
    >>> fields = {"boxes": boxes, "size": np.array([[480, 640]])}
    >>> ResizeBoxes(size=(240, 320))(fields, Draws(0, "resize", np.arange(1)))["boxes"][0].tolist()
    [[32.0, 24.0, 320.0, 240.0]]
    """

    size: Size
    boxes: str = "boxes"
    original: str = "size"

    def __post_init__(self) -> None:
        checked_size(self.size, "ResizeBoxes(size=…)")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        boxes = boxes_of(self.boxes, fields)
        before = named(self.original, fields)
        if before.dtype.kind not in "iu" or before.shape != (len(boxes), 2) or (before < 1).any():
            raise SchemaError(
                f"ResizeBoxes: field {self.original!r} is {before.dtype} {before.shape}, expected the height and width "
                f"of each image: integers ({len(boxes)}, 2), at least 1"
            )
        after = np.array(checked_size(self.size, "size"))
        scales = np.repeat((after / before)[:, [1, 0, 1, 0]], boxes.lengths, axis=0)
        changed = Ragged((boxes.values * scales).astype(np.float32), boxes.offsets)
        sizes = np.broadcast_to(after, before.shape).astype(before.dtype)
        return {**fields, self.boxes: changed, self.original: sizes}


@dataclass(frozen=True, kw_only=True)
class FlipWithBoxes:
    """Mirror images (n, height, width, …) of any dtype with their boxes: from left to right, from top to bottom.

    horizontal, vertical: with which probability.

    >>> boxes = Ragged(np.array([[0, 0, 1, 2]], np.float32), np.array([0, 1]))
    >>> fields = {"image": np.arange(6).reshape(1, 2, 3), "boxes": boxes}
    >>> flipped = FlipWithBoxes(horizontal=1.0)(fields, Draws(0, "flip", np.arange(1)))
    >>> flipped["image"].tolist(), flipped["boxes"][0].tolist()
    ([[[2, 1, 0], [5, 4, 3]]], [[2.0, 0.0, 3.0, 2.0]])
    """

    horizontal: float = 0.5
    vertical: float = 0.0
    image: str = "image"
    boxes: str = "boxes"

    def __post_init__(self) -> None:
        checked_number(self.horizontal, "FlipWithBoxes(horizontal=…)")
        checked_number(self.vertical, "FlipWithBoxes(vertical=…)")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = images_of(self, {"image": named(self.image, fields)}).copy()
        boxes = boxes_of(self.boxes, fields)
        mirrored = draws.uniform((2,)) < np.array([self.horizontal, self.vertical])
        images[mirrored[:, 0]] = images[mirrored[:, 0]][:, :, ::-1]
        images[mirrored[:, 1]] = images[mirrored[:, 1]][:, ::-1]
        height, width = images.shape[1:3]
        values = boxes.values.copy()
        for axis, length in ((0, width), (1, height)):
            chosen = np.repeat(mirrored[:, axis], boxes.lengths)
            values[chosen, axis], values[chosen, axis + 2] = (
                length - boxes.values[chosen, axis + 2],
                length - boxes.values[chosen, axis],
            )
        return {**fields, self.image: images, self.boxes: Ragged(values, boxes.offsets)}

    @property
    def field(self) -> str:
        """What errors call the images."""
        return "image"


@dataclass(frozen=True, kw_only=True)
class CropWithBoxes:
    """A window of each image at a random place, of `size`, one number or (height, width), and the boxes in it.

    A box stays if at least the share `least` of its area lies in the window; it is then cut to it, and measured from
    its corner. `along`: list fields with an element per box, which lose those of the others. Every place inside the
    image is as likely as any other. Images have any dtype.

    >>> fields = {
    ...     "image": np.zeros((1, 4, 4)),
    ...     "boxes": Ragged(np.array([[0, 0, 4, 4], [0, 0, 1, 1]], np.float32), np.array([0, 2])),
    ...     "labels": Ragged(np.array([5, 6]), np.array([0, 2])),
    ... }
    >>> crop = CropWithBoxes(size=(4, 3), least=0.7, along=("labels",))
    >>> cropped = crop(fields, Draws(0, "crop", np.arange(1)))
    >>> cropped["boxes"][0].tolist(), cropped["labels"][0].tolist()         # the window begins at x = 1
    ([[0.0, 0.0, 3.0, 4.0]], [5])
    """

    size: Size
    least: float = 0.5
    image: str = "image"
    boxes: str = "boxes"
    along: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checked_size(self.size, "CropWithBoxes(size=…)")
        checked_number(self.least, "CropWithBoxes(least=…)")

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = images_of(self, {"image": named(self.image, fields)})
        boxes = boxes_of(self.boxes, fields)
        height, width = checked_size(self.size, "size")
        if images.shape[1] < height or images.shape[2] < width:
            raise SchemaError(
                f"CropWithBoxes: the images have {images.shape[1]} × {images.shape[2]} pixels, too few for a window of "
                f"{height} × {width}"
            )
        rooms = np.array([images.shape[1] - height + 1, images.shape[2] - width + 1])
        corners = (draws.uniform((2,)) * rooms).astype(np.int64)  # top and left: (n, 2)
        windows = np.stack(
            [image[y : y + height, x : x + width] for image, (y, x) in zip(images, corners, strict=True)]
        )
        moved = boxes.values - np.repeat(corners[:, [1, 0, 1, 0]], boxes.lengths, axis=0).astype(np.float32)
        cut = np.clip(moved, 0, np.array([width, height, width, height], np.float32))
        keep = (areas(cut) >= self.least * areas(moved)) & (areas(cut) > 0)
        return {
            **fields,
            self.image: windows,
            **{name: kept(list_of(name, fields, boxes), keep) for name in self.along},
            self.boxes: kept(Ragged(cut, boxes.offsets), keep),
        }

    @property
    def field(self) -> str:
        """What errors call the images."""
        return "image"


@dataclass(frozen=True, kw_only=True)
class PresentClasses:
    """Which classes a list of labels has, as a new field: bool (n, classes).

    >>> fields = {"labels": Ragged(np.array([1, 1, 2]), np.array([0, 3, 3]))}
    >>> PresentClasses(classes=3)(fields, Draws(0, "present", np.arange(2)))["present"].tolist()
    [[False, True, True], [False, False, False]]
    """

    classes: int
    labels: str = "labels"
    to: str = "present"

    def __post_init__(self) -> None:
        checked_integer(self.classes, "PresentClasses(classes=…)", least=1)

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        labels = fields.get(self.labels)
        if not isinstance(labels, Ragged) or labels.dtype.kind not in "iu":
            raise SchemaError(f"PresentClasses: expected a list field {self.labels!r} of integers among {list(fields)}")
        values = labels.values
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < self.classes:
            raise SchemaError(
                f"PresentClasses: field {self.labels!r} has labels from {values.min()} to {values.max()}, "
                f"expected 0 to {self.classes - 1}"
            )
        present = np.zeros((len(labels), self.classes), np.bool_)
        present[np.repeat(np.arange(len(labels)), labels.lengths), values] = True
        return {**fields, self.to: present}


def boxes_of(field: str, fields: Fields) -> Ragged:
    """The boxes of `field`, or the error that says what it is instead."""
    if field not in fields:
        raise SchemaError(f"there is no field {field!r}: the minibatch has {list(fields)}")
    boxes = fields[field]
    values = boxes.values if isinstance(boxes, Ragged) else None
    if isinstance(values, np.ndarray) and values.dtype == np.float32 and values.shape[1:] == (4,):
        assert isinstance(boxes, Ragged)
        return boxes
    raise SchemaError(f"field {field!r} is {boxes!r:.80}, expected boxes: lists of float32 (4,)")


def list_of(field: str, fields: Fields, boxes: Ragged) -> Ragged:
    """The list field `field`, which must have an element per box."""
    values = fields.get(field)
    if not isinstance(values, Ragged) or not np.array_equal(values.offsets, boxes.offsets):
        raise SchemaError(f"field {field!r} is {values!r:.80}, expected lists with one element per box: {boxes!r}")
    return values


def kept(lists: Ragged, keep: NDArray[np.bool_]) -> Ragged:
    """The lists with only those elements where `keep`, bool (total,), is true."""
    counts = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep, dtype=np.int64)])
    return Ragged(ragged.take(lists.values, keep), counts[lists.offsets])


def areas(boxes: NDArray[Any]) -> NDArray[Any]:
    """Width times height of boxes (…, 4); 0 of what is turned inside out."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def overlaps(ones: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """Intersection over union of boxes (n, 4) with boxes (m, 4): (n, m), 0 for two that have no area.

    >>> overlaps(np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 6.0, 6.0]]))
    array([[0.33333333, 0. ]])
    """
    low = np.maximum(ones[:, None, :2], others[None, :, :2])
    high = np.minimum(ones[:, None, 2:], others[None, :, 2:])
    common = areas(np.concatenate([low, high], -1))
    union = areas(ones)[:, None] + areas(others)[None] - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))
