"""Sequences, mixtures and views through the loader: the same minibatches and states as their source gives."""

import multiprocessing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402

from minibatch import DatasetWriter, MinibatchSource, Mixture, SkipRows  # noqa: E402
from minibatch.errors import SchemaError  # noqa: E402
from minibatch.torch import Loader, TensorForm, TimelineDataset, cumulative_lengths  # noqa: E402

ROWS = 19
MODES = {
    "whole": ({"sequences": "whole"}, 12),
    "rows": ({"sequences": "rows"}, 4),
    "packed": ({"sequences": "packed", "block": 6, "fields": ["tokens", "id"]}, 12),
    "truncated": ({"sequences": "truncated", "lanes": 3, "fields": ["tokens", "id"]}, 12),
}
START = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def sequences(rows, first=0):
    return [np.arange(row * 100, row * 100 + (row * 7) % 9) for row in range(first, first + rows)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sequences") / "tokens"
    with DatasetWriter(path, chunk_rows=4) as writer:
        writer.write(
            {
                "tokens": sequences(ROWS),
                "words": [[f"w{row}"] * (row % 3) for row in range(ROWS)],
                "id": np.arange(ROWS),
            }
        )
    return path


@pytest.fixture(scope="module")
def mixture(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("sequences") / "more"
    with DatasetWriter(path) as writer:
        writer.write({"tokens": sequences(11, 50), "words": [["v"]] * 11, "id": np.arange(50, 61)})
    return Mixture({"one": folder, "two": path}, weights={"one": 3, "two": 1})


def same(tensors, batch):
    """Whether tensors in the form "lists" hold what the batch of a source holds, in every field."""
    assert list(tensors)[: len(batch.fields)] == list(batch.fields)
    for name in batch.fields:
        got, expected = tensors[name], batch[name]
        if name == "words":
            assert got == [words.tolist() for words in expected]
        elif isinstance(got, torch.Tensor):
            assert np.array_equal(got.numpy(), expected)
        else:
            assert np.array_equal(got.values.numpy(), expected.values)
            assert np.array_equal(got.offsets.numpy(), expected.offsets)
    assert (tensors.nominal_time, tensors.nominal_end) == (batch.nominal_time, batch.nominal_end)
    assert (tensors.num_samples, tensors.sweeps_ended) == (batch.num_samples, batch.sweeps_ended)


@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize("limits", [{"max_sweeps": 3}, {"max_samples": 42}], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_every_way_of_counting_gives_the_minibatches_and_states_of_the_source(folder, mode, limits, ahead):
    options, size = MODES[mode]
    plain = MinibatchSource(folder, seed=3, **options, **limits)
    loader = Loader(
        folder, size, seed=3, ahead=ahead, steps_per_epoch="axis", form=TensorForm(ragged="lists"), **options, **limits
    )
    for tensors in loader:
        same(tensors, plain.next_minibatch(size))
        assert loader.state_dict() == plain.state_dict()
    assert not plain.next_minibatch(size)


@given(data=st.data())
@settings(max_examples=25)
@pytest.mark.parametrize("mode", MODES)
def test_resumed_anywhere_the_rest_is_the_same(folder, mode, data):
    options, size = MODES[mode]
    form = TensorForm(ragged="lists")
    whole = list(Loader(folder, size, seed=3, steps_per_epoch="axis", max_sweeps=2, form=form, **options))
    stop = data.draw(st.integers(0, len(whole)), label="stop")
    aheads = [data.draw(st.integers(0, 2), label="ahead") for _ in range(2)]
    loader = Loader(folder, size, seed=3, ahead=aheads[0], form=form, max_sweeps=2, **options)
    batches = iter([])
    for _ in range(stop):
        if next(batches, None) is None:
            batches = iter(loader)
            assert next(batches, None) is not None
    again = Loader(folder, size, seed=3, ahead=aheads[1], steps_per_epoch="axis", form=form, max_sweeps=2, **options)
    again.load_state_dict(loader.state_dict())
    rest = list(again)
    assert [batch["id"].tolist() for batch in rest] == [batch["id"].tolist() for batch in whole[stop:]]
    assert [batch.nominal_end for batch in rest] == [batch.nominal_end for batch in whole[stop:]]


@pytest.mark.parametrize("mode", ["whole", "truncated"])
def test_an_epoch_of_sequences_ends_with_the_minibatch_that_reaches_the_end_of_a_sweep(folder, mode):
    options, size = MODES[mode]
    loader = Loader(folder, size, seed=3, ahead=1, **options)
    for _ in range(3):
        batches = list(loader)
        assert [batch.sweeps_ended for batch in batches] == [0] * (len(batches) - 1) + [1]
    with pytest.raises(TypeError, match="is known when it has been read"):
        len(loader)
    with pytest.raises(ValueError, match="workers would all read everything"):
        Loader(folder, size, num_workers=2, **options)
    if mode == "whole":
        with pytest.raises(ValueError, match='write "sweep" or "axis"'):
            Loader(folder, size, steps_per_epoch=3, **options)
    else:
        assert len(Loader(folder, size, steps_per_epoch=3, **options)) == 3
        with pytest.raises(ValueError, match="nobody knows where epoch 2 begins"):
            Loader(folder, size, **options).set_epoch(2)


def test_an_epoch_of_packed_sequences_is_a_sweep_of_tokens(folder):
    options, size = MODES["packed"]
    tokens = sum(map(len, sequences(ROWS)))
    loader = Loader(folder, size, seed=3, **options)
    assert len(loader) == -(-tokens // size)
    assert len(list(loader)) == len(loader)
    assert len(Loader(folder, size, seed=3, steps_per_epoch="axis", max_sweeps=2, **options)) == -(-2 * tokens // size)
    whole, size = MODES["whole"]
    told = Loader(folder, size, seed=3, **whole)
    told.set_epoch(2)
    assert told.source.nominal_time == 2 * tokens


def test_packed_minibatches_bring_segments_and_positions(folder):
    options, size = MODES["packed"]
    plain = MinibatchSource(folder, seed=3, **options).next_minibatch(size)
    tensors = next(iter(Loader(folder, size, seed=3, **options)))
    assert list(tensors) == ["tokens", "id", "segment_ids", "positions"]
    assert np.array_equal(tensors["segment_ids"].numpy(), plain.segment_ids)
    assert np.array_equal(tensors["positions"].numpy(), plain.positions)
    form = TensorForm(include=["cu_seqlens"])
    marks = next(iter(Loader(folder, size, seed=3, form=form, **options)))["cu_seqlens"]
    assert torch.equal(marks, cumulative_lengths(tensors["segment_ids"])[0])
    assert marks[-1] == size


@pytest.mark.parametrize("parts", [(1, 0), (2, 1), (3, 2)])
def test_workers_read_packed_sequences(folder, parts):
    options, size = MODES["packed"]
    given = {"num_data_partitions": parts[0], "partition_index": parts[1], "seed": 3, **options}
    dataset = TimelineDataset(folder, size, max_sweeps=2, **given)
    alone = Loader(folder, size, max_sweeps=2, **given)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=START)
    for _ in range(2):
        for got, expected in zip(loader, alone, strict=True):
            assert torch.equal(got["tokens"], expected["tokens"])
            assert torch.equal(got["positions"], expected["positions"])
            assert (got.nominal_time, got.nominal_end) == (expected.nominal_time, expected.nominal_end)
            assert got.sweeps_ended == expected.sweeps_ended


def test_workers_refuse_whole_sequences(folder, monkeypatch):
    dataset = TimelineDataset(folder, 12, seed=3)
    monkeypatch.setattr(
        "minibatch.torch.dataset.get_worker_info", lambda: type("Info", (), {"id": 0, "num_workers": 2})
    )
    with pytest.raises(ValueError, match="write num_workers=0"):
        iter(dataset)


@pytest.mark.parametrize("ragged", ["nested", "padded"])
def test_sequences_come_as_nested_or_padded_tensors(folder, ragged):
    plain = MinibatchSource(folder, seed=3, sequences="rows", fields=["tokens"])
    form = TensorForm(ragged=ragged, padding_value=-1)
    loader = Loader(folder, 4, seed=3, sequences="rows", fields=["tokens"], form=form)
    for tensors in loader:
        expected = plain.next_minibatch(4)["tokens"]
        if ragged == "nested":
            assert [part.tolist() for part in tensors["tokens"].unbind()] == [part.tolist() for part in expected]
        else:
            assert np.array_equal(tensors["tokens"].numpy(), expected.padded(value=-1))
            assert np.array_equal(tensors["tokens_mask"].numpy(), expected.mask())


@pytest.mark.parametrize("mode", MODES)
def test_writing_into_tensors_changes_nothing_that_is_read_later(folder, mode):
    options, size = MODES[mode]
    form = TensorForm(ragged="lists", include=[])
    options = {"seed": 3, "max_sweeps": 3, **options}
    reference = MinibatchSource(folder, **options)
    for tensors in Loader(folder, size, steps_per_epoch="axis", form=form, ahead=1, **options):
        same(tensors, reference.next_minibatch(size))
        for part in tensors.parts():
            part.fill_(-9)


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("sequences", ["rows", "whole"])
def test_mixtures_are_read_like_any_source(mixture, sequences, ahead):
    options = {"seed": 3, "sequences": sequences}
    form = TensorForm(ragged="lists", include=["sources"])
    plain = MinibatchSource(mixture, **options)
    loader = Loader(mixture, 8, ahead=ahead, steps_per_epoch="axis", form=form, **options)
    for _, tensors in zip(range(12), loader, strict=False):
        batch = plain.next_minibatch(8)
        same(tensors, batch)
        assert np.array_equal(tensors["sources"].numpy(), batch.sources)
        assert loader.state_dict() == plain.state_dict()


def test_an_epoch_of_a_mixture_is_as_many_samples_as_its_sources_have_rows(mixture):
    loader = Loader(mixture, 5, sequences="rows")
    assert len(loader) == len(list(loader)) == 6
    resident = Loader(mixture, 5, sequences="rows", fields=["id"], cache="device")
    loader.source.seek(0)
    for one, other in zip(loader, resident, strict=True):
        assert torch.equal(one["id"], other["id"])
        assert one.sweeps_ended == other.sweeps_ended == 0
    with pytest.raises(ValueError, match="a mixture of sequences has no sweeps"):
        Loader(mixture, 12, sequences="truncated", lanes=2, fields=["tokens"])
    with pytest.raises(ValueError, match="a mixture of sequences has no sweeps"):
        Loader(mixture, 12)


def test_workers_read_mixtures(mixture):
    options = {"seed": 3, "sequences": "rows", "fields": ["id"], "skip": [SkipRows([2])]}
    dataset = TimelineDataset(mixture, 5, **options)
    got = list(DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=START))
    expected = list(Loader(mixture, 5, **options))
    assert [batch["id"].tolist() for batch in got] == [batch["id"].tolist() for batch in expected]
    assert [batch.sweeps_ended for batch in got] == [0] * len(expected)


def test_a_cache_refuses_sequences(folder):
    with pytest.raises(ValueError, match="cache=\"device\" with sequences='whole'"):
        Loader(folder, 12, cache="device")
    with pytest.raises(SchemaError, match=r"field 'tokens'.*rows of varying size"):
        Loader(folder, 12, cache="device", sequences="rows")
