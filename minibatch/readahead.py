"""Reading ahead: stretches of the axis are gathered by a background thread before they are asked for.

What a minibatch holds never depends on any of this. Blocks are of a fixed number of bytes, whatever the minibatch size,
because a hand-over between threads costs as much as gathering a small minibatch (33 µs, measured 2026-11); they end
on a border of minibatches where the size stays the same, so that only a change of size makes a copy.
"""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from minibatch.fetch import Block, join
from minibatch.timeline import Stretch

BLOCK_BYTES = 4 << 20  # three of them stay in the cache; 2 and 8 MiB were slower (EPYC, 2026-11)
BLOCKS_AHEAD = 2
FORK_SECONDS = 5.0  # a fork waits so long for blocks on their way: many times what a block takes


class ReadAhead:
    """Gives any interval of the axis as a block, and keeps the next blocks coming while reading is sequential.

    `fetch` gathers a stretch and is called from `threads` background threads, each time after `prepare`; `end` is the
    time at which the axis ends.
    """

    def __init__(
        self,
        fetch: Callable[[Stretch], Block],
        sample_bytes: int,
        end: int,
        threads: int = 1,
        prepare: Callable[[Stretch], None] | None = None,
    ) -> None:
        self._fetch = fetch
        self._prepare = prepare
        self._sample_bytes = max(1, sample_bytes)
        self._end = end
        self._threads = threads
        self._executor: ThreadPoolExecutor | None = None
        self._name = f"minibatch-reader-{id(self):x}-"  # of its threads
        self._ahead: deque[tuple[Stretch, Future[Block]]] = deque()
        self.lock = threading.RLock()  # held by whoever calls the methods below
        self.forget()
        LIVE[id(self)] = self

    def forget(self) -> None:
        """Drop all blocks: after a jump, or when somebody may have written into one that will be read again."""
        self._block: Block | None = None
        self._expected = -1  # where the next interval starts if reading goes on as it did
        self._drop_ahead()

    def _drop_ahead(self) -> None:
        while self._ahead:
            self._ahead.pop()[1].cancel()  # else what is of no use any more would delay what is
        self._planned = -1  # up to where blocks have been asked for
        self._shape: tuple[int, ...] = ()  # of the intervals they were asked for
        self._runs = 1

    def read(self, start: int, length: int, stride: int, *, gapless: bool = False) -> tuple[Block, int, int]:
        """A block and the bounds [lo, hi) in it that hold the samples at times [start, start + length).

        `stride` says where the next such interval would begin: at start + stride. With `gapless`, intervals are of
        changing lengths and may overlap, and what is between two starts is always wanted; without, an interval that
        is longer or shorter than its stride is one rank's part.
        """
        block = self._block
        bounds = block.bounds(start, length) if block is not None else None
        if bounds is None or block is None:
            block, bounds = self._gather(start, length)
        if start == self._expected and length > 0:
            self._plan(start + stride, stride if gapless else length, stride)
        self._expected = start + stride
        return block, *bounds

    def read_once(self, start: int, length: int) -> tuple[Block, int, int]:
        """Like `read`, for an interval that says nothing of the next one: nothing is read ahead for it."""
        block = self._block
        bounds = block.bounds(start, length) if block is not None else None
        if bounds is None or block is None:
            block, bounds = self._gather(start, length)
        return block, *bounds

    def close(self) -> None:
        """Stop the thread; what callers hold stays valid."""
        executor, self._executor = self._executor, None
        self.forget()
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)

    def before_fork(self) -> None:
        """Let the threads finish and end: what they hold at a fork (locks above all), they would hold in the child for
        ever. Not for ever, though: a transform may be waiting for the very thread that forks, or fork itself."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)
        limit = time.monotonic() + FORK_SECONDS
        for thread in threading.enumerate():
            if thread.name.startswith(self._name) and thread is not threading.current_thread():
                thread.join(max(0.0, limit - time.monotonic()))

    def after_fork(self) -> None:
        """In the child no other thread exists, and one of them may have been in here: begin anew."""
        self.lock = threading.RLock()
        self._executor = None
        self._ahead.clear()
        self.forget()

    def _gather(self, start: int, length: int) -> tuple[Block, tuple[int, int]]:
        """The interval from blocks read ahead, or fetched now; joined where it crosses a border."""
        parts: list[Block] = []
        at, left = start, length
        while True:
            block = self._block_with(at) if left else None
            if block is None:
                block = self._fetch(contiguous(at, left))
                self._learn(block)
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
                joined = join(parts, contiguous(start, length))
                return joined, (0, len(joined.rows))

    def _block_with(self, time: int) -> Block | None:
        """The block that holds nominal time `time`, waited for if it is on its way; None if nothing holds it.

        A block that could not be fetched counts as none: fetched alone, the interval asked for fails if it must, and
        not because of samples that nobody has asked for.
        """
        if self._block is not None and self._block.stretch.find(time, 1) is not None:
            return self._block
        while self._ahead:
            stretch, coming = self._ahead[0]
            if stretch.find(time, 1) is not None:
                if coming.exception() is not None:
                    break
                self._block = coming.result()
                self._ahead.popleft()
                self._learn(self._block)
                return self._block
            if time < stretch.start:
                break
            self._ahead.popleft()[1].cancel()
        self._drop_ahead()
        return None

    def _learn(self, block: Block) -> None:
        """Take from a block how large samples are, where only blocks tell: of decoded images, of lists."""
        if block.varies and len(block.rows):
            self._sample_bytes = max(1, block.sample_bytes)

    def _plan(self, start: int, length: int, stride: int) -> None:
        """Ask for the blocks that hold the intervals from `start` on, `length` long, one every `stride`."""
        shape = () if length == stride else (length, stride, start % stride)
        if shape != self._shape:
            self._drop_ahead()  # another rank's parts, or parts of other sizes: what was read ahead is of no use
            self._shape = shape
        if self._planned < start:
            held = self._block.stretch.intervals(start, length, stride) if self._block is not None else 0
            self._planned = start + held * stride
        most = max(1, BLOCK_BYTES // (length * self._sample_bytes))
        while len(self._ahead) < BLOCKS_AHEAD + self._threads - 1:
            runs = min(self._runs, most, (self._end - self._planned) // stride)
            if runs < 1:
                return
            after = self._planned + runs * stride
            ahead = Stretch(start=self._planned, length=length, stride=stride, count=runs)
            if length == stride:
                after -= (after - start) % stride  # the last block planned for another size may end off the borders
                ahead = contiguous(self._planned, after - self._planned)
            coming = self._submit(ahead)
            if coming is None:
                return
            self._runs = min(most, runs * 4)  # the first blocks are small, so that nobody waits long for them
            self._ahead.append((ahead, coming))
            self._planned = after

    def _submit(self, stretch: Stretch) -> "Future[Block] | None":
        """The block of `stretch` on its way; None where no thread can be had: nothing is then read ahead."""
        executor = self._executor or ThreadPoolExecutor(self._threads, self._name)
        try:
            coming = executor.submit(prepared, self._prepare, self._fetch, stretch)
        except RuntimeError:  # the interpreter is ending, the system has no thread left, or another thread is forking
            self._executor = None
            return None
        self._executor = executor
        return coming


def prepared(prepare: Callable[[Stretch], None] | None, fetch: Callable[[Stretch], Block], stretch: Stretch) -> Block:
    """The block of `stretch`, after what there is to prepare."""
    if prepare is not None:
        prepare(stretch)
    return fetch(stretch)


def contiguous(start: int, length: int) -> Stretch:
    """The nominal times [start, start + length)."""
    return Stretch(start=start, length=length, stride=max(1, length), count=1)


LIVE: "weakref.WeakValueDictionary[int, ReadAhead]" = weakref.WeakValueDictionary()


def _before_fork() -> None:
    for reference in LIVE.valuerefs():  # a list, where iterating could meet a reader that another thread makes
        if (reader := reference()) is not None:
            reader.before_fork()


def _after_fork() -> None:
    for reader in list(LIVE.values()):
        reader.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
