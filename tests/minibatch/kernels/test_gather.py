"""`kernels.gather` moves exactly the rows asked for, from any addresses, and not a byte beside them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from minibatch.kernels import gather
from tests.plain import gather as plain

GUARD = 0xA5
chunk_sizes = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def starts_of(chunk_rows: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(chunk_rows)]).astype(np.int64)


def located(rows: list[int], chunk_rows: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """The three arguments that every gather begins with."""
    chunks = np.array([plain.locate(row, chunk_rows)[0] for row in rows], np.int32)
    return np.array(rows, np.int64), chunks, starts_of(chunk_rows)


def guarded(size: int, lead: int = 3) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Memory of `size` bytes at an odd address, and the larger memory around it."""
    around = np.full(lead + size + 64, GUARD, np.uint8)
    return around[lead : lead + size], around


def assert_guards(around: NDArray[np.uint8], size: int, lead: int = 3) -> None:
    assert (around[:lead] == GUARD).all()
    assert (around[lead + size :] == GUARD).all()


def unaligned(content: NDArray[Any], lead: int) -> tuple[np.uint64, NDArray[np.uint8]]:
    """The address of a copy of `content` that begins `lead` bytes into an array, and that array."""
    flat = np.ascontiguousarray(content).reshape(-1).view(np.uint8)
    memory = np.full(lead + flat.size + 1, GUARD, np.uint8)
    memory[lead : lead + flat.size] = flat
    return np.uint64(memory.ctypes.data + lead), memory


@given(st.data(), chunk_sizes, st.integers(0, 6))
def test_locate_finds_the_chunk_of_every_row(data, chunk_rows, shift):
    total = sum(chunk_rows)
    rows = [*data.draw(st.lists(st.integers(0, total - 1), max_size=40)), 0, total - 1]
    guess = np.array(plain.guesses(chunk_rows, shift), np.int32)
    chunks = np.full(len(rows), -7, np.int32)
    assert gather.locate(np.array(rows), starts_of(chunk_rows), guess, shift, chunks) == -1
    assert chunks.tolist() == [plain.locate(row, chunk_rows)[0] for row in rows]


@given(chunk_sizes, st.integers(0, 6), st.sampled_from([-1, -(2**63), 0, 1, 2**62]))
def test_locate_stops_at_the_first_row_that_does_not_exist(chunk_rows, shift, beyond):
    total = sum(chunk_rows)
    bad = beyond if beyond < 0 else total + beyond
    guess = np.array(plain.guesses(chunk_rows, shift), np.int32)
    chunks = np.full(4, -7, np.int32)
    assert gather.locate(np.array([0, total - 1, bad, bad]), starts_of(chunk_rows), guess, shift, chunks) == 2
    assert chunks[2:].tolist() == [-7, -7]


def test_locate_in_nothing_finds_nothing():
    empty, guess = np.zeros(0, np.int64), np.array([-1, -1], np.int32)
    assert gather.locate(empty, np.zeros(1, np.int64), guess, 0, np.zeros(0, np.int32)) == -1
    assert gather.locate(np.array([0]), np.zeros(1, np.int64), guess, 0, np.zeros(1, np.int32)) == 0


ROW_BYTES = (1, 2, 3, 4, 5, 7, 8, 9, 16, 63, 64, 65, 127, 128, 129, 784, 1024, 1100, 2048, 4096, 5000)


@pytest.mark.parametrize("row_bytes", ROW_BYTES)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 65, 200])
def test_rows_of_any_size_are_copied_whole(row_bytes, count):
    """Sizes on both sides of every branch, counts on both sides of how far ahead rows are asked for."""
    draw = np.random.default_rng([row_bytes, count])
    chunk_rows = [5, 1, 17, 40, 2]
    chunks = [draw.integers(0, 256, (rows, row_bytes), np.uint8) for rows in chunk_rows]
    memory = [unaligned(chunk, lead) for lead, chunk in enumerate(chunks)]
    rows = draw.integers(0, sum(chunk_rows), count).tolist()
    out, around = guarded(count * row_bytes)
    addresses = np.array([address for address, _ in memory], np.uint64)
    gather.gather_fixed(*located(rows, chunk_rows), addresses, row_bytes, np.uint64(out.ctypes.data))
    assert_guards(around, out.size)
    wanted = np.array(plain.gather(rows, chunks), np.uint8).reshape(count, row_bytes)
    assert np.array_equal(out.reshape(count, row_bytes), wanted)


