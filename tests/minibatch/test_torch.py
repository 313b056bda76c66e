"""The loader: its state is that of what it handed out, and everything else is the source's axis as tensors."""

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from minibatch import DatasetWriter, MinibatchSource, SkipRows  # noqa: E402
from minibatch.errors import CheckpointError, SchemaError  # noqa: E402
from minibatch.torch import Loader, TensorForm, TimelineDataset  # noqa: E402
from minibatch.torch.epochs import Epochs  # noqa: E402

ROWS = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of numbers alone, each field telling which row it is."""
    path = tmp_path_factory.mktemp("torch") / "numbers"
    rows = np.arange(ROWS)
    with DatasetWriter(path, chunk_rows=4, shard_rows=12) as writer:
        writer.write(
            {
                "x": rows,
                "image": (rows[:, None, None] * 7 + np.arange(6).reshape(3, 2)).astype(np.uint8),
                "wide": rows.astype(np.uint32) + np.uint32(2**32 - 30),
                "bit": rows[:, None] >> np.arange(3) & 1 == 1,
            }
        )
    return path


def axis(folder, start, stop, **options):
    """The rows at nominal times start … stop - 1."""
    source = MinibatchSource(folder, **options)
    return source.at(start, stop - start).tolist()


def seen(batches):
    return [row for batch in batches for row in batch["x"].tolist()]


@pytest.mark.parametrize("how", [{}, {"ahead": 1}, {"ahead": 5}, {"cache": "device"}], ids=str)
def test_a_pass_is_one_sweep_worth_of_minibatches_and_passes_continue(folder, how):
    loader = Loader(folder, 5, seed=3, **how)
    assert len(loader) == 5
    first, second = list(loader), list(loader)
    assert [len(first), len(second)] == [5, 5]
    assert seen(first + second) == axis(folder, 0, 50, seed=3)
    assert [(batch.nominal_time, batch.nominal_end) for batch in first] == [(t, t + 5) for t in range(0, 25, 5)]
    assert [batch.sweeps_ended for batch in first] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("how", [{}, {"ahead": 1}, {"ahead": 4}, {"cache": "device"}], ids=str)
def test_the_state_is_that_of_the_minibatches_handed_out_whatever_was_read_ahead(folder, how):
    loader = Loader(folder, 4, seed=3, **how)
    plain = MinibatchSource(folder, seed=3)
    for _ in range(3):
        for batch in loader:
            plain.next_minibatch(4)
            assert loader.state_dict() == plain.state_dict()
            assert loader.source.nominal_time == batch.nominal_end
    assert json.loads(json.dumps(loader.state_dict())) == loader.state_dict()


@given(data=st.data())
def test_restored_anywhere_with_any_size_and_reading_the_rest_of_the_axis_is_the_same(folder, data):
    size = data.draw(st.integers(1, 9), label="size")
    steps = data.draw(st.integers(1, 14), label="steps")
    other = data.draw(st.integers(1, 9), label="other size")
    ahead = data.draw(st.integers(0, 3), label="ahead")
    loader = Loader(folder, size, seed=1, steps_per_epoch="axis", max_sweeps=4, ahead=ahead)
    before = [batch for _, batch in zip(range(steps), loader, strict=False)]
    assert loader.source.nominal_time == min(len(before) * size, 4 * ROWS)
    again = Loader(folder, other, seed=1, steps_per_epoch="axis", max_sweeps=4, ahead=data.draw(st.integers(0, 3)))
    again.load_state_dict(loader.state_dict())
    assert seen(before + list(again)) == axis(folder, 0, 4 * ROWS, seed=1)
    assert list(again) == []


@given(
    size=st.integers(1, 30),
    steps=st.integers(1, 5),
    start=st.integers(0, 60),
    end=st.integers(0, 90),
    ahead=st.integers(0, 2),
)
def test_passes_end_at_the_first_minibatch_on_or_behind_a_border(folder, size, steps, start, end, ahead):
    loader = Loader(folder, size, steps_per_epoch=steps, max_samples=end, ahead=ahead)
    loader.source.seek(start)
    time = start
    for _ in range(3):
        batches = list(loader)
        # walked one minibatch at a time
        expected, border = [], (time // (size * steps) + 1) * size * steps
        while time < min(border, end):
            expected.append((time, min(time + size, end)))
            time = min(time + size, end)
        assert [(batch.nominal_time, batch.nominal_end) for batch in batches] == expected


@given(size=st.integers(1, 7), steps=st.integers(1, 4), end=st.integers(0, 60), time=st.integers(0, 60))
def test_epochs_are_counted_as_they_are_read(size, steps, end, time):
    epochs = Epochs(minibatch_size=size, steps=steps, end=end)
    count, at = 0, time
    while at < epochs.stop(time):
        count, at = count + 1, min(at + size, end)
    assert epochs.minibatches(time) == count
    assert epochs.after(time, 1) == at
    assert epochs.after(time, 3) == epochs.after(epochs.after(epochs.after(time, 1), 1), 1)
    if time < end:
        assert epochs.length(time) >= count
        assert epochs.length(time) == epochs.minibatches(time // (size * steps) * size * steps)


def test_a_pass_broken_off_is_continued_by_the_next_one(folder):
    loader = Loader(folder, 5, seed=3, ahead=2)
    first = [next(iter(loader)), next(iter(loader))]
    rest = list(loader)
    assert len(rest) == 3
    assert seen(first + rest) == axis(folder, 0, 25, seed=3)


def test_a_limited_axis_ends_in_a_short_minibatch_and_then_in_nothing(folder):
    loader = Loader(folder, 5, seed=3, max_samples=33, ahead=1)
    assert len(loader) == 5
    assert len(list(loader)) == 5
    assert len(loader) == 2
    assert [batch.num_samples for batch in loader] == [5, 3]
    assert list(loader) == []
    assert len(Loader(folder, 5, steps_per_epoch="axis", max_samples=33)) == 7
    assert len(Loader(folder, 5, max_samples=0)) == 0


def test_an_axis_without_an_end_has_no_length(folder):
    with pytest.raises(TypeError, match="give max_samples or max_sweeps to the source, or steps_per_epoch"):
        len(Loader(folder, 5, steps_per_epoch="axis"))
    assert len(Loader(folder, 5, steps_per_epoch=100)) == 100


def test_moving_the_source_moves_the_loader(folder):
    source = MinibatchSource(folder, seed=3)
    loader = Loader(source, 5, ahead=3)
    batches = iter(loader)
    next(batches)
    source.seek(100)
    assert next(iter(loader)).nominal_time == 100
    source.restore_from_checkpoint(MinibatchSource(folder, seed=3).get_checkpoint_state())
    assert next(iter(loader))["x"].tolist() == axis(folder, 0, 5, seed=3)
    assert source.next_minibatch(5)["x"].tolist() == axis(folder, 5, 10, seed=3)


@pytest.mark.parametrize("how", [{}, {"ahead": 2}, {"cache": "device"}], ids=str)
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_parts_of_all_ranks_are_the_axis(folder, ranks, how):
    loaders = [
        Loader(folder, 5, seed=3, num_data_partitions=ranks, partition_index=rank, **how) for rank in range(ranks)
    ]
    for parts in zip(*loaders, strict=True):
        whole = MinibatchSource(folder, seed=3)
        whole.seek(parts[0].nominal_time)
        assert seen(parts) == whole.next_minibatch(5)["x"].tolist()
        assert len({(part.nominal_time, part.nominal_end, part.sweeps_ended) for part in parts}) == 1


@pytest.mark.parametrize("skip", [(), [(3, 9), (30, 41), SkipRows([2, 5, 22])]], ids=["whole", "holes"])
@pytest.mark.parametrize("parts", [(1, 0), (3, 2)])
def test_rows_picked_on_the_device_are_the_same_bits(folder, skip, parts):
    form = TensorForm(include=["rows", "times"])
    count, index = parts
    options = {"seed": 5, "skip": skip, "num_data_partitions": count, "partition_index": index, "form": form}
    host = Loader(folder, 6, **options)
    resident = Loader(folder, 6, cache="device", device="cpu", **options)
    for _ in range(2):
        for one, other in zip(host, resident, strict=True):
            assert list(one) == list(other)
            for name, tensor in one.items():
                assert (tensor.dtype, tensor.shape) == (other[name].dtype, other[name].shape), name
                assert torch.equal(tensor, other[name]), name
            assert (one.nominal_end, one.num_samples, one.sweeps_ended) == (
                other.nominal_end,
                other.num_samples,
                other.sweeps_ended,
            )


def test_a_resident_data_set_is_loaded_in_pieces(folder, monkeypatch):
    monkeypatch.setattr("minibatch.torch.resident.LOADED_BYTES", 100)
    resident = Loader(folder, ROWS, seed=5, cache="device")
    assert torch.equal(next(iter(resident))["image"], next(iter(Loader(folder, ROWS, seed=5)))["image"])


def test_a_resident_data_set_refuses_what_it_cannot_do(folder, tiny_dataset):
    with pytest.raises(SchemaError, match=r"field 'name' \(string\) has rows of varying size"):
        Loader(tiny_dataset, 4, cache="device")
    assert seen(Loader(tiny_dataset, 40, fields=["x"], cache="device")) == axis(tiny_dataset, 0, 40)
    with pytest.raises(ValueError, match="this source has transforms"):
        Loader(folder, 4, cache="device", transforms=[lambda fields, draws: fields])
    with pytest.raises(ValueError, match="num_workers must be 0"):
        Loader(folder, 4, cache="device", num_workers=1)
    with pytest.raises(ValueError, match='cache must be "device" or None'):
        Loader(folder, 4, cache="gpu")


def test_set_epoch_moves_only_a_source_that_stands_at_the_very_beginning(folder):
    for make in (Loader, TimelineDataset):
        loader = make(folder, 5, seed=3)
        loader.set_epoch(0)
        assert loader.source.nominal_time == 0
        loader.set_epoch(2)
        assert loader.source.nominal_time == 50
        loader.set_epoch(7)
        assert loader.source.nominal_time == 50
        read = make(folder, 5, seed=3)
        next(iter(read))
        read.set_epoch(1)
        assert read.source.nominal_time == 5
        restored = make(folder, 5, seed=3)
        restored.load_state_dict(read.state_dict())
        restored.set_epoch(4)
        assert restored.source.nominal_time == 5


def test_a_state_of_other_data_is_refused_and_an_override_accepted(folder, tiny_dataset):
    state = Loader(tiny_dataset, 4, seed=3).state_dict()
    loader = Loader(folder, 4, seed=3)
    with pytest.raises(CheckpointError, match="made with another data"):
        loader.load_state_dict(state)
    loader.load_state_dict({**state, "nominal_time": 8}, override=("fingerprint",))
    assert next(iter(loader)).nominal_time == 8


class Failing:
    """A transform that fails from some nominal time on, as often as it is asked."""

    def __init__(self, time):
        self.time = time

    def __call__(self, fields, draws):
        if len(draws.times) and draws.times[-1] >= self.time:
            raise ValueError("no more")
        return fields


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_an_error_in_what_is_read_ahead_is_raised_when_its_turn_comes(folder, ahead):
    loader = Loader(folder, 5, seed=3, ahead=ahead, transforms=[Failing(12)])
    given_out = []
    for _ in range(2):
        with pytest.raises(ValueError, match="no more"):
            given_out.extend(loader)  # what was drawn before the error is lost to `extend`, so count in the source
        assert loader.source.nominal_time == 10
    loader.source.seek(0)
    batches = iter(loader)
    assert seen([next(batches), next(batches)]) == axis(folder, 0, 10, seed=3)


def test_a_loader_that_was_closed_reads_on(folder):
    loader = Loader(folder, 5, seed=3, ahead=2)
    first = next(iter(loader))
    loader.close()
    assert seen([first, *loader]) == axis(folder, 0, 25, seed=3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("batch_size", "batch_size= has no meaning here; write minibatch_size"),
        ("sampler", "the order is a function of nominal time"),
        ("drop_last", "minibatches are never short"),
        ("world_size", "write num_data_partitions"),
        ("collate_fn", "form=TensorForm"),
    ],
)
def test_what_other_loaders_take_is_refused_with_what_to_write_instead(folder, name, message):
    for make in (Loader, TimelineDataset):
        with pytest.raises(TypeError, match=message):
            make(folder, 5, **{name: 1})


def test_wrong_arguments_say_what_was_expected(folder):
    source = MinibatchSource(folder, seed=3)
    with pytest.raises(TypeError, match=r"\['seed'\] belong to the source"):
        Loader(source, 5, seed=4)
    with pytest.raises(ValueError, match="minibatch_size must be at least 1"):
        Loader(source, 0)
    with pytest.raises(ValueError, match='steps_per_epoch must be a number, "sweep" or "axis", got \'epoch\''):
        Loader(source, 5, steps_per_epoch="epoch")
    with pytest.raises(ValueError, match="given together"):
        Loader(source, 5, num_data_partitions=2)
    with pytest.raises(ValueError, match="partition_index must be at most 1"):
        TimelineDataset(source, 5, num_data_partitions=2, partition_index=2)
    with pytest.raises(ValueError, match='shuffle must be "full"'):
        Loader(folder, 5, shuffle=True)
    with pytest.raises(TypeError, match=r"device= belongs to minibatch\.torch\.Loader"):
        TimelineDataset(folder, 5, device="cpu")


def test_copies_of_a_data_set_stand_where_it_stood_and_go_their_own_way(folder):
    dataset = TimelineDataset(folder, 5, seed=3)
    next(iter(dataset))
    for other in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert seen(list(other)) == axis(folder, 5, 25, seed=3)
    assert dataset.source.nominal_time == 5
