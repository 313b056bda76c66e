"""Plain twin of `minibatch.models.gpt.GPT` in eval mode: float64, one token after the other."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def norm(x: Array, gain: Array) -> Array:
    return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * gain


def gelu(x: Array) -> Array:
    return np.array([0.5 * value * (1.0 + math.erf(value / math.sqrt(2.0))) for value in x])


def rotated(x: Array, place: int) -> Array:
    """The pairs (x[j], x[j + d/2]) as complex numbers, turned by place · 10000^(-2j/d)."""
    half = len(x) // 2
    pairs = [complex(x[j], x[j + half]) * np.exp(1j * place * 10_000.0 ** (-2 * j / len(x))) for j in range(half)]
    return np.array([pair.real for pair in pairs] + [pair.imag for pair in pairs])


def attention(x: Array, segment_ids: NDArray[np.int64], weights: Mapping[str, Array], heads: int) -> Array:
    """(t, w) of normed inputs (t, w): each token by itself, over what stands before it in its segment."""
    t, w = x.shape
    size = w // heads
    out = np.zeros((t, w))
    projected = x @ weights["query_key_value.weight"].T
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        queries, keys, values = (projected[:, kind * w : (kind + 1) * w][:, part] for kind in range(3))
        for place in range(t):
            seen = [other for other in range(place + 1) if segment_ids[other] == segment_ids[place]]
            scores = [rotated(queries[place], place) @ rotated(keys[other], other) / math.sqrt(size) for other in seen]
            shares = np.exp(np.array(scores) - max(scores))
            out[place, part] = shares / shares.sum() @ values[seen]
    return out @ weights["attention_out.weight"].T


def gpt(
    tokens: NDArray[np.int64], segment_ids: NDArray[np.int64], state: Mapping[str, Array], *, layers: int, heads: int
) -> Array:
    """Logits (t, v) of one row of tokens (t,)."""
    x = state["embedding.weight"][tokens]
    for number in range(layers):
        begin = f"blocks.{number}."
        weights = {name.removeprefix(begin): value for name, value in state.items() if name.startswith(begin)}
        normed = np.stack([norm(row, weights["attention_norm.weight"]) for row in x])
        x = x + attention(normed, segment_ids, weights, heads)
        normed = np.stack([norm(row, weights["hidden_norm.weight"]) for row in x])
        hidden = np.stack([gelu(row) for row in normed @ weights["hidden.weight"].T])
        x = x + hidden @ weights["hidden_out.weight"].T
    return np.stack([norm(row, state["norm.weight"]) for row in x]) @ state["embedding.weight"].T
