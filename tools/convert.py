"""`minibatch convert SOURCE OUT`: any source of tools/sources → a data set.

For example `minibatch convert photos.tar.gz data/test --subset test --decode`. One source and one set of options give
one set of bytes, whatever the timing, the number of workers and the interruptions: a conversion that was stopped leaves
a folder that says so, and the same command goes on behind the last shard that was finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from minibatch import Dataset, DatasetWriter
from minibatch.claim import JOURNAL
from minibatch.errors import WriterBusyError
from minibatch.storage import LOCK, MANIFEST
from minibatch.tools.convert_options import identity_of, origin_of, taking_options
from minibatch.tools.sources import FORMATS, BadRecord, BadRecords, Options, Piece, Source, open_source
from minibatch.tools.workers import Delivery, notice, noticed, read_source, usable_cores

SOURCE_HELP = "What to convert: " + "; ".join(f"{each.example} ({each.name})" for each in FORMATS) + "."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a finished conversion wrote; `resumed_rows` of the rows were there from one that had been stopped."""

    rows: int
    bytes: int
    shards: int
    fingerprint: str
    resumed_rows: int = 0


@taking_options
def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP, show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write, new or empty.", show_default=False)],
    options: Options,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first LIMIT rows.")] = None,
    chunk_rows: Annotated[int | None, typer.Option(min=1, help="Rows per chunk (default: about 8 MiB).")] = None,
    shard_rows: Annotated[int | None, typer.Option(min=1, help="Rows per file (default: about 512 MiB).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the data set in OUT.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that read, once it pays (default: one per core).")
    ] = None,
    max_errors: Annotated[int, typer.Option(min=0, help="Skip and report up to so many malformed records.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the summary line.")] = False,
) -> None:
    """Turn arrays, tables, texts or images into a data set.

    Rows keep the order of the source; images are sorted by name. The same source gives the same bytes each time, with
    any number of workers. Stopped or killed and started again, it goes on with the first shard that is not finished.
    """
    started, console = time.perf_counter(), Console(stderr=True)
    shown = console.is_terminal and not quiet and not as_json
    bad = BadRecords(max_errors)
    try:
        refuse_places(source, out, overwrite=overwrite)
        if max_errors:
            options = dataclasses.replace(options, bad=notice)
        with console.status(f"looking at {escape(source)}") if shown else contextlib.nullcontext():
            opened = open_source(source, options)
            identity = identity_of(source, opened, options)
        if not quiet:
            say(console, f"{source}: {opened.describe()}")
        with progress(console, expected_rows(opened, limit), shown=shown) as advance:
            done = write_source(
                opened,
                out,
                origin=origin_of(source, options, limit),
                limit=limit,
                chunk_rows=chunk_rows,
                shard_rows=shard_rows,
                overwrite=overwrite,
                workers=workers or usable_cores(),
                bad=bad,
                resume=identity,
                advance=advance,
                tell=lambda text: None if quiet else say(console, text, style="yellow"),
            )
    except BaseException as error:
        report(bad, console)
        if not isinstance(error, WriterBusyError):
            tell_what_is_left(out, console)
        if as_json:
            reason = "stopped" if isinstance(error, KeyboardInterrupt) else " ".join(str(error).split())
            print_document({"path": str(out), "complete": False, "error": reason}, bad)
        if isinstance(error, KeyboardInterrupt):
            say(console, "stopped", style="yellow")
            raise typer.Exit(130) from None
        raise
    seconds = time.perf_counter() - started
    report(bad, console)
    if as_json:
        print_document({"path": str(out), "complete": True, **dataclasses.asdict(done), "seconds": seconds}, bad)
        return
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
    workers: int = 1,
    bad: BadRecords | None = None,
    resume: Mapping[str, Any] | None = None,
    advance: Callable[[int], object] = lambda rows: None,
    tell: Callable[[str], object] = lambda text: None,
) -> Conversion:
    """Write the rows of `source`, or the first `limit`, to the data set `out`; `advance` hears the rows of each piece.

    Up to `workers` processes read, once that pays. With `resume`, which says what the rows are made from, a conversion
    that was stopped is continued; `tell` hears from where, or why not. `bad` collects the malformed records that the
    source has passed over, if it was opened with `Options(bad=workers.notice)`.

    Raises ValueError for a source without rows, what the source raises about its rows, and what `DatasetWriter` raises.
    A source whose first piece cannot be read leaves `out` untouched; one that fails later leaves it unfinished.

    >>> import tempfile
    >>> done = write_source(open_source("sklearn:iris"), Path(tempfile.mkdtemp()), limit=100)
    >>> done.rows, done.shards
    (100, 1)
    """
    bad = BadRecords(0) if bad is None else bad
    with contextlib.ExitStack() as stack:
        collect(noticed(), bad)
        deliveries = stack.enter_context(contextlib.closing(read_source(source, workers)))
        early: list[Delivery] = []
        for delivery in deliveries:
            early.append(delivery)
            collect(delivery.bad, bad)
            if delivery.piece and rows_of(delivery.piece):
                break
        else:
            raise ValueError(f"there are no rows in this source: {source.describe()}")
        writer = stack.enter_context(
            DatasetWriter(
                out,
                chunk_rows,
                shard_rows,
                metadata=source.metadata,
                source=origin,
                overwrite=overwrite,
                resume=None if resume is None else {**resume, "limit": limit},
            )
        )
        resumed, row = writer.rows, 0
        if writer.resumption is not None and writer.resumption.refused:
            tell(f"{out}: {starting(resumed)} what was there before, because {writer.resumption.refused}")
        elif resumed:
            tell(f"{out}: going on after row {resumed:,}, where the last finished shard ends")
        following: Iterator[Delivery] = itertools.chain(early, deliveries)
        if writer.resumption is not None and resumed:
            deliveries.close()
            advance(resumed)
            mark = writer.resumption.mark or {"unit": 0, "bad": []}
            row = writer.resumption.mark_rows
            collect((BadRecord(*record) for record in mark["bad"]), bad)
            following = stack.enter_context(contextlib.closing(read_source(source, workers, mark["unit"])))
        write_rows(writer, following, row, limit, bad, advance)
    manifest = Dataset.open(out).manifest
    return Conversion(
        rows=manifest.rows,
        bytes=sum(shard.bytes for shard in manifest.shards),
        shards=len(manifest.shards),
        fingerprint=manifest.fingerprint,
        resumed_rows=resumed,
    )


