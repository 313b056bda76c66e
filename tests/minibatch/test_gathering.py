"""Rows by number, of every layout, and where they come to lie."""

import numpy as np
import pytest

from minibatch import Dataset, DatasetWriter, errors
from minibatch.memory import Pool
from tests.plain.source import fields_of


def gathered(dataset, rows, names=None):
    return dataset.gather(np.asarray(rows, np.int64), dataset.gatherings(dataset.select(names)), Pool())


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.kernels
@pytest.mark.parametrize(("chunk", "shard"), [(1, 1), (4, 12), (5, 1000)])
def test_rows_of_every_layout_are_gathered_in_the_order_given(folder_of, chunk, shard):
    dataset = Dataset.open(folder_of(40, chunk, shard))
    for rows in ([3, 3, 39, 0, 12, 11], [], list(range(39, -1, -1))):
        wanted = np.array(rows, np.int64)
        columns = gathered(dataset, wanted)
        for name, expected in fields_of(wanted).items():
            values = columns[name].view(0, len(rows))
            assert (values.dtype, values.shape) == (expected.dtype, expected.shape)
            assert np.array_equal(values, expected)


def test_a_part_of_a_column_is_a_column(folder_of):
    dataset = Dataset.open(folder_of(40))
    columns = gathered(dataset, np.arange(40))
    for name, expected in fields_of(np.arange(40)).items():
        for lo, hi in ((0, 40), (7, 20), (39, 40), (5, 5), (40, 40)):
            part, half = columns[name].part(lo, hi), (hi - lo) // 2
            assert np.array_equal(part.view(0, hi - lo), expected[lo:hi])
            assert np.array_equal(part.part(half, hi - lo).view(0, hi - lo - half), expected[lo + half : hi])


def test_fields_lie_apart_on_cache_lines(folder_of):
    dataset = Dataset.open(folder_of(1100, 64, 64))
    columns = gathered(dataset, np.zeros(100_001), ["bit", "x", "image"])
    starts = [address(column.values) for column in columns.values()]
    ends = [start + column.values.nbytes for start, column in zip(starts, columns.values(), strict=True)]
    assert all(start % 64 == 0 for start in starts)
    assert starts[1] >= ends[0]
    assert starts[2] >= ends[1]


def test_rows_that_do_not_exist_are_never_gathered(folder_of):
    dataset = Dataset.open(folder_of(40))
    for row in (-1, 40, 2**62, -(2**63)):
        with pytest.raises(IndexError, match=f"row {row} of"):
            gathered(dataset, np.array([1, row], np.int64))


def test_text_that_is_no_text_is_a_clear_error(tmp_path):
    with DatasetWriter(tmp_path / "data") as writer:
        writer.write({"name": ["tree", "house"]})
    (shard,) = (tmp_path / "data").glob("*.arrow")
    shard.write_bytes(shard.read_bytes().replace(b"house", b"\xff\xfeuse"))
    dataset = Dataset.open(tmp_path / "data")
    columns = gathered(dataset, np.arange(2))
    assert columns["name"].view(0, 1).tolist() == ["tree"]
    with pytest.raises(errors.DamagedDatasetError, match="'name' has text that is not UTF-8"):
        columns["name"].view(0, 2)
