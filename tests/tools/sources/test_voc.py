"""Pascal VOC: where boxes come to stand, which images a subset has, and which records are bad."""

import json

import numpy as np
import pytest

from minibatch.tools.sources import BadRecord, BadRecords, Options, open_source, voc
from tests.tools.samples import DATA, converted, pack, picture, rows_of, run, write_files


def annotation(*objects, size=(4, 6), name="x.jpg"):
    """An XML file. objects: (class, xmin, ymin, xmax, ymax) or with a sixth, `difficult`; size: height and width."""
    parts = [
        f"<object><name>{label}</name>{''.join(f'<difficult>{d}</difficult>' for d in difficult)}"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></part>"
        f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for label, x0, y0, x1, y1, *difficult in objects
    ]
    shape = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{name}</filename>{shape}{''.join(parts)}</annotation>".encode()


IMAGES = {"1": picture(10), "2": picture(20, (8, 8)), "3": picture(30), "4": picture(40)}
OBJECTS = {
    "1": annotation(("dog", 1, 1, 6, 4), ("cat", 2, 3, 2, 3, 1)),
    "2": annotation(("ëlch", 1.5, 2, 7.25, 8, 0), size=(8, 8)),
    "3": annotation(size=None),
    "4": annotation(("dog", 3, 1, 4, 2)),
}
FILES = {
    **{f"JPEGImages/{name}.png": content for name, content in IMAGES.items()},
    **{f"Annotations/{name}.xml": content for name, content in OBJECTS.items()},
    "ImageSets/Main/train.txt": b"4\n2\n\n4\n",
    "ImageSets/Main/val.txt": b"1",
    "ImageSets/Main/dog_train.txt": b"4  1\n2 -1\n1  0\n",
    "README.md": b"cells",
}


def within(folder, files=FILES):
    return {f"{folder}/{name}": content for name, content in files.items()}


def plain(rows):
    return {name: [getattr(value, "tolist", lambda v=value: v)() for value in values] for name, values in rows.items()}


def test_boxes_are_half_open_from_0_and_labels_places_among_the_sorted_classes(tmp_path):
    dataset = converted(write_files(tmp_path / "voc", FILES), tmp_path / "out")
    read = dataset.read(np.arange(4))
    assert plain(read) == {
        "image": list(IMAGES.values()),
        "size": [[4, 6], [8, 8], [4, 6], [4, 6]],
        "boxes": [[[0, 0, 6, 4], [1, 2, 2, 3]], [[0.5, 1, 7.25, 8]], [], [[2, 0, 4, 2]]],
        "labels": [[1, 0], [2], [], [1]],
        "difficult": [[False, True], [False], [], [False]],
        "file": [f"JPEGImages/{name}.png" for name in "1234"],
    }
    assert (read["boxes"].dtype, read["labels"].dtype) == (np.float32, np.int64)
    assert json.loads(dataset.fields["labels"].metadata["classes"]) == ["cat", "dog", "ëlch"]


@pytest.mark.parametrize(("subset", "names"), [(None, "1234"), ("train", "24"), ("val", "1"), ("dog_train", "14")])
def test_a_subset_has_the_images_of_its_list_and_the_labels_of_all(subset, names, tmp_path):
    source = write_files(tmp_path / "voc", FILES)
    rows = rows_of(source, subset=subset)
    assert rows["file"] == [f"JPEGImages/{name}.png" for name in names]
    whole = rows_of(source)
    for file, labels in zip(rows["file"], rows["labels"], strict=True):
        assert labels.tolist() == whole["labels"][whole["file"].index(file)].tolist()


def test_a_folder_and_its_tars_give_the_same_rows_wherever_they_begin(tmp_path):
    expected = plain(rows_of(write_files(tmp_path / "a", FILES)))
    inside = within("VOCdevkit/VOC2012")
    sources = [
        write_files(tmp_path / "b", inside),
        pack(tmp_path / "c.tar", [(f"./{name}", content) for name, content in FILES.items()]),
        pack(tmp_path / "d.tar.gz", list(inside.items())[::-1]),
    ]
    for number, source in enumerate(sources):
        rows = plain(rows_of(source))
        rows["file"] = [name[name.index("JPEG") :] for name in rows["file"]]
        assert rows == expected, number


def test_the_description_says_what_there_is(tmp_path):
    source = write_files(tmp_path / "voc", FILES)
    assert open_source(str(source)).describe() == (
        "4 images with 4 boxes of 3 classes (cat, dog, ëlch); --subset takes one of dog_train, train, val"
    )
    assert (
        open_source(str(source), Options(subset="val")).describe()
        == "1 image with 2 boxes of 3 classes (cat, dog, ëlch)"
    )


BAD = [
    (annotation(("cat", 0, 1, 3, 3)), r"box 1 of its annotation, x 0 … 3, .*expected 1 … 6 and 1 … 4, as Pascal VOC"),
    (annotation(("dog", 1, 1, 2, 2), ("cat", 1, 1, 7, 3)), "box 2 of its annotation, x 1 … 7"),
    (annotation(("cat", 1, 1, 3, 5)), "y 1 … 5, is empty or not inside"),
    (annotation(("cat", 4, 1, 3, 3)), "x 4 … 3, y 1 … 3, is empty"),
    (annotation(size=(40, 60)), r"has 4 × 6 pixels, its annotation says \(40, 60\)"),
    (annotation(("cat", "left", 1, 3, 3)), r"<bndbox/xmin> of <object> is 'left', expected a number"),
    (annotation(("cat", "nan", 1, 3, 3)), "is 'nan', expected a number"),
    (annotation(("", 1, 1, 3, 3)), "<object> has no <name>"),
    (annotation(("cat", 1, 1, 3, 3)).replace(b"ymax", b"yend"), "<object> has no <bndbox/ymax>"),
    (annotation()[:-3], "it is no XML: no element found|it is no XML: unclosed"),
    (b"", "it is no XML"),
    (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "it is no XML"),
]


