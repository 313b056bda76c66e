"""`kernels.gather` moves exactly the rows asked for, from any addresses, and not a byte beside them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch.kernels import gather
from tests.guarded import assert_guards, guarded, located, starts_of, unaligned
from tests.plain import gather as plain

chunk_sizes = st.lists(st.integers(1, 9), min_size=1, max_size=12)


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
