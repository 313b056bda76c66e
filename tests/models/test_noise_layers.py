"""Dropout's forms, paths, activations that draw: what they compute, and that a cut does not change it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minibatch import rng
from minibatch.models import noise
from minibatch.models.noise import AlphaDropout, Dropout, DropPath, GaussianNoise, NoisyReLU, RReLU
from tests.models.test_noise import key_of, plain_keeps, plain_word
from tests.plain import rng as plain

LAYERS = {
    "dropout": lambda: Dropout(0.4),
    "dropout2": lambda: Dropout(0.4, rescale="test"),
    "never": lambda: Dropout(0.4, rescale="never"),
    "channels": lambda: Dropout(0.4, per_channel=True),
    "path": lambda: DropPath(0.4),
    "alpha": lambda: AlphaDropout(0.4),
    "gauss": lambda: GaussianNoise(0.3),
    "nrelu": lambda: NoisyReLU(),
    "rrelu": lambda: RReLU(),
}


def apply(layer: nn.Module, x: torch.Tensor, times, **options) -> torch.Tensor:
    keys = layer.keys or noise.bind(layer, key_of)
    with keys.at(torch.as_tensor(times), **options):
        return layer(x)


def inputs(n: int = 23) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(2).normal(size=(n, 6, 3)))


@pytest.mark.parametrize("name", LAYERS)
def test_any_cut_gives_the_same_outputs_and_gradients(name):
    layer, x = LAYERS[name](), inputs().requires_grad_()
    times = torch.cat([torch.arange(13), torch.tensor([2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1]), torch.arange(5)])
    whole = apply(layer, x, times)
    (slope,) = torch.autograd.grad(whole.square().sum(), x)
    for size in (1, 4, 10):
        cuts = range(0, len(x), size)
        parts = [apply(layer, x[start : start + size], times[start : start + size]) for start in cuts]
        assert torch.equal(torch.cat(parts), whole)
        (parted,) = torch.autograd.grad(torch.cat(parts).square().sum(), x)
        torch.testing.assert_close(parted, slope, rtol=1e-15, atol=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**63 - 1), st.floats(0.01, 0.99), st.integers(0, 2**64 - 1))
def test_masks_at_any_time_are_those_of_the_twin(time, p, key):
    layer = Dropout(p)
    noise.bind(layer, lambda name: key)
    kept = apply(layer, torch.ones(1, 9), [time]) != 0
    assert kept.tolist() == [[plain_keeps(p, key, time, element) for element in range(9)]]


@pytest.mark.parametrize(
    ("rescale", "train", "test"), [("train", 1 / 0.6, 1.0), ("test", 1.0, 0.6), ("never", 1.0, 1.0)]
)
def test_dropout_makes_up_for_missing_elements_where_it_is_told_to(rescale, train, test):
    layer, x = Dropout(0.4, rescale=rescale), inputs()
    keep = apply(Dropout(0.4), torch.ones_like(x), range(len(x))) != 0
    torch.testing.assert_close(apply(layer, x, range(len(x))), x * keep * train)
    torch.testing.assert_close(layer.eval()(x), x * test)
    assert (repr(layer) == "Dropout(p=0.4)") == (rescale == "train")
    with pytest.raises(ValueError, match="'train', 'test', 'never'"):
        Dropout(0.4, rescale="inverted")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_scale_is_not_rounded_to_half_precision(dtype):
    layer = Dropout(0.1)
    x = torch.full((64, 500), 3.0, dtype=dtype)
    out = apply(layer, x, range(64))
    assert out.dtype == dtype
    exact = torch.tensor(3.0 / 0.9, dtype=torch.float64).to(dtype)  # rounded once
    assert set(out.unique().tolist()) == {0.0, exact.item()}


def test_a_path_is_dropped_as_a_whole_and_as_the_twin_says():
    layer = DropPath(0.3)
    times = [0, 1, 5, 2**33, 2**62]
    out = apply(layer, torch.ones(5, 2, 2), times)
    kept = [plain_keeps(0.3, key_of(""), time, 0) for time in times]
    assert out.flatten(1).tolist() == [[torch.tensor(1 / 0.7).item() if keep else 0.0] * 4 for keep in kept]
    assert apply(DropPath(0.3, rescale=False), torch.ones(5, 2), times).tolist() == [[float(k)] * 2 for k in kept]
    many = apply(DropPath(0.3), torch.ones(20_000, 1), range(20_000))
    assert (many == 0).double().mean().item() == pytest.approx(0.3, abs=5 * (0.21 / 20_000) ** 0.5)
    assert apply(DropPath(1.0), torch.ones(2, 3), [0, 1]).tolist() == [[0.0] * 3] * 2


def test_alpha_dropout_keeps_mean_and_variance():
    x = torch.tensor(np.random.default_rng(4).normal(size=(400, 500)))
    out = apply(AlphaDropout(0.3), x, range(400))
    assert out.mean().item() == pytest.approx(0.0, abs=0.015)
    assert out.var().item() == pytest.approx(1.0, abs=0.015)
    # torch's own, with our mask put in its place
    keep = apply(Dropout(0.3), torch.ones_like(x), range(400)) != 0
    alpha = 1.7580993408473766
    a = ((alpha**2 * 0.3 + 1) * 0.7) ** -0.5
    torch.testing.assert_close(out, a * (x * keep + (-alpha) * ~keep) + a * alpha * 0.3)
    channels = apply(AlphaDropout(0.5, per_channel=True), torch.zeros(8, 5, 7), range(8))
    assert (channels == channels[:, :, :1]).all()
    assert len(channels.unique()) == 2


def test_noisy_rectifier_has_noise_of_variance_sigmoid():
    x = torch.full((500, 400), 1.5, dtype=torch.float64)
    out = apply(NoisyReLU(), x, range(500))
    plain_noise = apply(GaussianNoise(1.0), torch.zeros_like(x), range(500))
    torch.testing.assert_close(out, (x + x.sigmoid().sqrt() * plain_noise).relu())
    assert NoisyReLU().eval()(torch.tensor([-2.0, 2.0])).tolist() == [0.0, 2.0]


def test_slopes_of_the_leaky_rectifier_are_uniform_and_those_of_the_twin():
    x = -torch.ones(40, 500, dtype=torch.float64)
    slopes = -apply(RReLU(0.1, 0.5), x, range(40))
    words = [[plain_word(key_of(""), t, e) for e in range(3)] for t in range(2)]
    signed = [[word - 2**32 if word >> 31 else word for word in row] for row in words]
    expected = [[0.1 + 0.4 * ((word + 2**31) + 0.5) / 2**32 for word in row] for row in signed]
    np.testing.assert_allclose(slopes[:2, :3].numpy(), expected, rtol=1e-15)
    assert slopes.min() > 0.1
    assert slopes.max() < 0.5
    counts = torch.histc(slopes.float(), 20, 0.1, 0.5).numpy()
    assert ((counts - 1000) ** 2 / 1000).sum() < 60
    y = torch.tensor([[-1.0, 2.0]])
    assert torch.equal(RReLU().eval()(y), nn.RReLU().eval()(y))
    assert torch.equal(RReLU(0.2, 0.2)(y), torch.tensor([[-0.2, 2.0]]))
    with pytest.raises(ValueError, match="lower ≤ upper"):
        RReLU(0.5, 0.1)


def test_streams_are_independent_at_equal_times_and_the_first_is_as_before():
    layer, ones = Dropout(0.5), torch.ones(256, 256)
    times = range(256)
    masks = [apply(layer, ones, times, stream=stream) != 0 for stream in (0, 1, 2, rng.key(7, "stream.b"))]
    assert torch.equal(masks[0], apply(layer, ones, times) != 0)
    for a, one in enumerate(masks):
        for other in masks[a + 1 :]:
            agreement = (one == other).double().mean().item()
            assert agreement == pytest.approx(0.5, abs=5 * 0.5 / 256)
    shifted = plain.mix64(key_of("") + plain.mix64(2))
    assert masks[2][3, :5].tolist() == [plain_keeps(0.5, shifted, 3, element) for element in range(5)]


def test_streams_may_alternate_within_one_forward_pass():
    layer, ones = Dropout(0.5), torch.ones(4, 30)
    keys = noise.bind(layer, key_of)
    with keys.at(torch.arange(4), 1):
        a = layer(ones)
        with keys.at(torch.arange(4), 2):
            b = layer(ones)
        again = layer(ones)
    assert torch.equal(a, apply(layer, ones, range(4), stream=1))
    assert torch.equal(b, apply(layer, ones, range(4), stream=2))
    assert not torch.equal(again, a)


def test_per_sample_gradients_by_vmap_see_the_masks_of_their_samples():
    model = nn.Sequential(nn.Linear(4, 8), Dropout(0.5), GaussianNoise(0.2), nn.Tanh(), DropPath(0.3), nn.Linear(8, 2))
    model = model.double()
    keys = noise.bind(model, key_of)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    x, times = torch.linspace(-1, 1, 20, dtype=torch.float64).view(5, 4), torch.tensor([3, 4, 5, 2**40, 7])

    def loss(parameters, sample, time):
        with keys.at(time[None]):
            return torch.func.functional_call(model, parameters, (sample[None],)).square().sum()

    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, times)
    with keys.at(times):
        model(x).square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(together[name].sum(0), p.grad, rtol=1e-12, atol=1e-14)
    one = torch.func.grad(loss)(parameters, x[3], times[3])
    for name in parameters:
        torch.testing.assert_close(together[name][3], one[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masks_are_the_same_under_autocast(dtype):
    model = nn.Sequential(nn.Linear(6, 32), Dropout(0.5), nn.Linear(32, 32), DropPath(0.5))
    keys = noise.bind(model, key_of)
    x = torch.linspace(-1, 1, 30).view(5, 6)
    with keys.at(torch.arange(5)):
        full = model[1](model[0](x))
    with keys.at(torch.arange(5)), torch.autocast("cpu", dtype=dtype):
        half = model[1](model[0](x))
        assert half.dtype == dtype
        out = model[3](model[2](half))
    assert torch.equal(full == 0, half == 0)
    out.float().sum().backward()
    reached = half[(out != 0).any(1)]
    assert torch.equal((model[0].weight.grad != 0).any(1), (reached != 0).any(0))


def test_converted_layers_do_what_torchs_did_in_eval_mode():
    model = nn.Sequential(
        nn.AlphaDropout(0.2), nn.FeatureAlphaDropout(0.2), nn.RReLU(0.1, 0.3), nn.Dropout2d(0.1)
    ).eval()
    x = torch.randn(3, 2, 4, 4)
    expected = model(x)
    assert noise.convert(model) == ["0", "1", "2", "3"]
    assert torch.equal(model(x), expected)
    assert [type(layer) for layer in model] == [AlphaDropout, AlphaDropout, RReLU, Dropout]
    assert [getattr(layer, "per_channel", None) for layer in model] == [False, True, None, True]


def test_signs_are_balanced_and_independent_of_the_cut():
    times = torch.arange(300)
    drawn = noise.signs(rng.key(1, "a"), times, 400)
    assert set(drawn.unique().tolist()) == {-1, 1}
    assert drawn.double().mean().item() == pytest.approx(0.0, abs=5 / (300 * 400) ** 0.5)
    assert torch.equal(noise.signs(rng.key(1, "a"), times[7:9], 400), drawn[7:9])
