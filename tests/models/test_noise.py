"""Masks are functions of (layer, call, nominal time, element) alone, and look random."""

import copy
import math
import pickle
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from minibatch import rng
from minibatch.models import noise
from minibatch.models.noise import Dropout, GaussianNoise
from tests.plain import rng as plain

WORD_32 = 2**32 - 1


def key_of(name: str) -> int:
    return rng.key(7, f"noise.{name}")


def mask(layer: Dropout, times, elements: int) -> np.ndarray:
    """Which elements survive: bool (len(times), elements)."""
    times = torch.as_tensor(times)
    keys = layer.keys or noise.bind(layer, key_of)
    with keys.at(times):
        return (layer(torch.ones(len(times), elements)) != 0).numpy()


def plain_word(stream: int, time: int, element: int) -> int:
    """The specification in noise.py's docstring, in unbounded integers: a 32-bit word before the last mixing step."""
    index = (element + 1) * 0x9E3779B9 & WORD_32
    index ^= index >> 16
    index = index * 0x7FEB352D & WORD_32
    index ^= index >> 15
    index = index * 0x846CA68B & WORD_32
    index ^= index >> 16
    word = plain.draw(stream, time)
    x = (word & WORD_32) ^ index
    x = ((x ^ (x >> 16)) * 0x7FEB352D + (word >> 32)) & WORD_32
    return (x ^ (x >> 15)) * 0x846CA68B & WORD_32


def plain_keeps(p: float, stream: int, time: int, element: int) -> bool:
    word = plain_word(stream, time, element)
    signed = word - 2**32 if word >> 31 else word
    return signed >= min(round(p * 2**32), 2**32 - 1) - 2**31


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93, 1 - 2**-40])
def test_the_mask_is_that_of_the_plain_twin(p):
    times = [0, 1, 2, 63, 64, 10**6, 2**31, 2**40 + 3, 2**62]
    layer = Dropout(p)
    expected = [[plain_keeps(p, key_of(""), t, e) for e in range(37)] for t in times]
    assert np.array_equal(mask(layer, times, 37), expected)


def test_a_second_call_is_keyed_as_the_twin_says():
    layer = Dropout(0.5)
    with noise.bind(layer, key_of).at(torch.arange(5)):
        layer(torch.ones(5, 8))
        second = layer(torch.ones(5, 8)) != 0
    stream = plain.mix64(key_of("") + plain.GOLDEN)
    expected = [[plain_keeps(0.5, stream, t, e) for e in range(8)] for t in range(5)]
    assert np.array_equal(second.numpy(), expected)


def test_golden_masks_have_not_changed():
    """Frozen: a change of these breaks the resumption of every run that has dropout; make a new layer instead."""
    layer = Dropout(0.5)
    noise.bind(layer, lambda name: 0x0123456789ABCDEF)
    rows = mask(layer, [0, 1, 2**40], 48)
    assert ["".join("x" if kept else "." for kept in row) for row in rows] == [
        "xxxx..x..xx.x......xxx...x.xx.x....x.xx.xxxx....",
        "..xxxx.xx...x.x.xx...xxxxx...x......xxxx..x.....",
        "xxx.xx.xx.xx.x.....x.xxxxx.x...x.x.x..xxx.x.xxx.",
    ]


def test_mix64_is_that_of_the_source():
    for word in (0, 1, 2**63, 0x0123456789ABCDEF):
        assert noise.mix64(word) == rng.mix64(word)


def test_any_cut_into_microbatches_gives_the_same_masks():
    layer = Dropout(0.4)
    whole = mask(layer, range(100, 164), 50)
    for size in (1, 2, 7, 13, 63):
        parts = [mask(layer, range(start, min(start + size, 164)), 50) for start in range(100, 164, size)]
        assert np.array_equal(np.concatenate(parts), whole)
    shuffled = np.random.default_rng(1).permutation(64)
    assert np.array_equal(mask(layer, 100 + shuffled, 50), whole[shuffled])


