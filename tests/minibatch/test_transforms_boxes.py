"""Images and boxes changed in step, and regions sampled from them: each against what it says, however time is cut."""

import numpy as np
import pytest

from minibatch import Ragged, rng
from minibatch.errors import SchemaError
from minibatch.rng import Draws
from minibatch.transforms import (
    AnchorGrid,
    CropWithBoxes,
    FlipWithBoxes,
    PresentClasses,
    Resize,
    ResizeBoxes,
    SampleRois,
    apply,
    name_operations,
)
from tests.plain import boxes as plain

N, H, W = 12, 24, 36
GRID = AnchorGrid(image=(H, W), sizes=(6, 12), step=0.25)


def painted(n=N, seed=1, most=4):
    """Black images with up to `most` boxes that do not touch each other, each painted in a shade of its own."""
    images = np.zeros((n, H, W), np.uint8)
    boxes, labels = [], []
    for i in range(n):
        words = rng.integers(rng.key(seed, "painted", i), np.arange(1 + 4 * most), 1000)
        count = words[0] % (most + 1)
        for j in range(count):
            # Each in a column of its own.
            left = j * (W // most) + words[1 + 4 * j] % 3
            right = left + 2 + words[2 + 4 * j] % 4
            top = words[3 + 4 * j] % (H - 8)
            bottom = top + 2 + words[4 + 4 * j] % 6
            images[i, top:bottom, left:right] = 50 + 10 * j
            boxes.append((left, top, right, bottom))
            labels.append(j)
    counts = [rng.integers(rng.key(seed, "painted", i), np.arange(1), 1000)[0] % (most + 1) for i in range(n)]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return {
        "image": images,
        "size": np.tile([H, W], (n, 1)),
        "boxes": Ragged(np.array(boxes, np.float32).reshape(-1, 4), offsets),
        "labels": Ragged(np.array(labels, np.int64), offsets),
    }


def extent(image, shade):
    """Where an image has a shade: xmin, ymin, xmax, ymax."""
    rows, columns = np.nonzero(image == shade)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def check_boxes_bound_their_shades(fields):
    seen = 0
    for image, boxes, labels in zip(fields["image"], fields["boxes"], fields["labels"], strict=True):
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            assert extent(image, 50 + 10 * label) == box
            seen += 1
    return seen


def draws(name="operation", n=N, start=0):
    return Draws(7, name, np.arange(start, start + n))


@pytest.mark.parametrize(("horizontal", "vertical"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5), (0.0, 0.0)])
def test_flipped_boxes_bound_what_they_bounded(horizontal, vertical):
    fields = painted()
    flipped = FlipWithBoxes(horizontal=horizontal, vertical=vertical)(fields, draws())
    assert check_boxes_bound_their_shades(flipped) == len(fields["boxes"].values) > 10
    changed = (flipped["image"] != fields["image"]).any((1, 2))
    assert changed.any() == (horizontal + vertical > 0)
    assert changed.sum() < N - 1 or horizontal + vertical >= 1
    twice = FlipWithBoxes(horizontal=horizontal, vertical=vertical)(flipped, draws())
    np.testing.assert_array_equal(twice["image"], fields["image"])
    np.testing.assert_array_equal(twice["boxes"].values, fields["boxes"].values)


def test_flipping_leaves_what_it_was_given_alone():
    fields = painted()
    before = fields["image"].copy(), fields["boxes"].values.copy()
    FlipWithBoxes(horizontal=1.0, vertical=1.0)(fields, draws())
    np.testing.assert_array_equal(fields["image"], before[0])
    np.testing.assert_array_equal(fields["boxes"].values, before[1])


def test_resized_boxes_bound_what_they_bounded():
    fields = painted()
    size = (3 * H, 2 * W)
    resized = Resize(size=size, method="nearest")(fields, draws())
    resized = ResizeBoxes(size=size)(resized, draws())
    assert check_boxes_bound_their_shades(resized) == len(fields["boxes"].values)
    assert resized["size"].tolist() == [[3 * H, 2 * W]] * N
    assert resized["size"].dtype == fields["size"].dtype


def test_images_of_several_sizes_are_scaled_each_by_its_own():
    boxes = Ragged(np.array([[10, 10, 20, 20]] * 3, np.float32), np.array([0, 1, 1, 3]))
    fields = {"boxes": boxes, "size": np.array([[100, 100], [7, 7], [20, 40]])}
    scaled = ResizeBoxes(size=(10, 10))(fields, draws(n=3))["boxes"]
    assert scaled.values.tolist() == [[1, 1, 2, 2], [2.5, 5, 5, 10], [2.5, 5, 5, 10]]
    assert scaled.lengths.tolist() == [1, 0, 2]


