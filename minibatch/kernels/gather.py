"""Rows from mapped Arrow buffers into an output buffer: one pass, no Python, any order of rows.

A data set is a list of chunks; `starts` (chunks + 1,) has the first row of each. Every kernel takes `rows` (n,) and
the chunk of each (n,), found once by `locate`, and for each chunk the address of its first row. Callers have checked
that the addresses hold all rows of their chunks (`minibatch.columns`) and `locate` has checked the rows: nothing is
checked again.
"""

import numpy as np
from numpy.typing import NDArray

from minibatch.kernels import permute
from minibatch.kernels.compile import copy_bytes, kernel, load_uint8, prefetch

CACHE_LINE = 64
AHEAD_BYTES = 4096  # how far ahead rows are asked for; between 2 and 8 KiB the gather was fastest on EPYC, 2026-11
PREFETCH_LINES = 16  # of a row: beyond about 1 KiB the processor's own prefetcher follows


@kernel
def locate(
    rows: NDArray[np.int64], starts: NDArray[np.int64], guess: NDArray[np.int32], shift: int, chunks: NDArray[np.int32]
) -> int:
    """Write the chunk of each row to `chunks` (n,); return -1, or the index of the first row that does not exist.

    `guess[row >> shift]` is the chunk of the first row of that bucket (one entry more than buckets): a chunk is found
    by bisection between two neighbouring guesses, which for chunks of about equal size are mostly the same.
    """
    total = starts[starts.shape[0] - 1]
    for i in range(rows.shape[0]):
        row = rows[i]
        if row < 0 or row >= total:
            return i
        lo = guess[row >> shift]
        hi = guess[(row >> shift) + 1]
        while lo < hi:  # the last chunk whose start is ≤ row
            middle = (lo + hi + 1) // 2
            if starts[middle] <= row:
                lo = middle
            else:
                hi = middle - 1
        chunks[i] = lo
    return -1


@kernel
def gather_fixed(
    rows: NDArray[np.int64],
    chunks: NDArray[np.int32],
    starts: NDArray[np.int64],
    addresses: NDArray[np.uint64],
    row_bytes: int,
    out: np.uint64,
) -> None:
    """Copy rows of `row_bytes` bytes each to address `out`, one behind the other."""
    size = np.uint64(row_bytes)
    ahead = max(2, min(64, AHEAD_BYTES // max(1, row_bytes)))
    lines = min(PREFETCH_LINES, (row_bytes + CACHE_LINE - 1) // CACHE_LINE)
    count = rows.shape[0]
    for i in range(count):
        if i + ahead < count:
            chunk = chunks[i + ahead]
            coming = addresses[chunk] + np.uint64(rows[i + ahead] - starts[chunk]) * size
            for line in range(lines):
                prefetch(coming + np.uint64(line * CACHE_LINE))
        chunk = chunks[i]
        source = addresses[chunk] + np.uint64(rows[i] - starts[chunk]) * size
        target = out + np.uint64(i) * size
        # Constant sizes become one or two instructions; a call of memcpy costs more than a small row.
        if row_bytes == 8:
            copy_bytes(target, source, 8)
        elif row_bytes == 4:
            copy_bytes(target, source, 4)
        elif row_bytes == 1:
            copy_bytes(target, source, 1)
        else:
            copy_bytes(target, source, row_bytes)


@kernel
def gather_fields(
    rows: NDArray[np.int64],
    chunks: NDArray[np.int32],
    starts: NDArray[np.int64],
    addresses: NDArray[np.uint64],
    which: NDArray[np.int64],
    row_bytes: NDArray[np.int64],
    outs: NDArray[np.uint64],
) -> None:
    """`gather_fixed` for several fields: `which` (m,) picks rows of `addresses` (fields, chunks), `outs` (m,) says
    where each goes."""
    for i in range(which.shape[0]):
        gather_fixed(rows, chunks, starts, addresses[which[i]], row_bytes[i], outs[i])


@kernel
def fetch(
    kind: int,
    n: int,
    chunk_rows: int,
    window_chunks: int,
    first_key: np.uint64,
    second_key: np.uint64,
    start: int,
    length: int,
    stride: int,
    count: int,
    starts: NDArray[np.int64],
    guess: NDArray[np.int32],
    shift: int,
    mapped: NDArray[np.bool_],
    addresses: NDArray[np.uint64],
    which: NDArray[np.int64],
    row_bytes: NDArray[np.int64],
    outs: NDArray[np.uint64],
    rows: NDArray[np.int64],
    chunks: NDArray[np.int32],
) -> bool:
    """A whole block in one call: `rows_of_stretch`, `locate`, `gather_fields`, writing `rows`, `chunks` and `outs`.

    One call, because a thread that comes back to Python between two kernels waits for the trainer's thread to let go of
    the GIL, which costs more than the kernels (measured 2026-11: half the throughput). False, with only `rows` and
    `chunks` written, if a row lies in a chunk that is not mapped yet.
    """
    permute.rows_of_stretch(
        kind, n, chunk_rows, window_chunks, first_key, second_key, start, length, stride, count, rows
    )
    locate(rows, starts, guess, shift, chunks)
    for i in range(rows.shape[0]):
        if not mapped[chunks[i]]:
            return False
    gather_fields(rows, chunks, starts, addresses, which, row_bytes, outs)
    return True


@kernel
def gather_bits(
    rows: NDArray[np.int64],
    chunks: NDArray[np.int32],
    starts: NDArray[np.int64],
    addresses: NDArray[np.uint64],
    first_bits: NDArray[np.int64],
    row_size: int,
    out: NDArray[np.uint8],
) -> None:
    """Unpack rows of `row_size` bits each to `out` (n * row_size,), one byte per bit."""
    for i in range(rows.shape[0]):
        chunk = chunks[i]
        first = first_bits[chunk] + (rows[i] - starts[chunk]) * row_size
        for j in range(row_size):
            bit = first + j
            byte = load_uint8(addresses[chunk] + np.uint64(bit >> 3))
            out[i * row_size + j] = (byte >> np.uint8(bit & 7)) & np.uint8(1)
