"""Plain twin of `minibatch.train.pretraining`: the reservoir of the trainer "sample", with lists of floats.

Rows are taken one by one in the order of a shuffled sweep until there are enough; what is missing is made of
duplicates. Nothing here knows of minibatches, sources or arrays.
"""

import math
from collections.abc import Sequence

from tests.plain.order import Full
from tests.plain.rng import integer, key, normal

Rows = list[list[float]]


def unit(row: Sequence[float]) -> list[float]:
    """The row divided by its 2-norm."""
    length = math.sqrt(math.fsum(x * x for x in row))
    return [x / length for x in row]


def one_hot(label: int, classes: int) -> list[float]:
    return [float(c == label) for c in range(classes)]


def deviations(rows: Rows) -> list[float]:
    """The standard deviation of each column, divided by the number of rows."""
    found = []
    for column in zip(*rows, strict=True):
        mean = math.fsum(column) / len(column)
        found.append(math.sqrt(math.fsum((x - mean) ** 2 for x in column) / len(column)))
    return found


def reservoir(inputs: Rows, targets: Rows, count: int, seed: int) -> tuple[Rows, Rows]:
    """`count` pairs of an input and its target, each of length 1, in the order that the key `seed` gives."""
    order = Full(rows=len(inputs), seed=seed)
    pools: tuple[Rows, Rows] = [], []
    for place in range(len(inputs)):
        row = order.row(place, 0)
        if len(pools[0]) < count and any(inputs[row]) and any(targets[row]):
            pools[0].append(unit(inputs[row]))
            pools[1].append(unit(targets[row]))
    found = len(pools[0])
    for number, pool in enumerate(pools):
        spread, width = deviations(pool), len(pool[0])
        for i in range(count - found):
            chosen = pool[integer(key(seed, "duplicates"), i, found)]
            noise = [normal(key(seed, "noise", number), i * width + j) for j in range(width)]
            pool.append(unit([x + s * z for x, s, z in zip(chosen, spread, noise, strict=True)]))
    return pools
