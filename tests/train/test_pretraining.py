"""Trainers that are no optimizers: which samples become weights, and which nets are trained one after the other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch import MinibatchSource, rng
from minibatch.models.autoencoder import Autoencoder
from minibatch.models.feedforward import FeedForward, Tied
from minibatch.train.arrays import as_dataset
from minibatch.train.pretraining import layerwise, pretrain, reservoir, sample
from tests.plain import pretraining as plain


def data(rows: int, width: int = 5, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of which some are all 0, and labels."""
    x = rng.normal(rng.key(1, "test data"), np.arange(rows * width)).reshape(rows, width)
    x[::4] = 0.0
    return x, np.arange(rows) % classes


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(2, 40), count=st.integers(1, 60), seed=st.integers(0, 2**64 - 1), labelled=st.booleans())
def test_the_reservoir_is_that_of_the_plain_twin(rows, count, seed, labelled):
    x, y = data(rows)
    columns, names = ((x, y), ["x", "label"]) if labelled else ((x,), ["x"])
    given_targets = [plain.one_hot(label, 3) for label in y.tolist()] if labelled else x.tolist()
    expected = plain.reservoir(x.tolist(), given_targets, count, seed)
    found = reservoir(as_dataset(columns, names), names, count, classes=3, key=seed)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_the_reservoir_is_a_choice_without_repetition_that_no_source_in_another_order_changes():
    x, y = data(1000)
    dataset = as_dataset((x, y), ["x", "label"])
    with MinibatchSource(dataset, seed=99, shuffle=None) as source:
        source.seek(123)
        of_source = reservoir(source, ["x", "label"], 300, classes=3, key=5)
        assert source.nominal_time == 123
    found = reservoir(dataset, ["x", "label"], 300, classes=3, key=5)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(found, of_source, strict=True))
    assert len(np.unique(found[0].round(12), axis=0)) == 300
    shorter = reservoir(dataset, ["x", "label"], 20, classes=3, key=5)
    assert np.array_equal(shorter[0], found[0][:20])
    other = reservoir(dataset, ["x", "label"], 300, classes=3, key=6)
    assert not np.array_equal(other[0], found[0])


def test_transforms_of_a_source_apply_to_what_becomes_weights():
    x, _ = data(20)
    with MinibatchSource(as_dataset(x, ["x"]), transforms=[lambda fields, draws: {"x": -fields["x"]}]) as source:
        turned, _ = reservoir(source, ["x"], 10, key=5)
    plainly, _ = reservoir(as_dataset(x, ["x"]), ["x"], 10, key=5)
    assert np.array_equal(turned, -plainly)


def test_unit_j_becomes_sample_j_and_answers_with_its_target():
    x, y = data(50)
    net = FeedForward((5, 8, 3), seed=1).double()
    biases = net.hid1.bias.clone()
    dataset = as_dataset((x, y), ["x", "label"])
    assert sample(net, dataset, ["x", "label"], classes=3, seed=7) == ["hid1", "out"]
    inputs, targets = reservoir(dataset, ["x", "label"], 8, classes=3, key=rng.key(7, "sample"))
    assert np.array_equal(net.hid1.weight.detach().numpy(), inputs)
    assert np.array_equal(net.out.weight.detach().numpy(), targets.T)
    assert torch.equal(net.hid1.bias, biases)
    directions = x[1] / np.linalg.norm(x[1])
    assert any(np.allclose(row, directions) for row in reservoir(dataset, ["x"], 37, key=3)[0])


def test_only_layers_as_wide_as_the_inputs_take_inputs():
    x, y = data(50)
    net = FeedForward((5, 8, 5, 4, 3), seed=1)
    before = net.hid2.weight.clone(), net.hid3.weight.clone()
    # hid3 is as wide as the inputs, though it does not see them: theanets decides by the shape, too.
    done = sample(net, as_dataset((x, y), ["x", "label"]), ["x", "label"], classes=3, seed=7)
    assert done == ["hid1", "hid3", "out"]
    assert torch.equal(net.hid2.weight, before[0])
    assert not torch.equal(net.hid3.weight, before[1])


def test_an_autoencoder_takes_its_inputs_for_targets():
    x, _ = data(50)
    net = Autoencoder((5, 8, 5), seed=1)
    assert sample(net, as_dataset(x, ["x"]), ["x"], classes=None, seed=7) == ["hid1", "out"]
    assert torch.equal(net.out.weight, net.hid1.weight.T)
    tied = Autoencoder((5, 8, 5), tied=True, seed=1)
    assert sample(tied, as_dataset(x, ["x"]), ["x"], classes=None, seed=7) == ["hid1"]


