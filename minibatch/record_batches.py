"""Where the record batches of an Arrow file or stream lie and how many rows each has, without decoding any of them.

Arrow's own readers decompress a batch to tell its length. This reads the flatbuffers around it instead: `Message` and
`RecordBatch` of Message.fbs, `Footer` and `Block` of File.fbs, as the format's columnar specification lays them out.
"""

import functools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

FILE_MAGIC = b"ARROW1"
CONTINUES = 0xFFFFFFFF  # stands before the length of a message; in streams from before 2019 it does not
SCHEMA, DICTIONARY, RECORD_BATCH = 1, 2, 3  # MessageHeader
BLOCK = struct.Struct("<qi4xq")  # offset, bytes of the metadata with its prefix, bytes of the body


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message of a stream: its bytes [start, stop), what it is, and of a record batch its rows and encoding."""

    start: int
    stop: int
    kind: int
    rows: int = 0
    compressed: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A flatbuffers table at `at`; whatever would be read outside of `data` raises `ValueError`."""

    data: memoryview
    at: int

    def place(self, field: int) -> int:
        """Where the value of a field lies; 0 if it has its default."""
        vtable = self.at - number(self.data, "<i", self.at)
        if 4 + 2 * field >= number(self.data, "<H", vtable):
            return 0
        offset = number(self.data, "<H", vtable + 4 + 2 * field)
        return self.at + offset if offset else 0

    def value(self, field: int, form: str) -> int:
        """The number in a field."""
        place = self.place(field)
        return number(self.data, form, place) if place else 0

    def target(self, field: int) -> int:
        """What an offset in a field points to; 0 without one."""
        place = self.place(field)
        return place + number(self.data, "<I", place) if place else 0


def number(data: memoryview, form: str, at: int) -> int:
    """The number at a place."""
    size = struct.calcsize(form)
    if not 0 <= at <= len(data) - size:
        raise ValueError(f"something at byte {at} of {len(data)}")
    (found,) = struct.unpack_from(form, data, at)
    return int(found)


def message_at(data: memoryview, start: int) -> Message | None:
    """The message that begins at `start`; None for the mark of the stream's end."""
    if start == len(data):
        raise ValueError("no mark of its end: it was cut off or is still being written; if it is whole, convert it")
    length, begin = number(data, "<I", start), start + 4
    if length == CONTINUES:
        length, begin = number(data, "<I", begin), begin + 4
    if length == 0:
        return None
    if length > len(data) - begin:
        raise ValueError(f"a message of {length} bytes at byte {begin} of {len(data)}")
    metadata = data[begin : begin + length]
    table = Table(metadata, number(metadata, "<I", 0))
    kind, body = table.value(1, "<B"), table.value(3, "<q")
    stop = begin + length + body
    if body < 0 or stop > len(data):
        raise ValueError(f"a message at byte {start} that ends at byte {stop} of {len(data)}")
    if kind != RECORD_BATCH:
        return Message(start=start, stop=stop, kind=kind)
    batch = Table(metadata, table.target(2))
    rows = batch.value(0, "<q")
    if rows < 0:
        raise ValueError(f"a record batch of {rows} rows at byte {start}")
    return Message(start=start, stop=stop, kind=kind, rows=rows, compressed=bool(batch.place(3)))


def messages(data: memoryview) -> Iterator[Message]:
    """The messages of a stream, in order."""
    at = 0
    while (message := message_at(data, at)) is not None:
        yield message
        at = message.stop


def blocks(data: memoryview) -> Iterator[Message]:
    """The record batches of a file, in the order of its footer."""
    end = len(data) - len(FILE_MAGIC) - 4
    size = number(data, "<i", end)
    if not 0 < size <= end or data[-len(FILE_MAGIC) :] != FILE_MAGIC:
        raise ValueError("no footer: it was cut off, or is still being written")
    footer = data[end - size : end]
    listed = Table(footer, number(footer, "<I", 0)).target(3)
    count = number(footer, "<I", listed) if listed else 0
    if count * BLOCK.size > size:
        raise ValueError(f"a footer of {size} bytes with {count} blocks")
    for i in range(count):
        message = message_at(data, number(footer, "<q", listed + 4 + i * BLOCK.size))
        if message is None or message.kind != RECORD_BATCH:
            raise ValueError(f"block {i} of the footer is no record batch")
        yield message


def open_content(content: pa.Buffer) -> tuple[Callable[[int], pa.RecordBatch], list[int], pa.Schema]:
    """What reads record batch i of an Arrow file or stream in memory, the rows of each, and the schema.

    Raises `pa.ArrowException` or `ValueError` where it is neither.
    """

    @functools.cache
    def whole_stream() -> list[pa.RecordBatch]:
        batches = list(pa.ipc.open_stream(content))
        if len(batches) != len(rows):
            raise ValueError(f"{len(batches)} record batches, of which {len(rows)} are found")
        return batches

    data = memoryview(content)
    if data[: len(FILE_MAGIC)] == FILE_MAGIC:
        reader = pa.ipc.open_file(content)
        found = list(blocks(data))
        if len(found) != reader.num_record_batches:
            raise ValueError(f"{reader.num_record_batches} record batches, of which {len(found)} are found")
        return reader.get_batch, [each.rows for each in found], reader.schema
    found = list(messages(data))
    rows = [each.rows for each in found if each.kind == RECORD_BATCH]
    schema = pa.ipc.open_stream(content).schema
    if any(each.compressed for each in found):
        return lambda i: batch_alone(data, found, i), rows, schema
    return lambda i: whole_stream()[i], rows, schema


def batch_alone(data: memoryview, found: list[Message], wanted: int) -> pa.RecordBatch:
    """Record batch `wanted` of a stream, read from a copy that has what stands before it but no other batch."""
    last = [at for at, each in enumerate(found) if each.kind == RECORD_BATCH][wanted]
    pieces = [data[each.start : each.stop] for each in found[:last] if each.kind != RECORD_BATCH]
    with pa.ipc.open_stream(b"".join([*pieces, data[found[last].start : found[last].stop]])) as stream:
        return stream.read_next_batch()