def write_rows(
    writer: DatasetWriter,
    deliveries: Iterator[Delivery],
    row: int,
    limit: int | None,
    bad: BadRecords,
    advance: Callable[[int], object],
) -> None:
    """Write what is delivered, from row number `row` of the source on, up to `limit`; not what `writer` has already."""
    if limit is not None and writer.rows >= limit:
        return
    for delivery in deliveries:
        collect(delivery.bad, bad)
        if delivery.piece is None:
            found = [[record.file, record.where, record.reason] for record in bad.found]
            writer.mark({"unit": delivery.unit + 1, "bad": found})
        elif delivery.piece:
            rows = rows_of(delivery.piece)
            start = min(rows, max(0, writer.rows - row))
            stop = rows if limit is None else min(rows, limit - row)
            if start < stop:
                whole = (start, stop) == (0, rows)
                writer.write(delivery.piece if whole else part_of(delivery.piece, start, stop))
                advance(stop - start)
            row += rows
            if limit is not None and row >= limit:
                return


def part_of(piece: Piece, start: int, stop: int) -> Piece:
    """Rows `start` to `stop` of a piece.

    >>> part_of({"x": ["a", "b", "c"]}, 1, 3)
    {'x': ['b', 'c']}
    """
    return {name: values[start:stop] for name, values in piece.items()}


def rows_of(piece: Piece) -> int:
    return len(next(iter(piece.values())))


def collect(records: Iterable[BadRecord], bad: BadRecords) -> None:
    """Count bad records; raises the first beyond what `bad` allows."""
    for record in records:
        bad(record)


def report(bad: BadRecords, console: Console) -> None:
    """Name every record that was skipped."""
    if bad.found:
        say(console, f"skipped {len(bad.found):,} malformed record{'s' * (len(bad.found) != 1)}:", style="yellow")
    for record in bad.found:
        say(console, f"  {record}", style="yellow")


def print_document(document: Mapping[str, Any], bad: BadRecords) -> None:
    """The one JSON document of `--json`."""
    records = [{"file": record.file, "where": record.where, "reason": record.reason} for record in bad.found]
    print(json.dumps({**document, "bad_records": records}, indent=1, ensure_ascii=False))


def starting(kept: int) -> str:
    return f"keeping the first {kept:,} rows, but no more, of" if kept else "starting anew instead of continuing"


def tell_what_is_left(out: Path, console: Console) -> None:
    """Say what a conversion that did not come to its end has left in `out`, if it is ours."""
    finished = sum(1 for _ in out.glob("shard-*.arrow")) if out.is_dir() else 0
    if (out / MANIFEST).exists():
        finished = sum(1 for _ in out.glob("shard-*.arrow.new"))
        if (out / JOURNAL).exists() and finished:
            going_on = f"the same command goes on after {shards_text(finished)} of the new one"
            say(console, f"{out} still holds the old data set; {going_on}", style="yellow")
    elif (out / LOCK).exists():
        going_on = f"goes on after {shards_text(finished)}" if finished else "starts it again"
        say(console, f"{out} is unfinished and no data set; the same command {going_on}", style="yellow")


def shards_text(count: int) -> str:
    return f"{count:,} finished shard{'s' * (count != 1)}"


def say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def expected_rows(source: Source, limit: int | None) -> int | None:
    """How many rows will come, as far as that is known."""
    known = [rows for rows in (source.rows, limit) if rows is not None]
    return min(known, default=None)


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
