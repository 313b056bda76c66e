"""Values of varying length from mapped Arrow buffers: lists of numbers or bits, text and bytes, lists of those.

A range is (chunk, begin, length) in elements of a level; a row of a list is one range of its elements, and the elements
of one range, if lists themselves, are again one range of theirs: so any depth is gathered by ranges. As in
`kernels.gather`, callers have checked rows, addresses and offsets: nothing is checked again.
"""

import numpy as np
from numpy.typing import NDArray

from minibatch.kernels.compile import copy_bytes, kernel, load_int32, load_int64, load_uint8, prefetch

CACHE_LINE = 64
OFFSETS_AHEAD = 32  # rows whose offsets are asked for ahead; 16 to 64 were equally fast (EPYC, 2026-11)
RANGES_AHEAD = 8
PREFETCH_LINES = 16


@kernel
def offset_at(address: np.uint64, index: int, offset_bytes: int) -> int:
    """Offset number `index` of an Arrow offsets buffer of 4- or 8-byte integers."""
    if offset_bytes == 4:
        return int(load_int32(address + np.uint64(index * 4)))
    return int(load_int64(address + np.uint64(index * 8)))


@kernel
def row_ranges(
    rows: NDArray[np.int64],
    chunks: NDArray[np.int32],
    starts: NDArray[np.int64],
    addresses: NDArray[np.uint64],
    offset_bytes: NDArray[np.int64],
    begins: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> None:
    """Write where the elements of each row begin to `begins` (n,), and their offsets once gathered to `offsets`
    (n + 1,): offsets[0] = 0, offsets[n] = elements in all."""
    count = rows.shape[0]
    offsets[0] = 0
    for i in range(count):
        if i + OFFSETS_AHEAD < count:
            chunk = chunks[i + OFFSETS_AHEAD]
            index = rows[i + OFFSETS_AHEAD] - starts[chunk]
            prefetch(addresses[chunk] + np.uint64(index * offset_bytes[chunk]))
        chunk = chunks[i]
        index = rows[i] - starts[chunk]
        begins[i] = offset_at(addresses[chunk], index, offset_bytes[chunk])
        offsets[i + 1] = offsets[i] + offset_at(addresses[chunk], index + 1, offset_bytes[chunk]) - begins[i]


@kernel
def inner_ranges(
    chunks: NDArray[np.int32],
    begins: NDArray[np.int64],
    outer: NDArray[np.int64],
    addresses: NDArray[np.uint64],
    offset_bytes: NDArray[np.int64],
    inner_begins: NDArray[np.int64],
    marks: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> None:
    """One level deeper: the lists number begins[i] … of each range, `outer` (n + 1,) saying how many there are.

    Writes to `inner_begins` (n,) where the elements of each range begin, to `marks` (n + 1,) their offsets by range,
    and to `offsets` (outer[n] + 1,) their offsets by list.
    """
    offsets[0] = 0
    marks[0] = 0
    for i in range(begins.shape[0]):
        address = addresses[chunks[i]]
        width = offset_bytes[chunks[i]]
        before = 0
        length = outer[i + 1] - outer[i]
        if length > 0:
            before = offset_at(address, begins[i], width)
        inner_begins[i] = before
        for j in range(length):
            offsets[outer[i] + j + 1] = marks[i] + offset_at(address, begins[i] + j + 1, width) - before
        marks[i + 1] = offsets[outer[i + 1]]


@kernel
def copy_ranges(
    chunks: NDArray[np.int32],
    begins: NDArray[np.int64],
    marks: NDArray[np.int64],
    addresses: NDArray[np.uint64],
    item_bytes: int,
    out: np.uint64,
) -> None:
    """Copy each range of items of `item_bytes` bytes to address `out`, end to end as `marks` (n + 1,) says."""
    size = np.uint64(item_bytes)
    count = begins.shape[0]
    for i in range(count):
        if i + RANGES_AHEAD < count:
            ahead = i + RANGES_AHEAD
            coming = addresses[chunks[ahead]] + np.uint64(begins[ahead]) * size
            lines = min(PREFETCH_LINES, (marks[ahead + 1] - marks[ahead]) * item_bytes // CACHE_LINE + 1)
            for line in range(lines):
                prefetch(coming + np.uint64(line * CACHE_LINE))
        source = addresses[chunks[i]] + np.uint64(begins[i]) * size
        copy_bytes(out + np.uint64(marks[i]) * size, source, (marks[i + 1] - marks[i]) * item_bytes)


@kernel
def gather_list(
    rows: NDArray[np.int64],
    chunks: NDArray[np.int32],
    starts: NDArray[np.int64],
    offset_addresses: NDArray[np.uint64],
    offset_bytes: NDArray[np.int64],
    addresses: NDArray[np.uint64],
    item_bytes: int,
    begins: NDArray[np.int64],
    offsets: NDArray[np.int64],
    room: int,
    out: np.uint64,
) -> bool:
    """`row_ranges`, and `copy_ranges` if the items fit into `room` of them at `out`: one call, as the thread that
    comes back to Python in between would wait for the GIL. False if they do not fit; only the offsets are then
    written."""
    row_ranges(rows, chunks, starts, offset_addresses, offset_bytes, begins, offsets)
    if offsets[rows.shape[0]] > room:
        return False
    copy_ranges(chunks, begins, offsets, addresses, item_bytes, out)
    return True


@kernel
def copy_bit_ranges(
    chunks: NDArray[np.int32],
    begins: NDArray[np.int64],
    marks: NDArray[np.int64],
    addresses: NDArray[np.uint64],
    first_bits: NDArray[np.int64],
    item_bits: int,
    out: NDArray[np.uint8],
) -> None:
    """`copy_ranges` for bit-packed items of `item_bits` bits: one byte per bit to `out`."""
    for i in range(begins.shape[0]):
        first = first_bits[chunks[i]] + begins[i] * item_bits
        target = marks[i] * item_bits
        for j in range((marks[i + 1] - marks[i]) * item_bits):
            bit = first + j
            byte = load_uint8(addresses[chunks[i]] + np.uint64(bit >> 3))
            out[target + j] = (byte >> np.uint8(bit & 7)) & np.uint8(1)


@kernel
def pad_rows(
    offsets: NDArray[np.int64], source: np.uint64, filler: np.uint64, item_bytes: int, width: int, out: np.uint64
) -> None:
    """Lay sequences of items of `item_bytes` bytes, end to end at address `source`, into rows of `width` items at
    `out`.

    Behind the end of a sequence the row is filled with copies of the item at address `filler`. Every sequence must fit.
    """
    size = np.uint64(item_bytes)
    for i in range(offsets.shape[0] - 1):
        length = offsets[i + 1] - offsets[i]
        row = out + np.uint64(i * width) * size
        copy_bytes(row, source + np.uint64(offsets[i]) * size, length * item_bytes)
        left = width - length
        if left > 0:
            behind = row + np.uint64(length) * size
            copy_bytes(behind, filler, item_bytes)
            done = 1  # the part that is filled doubles: few long copies instead of many short ones
            while done < left:
                more = min(done, left - done)
                copy_bytes(behind + np.uint64(done) * size, behind, more * item_bytes)
                done += more


@kernel
def row_lengths(
    rows: NDArray[np.int64],
    chunks: NDArray[np.int32],
    starts: NDArray[np.int64],
    addresses: NDArray[np.uint64],
    offset_bytes: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    """Raise each of `lengths` (n,) to the number of elements of its row, if that is more."""
    count = rows.shape[0]
    for i in range(count):
        if i + OFFSETS_AHEAD < count:
            chunk = chunks[i + OFFSETS_AHEAD]
            index = rows[i + OFFSETS_AHEAD] - starts[chunk]
            prefetch(addresses[chunk] + np.uint64(index * offset_bytes[chunk]))
        chunk = chunks[i]
        index = rows[i] - starts[chunk]
        width = offset_bytes[chunk]
        length = offset_at(addresses[chunk], index + 1, width) - offset_at(addresses[chunk], index, width)
        lengths[i] = max(lengths[i], length)
