"""Arguments and fields that do not fit a transform: refused with what was given and what was expected."""

import pickle
from typing import Any

import numpy as np
import pytest

from minibatch import errors
from minibatch.rng import Draws
from minibatch.transforms import (
    Cast,
    CenterCrop,
    ColorJitter,
    ColorNoise,
    CutMix,
    Cutout,
    Dropout,
    LabelSmoothing,
    MixUp,
    MultiCrop,
    Normalize,
    OneHot,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Resize,
    color_components,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (RandomCrop, {"size": 0}, r"RandomCrop\(size=…\) must be at least 1, got 0"),
        (RandomCrop, {"size": (3, 4, 5)}, r"must be one number or \(height, width\), got \(3, 4, 5\)"),
        (RandomCrop, {"size": 4, "padding": -1}, r"RandomCrop\(padding=…\) must be at least 0, got -1"),
        (RandomCrop, {"size": 4, "padding_mode": "wrap"}, r"must be one of \['zero', 'edge', 'reflect'\], got 'wrap'"),
        (CenterCrop, {"size": 2.5}, "must be an integer, got 2.5"),
        (MultiCrop, {"size": 2, "views": "all"}, "'corners' or 'grid', got 'all'"),
        (Resize, {}, r"Resize takes size=… or shorter_side=…, got None and None"),
        (Resize, {"size": 3, "shorter_side": 3}, "size=… or shorter_side=…, got 3 and 3"),
        (Resize, {"size": 3, "method": "cubic"}, r"Resize\(method=…\) must be one of .*, got 'cubic'"),
        (RandomResizedCrop, {"size": 3, "scale": (0.5, 0.2)}, r"two ascending numbers in 0.0 … 1.0, got \(0.5, 0.2\)"),
        (RandomResizedCrop, {"size": 3, "ratio": (0.0, 1.0)}, "must be finite and above 0, got"),
        (RandomResizedCrop, {"size": 3, "ratio": 1.0}, "must be two ascending numbers"),
        (Normalize, {"mean": NAN}, r"Normalize\(mean=…\) must be finite"),
        (Normalize, {"std": (1.0, 0.0)}, r"Normalize\(std=…\) must be above 0, got \(1.0, 0.0\)"),
        (Normalize, {"unit": 0.0}, r"unit=…\) must be finite and above 0, got 0.0"),
        (ColorNoise, {"vectors": np.eye(3), "amounts": (1, 2)}, r"got shapes \(3, 3\) and \(2,\)"),
        (ColorNoise, {"vectors": [[NAN]], "amounts": [1]}, "must be finite"),
        (ColorNoise, {"vectors": [[1]], "amounts": [1], "scale": -1}, "must be in 0 … inf, got -1"),
        (ColorNoise, {"vectors": [[1]], "amounts": [1], "form": "pca"}, "'alexnet' or 'cuda-convnet2', got 'pca'"),
        (
            ColorNoise,
            {"vectors": [[1]], "amounts": [1], "center": (1, 2)},
            r"one number, or 1, one per .* got \(1, 2\)",
        ),
        (ColorJitter, {"contrast": -0.5}, r"ColorJitter\(contrast=…\) must be in 0 …"),
        (Dropout, {"field": "x", "probability": 1.5}, r"Dropout\(probability=…\) must be in 0 … 1, got 1.5"),
        (Dropout, {"field": "x", "probability": 1.0}, "leaves nothing to scale: set scale=False"),
        (Cutout, {"size": 3, "count": 0}, r"Cutout\(count=…\) must be at least 1, got 0"),
        (RandomErasing, {"probability": NAN}, "must be in 0 … 1, got nan"),
        (RandomErasing, {"scale": (0, 2)}, "two ascending numbers"),
        (RandomErasing, {"fill": "mean"}, "numbers or 'noise', got 'mean'"),
        (MixUp, {"alpha": 0}, r"MixUp\(alpha=…\) must be finite and above 0, got 0"),
        (MixUp, {"neighbourhood": 0}, r"MixUp\(neighbourhood=…\) must be at least 1, got 0"),
        (CutMix, {"probability": 2}, r"CutMix\(probability=…\) must be in 0 … 1, got 2"),
        (CutMix, {"classes": 10, "label": None}, "needs the field of the labels"),
        (OneHot, {"classes": 0}, r"OneHot\(classes=…\) must be at least 1"),
        (LabelSmoothing, {"classes": 3, "epsilon": 1.5}, "must be in 0 … 1, got 1.5"),
        (Cast, {"field": "x", "dtype": "bool"}, "must be an integer or floating-point type, got 'bool'"),
        (Cast, {"field": "x", "dtype": "int8", "scale": NAN}, r"Cast\(scale=…\) must be finite, got nan"),
    ],
)
def test_an_argument_that_cannot_be_is_refused(kind, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        kind(**options)


IMAGES = np.zeros((2, 6, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("transform", "values", "message"),
    [
        (RandomCrop(size=7), IMAGES, "images of 6 rows, with 0 more on each side, but the crop wants 7"),
        (RandomCrop(size=(6, 13), padding=2), IMAGES, "images of 8 columns, with 2 more on each side, .* wants 13"),
        (RandomCrop(size=4, padding=6, padding_mode="reflect"), IMAGES, "can be reflected by at most 5"),
        (RandomCrop(size=1, padding=1), np.zeros((2, 0, 3)), "images of no rows"),
        (CenterCrop(size=9), IMAGES, "images of 6 rows"),
        (MultiCrop(size=9), IMAGES, "images of 6 rows"),
        (CenterCrop(size=2), np.zeros((2, 9)), r"has shape \(2, 9\), expected \(n, height, width\)"),
        (CenterCrop(size=2), np.zeros((2, 3, 4, 5, 6)), r"expected \(n, height, width\)"),
        (CenterCrop(size=2), np.zeros((2, 3, 4), object), "holds Python objects"),
        (Resize(size=3), np.zeros((2, 3, 4), np.int32), "dtype int32, expected uint8 or float32; see Cast"),
        (Resize(size=3), np.zeros((2, 0, 4), np.uint8), "images without pixels"),
        (RandomResizedCrop(size=3), np.zeros((2, 4, 0), np.uint8), "images without pixels"),
        (Normalize(), np.zeros((2, 4, 4)), "dtype float64, expected uint8 or int8 or"),
        (Normalize(mean=(1.0, 2.0)), IMAGES, r"images of shape \(6, 8, 3\), but mean has shape \(2,\)"),
        (Normalize(std=np.ones((6, 7, 3))), IMAGES, r"std has shape \(6, 7, 3\)"),
        (ColorNoise(vectors=[[1, 2]], amounts=[1]), IMAGES, "has 3 channels, its vectors have 2"),
        (ColorJitter(), np.zeros((2, 3, 4, 2), np.uint8), "has 2 channels, expected 1 or 3"),
        (Dropout(field="image", probability=0.5), IMAGES, "dtype uint8, expected float32 or float64"),
        (Cutout(size=2, fill=(1.0, 2.0)), IMAGES, "has 3 channels, fill has 2"),
        (Cutout(size=2, fill=256.0), IMAGES, "uint8 images cannot hold fill=256.0"),
        (RandomErasing(fill=0.5), IMAGES, "uint8 images cannot hold fill=0.5"),
        (MixUp(), np.zeros((2, 3)), "dtype float64, expected uint8 or float32"),
        (CutMix(), np.zeros((2, 3)), r"has shape \(2, 3\)"),
        (Cast(field="image", dtype="int8"), np.array(["a", "b"]), "expected numbers"),
        (Cast(field="image", dtype="int8"), np.array([0.0, NAN]), "has NaN, which no int8 is"),
    ],
)
def test_a_field_that_does_not_fit_is_refused(transform, values, message):
    fields = {"image": values, "label": np.zeros(len(values), np.int64)}
    with pytest.raises(errors.SchemaError, match=message) as caught:
        transform(fields, Draws(1, "test", np.arange(2)))
    assert f"{type(transform).__name__}: " in str(caught.value)
    with pytest.raises(errors.SchemaError, match=r"no field .*: the minibatch has \['other'\]"):
        transform({"other": values}, Draws(1, "test", np.arange(2)))


LABELS = [
    (np.array([0, 3]), r"has the class 3 \(row 8, nominal time 6\), expected 0 … 2"),
    (np.array([0, -1]), "has the class -1"),
    (np.array([0.0, 1.0]), r"shape \(2,\) and dtype float64, expected class numbers \(n,\)"),
    (np.array([[0], [1]]), "expected class numbers"),
    (np.zeros((2, 4), np.float32), "4 classes, expected 3|expected class numbers"),
]


@pytest.mark.parametrize(("labels", "message"), LABELS)
@pytest.mark.parametrize("transform", [OneHot(classes=3), LabelSmoothing(classes=3), MixUp(classes=3)])
def test_labels_that_are_no_classes_are_refused(transform, labels, message):
    fields = {"image": IMAGES, "label": labels}
    with pytest.raises(errors.SchemaError, match=message) as caught:
        transform(fields, Draws(1, "test", np.array([5, 6]), np.array([9, 8])))
    assert f"{type(transform).__name__}: field 'label'" in str(caught.value)


def test_mixing_twice_without_vectors_would_lose_a_label_and_is_refused():
    fields = {"image": IMAGES, "label": np.zeros(2, np.int64)}
    once = MixUp()(fields, Draws(1, "a", np.arange(2)))
    with pytest.raises(errors.SchemaError, match="there is a field 'label_b' already; to mix twice, give classes=…"):
        CutMix()(once, Draws(1, "b", np.arange(2)))
    with pytest.raises(ValueError, match="in the order of their nominal times"):
        MixUp()(fields, Draws(1, "a", np.array([1, 0])))


def test_no_pixels_have_no_components():
    with pytest.raises(ValueError, match="no pixels"):
        color_components([np.zeros((0, 3))])


EVERY_KIND: list[Any] = [
    RandomCrop(size=4, padding=1),
    CenterCrop(size=(4, 5)),
    MultiCrop(size=4),
    Resize(size=3),
    Resize(shorter_side=3, method="smooth"),
    RandomResizedCrop(size=3),
    Normalize(mean=(1, 2, 3), std=np.ones((6, 8, 3)), channels_first=True),
    ColorNoise(vectors=np.eye(3), amounts=(1, 2, 3)),
    ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5),
    Cutout(size=3),
    RandomErasing(fill="noise"),
    MixUp(classes=3),
    MixUp(),
    CutMix(),
    OneHot(classes=3),
    LabelSmoothing(classes=3),
    Cast(field="image", dtype="float32"),
]


@pytest.mark.parametrize("transform", EVERY_KIND)
def test_an_empty_minibatch_has_the_shapes_and_types_of_a_full_one(transform):
    def made(n: int) -> dict[str, Any]:
        fields = {"image": IMAGES[:n], "label": np.zeros(n, np.int64)}
        return transform(fields, Draws(1, "test", np.arange(n)))

    full, empty = made(2), made(0)
    assert full.keys() == empty.keys()
    for name, values in full.items():
        assert (empty[name].dtype, empty[name].shape) == (values.dtype, (0, *values.shape[1:]))


@pytest.mark.parametrize("transform", EVERY_KIND)
def test_a_transform_can_be_pickled_and_takes_memory_in_any_order(transform):
    fields = {"image": np.arange(2 * 6 * 8 * 3).astype(np.uint8).reshape(2, 6, 8, 3), "label": np.arange(2)}
    before = transform(fields, Draws(1, "test", np.arange(2)))
    again = pickle.loads(pickle.dumps(transform))
    strided = {"image": np.asfortranarray(fields["image"]), "label": np.arange(4)[::2] // 2}
    strided["image"].flags.writeable = False
    after = again(strided, Draws(1, "test", np.arange(2)))
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_mean_image_is_copied():
    mean = np.ones((6, 8, 3))
    normalize = Normalize(mean=mean)
    mean[:] = 100
    assert (normalize({"image": IMAGES}, Draws(1, "n", np.arange(2)))["image"] == -1).all()
