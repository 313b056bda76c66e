"""Which row stands at place `p` of sweep `s`: full, windowed or sequential; forward and inverse.

Orders are computed, never stored: O(1) memory and time per place at any number of rows, no start of a sweep to wait
for, and an inverse in closed form. `docs/order.md` specifies them exactly; `VERSION` changes when any row of any order
would, and golden values keep that honest.

| order | quality | what it touches |
|---|---|---|
| `"full"` | every row may stand anywhere in its sweep | the whole data set at any time |
| `Window(rows=…)` | chunks are shuffled, then rows within windows of whole chunks | about one window at a time |
| `None` | rows as they are stored | ascending |
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch import rng
from minibatch.kernels import permute

VERSION = 1
MAX_ROWS = 2**62  # halves of the Feistel network stay below 2^31, and nominal time below 2^63


@dataclass(frozen=True, kw_only=True)
class Window:
    """Shuffle within windows of about `rows` rows: chunks are permuted, then the rows of each window of whole chunks.

    A window has `rows // chunk_rows` chunks, at least one and at most all. `chunk_rows` is the data set's own unless
    given: it is a property of the order, so a data set rewritten with other chunks keeps its order when the old
    number is given here.

    >>> Window(rows=100_000)
    Window(rows=100000, chunk_rows=None)
    """

    rows: int
    chunk_rows: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("rows", self.rows), ("chunk_rows", self.chunk_rows)):
            if value is None and name == "chunk_rows":
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise TypeError(f"Window({name}=…) must be an integer, got {value!r}")
            if value < 1:
                raise ValueError(f"Window({name}=…) must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of the rows of every sweep; made by `make_order`.

    >>> order = make_order("full", rows=10, chunk_rows=4, seed=7)
    >>> rows = order.rows_at(0, 10)
    >>> sorted(rows.tolist()) == list(range(10))
    True
    >>> order.time_of(int(rows[3]), sweep=0)
    3
    """

    kind: int
    rows: int
    chunk_rows: int
    window_chunks: int
    seed: int

    @cached_property
    def _keys(self) -> tuple[np.uint64, np.uint64]:
        # The number of rows is a coordinate: without it, data sets of similar sizes would have similar orders.
        if self.kind == permute.WINDOWED:
            names = ("order.chunks", "order.window")
        else:
            names = ("order.full", "order.full")
        first, second = (np.uint64(rng.key(self.seed, name, self.rows)) for name in names)
        return first, second

    @cached_property
    def parameters(self) -> tuple[int, int, int, int, np.uint64, np.uint64]:
        """What the kernels take of an order, before their own arguments."""
        return self.kind, self.rows, self.chunk_rows, self.window_chunks, *self._keys

    def fill(self, start: int, out: NDArray[np.int64]) -> None:
        """Write the rows at the nominal times start, start + 1, … to `out`, int64 (count,), contiguous."""
        permute.rows_of_span(*self.parameters, start, out)

    def rows_at(self, start: int, count: int) -> NDArray[np.int64]:
        """The rows at the nominal times start … start + count - 1: int64 (count,)."""
        out = np.empty(count, np.int64)
        self.fill(start, out)
        return out

    def time_of(self, row: int, sweep: int) -> int:
        """The nominal time at which sweep `sweep` shows `row`, 0 ≤ row < rows and 0 ≤ sweep < 2^62 / rows."""
        if not (
            0 <= row < self.rows and sweep >= 0 and (sweep + 1) * self.rows <= 2**63
        ):  # outside, the kernel would walk for ever
            raise ValueError(f"row {row} of sweep {sweep}: expected a row in 0 … {self.rows - 1}, a sweep from 0 on")
        place = permute.place_of_row(*self.parameters, row, sweep)
        return sweep * self.rows + int(place)

    def describe(self) -> str | dict[str, int]:
        """What a checkpoint says of this order, its seed apart: enough to refuse another one."""
        if self.kind == permute.WINDOWED:
            return {"window_chunks": self.window_chunks, "chunk_rows": self.chunk_rows}
        return "full" if self.kind == permute.FULL else "sequential"


def make_order(shuffle: Any, *, rows: int, chunk_rows: int, seed: int) -> Order:
    """The order that `shuffle` ("full", a `Window` or None) gives to a data set of `rows` rows.

    >>> make_order(Window(rows=12), rows=40, chunk_rows=4, seed=0).describe()
    {'window_chunks': 3, 'chunk_rows': 4}
    """
    seed = rng.checked_seed(seed)
    if not 1 <= rows <= MAX_ROWS:
        raise ValueError(f"an order needs 1 … 2**62 rows, got {rows}")
    if isinstance(shuffle, Window):
        chunk = min(int(shuffle.chunk_rows or chunk_rows), rows)
        window = min(max(1, int(shuffle.rows) // chunk), -(-rows // chunk))
        return Order(kind=permute.WINDOWED, rows=rows, chunk_rows=chunk, window_chunks=window, seed=seed)
    if shuffle is None:
        return Order(kind=permute.SEQUENTIAL, rows=rows, chunk_rows=1, window_chunks=1, seed=seed)
    if isinstance(shuffle, str) and shuffle == "full":
        return Order(kind=permute.FULL, rows=rows, chunk_rows=1, window_chunks=1, seed=seed)
    raise ValueError(f'shuffle must be "full", a Window(rows=…) or None, got {shuffle!r}')
