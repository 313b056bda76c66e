"""Plain twin of `minibatch.rng`: docs/order.md section 1, word for word, in Python's unbounded integers.

Written from the text alone, and slow on purpose: it is the specification that the compiled form is compared with.
Every word is cut to its width where the text says that it wraps, and nowhere else.
"""

import math

WORD = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
ABSORB = 0xD1342543DE82EF95


def mix64(x: int) -> int:
    """A bijection of 64-bit words that spreads every bit (the finaliser of splitmix64)."""
    x &= WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def absorb(key: int, coordinate: int) -> int:
    """The key one level below `key`."""
    return mix64(key * ABSORB + mix64(coordinate + GOLDEN))


def fnv(text: str) -> int:
    """FNV-1a, 64 bits, of the text in UTF-8."""
    h = 0xCBF29CE484222325
    for byte in text.encode("utf-8"):
        h = ((h ^ byte) * 0x100000001B3) & WORD
    return h


def key(seed: int, purpose: str, *coordinates: int) -> int:
    """The key of a stream."""
    derived = absorb(mix64(fnv(purpose)), seed)
    for coordinate in coordinates:
        derived = absorb(derived, coordinate)
    return derived


def draw(key: int, i: int) -> int:
    """The `i`-th word of the stream `key`."""
    return mix64(key + (i + 1) * GOLDEN)


def uniform(key: int, i: int) -> float:
    """The `i`-th number of the stream, uniform in [0, 1)."""
    return (draw(key, i) >> 11) / 2**53


def integer(key: int, i: int, bound: int) -> int:
    """The `i`-th number of the stream, uniform in 0 … bound − 1."""
    return ((draw(key, i) >> 32) * bound) >> 32


def normal(key: int, i: int) -> float:
    """The `i`-th number of the stream, standard normal (Box and Muller, cosine half)."""
    u = ((draw(key, 2 * i) >> 11) + 1) / 2**53
    v = (draw(key, 2 * i + 1) >> 11) / 2**53
    return math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v)
