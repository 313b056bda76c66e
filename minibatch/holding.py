"""What kernels read by address, held in memory: mapped shards and decoded chunks, of which the oldest are let go.

Linux gives a process 65,530 mappings, and decoded chunks cost memory of their own: so a data set of many shards is not
held as a whole. Kernels have addresses and no references. Therefore what is let go while a thread is reading stays in
memory until that thread has finished; it costs a reader nothing but to say when it begins and ends.
"""

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_HELD = 16_384  # a quarter of the mappings that Linux grants: the rest is for other data sets and for allocators
MOST_NEW = 512  # that one reading may add, as none of them can be let go before it ends

Key = tuple[str, int]  # a kind of thing, and which of them


@dataclass(frozen=True, slots=True)
class Held:
    """Something in memory, its bytes beyond the page cache, and the chunks that are readable while it is there."""

    value: Any
    size: int
    chunks: slice


class Holding:
    """Things held for the chunks of one data set; `mapped`, bool (chunks,), is true for those that may be read.

    Beyond `MOST_HELD` things, or `most_bytes` of memory, the oldest go; data sets share both bounds equally. The oldest
    and not the least recently used: an order that moves by windows comes back to a chunk a sweep later, and a full one
    to all alike, so it is not worth writing down every use.

    Whoever calls the others holds `lock`; `reading` needs none.
    """

    def __init__(self, mapped: NDArray[np.bool_], most_bytes: int) -> None:
        self._mapped = mapped
        self._most_bytes = most_bytes
        self._held: OrderedDict[Key, Held] = OrderedDict()
        self._bytes = 0
        self._inside: dict[int, list[Any]] = {}
        self.lock = threading.Lock()
        ALL.add(self)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """In this context all that `mapped` says may be read, from first to last."""
        kept: list[Any] = []
        self._inside[id(kept)] = kept
        try:
            yield
        finally:
            self._inside.pop(id(kept), None)

    def get(self, key: Key) -> Any:
        """What is held as `key`, or None."""
        held = self._held.get(key)
        return None if held is None else held.value

    def of(self, kind: str) -> list[Any]:
        """All that is held of a kind."""
        return [held.value for (found, _), held in self._held.items() if found == kind]

    @property
    def room(self) -> int:
        """How many bytes of decoded chunks may be held for this data set."""
        return self._most_bytes // max(1, len(ALL))

    def hold(self, key: Key, value: Any, chunks: slice, size: int = 0) -> None:
        """Hold `value`, which makes `chunks` readable, and let go of the oldest that is too much."""
        if key in self._held:
            self._let_go(key)
        self._held[key] = Held(value, size, chunks)
        self._bytes += size
        self._mapped[chunks] = True
        others = max(1, len(ALL))
        while len(self._held) > 1 and (len(self._held) > MOST_HELD // others or self._bytes > self.room):
            self._let_go(next(iter(self._held)))

    def clear(self) -> None:
        """Let go of everything."""
        for key in list(self._held):
            self._let_go(key)

    def _let_go(self, key: Key) -> None:
        held = self._held.pop(key)
        self._bytes -= held.size
        self._mapped[held.chunks] = False  # first: who begins to read from now on does not find it
        for kept in list(self._inside.values()):  # one step of the interpreter: no reader comes or goes meanwhile
            kept.append(held.value)

    def __len__(self) -> int:
        return len(self._held)

    def after_fork(self) -> None:
        """In the child, where the threads that were reading or had the lock do not exist."""
        self._inside.clear()
        self.lock = threading.Lock()


ALL: "weakref.WeakSet[Holding]" = weakref.WeakSet()


def _after_fork() -> None:
    for holding in list(ALL):
        holding.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
