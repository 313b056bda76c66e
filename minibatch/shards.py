"""One shard: an Arrow file or stream, mapped, and its chunks (record batches), checked against the manifest."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from minibatch.errors import DamagedDatasetError
from minibatch.manifest import Shard
from minibatch.storage import map_file

FILE_MAGIC = b"ARROW1"


@dataclass(frozen=True, kw_only=True)
class OpenShard:
    """A mapped shard: `chunk(i)` is one of its record batches; `where` names it in messages."""

    content: pa.Buffer
    reader: Any  # of a file: with get_batch; of a stream: its batches
    rows: tuple[int, ...]
    where: str
    folder: Path

    def chunk(self, number: int) -> pa.RecordBatch:
        """Record batch `number`, of as many rows as the manifest says, all buffers inside the file.

        Raises `DamagedDatasetError` for anything else.
        """
        try:
            batch = self.reader[number] if isinstance(self.reader, list) else self.reader.get_batch(number)
            batch.validate()
        except (pa.ArrowException, OSError) as error:
            raise unreadable(self.where, self.folder, error) from error
        if batch.num_rows != self.rows[number]:
            raise DamagedDatasetError(
                f"{self.where}: chunk {number} has {batch.num_rows} rows, the manifest says {self.rows[number]}"
            )
        inside(batch, self.content, f"{self.where}: chunk {number}")
        return batch

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return (self.chunk(number) for number in range(len(self)))

    def is_mapped(self, batch: pa.RecordBatch) -> bool:
        """Whether all of a chunk lies in the mapped file; that of a compressed file was decompressed into memory."""
        begin, end = self.content.address, self.content.address + self.content.size
        buffers = (buffer for column in batch.columns for buffer in buffers_of(column))
        return all(begin <= buffer.address < end for buffer in buffers if buffer.size)


def open_shard(folder: Path, shard: Shard, schema: pa.Schema) -> OpenShard:
    """One shard, mapped; what its file says must agree with the manifest.

    Raises `DamagedDatasetError` naming the file: another size, not an Arrow file, another schema, other chunks.
    """
    where = f"{shard.file} in {folder}"
    try:
        content = map_file(folder / shard.file, shard.bytes)
        reader, found = open_content(content)
        if not found.equals(schema, check_metadata=True):
            raise DamagedDatasetError(
                f"{where} has the schema {found.names}: {found.types}, "
                f"the manifest says {schema.names}: {schema.types}"
            )
        count = len(reader) if isinstance(reader, list) else reader.num_record_batches
        if count != shard.num_chunks:
            raise DamagedDatasetError(f"{where} has {count} chunks, the manifest says {shard.num_chunks}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise unreadable(where, folder, error) from error
    return OpenShard(content=content, reader=reader, rows=shard.chunks, where=where, folder=folder)


def open_content(content: pa.Buffer) -> tuple[Any, pa.Schema]:
    """A reader of the Arrow file or the batches of the Arrow stream in `content`, and its schema."""
    if content.size >= len(FILE_MAGIC) and content.slice(0, len(FILE_MAGIC)).to_pybytes() == FILE_MAGIC:
        reader = pa.ipc.open_file(content)
        return reader, reader.schema
    stream = pa.ipc.open_stream(content)
    return list(stream), stream.schema


def unreadable(where: str, folder: Path, error: Exception) -> DamagedDatasetError:
    """What to raise for a file that Arrow cannot read."""
    return DamagedDatasetError(f"{where} is not a readable Arrow file: {error}; run `minibatch check {folder}`")


def buffers_of(column: pa.Array) -> Iterator[pa.Buffer]:
    """All buffers of a column, its dictionary's too."""
    yield from (buffer for buffer in column.buffers() if buffer is not None)
    if pa.types.is_dictionary(column.type):
        yield from buffers_of(column.dictionary)


def inside(batch: pa.RecordBatch, content: pa.Buffer, where: str) -> None:
    """Raise unless every buffer that points into the mapped file also ends in it."""
    end = content.address + content.size
    for column in batch.columns:
        for buffer in buffers_of(column):
            if content.address <= buffer.address < end < buffer.address + buffer.size:
                raise DamagedDatasetError(
                    f"{where}: a buffer reaches {buffer.address + buffer.size - end} bytes past the end"
                )
