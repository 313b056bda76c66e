"""Noise under torch.compile and activation checkpointing: the masks of plain eager execution, everywhere."""

import shutil

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch.utils.checkpoint import checkpoint

from minibatch.models import noise
from minibatch.models.noise import AlphaDropout, Dropout, DropPath, GaussianNoise, RReLU
from tests.models.test_noise import key_of


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Net(nn.Module):
    """Every kind of draw, and one layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)
        self.dropout, self.gauss, self.path = Dropout(0.5), GaussianNoise(0.3), DropPath(0.3)
        self.slopes, self.alpha = RReLU(), AlphaDropout(0.2)

    def forward(self, x):
        x = self.dropout(torch.tanh(self.first(x)))
        y = self.slopes(self.path(self.second(self.gauss(x))))
        return self.alpha(self.dropout(x + y))


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), Dropout(0.5), nn.Linear(8, 4))


def made(build) -> tuple[nn.Module, noise.NoiseKeys]:
    torch.manual_seed(0)
    model = build().double()
    return model, noise.bind(model, key_of)


def inputs(n: int) -> torch.Tensor:
    return torch.linspace(-1, 1, 6 * n, dtype=torch.float64).view(n, 6)


def outcome(model, keys, times, call=None) -> list[torch.Tensor]:
    """The outputs and all gradients of one step."""
    model.zero_grad()
    with keys.at(times):
        out = (model if call is None else call)(inputs(len(times)))
        out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters())]


def assert_close(ours, theirs, tolerance: float = 1e-13) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a == 0, b == 0)
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_compiled_in_one_graph_and_not_again_for_every_step():
    model, keys = made(Net)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for n, start in ((5, 0), (5, 2**40), (3, 17), (7, 2**62), (6, 9)):
        times = torch.arange(start, start + n)
        assert_close(outcome(model, keys, times, compiled), outcome(model, keys, times), 0.0)
    assert counter.frame_count == 2  # one for a fixed number of samples, one for any


def test_a_compiled_model_may_be_bound_to_another_seed():
    model, _ = made(small)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    masks = []
    for seed in (1, 2):
        keys = noise.bind(model, lambda name, seed=seed: noise.mix64(seed))
        masks.append(outcome(model, keys, torch.arange(5), compiled))
        assert_close(masks[-1], outcome(model, keys, torch.arange(5)), 0.0)
    assert not torch.equal(masks[0][0], masks[1][0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_gives_the_same_masks():
    model, keys = made(small)
    compiled = torch.compile(model, fullgraph=True)
    for start in (0, 2**62):
        times = torch.arange(start, start + 5)
        assert_close(outcome(model, keys, times, compiled), outcome(model, keys, times))


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_of_a_layer_called_once(reentrant):
    model, keys = made(small)
    expected = outcome(model, keys, torch.arange(5))

    def call(x):
        return checkpoint(model, x.requires_grad_(), use_reentrant=reentrant)

    assert_close(outcome(model, keys, torch.arange(5), call), expected, 0.0)


def test_reentrant_recomputation_of_a_layer_called_twice_says_what_to_do():
    model, keys = made(Net)
    with pytest.raises(RuntimeError, match=r"use_reentrant=False and context_fn=noise\.checkpoint_contexts"):
        outcome(model, keys, torch.arange(5), lambda x: checkpoint(model, x.requires_grad_(), use_reentrant=True))


@pytest.mark.parametrize("build", [small, Net])
def test_recomputation_may_come_after_the_step_and_between_others(build):
    model, keys = made(build)
    first, second = torch.arange(5), torch.arange(50, 55)
    expected = [outcome(model, keys, times) for times in (first, second)]
    losses = []
    for times in (first, second):
        with keys.at(times):
            out = checkpoint(model, inputs(5), use_reentrant=False, context_fn=noise.checkpoint_contexts)
        losses.append(out.square().sum())
    for loss, theirs in zip(losses, expected, strict=True):
        model.zero_grad()
        loss.backward()
        assert_close([p.grad for p in model.parameters()], theirs[1:], 0.0)
    assert keys.times is None


def test_checkpoints_within_checkpoints():
    model, keys = made(Net)
    expected = outcome(model, keys, torch.arange(5))
    options = {"use_reentrant": False, "context_fn": noise.checkpoint_contexts}
    outer = nn.Module()
    outer.forward = lambda x: checkpoint(model, x, **options)
    assert_close(outcome(model, keys, torch.arange(5), lambda x: checkpoint(outer, x, **options)), expected, 0.0)


def test_a_compiled_block_within_a_checkpoint():
    model, keys = made(small)
    compiled = torch.compile(model, backend="aot_eager")
    expected = outcome(model, keys, torch.arange(5))
    for _ in range(3):
        ours = outcome(model, keys, torch.arange(5), lambda x: checkpoint(compiled, x, use_reentrant=False))
        assert_close(ours, expected, 0.0)


@pytest.mark.parametrize("options", [{}, {"context_fn": noise.checkpoint_contexts}])
def test_a_checkpoint_within_a_compiled_function(options):
    model, keys = made(small)
    expected = outcome(model, keys, torch.arange(5))
    compiled = torch.compile(lambda x: checkpoint(model, x, use_reentrant=False, **options), backend="aot_eager")
    for _ in range(2):
        assert_close(outcome(model, keys, torch.arange(5), compiled), expected, 0.0)


def test_attached_noise_is_compiled_too():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    noise.attach(model, {"input": GaussianNoise(0.1), "1": [Dropout(0.5), DropPath(0.2)]})
    keys = noise.bind(model, key_of)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for n in (5, 4):
        assert_close(outcome(model, keys, torch.arange(n), compiled), outcome(model, keys, torch.arange(n)), 0.0)


def test_eval_mode_is_compiled_without_keys():
    model, _ = made(small)
    compiled = torch.compile(model.eval(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs(3)), model(inputs(3)))
