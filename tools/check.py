"""`minibatch check DIR`: every byte of a data set is read once; exit code 1 if something is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from minibatch.check import Problem, check_dataset, manifest_at
from minibatch.errors import DatasetError
from minibatch.foreign import is_foreign
from minibatch.manifest import Shard


def check(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The data set.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Read every byte of a data set and say what is damaged.

    Digests, sizes, schema, row counts, buffers, offsets and the fingerprint of the content must be what the
    manifest says. Arrow files of others have no manifest: of them everything but digests is checked.
    """
    if not directory.is_dir() and not is_foreign(directory):
        raise FileNotFoundError(f"no such folder: {directory}")
    try:
        _, manifest = manifest_at(directory)
        shards, fingerprint = manifest.shards, manifest.fingerprint
    except DatasetError:  # check_dataset says so too, and more
        shards, fingerprint = (), ""
    console = Console(stderr=True)
    columns = (BarColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=as_json or not console.is_terminal) as bar:
        task = bar.add_task("", total=sum(shard.bytes for shard in shards))
        problems = check_dataset(directory, progress=lambda shard: bar.advance(task, shard.bytes))
    if as_json:
        print(as_document(directory, shards, fingerprint, problems))
    else:
        print_findings(directory, shards, fingerprint, problems)
    if problems:
        raise typer.Exit(1)


def as_document(directory: Path, shards: tuple[Shard, ...], fingerprint: str, problems: list[Problem]) -> str:
    """The findings as JSON."""
    document = {
        "path": str(directory),
        "intact": not problems,
        "fingerprint": fingerprint or None,
        "shards": [{"file": shard.file, "rows": shard.rows, "bytes": shard.bytes} for shard in shards],
        "problems": [{"shard": problem.shard, "what": problem.what} for problem in problems],
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


def print_findings(directory: Path, shards: tuple[Shard, ...], fingerprint: str, problems: list[Problem]) -> None:
    """A line per shard with a tick or a cross, then every problem in full, then the verdict."""
    console = Console()
    damaged = {problem.shard for problem in problems}
    if shards:
        table = Table(box=None, pad_edge=False)
        for title in ("", "shard", "rows", "MB"):
            table.add_column(title, justify="right" if title in ("rows", "MB") else "left")
        for shard in shards:
            mark = Text("✗", "red") if shard.file in damaged else Text("✓", "green")
            table.add_row(mark, Text(shard.file), f"{shard.rows:,}", f"{shard.bytes / 1e6:,.1f}")
        console.print(table)
    for problem in problems:
        console.print(Text(f"{problem.shard or 'data set'}: {problem.what}", "red"), soft_wrap=True)
    if problems and shards and not fingerprint:
        verdict = f"{directory} is damaged: {len(problems)} problem{'s' * (len(problems) != 1)}; get the files again"
    elif problems:
        verdict = f"{directory} is damaged: {len(problems)} problem{'s' * (len(problems) != 1)}; convert it again"
    elif not fingerprint:
        verdict = (
            f"{directory} can be read: {sum(shard.rows for shard in shards):,} rows. There are no digests to compare: "
            f"`minibatch convert` makes a data set that has them"
        )
    else:
        verdict = f"{directory} is intact: {sum(shard.rows for shard in shards):,} rows, fingerprint {fingerprint}"
    console.print(Text(verdict), soft_wrap=True)
