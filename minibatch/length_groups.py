"""An order that puts rows of similar lengths side by side, so that padded minibatches waste little.

Places of a base order are taken in windows. Within a window rows are sorted by length and cut into groups, and the
groups are shuffled by a key: exact, deterministic and invertible like every order, at the price of sorting a window.
`docs/order.md` section 6 specifies it exactly. It knows no data sets: whoever makes the order supplies the lengths.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minibatch import rng
from minibatch.arguments import checked_integer
from minibatch.kernels import permute
from minibatch.order import Order, Window, make_order
from minibatch.timeline import Stretch

VERSION = 1
MAX_WINDOW = 2**31  # a window is sorted in memory: 8 bytes a row, and as much again for its lengths
WINDOWS_KEPT = 4  # two reading threads and a rank that is behind each hold a window and begin the next

Lengths = Callable[[NDArray[np.int64]], NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class LengthGroups:
    """Group rows of similar lengths: windows of `rows` rows of the base order, in groups of `group` rows.

    Minibatches of k rows that begin at multiples of k lie in one group each where k divides `group` and `group` divides
    `rows`, until the first sweep border that is no multiple of k. From there on one in `group // k` lies in two: so let
    `group` be a few times k. The larger `rows`, the less padding; the smaller, the more the order is like the base's:
    "full", a `Window(rows=…)` or None.

    >>> LengthGroups(rows=6400, group=64)
    LengthGroups(rows=6400, group=64, base='full')
    """

    rows: int
    group: int
    base: Literal["full"] | Window | None = "full"

    def __post_init__(self) -> None:
        rows = checked_integer(self.rows, "LengthGroups(rows=…)", least=1, most=MAX_WINDOW)
        group = checked_integer(self.group, "LengthGroups(group=…)", least=1, most=rows)
        if not (self.base is None or self.base == "full" or isinstance(self.base, Window)):
            raise ValueError(f'LengthGroups(base=…) must be "full", a Window(rows=…) or None, got {self.base!r}')
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "group", group)


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupedOrder:
    """The order of the rows of every sweep, grouped by length; made by `make_grouped_order`.

    The windows last used are kept, and threads may share it: each window is sorted once, whoever asks first.

    >>> lengths = np.array([3, 1, 2, 1, 3, 2])
    >>> order = make_grouped_order(LengthGroups(rows=6, group=2), rows=6, chunk_rows=1, seed=7, lengths=lengths.take)
    >>> lengths[order.rows_at(0, 6)].tolist()
    [3, 3, 1, 1, 2, 2]
    >>> order.time_of(int(order.rows_at(4, 1)[0]), sweep=0)
    4
    """

    base: Order
    window_rows: int
    group: int
    lengths: Lengths
    length_of: str | None = None
    _kept: OrderedDict[tuple[int, int], NDArray[np.int64]] = field(default_factory=OrderedDict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def rows(self) -> int:
        """How many rows a sweep has."""
        return self.base.rows

    @cached_property
    def _key(self) -> int:
        return rng.key(self.base.seed, "order.groups", self.rows)

    def window(self, sweep: int, number: int) -> NDArray[np.int64]:
        """The rows of window `number` of a sweep as they are shown, int64 (rows,): read-only."""
        name = (sweep, number)
        with self._lock:  # held while sorting: another thread most likely waits for this very window
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
            window = self._sorted(sweep, number)
            self._kept[name] = window
            if len(self._kept) > WINDOWS_KEPT:
                self._kept.popitem(last=False)
            return window

    def _sorted(self, sweep: int, number: int) -> NDArray[np.int64]:
        begin = number * self.window_rows
        rows = self.base.rows_at(sweep * self.rows + begin, min(self.window_rows, self.rows - begin))
        lengths = np.asarray(self.lengths(rows))
        if lengths.shape != rows.shape or lengths.dtype.kind not in "iu" or lengths.min() < 0:
            raise ValueError(
                f"lengths of {len(rows)} rows must be {len(rows)} integers from 0 on, got {lengths.dtype} of shape "
                f"{lengths.shape}"
                + (f", the least of them {lengths.min()}" if lengths.size and lengths.dtype.kind in "iuf" else "")
            )
        lengths = lengths - lengths.min()
        if lengths.max() < 2**16:
            lengths = lengths.astype(np.uint16)  # NumPy sorts these by counting, ten times as fast
        rows = rows[np.argsort(lengths, kind="stable")]
        groups = -(-len(rows) // self.group)
        key = np.uint64(rng.absorb(rng.absorb(self._key, sweep), number))
        begins = np.empty(groups, np.int64)
        permute.permute_span(groups, key, 0, begins)
        # The slot at the end is the one that may be short; the groups after the one it holds begin that much earlier.
        lacking = groups * self.group - len(rows)
        begins = begins * self.group - np.where(begins > begins[-1], lacking, 0)
        slots = np.arange(len(rows)) // self.group
        shown: NDArray[np.int64] = rows[begins[slots] + np.arange(len(rows)) - slots * self.group]
        shown.flags.writeable = False
        return shown

    def fill(self, start: int, out: NDArray[np.int64]) -> None:
        """Write the rows at the nominal times start, start + 1, … to `out`, int64 (count,), contiguous."""
        done = 0
        while done < len(out):
            sweep, place = divmod(start + done, self.rows)
            number, within = divmod(place, self.window_rows)
            part = self.window(sweep, number)[within : within + len(out) - done]
            out[done : done + len(part)] = part
            done += len(part)

    def fill_stretch(self, stretch: Stretch, out: NDArray[np.int64]) -> None:
        """Write the rows of all runs of `stretch`, one after another, to `out`, int64 (stretch.samples,)."""
        for i, run in enumerate(stretch.runs()):
            self.fill(run.start, out[i * stretch.length : (i + 1) * stretch.length])

    def rows_at(self, start: int, count: int) -> NDArray[np.int64]:
        """The rows at the nominal times start … start + count - 1: int64 (count,)."""
        out = np.empty(count, np.int64)
        self.fill(start, out)
        return out

    def time_of(self, row: int, sweep: int) -> int:
        """The nominal time at which sweep `sweep` shows `row`: looked up in its window, so O(window)."""
        place = self.base.time_of(row, sweep) - sweep * self.rows
        number = place // self.window_rows
        within = int(np.flatnonzero(self.window(sweep, number) == row)[0])
        return sweep * self.rows + number * self.window_rows + within

    def describe(self) -> dict[str, Any]:
        """What a checkpoint says of this order, its seed and the data apart: enough to refuse another one."""
        return {
            "groups_version": VERSION,
            "window_rows": self.window_rows,
            "group": self.group,
            "length_of": self.length_of,
            "base": self.base.describe(),
        }


def make_grouped_order(
    groups: LengthGroups, *, rows: int, chunk_rows: int, seed: int, lengths: Lengths, length_of: str | None = None
) -> GroupedOrder:
    """The order that `groups` gives to a data set of `rows` rows.

    lengths(rows) gives the lengths of some rows: integers (n,) for int64 (n,), always the same for the same row.
    `length_of` names what they are lengths of, for `describe`.
    """
    base = make_order(groups.base, rows=rows, chunk_rows=chunk_rows, seed=seed)
    window_rows = min(groups.rows, rows)
    group = min(groups.group, window_rows)
    return GroupedOrder(base=base, window_rows=window_rows, group=group, lengths=lengths, length_of=length_of)


def padded_fraction(lengths: ArrayLike, minibatch_size: int) -> float:
    """The part of all cells that is padding when rows of these lengths, in this order, are padded minibatch by
    minibatch to the longest of each.

    >>> padded_fraction([2, 4, 1, 1], 2), padded_fraction([1, 1, 2, 4], 2)
    (0.2, 0.2)
    >>> padded_fraction([2, 1, 4, 1], 2)
    0.3333333333333333
    """
    size = checked_integer(minibatch_size, "minibatch_size", least=1)
    given = np.asarray(lengths, np.int64)
    if not given.size:
        return 0.0
    begins = np.arange(0, len(given), size)
    sizes = np.minimum(size, len(given) - begins)
    cells = int((np.maximum.reduceat(given, begins) * sizes).sum())
    return 1 - int(given.sum()) / cells if cells else 0.0
