"""Images by class: which layouts are understood, what is stored, and which images are refused."""

import json

import numpy as np
import pytest
from PIL import Image

from minibatch.tools.sources import Options, images, open_source
from tests.tools.samples import DATA, PETS, converted, pack, picture, rows_of, run, write_files

SPLIT = {
    "train/cat/1.png": picture(1),
    "train/dog/1.png": picture(2),
    "train/dog/2.png": picture(3),
    "test/dog/9.png": picture(4),
}


def layout_of(names, subset=None):
    layout = images.lay_out(names, subset, "SOURCE")
    return [(name, layout.classes[label]) for name, label in zip(layout.names, layout.labels, strict=True)]


def test_encoded_images_come_with_label_class_names_and_file(tmp_path):
    dataset = converted(write_files(tmp_path / "pets", PETS), tmp_path / "out")
    read = dataset.read(np.arange(4))
    assert read["image"].tolist() == list(PETS.values())
    assert read["label"].tolist() == [0, 0, 1, 2]
    assert read["label"].dtype == np.int64
    assert read["file"].tolist() == list(PETS)
    assert json.loads(dataset.fields["label"].metadata["classes"]) == ["cat", "dog", "ëlch"]


def test_a_folder_and_its_tars_give_one_fingerprint_however_packed(tmp_path):
    sources = [
        write_files(tmp_path / "pets", PETS),
        pack(tmp_path / "a.tar", list(PETS.items())[::-1]),
        pack(tmp_path / "b.tar.gz", PETS.items()),
        pack(tmp_path / "c.tgz", [("./" + name, content) for name, content in sorted(PETS.items(), reverse=True)]),
    ]
    fingerprints = {converted(source, tmp_path / f"out{i}").fingerprint for i, source in enumerate(sources)}
    assert len(fingerprints) == 1


def test_decoded_images_are_pixels_of_one_shape(tmp_path):
    dataset = converted(write_files(tmp_path / "pets", PETS), tmp_path / "out", "--decode")
    read = dataset.read(np.arange(4))["image"]
    assert (read.dtype, read.shape) == (np.uint8, (4, 4, 6, 3))
    assert read[:, 0, 0].tolist() == [[10, 20, 7], [20, 40, 7], [30, 60, 7], [40, 80, 7]]


@pytest.mark.parametrize(
    ("content", "pixel"),
    [
        (picture(77, kind="PNG", mode="L"), [77, 77, 77]),
        (picture(1, kind="PNG", mode="1"), [255, 255, 255]),
        (picture((1, 2, 3, 0), kind="PNG", mode="RGBA"), [1, 2, 3]),
        (picture((9, 255), kind="PNG", mode="LA"), [9, 9, 9]),
        (picture(120, kind="JPEG", mode="L"), [120, 120, 120]),
        (picture(5, kind="BMP"), [5, 10, 7]),
        (picture(5, kind="PPM"), [5, 10, 7]),
    ],
)
def test_decoding_turns_every_8_bit_mode_into_rgb(content, pixel, tmp_path):
    source = write_files(tmp_path, {"a/1.png": content})
    assert rows_of(source, decode=True)["image"][0][0, 0].tolist() == pixel


def test_pixels_that_8_bits_cannot_hold_are_refused_when_decoding_and_kept_when_not(tmp_path):
    source = write_files(tmp_path, {"a/1.png": picture(60_000, mode="I;16")})
    with pytest.raises(ValueError, match=r"'a/1\.png' has pixels of mode 'I;16'.*or leave --decode out"):
        rows_of(source, decode=True)
    assert len(rows_of(source)["image"]) == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_jpeg_png_and_the_others_are_read(kind, tmp_path):
    content = picture(50, kind=kind)
    source = write_files(tmp_path, {f"a/1.{kind.lower()}": content})
    assert rows_of(source)["image"] == [content]
    with Image.open(tmp_path / f"a/1.{kind.lower()}") as expected:
        pixels = np.asarray(expected.convert("RGB"))
    assert np.array_equal(rows_of(source, decode=True)["image"][0], pixels)


