"""Regularizers of activations: per-sample values equal to the plain formulas, whatever the module and the cut."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from minibatch import rng
from minibatch.models import MLP, noise
from minibatch.train.regularizers import Contractive, HiddenL1, Recorder, RecurrentNorm, RecurrentState, WeightL2
from tests.plain import regularizers as plain

REDUCE = ["sum", "mean", "mean_of_means"]
N = 6


class Two(nn.Module):
    """Two tanh layers over each other: x (n, 5) -> (n, 4) -> (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(5, 4), nn.Tanh())
        self.second = nn.Sequential(nn.Linear(4, 3), nn.Tanh())

    def forward(self, x):
        return self.second(self.first(x))


def made(module: nn.Module, seed: int = 1) -> nn.Module:
    """The module with weights of its own, float64."""
    draw = np.random.default_rng(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.tensor(draw.normal(scale=0.6, size=p.shape)))
    return module.double()


def inputs(*shape: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(5).normal(size=shape))


def run(recorder: Recorder, *args, times=None, model=None) -> torch.Tensor:
    n = N if times is None else len(times)
    with recorder.recording(torch.arange(n) if times is None else times):
        return (recorder.model if model is None else model)(*args)


def arrays(module: nn.Module) -> list[np.ndarray]:
    return [p.detach().numpy() for p in module.parameters()]


@pytest.mark.parametrize("reduce", REDUCE)
def test_hidden_l1_is_that_of_theanets_over_the_minibatch(reduce):
    model, x = made(Two()), inputs(N, 5)
    recorder = Recorder(model, [HiddenL1(coefficient=1.0, pattern=["first", "second"], reduce=reduce)])
    run(recorder, x)
    values = recorder.values("hidden_l1")
    assert values.shape == (N,)
    first = plain.tanh_layer(x.numpy(), *arrays(model.first))
    second = plain.tanh_layer(first, *arrays(model.second))
    expected = plain.hidden([np.abs(first), np.abs(second)], reduce)
    assert values.sum().item() / N == pytest.approx(expected, rel=1e-14)


def test_the_three_reductions_of_a_case_that_fits_on_a_napkin():
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(3, 1, bias=False)).double()
    model[2].weight.data.fill_(1.0)
    x = torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.0, -6.0]], dtype=torch.float64)
    for reduce, expected in (("sum", [6 + 2, 6 + 6]), ("mean", [2 + 2, 2 + 6]), ("mean_of_means", [2, 4])):
        recorder = Recorder(model, [HiddenL1(coefficient=1.0, pattern=["0", "2"], reduce=reduce)])
        run(recorder, x, times=torch.arange(2))
        assert recorder.values("hidden_l1").tolist() == expected


@pytest.mark.parametrize("reduce", REDUCE)
def test_the_exact_jacobian_is_that_of_the_closed_form(reduce):
    model, x = made(Two()), inputs(N, 5)
    recorder = Recorder(model, [Contractive(coefficient=1.0, pattern=["first", "second"], reduce=reduce)])
    run(recorder, x)
    first = plain.tanh_jacobian(x.numpy(), *arrays(model.first))
    hidden = plain.tanh_layer(x.numpy(), *arrays(model.first))
    second = plain.tanh_jacobian(hidden, *arrays(model.second)) @ first
    squares = [np.square(jacobian).reshape(N, -1) for jacobian in (first, second)]
    values = recorder.values("contractive")
    assert values.sum().item() / N == pytest.approx(plain.hidden(squares, reduce), rel=1e-13)
    if reduce == "sum":
        np.testing.assert_allclose(values.detach().numpy(), squares[0].sum(1) + squares[1].sum(1), rtol=1e-13)


def test_theanets_form_times_the_square_of_the_samples_is_theanets():
    model, x = made(Two()), inputs(N, 5)
    one = Contractive(coefficient=1.0, pattern=["first", "second"], form="theanets", reduce="mean_of_means")
    recorder = Recorder(model, [one])
    run(recorder, x)
    first = plain.tanh_jacobian(x.numpy(), *arrays(model.first))
    hidden = plain.tanh_layer(x.numpy(), *arrays(model.first))
    second = plain.tanh_jacobian(hidden, *arrays(model.second)) @ first
    value = recorder.values("contractive").sum().item() / N
    assert value / N**2 == pytest.approx(plain.theanets_contractive([first, second]), rel=1e-13)


