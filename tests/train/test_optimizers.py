"""Every optimizer against its formula in plain NumPy, and what holds for all of them: bits, states, refusals."""

import copy
import functools
import json
import math

import numpy as np
import pytest
import torch

from minibatch.train import state
from minibatch.train.optimizers import (
    ESGD,
    AdadeltaOnTop,
    AdamOnTop,
    CntkAdam,
    CntkRMSprop,
    FSAdagrad,
    GravesRMSprop,
    InsideAdagrad,
    Momentum,
    RpropOnTop,
    optimizer,
)
from tests.plain import optimizers as plain

STEPS = 100
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
B1, B2 = plain.halving(7), plain.halving(69)
BETA = math.exp(-32 / 720000)


def parameters(dtype=torch.float64, device="cpu"):
    return [torch.nn.Parameter(torch.tensor(p, dtype=dtype, device=device)) for p in plain.START]


def rate_at(lr, step, steps=STEPS):
    """A drop in the middle, which tells the two conventions of momentum apart."""
    return lr if step < steps // 2 else 0.2 * lr


def give_gradients(owned):
    found = plain.gradients([p.detach().double().cpu().numpy() for p in owned])
    for p, g in zip(owned, found, strict=True):
        p.grad = torch.tensor(g, dtype=p.dtype, device=p.device)


def take_curvature(made, owned, step):
    """H r of the plain problem, exact, whole or by blocks; what was given to the optimizer, or None if none was due."""
    if not made.curvature_due(step):
        return None
    chosen = made.directions(1000 + step)
    r = [chosen[p].double().cpu().numpy() for p in owned]
    hessian = plain.hessian([p.detach().double().cpu().numpy() for p in owned])
    if made.block_diagonal:
        products = [(hessian[:6, :6] @ r[0].reshape(-1)).reshape(r[0].shape), hessian[6:, 6:] @ r[1]]
    else:
        products = plain.parts(hessian @ plain.flat(r))
    tensors = (torch.tensor(h, dtype=p.dtype, device=p.device) for p, h in zip(owned, products, strict=True))
    made.take_curvature(dict(zip(owned, tensors, strict=True)))
    return products


def advance(made, owned, steps, *, first=0, lr, total=STEPS):
    for step in range(first, first + steps):
        for group in made.param_groups:
            group["lr"] = rate_at(lr, step, total)
        give_gradients(owned)
        if isinstance(made, ESGD):
            take_curvature(made, owned, step)
        made.step()


def follow(formula, options, lr, steps=STEPS):
    """The same steps by the formula."""
    now, states = [p.copy() for p in plain.START], [{}, {}]
    for step in range(steps):
        g = plain.gradients(now)
        now = [
            formula(p, one, state, rate_at(lr, step, steps), **options)
            for p, one, state in zip(now, g, states, strict=True)
        ]
    return now


def relative(owned, expected):
    return max(
        np.abs(p.detach().double().cpu().numpy() - e).max() / np.abs(e).max()
        for p, e in zip(owned, expected, strict=True)
    )


def with_samples(make):
    def made(params, **options):
        result = make(params, **options)
        result.param_groups[0]["samples"] = 32
        return result

    return made


def case(name, make, formula, lr, given=(), stated=None):
    """given: the options of the optimizer; stated: those of the formula, where they are called otherwise."""
    given = dict(given)
    return pytest.param(make, given, formula, given if stated is None else stated, lr, id=name)


def theanets(name):
    def make(params, **options):
        made = optimizer(name, params, preset="theanets", **options)
        return made

    return make


TOP = {"momentum": 0.7}
NESTEROV = {"momentum": 0.7, "nesterov": True}
DECAY = {"weight_decay": 0.05}
ADAM = {"b1": B1, "b2": B2}
CNTK = {"momentum": 0.8, "variance_momentum": BETA}
AS_CNTK = {"momentum": 0.8, "beta": BETA}