def test_the_number_of_threads_does_not_matter():
    layer = Dropout(0.4)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = mask(layer, range(256), 1000)
        torch.set_num_threads(2)
        two = mask(layer, range(256), 1000)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(one, two)


def test_the_global_generator_is_left_alone():
    before = torch.default_generator.get_state()
    mask(Dropout(0.4), range(8), 8)
    assert torch.equal(torch.default_generator.get_state(), before)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.8])
def test_the_rate_is_p_and_the_scale_keeps_the_mean(p):
    layer = Dropout(p)
    n, elements = 500, 400
    with noise.bind(layer, key_of).at(torch.arange(n)):
        out = layer(torch.ones(n, elements, dtype=torch.float64))
    dropped = (out == 0).double()
    deviation = math.sqrt(p * (1 - p) / (n * elements))
    assert abs(dropped.mean().item() - p) < 5 * deviation
    assert out[out != 0].unique().tolist() == [1 / (1 - p)]
    # every element and every sample by itself, as a chi-square over all of them
    for axis, size, others in ((0, elements, n), (1, n, elements)):
        z = (dropped.mean(axis) - p) / math.sqrt(p * (1 - p) / others)
        assert abs((z.square().sum().item() - size) / math.sqrt(2 * size)) < 5


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_layers_samples_elements_and_calls_are_independent():
    model = nn.Sequential(Dropout(0.5), Dropout(0.5))
    keys = noise.bind(model, key_of)
    x = torch.ones(512, 256)
    with keys.at(torch.arange(512)):
        a, b, again = (np.asarray(layer(x) != 0) for layer in (model[0], model[1], model[0]))
    noise.bind(model, lambda name: rng.key(8, f"noise.{name}"))
    with model[0].keys.at(torch.arange(512)):
        other_seed = np.asarray(model[0](x) != 0)
    bound = 5 / math.sqrt(a.size)
    assert abs(correlation(a, b)) < bound
    assert abs(correlation(a, again)) < bound
    assert abs(correlation(a, other_seed)) < bound
    for distance in (1, 2, 3, 64):
        assert abs(correlation(a[distance:], a[:-distance])) < 1.1 * bound
        assert abs(correlation(a[:, distance:], a[:, :-distance])) < 1.1 * bound
        assert abs(correlation(a[distance:, distance:], b[:-distance, :-distance])) < 1.1 * bound
    # pairs of bits in all four combinations, for every pair of neighbouring elements together
    counts = np.bincount((2 * a[:, :-1] + a[:, 1:]).ravel(), minlength=4)
    expected = counts.sum() / 4
    assert ((counts - expected) ** 2 / expected).sum() < 30


def test_whole_rows_do_not_repeat():
    rows = mask(Dropout(0.5), range(20_000), 64)
    assert len(np.unique(np.packbits(rows, axis=1), axis=0)) == len(rows)


def test_dropout_per_channel_drops_whole_channels():
    layer = Dropout(0.5, per_channel=True)
    with noise.bind(layer, key_of).at(torch.arange(6)):
        out = layer(torch.ones(6, 10, 3, 2))
    flat = out.view(6, 10, 6)
    assert ((flat == 0).all(2) | (flat == 2).all(2)).all()
    assert set(flat.unique().tolist()) == {0.0, 2.0}
    with pytest.raises(ValueError, match="channels"), layer.keys.at(torch.arange(6)):
        layer(torch.ones(6))


def test_the_extreme_rates():
    x = torch.randn(4, 5)
    for p, expected in ((0.0, x), (1.0, torch.zeros(4, 5))):
        layer = Dropout(p)
        with noise.bind(layer, key_of).at(torch.arange(4)):
            assert torch.equal(layer(x), expected)
    for p in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="probability"):
            Dropout(p)
    for sigma in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="deviation"):
            GaussianNoise(sigma)