def test_the_first_image_of_another_shape_is_named_with_both_shapes(tmp_path):
    files = {"a/1.png": picture(1), "a/2.png": picture(2), "b/3.png": picture(3, (9, 6)), "b/4.png": picture(4, (1, 1))}
    source = write_files(tmp_path / "in", files)
    with pytest.raises(
        ValueError, match=r"'a/1\.png' has 4 × 6 and 'b/3.png' has 9 × 6: resize them, or leave --decode out"
    ):
        rows_of(source, decode=True)
    assert len(rows_of(source)["image"]) == 4


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"this is text",
        picture(1, (64, 64), "JPEG")[:-20],
        picture(1, (64, 64), "JPEG")[:300],
        picture(1, (64, 64), "PNG")[:-30],
        picture(1, (64, 64), "PNG")[:50],
        picture(1, (64, 64), "BMP")[:-1],
    ],
    ids=["empty", "text", "jpeg's end", "jpeg's middle", "png's end", "png's header", "bmp's end"],
)
def test_a_broken_image_is_refused_by_its_name_within_the_tar(content, decode, tmp_path):
    source = pack(tmp_path / "a.tar", [("a/1.png", picture(1, (64, 64))), ("a/2.png", content)])
    with pytest.raises(ValueError, match=r"a\.tar': 'a/2\.png' is no readable image: .*; replace or remove it"):
        rows_of(source, decode=decode)


# Layouts that are understood: names, subset → (name, class)
LAYOUTS = [
    (["cat/1.jpg", "dog/2.jpg"], None, [("cat/1.jpg", "cat"), ("dog/2.jpg", "dog")]),
    (["cat/1.jpg", "dog/x/y/2.jpg"], None, [("cat/1.jpg", "cat"), ("dog/x/y/2.jpg", "dog")]),
    (["pets/cat/1.jpg", "pets/dog/2.jpg"], None, [("pets/cat/1.jpg", "cat"), ("pets/dog/2.jpg", "dog")]),
    (["a/b/cat/1.jpg", "a/b/dog/2.jpg"], None, [("a/b/cat/1.jpg", "cat"), ("a/b/dog/2.jpg", "dog")]),
    (["cat/1.jpg", "cat/2.jpg"], None, [("cat/1.jpg", "cat"), ("cat/2.jpg", "cat")]),
    (["test/cat/1.jpg", "train/dog/2.jpg"], "train", [("train/dog/2.jpg", "dog")]),
    (["pets/test/cat/1.jpg", "pets/train/dog/2.jpg"], "test", [("pets/test/cat/1.jpg", "cat")]),
    (["train/cat/1.jpg", "train/dog/2.jpg"], None, [("train/cat/1.jpg", "cat"), ("train/dog/2.jpg", "dog")]),
    (["train/cat/1.jpg", "train/dog/2.jpg"], "train", [("train/cat/1.jpg", "cat"), ("train/dog/2.jpg", "dog")]),
    (["fold 1/cat/1.jpg", "fold 2/cat/2.jpg"], "fold 2", [("fold 2/cat/2.jpg", "cat")]),
    (["in/train/a/1.jpg", "logo.png"], "in", [("in/train/a/1.jpg", "train")]),
    (["test/1.jpg", "train/2.jpg"], None, [("test/1.jpg", "test"), ("train/2.jpg", "train")]),
    (["test/a/1.jpg", "trees/a/2.jpg"], None, [("test/a/1.jpg", "test"), ("trees/a/2.jpg", "trees")]),
]


@pytest.mark.parametrize(("names", "subset", "expected"), LAYOUTS)
def test_the_class_is_the_folder_below_the_subset_and_around_all_else(names, subset, expected):
    assert layout_of(names, subset) == expected


@pytest.mark.parametrize(
    ("names", "subset", "said"),
    [
        (["1.jpg"], None, "'1.jpg' lies in no class.*top folders.* are none"),
        (["cat/1.jpg", "2.jpg"], None, r"'2.jpg' lies in no class.* are cat \(1 image\)"),
        (["train/1.jpg", "test/cat/2.jpg"], "train", "'train/1.jpg' lies in no class"),
        (["cat/1.jpg", "dog/1.jpg"], "cat", "'cat/1.jpg' lies in no class"),
        (
            ["train/a/1.jpg", "test/a/1.jpg", "test/a/2.jpg"],
            None,
            r"subsets test \(2 images\), train \(1 image\): choose",
        ),
        (
            ["Train/a/1.jpg", "Val/a/1.jpg"],
            None,
            r"subsets Train \(1 image\), Val \(1 image\): choose one, such as --subset",
        ),
        (["train/a/1.jpg", "test/a/1.jpg"], "valid", r"no subset 'valid'; its top folders are test \(1 image\), train"),
        (["cat/1.jpg"], "", "no subset ''"),
    ],
)
def test_layouts_without_an_answer_are_refused_with_what_was_found(names, subset, said):
    with pytest.raises(ValueError, match=f"'SOURCE'.*{said}"):
        images.lay_out(names, subset, "SOURCE")


