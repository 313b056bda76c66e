"""What holds for all optimizers of the package: bits, states, checkpoints, refusals, and golden values."""

import copy
import functools
import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch

from minibatch.train import state
from minibatch.train.optimizers import AdamOnTop, CntkAdam, FSAdagrad, GravesRMSprop, Momentum
from tests.plain import optimizers as plain
from tests.train.optimizer_runs import DEVICES, ON_TOP, OWN, advance, begun, give_gradients, parameters, same_bits


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("make", "options"), OWN)
def test_all_at_once_gives_the_bits_of_one_after_the_other(make, options, dtype, device):
    results = []
    for foreach in (True, False):
        _, owned = begun(make, {"foreach": foreach, **options}, 30, dtype=dtype, device=device, total=30)
        results.append(owned)
    assert same_bits(*results)
    assert all(torch.isfinite(p).all() for p in results[0])


@pytest.mark.parametrize(("make", "options"), [*OWN, *ON_TOP])
def test_a_state_taken_mid_run_goes_on_with_the_same_bits(make, options):
    _, whole = begun(make, options, 30, dtype=torch.float32, total=30)
    made, first = begun(make, options, 17, dtype=torch.float32, total=30)
    saved = copy.deepcopy(made.state_dict())
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    other = make(second, **options)
    other.load_state_dict(saved)
    advance(other, second, 13, first=17, lr=0.02, total=30)
    assert same_bits(whole, second)


@pytest.mark.parametrize(("make", "options"), [*OWN, *ON_TOP])
def test_states_are_tensors_and_plain_numbers(make, options):
    made, owned = begun(make, options, 3)
    assert set(made.state) == set(owned)
    for kept in made.state.values():
        assert kept
        assert all(type(value) in (torch.Tensor, int, float) for value in kept.values())


@pytest.mark.parametrize(("make", "options"), [*OWN, *ON_TOP])
def test_parameters_without_a_gradient_stay_and_gradients_are_not_changed(make, options):
    made, owned = begun(make, options, 4)
    give_gradients(owned)
    owned[0].grad = None
    kept, gradient = owned[0].detach().clone(), owned[1].grad.clone()
    moved = owned[1].detach().clone()
    made.step()
    assert torch.equal(owned[0], kept)
    assert torch.equal(owned[1].grad, gradient)
    assert not torch.equal(owned[1], moved)


@pytest.mark.parametrize(("make", "options"), OWN)
def test_sparse_gradients_are_refused_by_name(make, options):
    owned = [torch.nn.Parameter(torch.ones(3, 2))]
    made = make(owned, **options)
    owned[0].grad = torch.eye(3, 2).to_sparse()
    with pytest.raises(RuntimeError, match=r"sparse gradient for a parameter of shape \(3, 2\)"):
        made.step()


@pytest.mark.parametrize("device", DEVICES)
def test_the_bits_are_those_of_ordinary_tensor_operations(device):
    options = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    _, mine = begun(Momentum, options, 30, dtype=torch.float32, device=device)
    plainly = parameters(torch.float32, device)
    velocities = [torch.zeros_like(p) for p in plainly]
    for _ in range(30):
        give_gradients(plainly)
        with torch.no_grad():
            for p, v in zip(plainly, velocities, strict=True):
                g = p.grad.add(p, alpha=0.1)
                v.mul_(0.9).add_(g, alpha=-0.02)
                p.add_(v, alpha=0.9).add_(g, alpha=-0.02)
    assert same_bits(mine, plainly)


@pytest.mark.parametrize(("make", "options"), [*OWN, *ON_TOP])
def test_a_checkpoint_by_parameter_name_goes_on_with_the_same_bits(make, options):
    made, whole = begun(make, options, 9, dtype=torch.float32, total=30)
    named = [dict(zip(("body.weight", "head.bias"), whole, strict=True))]
    tensors = safetensors.torch.load(safetensors.torch.save(state.optimizer_tensors([made], named)))
    document = json.loads(json.dumps(state.optimizer_document([made], named)))

    second = [torch.nn.Parameter(p.detach().clone()) for p in whole]
    other = make(second, **options)
    state.load_optimizers([other], [dict(zip(named[0], second, strict=True))], tensors, document)
    advance(made, whole, 9, first=9, lr=0.02, total=30)
    advance(other, second, 9, first=9, lr=0.02, total=30)
    assert same_bits(whole, second)


