"""Rows of a data set, by number, gathered into columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from minibatch import ragged
from minibatch.buffers import refuse_indices
from minibatch.chunks import Chunks, LeafTable
from minibatch.columns import BITS, FIXED, SPARSE, Field, Leaf
from minibatch.errors import DamagedDatasetError
from minibatch.kernels import gather, lists
from minibatch.memory import Pool
from minibatch.ragged import Ragged
from minibatch.sparse import Sparse

ROOM_TO_SPARE = 1.25  # over the expected size of lists: then one pass over the rows is enough


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a block: an array (n, *shape), `Ragged` or `Sparse`; text and bytes (`field` says) as a `Ragged`
    of uint8, lists of them as a `Ragged` of that."""

    values: Any
    field: Field | None = None

    def part(self, start: int, stop: int) -> "Column":
        """Rows [start, stop) as a column of their own."""
        return Column(self.values[start:stop], self.field)

    def view(self, start: int, stop: int) -> Any:
        """Rows [start, stop) as callers see them: a view for numbers, str or bytes objects for text and bytes."""
        values = self.values[start:stop]
        if self.field is None or not self.field.is_bytes:
            return values
        return objects(values, self.field)


def objects(values: Ragged, field: Field) -> Any:
    """Text or bytes as an object array; lists of them as a Ragged of such an array."""
    if isinstance(values.values, Ragged):
        return Ragged(objects(values.values, field), values.offsets)
    buffers = [None, pa.py_buffer(values.offsets), pa.py_buffer(values.values)]
    column = pa.Array.from_buffers(pa.large_string() if field.is_text else pa.large_binary(), len(values), buffers)
    try:
        return column.to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        raise text_error(values, field) from None


