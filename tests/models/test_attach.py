"""Noise attached by pattern: where it acts, and that names, order and copies stay as they are."""

import copy
import pickle

import pytest
import torch
from torch import nn

from minibatch.models import MLP, noise
from minibatch.models.noise import Dropout, GaussianNoise, attach, attach_named
from tests.models.test_noise import key_of


class Front(nn.Module):
    """Reads integers and floats, from positions and keywords, and returns a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.rnn = nn.GRU(4, 5)

    def forward(self, number, *, x):
        states, last = self.rnn(self.body(x)[None].expand(7, -1, -1))
        return {"number": number, "states": states, "last": last}


def run(model, keys, *args, n=4, **kwargs):
    with keys.at(torch.arange(n)):
        return model(*args, **kwargs)


def mask(name: str, shape, p: float = 0.5) -> torch.Tensor:
    """What Dropout(p) called `name` does to ones."""
    layer = Dropout(p)
    with noise.bind(layer, lambda _: key_of(name)).at(torch.arange(shape[0])):
        return layer(torch.ones(shape))


def added(name: str, shape, sigma: float) -> torch.Tensor:
    layer = GaussianNoise(sigma)
    with noise.bind(layer, lambda _: key_of(name)).at(torch.arange(shape[0])):
        return layer(torch.zeros(shape))


def test_noise_comes_in_front_and_behind_where_it_was_attached():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    names = attach(model, {"input": GaussianNoise(0.1), "[01]": Dropout(0.5)})
    assert names == ["0.input_noise", "0.output_noise", "1.output_noise"]
    keys = noise.bind(model, key_of)
    assert list(keys.names) == names
    x = torch.randn(4, 3)
    out = run(model, keys, x)
    linear, last = model[0], model[2]
    h = nn.functional.linear(x + added(names[0], (4, 3), 0.1), linear.weight, linear.bias) * mask(names[1], (4, 4))
    torch.testing.assert_close(out, last(torch.tanh(h) * mask(names[2], (4, 4))))


def test_the_data_stay_clean():
    model = nn.Sequential(nn.Linear(3, 3))
    attach(model, {"input": [Dropout(0.5), GaussianNoise(1.0)]})
    x = torch.ones(4, 3)
    run(model, noise.bind(model, key_of), x)
    assert torch.equal(x, torch.ones(4, 3))


def test_several_layers_act_in_their_order():
    model = nn.ModuleDict({"a": nn.Identity()})
    assert attach(model, {"a": [Dropout(0.5), GaussianNoise(0.1)]}) == ["a.output_noise", "a.output_noise_2"]
    keys = noise.bind(model, key_of)
    out = run(model["a"], keys, torch.ones(4, 9))
    torch.testing.assert_close(out, mask("a.output_noise", (4, 9)) + added("a.output_noise_2", (4, 9), 0.1))


def test_names_and_values_of_a_checkpoint_stay_as_they_are():
    plain, noisy = MLP(sizes=(3, 4, 4, 2), seed=1), MLP(sizes=(3, 4, 4, 2), seed=1)
    attach(noisy, {"input": GaussianNoise(0.1), "layers.[13]": Dropout(0.5), "layers": Dropout(0.1)})
    assert list(noisy.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in noisy.named_parameters()] == [name for name, _ in plain.named_parameters()]
    noisy.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3)
    assert torch.equal(noisy.eval()(x), plain(x))  # in front of and behind a Sequential that is read by number


def test_copies_have_noise_of_their_own():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    attach(model, {"input": GaussianNoise(0.5), "1": Dropout(0.5)})
    keys = noise.bind(model, key_of)
    x = torch.randn(4, 3)
    expected = run(model, keys, x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(RuntimeError, match="outside of a step"):
            other(x)
        assert torch.equal(run(other, noise.bind(other, key_of), x), expected)
        assert other[1].output_noise is not model[1].output_noise
        other.eval()
        assert model[1].output_noise.training
        assert torch.equal(other(x), torch.tanh(other[0](x)))


def test_keywords_dictionaries_and_states_with_time_first():
    model = Front()
    names = attach(model, {"input": GaussianNoise(0.1), "rnn": Dropout(0.5), "body": Dropout(0.5)})
    assert names == ["input_noise", "rnn.output_noise", "body.1.output_noise"]
    keys = noise.bind(model, key_of)
    x, number = torch.randn(4, 3), torch.arange(4)
    out = run(model, keys, number, x=x)
    body = nn.functional.relu(model.body[0](x + added("input_noise", (4, 3), 0.1))) * mask(
        "body.1.output_noise", (4, 4)
    )
    model.eval()
    states, last = model.rnn(body[None].expand(7, -1, -1))
    torch.testing.assert_close(out["states"], states * mask("rnn.output_noise", (4, 7, 5)).transpose(0, 1))
    torch.testing.assert_close(out["last"], last)
    assert torch.equal(out["number"], number)


def test_theanets_names():
    model = MLP(sizes=(3, 4, 4, 2), seed=1)
    names = attach_named(
        model, hidden=["layers.1", "layers.3"], input_dropout=0.2, input_noise=0.1, hidden_dropout=0.5, rescale="never"
    )
    layers = {name: repr(model.get_submodule(name)) for name in names}
    assert layers == {
        "input_noise": "Dropout(p=0.2, rescale='never')",
        "input_noise_2": "GaussianNoise(sigma=0.1)",
        "layers.1.output_noise": "Dropout(p=0.5, rescale='never')",
        "layers.3.output_noise": "Dropout(p=0.5, rescale='never')",
    }
    assert attach_named(model) == []
    with pytest.raises(ValueError, match="need hidden="):
        attach_named(model, hidden_noise=0.1)


def test_integers_get_no_noise():
    model = nn.Sequential(nn.Embedding(5, 2))
    attach(model, {"input": GaussianNoise(0.1)})
    with pytest.raises(TypeError, match="transform of the source"):
        run(model, noise.bind(model, key_of), torch.arange(4))
    model = nn.ModuleDict({"a": nn.Identity()})
    attach(model, {"a": GaussianNoise(0.1)})
    with pytest.raises(TypeError, match="floating tensor in its output, got Tensor"):
        run(model["a"], noise.bind(model, key_of), torch.arange(4))


class Own(nn.Sequential):
    def forward(self, x):
        for layer in reversed(self):
            x = layer(x)
        return x


def test_what_cannot_take_noise_is_refused_with_nothing_attached():
    shared = nn.Tanh()
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), shared), "b": nn.Sequential(shared), "c": Own()})
    before = repr(model)
    with pytest.raises(ValueError, match=r"one module in several places, a\.1, b\.0"):
        attach(model, {"a.0": Dropout(0.5), "b": Dropout(0.5)})
    with pytest.raises(ValueError, match="Own is a Sequential"):
        attach(model, {"a.0": Dropout(0.5), "c": Dropout(0.5)})
    with pytest.raises(ValueError, match=r"fits the name of no module; there are a, a\.0"):
        attach(model, {"a.0": Dropout(0.5), "d*": Dropout(0.5)})
    with pytest.raises(TypeError, match="has \\['Dropout'\\], expected noise layers"):
        attach(model, {"a.0": nn.Dropout(0.5)})
    with pytest.raises(TypeError, match="no layer"):
        attach(model, {"a.0": []})
    assert repr(model) == before


def test_noise_is_not_attached_behind_noise():
    model = MLP(sizes=(3, 4, 2), dropout=0.5, seed=1)
    names = attach(model, {"layers.*": GaussianNoise(0.1)})
    assert names == ["layers.0.output_noise", "layers.1.output_noise", "layers.3.output_noise"]