@given(st.data(), chunk_sizes, st.integers(0, 19), st.integers(0, 2**32 - 1))
def test_bits_are_unpacked_from_any_bit_onward(data, chunk_rows, row_size, seed):
    draw = np.random.default_rng(seed)
    firsts = data.draw(st.lists(st.integers(0, 17), min_size=len(chunk_rows), max_size=len(chunk_rows)))
    rows = data.draw(st.lists(st.integers(0, sum(chunk_rows) - 1), max_size=30))
    chunks = [draw.random((size, row_size)) < 0.5 for size in chunk_rows]
    memory = [unaligned(plain.pack_bits(chunk, first), 1) for chunk, first in zip(chunks, firsts, strict=True)]
    addresses = np.array([address for address, _ in memory], np.uint64)
    out, around = guarded(len(rows) * row_size)
    gather.gather_bits(*located(rows, chunk_rows), addresses, np.array(firsts, np.int64), row_size, out)
    assert_guards(around, out.size)
    wanted = np.array(plain.gather(rows, chunks), bool).reshape(len(rows), row_size)
    assert np.array_equal(out.reshape(len(rows), row_size), wanted)


@given(st.data(), st.lists(st.lists(st.binary(max_size=12), min_size=1, max_size=6), min_size=1, max_size=6))
def test_values_of_varying_length_are_copied_one_behind_the_other(data, chunks):
    """Chunks with offsets of 4 and of 8 bytes side by side, at odd addresses, that need not begin at 0."""
    sizes = [len(chunk) for chunk in chunks]
    rows = data.draw(st.lists(st.integers(0, sum(sizes) - 1), max_size=30))
    addresses, offset_addresses, widths, kept = [], [], [], []
    for number, chunk in enumerate(chunks):
        before = number % 3 * 5  # bytes of data that belong to rows sliced off in front
        marks = before + np.concatenate([[0], np.cumsum([len(value) for value in chunk])])
        width = data.draw(st.sampled_from([4, 8]))
        content = np.frombuffer(bytes([GUARD]) * before + b"".join(chunk), np.uint8)
        for store, array in ((addresses, content), (offset_addresses, marks.astype(f"<i{width}"))):
            address, memory = unaligned(array, 1 + number % 4)
            store.append(address)
            kept.append(memory)
        widths.append(width)
    common = located(rows, sizes)
    offsets_at, offset_bytes = np.array(offset_addresses, np.uint64), np.array(widths, np.int64)
    offsets = np.full(len(rows) + 1, -7, np.int64)
    gather.gather_lengths(*common, offsets_at, offset_bytes, offsets)
    wanted = plain.gather(rows, chunks)
    assert offsets.tolist() == np.concatenate([[0], np.cumsum([len(value) for value in wanted])]).tolist()

    out, around = guarded(int(offsets[-1]))
    target = np.uint64(out.ctypes.data)
    gather.gather_bytes(*common, offsets_at, offset_bytes, np.array(addresses, np.uint64), offsets, target)
    assert_guards(around, out.size)
    assert out.tobytes() == b"".join(wanted)


def test_an_offset_of_eight_bytes_may_exceed_what_four_can_say():
    for value, width in ((2**31 - 1, 4), (2**40 + 3, 8)):
        address, memory = unaligned(np.array([0, value], f"<i{width}"), 1)
        assert gather.offset_at(address, 1, width) == value
        assert memory[0] == GUARD
