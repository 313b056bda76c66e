"""Rows of a data set, by number, gathered into columns."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.chunks import Chunks
from minibatch.columns import BITS, BYTES, FIXED, Field
from minibatch.errors import DamagedDatasetError
from minibatch.kernels import gather
from minibatch.memory import Pool


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a block: `values` (n, *shape); for text and bytes the data, uint8, and `offsets` int64 (n + 1,)."""

    field: Field
    values: NDArray[Any]
    offsets: NDArray[np.int64] | None = None

    def part(self, start: int, stop: int) -> "Column":
        """Rows [start, stop) as a column of their own."""
        if self.offsets is None:
            return Column(self.field, self.values[start:stop])
        marks = self.offsets[start : stop + 1]
        return Column(self.field, self.values[marks[0] : marks[-1]], marks - marks[0])

    def view(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop) as callers see them: a view for numbers, str or bytes objects for text and bytes."""
        if self.offsets is None:
            return self.values[start:stop]
        out = np.empty(stop - start, object)
        marks = self.offsets[start : stop + 1].tolist()
        for i in range(stop - start):
            value = self.values[marks[i] : marks[i + 1]].tobytes()
            out[i] = self._decoded(value) if self.field.is_text else value
        return out

    def _decoded(self, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise DamagedDatasetError(
                f"field {self.field.name!r} has text that is not UTF-8 ({error}): {value[:40]!r}; "
                f"store it as bytes, or run `minibatch check` on the data set"
            ) from None


def gather_rows(
    table: Chunks, fields: list[Field], rows: NDArray[np.int64], pool: Pool | None = None
) -> dict[str, Column]:
    """The given rows of the given fields, gathered: int64 (n,), any order, repetitions allowed."""
    return Gathering(table, fields).rows(rows, pool or Pool())


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for the fixed-size fields of a block: one region, where each field begins in it, and those addresses."""

    memory: NDArray[np.uint8]
    begins: list[int]
    outs: NDArray[np.uint64]


class Gathering:
    """What gathering some fields of a data set needs to know, worked out once: which tables, how many bytes a row."""

    def __init__(self, table: Chunks, fields: list[Field]) -> None:
        self.table = table
        self.fields = fields
        numbers = {name: i for i, name in enumerate(table.fields)}
        fixed = [i for i, field in enumerate(fields) if field.layout == FIXED and field.row_bytes]
        self.fixed = fixed
        self.which = np.array([numbers[fields[i].name] for i in fixed], np.int64)
        self.row_bytes = np.array([fields[i].row_bytes for i in fixed], np.int64)

    def rows(self, rows: NDArray[np.int64], pool: Pool) -> dict[str, Column]:
        """The given rows of all fields; see `gather_rows`."""
        chunks = self.table.locate(rows)
        room = self.room(len(rows), pool)
        self.gather(rows, chunks, room)
        return self.columns(rows, chunks, room, pool)

    def room(self, samples: int, pool: Pool) -> Room:
        """Memory for `samples` rows."""
        begins = [0, *accumulate(-(-samples * field.row_bytes // 64) * 64 for field in self.fields)]
        memory = pool.take(begins[-1])
        address = memory.__array_interface__["data"][0]
        return Room(memory, begins, np.array([address + begins[i] for i in self.fixed], np.uint64))

    def gather(self, rows: NDArray[np.int64], chunks: NDArray[np.int32], room: Room) -> None:
        """Fill the room with the rows of all fields of fixed size."""
        table = self.table
        gather.gather_fields(rows, chunks, table.starts, table.addresses, self.which, self.row_bytes, room.outs)

    def columns(self, rows: NDArray[np.int64], chunks: NDArray[np.int32], room: Room, pool: Pool) -> dict[str, Column]:
        """All fields as columns: those of fixed size, gathered before, and the others, gathered now."""
        starts = self.table.starts
        columns = {}
        for field, begin in zip(self.fields, room.begins, strict=False):
            tables = self.table.buffers(field)
            if field.layout == BYTES:
                offsets = np.empty(len(rows) + 1, np.int64)
                gather.gather_lengths(rows, chunks, starts, tables["offsets"], tables["offset_bytes"], offsets)
                data = pool.take(int(offsets[-1]))
                address = np.uint64(data.ctypes.data)
                gather.gather_bytes(
                    rows, chunks, starts, tables["offsets"], tables["offset_bytes"], tables["data"], offsets, address
                )
                columns[field.name] = Column(field, data, offsets)
                continue
            flat = room.memory[begin : begin + len(rows) * field.row_bytes]
            if field.layout == BITS:
                gather.gather_bits(rows, chunks, starts, tables["data"], tables["first_bit"], field.row_size, flat)
            columns[field.name] = Column(field, flat.view(field.dtype).reshape((len(rows), *field.shape)))
        return columns
