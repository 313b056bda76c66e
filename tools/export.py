"""`minibatch export DIR OUT`: a data set → Parquet, Arrow or `.npz`, for every other program.

For example `minibatch export data/digits digits.parquet --rows 0:1000 --fields image,label`. The rows keep their order,
the fields their metadata, such as names of classes; `minibatch convert` of what was exported gives the same data set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
from rich.console import Console
from rich.text import Text

from minibatch import Dataset
from minibatch.errors import SchemaError
from minibatch.manifest import Shard
from minibatch.shards import OpenShard, open_shard
from minibatch.tools.convert import progress
from minibatch.tools.export_npz import write_npz
from minibatch.tools.sources.exported import with_note

PARQUET, ARROW, STREAM, NPZ = (".parquet", ".pq"), (".arrow", ".feather", ".ipc"), (".arrows",), (".npz",)
KNOWN = (
    "FILE.parquet, FILE.arrow, FILE.feather, FILE.arrows (a stream), FILE.npz, or a folder: a Parquet file per shard"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Rows `start` to `stop` of a data set, and the columns of them to take."""

    dataset: Dataset
    start: int
    stop: int
    schema: pa.Schema

    def shards(self) -> Iterator[list[Callable[[], pa.RecordBatch]]]:
        """For each shard with rows to take: its chunks, each read when it is called."""
        first = 0
        for shard in self.dataset.manifest.shards:
            if first < self.stop and first + shard.rows > self.start:
                yield self._chunks(shard, first)
            first += shard.rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All chunks with rows to take."""
        for chunks in self.shards():
            for chunk in chunks:
                yield chunk()

    def _chunks(self, shard: Shard, first: int) -> list[Callable[[], pa.RecordBatch]]:
        opened = open_shard(self.dataset.folder, shard, self.dataset.manifest.schema)
        taken: list[Callable[[], pa.RecordBatch]] = []
        for number, rows in enumerate(shard.chunks):
            begin, end = max(0, self.start - first), min(rows, self.stop - first)
            if begin < end:
                taken.append(functools.partial(self._cut, opened, number, begin, end))
            first += rows
        return taken

    def _cut(self, opened: OpenShard, number: int, begin: int, end: int) -> pa.RecordBatch:
        batch = opened.chunk(number)
        columns = [batch.column(name).slice(begin, end - begin) for name in self.schema.names]
        return pa.record_batch(columns, schema=self.schema)


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The data set.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help=f"What to write: {KNOWN}.", show_default=False)],
    rows: Annotated[
        str | None, typer.Option(metavar="A:B", help="Rows A to B - 1 alone; either may be left out.")
    ] = None,
    fields: Annotated[str | None, typer.Option(metavar="A,B,…", help="These fields alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the summary line.")] = False,
) -> None:
    """Write a data set as Parquet, Arrow or NumPy arrays, for every other program.

    The rows keep their order. Converting the result gives the same data set, with the same fingerprint.
    """
    started, console = time.perf_counter(), Console(stderr=True)
    shown = console.is_terminal and not quiet and not as_json
    try:
        dataset = Dataset.open(directory)
        taken = select(dataset, rows, fields)
        with progress(console, taken.stop - taken.start, shown=shown) as advance:
            files = write_export(taken, out, advance)
    except BaseException as error:
        if as_json:
            reason = "stopped" if isinstance(error, KeyboardInterrupt) else " ".join(str(error).split())
            print(json.dumps({"path": str(out), "complete": False, "error": reason}, indent=1, ensure_ascii=False))
        if isinstance(error, KeyboardInterrupt):
            console.print(Text(f"stopped; {out} was not written", style="yellow"), soft_wrap=True)
            raise typer.Exit(130) from None
        raise
    seconds = time.perf_counter() - started
    size = sum(file.stat().st_size for file in files)
    if as_json:
        document: dict[str, Any] = {"path": str(out), "complete": True, "rows": taken.stop - taken.start, "bytes": size}
        document |= {"fields": taken.schema.names, "files": [str(file) for file in files], "seconds": seconds}
        print(json.dumps(document, indent=1, ensure_ascii=False))
        return
    print(
        f"{out}: {taken.stop - taken.start:,} rows, {size / 1e6:,.1f} MB in {len(files)} file{'s' * (len(files) > 1)}, "
        f"{seconds:.1f} s ({size / 1e6 / seconds:,.1f} MB/s)"
    )


def select(dataset: Dataset, rows: str | None = None, fields: str | None = None) -> Selection:
    """The rows A:B and the fields named, all by default; raises ValueError or `SchemaError` for what is not there."""
    start, stop = row_range(rows or ":", len(dataset))
    schema = dataset.manifest.schema
    if fields is not None:
        names = [name.strip() for name in fields.split(",")]
        unknown = [name for name in names if name not in schema.names]
        if unknown or len(set(names)) < len(names):
            raise SchemaError(f"--fields {fields}: expected some of {', '.join(schema.names)}, each once")
        schema = pa.schema([schema.field(name) for name in names])
    return Selection(dataset=dataset, start=start, stop=stop, schema=schema.remove_metadata())


def row_range(text: str, rows: int) -> tuple[int, int]:
    """The two numbers of "A:B".

    >>> row_range("10:", 100), row_range(":5", 100)
    ((10, 100), (0, 5))
    """
    begin, colon, end = text.partition(":")
    try:
        start, stop = int(begin or 0), int(end or rows)
    except ValueError:
        start = stop = -1
    if not colon or not 0 <= start < stop <= rows:
        raise ValueError(f"--rows {text}: expected A:B with 0 ≤ A < B ≤ {rows}, the number of rows")
    return start, stop


def write_export(taken: Selection, out: Path, advance: Callable[[int], object] = lambda rows: None) -> list[Path]:
    """Write the selected rows to `out` in the format that its suffix names, all or nothing; gives the files.

    Raises ValueError for an unknown suffix and where `out` exists, `SchemaError` for a type that the format lacks.
    """
    suffix = out.suffix.lower()
    if suffix not in (*PARQUET, *ARROW, *STREAM, *NPZ, ""):
        raise ValueError(f"{out}: no format is known by the suffix {out.suffix!r}; known are {KNOWN}")
    if os.path.lexists(out):
        raise ValueError(f"{out} exists: choose another name, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    remove(partial)
    try:
        if suffix in PARQUET:
            write_parquet(partial, taken.schema, counted(taken.batches(), advance))
        elif suffix in NPZ:
            counts = iter([advance])  # it reads the rows once for each array
            write_npz(partial, taken.schema, lambda: counted(taken.batches(), next(counts, lambda rows: None)))
        elif suffix:
            write_arrow(partial, taken.schema, counted(taken.batches(), advance), stream=suffix in STREAM)
        else:
            partial.mkdir()
            for number, chunks in enumerate(taken.shards()):
                rows = counted((chunk() for chunk in chunks), advance)
                write_parquet(partial / f"part-{number:05d}.parquet", taken.schema, rows)
        os.replace(partial, out)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(partial)
        raise
    return sorted(out.iterdir()) if out.is_dir() else [out]


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """A Parquet file with a row group per chunk."""
    import pyarrow.parquet as pq

    for field in schema:
        if holds_nothing(field.type):
            raise SchemaError(
                f"field {field.name!r} is {field.type}: Parquet cannot hold arrays without elements; leave it out with "
                "--fields, or export to .arrow or .npz"
            )
    noted = with_note(schema)
    with pq.ParquetWriter(path, noted) as writer:
        for batch in batches:
            writer.write_batch(pa.record_batch(batch.columns, schema=noted))


def write_arrow(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, stream: bool) -> None:
    """An Arrow IPC file or stream with a record batch per chunk."""
    noted = with_note(schema)
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, new(sink, noted) as writer:
        for batch in batches:
            # Copied: of a slice Arrow would also write what lies around it.
            columns = [pa.concat_arrays([column, column.slice(0, 0)]) for column in batch.columns]
            writer.write_batch(pa.record_batch(columns, schema=noted))


def holds_nothing(kind: pa.DataType) -> bool:
    """Whether rows of this type are arrays with no element.

    >>> holds_nothing(pa.list_(pa.list_(pa.int8(), 0), 3)), holds_nothing(pa.list_(pa.int8()))
    (True, False)
    """
    if isinstance(kind, pa.BaseExtensionType):
        return holds_nothing(kind.storage_type)
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size == 0 or holds_nothing(kind.value_type)
    return False


def counted(batches: Iterable[pa.RecordBatch], advance: Callable[[int], object]) -> Iterator[pa.RecordBatch]:
    """The batches, and `advance` hears how many rows each has had once it was taken."""
    for batch in batches:
        yield batch
        advance(batch.num_rows)


def remove(path: Path) -> None:
    """Remove a file or folder of ours, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
