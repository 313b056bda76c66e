"""One shard: an Arrow file or stream, mapped, and its chunks (record batches), checked against the manifest."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from minibatch.errors import DamagedDatasetError
from minibatch.manifest import Shard
from minibatch.record_batches import open_content
from minibatch.storage import NORMAL, SCATTERED, advise, map_file


@dataclass(frozen=True, kw_only=True)
class OpenShard:
    """A mapped shard: `chunk(i)` is one of its record batches; `where` names it in messages."""

    content: pa.Buffer
    batch: Callable[[int], pa.RecordBatch]
    rows: tuple[int, ...]
    where: str
    folder: Path

    def chunk(self, number: int) -> pa.RecordBatch:
        """Record batch `number`, of as many rows as the manifest says, all buffers inside the file.

        Raises `DamagedDatasetError` for anything else.
        """
        try:
            batch = self.batch(number)
            batch.validate()
        except (pa.ArrowException, OSError, ValueError) as error:
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

    def is_mapped(self, columns: Iterable[pa.Array]) -> bool:
        """Whether all of these columns lies in the mapped file; what was decoded does not."""
        begin, end = self.content.address, self.content.address + self.content.size
        buffers = (buffer for column in columns for buffer in buffers_of(column))
        return all(begin <= buffer.address < end for buffer in buffers if buffer.size)


def open_shard(folder: Path, shard: Shard, schema: pa.Schema) -> OpenShard:
    """One shard, mapped; what its file says must agree with the manifest.

    Raises `DamagedDatasetError` naming the file: another size, not an Arrow file, another schema, other chunks.
    """
    where = f"{shard.file} in {folder}"
    try:
        content = map_file(folder / shard.file, shard.bytes)
        advise(content.address, content.size, SCATTERED)  # what stands around the record batches is small and far apart
        batch, rows, found = open_content(content)
        advise(content.address, content.size, NORMAL)
        if not same_fields(found, schema):
            raise DamagedDatasetError(
                f"{where} has the schema {found.names}: {found.types}, the manifest says {schema.names}: {schema.types}"
            )
        if len(rows) != shard.num_chunks:
            raise DamagedDatasetError(f"{where} has {len(rows)} chunks, the manifest says {shard.num_chunks}")
    except DamagedDatasetError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(where, folder, error) from error
    return OpenShard(content=content, batch=batch, rows=shard.chunks, where=where, folder=folder)


def same_fields(one: pa.Schema, other: pa.Schema) -> bool:
    """Whether two schemas have the same fields with the same metadata; what they note of the whole may differ."""
    return bool(one.remove_metadata().equals(other.remove_metadata(), check_metadata=True))


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