@pytest.mark.parametrize("layer", [Dropout(0.5), GaussianNoise(1.0)])
def test_eval_mode_is_the_identity_and_needs_no_keys(layer):
    layer.eval()
    x = torch.randn(3, 4)
    assert layer(x) is x
    layer.train()


@pytest.mark.parametrize("layer", [Dropout(0.5), GaussianNoise(1.0)])
def test_train_mode_outside_of_a_step_says_what_to_do(layer):
    with pytest.raises(RuntimeError, match=r"Trainer.*keys\.at\(times\).*eval\(\)"):
        layer(torch.ones(3, 4))
    keys = noise.bind(layer, key_of)
    with pytest.raises(RuntimeError, match="outside of a step"):
        layer(torch.ones(3, 4))
    with keys.at(torch.arange(4)), pytest.raises(ValueError, match=r"shape \(3, 4\).*4 samples"):
        layer(torch.ones(3, 4))


def test_steps_may_be_nested():
    layer = Dropout(0.5)
    keys = noise.bind(layer, key_of)
    x = torch.ones(4, 30)
    with keys.at(torch.arange(4)):
        layer(x)
        with keys.at(torch.arange(100, 104)):
            inner = layer(x)
        second = layer(x)
    with keys.at(torch.arange(100, 104)):
        assert torch.equal(layer(x), inner)
    with keys.at(torch.arange(4)):
        layer(x)
        assert torch.equal(layer(x), second)


class Twice(nn.Module):
    """Calls one dropout layer in two blocks, each of which may be recomputed."""

    def __init__(self, **options):
        super().__init__()
        self.first, self.second, self.dropout = nn.Linear(6, 6), nn.Linear(6, 6), Dropout(0.5)
        self.options = options

    def forward(self, x):
        for linear in (self.first, self.second):

            def block(x, linear=linear):
                return self.dropout(torch.tanh(linear(x)))

            x = checkpoint(block, x, use_reentrant=False, **self.options) if self.options else block(x)
        return x


def gradients(model: nn.Module) -> list[torch.Tensor]:
    model.zero_grad()
    with noise.bind(model, key_of).at(torch.arange(5)):
        model(torch.linspace(-1, 1, 30).view(5, 6)).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_recomputation_sees_the_same_masks():
    torch.manual_seed(0)
    plainly = Twice()
    expected = gradients(plainly)
    recomputed = Twice(context_fn=noise.checkpoint_contexts)
    recomputed.load_state_dict(plainly.state_dict())
    for ours, theirs in zip(gradients(recomputed), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_recomputation_of_a_layer_that_is_called_once_needs_no_help():
    torch.manual_seed(0)
    linear, dropout = nn.Linear(6, 6), Dropout(0.5)
    model = nn.Sequential(linear, dropout)
    expected = gradients(model)

    class Recomputed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    with noise.bind(model, key_of).at(torch.arange(5)):
        model.zero_grad()
        Recomputed()(torch.linspace(-1, 1, 30).view(5, 6)).square().sum().backward()
    for parameter, theirs in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, theirs)


def test_recomputation_of_a_layer_that_is_called_twice_asks_for_help():
    with pytest.raises(RuntimeError, match=r"context_fn=noise\.checkpoint_contexts"):
        gradients(Twice(preserve_rng_state=False))