FORMULAS = [
    case("sgd inside", Momentum, plain.inside, 0.1),
    case("sgd inside, momentum", Momentum, plain.inside, 0.05, {**TOP, **DECAY}),
    case("nag inside", Momentum, plain.inside, 0.05, {**NESTEROV, **DECAY}),
    case("cuda-convnet2", Momentum, plain.convnet, 0.05, {**TOP, **DECAY}, {"momentum": 0.7, "wc": 0.05}),
    case("unit gain", Momentum, plain.inside, 0.2, {**TOP, "unit_gain": True}),
    case("unit gain, nesterov", Momentum, plain.inside, 0.2, {**NESTEROV, **DECAY, "unit_gain": True}),
    case("sgd outside, own", Momentum, plain.outside, 0.05, {"velocity": "outside", **TOP, **DECAY}, {**TOP, **DECAY}),
    case("unit gain outside", Momentum, plain.outside, 0.2, {"velocity": "outside", **NESTEROV, "unit_gain": True},
         {**NESTEROV, "unit_gain": True}),
    case("sgd outside, torch", functools.partial(optimizer, "sgd"), plain.outside, 0.05, {**TOP, **DECAY}),
    case("nag outside, torch", functools.partial(optimizer, "nag"), plain.outside, 0.05, {"momentum": 0.7, **DECAY},
         {**NESTEROV, **DECAY}),
    case("theanets sgd", theanets("sgd"), plain.inside, 0.05, TOP),
    case("theanets nag", theanets("nag"), plain.inside, 0.05, {"momentum": 0.7}, NESTEROV),
    case("theanets rprop", theanets("rprop"), plain.rprop, 0.02, {"lr": 0.02}, {}),
    case("theanets rprop, momentum", theanets("rprop"), plain.rprop, 0.02, {"lr": 0.02, **TOP}, TOP),
    case("theanets rprop, nesterov", theanets("rprop"), plain.rprop, 0.02, {"lr": 0.02, **NESTEROV}, NESTEROV),
    case("theanets rmsprop", theanets("rmsprop"), plain.rmsprop, 1e-3),
    case("theanets rmsprop, momentum", theanets("rmsprop"), plain.rmsprop, 1e-3, {**TOP, **DECAY}),
    case("theanets rmsprop, nesterov", theanets("rmsprop"), plain.rmsprop, 1e-3, NESTEROV),
    case("rmsprop not centered", GravesRMSprop, plain.rmsprop, 2e-3, {"centered": False, "halflife": 5.0}),
    case("theanets adagrad", theanets("adagrad"), plain.adagrad, 0.1, DECAY),
    case("theanets adagrad, nesterov", theanets("adagrad"), plain.adagrad, 0.1, NESTEROV),
    case("theanets adadelta", theanets("adadelta"), plain.adadelta, 1.0),
    case("theanets adadelta, momentum", theanets("adadelta"), plain.adadelta, 1.0, TOP),
    case("theanets adadelta, nesterov", theanets("adadelta"), plain.adadelta, 1.0, NESTEROV),
    case("theanets adam", theanets("adam"), plain.adam, 0.02, {}, ADAM),
    case("theanets adam, momentum", theanets("adam"), plain.adam, 0.01, TOP, {**ADAM, **TOP}),
    case("theanets adam, nesterov", theanets("adam"), plain.adam, 0.01, NESTEROV, {**ADAM, **NESTEROV}),
    case("cntk adam", CntkAdam, plain.cntk_adam, 0.02, {"lr": 0.02, **CNTK, **DECAY}, {**AS_CNTK, **DECAY}),
    case("cntk adam without unit gain", CntkAdam, plain.cntk_adam, 0.02, {"lr": 0.02, **CNTK, "unit_gain": False},
         {**AS_CNTK, "unit_gain": False}),
    case("cntk adamax", CntkAdam, plain.cntk_adam, 0.02, {"lr": 0.02, **CNTK, "adamax": True},
         {**AS_CNTK, "adamax": True}),
    case("cntk fsadagrad", with_samples(FSAdagrad), plain.fsadagrad, 0.01, {"lr": 0.01, **CNTK, **DECAY},
         {**AS_CNTK, **DECAY, "samples": 32}),
    case("cntk fsadagrad, plain", with_samples(FSAdagrad), plain.fsadagrad, 0.01,
         {"lr": 0.01, "variance_momentum": 0.9, "unit_gain": False},
         {"momentum": 0.0, "beta": 0.9, "unit_gain": False, "samples": 32}),
    case("cntk rmsprop", CntkRMSprop, plain.cntk_rmsprop, 0.02, {"lr": 0.02, **DECAY}, DECAY),
    case("cntk rmsprop without mean", CntkRMSprop, plain.cntk_rmsprop, 0.005,
         {"lr": 0.01, "normalize": False, "max": 2.0}, {"normalize": False, "most": 2.0}),
    case("cntk adagrad", InsideAdagrad, plain.adagrad, 0.1, {"eps": 1e-16, "normalize": True}),
]  # fmt: skip


