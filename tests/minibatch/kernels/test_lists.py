"""`kernels.lists` gathers lists of any depth from any addresses, and writes not a byte beside them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from minibatch.kernels import lists
from tests.guarded import GUARD, assert_guards, guarded, located, unaligned
from tests.plain import gather as plain

rows_of_bytes = st.lists(st.binary(max_size=12), min_size=1, max_size=6)
rows_of_lists = st.lists(st.lists(st.binary(max_size=5), max_size=4), min_size=1, max_size=5)


class Stored:
    """Chunks of lists as Arrow stores them: offsets of 4 and of 8 bytes side by side, at odd addresses, that need not
    begin at 0; items of `item_bytes` bytes, or bits."""

    def __init__(self, data: Any, chunks: list[Any], depth: int, item_bytes: int = 1) -> None:
        self.kept: list[Any] = []
        self.addresses: list[list[np.uint64]] = [[] for _ in range(depth + 1)]
        self.widths: list[list[int]] = [[] for _ in range(depth)]
        for number, chunk in enumerate(chunks):
            rows = chunk
            for level in range(depth):
                values, marks = plain.laid_out(rows)
                before = data.draw(st.integers(0, 4))  # elements that belong to rows sliced off in front
                self.widths[level].append(data.draw(st.sampled_from([4, 8])))
                shifted = np.array(marks) + before
                self.keep(level, shifted.astype(f"<i{self.widths[level][-1]}"), 1 + number % 4)
                blank: Any = 0 if level == depth - 1 else b""
                rows = [blank] * before + values
            self.keep(depth, np.frombuffer(bytes(rows), np.uint8).repeat(item_bytes), 1 + number % 3)

    def keep(self, level: int, content: NDArray[Any], lead: int) -> None:
        address, memory = unaligned(content, lead)
        self.addresses[level].append(address)
        self.kept.append(memory)

    def at(self, level: int) -> NDArray[np.uint64]:
        return np.array(self.addresses[level], np.uint64)

    def offset_bytes(self, level: int) -> NDArray[np.int64]:
        return np.array(self.widths[level], np.int64)


def drawn_rows(data: Any, chunks: list[Any]) -> tuple[list[int], Any]:
    sizes = [len(chunk) for chunk in chunks]
    rows = data.draw(st.lists(st.integers(0, sum(sizes) - 1), max_size=30))
    return rows, located(rows, sizes)


@given(st.data(), st.lists(rows_of_bytes, min_size=1, max_size=6), st.sampled_from([1, 2, 3, 8, 70]))
def test_lists_are_copied_one_behind_the_other_in_one_step_if_there_is_room(data, chunks, item_bytes):
    stored = Stored(data, chunks, 1, item_bytes)
    rows, common = drawn_rows(data, chunks)
    wanted, marks = plain.laid_out(plain.gather(rows, chunks))
    room = data.draw(st.sampled_from([0, len(wanted) - 1, len(wanted), len(wanted) + 5]))
    out, around = guarded(max(0, room) * item_bytes)
    begins, offsets = np.full(len(rows), -7, np.int64), np.full(len(rows) + 1, -7, np.int64)
    where = (*common, stored.at(0), stored.offset_bytes(0))
    target = np.uint64(out.ctypes.data)
    fits = lists.gather_list(*where, stored.at(1), item_bytes, begins, offsets, room, target)
    assert fits == (room >= len(wanted))
    assert offsets.tolist() == marks
    if not fits:
        assert (around == GUARD).all()
        out, around = guarded(len(wanted) * item_bytes)
        target = np.uint64(out.ctypes.data)
        lists.copy_ranges(common[1], begins, offsets, stored.at(1), item_bytes, target)
    used = len(wanted) * item_bytes
    assert_guards(around, used)
    assert out[:used].tobytes() == np.array(wanted, np.uint8).repeat(item_bytes).tobytes()


@given(st.data(), st.lists(rows_of_lists, min_size=1, max_size=5))
def test_lists_of_lists_are_found_level_by_level(data, chunks):
    stored = Stored(data, chunks, 2)
    rows, common = drawn_rows(data, chunks)
    inner_lists, outer = plain.laid_out(plain.gather(rows, chunks))
    wanted, inner = plain.laid_out(inner_lists)
    begins, offsets = np.empty(len(rows), np.int64), np.empty(len(rows) + 1, np.int64)
    lists.row_ranges(*common, stored.at(0), stored.offset_bytes(0), begins, offsets)
    assert offsets.tolist() == outer
    inner_begins, marks = np.empty_like(begins), np.empty_like(offsets)
    inner_offsets = np.full(len(inner_lists) + 1, -7, np.int64)
    lists.inner_ranges(
        common[1], begins, offsets, stored.at(1), stored.offset_bytes(1), inner_begins, marks, inner_offsets
    )
    assert inner_offsets.tolist() == inner
    assert marks.tolist() == [inner[mark] for mark in outer]
    out, around = guarded(len(wanted))
    lists.copy_ranges(common[1], inner_begins, marks, stored.at(2), 1, np.uint64(out.ctypes.data))
    assert_guards(around, out.size)
    assert out.tobytes() == bytes(wanted)


@given(st.data(), st.lists(rows_of_bytes, min_size=1, max_size=5), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_lists_of_bits_are_unpacked_from_any_bit_onward(data, chunks, item_bits, seed):
    draw = np.random.default_rng(seed)
    stored = Stored(data, chunks, 1)
    rows, common = drawn_rows(data, chunks)
    firsts, addresses, kept, bits = [], [], [], []
    for chunk, memory in zip(chunks, stored.kept[1::2], strict=True):
        items = len(memory)  # at least as many as there are elements, those in front included
        bits.append(draw.random((items, item_bits)) < 0.5)
        firsts.append(int(draw.integers(0, 18)))
        address, packed = unaligned(plain.pack_bits(bits[-1], firsts[-1]), 1 + len(chunk) % 3)
        addresses.append(address)
        kept.append(packed)
    begins, offsets = np.empty(len(rows), np.int64), np.empty(len(rows) + 1, np.int64)
    lists.row_ranges(*common, stored.at(0), stored.offset_bytes(0), begins, offsets)
    out, around = guarded(int(offsets[-1]) * item_bits)
    where = (np.array(addresses, np.uint64), np.array(firsts, np.int64))
    lists.copy_bit_ranges(common[1], begins, offsets, *where, item_bits, out)
    assert_guards(around, out.size)
    lengths = np.diff(offsets).tolist()
    wanted = [
        bits[chunk][begin : begin + length]
        for chunk, begin, length in zip(common[1].tolist(), begins.tolist(), lengths, strict=True)
    ]
    assert out.tolist() == [int(bit) for part in wanted for bit in part.reshape(-1)]


@given(st.data(), st.lists(rows_of_bytes, min_size=1, max_size=6))
def test_lengths_are_raised_to_those_of_longer_rows(data, chunks):
    stored = Stored(data, chunks, 1)
    rows, common = drawn_rows(data, chunks)
    lengths = np.array(data.draw(st.lists(st.integers(0, 12), min_size=len(rows), max_size=len(rows))), np.int64)
    wanted = [max(a, len(b)) for a, b in zip(lengths.tolist(), plain.gather(rows, chunks), strict=True)]
    lists.row_lengths(*common, stored.at(0), stored.offset_bytes(0), lengths)
    assert lengths.tolist() == wanted


@given(st.lists(st.binary(max_size=40), max_size=8), st.sampled_from([1, 2, 3, 8, 12]), st.integers(0, 70))
def test_padding_fills_each_row_to_the_width_and_nothing_else(rows, item_bytes, more):
    values, marks = plain.laid_out(rows)
    width = max(map(len, rows), default=0) + more
    source = np.array(values, np.uint8).repeat(item_bytes)
    filler = np.full(item_bytes, 7, np.uint8)
    out, around = guarded(len(rows) * width * item_bytes)
    lists.pad_rows(
        np.array(marks, np.int64),
        np.uint64(source.ctypes.data),
        np.uint64(filler.ctypes.data),
        item_bytes,
        width,
        np.uint64(out.ctypes.data),
    )
    assert_guards(around, out.size)
    wanted = np.array(plain.padded(rows, 7, width), np.uint8).repeat(item_bytes)
    assert out.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 31, 32, 33, 100])
def test_counts_on_both_sides_of_how_far_ahead_rows_are_asked_for(count):
    draw = np.random.default_rng(count)
    chunks = [[draw.bytes(int(draw.integers(0, 3000))) for _ in range(20)] for _ in range(3)]
    rows = draw.integers(0, 60, count).tolist()
    offsets_at, data_at, kept = [], [], []
    for chunk in chunks:
        values, marks = plain.laid_out(chunk)
        for store, content in ((offsets_at, np.array(marks, "<i4")), (data_at, np.array(values, np.uint8))):
            address, memory = unaligned(content, 1)
            store.append(address)
            kept.append(memory)
    common = located(rows, [20, 20, 20])
    begins, offsets = np.empty(count, np.int64), np.empty(count + 1, np.int64)
    wanted = b"".join(plain.gather(rows, chunks))
    out, around = guarded(len(wanted))
    where = (*common, np.array(offsets_at, np.uint64), np.full(3, 4), np.array(data_at, np.uint64))
    assert lists.gather_list(*where, 1, begins, offsets, len(wanted), np.uint64(out.ctypes.data))
    assert_guards(around, out.size)
    assert out.tobytes() == wanted


def test_an_offset_of_eight_bytes_may_exceed_what_four_can_say():
    for value, width in ((2**31 - 1, 4), (2**40 + 3, 8)):
        address, memory = unaligned(np.array([0, value], f"<i{width}"), 1)
        assert lists.offset_at(address, 1, width) == value
        assert memory[0] == GUARD