def test_data_without_a_direction_are_refused():
    with pytest.raises(ValueError, match="all samples of x are 0"):
        reservoir(as_dataset(np.zeros((4, 2)), ["x"]), ["x"], 3, key=1)


# --- stages -------------------------------------------------------------------------------------------------------


def test_layerwise_adds_one_hidden_layer_at_a_time_and_ends_with_the_net_itself():
    net = FeedForward((6, 5, 4, 3, 2), seed=1)
    stages = dict(layerwise(net, seed=7))
    assert {name: list(stage.layers) for name, stage in stages.items()} == {
        "layerwise-1": ["in", "hid1", "lwout"],
        "layerwise-2": ["in", "hid1", "hid2", "lwout"],
        "layerwise-3": ["in", "hid1", "hid2", "hid3", "out"],
    }
    assert stages["layerwise-3"] is net
    assert stages["layerwise-2"].hid1 is net.hid1
    assert stages["layerwise-2"].lwout.weight.shape == (2, 4)
    assert stages["layerwise-1"](torch.ones(3, 6)).shape == (3, 2)


def test_new_output_layers_are_a_function_of_seed_and_stage_and_have_the_type_of_the_net():
    net = FeedForward((6, 5, 5, 5, 2), seed=1).double()
    first, second, _ = (stage for _, stage in layerwise(net, seed=7))
    again, *_ = (stage for _, stage in layerwise(net, seed=7))
    other, *_ = (stage for _, stage in layerwise(net, seed=8))
    assert torch.equal(first.lwout.weight, again.lwout.weight)
    assert not torch.equal(first.lwout.weight, second.lwout.weight)
    assert not torch.equal(first.lwout.weight, other.lwout.weight)
    assert first.lwout.weight.dtype == torch.float64


@pytest.mark.parametrize("layers", [(6, 2), (6, 4, 2)])
def test_with_one_hidden_layer_or_none_there_is_one_stage(layers):
    net = FeedForward(layers, seed=1)
    assert [(name, stage is net) for name, stage in layerwise(net, seed=7)] == [("layerwise-1", True)]


def test_of_a_tied_autoencoder_the_outermost_pairs_come_first():
    net = Autoencoder((6, 5, 4, 3, 4, 5, 6), tied=True, seed=1)
    assert [list(stage.layers) for _, stage in layerwise(net, seed=7)] == [
        ["in", "hid1", "out"],
        ["in", "hid1", "hid2", "hid5", "out"],
        ["in", "hid1", "hid2", "hid3", "hid4", "hid5", "out"],
    ]
    for _, stage in layerwise(net, seed=7):
        assert stage(torch.ones(2, 6)).shape == (2, 6)


def test_pretrain_trains_the_hidden_layers_as_a_tied_autoencoder():
    net = FeedForward((6, (5, "tanh"), (4, "sigmoid"), 2), seed=1).double()
    stages = dict(pretrain(net, seed=7))
    assert {name: list(stage.layers) for name, stage in stages.items()} == {
        "pretrain-1": ["in", "hid1", "hid1_back"],
        "pretrain-2": ["in", "hid1", "hid2", "hid2_back", "hid1_back"],
    }
    whole = stages["pretrain-2"]
    assert whole.hid1 is net.hid1
    assert [layer.spec.activation for layer in (whole.hid2_back, whole.hid1_back)] == ["sigmoid", "linear"]
    assert isinstance(whole.hid2_back, Tied)
    assert whole.hid2_back.partner is net.hid2
    x = torch.ones(3, 6, dtype=torch.float64)
    code = torch.sigmoid(torch.tanh(x @ net.hid1.weight.T) @ net.hid2.weight.T)
    expected = torch.sigmoid(code @ net.hid2.weight) @ net.hid1.weight
    torch.testing.assert_close(whole(x), expected)


def test_pretrain_never_touches_the_last_layer():
    net = FeedForward((6, 5, 4, 2), seed=1)
    reached = {id(p) for _, stage in pretrain(net, seed=7) for p in stage.parameters()}
    assert all(id(p) not in reached for p in net.out.parameters())
    assert all(id(p) in reached for name in ("hid1", "hid2") for p in net.get_submodule(name).parameters())


def test_nets_that_cannot_be_pretrained_are_refused():
    with pytest.raises(ValueError, match="no hidden layer"):
        next(pretrain(FeedForward((6, 2)), seed=7))
    with pytest.raises(ValueError, match="hid3 use the weights of others; train an autoencoder with algo='layerwise'"):
        next(pretrain(Autoencoder((6, 5, 4, 5, 6), tied=True), seed=7))