@pytest.mark.parametrize(("make", "given", "formula", "stated", "lr"), FORMULAS)
def test_a_hundred_steps_are_those_of_the_formula(make, given, formula, stated, lr):
    owned = parameters()
    made = make(owned, **given)
    advance(made, owned, STEPS, lr=lr)
    expected = follow(formula, stated, lr)
    assert relative(owned, expected) <= 1e-12
    assert relative(owned, plain.START) > 1e-3  # they have gone somewhere


@pytest.mark.parametrize("top", [{}, TOP, {**NESTEROV, **DECAY}])
@pytest.mark.parametrize(("curvature", "average", "period"), [("full", "mean", 20), ("block", "ewma", 1)])
def test_a_hundred_steps_of_esgd_are_those_of_the_formula(curvature, average, period, top):
    owned = parameters()
    made = ESGD(owned, curvature=curvature, average=average, period=period, eps=1e-4, **top)
    now, states, due = [p.copy() for p in plain.START], [{}, {}], 0
    for step in range(STEPS):
        made.param_groups[0]["lr"] = rate_at(0.1, step)
        give_gradients(owned)
        products = take_curvature(made, owned, step)
        due += products is not None
        made.step()
        g = plain.gradients(now)
        now = [
            plain.esgd(
                p, one, state, rate_at(0.1, step), product=None if products is None else products[i],
                average=average, eps=1e-4, **top,
            )
            for i, (p, one, state) in enumerate(zip(now, g, states, strict=True))
        ]  # fmt: skip
    assert due == STEPS // period
    assert relative(owned, now) <= 1e-12


def test_esgd_takes_what_double_backward_gives_whole_and_by_blocks():
    draw = np.random.default_rng(3)
    x = torch.tensor(draw.normal(size=(7, 3)))
    first = torch.nn.Parameter(torch.tensor(draw.normal(size=(3, 2))))
    second = torch.nn.Parameter(torch.tensor(draw.normal(size=(2,))))
    unused = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    owned = [first, second, unused]

    def loss(first, second):
        return torch.tanh(torch.tanh(x @ first) @ second).square().mean()

    blocks = torch.autograd.functional.hessian(loss, (first.detach(), second.detach()))
    for curvature in ("full", "block"):
        made = ESGD(owned, lr=0.1, curvature=curvature, eps=0.0)
        r = made.directions(5)
        gradients = torch.autograd.grad(loss(first, second), [first, second], create_graph=True)
        if made.block_diagonal:
            products = [torch.autograd.grad(g, p, r[p], retain_graph=True)[0]
                        for p, g in zip(owned, gradients, strict=False)]  # fmt: skip
            expected = (blocks[0][0].flatten(2) @ r[first].flatten(), blocks[1][1] @ r[second])
        else:
            products = torch.autograd.grad(gradients, [first, second], [r[first], r[second]])
            expected = (
                blocks[0][0].flatten(2) @ r[first].flatten() + blocks[0][1] @ r[second],
                blocks[1][0].flatten(1) @ r[first].flatten() + blocks[1][1] @ r[second],
            )
        made.take_curvature({first: products[0], second: products[1], unused: None})
        before = [p.detach().clone() for p in owned[:2]]
        for p, g in zip(owned, gradients, strict=False):
            p.grad = g.detach()
        made.step()
        for p, old, g, h in zip(owned, before, gradients, expected, strict=False):
            torch.testing.assert_close(p.detach(), old - 0.1 * g.detach() / h.abs(), rtol=1e-12, atol=1e-14)
        with torch.no_grad():
            for p, old in zip(owned, before, strict=False):
                p.copy_(old)


