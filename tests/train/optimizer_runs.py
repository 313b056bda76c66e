"""Runs of an optimizer on the problem of tests/plain/optimizers.py, and lists of all the package's own optimizers."""

import math

import numpy as np
import pytest
import torch

from minibatch.train import optimizers
from tests.plain import optimizers as plain

STEPS = 100
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
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
        if isinstance(made, optimizers.ESGD):
            take_curvature(made, owned, step)
        made.step()


def begun(make, options, steps, *, dtype=torch.float64, device="cpu", total=STEPS):
    """An optimizer after some steps, and its parameters."""
    owned = parameters(dtype, device)
    made = make(owned, **options)
    advance(made, owned, steps, lr=0.02, total=total)
    return made, owned


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


CNTK = {"momentum": 0.8, "variance_momentum": BETA}

OWN = [
    pytest.param(optimizers.Momentum, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, id="inside"),
    pytest.param(optimizers.Momentum, {"momentum": 0.9, "unit_gain": True, "velocity": "outside"}, id="outside"),
    pytest.param(optimizers.Momentum, {"momentum": 0.9, "l1": 0.05}, id="l1"),
    pytest.param(optimizers.GravesRMSprop, {"momentum": 0.5, "weight_decay": 0.1}, id="graves"),
    pytest.param(optimizers.InsideAdagrad, {"normalize": True, "momentum": 0.5, "nesterov": True}, id="adagrad"),
    pytest.param(optimizers.ESGD, {"period": 3, "momentum": 0.5}, id="esgd"),
    pytest.param(optimizers.ESGD, {"average": "ewma", "curvature": "block", "period": 1}, id="esgd block"),
    pytest.param(optimizers.CntkAdam, {"lr": 0.1, **CNTK}, id="cntk adam"),
    pytest.param(optimizers.CntkAdam, {"lr": 0.1, **CNTK, "adamax": True}, id="cntk adamax"),
    pytest.param(with_samples(optimizers.FSAdagrad), {"lr": 0.1, **CNTK}, id="fsadagrad"),
    pytest.param(optimizers.CntkRMSprop, {"lr": 0.1, "momentum": 0.5}, id="cntk rmsprop"),
]
ON_TOP = [
    pytest.param(optimizers.RpropOnTop, {"momentum": 0.5}, id="rprop"),
    pytest.param(optimizers.AdadeltaOnTop, {"momentum": 0.5, "nesterov": True}, id="adadelta"),
    pytest.param(optimizers.AdamOnTop, {"momentum": 0.5}, id="adam"),
]


def same_bits(ones, others):
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))
