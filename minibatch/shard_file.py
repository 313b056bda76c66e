"""One shard while it is written: under a temporary name, then synced, renamed and digested."""

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import xxhash

from minibatch.claim import STAGED_SUFFIX
from minibatch.manifest import Shard, pack_chunks
from minibatch.storage import sync_file, sync_folder


class ShardFile:
    """The shard with this number in `folder`; chunks are written to it until `finish`.

    >>> import tempfile
    >>> column = pa.array([[1, 2], [3]])
    >>> file = ShardFile(Path(tempfile.mkdtemp()), 0, pa.schema({"x": column.type}))
    >>> file.write([column])
    >>> file.finish(staged=False).elements
    {'x': 3}
    """

    def __init__(self, folder: Path, number: int, schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = schema
        self._final = folder / f"shard-{number:05d}.arrow"
        self._partial = self._final.with_name(self._final.name + ".partial")
        self._chunks: list[int] = []
        self._lists = [
            i for i, kind in enumerate(schema.types) if pa.types.is_list(kind) or pa.types.is_large_list(kind)
        ]
        self._elements = Counter({schema.names[i]: 0 for i in self._lists})
        self._sink = pa.OSFile(str(self._partial), "wb")
        self._file = pa.ipc.new_file(self._sink, schema)

    def write(self, columns: list[pa.Array]) -> None:
        """Append one chunk."""
        self._file.write_batch(pa.record_batch(columns, schema=self._schema))
        self._chunks.append(len(columns[0]))
        self.rows += len(columns[0])
        for i in self._lists:
            marks = columns[i].offsets
            self._elements[self._schema.names[i]] += marks[-1].as_py() - marks[0].as_py()

    def finish(self, *, staged: bool) -> Shard:
        """Bring the file to disk and give it its name (`staged`: the one beside it, while a data set is replaced)."""
        self._file.close()
        self._sink.close()
        sync_file(self._partial)
        place = self._final.with_name(self._final.name + STAGED_SUFFIX) if staged else self._final
        with pa.memory_map(str(self._partial)) as mapped:
            content = mapped.read_buffer()
            digest, size = xxhash.xxh3_128_hexdigest(content), content.size
        del content
        os.replace(self._partial, place)
        sync_folder(place.parent)
        return Shard(
            file=self._final.name,
            rows=self.rows,
            bytes=size,
            digest=digest,
            runs=pack_chunks(self._chunks),
            elements=dict(self._elements),
        )

    def abandon(self) -> None:
        """Close the file, which stays unfinished."""
        for open_file in (self._file, self._sink):
            with suppress(OSError, pa.ArrowException):  # the disk may be full: the folder is unfinished either way
                open_file.close()
