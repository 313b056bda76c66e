"""Reading ahead: stretches of the axis are gathered by a background thread before they are asked for.

What a minibatch holds never depends on any of this. Blocks are of a fixed number of bytes, whatever the minibatch size,
because a hand-over between threads costs as much as gathering a small minibatch (33 µs, measured 2026-11); they end
on a border of minibatches where the size stays the same, so that only a change of size makes a copy.
"""

import os
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from minibatch.fetch import Block, join
from minibatch.timeline import Stretch

BLOCK_BYTES = 8 << 20
BLOCKS_AHEAD = 2


class ReadAhead:
    """Gives any interval of the axis as a block, and keeps the next blocks coming while reading is sequential.

    `fetch` gathers a stretch and is called from a background thread; `end` is the nominal time at which the axis ends.
    """

    def __init__(self, fetch: Callable[[Stretch], Block], sample_bytes: int, end: int) -> None:
        self._fetch = fetch
        self._sample_bytes = max(1, sample_bytes)
        self._end = end
        self._executor: ThreadPoolExecutor | None = None
        self.forget()
        LIVE.add(self)

    def forget(self) -> None:
        """Drop all blocks: after a jump, and in a forked child, where the thread is gone."""
        self._block: Block | None = None
        self._ahead: deque[tuple[Stretch, Future[Block]]] = deque()
        self._expected = -1  # where the next interval starts if reading goes on as it did
        self._planned = -1  # up to where blocks have been asked for
        self._runs = 1

    def read(self, start: int, length: int, stride: int) -> tuple[Block, int, int]:
        """A block and the bounds [lo, hi) in it that hold the samples at nominal times [start, start + length).

        `stride` says where the next such interval would begin: at start + stride.
        """
        block = self._block
        bounds = block.bounds(start, length) if block is not None else None
        if bounds is None or block is None:
            block, bounds = self._gather(start, length)
        if start == self._expected and length > 0:
            self._plan(start + stride, length, stride)
        self._expected = start + stride
        return block, *bounds

    def close(self) -> None:
        """Stop the thread; what callers hold stays valid."""
        executor, self._executor = self._executor, None
        self.forget()
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)

    def after_fork(self) -> None:
        """In a forked child the thread does not exist: begin anew."""
        self._executor = None
        self.forget()

    def _gather(self, start: int, length: int) -> tuple[Block, tuple[int, int]]:
        """The interval from blocks read ahead, or fetched now; joined where it crosses a border."""
        parts: list[Block] = []
        at, left = start, length
        while True:
            block = self._block_with(at)
            if block is None:
                block = self._fetch(Stretch(start=at, length=left, stride=max(1, left), count=1))
                take = left
            else:
                within = (at - block.stretch.start) % block.stretch.stride
                take = min(left, block.stretch.length - within)
            bounds = block.bounds(at, take)
            if bounds is None:
                raise AssertionError(f"a block {block.stretch} that should hold {take} samples from {at} does not")
            if take == length:
                return block, bounds
            parts.append(block.part(*bounds))
            at, left = at + take, left - take
            if left == 0:
                joined = join(parts, Stretch(start=start, length=length, stride=length, count=1))
                return joined, (0, len(joined.rows))

    def _block_with(self, time: int) -> Block | None:
        """The block that holds nominal time `time`, waited for if it is on its way; None if nothing holds it."""
        if self._block is not None and self._block.stretch.find(time, 1) is not None:
            return self._block
        while self._ahead:
            stretch, coming = self._ahead[0]
            if stretch.find(time, 1) is not None:
                self._block = coming.result()
                self._ahead.popleft()
                return self._block
            if time < stretch.start:
                break
            self._ahead.popleft()
        self._ahead.clear()
        self._planned = -1
        return None

    def _plan(self, start: int, length: int, stride: int) -> None:
        """Ask for the blocks that hold the intervals from `start` on, `length` long, one every `stride`."""
        if self._ahead:
            last = self._ahead[-1][0]
            if length != stride and (last.length, last.stride) != (length, stride):
                self._ahead.clear()  # another rank's parts, or other sizes: what was read ahead is of no use
                self._planned = -1
        held = self._block.stretch if self._block is not None else None
        if self._planned < start:
            self._planned = start
            while held is not None and held.find(self._planned, length) is not None:
                self._planned += stride
        most = max(1, BLOCK_BYTES // (length * self._sample_bytes))
        while len(self._ahead) < BLOCKS_AHEAD:
            runs = min(self._runs, most, (self._end - self._planned) // stride)
            if runs < 1:
                return
            self._runs = min(most, self._runs * 4)  # the first blocks are small, so that nobody waits long for them
            if length == stride:
                ahead = Stretch(start=self._planned, length=runs * length, stride=runs * length, count=1)
            else:
                ahead = Stretch(start=self._planned, length=length, stride=stride, count=runs)
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, "minibatch-reader")
            self._ahead.append((ahead, self._executor.submit(self._fetch, ahead)))
            self._planned += runs * stride


LIVE: "weakref.WeakSet[ReadAhead]" = weakref.WeakSet()


def _begin_anew_in_child() -> None:
    for reader in list(LIVE):
        reader.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_child)
