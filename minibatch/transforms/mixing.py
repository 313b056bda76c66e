"""Samples mixed with a partner: MixUp and CutMix.

The partner is another sample of the same neighbourhood of nominal time, so it does not depend on the minibatch: the
source gives whole neighbourhoods to a transform that has the attribute `neighbourhood`, whatever is asked of it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.arguments import checked_integer
from minibatch.errors import SchemaError
from minibatch.kernels import augment, windows
from minibatch.rng import Draws
from minibatch.transforms.images import as_bytes
from minibatch.transforms.labels import as_vectors
from minibatch.transforms.noise import copied, in_rows
from minibatch.transforms.operations import Fields, checked_number, images_of, named, numbers_of, room


@dataclass(frozen=True, kw_only=True)
class MixUp:
    """Mix each sample with a partner: λ·a + (1 - λ)·b, λ from the beta distribution (alpha, alpha): Zhang et al. 2018.

    `field`, uint8 or float32 (n, …), becomes float32. The partner is any other sample of the same `neighbourhood`
    nominal times, with equal probability; a sample alone there stays as it is, and so do all but a fraction of
    `probability`. Labels: with `classes`, `label` becomes λ·y_a + (1 - λ)·y_b, float32 (n, classes), from class numbers
    or vectors. Without it, two fields are added: the partner's label, under `label` + "_b", and "lambda", float32 (n,):
    the loss is then λ·loss(label) + (1 - λ)·loss(label_b). `label=None` leaves labels alone and adds only "lambda".

    >>> mix = MixUp(alpha=1.0, neighbourhood=2, classes=2)
    >>> fields = {"image": np.array([[0], [10]], np.uint8), "label": np.array([0, 1])}
    >>> out = mix(fields, Draws(7, "mix", np.array([4, 5])))
    >>> np.allclose(out["image"][:, 0], 10 * out["label"][:, 1])
    True
    """

    alpha: float = 0.2
    neighbourhood: int = 256
    classes: int | None = None
    probability: float = 1.0
    field: str = "image"
    label: str | None = "label"

    def __post_init__(self) -> None:
        check_mixing(self)

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        values = numbers_of(self, fields, (np.uint8, np.float32))
        partners, drawn = chosen(self, draws)
        own = drawn.astype(np.float32)
        out = room(values.shape, np.float32)
        augment.mix(in_rows(values), partners, own, np.float32(1) - own, in_rows(out))
        return {**fields, self.field: out, **mixed_labels(self, fields, draws, partners, own)}


@dataclass(frozen=True, kw_only=True)
class CutMix:
    """Replace a box of each image by the same box of a partner's: Yun et al. 2019. Any dtype (n, height, width, …).

    The box has the proportions of the image and the area 1 - λ of it, λ from the beta distribution (alpha, alpha); its
    middle lies anywhere, what reaches outside is cut off, and λ becomes the fraction that is really left of the image.
    Partners and labels as in `MixUp`.

    >>> fields = {"image": np.stack([np.zeros((4, 4)), np.ones((4, 4))]), "label": np.array([0, 1])}
    >>> out = CutMix(neighbourhood=2, classes=2)(fields, Draws(7, "mix", np.array([4, 5])))
    >>> np.allclose(out["image"].mean((1, 2)), out["label"][:, 1])
    True
    """

    alpha: float = 1.0
    neighbourhood: int = 256
    classes: int | None = None
    probability: float = 1.0
    field: str = "image"
    label: str | None = "label"

    def __post_init__(self) -> None:
        check_mixing(self)

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        images = images_of(self, fields)
        partners, own = chosen(self, draws)
        boxes = self.boxes(draws, own, images.shape[1:3])
        out = copied(images)
        windows.paste(as_bytes(images, 3), partners, boxes, as_bytes(out, 3))
        area = max(1, math.prod(images.shape[1:3]))
        left = ((area - boxes[:, 2] * boxes[:, 3]) / area).astype(np.float32)
        return {**fields, self.field: out, **mixed_labels(self, fields, draws, partners, left)}

    def boxes(self, draws: Draws, own: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Top, left, height and width of what is replaced: int64 (n, 4)."""
        size = np.array(shape, np.int64)
        sides = (np.sqrt(1.0 - own)[:, None] * size).astype(np.int64)
        middles = (((draws.bits((2,)) >> np.uint64(32)) * size.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
        begins = np.maximum(middles - sides // 2, 0)
        ends = np.minimum(middles - sides // 2 + sides, size)
        return np.concatenate([begins, np.maximum(ends - begins, 0)], 1)


def check_mixing(transform: Any) -> None:
    """Raise the error that names the argument of a MixUp or CutMix that cannot be."""
    who = type(transform).__name__
    if not (isinstance(transform.alpha, int | float) and 0 < transform.alpha < math.inf):
        raise ValueError(f"{who}(alpha=…) must be finite and above 0, got {transform.alpha!r}")
    checked_integer(transform.neighbourhood, f"{who}(neighbourhood=…)", least=1)
    checked_number(transform.probability, f"{who}(probability=…)")
    if transform.classes is not None:
        checked_integer(transform.classes, f"{who}(classes=…)", least=1)
        if transform.label is None:
            raise ValueError(f"{who}(classes={transform.classes}) needs the field of the labels: label=…")


def chosen(transform: Any, draws: Draws) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The partner of each sample, int64 (n,) positions, and its own weight λ, float64 (n,)."""
    times = draws.times
    if (times[1:] <= times[:-1]).any():
        raise ValueError(f"{type(transform).__name__} takes samples in the order of their nominal times, got {times}")
    partners = np.empty(len(times), np.int64)
    augment.partners(times, transform.neighbourhood, draws.bits(), partners)
    own = draws.beta(transform.alpha, transform.alpha)
    own[draws.uniform() >= transform.probability] = 1.0
    own[partners == np.arange(len(partners))] = 1.0
    return partners, own


def mixed_labels(
    transform: Any, fields: Fields, draws: Draws, partners: NDArray[np.int64], own: NDArray[np.float32]
) -> Fields:
    """The fields that tell what was mixed: labels (n, classes), or the partner's label and "lambda"."""
    if transform.label is None:
        return {"lambda": own}
    labels = named(transform.label, fields)
    if transform.classes is None:
        added = f"{transform.label}_b"
        for name in (added, "lambda"):
            if name in fields:
                raise SchemaError(
                    f"{type(transform).__name__}: there is a field {name!r} already; to mix twice, give classes=… "
                    "so that labels become vectors"
                )
        return {added: labels[partners], "lambda": own}
    who = f"{type(transform).__name__}: field {transform.label!r}"
    vectors = as_vectors(who, labels, transform.classes, draws)
    out = np.empty_like(vectors)
    augment.mix(vectors, partners, own, np.float32(1) - own, out)
    return {transform.label: out}
