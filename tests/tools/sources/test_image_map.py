"""CNTK map files: paths beside the map, in zips, with keys; and lines that name no image."""

import shutil
import zipfile

import numpy as np
import pytest

from minibatch.tools.sources import BadRecord, BadRecords, Options, image_map, open_source
from tests.tools.samples import converted, picture, rows_of, run, write_files


@pytest.fixture
def folder(tmp_path):
    """Images in a folder and in a zip."""
    files = {"cat/1.png": picture(10), "dog/ü 2.png": picture(20), "tall.png": picture(30, (9, 6)), "x.png": b"none"}
    write_files(tmp_path / "pets", files)
    with zipfile.ZipFile(tmp_path / "pets" / "more.zip", "w") as packed:
        packed.writestr("in/3.png", picture(40))
    return tmp_path / "pets"


def mapped(folder, *lines):
    path = folder / "train_map.txt"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path


def test_rows_keep_the_order_of_the_lines_and_the_bytes_of_the_images(folder):
    path = mapped(folder, "dog/ü 2.png\t1", "cat/1.png\t0", ".../cat/1.png\t7", "more.zip@/in/3.png\t2")
    assert rows_of(path) == {
        "image": [picture(20), picture(10), picture(10), picture(40)],
        "label": [1, 0, 7, 2],
        "file": ["dog/ü 2.png", "cat/1.png", ".../cat/1.png", "more.zip@/in/3.png"],
    }
    assert open_source(str(path)).describe() == "CNTK image map of 4 lines"


def test_lines_of_three_columns_begin_with_a_key(folder):
    path = mapped(folder, "s1\tcat/1.png\t1\r", "s0\tdog/ü 2.png\t0\r")
    found = rows_of(path)
    assert (found["key"], found["label"], found["file"]) == (["s1", "s0"], [1, 0], ["cat/1.png", "dog/ü 2.png"])


def test_paths_belong_to_the_map_not_to_the_working_folder(folder, tmp_path, monkeypatch):
    path = mapped(folder, "cat/1.png\t1")
    monkeypatch.chdir(tmp_path / "pets")
    assert rows_of("train_map.txt")["image"] == [picture(10)]
    monkeypatch.chdir("/")
    assert rows_of(path)["image"] == [picture(10)]


def test_decoded_images_are_pixels_of_one_shape(folder):
    path = mapped(folder, "cat/1.png\t1", "more.zip@in/3.png\t2")
    piece = next(open_source(str(path), Options(decode=True)).batches())
    assert (piece["image"].shape, piece["image"].dtype) == ((2, 4, 6, 3), np.uint8)
    assert piece["image"][:, 0, 0].tolist() == [[10, 20, 7], [40, 80, 7]]
    path = mapped(folder, "cat/1.png\t1", "tall.png\t2")
    with pytest.raises(BadRecord, match=r"line 2: .*--decode needs one height × width, but 'cat/1\.png' has 4 × 6"):
        rows_of(path, decode=True)


WRONG = [
    ("gone.png\t1", "the image 'gone.png' cannot be read: No such file"),
    ("more.zip@/gone.png\t1", "the image 'more.zip@/gone.png' cannot be read: .*no item named 'gone.png'"),
    ("x.png\t1", "the image 'x.png' is no readable image"),
    ("cat/1.png\tcat", "label 'cat' is no class number"),
    ("cat/1.png\t-1", "label '-1' is no class number"),
    ("cat/1.png 1", r"it has 1 columns divided by tabs, expected 2: path TAB label"),
    ("a\tcat/1.png\t1", r"it has 3 columns"),
    ("", "the line is blank"),
]


@pytest.mark.parametrize(("line", "said"), WRONG)
@pytest.mark.parametrize("decode", [False, True])
def test_a_line_without_an_image_is_an_error_that_names_it_and_can_be_passed_over(line, said, decode, folder):
    path = mapped(folder, "cat/1.png\t1", line, "dog/ü 2.png\t3")
    with pytest.raises(BadRecord, match=rf"train_map\.txt', line 2: {said}"):
        rows_of(path, decode=decode)
    bad = BadRecords(1)
    assert rows_of(path, decode=decode, bad=bad)["label"] == [1, 3]
    assert [record.where for record in bad.found] == ["line 2"]


def test_a_file_that_is_no_map_is_refused(folder):
    with pytest.raises(ValueError, match=r"the first line has 1 columns divided by tabs.*--format text"):
        rows_of(mapped(folder, "just words"))
    with pytest.raises(ValueError, match="is a folder; expected a map file"):
        rows_of(folder, format="image-map")


def test_many_lines_are_read_in_units_that_give_the_same_rows(folder, monkeypatch):
    path = mapped(folder, "x.png\t9", *[f"cat/1.png\t{i}" for i in range(9)], "tall.png\t9")
    whole = rows_of(path, decode=True, bad=BadRecords(2))
    monkeypatch.setattr(image_map, "UNIT_LINES", 2)
    bad = BadRecords(2)
    again = rows_of(path, decode=True, bad=bad)
    assert again["label"] == whole["label"] == list(range(9))
    assert [record.where for record in bad.found] == ["line 1", "line 11"]
    assert len(list(open_source(str(path)).units())) == 6


def test_a_data_set_of_it_has_its_images_and_notices_when_one_has_changed(folder, tmp_path):
    path = mapped(folder, "dog/ü 2.png\t1", "more.zip@in/3.png\t5")
    dataset = converted(path, tmp_path / "out")
    read = dataset.read([0, 1])
    assert (list(read["image"]), read["label"].tolist()) == ([picture(20), picture(40)], [1, 5])
    assert list(open_source(str(path)).inputs()) == [str(folder / "dog/ü 2.png"), str(folder / "more.zip")]
    shutil.rmtree(folder / "dog")
    result = run("convert", path, tmp_path / "other")
    assert result.exit_code == 1
    assert "line 1: the image 'dog/ü 2.png' cannot be read" in result.stderr
