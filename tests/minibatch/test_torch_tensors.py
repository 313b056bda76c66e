"""Fields as tensors: the same bits, in the same memory, each tensor with memory of its own."""

import gc
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from minibatch import DatasetWriter, MinibatchSource  # noqa: E402
from minibatch.errors import SchemaError  # noqa: E402
from minibatch.ragged import Ragged  # noqa: E402
from minibatch.sparse import Sparse  # noqa: E402
from minibatch.torch import (  # noqa: E402
    Lists,
    Loader,
    PinnedPool,
    TensorForm,
    Tensors,
    cumulative_lengths,
    one_minibatch,
    to_tensors,
)
from minibatch.torch.tensors import DTYPES, as_tensor, convert  # noqa: E402

LARGE = 1 << 18  # rows of 8 bytes: enough for a block from the pool


def converted(values, **form):
    fields = {}
    convert(values, "f", TensorForm(**form), fields)
    return fields


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(4,), (4, 2, 3), (0, 2), (4, 0)])
def test_numbers_of_every_dtype_share_memory(dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    tensor = as_tensor(array)
    assert str(tensor.dtype).removeprefix("torch.") == dtype.name
    assert tuple(tensor.shape) == shape
    assert tensor.numpy().tobytes() == array.tobytes()
    if array.size:
        assert tensor.data_ptr() == array.ctypes.data
        tensor.zero_()
        assert not array.any()


def test_what_has_no_tensor_says_so():
    with pytest.raises(SchemaError, match="field 'z' has dtype complex128, which PyTorch has not"):
        as_tensor(np.zeros(2, complex), "z")
    with pytest.raises(SchemaError, match="field 'z' is a dict"):
        as_tensor({}, "z")


def test_text_and_bytes_become_lists_and_times_integers():
    assert as_tensor(np.array(["a", "ü"], object)) == ["a", "ü"]
    assert as_tensor(np.array([b"\0", b""], object)) == [b"\0", b""]
    assert as_tensor(np.array([3, 4], "M8[ms]")).tolist() == [3, 4]
    assert as_tensor(np.array([3, 4], "m8[s]")).dtype == torch.int64


@pytest.mark.filterwarnings("error")
def test_arrays_that_cannot_be_shared_are_copied():
    array = np.arange(6)
    array.flags.writeable = False
    tensor = as_tensor(array)
    tensor += 1
    assert array.tolist() == list(range(6))
    assert as_tensor(np.arange(6)[::-1]).tolist() == [5, 4, 3, 2, 1, 0]
    assert as_tensor(np.arange(3, dtype=">i4")).tolist() == [0, 1, 2]
    assert as_tensor(np.arange(12).reshape(3, 4)[:, ::2]).tolist() == [[0, 2], [4, 6], [8, 10]]


SEQUENCES = [np.array([1, 2, 3]), np.array([], int), np.array([4]), np.array([5, 6])]


def test_sequences_as_values_and_offsets_share_memory():
    ragged = Ragged.of(SEQUENCES)
    lists = converted(ragged, ragged="lists")["f"]
    assert lists.values.data_ptr() == ragged.values.ctypes.data
    assert lists.offsets.tolist() == [0, 3, 3, 4, 6]
    nested = converted(Ragged(ragged, np.array([0, 1, 4])), ragged="lists")["f"]
    assert isinstance(nested.values, Lists)
    assert nested.offsets.tolist() == [0, 1, 4]


def test_sequences_as_nested_tensors_share_memory():
    ragged = Ragged.of(SEQUENCES)
    nested = converted(ragged, ragged="nested")["f"]
    assert nested.is_nested
    assert nested.layout == torch.jagged
    assert nested.values().data_ptr() == ragged.values.ctypes.data
    assert [part.tolist() for part in nested.unbind()] == [sequence.tolist() for sequence in SEQUENCES]
    with pytest.raises(SchemaError, match="lists of lists have no nested tensor"):
        converted(Ragged(ragged, np.array([0, 1, 4])), ragged="nested")


def test_sequences_are_padded_with_a_mask():
    fields = converted(Ragged.of(SEQUENCES), padding_value={"f": -100}, pad_to_multiple_of=4)
    assert fields["f"].tolist() == [[1, 2, 3, -100], [-100] * 4, [4, -100, -100, -100], [5, 6, -100, -100]]
    assert fields["f_mask"].dtype == torch.bool
    assert fields["f_mask"].sum(1).tolist() == [3, 0, 1, 2]
    with pytest.raises(SchemaError, match="has a field 'f_mask' of its own"):
        convert(Ragged.of(SEQUENCES), "f", TensorForm(), {"f_mask": 0})


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 6), st.integers(-4, 4)), max_size=6), max_size=6),
    st.sampled_from([np.int32, np.int64, np.uint16]),
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_sparse_features_as_csr_have_the_dense_values(rows, index_dtype):
    flat = [pair for row in rows for pair in row]
    sparse = Sparse(
        np.array([index for index, _ in flat], index_dtype),
        np.array([value for _, value in flat], np.float32),
        np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in rows], dtype=np.int64)]),
        7,
    )
    csr = converted(sparse)["f"]
    assert csr.layout == torch.sparse_csr
    assert csr.shape == (len(rows), 7)
    assert csr.dtype == torch.float32
    dense = torch.zeros(len(rows), 7)
    for i, row in enumerate(rows):
        for index, value in row:
            dense[i, index] += value
    assert torch.equal(csr.to_dense(), dense)
    assert torch.equal(converted(sparse, sparse="dense")["f"], dense)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_sparse_features_in_order_are_not_copied_and_an_index_outside_is_refused():
    sparse = Sparse(np.array([0, 5, 2]), np.array([1.0, 2.0, 3.0]), np.array([0, 2, 3]), 6)
    csr = converted(sparse)["f"]
    assert csr.values().data_ptr() == sparse.values.ctypes.data
    assert csr.col_indices().data_ptr() == sparse.indices.ctypes.data
    with pytest.raises(RuntimeError, match="col_indices"):
        converted(Sparse(np.array([6]), np.array([1.0]), np.array([0, 1]), 6))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 6))