def test_the_estimate_is_unbiased_and_keyed_to_nominal_time():
    model, x = made(Two()), inputs(N, 5)
    many = Contractive(coefficient=1.0, pattern="first", samples=600)
    exact = Recorder(model, [Contractive(coefficient=1.0, pattern="first")], seed=3)
    estimate = Recorder(model, [many], seed=3)
    run(exact, x)
    expected = exact.values("contractive").detach()
    times = torch.tensor([0, 1, 2, 3, 2**40, 2**62])
    run(estimate, x, times=times)
    values = estimate.values("contractive").detach()
    assert ((values / expected - 1).abs() < 0.2).all()
    assert not torch.equal(values, expected)
    # any cut gives the same, another seed or time something else
    for start, stop in ((0, 2), (2, 6)):
        run(estimate, x[start:stop], times=times[start:stop])
        torch.testing.assert_close(estimate.values("contractive").detach(), values[start:stop], rtol=1e-13, atol=0)
    few = Contractive(coefficient=1.0, pattern="first", samples=1)
    drawn = []
    for seed, shift in ((3, 0), (3, 1), (4, 0)):
        other = Recorder(model, [few], seed=seed)
        run(other, x, times=times + shift)
        drawn.append(other.values("contractive").detach())
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize("form", ["jacobian", "theanets"])
def test_gradients_of_values_pass_gradcheck(form, samples):
    if form == "theanets" and samples:
        pytest.skip("needs no estimate")
    model, x = made(Two()), inputs(3, 5)
    one = Contractive(coefficient=1.0, pattern=["first", "second"], form=form, samples=samples)
    recorder = Recorder(model, [one, HiddenL1(coefficient=1.0, pattern="first")])
    weights = list(model.parameters())

    def values(*parameters):
        with recorder.recording(torch.arange(3)):
            torch.func.functional_call(model, dict(zip(dict(model.named_parameters()), parameters, strict=True)), (x,))
        return recorder.values("contractive"), recorder.values("hidden_l1")

    assert torch.autograd.gradcheck(values, tuple(w.detach().requires_grad_() for w in weights))


@pytest.mark.parametrize("reduce", REDUCE)
@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_regularizers_are_those_of_the_text(batch_first, reduce):
    model, x = made(nn.ModuleDict({"rnn": nn.LSTM(2, 3, batch_first=batch_first)})), inputs(N, 7, 2)
    regularizers = [
        RecurrentNorm(coefficient=1.0, pattern="rnn", reduce=reduce),
        RecurrentNorm(coefficient=1.0, pattern="rnn", reduce=reduce, squared=True, name="squared"),
        RecurrentState(coefficient=1.0, pattern="rnn", reduce=reduce),
        HiddenL1(coefficient=1.0, pattern="rnn", reduce=reduce),
    ]
    recorder = Recorder(model, regularizers)
    states = run(recorder, x if batch_first else x.transpose(0, 1), model=model["rnn"])[0]
    states = (states if batch_first else states.transpose(0, 1)).detach().numpy()
    expected = {
        "recurrent_norm": plain.norm_changes(states, squared=False),
        "squared": plain.norm_changes(states, squared=True),
        "recurrent_state": plain.state_changes(states),
        "hidden_l1": np.abs(states),
    }
    for name, entries in expected.items():
        assert recorder.values(name).sum().item() / N == pytest.approx(plain.hidden([entries], reduce), rel=1e-13)


def test_states_must_have_a_time():
    recorder = Recorder(made(Two()), [RecurrentState(coefficient=1.0, pattern="first")])
    run(recorder, inputs(N, 5))
    with pytest.raises(ValueError, match=r"states \(n, time, units\), got \(6, 4\)"):
        recorder.values("recurrent_state")


