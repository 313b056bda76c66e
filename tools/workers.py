"""The pieces of a source in order, its units read by several processes where that pays.

Unit number i is read by worker i modulo their number, and the pieces are given in the order of the units: what comes
out depends on neither the number of workers nor on timing. Memory is bounded: a worker that is `AHEAD_PIECES` ahead of
the reader of its pieces waits. Workers begin only after the first `START_SECONDS` of reading, so that small sources
never pay for them.

A worker ends when the other end of its connection closes, whatever closed it: the end of the units, an exception,
Ctrl-C (which only the main process hears) or the death of the main process. It imports what its units need, no more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterator
from multiprocessing.connection import Connection
from typing import Any

from minibatch.tools.sources import BadRecord, Piece, Source, Unit, units_of

START_SECONDS = 1.0  # about what the start of a worker costs
AHEAD_PIECES = 4  # by taste; with the ones being read and sent a worker holds about 50 MiB
UNITS_AHEAD = 2  # per worker: the one it reads and the one after
END_SECONDS = 5.0  # how long a worker may take to notice that its connection is closed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delivery:
    """What comes from unit number `unit`: its next piece (None: nothing more), and the bad records before it."""

    unit: int
    piece: Piece | None
    bad: tuple[BadRecord, ...] = ()


_noticed: list[BadRecord] = []


def notice(record: BadRecord) -> None:
    """An `Options.bad` that passes records over; they are delivered with the next piece of the unit.

    A function, so that sources which hold it can be sent to other processes.
    """
    _noticed.append(record)


def noticed() -> tuple[BadRecord, ...]:
    """The bad records that this process has noticed since the last call."""
    found = tuple(_noticed)
    _noticed.clear()
    return found


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_unit(number: int, unit: Unit) -> Iterator[Delivery]:
    """Everything that comes from a unit; of an error, what had been noticed before it comes first."""
    try:
        for piece in unit.batches():
            yield Delivery(unit=number, piece=piece, bad=noticed())
    except Exception:
        yield Delivery(unit=number, piece={}, bad=noticed())
        raise
    yield Delivery(unit=number, piece=None, bad=noticed())


def read_source(source: Source, workers: int, first_unit: int = 0) -> Generator[Delivery, None, None]:
    """Everything that comes from the units of `source` from number `first_unit` on, read by up to `workers` processes.

    With one worker, or while little has been read, this process reads. Raises what reading a unit raises, when its
    turn comes, and `ChildProcessError` if a worker dies. Close the iterator (`contextlib.closing`) to end the workers.
    """
    units = itertools.islice(enumerate(units_of(source)), first_unit, None)
    begin = time.monotonic()
    for number, unit in units:
        ahead = None
        with contextlib.ExitStack() as stack:
            for delivery in read_unit(number, unit):
                if ahead is None and workers > 1 and time.monotonic() - begin >= START_SECONDS:
                    ahead = stack.enter_context(contextlib.closing(start_workers(units, workers)))
                    next(ahead)
                yield delivery
            if ahead is not None:
                yield from (delivery for delivery in ahead if delivery is not None)


def start_workers(units: Iterator[tuple[int, Unit]], workers: int) -> Generator[Delivery | None, None, None]:
    """First None, once as many workers as there is work for have begun; then what comes from `units`, in order."""
    first = list(itertools.islice(units, workers))
    units = itertools.chain(first, units)
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(worker(number)) for number in range(len(first))]
        turns = itertools.cycle(started)
        sent: deque[tuple[int, Worker]] = deque()

        def send(count: int) -> None:
            for (number, unit), reader in zip(itertools.islice(units, count), turns):  # noqa: B905  (turns never end)
                reader.send(number, unit)
                sent.append((number, reader))

        send(UNITS_AHEAD * len(started))
        yield None
        while sent:
            number, reader = sent.popleft()
            while True:
                delivery = reader.receive(number)
                yield delivery
                if delivery.piece is None:
                    break
            send(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker:
    """A process that reads units, as the main process sees it."""

    process: Any
    connection: Connection

    def send(self, number: int, unit: Unit) -> None:
        """Give the worker its next unit."""
        try:
            self.connection.send((number, unit))
        except (BrokenPipeError, ConnectionResetError):
            raise self._died(number) from None

    def receive(self, number: int) -> Delivery:
        """The next delivery, which is of unit `number`; raises what reading it raised."""
        try:
            delivery = pickle.loads(self.connection.recv_bytes())
        except (EOFError, ConnectionResetError):
            raise self._died(number) from None
        if isinstance(delivery, BaseException):
            raise delivery
        assert isinstance(delivery, Delivery)
        return delivery

    def _died(self, number: int) -> ChildProcessError:
        self.process.join(END_SECONDS)
        return ChildProcessError(
            f"a worker died (exit code {self.process.exitcode}) while it read part {number + 1} of the source: if "
            "memory ran out, use fewer --workers; --workers 1 reads everything in one process"
        )


@contextlib.contextmanager
def worker(number: int) -> Iterator[Worker]:
    """A worker process, ended at the end of the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), name=f"convert-{number}", daemon=True)
    with without_interrupt():
        process.start()
    theirs.close()
    try:
        yield Worker(process=process, connection=ours)
    finally:
        ours.close()
        process.join(END_SECONDS)
        if process.is_alive():  # in foreign code that lets no other thread run
            process.kill()
            process.join()
        process.close()


@contextlib.contextmanager
def without_interrupt() -> Iterator[None]:
    """Processes started in the block never hear Ctrl-C; this one hears it behind the block."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(connection: Connection) -> None:
    """What a worker does: read the units that come, send what comes from them, until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_to_one_thread()
    units: queue.SimpleQueue[Any] = queue.SimpleQueue()
    ready: queue.Queue[bytes] = queue.Queue(AHEAD_PIECES)
    threading.Thread(target=receive_units, args=(connection, units), daemon=True).start()
    threading.Thread(target=send_ready, args=(connection, ready), daemon=True).start()
    while True:
        try:
            number, unit = pickle.loads(units.get())
            for delivery in read_unit(number, unit):
                ready.put(pickle.dumps(delivery, pickle.HIGHEST_PROTOCOL))
        except Exception as error:
            ready.put(sendable(error))


def receive_units(connection: Connection, units: queue.SimpleQueue[Any]) -> None:
    """Take the units at once, so that the other side never waits to send one; end this process where it closes."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            units.put(connection.recv_bytes())
    os._exit(0)


def send_ready(connection: Connection, ready: queue.Queue[bytes]) -> None:
    """Send what is ready, while the next is being read."""
    with contextlib.suppress(OSError):
        while True:
            connection.send_bytes(ready.get())
    os._exit(0)


def sendable(error: Exception) -> bytes:
    """The pickled error, with this process's traceback as a note; one that cannot be pickled becomes a RuntimeError."""
    error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
    try:
        content = pickle.dumps(error, pickle.HIGHEST_PROTOCOL)
        pickle.loads(content)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"), pickle.HIGHEST_PROTOCOL)
    return content


def keep_to_one_thread() -> None:
    """Let Arrow use one thread: the other cores have workers of their own."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