def test_cumulative_lengths_are_those_of_runs_of_equal_segments_within_blocks(lengths, block):
    ids = np.repeat(np.arange(len(lengths)), lengths)
    ids = ids[: len(ids) // block * block].reshape(-1, block)
    marks, longest = cumulative_lengths(torch.from_numpy(ids))
    expected, runs = [0], []
    for line in ids.tolist():  # plain twin
        run = 1
        for one, two in itertools.pairwise(line):
            if one == two:
                run += 1
            else:
                runs.append(run)
                run = 1
        runs.append(run)
    for run in runs:
        expected.append(expected[-1] + run)
    assert marks.dtype == torch.int32
    assert marks.tolist() == expected
    assert longest == max(runs, default=0)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    path = tmp_path_factory.mktemp("tensors") / "large"
    with DatasetWriter(path) as writer:
        writer.write({"x": np.arange(LARGE), "y": np.arange(LARGE, dtype=np.float32)})
    return path


def test_writing_into_tensors_changes_nothing_that_anybody_else_reads(large):
    reference = [batch["x"].copy() for batch in MinibatchSource(large, seed=2, max_samples=250_000).minibatches(50_000)]
    loader = Loader(large, 50_000, seed=2, ahead=1)
    held = []
    for turn in range(3):
        loader.source.seek(0)
        for expected, batch in zip(reference, loader, strict=False):
            assert batch["x"].numpy().tobytes() == expected.tobytes(), turn
            batch["x"].fill_(-1)
            batch["y"].mul_(0)
            held.append(batch)
    assert all((batch["x"] == -1).all() for batch in held)


def test_a_tensor_keeps_its_memory_when_all_else_is_gone(large):
    source = MinibatchSource(large, seed=2)
    expected = source.at(0, 60_000).tolist()
    view = to_tensors(source.next_minibatch(60_000))["x"][10:20]
    for _ in range(30):
        source.next_minibatch(60_000)
    source.close()
    del source
    gc.collect()
    assert view.tolist() == expected[10:20]


def test_a_minibatch_of_tensors_is_a_dict_that_knows_its_place(large):
    batch = to_tensors(MinibatchSource(large, seed=2).next_minibatch(4))
    assert isinstance(batch, dict)
    assert {**batch}.keys() == {"x", "y"}
    for other in (pickle.loads(pickle.dumps(batch)), batch.to("cpu"), batch.with_fields({"z": 1})):
        assert (other.nominal_time, other.nominal_end, other.num_samples, other.sweeps_ended) == (0, 4, 4, 0)
        assert not other.end_of_sweep
    assert type(batch)({"x": 1}).nominal_time is None
    assert repr(batch) == "Tensors([0, 4), {'x': 'int64 (4,)', 'y': 'float32 (4,)'})"


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
def test_moving_and_pickling_reaches_the_tensors_inside_nested_and_sparse_ones():
    ragged = Ragged.of(SEQUENCES)
    sparse = Sparse(np.array([0, 5, 2]), np.array([1.0, 2.0, 3.0]), np.array([0, 2, 3]), 6)
    fields = {"text": ["a"], "plain": torch.ones(2)}
    convert(ragged, "nested", TensorForm(ragged="nested"), fields)
    convert(ragged, "lists", TensorForm(ragged="lists"), fields)
    convert(sparse, "sparse", TensorForm(), fields)
    tensors = Tensors(fields)
    assert len(list(tensors.parts())) == 1 + 2 + 2 + 3
    moved = tensors.map(lambda part: part.clone())
    for copied in (moved, pickle.loads(pickle.dumps(tensors))):
        assert copied["text"] == ["a"]
        assert [part.tolist() for part in copied["nested"].unbind()] == [s.tolist() for s in SEQUENCES]
        assert copied["lists"].offsets.tolist() == [0, 3, 3, 4, 6]
        assert copied["sparse"].to_dense().tolist() == sparse.dense().tolist()
    assert moved["nested"].values().data_ptr() != ragged.values.ctypes.data


def test_what_else_a_minibatch_has_comes_on_request(large):
    source = MinibatchSource(large, seed=2)
    rows = source.at(0, 3).tolist()
    tensors = to_tensors(source.next_minibatch(3), form=TensorForm(include=["rows", "times"]))
    assert tensors["rows"].tolist() == rows
    assert tensors["times"].tolist() == [0, 1, 2]
    with pytest.raises(SchemaError, match="this minibatch has no array called 'cu_seqlens'"):
        to_tensors(source.next_minibatch(3), form=TensorForm(include=["cu_seqlens"]))
    with pytest.raises(TypeError, match="sequence of names"):
        TensorForm(include="rows")
    with pytest.raises(ValueError, match=r"TensorForm\(ragged=…\) must be one of"):
        TensorForm(ragged="jagged")


def test_memory_owned_by_pytorch_is_used_under_its_own_storage():
    root = PinnedPool(pinned=False).take(4096)
    view = root[64:1088].view(np.float32).reshape(16, 16)[2:5]
    view[:] = 7
    tensor = as_tensor(view)
    assert tensor.data_ptr() == view.ctypes.data
    assert tensor.untyped_storage().nbytes() == 4096, "one storage, that of the whole block"
    assert tensor.shape == (3, 16)
    assert (tensor == 7).all()
    assert as_tensor(view[:, ::2]).shape == (3, 8), "not in one piece: shared the ordinary way"
    del root, view
    gc.collect()
    assert (tensor == 7).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_found_again_in_memory_owned_by_pytorch(dtype):
    root = PinnedPool(pinned=False).take(1024)
    view = root[128 : 128 + 6 * dtype.itemsize].view(dtype).reshape(3, 2)
    view[:] = np.arange(6).reshape(3, 2)
    tensor = as_tensor(view)
    assert tensor.untyped_storage().nbytes() == 1024
    assert tensor.numpy().tobytes() == view.tobytes()


def test_one_minibatch_refuses_several():
    assert one_minibatch([{"x": 1}]) == {"x": 1}
    with pytest.raises(ValueError, match=r"got 3 minibatches to collate.*must be 1"):
        one_minibatch([{}, {}, {}])