class Unrolled(nn.Module):
    """Calls one module three times, and gives a tuple and a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)
        self.wrap = Wrapping()

    def forward(self, x, *, scale):
        states = [x]
        for _ in range(3):
            states.append(self.wrap(torch.tanh(self.cell(states[-1])), scale)["state"][1])
        return states


class Wrapping(nn.Module):
    def forward(self, x, scale):
        return {"state": (torch.tensor(3), x * scale)}


def test_several_calls_of_a_module_lie_side_by_side():
    model, x = made(Unrolled()), inputs(N, 4)
    for reduce in REDUCE:
        recorder = Recorder(model, [HiddenL1(coefficient=1.0, pattern="wrap", reduce=reduce)])
        with recorder.recording(torch.arange(N)):
            states = torch.stack(model(x, scale=2.0)[1:], 1)
        expected = plain.hidden([states.detach().abs().numpy().reshape(N, -1)], reduce)
        assert recorder.values("hidden_l1").sum().item() / N == pytest.approx(expected, rel=1e-14)


def test_the_jacobian_takes_all_calls_and_keyword_arguments():
    model, x = made(Unrolled()), inputs(N, 4)
    recorder = Recorder(model, [Contractive(coefficient=1.0, pattern="wrap")])
    with recorder.recording(torch.arange(N)):
        model(x, scale=2.0)
    expected = []
    for sample in x:
        jacobian = torch.autograd.functional.jacobian(lambda v: torch.cat(model(v[None], scale=2.0)[1:], 1)[0], sample)
        expected.append(jacobian.square().sum())
    torch.testing.assert_close(recorder.values("contractive"), torch.stack(expected))


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.top = nn.Sequential(nn.Linear(4, 3), nn.Tanh())

    def forward(self, tokens):
        return self.top(self.table(tokens))


def test_integer_inputs_need_a_float_to_start_from():
    model, tokens = made(Embedded()), torch.tensor([1, 5, 5, 0, 8, 2])
    recorder = Recorder(model, [Contractive(coefficient=1.0, pattern="top")])
    with pytest.raises(TypeError, match=r"int64 \(6,\).*by of="):
        run(recorder, tokens)
    recorder = Recorder(model, [Contractive(coefficient=1.0, pattern="top", of="table")])
    run(recorder, tokens)
    jacobians = plain.tanh_jacobian(model.table(tokens).detach().numpy(), *arrays(model.top))
    np.testing.assert_allclose(
        recorder.values("contractive").detach().numpy(), np.square(jacobians).sum((1, 2)), rtol=1e-13
    )
    # a start without a graph of its own is made a leaf
    model.table.weight.requires_grad_(False)
    run(recorder, tokens)
    np.testing.assert_allclose(
        recorder.values("contractive").detach().numpy(), np.square(jacobians).sum((1, 2)), rtol=1e-13
    )


def test_several_regularizers_record_one_pass_and_leave_nothing_behind():
    model, x = made(Two()), inputs(N, 5)
    regularizers = [
        HiddenL1(coefficient=1.0, pattern="first"),
        HiddenL1(coefficient=1.0, pattern="second"),
        Contractive(coefficient=1.0, pattern="s*"),
        WeightL2(coefficient=1.0),
    ]
    recorder = Recorder(model, regularizers)
    assert list(recorder.regularizers) == ["hidden_l1[first]", "hidden_l1[second]", "contractive"]
    assert [term.name for term in recorder.terms()] == list(recorder.regularizers)
    run(recorder, x)
    for name in recorder.regularizers:
        assert recorder.values(name).shape == (N,)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not x.requires_grad
    copy.deepcopy(model)
    assert not Recorder(model, [WeightL2(coefficient=1.0)])


def test_hooks_are_removed_after_an_error_too():
    model = made(Two())
    recorder = Recorder(model, [HiddenL1(coefficient=1.0, pattern="first")])
    with pytest.raises(RuntimeError):
        run(recorder, inputs(N, 7))
    assert not model.first._forward_hooks


def test_values_without_gradients_are_the_same():
    model, x = made(Two()), inputs(N, 5)
    recorder = Recorder(model, [HiddenL1(coefficient=1.0, pattern="first")])
    run(recorder, x)
    expected = recorder.values("hidden_l1").detach()
    with torch.no_grad():
        run(recorder, x)
    assert torch.equal(recorder.values("hidden_l1"), expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_records_nothing_twice(reentrant):
    model, x = made(Two()), inputs(N, 5)
    recorder = Recorder(
        model, [HiddenL1(coefficient=1.0, pattern=["first", "second"]), Contractive(coefficient=1.0, pattern="second")]
    )

    def gradients(forward):
        model.zero_grad()
        with recorder.recording(torch.arange(N)):  # backward inside, as an engine may have it
            forward(x)
            sum(recorder.values(name).sum() for name in recorder.regularizers).backward()
        return [p.grad.clone() for p in model.parameters()]

    expected = gradients(model)

    class Recomputed(nn.Module):
        def forward(self, x):
            return model.second(checkpoint(model.first, x, use_reentrant=reentrant))

    model.forward = Recomputed().forward
    if reentrant:
        with pytest.raises(RuntimeError, match="use_reentrant=False"):
            gradients(model)
    else:
        for ours, theirs in zip(gradients(model), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_half_precision_activations_do_not_overflow(dtype):
    model = nn.Sequential(nn.Linear(4, 300), nn.Identity())
    model[0].weight.data.fill_(100.0)
    recorder = Recorder(
        model, [HiddenL1(coefficient=1.0, pattern="1"), Contractive(coefficient=1.0, pattern="1", samples=1)]
    )
    with torch.autocast("cpu", dtype=dtype):
        run(recorder, torch.ones(2, 4), times=torch.arange(2))
        values = {name: recorder.values(name) for name in recorder.regularizers}
    assert all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in values.values())
    assert values["hidden_l1"].tolist() == pytest.approx([300 * 400] * 2, rel=0.01)


def test_a_noisy_model_is_recorded_as_it_is():
    model = made(nn.Sequential(nn.Linear(5, 4), noise.Dropout(0.5), nn.Tanh()))
    keys = noise.bind(model, lambda name: rng.key(1, name))
    recorder = Recorder(model, [HiddenL1(coefficient=1.0, pattern="2")])
    with keys.at(torch.arange(N)), recorder.recording(torch.arange(N)):
        out = model(inputs(N, 5))
    torch.testing.assert_close(recorder.values("hidden_l1"), out.abs().sum(1))


def test_a_compiled_model_records_the_same():
    model, x = made(Two()), inputs(N, 5)
    recorder = Recorder(model, [HiddenL1(coefficient=1.0, pattern=["first", "second"])])
    run(recorder, x)
    expected = recorder.values("hidden_l1").detach()
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        run(recorder, x, model=compiled)
        torch.testing.assert_close(recorder.values("hidden_l1").detach(), expected, rtol=1e-14, atol=0)
    recorder.values("hidden_l1").sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_errors_say_which_module_and_what_to_do():
    model = made(Two())
    with pytest.raises(ValueError, match="needs pattern="):
        HiddenL1(coefficient=1.0)
    with pytest.raises(
        ValueError, match=r"regularizer 'hidden_l1'.*fits the name of no module; there are first, first\.0"
    ):
        Recorder(model, [HiddenL1(coefficient=1.0, pattern="third")])
    with pytest.raises(ValueError, match="of='third' is no module"):
        Recorder(model, [Contractive(coefficient=1.0, pattern="first", of="third")])
    with pytest.raises(ValueError, match="'jacobian' or 'theanets'"):
        Contractive(coefficient=1.0, pattern="first", form="hessian")
    with pytest.raises(ValueError, match="samples=0"):
        Contractive(coefficient=1.0, pattern="first", samples=0)
    recorder = Recorder(
        model, [HiddenL1(coefficient=1.0, pattern="second"), Contractive(coefficient=1.0, pattern="first")]
    )
    with pytest.raises(ValueError, match="has no pass"):
        recorder.values("hidden_l1")
    with recorder.recording(torch.arange(N)):
        model.first(inputs(N, 5))
    with pytest.raises(ValueError, match=r"module 'second', which was not called"):
        recorder.values("hidden_l1")
    with pytest.raises(ValueError, match="respect to the model, which was not called"):
        recorder.values("contractive")
    run(recorder, inputs(N + 1, 5))
    with pytest.raises(ValueError, match=r"float64 \(7, 3\), and axis 0 of it should be the 6 samples"):
        recorder.values("hidden_l1")
    upside_down = Contractive(coefficient=1.0, pattern="first", of="second")
    recorder = Recorder(model, [upside_down])
    run(recorder, inputs(N, 5))
    with pytest.raises(ValueError, match="'first' does not depend on the output of module 'second'"):
        recorder.values("contractive")


def test_the_axis_of_samples_can_be_named():
    model = nn.Sequential(nn.Identity(), nn.Flatten())
    recorder = Recorder(model, [HiddenL1(coefficient=1.0, pattern="0", sample_axis=1)])
    x = inputs(3, N)
    with recorder.recording(torch.arange(N)):
        model(x)
    torch.testing.assert_close(recorder.values("hidden_l1"), x.abs().sum(0))


def test_layers_of_an_mlp_are_named_by_pattern():
    model = MLP(sizes=(5, 4, 4, 2), seed=1).double()
    recorder = Recorder(model, [HiddenL1(coefficient=1.0, pattern="layers.[13]")])
    x = inputs(N, 5)
    run(recorder, x)
    h = model.layers[1](model.layers[0](x))
    torch.testing.assert_close(recorder.values("hidden_l1"), h.sum(1) + model.layers[3](model.layers[2](h)).sum(1))