def text_error(values: Ragged, field: Field) -> DamagedDatasetError:
    """What to raise for texts of which one is none."""
    for value in values:
        try:
            value.tobytes().decode()
        except UnicodeDecodeError as error:
            return DamagedDatasetError(
                f"field {field.name!r} has text that is not UTF-8 ({error}): {value.tobytes()[:40]!r}; "
                f"store it as bytes, or run `minibatch check` on the data set"
            )
    raise AssertionError("Arrow refuses text that Python can decode")


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for the fixed-size fields of a block: one region, where each field begins in it, and those addresses."""

    memory: NDArray[np.uint8]
    begins: list[int]
    outs: NDArray[np.uint64]


class Gathering:
    """What gathering some fields of some chunks needs to know, worked out once: which tables, how many bytes a row.

    `fields` gives each field's name in the result and its stored form. `expected` has the mean number of items of each
    leaf below offsets, as far as known: it is refined as blocks are gathered.
    """

    def __init__(self, table: Chunks, fields: dict[str, Field]) -> None:
        self.table = table
        self.fields = fields
        stored = list(fields.values())
        table.use(stored)
        self.fixed = [i for i, field in enumerate(stored) if field.layout == FIXED and field.row_bytes]
        self.which = np.array([table.leaves[stored[i].name][0].number for i in self.fixed], np.int64)
        self.row_bytes = np.array([stored[i].row_bytes for i in self.fixed], np.int64)
        self._expected: dict[int, float] = {}

    def rows(self, rows: NDArray[np.int64], pool: Pool) -> dict[str, Column]:
        """The given rows of all fields: int64 (n,), any order, repetitions allowed."""
        table, pieces = self.table, []
        for part, chunks in table.pieces(rows):
            here, room = rows[part], self.room(len(chunks), pool)
            gather.gather_fields(here, chunks, table.starts, table.addresses, self.which, self.row_bytes, room.outs)
            pieces.append(self.columns(here, chunks, room, pool))
        if len(pieces) == 1:
            return pieces[0]
        return {
            name: Column(ragged.join([piece[name].values for piece in pieces]), field)
            for name, field in self.fields.items()
        }

    def room(self, samples: int, pool: Pool) -> Room:
        """Memory for `samples` rows."""
        begins = [0, *accumulate(-(-samples * field.row_bytes // 64) * 64 for field in self.fields.values())]
        memory = pool.take(begins[-1])
        address = memory.__array_interface__["data"][0]
        return Room(memory, begins, np.array([address + begins[i] for i in self.fixed], np.uint64))

    def columns(self, rows: NDArray[np.int64], chunks: NDArray[np.int32], room: Room, pool: Pool) -> dict[str, Column]:
        """All fields as columns: those of fixed size, gathered before, and the others, gathered now. Called where
        the chunks are still mapped."""
        columns = {}
        for (name, field), begin in zip(self.fields.items(), room.begins, strict=False):
            tables = self.table.leaves[field.name]
            if field.varies:
                columns[name] = Column(self._varying(field, tables, rows, chunks, pool), field)
                continue
            flat = room.memory[begin : begin + len(rows) * field.row_bytes]
            if field.layout == BITS:
                table = tables[0]
                gather.gather_bits(rows, chunks, self.table.starts, table.data, table.first_bits, field.row_size, flat)
            columns[name] = Column(flat.view(field.dtype).reshape((len(rows), *field.shape)), field)
        return columns

    def _varying(
        self,
        field: Field,
        tables: Sequence[LeafTable],
        rows: NDArray[np.int64],
        chunks: NDArray[np.int32],
        pool: Pool,
    ) -> Any:
        leaves = [self._leaf(leaf, table, rows, chunks, pool) for leaf, table in zip(field.leaves, tables, strict=True)]
        if field.layout != SPARSE:
            values, offsets = leaves[0]
            return nest(values, offsets)
        (indices, offsets), (values, _) = leaves
        refuse_indices(indices, field, f"field {field.name!r}")
        return nest(Sparse(indices, values, offsets[-1], field.width), offsets[:-1])

    def _leaf(
        self, leaf: Leaf, table: LeafTable, rows: NDArray[np.int64], chunks: NDArray[np.int32], pool: Pool
    ) -> tuple[NDArray[Any], list[NDArray[np.int64]]]:
        """The items of a leaf below offsets, and those offsets from the outside."""
        begins, outer = np.empty(len(rows), np.int64), np.empty(len(rows) + 1, np.int64)
        where = (rows, chunks, self.table.starts, table.offsets[0], table.offset_bytes[0])
        if leaf.levels == 1 and not leaf.bits:
            room = int(len(rows) * self._expected.get(table.number, 0.0) * ROOM_TO_SPARE)
            memory = pool.take(room * leaf.item_bytes)
            out = np.uint64(memory.ctypes.data)
            if not lists.gather_list(*where, table.data, leaf.item_bytes, begins, outer, room, out):
                memory = pool.take(int(outer[-1]) * leaf.item_bytes)
                out = np.uint64(memory.ctypes.data)
                lists.copy_ranges(chunks, begins, outer, table.data, leaf.item_bytes, out)
            if len(rows):
                self._expected[table.number] = int(outer[-1]) / len(rows)
            return shaped(memory, leaf, int(outer[-1])), [outer]
        lists.row_ranges(*where, begins, outer)
        offsets, marks = [outer], outer
        for addresses, widths in zip(table.offsets[1:], table.offset_bytes[1:], strict=True):
            inner_begins, inner_marks = np.empty_like(begins), np.empty_like(outer)
            inner = np.empty(int(offsets[-1][-1]) + 1, np.int64)
            lists.inner_ranges(chunks, begins, marks, addresses, widths, inner_begins, inner_marks, inner)
            begins, marks = inner_begins, inner_marks
            offsets.append(inner)
        total = int(marks[-1])
        memory = pool.take(total * leaf.item_bytes)
        if leaf.bits:
            lists.copy_bit_ranges(chunks, begins, marks, table.data, table.first_bits, leaf.item_size, memory)
        else:
            out = np.uint64(memory.ctypes.data)
            lists.copy_ranges(chunks, begins, marks, table.data, leaf.item_bytes, out)
        return shaped(memory, leaf, total), offsets


def shaped(memory: NDArray[np.uint8], leaf: Leaf, count: int) -> NDArray[Any]:
    """`count` items of a leaf at the start of some memory."""
    return memory[: count * leaf.item_bytes].view(leaf.dtype).reshape((count, *leaf.shape))


def nest(values: Any, offsets: Sequence[NDArray[np.int64]]) -> Any:
    """Values below levels of offsets, given from the outside, as a Ragged, or a Ragged of one."""
    for marks in reversed(offsets):
        values = Ragged(values, marks)
    return values
