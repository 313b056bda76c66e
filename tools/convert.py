"""`minibatch convert SOURCE OUT`: any source of tools/sources → a data set.

For example `minibatch convert photos.tar.gz data/test --subset test --decode`. One source and one set of options give
one set of bytes, whatever the timing. A conversion that was stopped leaves a folder that says so; the same command
starts it again, from its beginning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from minibatch import Dataset, DatasetWriter
from minibatch.errors import WriterBusyError
from minibatch.storage import LOCK, MANIFEST
from minibatch.tools.sources import FORMATS, Options, Piece, Source, open_source

SOURCE_HELP = "What to convert: " + "; ".join(f"{each.example} ({each.name})" for each in FORMATS) + "."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a finished conversion wrote."""

    rows: int
    bytes: int
    shards: int
    fingerprint: str


def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP, show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write, new or empty.", show_default=False)],
    subset: Annotated[str | None, typer.Option(help="Images: the top folder to take, such as train.")] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Images: store pixels, not files; all of one shape.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first LIMIT rows.")] = None,
    chunk_rows: Annotated[int | None, typer.Option(min=1, help="Rows per chunk (default: about 8 MiB).")] = None,
    shard_rows: Annotated[int | None, typer.Option(min=1, help="Rows per file (default: about 512 MiB).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the data set in OUT.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the summary line.")] = False,
) -> None:
    """Turn arrays, tables or images into a data set.

    Rows keep the order of the source; images are sorted by name. The same source gives the same bytes each time.
    """
    started, console = time.perf_counter(), Console(stderr=True)
    shown = console.is_terminal and not quiet
    refuse_places(source, out, overwrite=overwrite)
    try:
        with console.status(f"looking at {escape(source)}") if shown else contextlib.nullcontext():
            opened = open_source(source, Options(subset=subset, decode=decode))
        if not quiet:
            console.print(Text(f"{source}: {opened.describe()}"), soft_wrap=True)
        with progress(console, expected_rows(opened, limit), shown=shown) as advance:
            done = write_source(
                opened,
                out,
                origin=origin_of(source, {"subset": subset, "decode": decode, "limit": limit}),
                limit=limit,
                chunk_rows=chunk_rows,
                shard_rows=shard_rows,
                overwrite=overwrite,
                advance=advance,
            )
    except BaseException as error:
        if (out / LOCK).exists() and not isinstance(error, WriterBusyError):  # our writer did not come to its end
            left = f"{out} is unfinished and no data set; the same command starts it again"
            console.print(Text(left, style="yellow"), soft_wrap=True)
        if isinstance(error, KeyboardInterrupt):
            console.print(Text("stopped", style="yellow"))
            raise typer.Exit(130) from None
        raise
    seconds = time.perf_counter() - started
    print(
        f"{out}: {done.rows:,} rows, {done.bytes / 1e6:,.1f} MB in {done.shards} shard{'s' * (done.shards != 1)}, "
        f"{seconds:.1f} s ({done.bytes / 1e6 / seconds:,.1f} MB/s), fingerprint {done.fingerprint}"
    )


def write_source(
    source: Source,
    out: Path,
    *,
    origin: str | None = None,
    limit: int | None = None,
    chunk_rows: int | None = None,
    shard_rows: int | None = None,
    overwrite: bool = False,
    advance: Callable[[int], object] = lambda rows: None,
) -> Conversion:
    """Write the rows of `source`, or the first `limit`, to the data set `out`; `advance` hears the rows of each piece.

    Raises ValueError for a source without rows, what the source raises about its rows, and what `DatasetWriter` raises.
    A source whose first piece cannot be read leaves `out` untouched; one that fails later leaves it unfinished.

    >>> import tempfile
    >>> done = write_source(open_source("sklearn:iris"), Path(tempfile.mkdtemp()), limit=100)
    >>> done.rows, done.shards
    (100, 1)
    """
    pieces = first_rows(source.batches(), limit)
    first = next(pieces, None)
    if first is None:
        raise ValueError(f"there are no rows in this source: {source.describe()}")
    with DatasetWriter(
        out, chunk_rows, shard_rows, metadata=source.metadata, source=origin, overwrite=overwrite
    ) as writer:
        for piece in itertools.chain([first], pieces):
            writer.write(piece)
            advance(rows_of(piece))
    manifest = Dataset.open(out).manifest
    return Conversion(
        rows=manifest.rows,
        bytes=sum(shard.bytes for shard in manifest.shards),
        shards=len(manifest.shards),
        fingerprint=manifest.fingerprint,
    )


def first_rows(pieces: Iterator[Piece], limit: int | None) -> Iterator[Piece]:
    """The pieces that hold rows, the last one cut so that there are at most `limit` rows.

    >>> [piece["x"] for piece in first_rows(iter([{"x": ["a", "b"]}, {"x": []}, {"x": ["c", "d"]}, {"x": ["e"]}]), 3)]
    [['a', 'b'], ['c']]
    """
    left = math.inf if limit is None else limit
    for piece in pieces:
        rows = rows_of(piece)
        if rows > left:
            rows = int(left)
            piece = {name: values[:rows] for name, values in piece.items()}
        if rows:
            yield piece
        left -= rows
        if left == 0:
            return


def rows_of(piece: Piece) -> int:
    return len(next(iter(piece.values())))


def expected_rows(source: Source, limit: int | None) -> int | None:
    """How many rows will come, as far as that is known."""
    known = [rows for rows in (source.rows, limit) if rows is not None]
    return min(known, default=None)


def origin_of(source: str, options: dict[str, object]) -> str:
    """What the manifest says the data were made from: the name without the path, which would differ between machines.

    >>> origin_of("/home/me/photos.tar", {"subset": "test", "decode": False, "limit": None})
    'photos.tar --subset test'
    """
    name = os.path.basename(os.path.abspath(source))
    given = [f"--{option}" if value is True else f"--{option} {value}" for option, value in options.items() if value]
    return " ".join([name, *given])


def refuse_places(source: str, out: Path, *, overwrite: bool) -> None:
    """Raise ValueError if writing to `out` would harm the source, or a data set without being told to."""
    if os.path.exists(source) and (
        out.resolve() == Path(source).resolve() or Path(source).resolve() in out.resolve().parents
    ):
        raise ValueError(f"OUT ({out}) is SOURCE or lies in it ({source}): choose a folder elsewhere")
    if (out / MANIFEST).exists() and not overwrite:
        raise ValueError(f"{out} holds a complete data set: choose another folder, or replace it with --overwrite")


@contextlib.contextmanager
def progress(console: Console, rows: int | None, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """A bar with rate and time left, gone at the end; gives the function to call with how many rows were written."""
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.completed:,} rows"),
        RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("", total=rows)
        yield lambda rows: bar.advance(task, rows)


class RateColumn(ProgressColumn):
    """Rows per second, once there is something to divide."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} rows/s" if task.speed else "")
