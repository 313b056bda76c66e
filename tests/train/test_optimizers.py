"""Every optimizer against its formula in plain NumPy: a hundred steps, with a change of the rate in the middle."""

import functools

import numpy as np
import pytest
import torch

from minibatch.train.optimizers import (
    ESGD,
    CntkAdam,
    CntkRMSprop,
    FSAdagrad,
    GravesRMSprop,
    InsideAdagrad,
    Momentum,
    optimizer,
)
from tests.plain import optimizers as plain
from tests.train.optimizer_runs import (
    BETA,
    CNTK,
    STEPS,
    advance,
    follow,
    give_gradients,
    parameters,
    rate_at,
    relative,
    take_curvature,
    with_samples,
)


def case(name, make, formula, lr, given=(), stated=None):
    """given: the options of the optimizer; stated: those of the formula, where they are called otherwise."""
    given = dict(given)
    return pytest.param(make, given, formula, given if stated is None else stated, lr, id=name)


def theanets(name):
    def make(params, **options):
        return optimizer(name, params, preset="theanets", **options)

    return make


TOP = {"momentum": 0.7}
NESTEROV = {"momentum": 0.7, "nesterov": True}
DECAY = {"weight_decay": 0.05}
ADAM = {"b1": plain.halving(7), "b2": plain.halving(69)}
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