def test_the_directions_of_esgd_are_normal_and_functions_of_the_key_alone():
    owned = [torch.nn.Parameter(torch.zeros(400, 50)), torch.nn.Parameter(torch.zeros(2, 3))]
    made = ESGD(owned)
    one, again, other = made.directions(1), ESGD(owned).directions(1), made.directions(2)
    assert all(torch.equal(one[p], again[p]) for p in owned)
    assert not torch.equal(one[owned[0]], other[owned[0]])
    assert not torch.equal(one[owned[0]].flatten()[:6], one[owned[1]].flatten())
    assert abs(one[owned[0]].mean().item()) < 0.03
    assert abs(one[owned[0]].std().item() - 1.0) < 0.02


def test_esgd_asks_for_curvature_at_its_period_and_where_there_is_none():
    owned = parameters()
    made = ESGD(owned, period=20)
    assert made.curvature_due(7)
    made.take_curvature({p: torch.ones_like(p) for p in owned})
    assert [step for step in range(50) if made.curvature_due(step)] == [0, 20, 40]


def test_esgd_without_curvature_or_with_a_missing_product_says_so():
    owned = parameters()
    made = ESGD(owned)
    give_gradients(owned)
    with pytest.raises(RuntimeError, match="no curvature yet"):
        made.step()
    with pytest.raises(ValueError, match=r"no product for a parameter of shape \(4,\)"):
        made.take_curvature({owned[0]: torch.ones(3, 2)})


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_outside_has_the_numbers_of_torch(nesterov):
    mine, theirs = parameters(), parameters()
    own = Momentum(mine, velocity="outside", momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    other = torch.optim.SGD(theirs, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    advance(own, mine, STEPS, lr=0.03)
    advance(other, theirs, STEPS, lr=0.03)
    assert relative(mine, [p.detach().numpy() for p in theirs]) <= 1e-13


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_two_conventions_agree_while_the_rate_stays(nesterov):
    inside, outside = parameters(), parameters()
    for step in range(STEPS):
        give_gradients(inside)
        give_gradients(outside)
        if step == 0:
            one = Momentum(inside, lr=0.03, momentum=0.9, nesterov=nesterov)
            other = torch.optim.SGD(outside, lr=0.03, momentum=0.9, nesterov=nesterov)
        one.step()
        other.step()
    assert relative(inside, [p.detach().numpy() for p in outside]) <= 1e-12


def test_after_a_tenfold_drop_of_the_rate_the_conventions_differ_as_computed():
    """engines.md, section 4, item 12: ½ p² from p = 1, lr 0.1, momentum 0.9, 15 steps, then lr 0.01."""
    seen = {}
    for convention in ("outside", "inside"):
        p = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        made = optimizer("sgd", [p], velocity=convention, lr=0.1, momentum=0.9)
        values = []
        for step in range(18):
            made.param_groups[0]["lr"] = 0.1 if step < 15 else 0.01
            p.grad = p.detach().clone()
            made.step()
            values.append(p.item())
        seen[convention] = values[15:]
        assert seen[convention] == pytest.approx(plain.drop_tenfold(convention), rel=1e-12)
    assert [round(value, 3) for value in seen["outside"]] == [0.065, 0.076, 0.085]
    assert [round(value, 3) for value in seen["inside"]] == [0.186, 0.306, 0.410]


OWN = [
    pytest.param(Momentum, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, id="inside"),
    pytest.param(Momentum, {"momentum": 0.9, "unit_gain": True, "velocity": "outside"}, id="outside"),
    pytest.param(Momentum, {"momentum": 0.9, "l1": 0.05}, id="l1"),
    pytest.param(GravesRMSprop, {"momentum": 0.5, "weight_decay": 0.1}, id="graves"),
    pytest.param(InsideAdagrad, {"normalize": True, "momentum": 0.5, "nesterov": True}, id="adagrad"),
    pytest.param(ESGD, {"period": 3, "momentum": 0.5}, id="esgd"),
    pytest.param(ESGD, {"average": "ewma", "curvature": "block", "period": 1}, id="esgd block"),
    pytest.param(CntkAdam, {"lr": 0.1, **CNTK}, id="cntk adam"),
    pytest.param(CntkAdam, {"lr": 0.1, **CNTK, "adamax": True}, id="cntk adamax"),
    pytest.param(with_samples(FSAdagrad), {"lr": 0.1, **CNTK}, id="fsadagrad"),
    pytest.param(CntkRMSprop, {"lr": 0.1, "momentum": 0.5}, id="cntk rmsprop"),
]
ON_TOP = [
    pytest.param(RpropOnTop, {"momentum": 0.5}, id="rprop"),
    pytest.param(AdadeltaOnTop, {"momentum": 0.5, "nesterov": True}, id="adadelta"),
    pytest.param(AdamOnTop, {"momentum": 0.5}, id="adam"),
]


def same_bits(ones, others):
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("make", "options"), OWN)
def test_all_at_once_gives_the_bits_of_one_after_the_other(make, options, dtype, device):
    results = []
    for foreach in (True, False):
        owned = parameters(dtype, device)
        made = make(owned, foreach=foreach, **options)
        advance(made, owned, 30, lr=0.02, total=30)
        results.append(owned)
    assert same_bits(*results)
    assert all(torch.isfinite(p).all() for p in results[0])


@pytest.mark.parametrize(("make", "options"), [*OWN, *ON_TOP])
def test_a_state_taken_mid_run_goes_on_with_the_same_bits(make, options):
    whole = parameters(torch.float32)
    made = make(whole, **options)
    advance(made, whole, 30, lr=0.02, total=30)

    first = parameters(torch.float32)
    made = make(first, **options)
    advance(made, first, 17, lr=0.02, total=30)
    saved = copy.deepcopy(made.state_dict())
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    other = make(second, **options)
    other.load_state_dict(saved)
    advance(other, second, 13, first=17, lr=0.02, total=30)
    assert same_bits(whole, second)


@pytest.mark.parametrize(("make", "options"), [*OWN, *ON_TOP])
def test_states_are_tensors_and_plain_numbers(make, options):
    owned = parameters()
    made = make(owned, **options)
    advance(made, owned, 3, lr=0.02)
    assert set(made.state) == set(owned)
    for state in made.state.values():
        assert state
        assert all(type(value) in (torch.Tensor, int, float) for value in state.values())


@pytest.mark.parametrize(("make", "options"), [*OWN, *ON_TOP])
def test_parameters_without_a_gradient_stay_and_gradients_are_not_changed(make, options):
    owned = parameters()
    made = make(owned, **options)
    advance(made, owned, 4, lr=0.02)
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
    mine, plainly = parameters(torch.float32, device), parameters(torch.float32, device)
    made = Momentum(mine, lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.1)
    advance(made, mine, 30, lr=0.02)
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
    whole = parameters(torch.float32)
    made = make(whole, **options)
    advance(made, whole, 9, lr=0.02, total=30)
    named = [dict(zip(("body.weight", "head.bias"), whole, strict=True))]
    tensors = state.optimizer_tensors([made], named)
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