def test_momentum_turned_off_and_on_is_the_same_at_once_and_one_after_the_other():
    results = []
    for foreach in (True, False):
        owned = parameters(torch.float32)
        made = Momentum(owned, lr=0.1, momentum=0.9, foreach=foreach, l1=0.01)
        give_gradients(owned)
        owned[1].grad = None
        made.step()
        made.param_groups[0]["momentum"] = 0.0
        advance(made, owned, 2, lr=0.1)
        made.param_groups[0]["momentum"] = 0.5
        advance(made, owned, 2, lr=0.1)
        results.append(owned)
    assert same_bits(*results)


def test_l1_moves_towards_zero_as_cntk_does():
    p = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.05], dtype=torch.float64))
    made = Momentum([p], lr=0.5, l1=0.4)
    p.grad = torch.tensor([0.2, -0.2, 0.0], dtype=torch.float64)
    made.step()
    expected = plain.softened(np.array([1.0, -1.0, 0.05]) - 0.5 * np.array([0.2, -0.2, 0.0]), 0.2)
    np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-15)
    assert p[2] == 0.0


def test_a_steady_gradient_does_not_make_graves_rmsprop_nan():
    """s - m² goes to 0 and by rounding below it, which downhill's formula takes the root of."""
    p = torch.nn.Parameter(torch.zeros(1000))
    made = GravesRMSprop([p], lr=1e-6, halflife=3.0)
    p.grad = torch.linspace(1.0, 3e3, 1000)
    for _ in range(300):
        made.step()
    assert torch.isfinite(p).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr=-1.0, expected a number ≥ 0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"lr": math.inf}, "lr=inf"),
        ({"momentum": 1.5}, "momentum=1.5, expected a number ≥ 0.0 and ≤ 1.0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"velocity": "between"}, "velocity='between', expected 'inside' or 'outside'"),
    ],
)
def test_impossible_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Momentum(parameters(), **options)


def test_rates_that_are_tensors_and_parameters_that_are_no_numbers_are_refused():
    with pytest.raises(TypeError, match="expected a number"):
        Momentum(parameters(), lr=torch.tensor(0.1))
    with pytest.raises(TypeError, match="complex64"):
        Momentum([torch.zeros(2, dtype=torch.complex64, requires_grad=True)], lr=0.1)


def test_variance_momentum_and_samples_must_have_come_from_somewhere():
    owned = parameters()
    give_gradients(owned)
    with pytest.raises(RuntimeError, match="variance_momentum depends on the samples"):
        CntkAdam(owned, lr=0.1).step()
    with pytest.raises(RuntimeError, match="needs the number of samples"):
        FSAdagrad(owned, lr=0.1, variance_momentum=0.9).step()


def test_velocity_on_top_refuses_fused_steps_which_may_be_skipped_unseen():
    with pytest.raises(ValueError, match="fused"):
        AdamOnTop(parameters(), momentum=0.5, fused=True)


def test_a_closure_is_called_with_gradients_enabled():
    for make in (Momentum, functools.partial(AdamOnTop, momentum=0.5)):
        p = torch.nn.Parameter(torch.tensor([2.0]))
        made = make([p], lr=0.1)

        def closure(p=p, made=made):
            made.zero_grad()
            loss = p.square().sum()
            loss.backward()
            return loss

        assert made.step(closure).item() == 4.0
        assert p.item() < 2.0


GOLDEN = {
    "inside": [-1.87925671824, 0.472506909736],
    "outside": [-1.38261364339, 0.0957276822129],
    "l1": [-2.31043536113, 0.657433925087],
    "graves": [-1.3210800697, 0.286119376218],
    "adagrad": [-0.986793299643, 0.0184166113779],
    "esgd": [-2.30048251566, 0.110861896043],
    "esgd block": [-1.00461919063, 0.26912373255],
    "cntk adam": [-0.768829458006, 0.0841027144619],
    "cntk adamax": [-0.769906865784, 0.00823615966911],
    "fsadagrad": [-1.3623114592, 0.300181730954],
    "cntk rmsprop": [-1.03793098529, 0.149268613599],
    "rprop": [-1.7363799108, 0.405454302575],
    "adadelta": [-0.70686060652, -0.494932127492],
    "adam": [-1.0030929457, 0.315152748311],
}


@pytest.mark.parametrize(("make", "options"), [*OWN, *ON_TOP])
def test_golden_values(make, options, request):
    owned = parameters()
    made = make(owned, **options)
    advance(made, owned, 40, lr=0.02, total=40)
    name = request.node.callspec.id
    found = [owned[0].sum().item(), owned[1].sum().item()]
    assert found == pytest.approx(GOLDEN[name], rel=1e-9), (name, found)
