"""Optimizers as formulas: one float64 array, one function per update, after reference documents and papers, no torch.

Each function takes (p, g, state, lr, **options), changes the dictionary `state`, and returns the new p. The problem is
a small one with known gradient and Hessian, curved differently in every direction and not quadratic.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
State = dict[str, Any]

SHAPES = ((3, 2), (4,))
_DRAW = np.random.default_rng(2026)
START = [_DRAW.normal(size=shape) for shape in SHAPES]
_MIX = _DRAW.normal(size=(10, 10)) * 0.3
CURVED = _MIX @ _MIX.T + np.diag(np.linspace(0.2, 2.0, 10))
PULL = _DRAW.normal(size=10)


def flat(parameters: list[Array]) -> Array:
    return np.concatenate([p.reshape(-1) for p in parameters])


def parts(vector: Array) -> list[Array]:
    return [vector[:6].reshape(SHAPES[0]), vector[6:].reshape(SHAPES[1])]


def gradients(parameters: list[Array]) -> list[Array]:
    """Of ½ pᵀ C p - bᵀ p + Σ log cosh p."""
    p = flat(parameters)
    return parts(CURVED @ p - PULL + np.tanh(p))


def hessian(parameters: list[Array]) -> Array:
    return CURVED + np.diag(1.0 - np.tanh(flat(parameters)) ** 2)


def on_top(p: Array, delta: Array, state: State, momentum: float, nesterov: bool) -> Array:
    """downhill: v' = μ v + δ; p + v', or with Nesterov p + μ² v + (1 + μ) δ."""
    if momentum == 0.0:
        return p + delta
    old = state.get("velocity", np.zeros_like(p))
    state["velocity"] = momentum * old + delta
    if nesterov:
        return p + momentum**2 * old + (1.0 + momentum) * delta
    return p + state["velocity"]


def halving(halflife: float) -> float:
    return math.exp(-math.log(2.0) / halflife)


def inside(p, g, state, lr, *, momentum=0.0, nesterov=False, weight_decay=0.0, unit_gain=False):
    u = 1.0 - momentum if unit_gain else 1.0
    return on_top(p, -lr * u * (g + weight_decay * p), state, momentum, nesterov)


def convnet(p, g, state, lr, *, momentum, wc):
    """cuda-convnet2: inc = mom·inc + eps·(-g) - eps·wc·w; w += inc."""
    state["inc"] = momentum * state.get("inc", np.zeros_like(p)) - lr * g - lr * wc * p
    return p + state["inc"]


def outside(p, g, state, lr, *, momentum=0.0, nesterov=False, weight_decay=0.0, unit_gain=False):
    g = g + weight_decay * p
    u = 1.0 - momentum if unit_gain else 1.0
    state["v"] = momentum * state.get("v", np.zeros_like(p)) + u * g
    return p - lr * (u * g + momentum * state["v"] if nesterov else state["v"])


def rprop(p, g, state, lr, *, increase=1.01, decrease=0.99, least=0.0, most=100.0, momentum=0.0, nesterov=False):
    """iRprop-: lr is the first step only."""
    before, step = state.get("g", np.zeros_like(p)), state.get("step", np.full_like(p, lr))
    new, kept = np.empty_like(p), np.empty_like(p)
    for i in np.ndindex(p.shape):
        sign = before[i] * g[i]
        factor = increase if sign > 0 else decrease if sign < 0 else 1.0
        new[i] = min(most, max(least, step[i] * factor))
        kept[i] = 0.0 if sign < 0 else g[i]
    state["g"], state["step"] = kept, new
    return on_top(p, -np.sign(kept) * new, state, momentum, nesterov)


def rmsprop(p, g, state, lr, *, halflife=14.0, eps=1e-8, centered=True, momentum=0.0, nesterov=False, weight_decay=0.0):
    """Graves, eps inside the root."""
    g = g + weight_decay * p
    gamma = halving(halflife)
    state["m"] = gamma * state.get("m", 0.0) + (1 - gamma) * g
    state["s"] = gamma * state.get("s", 0.0) + (1 - gamma) * g * g
    mean = state["m"] if centered else 0.0
    return on_top(p, -lr * g / np.sqrt(state["s"] - mean * mean + eps), state, momentum, nesterov)


def adagrad(p, g, state, lr, *, eps=1e-8, normalize=False, momentum=0.0, nesterov=False, weight_decay=0.0):
    g = g + weight_decay * p
    state["G"] = state.get("G", 0.0) + g * g
    multiplier = 1.0 / np.sqrt(state["G"] + eps)
    rate = lr / multiplier.mean() if normalize else lr
    return on_top(p, -rate * g * multiplier, state, momentum, nesterov)


def adadelta(p, g, state, lr, *, halflife=14.0, eps=1e-8, momentum=0.0, nesterov=False):
    gamma = halving(halflife)
    x = state.get("x", np.zeros_like(p))
    state["v"] = gamma * state.get("v", 0.0) + (1 - gamma) * g * g
    d = g * np.sqrt(x + eps) / np.sqrt(state["v"] + eps)
    state["x"] = gamma * x + (1 - gamma) * d * d
    return on_top(p, -lr * d, state, momentum, nesterov)


def adam(p, g, state, lr, *, b1, b2, eps=1e-8, momentum=0.0, nesterov=False):
    t = state["t"] = state.get("t", 0) + 1
    state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
    state["s"] = b2 * state.get("s", 0.0) + (1 - b2) * g * g
    mhat, shat = state["m"] / (1 - b1**t), state["s"] / (1 - b2**t)
    return on_top(p, -lr * mhat / (np.sqrt(shat) + eps), state, momentum, nesterov)


def esgd(p, g, state, lr, *, product, average, halflife=14.0, eps=1e-8, momentum=0.0, nesterov=False, weight_decay=0.0):
    """product: H r of this update, or None where none is due."""
    g = g + weight_decay * p
    if product is not None:
        if average == "mean":
            state["sum"] = state.get("sum", 0.0) + product**2
            state["count"] = state.get("count", 0) + 1
        else:
            gamma = halving(halflife)
            state["sum"] = gamma * state.get("sum", 0.0) + (1 - gamma) * product**2
    d = state["sum"] / state.get("count", 1)
    return on_top(p, -lr * g / (np.sqrt(d) + eps), state, momentum, nesterov)


def cntk_adam(p, g, state, lr, *, momentum, beta, eps=1e-8, unit_gain=True, adamax=False, weight_decay=0.0):
    g = g + weight_decay * p
    t = state["t"] = state.get("t", 0) + 1
    if adamax:
        v = state["v"] = np.maximum(beta * state.get("v", 0.0), np.abs(g))
        root, correction = v, 1.0 / (1.0 - momentum**t)
    else:
        v = state["v"] = beta * state.get("v", 0.0) + (1.0 - beta) * g * g
        root, correction = np.sqrt(v), math.sqrt(1.0 - beta**t) / (1.0 - momentum**t)
    state["m"] = momentum * state.get("m", 0.0) + (1.0 - momentum if unit_gain else 1.0) * g
    return p - lr * state["m"] * correction / (root + eps)


def fsadagrad(p, g, state, lr, *, momentum, beta, samples, unit_gain=True, weight_decay=0.0):
    g = g + weight_decay * p
    state["count"] = beta * state.get("count", 0.0) + (1.0 - beta) * samples
    v = state["v"] = beta * state.get("v", 0.0) + (1.0 - beta) * g * g
    g = g * np.minimum(math.sqrt(state["count"]) / np.sqrt(v), 10.0)
    if momentum > 0:
        g = state["m"] = momentum * state.get("m", 0.0) + (1.0 - momentum if unit_gain else 1.0) * g
    return p - lr * g


def cntk_rmsprop(
    p, g, state, lr, *, gamma=0.99, inc=1.2, dec=0.75, most=10.0, least=0.1, normalize=True, weight_decay=0.0
):
    g = g + weight_decay * p
    if not state:
        state.update(v=g * g, sign=np.zeros_like(p), size=np.full_like(p, 0.02))
    a = np.empty_like(p)
    for i in np.ndindex(p.shape):
        state["v"][i] = gamma * state["v"][i] + (1.0 - gamma) * g[i] ** 2
        if state["sign"][i] * np.sign(g[i]) > 0:
            state["size"][i] = min(state["size"][i] * inc, most)
        else:
            state["size"][i] = max(state["size"][i] * dec, least)
        a[i] = state["size"][i] / math.sqrt(state["v"][i] + 1e-6)
        state["sign"][i] = np.sign(g[i])
    return p - lr / (a.mean() if normalize else 1.0) * g * a


def softened(p: Array, threshold: float) -> Array:
    """CNTK's soft threshold: sign(p)·max(|p| - threshold, 0)."""
    return np.sign(p) * np.maximum(np.abs(p) - threshold, 0.0)


def drop_tenfold(convention: str) -> list[float]:
    """½ p² from p = 1, momentum 0.9, 15 steps with lr 0.1, then with 0.01: p after each of the first three of these."""
    p, v, seen = 1.0, 0.0, []
    for step in range(18):
        lr = 0.1 if step < 15 else 0.01
        if convention == "inside":
            v = 0.9 * v - lr * p
            p = p + v
        else:
            v = 0.9 * v + p
            p = p - lr * v
        seen.append(p)
    return seen[15:]
