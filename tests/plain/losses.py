"""Plain twins of `minibatch.train.losses` and of its metrics: float64 Python, one sample and one element at a time.

Every function takes NumPy arrays and the options of the function it is the twin of, and returns an array. Nothing is
rearranged for numbers that overflow: the twins are for logits of ordinary size.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def reduced(elements: Array, reduce: str) -> Array:
    """Mean or sum over all but the first axis."""
    if reduce == "none" or elements.ndim == 1:
        return elements
    sums = np.array([math.fsum(row.ravel()) for row in elements])
    return sums / (elements[0].size if len(elements) else 1) if reduce == "mean" else sums


def is_missing(value: float, missing: float | None) -> bool:
    return missing is not None and (math.isnan(value) if math.isnan(missing) else value == missing)


def elementwise(function: Callable[..., float], *arrays: Array, missing: float | None = None) -> Array:
    """`function` of every element; 0 where the last array has `missing`."""
    out = np.zeros(arrays[0].shape)
    for place in np.ndindex(*arrays[0].shape):
        values = [float(array[place]) for array in arrays]
        out[place] = 0.0 if is_missing(values[-1], missing) else function(*values)
    return out


def per_place(function: Callable[..., float], scores: Array, labels: Array, missing: float | None = None) -> Array:
    """`function(scores of all classes, label)` for scores (n, classes, …) and labels (n, …)."""
    out = np.zeros(labels.shape)
    for place in np.ndindex(*labels.shape):
        label = int(labels[place])
        if missing is None or label != missing:
            out[place] = function([float(s) for s in scores[(place[0], slice(None), *place[1:])]], label)
    return out


def softmax(scores: Sequence[float]) -> list[float]:
    total = math.fsum(math.exp(s) for s in scores)
    return [math.exp(s) / total for s in scores]


def sigmoid(score: float) -> float:
    return 1.0 / (1.0 + math.exp(-score))


def normalized(weights: Sequence[float] | None, classes: int, normalize: bool) -> list[float]:
    given = [1.0] * classes if weights is None else [float(w) for w in weights]
    return [w / sum(given) for w in given] if normalize else given


def mse(outputs: Array, targets: Array, missing: float | None = None, reduce: str = "mean") -> Array:
    return reduced(elementwise(lambda o, t: (o - t) ** 2, outputs, targets, missing=missing), reduce)


def l1(outputs: Array, targets: Array, missing: float | None = None, reduce: str = "mean") -> Array:
    return reduced(elementwise(lambda o, t: abs(o - t), outputs, targets, missing=missing), reduce)


def huber(
    outputs: Array, targets: Array, beta: float = 1.0, missing: float | None = None, reduce: str = "mean"
) -> Array:
    def one(o: float, t: float) -> float:
        x = abs(o - t)
        return 0.5 * x * x / beta if x < beta else x - 0.5 * beta

    return reduced(elementwise(one, outputs, targets, missing=missing), reduce)


def overshoot(outputs: Array, targets: Array, missing: float | None = None, reduce: str = "mean") -> Array:
    return reduced(elementwise(lambda o, t: max(0.0, o - t), outputs, targets, missing=missing), reduce)


def sum_of_squares(outputs: Array, reduce: str = "sum") -> Array:
    return reduced(elementwise(lambda o: o * o, outputs), reduce)


def cosine(outputs: Array, targets: Array) -> Array:
    out = []
    for o, t in zip(outputs, targets, strict=True):
        a, b = o.ravel(), t.ravel()
        out.append(1.0 - math.fsum(a * b) / math.sqrt(math.fsum(a * a) * math.fsum(b * b)))
    return np.array(out)


def cross_entropy(
    logits: Array,
    labels: Array,
    class_weights: Sequence[float] | None = None,
    normalize: bool = False,
    label_smoothing: float = 0.0,
    clip: float | None = None,
    missing: int | None = None,
) -> Array:
    classes = logits.shape[1]
    weights = normalized(class_weights, classes, normalize)

    def cost(scores: list[float], target: list[float]) -> float:
        costs = []
        for p, q, w in zip(softmax(scores), target, weights, strict=True):
            smooth = (1.0 - label_smoothing) * q + label_smoothing / classes
            costs.append(-w * smooth * math.log(p if clip is None else max(p, clip)))
        return math.fsum(costs)

    if labels.dtype.kind == "f":
        out = np.zeros((logits.shape[0], *logits.shape[2:]))
        for place in np.ndindex(*out.shape):
            column = (place[0], slice(None), *place[1:])
            out[place] = cost(list(logits[column]), list(labels[column]))
        return out
    return per_place(
        lambda scores, label: cost(scores, [float(c == label) for c in range(classes)]), logits, labels, missing
    )


def binary_cross_entropy(
    logits: Array,
    targets: Array,
    pos_weight: float | Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    missing: float | None = None,
    reduce: str = "mean",
) -> Array:
    weights = per_label(1.0 if pos_weight is None else pos_weight, logits)

    def one(z: float, w: float, y: float) -> float:
        y = y * (1.0 - label_smoothing) + 0.5 * label_smoothing
        return -(w * y * math.log(sigmoid(z)) + (1.0 - y) * math.log(sigmoid(-z)))

    return reduced(elementwise(one, logits, weights, targets, missing=missing), reduce)


def per_label(numbers: float | Sequence[float], logits: Array) -> Array:
    """One number for every element, or one per label along axis 1."""
    if not isinstance(numbers, Sequence):
        return np.full(logits.shape, float(numbers))
    return np.stack([np.full(logits[:, i].shape, float(number)) for i, number in enumerate(numbers)], axis=1)


def focal(
    logits: Array,
    labels: Array,
    gamma: float = 2.0,
    class_weights: Sequence[float] | None = None,
    normalize: bool = False,
    missing: int | None = None,
) -> Array:
    weights = normalized(class_weights, logits.shape[1], normalize)

    def one(scores: list[float], label: int) -> float:
        p = softmax(scores)[label]
        return -weights[label] * (1.0 - p) ** gamma * math.log(p)

    return per_place(one, logits, labels, missing)


def sigmoid_focal(
    logits: Array,
    targets: Array,
    gamma: float = 2.0,
    class_weights: float | Sequence[float] | None = 0.5,
    missing: float | None = None,
    reduce: str = "sum",
) -> Array:
    foreground = per_label(1.0 if class_weights is None else class_weights, logits)

    def one(z: float, cw: float, y: float) -> float:
        p, background = sigmoid(z), 1.0 if class_weights is None else 1.0 - cw
        hit, miss = (1.0 - p) ** gamma * math.log(p), p**gamma * math.log(1.0 - p)
        return -(cw * y * hit + background * (1.0 - y) * miss)

    return reduced(elementwise(one, logits, foreground, targets, missing=missing), reduce)


def hinge(
    scores: Array,
    targets: Array,
    margin: float = 1.0,
    squared: bool = False,
    missing: float | None = None,
    reduce: str = "mean",
) -> Array:
    def one(s: float, t: float) -> float:
        return max(0.0, margin - (s if t > 0 else -s)) ** (2 if squared else 1)

    return reduced(elementwise(one, scores, targets, missing=missing), reduce)


def multiclass_hinge(
    scores: Array,
    labels: Array,
    margin: float = 1.0,
    over_classes: str = "max",
    squared: bool = False,
    missing: int | None = None,
) -> Array:
    def one(s: list[float], label: int) -> float:
        costs = [max(0.0, margin + s[j] - s[label]) ** (2 if squared else 1) for j in range(len(s)) if j != label]
        return {"max": max(costs), "sum": math.fsum(costs), "mean": math.fsum(costs) / len(s)}[over_classes]

    return per_place(one, scores, labels, missing)


def kl(logits: Array, targets: Array, clip: float | None = None, absolute: bool = False, reduce: str = "sum") -> Array:
    elements = np.zeros(logits.shape)
    for place in np.ndindex(logits.shape[0], *logits.shape[2:]):
        column = (place[0], slice(None), *place[1:])
        costs = []
        for q, t in zip(softmax(list(logits[column])), targets[column], strict=True):
            if clip is not None:
                q, t = min(max(q, clip), 1.0 - clip), min(max(t, clip), 1.0 - clip)
            cost = t * math.log(t / q) if t > 0 else 0.0
            costs.append(abs(cost) if absolute else cost)
        elements[column] = costs
    return reduced(elements, reduce)


def gaussian_nll(
    mean: Array,
    variance: Array,
    targets: Array,
    given: str = "variance",
    eps: float = 1e-6,
    full: bool = False,
    missing: float | None = None,
    reduce: str = "mean",
) -> Array:
    def one(m: float, v: float, t: float) -> float:
        v = {"variance": max(v, eps), "log_variance": math.exp(v) if given == "log_variance" else 0.0,
             "absolute": abs(v) + eps}[given]  # fmt: skip
        return 0.5 * (math.log(v) + (m - t) ** 2 / v) + (0.5 * math.log(2 * math.pi) if full else 0.0)

    spread = np.broadcast_to(variance, mean.shape)
    return reduced(elementwise(one, mean, spread, targets, missing=missing), reduce)


def mmd(
    outputs: Array,
    targets: Array,
    bandwidths: Sequence[float] = (1.0,),
    unbiased: bool = False,
    mask: NDArray[np.bool_] | None = None,
) -> Array:
    n = len(outputs)
    kept = [j for j in range(n) if mask is None or mask[j]]

    def k(a: Array, b: Array) -> float:
        square = math.fsum(((a - b) ** 2).ravel())
        return math.fsum(math.exp(-square / bandwidth) for bandwidth in bandwidths)

    shares = []
    for i in range(n):
        costs = [
            k(outputs[i], outputs[j])
            + k(targets[i], targets[j])
            - k(outputs[i], targets[j])
            - k(outputs[j], targets[i])
            for j in kept
            if not (unbiased and i == j)
        ]
        shares.append(math.fsum(costs) / max(1, len(kept) - unbiased))
    return np.array(shares)


def mmd_squared(x: Array, y: Array, bandwidth: float) -> float:
    """Gretton et al. 2012, equation 5, as it is written: three double sums."""

    def mean(a: Array, b: Array) -> float:
        sums = [math.exp(-math.fsum(((p - q) ** 2).ravel()) / bandwidth) for p in a for q in b]
        return math.fsum(sums) / len(sums)

    return mean(x, x) - 2.0 * mean(x, y) + mean(y, y)


def ctc(
    logits: Array,
    targets: NDArray[np.int64],
    input_lengths: Sequence[int] | None = None,
    target_lengths: Sequence[int] | None = None,
    blank: int = 0,
    per_label: bool = False,
) -> Array:
    """-log of the sum over all paths that read as the target, found by reading every path there is."""
    out = []
    for i, sample in enumerate(logits):
        steps = len(sample) if input_lengths is None else int(input_lengths[i])
        wanted = list(targets[i]) if target_lengths is None else list(targets[i][: int(target_lengths[i])])
        p = [softmax(list(step)) for step in sample[:steps]]
        chance = math.fsum(
            math.prod(p[t][c] for t, c in enumerate(path))
            for path in itertools.product(range(sample.shape[1]), repeat=steps)
            if [c for c, _ in itertools.groupby(path) if c != blank] == wanted
        )
        value = -math.log(chance) if chance else math.inf
        out.append(value / max(1, len(wanted)) if per_label else value)
    return np.array(out)


def similarities(first: Array, second: Array, normalize: bool) -> list[list[float]]:
    def direction(vector: Array) -> Array:
        return vector / math.sqrt(math.fsum(vector * vector)) if normalize else vector

    return [[math.fsum(direction(a) * direction(b)) for b in second] for a in first]


def negatives_of(i: int, n: int, keys: Array | None, mask: NDArray[np.bool_] | None) -> list[int]:
    return [
        j
        for j in range(n)
        if j != i and (keys is None or keys[i] != keys[j]) and (mask is None or (mask[j] and mask[i]))
    ]


def contrastive(
    first: Array,
    second: Array,
    keys: Array | None = None,
    temperature: float = 0.07,
    normalize: bool = True,
    symmetric: bool = True,
    mask: NDArray[np.bool_] | None = None,
) -> Array:
    s = similarities(first, second, normalize)
    out = []
    for i in range(len(s)):
        rivals = negatives_of(i, len(s), keys, mask)
        own = math.exp(s[i][i] / temperature)
        row = -math.log(own / (own + math.fsum(math.exp(s[i][j] / temperature) for j in rivals)))
        column = -math.log(own / (own + math.fsum(math.exp(s[j][i] / temperature) for j in rivals)))
        out.append(0.5 * (row + column) if symmetric else row)
    return np.array(out)


def contrastive_margin(
    first: Array,
    second: Array,
    keys: Array | None = None,
    margin: float = 0.2,
    negatives: str = "max",
    normalize: bool = True,
    symmetric: bool = True,
    mask: NDArray[np.bool_] | None = None,
) -> Array:
    s = similarities(first, second, normalize)

    def over(costs: list[float]) -> float:
        if not costs:
            return 0.0
        total = math.fsum(costs)
        return {"max": max(costs), "sum": total, "mean": total / len(costs)}[negatives]

    out = []
    for i in range(len(s)):
        rivals = negatives_of(i, len(s), keys, mask)
        value = over([max(0.0, margin + s[i][j] - s[i][i]) for j in rivals])
        if symmetric:
            value += over([max(0.0, margin + s[j][i] - s[i][i]) for j in rivals])
        out.append(value)
    return np.array(out)


def top_k(logits: Array, labels: Array, k: int) -> Array:
    def one(scores: list[float], label: int) -> float:
        # NaN first, then by size, then by number: how the k largest are read off a sorted list.
        order = sorted(range(len(scores)), key=lambda c: (not math.isnan(scores[c]), -scores[c], c))
        return float(label in order[:k] and not math.isnan(scores[label]))

    return per_place(one, logits, labels)


def hamming(scores: Array, targets: Array, threshold: float = 0.0, reduce: str = "mean") -> Array:
    return reduced(elementwise(lambda s, t: float((s > threshold) != (t == 1)), scores, targets), reduce)


def gradient(
    function: Callable[..., Array], inputs: Sequence[Array], direction: Array, step: float = 1e-6
) -> list[Array]:
    """d(Σ direction · function(*inputs)) / d(inputs), by central differences."""
    out = []
    for number, array in enumerate(inputs):
        slope = np.zeros(array.shape)
        for place in np.ndindex(*array.shape):
            ends = []
            for sign in (1.0, -1.0):
                moved = array.copy()
                moved[place] += sign * step
                values = function(*inputs[:number], moved, *inputs[number + 1 :])
                ends.append(math.fsum((direction * values).ravel()))
            slope[place] = (ends[0] - ends[1]) / (2.0 * step)
        out.append(slope)
    return out