@pytest.mark.parametrize("least", [0.0, 0.5, 1.0])
def test_cropped_boxes_bound_what_is_left_and_the_others_are_gone(least):
    fields = painted(n=60)
    crop = CropWithBoxes(size=(14, 20), least=least, along=("labels",))
    cropped = crop(fields, draws(n=60))
    assert cropped["image"].shape == (60, 14, 20)
    kept = check_boxes_bound_their_shades(cropped)
    assert 0 < kept < len(fields["boxes"].values)
    for i in range(60):
        left = cropped["labels"][i].tolist()
        for box, label in zip(fields["boxes"][i].tolist(), fields["labels"][i].tolist(), strict=True):
            share = (cropped["image"][i] == 50 + 10 * label).sum() / plain.area(box)
            assert (label in left) == (share >= least and share > 0)


def test_crops_stand_everywhere():
    images = np.arange(H * W, dtype=np.int64).reshape(1, H, W).repeat(3000, 0)
    empty = Ragged(np.zeros((0, 4), np.float32), np.zeros(3001, np.int64))
    corners = CropWithBoxes(size=(H - 2, W - 3))({"image": images, "boxes": empty}, draws(n=3000))["image"][:, 0, 0]
    places, counts = np.unique(corners, return_counts=True)
    assert places.tolist() == [y * W + x for y in range(3) for x in range(4)]
    assert counts.min() > 180


def test_present_classes_are_those_of_the_labels():
    fields = painted()
    present = PresentClasses(classes=5)(fields, draws())["present"]
    assert present.dtype == np.bool_
    assert present.tolist() == [[c in labels.tolist() for c in range(5)] for labels in fields["labels"]]


OPERATIONS = name_operations(
    [
        FlipWithBoxes(horizontal=0.5, vertical=0.5),
        CropWithBoxes(size=(16, 24), along=("labels",)),
        SampleRois(grid=AnchorGrid(image=(16, 24), sizes=(6,), step=0.25), rois=16),
        PresentClasses(classes=4),
    ]
)


def test_nothing_depends_on_how_time_is_cut():
    fields = painted()
    times = np.arange(100, 100 + N)
    whole, _, _ = apply(OPERATIONS, fields, 3, times, times)
    for start, stop in ((0, 1), (1, 6), (6, N)):
        some = {name: values[start:stop] for name, values in fields.items()}
        part, _, _ = apply(OPERATIONS, some, 3, times[start:stop], times[start:stop])
        for name, values in part.items():
            expected = whole[name][start:stop]
            np.testing.assert_array_equal(
                *((each.values if isinstance(each, Ragged) else each) for each in (values, expected))
            )


def test_anchors_cover_the_image_evenly():
    assert len(GRID.boxes) == 16 * 24 + 8 * 12
    small = GRID.boxes[: 16 * 24].reshape(16, 24, 4)
    middles = (small[5, 5:, 0] + small[5, 5:, 2]) / 2
    np.testing.assert_allclose(np.diff(middles)[:15], W / 24)
    assert GRID.boxes.min() == 0
    assert GRID.boxes[:, [0, 2]].max() == W
    assert GRID.boxes[:, [1, 3]].max() == H
    assert (GRID.boxes[:, 2:] > GRID.boxes[:, :2]).all()


def test_regions_have_the_labels_and_targets_of_the_box_that_they_overlap_most():
    fields = painted()
    sampled = SampleRois(grid=GRID, rois=40, foreground=0.5)(fields, draws())
    positive = 0
    for i in range(N):
        boxes, labels = fields["boxes"][i].tolist(), fields["labels"][i].tolist()
        for roi, label, target in zip(
            sampled["rois"][i], sampled["roi_labels"][i], sampled["roi_targets"][i], strict=True
        ):
            place, most = plain.nearest(roi.tolist(), boxes)
            assert roi.min() >= 0
            assert roi[2] <= W
            assert roi[3] <= H
            if most >= 0.5:
                assert label == 1 + labels[place]
                np.testing.assert_allclose(target, plain.refinement(roi.tolist(), boxes[place]), rtol=1e-4, atol=1e-4)
                positive += 1
            else:
                assert label == 0
                assert not target.any()
    assert positive > 50


