"""Averages of weights over nominal time: equal however time is cut, exact on the way back, saved by name."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minibatch.errors import CheckpointError
from minibatch.train.averaging import EMA, Averaging
from tests.train.small import make_source, make_trainer, write


def model(value=0.0, dtype=torch.float64):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).to(dtype)
    return put(net, value)


def put(net, value):
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(value)
    return net


def integral(history, decay, debias):
    """Σ over samples of decay^(samples since)·(the weights that stood after this sample's step), in plain floats.

    Without debias what stood after the first step has stood for ever.
    """
    end = history[-1][1]
    above = below = 0.0
    for t0, t1, value in history:
        for s in range(t0, t1):
            above += decay ** (end - 1 - s) * value
            below += decay ** (end - 1 - s)
    if not debias:
        past = decay ** (end - history[0][0]) / (1.0 - decay)
        above, below = above + past * history[0][2], below + past
    return above / below


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(1, 40), st.floats(-2, 2)), min_size=1, max_size=8),
    decay=st.floats(0.8, 0.999),
    debias=st.booleans(),
    begin=st.integers(0, 1000),
)
def test_the_average_is_the_weighted_sum_over_all_samples(steps, decay, debias, begin):
    net = model()
    averaging = Averaging(net, EMA(decay=decay, debias=debias))
    t, history = begin, []
    for samples, value in steps:
        put(net, value)
        averaging.update(t, t + samples)
        history.append((t, t + samples, value))
        t += samples
    assert averaging.since == begin
    found = averaging.tensors()["0.weight"][0, 0].item()
    assert found == pytest.approx(integral(history, decay, debias), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("debias", [True, False])
def test_it_does_not_depend_on_how_time_is_cut_while_the_weights_stay(debias):
    results = []
    for cut in (1, 5, 20):
        net = model()
        averaging = Averaging(net, EMA(halflife=30.0, debias=debias))
        for t in range(0, 100, cut):
            put(net, float(t // 20))
            averaging.update(t, t + cut)
        results.append(averaging.tensors()["0.bias"][0].item())
    assert results == pytest.approx([results[0]] * 3, rel=1e-12)


def test_half_life_and_decay_are_the_same_thing():
    assert EMA(halflife=100.0).weight(7) == pytest.approx(EMA(decay=0.5**0.01).weight(7), rel=1e-12)
    assert EMA(halflife=1e12).weight(1) == pytest.approx(math.log(2) / 1e12, rel=1e-12, abs=0)  # not rounded to 0


def test_nothing_is_averaged_before_the_start():
    net = model(1.0)
    averaging = Averaging(net, EMA(halflife=10.0, start=50))
    averaging.update(0, 32)
    averaging.update(32, 64)  # begins before the start
    assert averaging.since is None
    assert averaging.tensors() == {}
    with averaging.applied():
        assert net[0].weight[0, 0] == 1.0
    put(net, 3.0)
    averaging.update(64, 96)
    assert averaging.since == 64
    assert averaging.tensors()["0.weight"].eq(3.0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_models_own_weights_come_back_bit_for_bit(dtype):
    net = model(0.0, dtype)
    draw = np.random.default_rng(1)
    averaging = Averaging(net, EMA(halflife=10.0))
    for step in range(5):
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.tensor(draw.normal(size=p.shape)))
        averaging.update(8 * step, 8 * step + 8)
    own = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with averaging.applied():
        for name, average in averaging.tensors().items():
            assert torch.equal(net.get_parameter(name), average.to(dtype))
            assert not torch.equal(net.get_parameter(name), own[name])
    assert all(torch.equal(own[name], tensor) for name, tensor in net.state_dict().items())

    def fail():
        with averaging.applied():
            raise KeyError("inside")

    with pytest.raises(KeyError):
        fail()
    assert all(torch.equal(own[name], tensor) for name, tensor in net.state_dict().items())


def test_half_precision_is_averaged_in_float32():
    """In bfloat16 an average that moves by a thousandth of the difference would not move at all."""
    net = model(1.0, torch.bfloat16)
    averaging = Averaging(net, EMA(halflife=1000.0, debias=False))
    averaging.update(0, 1)
    put(net, 2.0)
    for t in range(1, 101):
        averaging.update(t, t + 1)
    average = averaging.tensors()["0.weight"]
    assert average.dtype == torch.float32
    assert average[0, 0].item() == pytest.approx(2.0 - 0.5**0.1, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_goes_on_with_the_same_bits(dtype):
    def steps(net, averaging, first, last):
        for step in range(first, last):
            put(net, math.sin(step))
            averaging.update(8 * step, 8 * step + 8)

    net = model(0.0, dtype)
    whole = Averaging(net, EMA(halflife=10.0))
    steps(net, whole, 0, 9)
    saved, since = {name: tensor.clone() for name, tensor in whole.tensors().items()}, whole.since
    steps(net, whole, 9, 20)

    net = model(7.0, dtype)
    other = Averaging(net, EMA(halflife=10.0))
    other.load(saved, since)
    steps(net, other, 9, 20)
    assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in whole.tensors().items())
    other.load({}, None)
    assert other.since is None


def test_what_does_not_fit_is_refused_by_name():
    averaging = Averaging(model(), EMA(halflife=10.0))
    with pytest.raises(ValueError, match=r"0.bias is missing.*else is not averaged here.*0.weight has shape \(1,\)"):
        averaging.load({"0.weight": torch.ones(1), "1.weight": torch.ones(3), "1.bias": torch.ones(3),
                        "else": torch.ones(1)}, 0)  # fmt: skip


def test_buffers_are_the_models_or_averaged_as_the_policy_says():
    for policy in ("keep", "average"):
        net = model()
        averaging = Averaging(net, EMA(halflife=8.0, buffers=policy, debias=False))
        for t, value in ((0, 1.0), (8, 3.0)):
            net[1].running_mean.fill_(value)
            net[1].num_batches_tracked.fill_(int(value))
            averaging.update(t, t + 8)
        assert ("1.running_mean" in averaging.tensors()) == (policy == "average")
        with averaging.applied():
            assert net[1].running_mean[0] == (3.0 if policy == "keep" else 2.0)
            assert net[1].num_batches_tracked == 3
        assert net[1].running_mean[0] == 3.0


def test_frozen_parameters_are_left_out_and_tied_ones_are_averaged_once():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    net[1].bias.requires_grad_(False)
    averaging = Averaging(net, EMA(halflife=1.0))
    averaging.update(0, 8)
    assert set(averaging.tensors()) == {"0.weight", "0.bias"}
    with pytest.raises(ValueError, match="no trainable parameter"):
        Averaging(nn.Identity(), EMA(halflife=1.0))


def test_training_on_with_the_averaged_weights_in_place_is_refused():
    averaging = Averaging(model(), EMA(halflife=1.0))
    averaging.update(0, 8)
    with averaging.applied():
        with pytest.raises(RuntimeError, match="leave `applied`"):
            averaging.update(8, 16)
        with pytest.raises(RuntimeError, match="in place already"), averaging.applied():
            pass
    averaging.update(8, 8)  # an empty step


@pytest.mark.parametrize(
    "options",
    [{}, {"halflife": 1.0, "decay": 0.5}, {"halflife": 0.0}, {"decay": 1.0}, {"halflife": 1.0, "start": -1},
     {"halflife": 1.0, "buffers": "drop"}],
)  # fmt: skip
def test_impossible_averages_are_refused(options):
    with pytest.raises(ValueError, match="EMA: "):
        EMA(**options)


@pytest.mark.parametrize("hole", [1, 2])
def test_time_passes_over_a_step_without_samples(tmp_path, hole):
    """The weights that stood during a hole of the source count as long as it lasts."""
    with make_source(write(tmp_path / "data"), skip=[(9 * hole, 9 * hole + 9)]) as source:
        trainer = make_trainer(source, averaging=EMA(halflife=9))
        weights = []
        for _ in range(4):
            trainer.train_minibatch()
            weights.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})
    for name, average in trainer.averaging.tensors().items():
        expected = sum(standing[name] * 0.5 ** (3 - step) for step, standing in enumerate(weights)) / 1.875
        torch.testing.assert_close(average, expected, rtol=1e-12, atol=1e-13)


def test_saving_with_the_averaged_weights_in_place_is_refused(tmp_path):
    """A checkpoint would hold them as the weights to train on."""
    with make_source(write(tmp_path / "data")) as source:
        trainer = make_trainer(source, averaging=EMA(halflife=50))
        for _ in range(3):
            trainer.train_minibatch()
        with trainer.averaging.applied(), pytest.raises(CheckpointError, match="leave `applied"):
            trainer.save_checkpoint(tmp_path / "saved")
        assert not (tmp_path / "saved").exists()
        trainer.save_checkpoint(tmp_path / "saved")
