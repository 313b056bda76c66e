"""Arrays and functions as data: every kind becomes the same data set, and goes when nobody needs it."""

import gc
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from minibatch import Dataset, DatasetWriter, MinibatchSource
from minibatch.errors import SchemaError
from minibatch.train.arrays import Calls, as_columns, as_dataset, field_names, is_calls, row_blocks, written

X = np.arange(12.0).reshape(4, 3)
Y = np.array([1, 0, 2, 1])


class Frame:
    """What a data frame has that counts here."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def to_numpy(self) -> np.ndarray:
        return self.values


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        [X.tolist(), Y.tolist()],
        {"x": X, "label": Y},
        (torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)),
        (Frame(X), Frame(Y)),
        (np.asfortranarray(X), Y[::-1][::-1]),
        (np.ma.masked_array(X, mask=False), Y),
    ],
    ids=["arrays", "lists", "mapping", "tensors", "frames", "strided", "unmasked"],
)
def test_all_kinds_of_columns_become_the_same_data_set(data):
    dataset = as_dataset(data, ["x", "label"])
    assert dataset.fingerprint == as_dataset((X, Y), ["x", "label"]).fingerprint
    rows = dataset.read(range(4))
    assert np.array_equal(rows["x"], X)
    assert np.array_equal(rows["label"], Y)


def test_one_column_needs_no_tuple():
    expected = as_dataset((X,), ["x"]).fingerprint
    for data in (X, X.tolist(), torch.from_numpy(X), {"x": X}):
        assert as_dataset(data, ["x"]).fingerprint == expected


def test_sparse_matrices_are_made_dense_block_by_block(monkeypatch):
    sparse = pytest.importorskip("scipy.sparse")
    monkeypatch.setattr("minibatch.train.arrays.BLOCK_BYTES", 50)  # two rows at a time
    for kind in (sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix, sparse.csr_array):
        dataset = as_dataset((kind(X), Y), ["x", "label"])
        assert np.array_equal(dataset.read(range(4))["x"], X)
        assert dataset.fingerprint == as_dataset((X, Y), ["x", "label"]).fingerprint


def test_half_precision_tensors_come_in_as_float32():
    dataset = as_dataset(torch.tensor([[1.5, 2.0]], dtype=torch.bfloat16), ["x"])
    assert dataset.read([0])["x"].dtype == np.float32


def test_optional_columns_come_behind_and_flat_ones_get_their_second_axis():
    columns = as_columns((X, [1.0, 2.0, 3.0, 4.0], Y), ["x", "target"], optional=["weight"], flat=["target"])
    assert {name: column.shape for name, column in columns.items()} == {"x": (4, 3), "target": (4, 1), "weight": (4,)}


def test_the_temporary_folder_goes_with_the_last_one_who_needs_it():
    dataset = as_dataset((X, Y), ["x", "label"])
    folder = Path(dataset.folder)
    source = MinibatchSource(dataset, seed=1)
    assert folder.is_dir()
    del dataset
    gc.collect()
    assert folder.is_dir()
    assert len(source.next_minibatch(9)) == 9
    source.close()
    del source
    gc.collect()
    assert not folder.exists()


def test_what_could_not_be_written_leaves_no_folder_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SchemaError):
        written([{"x": X}, {"x": X.astype(np.int64)}])
    assert list(tmp_path.iterdir()) == []


def test_later_changes_of_the_arrays_change_nothing():
    mine = X.copy()
    dataset = as_dataset(mine, ["x"])
    mine[:] = -1
    assert np.array_equal(dataset.read([0])["x"], X[:1])


def test_data_sets_and_folders_are_opened_as_they_are(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        writer.write({"image": X, "digit": Y})
    opened = Dataset.open(tmp_path)
    assert as_dataset(opened, ["x", "label"]) is opened
    assert as_dataset(str(tmp_path), ["x", "label"]).fingerprint == opened.fingerprint


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((X, Y[:3]), ValueError, r"different numbers of samples, \{'x': 4, 'label': 3\}"),
        ((X,), ValueError, r"expected \(x, label\), a tuple of arrays; got 1 items"),
        ((X, Y, Y), ValueError, "got 3 items"),
        (X, ValueError, "got one ndarray"),
        ((X, np.array(["a"] * 4)), TypeError, "column 'label' has the type <U1, expected numbers"),
        ((X, [None] * 4), TypeError, "expected numbers"),
        ((X, [[1], [1, 2], [3], [4]]), ValueError, "column 'label' is no array"),
        ((X, 3), ValueError, "column 'label' is the one number 3"),
        ((X[:0], Y[:0]), ValueError, "no samples"),
        ({"x": X}, ValueError, "expected the columns x, label"),
        ({"x": X, "label": Y, "id": Y}, ValueError, "expected the columns x, label"),
        ((np.ma.masked_array(X, mask=X == 0), Y), ValueError, "masked values"),
    ],
)
def test_columns_that_do_not_fit_are_refused_by_name(data, error, message):
    with pytest.raises(error, match=message):
        as_dataset(data, ["x", "label"])


def test_fields_of_a_data_set_are_found_by_name_by_order_or_as_told(tmp_path):
    both = as_dataset({"image": X, "digit": Y}, ["image", "digit"])
    assert field_names(both, ["x", "label"], None) == ("image", "digit")
    assert field_names(both, ["x"], ["digit"]) == ("digit",)
    three = as_dataset({"x": X, "label": Y, "id": Y}, ["x", "label", "id"])
    assert field_names(three, ["x", "label"], None) == ("x", "label")
    with pytest.raises(SchemaError, match=r"has the fields x, label, id: pass fields= .* inputs, targets here"):
        field_names(three, ["inputs", "targets"], None)
    with pytest.raises(SchemaError, match="got"):
        field_names(both, ["x", "label"], ["image", "digits"])


def test_blocks_of_rows_add_up_to_the_column():
    assert np.array_equal(np.concatenate([*row_blocks(X, 3)]), X)


# --- functions ----------------------------------------------------------------------------------------------------


def pairs(data: object) -> dict[str, np.ndarray]:
    return as_columns(data, ["x", "label"])


def minibatch(number: int) -> tuple[np.ndarray, np.ndarray]:
    return X + number, Y


class Loader:
    """A function of no argument with a length, as downhill knows them."""

    def __init__(self) -> None:
        self.count = itertools.count()

    def __len__(self) -> int:
        return 7

    def __call__(self) -> list[np.ndarray]:
        return [*minibatch(next(self.count))]


def test_an_iteration_has_as_many_calls_as_the_length_of_the_function_or_100():
    assert Calls(Loader(), pairs).iteration_size == 7
    assert Calls(lambda: (X, Y), pairs).iteration_size == 100
    assert Calls(Loader(), pairs, iteration_size=3).iteration_size == 3


@pytest.mark.parametrize("make", [Loader, lambda: minibatch], ids=["without argument", "numbered"])
def test_minibatches_come_in_order_whatever_was_looked_at_ahead(make):
    calls = Calls(make(), pairs)
    dataset = calls.ahead(3)
    assert np.array_equal(dataset.read(range(12))["x"], np.concatenate([X, X + 1, X + 2]))
    assert [calls.next()["x"][0, 0] for _ in range(5)] == [0, 1, 2, 3, 4]
    assert calls.made == 5


@pytest.mark.parametrize("ahead", [0, 2, 5])
@pytest.mark.parametrize("make", [Loader, lambda: minibatch], ids=["without argument", "numbered"])
def test_a_resumed_run_gets_the_minibatches_behind_those_it_has_seen(make, ahead):
    calls = Calls(make(), pairs)
    if ahead:
        calls.ahead(ahead)
    calls.go_to(4)
    assert calls.next()["x"][0, 0] == 4
    with pytest.raises(ValueError, match="stands at minibatch 5 and cannot go back to 3"):
        calls.go_to(3)


def test_a_numbered_function_is_not_called_for_what_a_resumed_run_has_seen():
    asked = []

    def numbered(number):
        asked.append(number)
        return minibatch(number)

    calls = Calls(numbered, pairs)
    calls.go_to(1000)
    calls.next()
    assert asked == [1000]


def test_functions_are_told_from_data():
    with MinibatchSource(as_dataset(X, ["x"])) as source:
        assert is_calls(Loader())
        assert is_calls(minibatch)
        assert not any(is_calls(data) for data in (source, X, torch.ones(3), (X, Y), "folder"))


def test_functions_that_cannot_be_called_or_end_are_refused():
    with pytest.raises(TypeError, match="needs 2 arguments"):
        Calls(lambda a, b: X, pairs)
    ending = iter([X])
    calls = Calls(ending.__next__, lambda data: as_columns(data, ["x"]))
    calls.next()
    with pytest.raises(ValueError, match="ended at its call 2"):
        calls.next()
    with pytest.raises(ValueError, match="different numbers of samples"):
        Calls(lambda: (X, Y[:2]), pairs).next()