def test_gaussian_noise_has_mean_deviation_and_shape_of_the_normal_distribution():
    layer = GaussianNoise(2.0)
    with noise.bind(layer, key_of).at(torch.arange(400)):
        z = layer(torch.zeros(400, 500, dtype=torch.float64)).numpy().ravel() / 2
    n = len(z)
    assert abs(z.mean()) < 5 / math.sqrt(n)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / n)
    z.sort()
    normal = np.array([NormalDist().cdf(value) for value in z[:: n // 2000]])
    # Kolmogorov and Smirnov: at the level 1e-6 the bound is 2.7 / sqrt(n)
    assert np.abs(normal - np.arange(0, n, n // 2000) / n).max() < 2.7 / math.sqrt(n)
    assert 4 < z.max() < 6


def test_gaussian_noise_does_not_depend_on_the_cut():
    layer = GaussianNoise(0.3)
    keys = noise.bind(layer, key_of)
    x = torch.randn(33, 7, 5)
    with keys.at(torch.arange(33)):
        whole = layer(x)
    parts = []
    for start in range(0, 33, 8):
        with keys.at(torch.arange(33)[start : start + 8]):
            parts.append(layer(x[start : start + 8]))
    assert torch.equal(torch.cat(parts), whole)


def test_a_copy_is_unbound():
    layer = Dropout(0.5)
    noise.bind(layer, key_of)
    assert copy.deepcopy(layer).keys is None
    assert pickle.loads(pickle.dumps(layer)).keys is None
    assert layer.keys is not None


def test_a_layer_keeps_the_dtype_of_its_input():
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        for layer in (Dropout(0.5), GaussianNoise(0.1)):
            with noise.bind(layer, key_of).at(torch.arange(3)):
                assert layer(torch.ones(3, 4, dtype=dtype)).dtype == dtype


FOREIGN = {
    "dropout": (nn.Dropout(0.5), True),
    "dropout2d": (nn.Dropout2d(0.5), True),
    "alpha": (nn.AlphaDropout(0.5), True),
    "rrelu": (nn.RReLU(), True),
    "attention": (nn.MultiheadAttention(4, 2, dropout=0.1), False),
    "lstm": (nn.LSTM(3, 3, num_layers=2, dropout=0.1), False),
    "pool": (nn.FractionalMaxPool2d(2, output_size=3), False),
    "DropPath": (type("DropPath", (nn.Module,), {"drop_prob": 0.1})(), True),
    "StochasticDepth": (type("StochasticDepth", (nn.Module,), {"p": 0.1, "mode": "row"})(), True),
    "batch mode": (type("StochasticDepth", (nn.Module,), {"p": 0.1, "mode": "batch"})(), False),
    "DropBlock2d": (type("DropBlock2d", (nn.Module,), {"drop_prob": 0.1})(), False),
}
HARMLESS = [
    nn.Dropout(0.0),
    nn.LSTM(3, 3),
    nn.MultiheadAttention(4, 2),
    nn.RReLU(0.2, 0.2),
    Dropout(0.5),
    nn.Linear(2, 2),
]


@pytest.mark.parametrize("name", FOREIGN)
def test_layers_that_draw_from_the_global_generator_are_found_by_path(name):
    layer, convertible = FOREIGN[name]
    model = nn.ModuleDict({"block": nn.Sequential(nn.Linear(2, 2), layer)})
    assert list(noise.foreign(model)) == ["block.1"]
    if convertible:
        assert noise.convert(model) == ["block.1"]
        assert isinstance(model["block"][1], noise.KeyedNoise)
        assert noise.foreign(model) == {}
        assert noise.advice(model) == []
    else:
        assert len(noise.advice(model)) == 1
        with pytest.raises(ValueError, match=r"block\.1.*What to do: \w+: \w+"):
            noise.convert(model)
        assert model["block"][1] is layer


def test_layers_that_draw_nothing_are_left_alone():
    model = nn.Sequential(*HARMLESS)
    assert noise.foreign(model) == {}
    assert noise.convert(model) == []
    assert list(model) == HARMLESS


def test_nothing_is_converted_if_something_cannot_be():
    model = nn.Sequential(nn.Dropout(0.5), nn.LSTM(2, 2, num_layers=2, dropout=0.5))
    with pytest.raises(ValueError, match=r"1: LSTM.*one LSTM of one layer each"):
        noise.convert(model)
    assert isinstance(model[0], nn.Dropout)


def test_a_layer_in_two_places_stays_one_layer():
    shared = nn.Dropout(0.5)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared)}).eval()
    assert noise.convert(model) == ["a.0", "b.0"]
    assert model["a"][0] is model["b"][0]
    assert not model["a"][0].training