def test_as_many_regions_as_asked_for_show_boxes_and_every_box_has_its_turn():
    fields = painted()
    sampled = SampleRois(grid=GRID, rois=40, foreground=0.5, jitter=6)(fields, draws())
    for labels, found in zip(fields["labels"], sampled["roi_labels"], strict=True):
        counts = np.bincount(found, minlength=5)
        own = counts[1 + labels]
        assert counts[1:].sum() == own.sum() <= 20
        if len(labels) >= 3:
            assert own.sum() == 20
            assert own.min() >= 4


def test_half_of_the_background_is_hard_to_tell():
    fields = painted()
    for hard in (0.0, 0.5):
        sampled = SampleRois(grid=GRID, rois=40, foreground=0.25, hard=hard)(fields, draws())
        for boxes, rois, labels in zip(fields["boxes"], sampled["rois"], sampled["roi_labels"], strict=True):
            if len(boxes) >= 3:
                near = [plain.nearest(roi, boxes.tolist())[1] >= 0.1 for roi in rois[labels == 0].tolist()]
                assert sum(near) == round(hard * len(near))


def test_where_nothing_is_all_is_background():
    empty = {
        "boxes": Ragged(np.zeros((0, 4), np.float32), np.zeros(3, np.int64)),
        "labels": Ragged(np.zeros(0, np.int64), np.zeros(3, np.int64)),
    }
    sampled = SampleRois(grid=GRID, rois=8)(empty, draws(n=2))
    assert not sampled["roi_labels"].any()
    assert len(np.unique(sampled["rois"], axis=1)) > 1
    assert not np.array_equal(*sampled["rois"])


WRONG_BOXES = Ragged(np.zeros((2, 3), np.float32), np.array([0, 2]))
GOOD = {
    "image": np.zeros((1, 8, 8)),
    "size": np.array([[8, 8]]),
    "boxes": Ragged(np.ones((2, 4), np.float32), np.array([0, 2])),
    "labels": Ragged(np.zeros(2, np.int64), np.array([0, 2])),
}
OTHER_LABELS = Ragged(np.array([9]), np.array([0, 1]))


@pytest.mark.parametrize(
    ("transform", "changes", "said"),
    [
        (FlipWithBoxes(), {"boxes": WRONG_BOXES}, r"expected boxes: lists of float32 \(4,\)"),
        (FlipWithBoxes(), {"boxes": np.zeros((1, 4), np.float32)}, "expected boxes"),
        (FlipWithBoxes(boxes="frames"), {}, "no field 'frames'"),
        (FlipWithBoxes(), {"image": np.zeros((1, 8))}, r"has shape \(1, 8\), expected"),
        (ResizeBoxes(size=4), {"size": np.array([8])}, r"expected the height and width of each image"),
        (ResizeBoxes(size=4), {"size": np.array([[8, 0]])}, r"at least 1"),
        (CropWithBoxes(size=9), {}, "8 × 8 pixels, too few for a window of 9 × 9"),
        (CropWithBoxes(size=4, along=("labels",)), {"labels": OTHER_LABELS}, "one element per box"),
        (SampleRois(grid=GRID), {"labels": OTHER_LABELS}, "one element per box"),
        (PresentClasses(classes=2), {"labels": OTHER_LABELS}, "labels from 9 to 9, expected 0 to 1"),
        (PresentClasses(classes=2), {"labels": np.zeros(1)}, "expected a list field 'labels'"),
    ],
)
def test_fields_that_do_not_fit_are_refused(transform, changes, said):
    with pytest.raises(SchemaError, match=said):
        transform({**GOOD, **changes}, draws(n=1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: FlipWithBoxes(horizontal=1.5),
        lambda: CropWithBoxes(size=0),
        lambda: CropWithBoxes(size=4, least=-1),
        lambda: ResizeBoxes(size=(4, 4, 4)),
        lambda: PresentClasses(classes=0),
        lambda: AnchorGrid(image=(8, 8), sizes=()),
        lambda: AnchorGrid(image=(8, 8), sizes=(4,), step=0),
        lambda: SampleRois(grid=GRID, rois=0),
        lambda: SampleRois(grid=GRID, rois=10_000),
        lambda: SampleRois(grid=GRID, shift=0.5),
        lambda: SampleRois(grid=GRID, positive=0.0),
    ],
)
def test_arguments_that_do_not_fit_are_refused(make):
    with pytest.raises(ValueError, match=r"must be|of only 480 anchors"):
        make()
