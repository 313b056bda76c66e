"""The coming window asked for ahead, and the last one let go: advice to the system, on which no result depends.

A windowed order permutes chunks, so what it will touch next is known long before: while one window is read, the chunks
of the next one are brought into memory one after the other, at the same pace. Data that do not fit into memory are let
go of behind, so that about two windows are resident at any time. Orders without windows that read on (None) count as
windows of `SEQUENTIAL_BYTES`.

A full shuffle soon touches every page of data that fit into memory: they are mapped from first to last meanwhile, which
costs less than to be interrupted at each. Of data larger than memory, the rows of a block are asked for together: from
a cold disk that gave 60,000 rows a second for 5,000 (of 784 bytes; in windows 2.3 million; measured 2026-11).
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.chunks import Chunks
from minibatch.errors import MinibatchError
from minibatch.kernels import permute
from minibatch.order import Order
from minibatch.timeline import Stretch

SEQUENTIAL_BYTES = 32 << 20
AT_ONCE_BYTES, AT_ONCE_UNITS = 16 << 20, 64  # asked for at most before a block: no block waits for a whole window
BRING_IN_SECONDS = 0.02  # at most before a block of a full shuffle: enough for 300 MB and more that are in the cache
SCATTERED_BYTES = 4096  # rows up to a page need no page around theirs


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where fields of the rows lie: `picked` has the stored row of each, or None where that is the same."""

    chunks: Chunks
    names: tuple[str, ...]
    picked: NDArray[np.int64] | None = None

    def chunks_of(self, start: int, stop: int) -> list[int]:
        """The chunks in which the rows start … stop - 1 lie, ascending."""
        if self.picked is not None:
            return [int(chunk) for chunk in np.unique(self.chunks.locate(self.picked[start:stop]))]
        first, last = np.searchsorted(self.chunks.starts, [start, stop - 1], side="right") - 1
        return list(range(first, last + 1))


def scatter(order: Any, tables: Sequence[Chunks], row_bytes: int) -> None:
    """Have single pages read where small rows of a full shuffle lie in data that do not fit into memory."""
    if isinstance(order, Order) and order.kind == permute.FULL and row_bytes <= SCATTERED_BYTES:
        for table in tables:
            if table.exceeds:
                table.scatter()


class Ahead:
    """Called with the stretch of which a block is about to be read, by any thread.

    The axis is cut into units, an order's chunks of rows, that are numbered on through all sweeps.
    """

    def __init__(self, order: Order, places: Sequence[Place]) -> None:
        self._order = order
        self._places = places
        self._fits = all(place.chunks.fits for place in places)
        self._exceeds = any(place.chunks.exceeds for place in places)
        bytes_of_rows = max(1, sum(place.chunks.bytes for place in places) // order.rows)
        if order.kind == permute.WINDOWED:
            self._rows, self._window = order.chunk_rows, order.window_chunks
        else:
            self._rows = max(1, AT_ONCE_BYTES // 2 // bytes_of_rows)
            self._window = max(1, SEQUENTIAL_BYTES // (bytes_of_rows * self._rows))
        self._units = -(-order.rows // self._rows)  # of a sweep
        self._at_once = max(1, min(AT_ONCE_UNITS, AT_ONCE_BYTES // (bytes_of_rows * self._rows)))
        self._asked = 0  # units below have been asked for
        self._behind = 0  # units below have been let go
        self._budget = self._units if self._fits else 2**62  # what fits stays: once is enough
        self._lock = threading.Lock()

    def __call__(self, stretch: Stretch) -> None:
        """Ask for what comes after the start of `stretch`, and let go of what is behind; at most a few chunks a call.

        In a full shuffle, whose next rows may be anywhere, for the rows of `stretch` itself: together, where they would
        be read one after the other as they are touched.
        """
        if self._order.kind == permute.FULL:
            with suppress(MinibatchError, OSError):  # damage is told to whoever needs the rows
                if self._exceeds:
                    self._ask_for_rows(stretch)
                elif self._fits and stretch.length == stretch.stride and self._asked < self._units:
                    self._bring_in()
            return
        sweep, place = divmod(stretch.start, self._order.rows)
        unit = sweep * self._units + place // self._rows
        window = sweep * self._units + place // self._rows // self._window * self._window
        coming = unit + 1 + self._window
        if self._budget <= 0 or coming <= self._asked <= coming + self._window:
            return  # most calls; with several threads a block may come after the one behind it
        if not self._lock.acquire(blocking=False):
            return  # another thread is at it
        try:
            with suppress(MinibatchError, OSError):
                self._move(window, coming)
        finally:
            self._lock.release()

    def _ask_for_rows(self, stretch: Stretch) -> None:
        rows = np.empty(stretch.samples, np.int64)
        runs = (stretch.start, stretch.length, stretch.stride, stretch.count)
        permute.rows_of_stretch(*self._order.parameters, *runs, rows)
        for place in self._places:
            place.chunks.ask_for_rows(rows if place.picked is None else place.picked[rows], place.names)

    def _bring_in(self) -> None:
        """The next units of those that a full shuffle will have touched soon: in one go that costs less."""
        limit = time.monotonic() + BRING_IN_SECONDS
        while self._asked < self._units and time.monotonic() < limit:
            unit, self._asked = self._asked, self._asked + 1
            for place, chunks in self._chunks_of(unit):
                place.chunks.bring_in(chunks, place.names)

    def _move(self, window: int, coming: int) -> None:
        """Ask for units below `coming`, in which the unit after the next window is; let go of those below `window`."""
        behind = range(self._behind, window)
        if not window <= self._asked <= coming:  # the beginning, or a jump
            behind = range(self._behind, self._asked)
            self._asked = self._behind = window
        self._behind = max(window, self._behind)
        asked = range(self._asked, min(coming, self._asked + self._at_once))
        self._asked = asked.stop
        self._budget -= len(asked)
        for unit in asked:
            for place, chunks in self._chunks_of(unit):
                place.chunks.ask_for(chunks, place.names)
        if not self._fits:
            for unit in behind:
                for place, chunks in self._chunks_of(unit):
                    place.chunks.let_go(chunks, place.names)

    def _chunks_of(self, unit: int) -> list[tuple[Place, list[int]]]:
        sweep, slot = divmod(unit, self._units)
        chunk = np.array([slot], np.int64)
        if self._order.kind == permute.WINDOWED:
            key = np.uint64(permute.absorb(self._order.parameters[4], np.uint64(sweep)))
            permute.permute_points(self._units, key, chunk, chunk)
        start = int(chunk[0]) * self._rows
        stop = min(start + self._rows, self._order.rows)
        return [(place, place.chunks_of(start, stop)) for place in self._places]
