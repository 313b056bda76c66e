"""Every random number of the package: a hash of (seed, purpose, coordinates).

Nothing here has state. A **key** names a stream of random words and is derived by hashing, never by adding: seed 7
sweep 1 is not seed 8 sweep 0. Word `i` of a stream is a function of (key, i), so it can be drawn in any order, in any
process, at any time. Specified for other languages in `docs/order.md`; its plain twin is `tests/plain/rng.py`.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minibatch.arguments import checked_integer
from minibatch.kernels import augment, permute

MASK = 0xFFFF_FFFF_FFFF_FFFF
GOLDEN = int(permute.GOLDEN)
MIX_1 = int(permute.MIX_1)
MIX_2 = int(permute.MIX_2)
ABSORB = int(permute.ABSORB)
FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3


def mix64(word: int) -> int:
    """A bijection of 64-bit words that scatters neighbours: the finalizer of SplitMix64 (Stafford's variant 13).

    >>> hex(mix64(1))
    '0x5692161d100b05e5'
    """
    word = (word ^ (word >> 30)) * MIX_1 & MASK
    word = (word ^ (word >> 27)) * MIX_2 & MASK
    return word ^ (word >> 31)


def absorb(key: int, coordinate: int) -> int:
    """The key one coordinate further down, where a coordinate is an integer 0 ≤ c < 2^64."""
    return mix64((key * ABSORB + mix64((coordinate + GOLDEN) & MASK)) & MASK)


def key(seed: int, purpose: str, *coordinates: int) -> int:
    """The 64-bit key of the stream that `seed` gives to `purpose` at `coordinates`.

    `seed` and each coordinate are integers 0 ≤ c < 2^64; `purpose` is any text ("order.full", the name of a layer): it
    enters as the 64-bit FNV-1a hash of its UTF-8 bytes.

    >>> key(7, "order.full", 1) == key(8, "order.full", 0)
    False
    """
    result = FNV_OFFSET
    for byte in purpose.encode():
        result = (result ^ byte) * FNV_PRIME & MASK
    result = absorb(mix64(result), checked_seed(seed))
    for coordinate in coordinates:
        result = absorb(result, checked_integer(coordinate, "a coordinate of a key", least=0, most=MASK))
    return result


def checked_seed(seed: int) -> int:
    """`seed` as a Python integer, or the error that says what a seed may be.

    >>> checked_seed(7)
    7
    """
    return checked_integer(seed, "seed", least=0, most=MASK)


def checked_indices(indices: ArrayLike) -> NDArray[np.uint64]:
    """`indices` as words, in their shape; numbers that are no integers, or negative, are refused."""
    given = np.asarray(indices)
    if given.size == 0:
        return np.zeros(given.shape, np.uint64)
    if given.dtype.kind not in "iu":
        raise TypeError(f"indices of random numbers must be integers, got {given.dtype}")
    if given.dtype.kind == "i" and given.min() < 0:
        raise ValueError(f"indices of random numbers must not be negative, got {given.min()}")
    return given.astype(np.uint64, order="C")


def bits(key: int, indices: ArrayLike) -> NDArray[np.uint64]:
    """Random 64-bit words number `indices` of the stream `key`: uint64, in the shape of `indices`.

    >>> int(bits(1, [0])[0]) == mix64((1 + GOLDEN) & MASK)
    True
    """
    at = checked_indices(indices)
    out = np.empty(at.shape, np.uint64)
    permute.fill_bits(np.uint64(checked_integer(key, "key", least=0, most=MASK)), at.reshape(-1), out.reshape(-1))
    return out


def uniform(key: int, indices: ArrayLike) -> NDArray[np.float64]:
    """Numbers in [0, 1), multiples of 2^-53: float64, in the shape of `indices`.

    >>> bool((uniform(1, [0, 1, 2]) < 1).all())
    True
    """
    return np.asarray((bits(key, indices) >> np.uint64(11)) * 2.0**-53)


def normal(key: int, indices: ArrayLike) -> NDArray[np.float64]:
    """Standard normal numbers (Box and Muller 1958), number i from words 2i and 2i + 1: float64, shaped as `indices`.

    >>> normal(1, [[0, 1], [2, 3]]).shape
    (2, 2)
    """
    at = checked_indices(indices)
    out = np.empty(at.shape, np.float64)
    permute.fill_normal(np.uint64(checked_integer(key, "key", least=0, most=MASK)), at.reshape(-1), out.reshape(-1))
    return out


def integers(key: int, indices: ArrayLike, bound: int) -> NDArray[np.int64]:
    """Integers in [0, bound): int64, in the shape of `indices`; 1 ≤ bound ≤ 2^32.

    The upper half of each word is scaled, not divided: every value has probability 1/bound up to 2^-32.

    >>> set(integers(1, range(100), 3).tolist())
    {0, 1, 2}
    """
    return scaled(bits(key, indices), bound)


class Draws:
    """Random numbers for the samples at nominal `times`, int64 (n,): each a function of (seed, operation, time) alone.

    Whatever a minibatch's size, the sample at time t is given the same numbers. Successive calls give new ones. `rows`,
    int64 (n,), says which row of the data each sample is, or is None where nobody knows; `dropped`, bool (n,), which
    samples `drop` has turned into holes.

    >>> whole = Draws(7, "flip", np.arange(4)).uniform((2,))
    >>> part = Draws(7, "flip", np.arange(2, 4)).uniform((2,))
    >>> whole.shape, bool((whole[2:] == part).all())
    ((4, 2), True)
    """

    def __init__(
        self, seed: int, operation: str, times: NDArray[np.int64], rows: NDArray[np.int64] | None = None
    ) -> None:
        self.times = np.ascontiguousarray(times, np.int64)
        self.rows = None if rows is None else np.ascontiguousarray(rows, np.int64)
        if self.rows is not None and self.rows.shape != self.times.shape:
            raise ValueError(f"rows and times must be of one shape, got {self.rows.shape}, {self.times.shape}")
        self.dropped = np.zeros(len(self.times), np.bool_)
        self._key = np.uint64(key(seed, "transform." + operation))
        self._used = 0

    def bits(self, shape: tuple[int, ...] = ()) -> NDArray[np.uint64]:
        """Random words: uint64 (n, *shape)."""
        size = math.prod(shape)
        out = np.empty((len(self.times), size), np.uint64)
        permute.fill_keyed(self._key, self.times, self._used, out)
        self._used += size
        return out.reshape((len(self.times), *shape))

    def uniform(self, shape: tuple[int, ...] = ()) -> NDArray[np.float64]:
        """Numbers in [0, 1): float64 (n, *shape)."""
        return np.asarray((self.bits(shape) >> np.uint64(11)) * 2.0**-53)

    def integers(self, bound: int, shape: tuple[int, ...] = ()) -> NDArray[np.int64]:
        """Integers in [0, bound), 1 ≤ bound ≤ 2^32: int64 (n, *shape)."""
        return scaled(self.bits(shape), bound)

    def normal(self, shape: tuple[int, ...] = ()) -> NDArray[np.float64]:
        """Standard normal numbers: float64 (n, *shape)."""
        keys = self.bits((1,))[:, 0]  # a stream of its own for each sample
        out = np.empty((len(keys), math.prod(shape)), np.float64)
        permute.fill_normal_rows(np.ascontiguousarray(keys), out)
        return out.reshape((len(keys), *shape))

    def beta(self, alpha: float, beta: float, shape: tuple[int, ...] = ()) -> NDArray[np.float64]:
        """Numbers in 0 … 1 with the beta distribution, `alpha` and `beta` above 0: float64 (n, *shape).

        Made from two gamma variates each (Marsaglia and Tsang 2000).

        >>> mixing = Draws(7, "mix", np.arange(1000)).beta(0.2, 0.2)
        >>> bool(((mixing < 0.01) | (mixing > 0.99)).mean() > 0.3)      # most of them near 0 or 1
        True
        """
        if not (0 < alpha < math.inf and 0 < beta < math.inf):
            raise ValueError(f"alpha and beta must be finite and above 0, got {alpha!r} and {beta!r}")
        keys = self.bits((1,))[:, 0]  # a stream of its own for each sample
        out = np.empty((len(keys), math.prod(shape)), np.float64)
        augment.fill_beta(np.ascontiguousarray(keys), float(alpha), float(beta), out)
        return out.reshape((len(keys), *shape))

    def drop(self, mask: NDArray[np.bool_]) -> None:
        """Turn the samples where `mask`, bool (n,), is true into holes: they give no sample, while time counts on.

        >>> draws = Draws(7, "check", np.arange(3))
        >>> draws.drop(np.array([False, True, False]))
        >>> draws.dropped.tolist()
        [False, True, False]
        """
        given = np.asarray(mask)
        if given.dtype != np.bool_ or given.shape != self.times.shape:
            raise ValueError(
                f"drop takes one bool per sample, bool ({len(self.times)},), got {given.dtype} {given.shape}"
            )
        self.dropped |= given


def scaled(words: NDArray[np.uint64], bound: int) -> NDArray[np.int64]:
    """Words scaled to integers in [0, bound): upper half times bound, upper half again; 1 ≤ bound ≤ 2^32."""
    if not 1 <= bound <= 2**32:
        raise ValueError(f"bound must be in 1 … 2**32, got {bound}")
    return np.asarray(((words >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)
