"""IDX: every type, pairs of a folder, gzip, and what damaged files say."""

import gzip
import struct

import numpy as np
import pytest

import minibatch.tools.sources
from minibatch.tools.sources import Options, open_source
from tests.tools.binary_samples import IMAGES, idx, mnist
from tests.tools.samples import rows_of, write_files

LABELS = np.array([3, 1, 4, 1, 5], np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("packed", [False, True])
def test_values_of_every_type_come_back(dtype, packed, tmp_path, monkeypatch):
    monkeypatch.setattr(minibatch.tools.sources, "PIECE_BYTES", 40)
    values = (np.arange(5 * 3 * 4) - 7).astype(dtype).reshape(5, 3, 4)
    path = tmp_path / f"a-idx3-ubyte{'.gz' * packed}"
    path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    rows = np.stack(rows_of(path)["x"])
    assert rows.dtype == values.dtype
    assert np.array_equal(rows, values)


@pytest.mark.parametrize("subset", ["train", "test"])
def test_a_folder_is_read_as_images_with_their_labels(subset, tmp_path):
    files = {
        "train-images-idx3-ubyte": idx(IMAGES),
        "train-labels-idx1-ubyte": idx(LABELS),
        "t10k-images-idx3-ubyte.gz": gzip.compress(idx(IMAGES[:2] + 1)),
        "t10k-labels-idx1-ubyte.gz": gzip.compress(idx(LABELS[:2])),
    }
    rows = rows_of(write_files(tmp_path / "mnist", files), subset=subset)
    expected = (IMAGES, LABELS) if subset == "train" else (IMAGES[:2] + 1, LABELS[:2])
    assert list(rows) == ["image", "label"]
    assert np.array_equal(np.stack(rows["image"]), expected[0])
    assert (np.asarray(rows["label"]).dtype, [int(row) for row in rows["label"]]) == (np.int64, expected[1].tolist())


def test_a_subset_must_be_chosen_where_there_are_two(tmp_path):
    files = {f"{of}-labels-idx1-ubyte": idx(LABELS) for of in ("train", "t10k")}
    folder = write_files(tmp_path / "mnist", files)
    with pytest.raises(ValueError, match="several subsets: test, train; choose one with --subset"):
        open_source(str(folder))
    with pytest.raises(ValueError, match="no subset 'valid'; there are test, train"):
        open_source(str(folder), Options(subset="valid"))


def test_parts_of_emnist_are_told_apart_by_their_whole_names(tmp_path):
    names = [f"emnist-{part}-{of}" for part in ("letters", "digits") for of in ("train", "test")]
    folder = write_files(tmp_path / "e", {f"{name}-labels-idx1-ubyte": idx(LABELS) for name in names})
    with pytest.raises(ValueError, match="emnist-digits-train, emnist-letters-train; choose one"):
        open_source(str(folder), Options(subset="train"))
    assert len(rows_of(folder, subset="emnist-letters-train")["label"]) == 5


def test_of_a_file_and_its_packed_form_one_counts(tmp_path):
    files = {"train-labels-idx1-ubyte": idx(LABELS), "train-labels-idx1-ubyte.gz": gzip.compress(idx(LABELS[:2]))}
    assert len(rows_of(write_files(tmp_path / "mnist", files))["label"]) == 5


def test_images_and_labels_of_different_numbers_are_refused(tmp_path):
    files = {"train-images-idx3-ubyte": idx(IMAGES), "train-labels-idx1-ubyte": idx(LABELS[:4])}
    with pytest.raises(ValueError, match=r"labels.* has 4 rows \(label\), .*images.* has 5 \(image\)"):
        open_source(str(write_files(tmp_path / "mnist", files)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file: it begins with nothing"),
        (b"\x89PNG", "begins with 89 50 4e 47"),
        (b"\0\0\x0a\1\0\0\0\1", "no IDX file"),
        (b"\0\0\x08\2\0\0", "ends within its header, at byte 6"),
        (idx(IMAGES)[:-1], "has 75 bytes, its header says 76"),
        (idx(IMAGES) + b"\0", "has 77 bytes, its header says 76"),
        (b"\0\0\x08\2" + struct.pack(">2I", 3, 0), "hold no value"),
    ],
)
def test_what_is_no_whole_idx_file_is_refused(content, message, tmp_path):
    (tmp_path / "a-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_source(str(tmp_path / "a-idx3-ubyte"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: gzip.compress(content[:-5]), "cannot be read on from byte 16"),
        (lambda content: gzip.compress(content + b"\0"), "goes on after its 5 rows"),
        (lambda content: gzip.compress(content)[:-12], "a-idx3-ubyte.gz"),
        (lambda content: gzip.compress(content)[:-8] + bytes(8), "cannot be unpacked"),
    ],
)
def test_damage_in_a_packed_file_is_found_while_reading(change, message, tmp_path):
    (tmp_path / "a-idx3-ubyte.gz").write_bytes(change(idx(IMAGES)))
    with pytest.raises(ValueError, match=message):
        rows_of(tmp_path / "a-idx3-ubyte.gz")


def test_a_subset_means_nothing_to_a_single_file(tmp_path):
    with pytest.raises(ValueError, match="--subset means nothing to a single IDX file"):
        open_source(mnist(tmp_path) + "/train-labels-idx1-ubyte", Options(subset="train"))
