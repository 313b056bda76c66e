"""cuda-convnet's batches: encoded pictures in folders, pixels in columns, subsets by number, what is refused."""

import json

import numpy as np
import pytest

from minibatch.tools.sources import BadRecords, Options, open_source
from tests.tools.binary_samples import convnet, planes, python2
from tests.tools.samples import picture, rows_of, write_files

META = {"label_names": ["cat", "dog"], "num_vis": 3072, "data_mean": np.zeros((3072, 1), np.float32)}


def columns(numbers, folder):
    """Batches of pixels, a column per picture, two pictures each."""
    files = {
        f"data_batch_{number}": python2({"data": np.ascontiguousarray(planes(2).T), "labels": [number % 2, 1.0]})
        for number in numbers
    }
    return write_files(folder / "cifar-10-py-colmajor", {**files, "batches.meta": python2(META)})


def test_encoded_pictures_come_from_all_parts_in_order(tmp_path):
    source = open_source(convnet(tmp_path))
    rows = rows_of(convnet(tmp_path))
    assert rows["image"] == [picture(1), picture(2), picture(3)]
    assert rows["label"] == [0, 1, 1]
    noted = json.loads(source.metadata["image"]["color_pca"])
    assert noted == {"deviations": [1, 1, 1], "vectors": np.eye(3).tolist()}


def test_pixels_in_columns_become_pictures(tmp_path):
    rows = rows_of(columns([1], tmp_path))
    assert np.array_equal(np.stack(rows["image"]), planes(2).reshape(2, 3, 32, 32).transpose(0, 2, 3, 1))
    assert rows["label"] == [1, 1]


@pytest.mark.parametrize(
    ("numbers", "subset", "expected"),
    [
        ([1, 2, 10, 3], "1-3", [1, 2, 3]),
        ([1, 2, 10, 3], "10", [10]),
        ([0, 1, 1000, 1001], "train", [0, 1]),
        ([0, 1, 1000, 1001], "test", [1000, 1001]),
        ([0, 1, 1000, 1001], "1-1000", [1, 1000]),
    ],
)
def test_batches_are_chosen_by_their_numbers(numbers, subset, expected, tmp_path):
    assert open_source(str(columns(numbers, tmp_path)), Options(subset=subset)).numbers == expected


@pytest.mark.parametrize(
    ("numbers", "subset", "message"),
    [
        (
            [1, 2, 6],
            None,
            r"holds the batches 1-2, 6, some of which may be for testing: .*--subset FIRST-LAST, got None",
        ),
        ([1, 1000], None, r"FIRST-LAST \(or train, test\)"),
        ([1, 2], "train", "FIRST-LAST, got 'train'"),
        ([1, 2], "7-9", "holds no batches 7-9; there are 1-2"),
    ],
)
def test_a_choice_that_is_missing_or_wrong_is_told(numbers, subset, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_source(str(columns(numbers, tmp_path)), Options(subset=subset))


def test_pictures_with_several_labels_have_a_list_of_them(tmp_path):
    batch = {"data": [picture(1), picture(2)], "labels": [[0, 1], []]}
    rows = rows_of(write_files(tmp_path / "b", {"data_batch_0/data_batch_0.0": python2(batch)}))
    assert [row.tolist() for row in rows["label"]] == [[0, 1], []]


def test_a_second_label_where_the_first_file_has_one_each_is_a_bad_record(tmp_path):
    folder = convnet(tmp_path)
    (tmp_path / folder / "data_batch_0" / "data_batch_0.1").write_bytes(
        python2({"data": [picture(3), picture(4)], "labels": [[1, 0], [0]]})
    )
    with pytest.raises(ValueError, match=r"data_batch_0\.1', record 0: field 'label' is int64 \(2,\), expected int64"):
        rows_of(folder)
    bad = BadRecords(1)
    assert rows_of(folder, bad=bad)["label"] == [0, 1, 0]


def test_a_missing_part_is_named(tmp_path):
    folder = tmp_path / convnet(tmp_path)
    (folder / "data_batch_0" / "data_batch_0.0").unlink()
    with pytest.raises(ValueError, match=r"should hold data_batch_0\.0, \.1, … without a gap; there are 1"):
        open_source(str(folder))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"data": [b"a", b"b"], "labels": [1]}, "has 2 pictures and 1 labels"),
        ({"data": 7, "labels": [1]}, "has int as 'data'"),
        ({"data": [b"a"], "labels": None}, "has NoneType as 'labels'"),
        ({"data": planes(3).T[:3071], "labels": [1, 2, 3]}, r"has 'data' of shape \(3071, 3\), expected"),
    ],
)
def test_a_pickle_of_something_else_is_refused(batch, message, tmp_path):
    files = {"data_batch_0/data_batch_0.0": python2(batch)}
    with pytest.raises(ValueError, match=rf"data_batch_0\.0' {message}"):
        open_source(str(write_files(tmp_path / "b", files)))