@pytest.mark.parametrize(("content", "said"), BAD)
def test_a_bad_annotation_is_named_and_can_be_passed_over(content, said, tmp_path):
    source = write_files(tmp_path / "voc", {**FILES, "Annotations/2.xml": content, "JPEGImages/2.png": picture(20)})
    with pytest.raises(BadRecord, match=said) as caught:
        rows_of(source)
    assert caught.value.where in ("Annotations/2.xml", "JPEGImages/2.png")
    bad = BadRecords(1)
    assert [name[-5] for name in rows_of(source, bad=bad)["file"]] == ["1", "3", "4"]
    assert len(bad.found) == 1
    assert [name[-5] for name in rows_of(source, subset="val")["file"]] == ["1"]  # which it does not concern


def test_images_that_are_missing_or_broken_and_annotations_that_are_missing_are_bad_records(tmp_path):
    files = {**FILES, "JPEGImages/2.png": b"none", "ImageSets/Main/all.txt": b"1\n2\n4\n5\n"}
    del files["JPEGImages/4.png"]
    source = write_files(tmp_path / "voc", files)
    bad = BadRecords(3)
    assert rows_of(source, subset="all", bad=bad)["file"] == ["JPEGImages/1.png"]
    assert {record.where: record.reason.partition(":")[0] for record in bad.found} == {
        "JPEGImages/2.png": "the file is no readable image",
        "Annotations/4.xml": "there is no image 'JPEGImages/4.jpg'",
        "Annotations/5.xml": "there is no such annotation",
    }
    result = run("convert", source, tmp_path / "out", "--subset", "all", "--max-errors", 2)
    assert result.exit_code == 1
    assert "2 bad records before it were skipped" in " ".join(result.stderr.split())


def test_an_annotation_may_name_its_image_otherwise(tmp_path):
    files = {**FILES, "Annotations/4.xml": annotation(name="other.jpeg"), "JPEGImages/other.jpeg": IMAGES["4"]}
    del files["JPEGImages/4.png"]
    assert rows_of(write_files(tmp_path / "voc", files))["file"][-1] == "JPEGImages/other.jpeg"


def test_what_cannot_be_a_choice_is_refused_with_what_there_is(tmp_path):
    source = write_files(tmp_path / "voc", FILES)
    with pytest.raises(
        ValueError, match=r"no list 'ImageSets/Main/test\.txt' for --subset test; .*are dog_train, train"
    ):
        rows_of(source, subset="test")
    two = write_files(tmp_path / "two", {**within("VOC2007"), **within("VOC2012")})
    with pytest.raises(ValueError, match="holds the data sets VOC2007, VOC2012: name one of these folders"):
        rows_of(two)
    (source / "ImageSets/Main/train.txt").write_text("1\n1 2 3\n")
    with pytest.raises(ValueError, match=r"line 2 of 'ImageSets/Main/train\.txt' is '1 2 3', expected NAME"):
        rows_of(source, subset="train")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"holds no Annotations/\*\.xml"):
        rows_of(tmp_path / "none", format="pascal-voc")


def test_only_tars_that_begin_like_it_are_taken_for_it(tmp_path):
    assert voc.recognises(str(pack(tmp_path / "a.tar", FILES.items())))
    pets = {f"cat/{number}.png": picture(1) for number in range(3)}
    assert not voc.recognises(str(pack(tmp_path / "b.tar", pets.items())))


def test_bccd_is_read_whole(tmp_path):
    path = DATA / "bccd.tar"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    parts = {subset: rows_of(path, subset=subset) for subset in ("train", "val", "trainval", "test")}
    assert {subset: len(rows["file"]) for subset, rows in parts.items()} == {
        "train": 205, "val": 87, "trainval": 292, "test": 72,
    }  # fmt: skip
    assert sorted(parts["train"]["file"] + parts["val"]["file"]) == parts["trainval"]["file"]
    labels = np.concatenate(parts["trainval"]["labels"] + parts["test"]["labels"])
    assert np.bincount(labels).tolist() == [361, 4155, 372]
    boxes = np.concatenate(parts["test"]["boxes"])
    assert boxes.min() == 0
    assert boxes[:, 2].max() == 640
    assert (boxes[:, 2:] > boxes[:, :2]).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html><object/></html>", "it is no annotation, but XML of another kind: <html>"),
        (annotation(("dog", "1_0", 1, 6, 4)), "<bndbox/xmin> of <object> is '1_0', expected a number"),
        (annotation(("dog", 1, 1, 6, 4), size=(4.5, 6)), "<size/height> of <annotation> is '4.5', expected a whole"),
        (annotation(("dog", 1, 1, 6, 4), size=(4, -6)), "<size/width> of <annotation> is '-6', expected a whole"),
        (annotation(("dog", 1, 1, 6, 4), size=("1e300", 6)), "<size/height> of <annotation> is '1e300', expected"),
    ],
)
def test_what_only_looks_like_an_annotation_is_refused(content, reason):
    assert str(voc.parsed(content)).startswith(reason)
