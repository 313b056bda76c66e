"""Plain twins of the regularizers: the formulas of theanets, CNTK and HALCON, number by number in float64.

Weights are lists of nested lists or arrays; activations (n, u) arrays, a minibatch at a time, as theanets had them.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def flat(weight: Array) -> list[float]:
    return [float(value) for value in np.asarray(weight, np.float64).ravel()]


def penalty(weights: Sequence[Array], power: int, reduce: str) -> float:
    """Σ |w|^power of several tensors: summed, as Σ of means, or as the mean of means."""
    sums = [math.fsum(abs(w) ** power for w in flat(weight)) for weight in weights]
    if reduce == "sum":
        return math.fsum(sums)
    means = [total / weight.size for total, weight in zip(sums, weights, strict=True)]
    return math.fsum(means) / (len(means) if reduce == "mean_of_means" else 1)


def penalty_gradient(weights: Sequence[Array], power: int, reduce: str) -> list[Array]:
    """The derivative of `penalty` by every weight; 0 at 0."""
    gradients = []
    for weight in weights:
        share = 1.0
        if reduce != "sum":
            share /= weight.size
        if reduce == "mean_of_means":
            share /= len(weights)
        slopes = [2.0 * w if power == 2 else float((w > 0) - (w < 0)) for w in flat(weight)]
        gradients.append(share * np.array(slopes).reshape(weight.shape))
    return gradients


def soft_threshold(weight: Array, threshold: float) -> Array:
    """CNTK's InplaceSoftThreshold: every weight moves to 0 by the threshold, and stops there."""
    moved = []
    for w in flat(weight):
        if w > threshold:
            moved.append(w - threshold)
        elif w < -threshold:
            moved.append(w + threshold)
        else:
            moved.append(0.0)
    return np.array(moved).reshape(weight.shape)


def max_norm(weight: Array, limit: float, axis: int) -> Array:
    """Every unit's weights scaled to norm `limit` if they are longer."""
    units = np.moveaxis(np.array(weight, np.float64), axis, 0)
    for unit in units:
        norm = math.sqrt(math.fsum(w * w for w in flat(unit)))
        if norm > limit:
            unit *= limit / norm
    return np.moveaxis(units, 0, axis)


def hidden(entries: Sequence[Array], reduce: str) -> float:
    """theanets' regularizers of activations over one minibatch, from the entries (n, …) of every layer.

    sum: the mean over samples of Σ_layers Σ. mean: Σ_layers of the mean over samples and units. mean_of_means: the same
    averaged over layers.
    """
    n = len(entries[0])
    if reduce == "sum":
        return math.fsum(math.fsum(flat(layer)) for layer in entries) / n
    means = [math.fsum(flat(layer)) / layer.size for layer in entries]
    return math.fsum(means) / (len(means) if reduce == "mean_of_means" else 1)


def tanh_layer(x: Array, weight: Array, bias: Array) -> Array:
    return np.tanh(x @ weight.T + bias)


def tanh_jacobian(x: Array, weight: Array, bias: Array) -> Array:
    """∂h_u/∂x_f of every sample: (n, u, f), in closed form."""
    slopes = 1.0 - tanh_layer(x, weight, bias) ** 2
    return slopes[:, :, None] * weight[None]


def theanets_contractive(jacobians: Sequence[Array]) -> float:
    """theanets 0.7, from the Jacobians (n, u, f) of its layers: sum(sqr(grad(h.mean(), x)).mean()) / layers."""
    total = 0.0
    for jacobian in jacobians:
        n, units, _ = jacobian.shape
        gradient = jacobian.sum(1) / (n * units)  # of the mean over samples and units, by x: (n, f)
        total += float(np.square(gradient).mean())
    return total / len(jacobians)


def state_changes(states: Array) -> Array:
    """|h_t - h_t-1|² by element: (n, time - 1, units)."""
    return np.stack([(states[:, t] - states[:, t - 1]) ** 2 for t in range(1, states.shape[1])], 1)


def norm_changes(states: Array, *, squared: bool) -> Array:
    """(|h_t| - |h_t-1|)², or of squared norms: (n, time - 1)."""
    norms = np.array([[math.fsum(h * h for h in step) for step in sample] for sample in states])
    if not squared:
        norms = np.sqrt(norms)
    return np.stack([(norms[:, t] - norms[:, t - 1]) ** 2 for t in range(1, states.shape[1])], 1)
