"""CIFAR-10 and -100, binary and pickled: pixels by row and colour, classes, subsets, damaged records."""

import json

import numpy as np
import pytest

import minibatch.tools.sources
from minibatch.tools.sources import BadRecords, Options, open_source
from tests.tools.binary_samples import cifar_binary, cifar_pickled, planes, python2
from tests.tools.samples import rows_of, write_files

PIXELS = planes(3).reshape(3, 3, 32, 32).transpose(0, 2, 3, 1)
FINE = [f"fine {number}" for number in range(100)]
COARSE = [f"coarse {number}" for number in range(20)]


@pytest.mark.parametrize("write", [cifar_binary, cifar_pickled])
def test_pictures_come_with_their_labels_and_the_names_of_the_classes(write, tmp_path, monkeypatch):
    source = write(tmp_path)
    monkeypatch.setattr(minibatch.tools.sources, "PIECE_BYTES", 4000)
    rows = rows_of(source)
    assert np.array_equal(np.stack(rows["image"]), PIXELS)
    assert rows["label"] == [3, 9, 0]
    assert json.loads(open_source(source).metadata["label"]["classes"])[9] == "class 9"


def test_a_single_batch_is_read_by_its_name(tmp_path):
    assert rows_of(cifar_binary(tmp_path) + "/data_batch_1.bin")["label"] == [3, 9, 0]
    assert rows_of(cifar_pickled(tmp_path) + "/data_batch_1")["label"] == [3, 9, 0]


@pytest.fixture(params=["binary", "pickled"])
def cifar_100(request, tmp_path):
    """A folder of CIFAR-100 in both of its forms, three training pictures and one for testing."""
    labels = {"train": ([5, 19, 0], [7, 99, 0]), "test": ([2], [3])}
    files = {}
    for name, (coarse, fine) in labels.items():
        pixels = planes(len(fine))
        if request.param == "binary":
            records = (bytes([c, f]) + row.tobytes() for c, f, row in zip(coarse, fine, pixels, strict=True))
            files[f"{name}.bin"] = b"".join(records)
        else:
            files[name] = python2({"data": pixels, "coarse_labels": coarse, "fine_labels": fine})
    if request.param == "binary":
        files |= {
            "fine_label_names.txt": "\n".join(FINE).encode(),
            "coarse_label_names.txt": "\n".join(COARSE).encode(),
        }
    else:
        files["meta"] = python2({"fine_label_names": FINE, "coarse_label_names": COARSE})
    return write_files(tmp_path / "cifar-100", files)


def test_both_labels_of_cifar_100_become_fields(cifar_100):
    source = open_source(str(cifar_100), Options(subset="train"))
    assert source.describe().startswith("CIFAR-100")
    rows = rows_of(cifar_100, subset="train")
    assert np.array_equal(np.stack(rows["image"]), PIXELS)
    assert (rows["label"], rows["coarse_label"]) == ([7, 99, 0], [5, 19, 0])
    assert json.loads(source.metadata["label"]["classes"]) == FINE
    assert json.loads(source.metadata["coarse_label"]["classes"]) == COARSE
    assert rows_of(cifar_100, subset="test")["label"] == [3]


def test_a_subset_must_be_chosen_where_there_are_two(cifar_100):
    with pytest.raises(ValueError, match="holds the subsets train and test: choose one"):
        open_source(str(cifar_100))
    with pytest.raises(ValueError, match="no subset 'valid'; there is train and test"):
        open_source(str(cifar_100), Options(subset="valid"))


def test_batches_come_in_the_order_of_their_numbers(tmp_path):
    records = {f"data_batch_{number}.bin": bytes([number]) + bytes(3072) for number in range(1, 6)}
    folder = write_files(tmp_path / "cifar", {**records, "test_batch.bin": bytes([9]) + bytes(3072)})
    assert rows_of(folder, subset="train")["label"] == [1, 2, 3, 4, 5]
    assert rows_of(folder, subset="test")["label"] == [9]


def test_a_binary_batch_of_another_size_is_refused(tmp_path):
    folder = write_files(tmp_path / "cifar", {"data_batch_1.bin": bytes(3073 + 3072)})
    with pytest.raises(ValueError, match=r"6,145 bytes, which are no whole records of 3,073"):
        open_source(str(folder))


@pytest.mark.parametrize("write", [cifar_binary, cifar_pickled])
def test_a_label_of_no_class_is_a_bad_record(write, tmp_path):
    source = write(tmp_path)
    name = "data_batch_1" + ".bin" * (write is cifar_binary)
    content = bytearray((tmp_path / source / name).read_bytes())
    if write is cifar_binary:
        content[3073] = 10
    else:
        content = bytearray(python2({"data": planes(3), "labels": [3, 10, 0]}))
    (tmp_path / source / name).write_bytes(content)
    where = "record 1, byte 3,073" if write is cifar_binary else "record 1"
    with pytest.raises(ValueError, match=f"{name}', {where}: label is 10, expected 0 to 9"):
        rows_of(source)
    bad = BadRecords(1)
    rows = rows_of(source, bad=bad)
    assert rows["label"] == [3, 0]
    assert np.array_equal(np.stack(rows["image"]), PIXELS[[0, 2]])
    assert [record.where for record in bad.found] == [where]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"data": planes(2)[:, :3071], "labels": [1, 2]}, r"'data' uint8 \(2, 3071\), expected uint8 \(n, 3072\)"),
        ({"data": [1, 2], "labels": [1, 2]}, "'data' list"),
        ({"data": planes(2), "labels": [1]}, "'labels' is .*expected 2 whole numbers"),
        ({"data": planes(2), "labels": [1, 1.5]}, "'labels' is .*expected 2 whole numbers"),
        ({"data": planes(2)}, "'labels' is None"),
        ([1, 2], "holds a list, expected a dict"),
    ],
)
def test_a_pickle_of_something_else_is_refused(batch, message, tmp_path):
    folder = write_files(tmp_path / "cifar", {"data_batch_1": python2(batch)})
    with pytest.raises(ValueError, match=f"data_batch_1'.*{message}"):
        rows_of(folder)