def test_a_label_means_the_same_in_every_subset(tmp_path):
    source = write_files(tmp_path / "pets", SPLIT)
    train = converted(source, tmp_path / "train", "--subset", "train")
    test = converted(source, tmp_path / "test", "--subset", "test")
    assert train.read(np.arange(3))["label"].tolist() == [0, 1, 1]
    assert test.read([0])["label"].tolist() == [1]
    assert train.fields["label"].metadata == test.fields["label"].metadata


def test_the_description_names_what_was_left_out_and_hints_at_likely_subsets(tmp_path):
    write_files(tmp_path, {"cat/1.png": b"", "cat/.hidden.png": b"", "cat/notes.txt": b"", "README": b""})
    assert open_source(str(tmp_path)).describe() == (
        "1 image in 1 class (cat); left out 3 other files: README, cat/.hidden.png, cat/notes.txt"
    )
    folds = write_files(tmp_path / "folds", {f"all/fold{i}/{c}/1.png": b"" for i in (1, 2) for c in ("cat", "dog")})
    described = open_source(str(folds)).describe()
    assert "2 classes (fold1, fold2)" in described
    assert (
        "each class holds the folders cat, dog: if these are the classes, choose one of those with --subset"
        in described
    )
    assert "4 images" in described
    assert "--subset" not in open_source(str(folds), Options(subset="fold1")).describe()


def test_a_folder_without_images_is_refused(tmp_path):
    write_files(tmp_path, {"a/1.txt": b"", "b/2.dat": b""})
    with pytest.raises(ValueError, match=r"holds no images, 2 other files; images are \.bmp"):
        open_source(str(tmp_path))


@pytest.fixture(scope="module")
def cifar():
    path = DATA / "cifar10-jpg.tar.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def test_cifar10_becomes_encoded_images_and_pixels_of_one_of_its_subsets(cifar, tmp_path):
    dataset = converted(cifar, tmp_path / "encoded", "--subset", "test", "--limit", 1200)
    read = dataset.read(np.arange(1200))
    assert json.loads(dataset.fields["label"].metadata["classes"])[:3] == ["airplane", "automobile", "bird"]
    assert np.bincount(read["label"]).tolist() == [1000, 200]
    assert read["file"][1000] == "test/automobile/0000.jpg"
    pixels = converted(cifar, tmp_path / "decoded", "--subset", "test", "--decode", "--limit", 20).read(np.arange(20))
    assert (pixels["image"].dtype, pixels["image"].shape) == (np.uint8, (20, 32, 32, 3))
    for encoded, decoded in zip(read["image"], pixels["image"], strict=False):
        (tmp_path / "image.jpg").write_bytes(encoded)
        with Image.open(tmp_path / "image.jpg") as image:
            assert np.array_equal(np.asarray(image), decoded)


def test_cifar10_without_a_subset_names_both(cifar, tmp_path):
    result = run("convert", cifar, tmp_path / "out")
    assert result.exit_code == 1
    assert "test (10,000 images), train (50,000 images): choose one, such as --subset test" in result.stderr
    assert not (tmp_path / "out").exists()


def test_bccd_as_plain_images_has_one_in_no_class_and_one_folder_to_choose(tmp_path):
    path = DATA / "bccd.tar"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with pytest.raises(ValueError, match=r"'example.jpg' lies in no class.*BCCD \(364 images\)"):
        open_source(str(path), Options(format="images"))
    options = ("--format", "images", "--subset", "BCCD", "--decode", "--limit", 10)
    dataset = converted(path, tmp_path / "out", *options)
    assert dataset.fields["image"].shape == (480, 640, 3)
