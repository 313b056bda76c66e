"""Plain twin of `minibatch.order` and its kernels: docs/order.md sections 2 and 3 in Python's unbounded integers.

Written from the text alone. The windowed order stands here twice: `Windowed.row` follows the closed form of the text
and works at any size; `Windowed.sweep` does with lists what the text says in words (lay the chunks down, cut windows,
shuffle each), and shares nothing with it but `perm`.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from tests.plain.rng import absorb, draw, key

VERSION = 1
SHUFFLED_LIMIT = 1024
ROUNDS = 12
WORD32 = 2**32 - 1


# --- permutations -------------------------------------------------------------------------------------------------


def scatter32(x: int) -> int:
    """A bijection of 32-bit words."""
    x ^= x >> 16
    x = (x * 0x7FEB352D) & WORD32
    x ^= x >> 15
    x = (x * 0x846CA68B) & WORD32
    return x ^ (x >> 16)


def rectangle(n: int) -> tuple[int, int]:
    """The sides a = ⌈√n⌉ and b = ⌈n / a⌉ of the rectangle that holds 0 … n − 1."""
    a = math.isqrt(n - 1) + 1
    a += a % 2
    return a, -(-n // a)


@lru_cache(maxsize=256)
def shuffled_table(n: int, key: int) -> tuple[int, ...]:
    """All images under `perm(n, key)` for n ≤ 1024 (Fisher and Yates)."""
    table = list(range(n))
    for i in range(n - 1, 0, -1):
        j = ((draw(key, i) >> 32) * (i + 1)) >> 32
        table[i], table[j] = table[j], table[i]
    return tuple(table)


@lru_cache(maxsize=1024)
def round_keys(key: int) -> tuple[int, ...]:
    """The 32-bit keys of the twelve rounds."""
    return tuple(draw(key, r) >> 32 for r in range(ROUNDS))


def perm(n: int, key: int, p: int) -> int:
    """The image of p under the bijection `perm(n, key)` of 0 … n − 1."""
    if n <= SHUFFLED_LIMIT:
        return shuffled_table(n, key)[p]
    a, b = rectangle(n)
    k = round_keys(key)
    while True:
        left, right = p % a, p // a
        for r in range(ROUNDS):
            if r % 2 == 0:
                left = (left + ((scatter32(right ^ k[r]) * a) >> 32)) % a
            else:
                right = (right + ((scatter32(left ^ k[r]) * b) >> 32)) % b
        p = right * a + left
        if p < n:
            return p


def perm_inverse(n: int, key: int, image: int) -> int:
    """The p whose image under `perm(n, key)` is given."""
    if n <= SHUFFLED_LIMIT:
        return shuffled_table(n, key).index(image)
    a, b = rectangle(n)
    k = round_keys(key)
    p = image
    while True:
        left, right = p % a, p // a
        for r in reversed(range(ROUNDS)):
            if r % 2 == 0:
                left = (left - ((scatter32(right ^ k[r]) * a) >> 32)) % a
            else:
                right = (right - ((scatter32(left ^ k[r]) * b) >> 32)) % b
        p = right * a + left
        if p < n:
            return p


# --- orders -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Full:
    """Every sweep is a permutation of all rows."""

    rows: int
    seed: int

    def row(self, place: int, sweep: int) -> int:
        return perm(self.rows, key(self.seed, "order.full", self.rows, sweep), place)


@dataclass(frozen=True, kw_only=True)
class Sequential:
    """Every sweep is the data set as it lies."""

    rows: int

    def row(self, place: int, sweep: int) -> int:
        return place


@dataclass(frozen=True, kw_only=True)
class Windowed:
    """Chunks are permuted, and rows within windows of whole chunks."""

    rows: int
    chunk_rows: int
    window_chunks: int
    seed: int

    @property
    def chunks(self) -> int:
        return -(-self.rows // self.chunk_rows)

    @property
    def windows(self) -> int:
        return -(-self.chunks // self.window_chunks)

    def slots(self, window: int) -> range:
        return range(window * self.window_chunks, min((window + 1) * self.window_chunks, self.chunks))

    def chunk(self, slot: int, sweep: int) -> int:
        """P(slot): the chunk that lies in a slot."""
        return perm(self.chunks, key(self.seed, "order.chunks", self.rows, sweep), slot)

    def window_key(self, window: int, sweep: int) -> int:
        return absorb(key(self.seed, "order.window", self.rows, sweep), window)

    def begin(self, slot: int, sweep: int) -> int:
        """The number of rows in the slots before this one, in closed form."""
        short_slot = perm_inverse(self.chunks, key(self.seed, "order.chunks", self.rows, sweep), self.chunks - 1)
        lacking = self.chunks * self.chunk_rows - self.rows
        return slot * self.chunk_rows - (lacking if slot > short_slot else 0)

    def row(self, place: int, sweep: int) -> int:
        # Window and slot are those whose interval contains the place. Lacking rows move an interval by less than
        # one chunk, so each is the one found by dividing, or the next.
        window = place // (self.window_chunks * self.chunk_rows)
        if place >= self.begin(self.slots(window).stop, sweep):
            window += 1
        slots = self.slots(window)
        lo, hi = self.begin(slots.start, sweep), self.begin(slots.stop, sweep)
        assert lo <= place < hi
        moved = lo + perm(hi - lo, self.window_key(window, sweep), place - lo)
        slot = moved // self.chunk_rows
        if moved >= self.begin(slot + 1, sweep):
            slot += 1
        offset = moved - self.begin(slot, sweep)
        assert slot in slots
        assert 0 <= offset < self.chunk_rows
        return self.chunk(slot, sweep) * self.chunk_rows + offset

    def windows_as_laid(self, sweep: int) -> list[list[int]]:
        """The rows of every window before they are shuffled within it: whole chunks, one after another."""
        laid = [self.chunk(slot, sweep) for slot in range(self.chunks)]
        contents = [range(j * self.chunk_rows, min((j + 1) * self.chunk_rows, self.rows)) for j in laid]
        return [[row for slot in self.slots(w) for row in contents[slot]] for w in range(self.windows)]

    def sweep(self, sweep: int) -> list[int]:
        """A whole sweep by laying, cutting and shuffling lists: the definition in words."""
        rows = []
        for window, laid in enumerate(self.windows_as_laid(sweep)):
            inner = self.window_key(window, sweep)
            rows += [laid[perm(len(laid), inner, p)] for p in range(len(laid))]
        return rows


Order = Full | Sequential | Windowed


def at(order: Order, start: int, count: int) -> list[int]:
    """The rows at nominal times start … start + count − 1."""
    return [order.row(t % order.rows, t // order.rows) for t in range(start, start + count)]
