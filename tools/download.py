"""Raw data from their official addresses, into the user's cache, with checked digests.

The cache is the one that `pooch` chooses for this system (on Linux ~/.cache/minibatch), or the folder that the
environment variable MINIBATCH_CACHE names. What lies there with the right digest is not downloaded again; what comes
with another one, or not to its end, is thrown away.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from minibatch.errors import require

if TYPE_CHECKING:
    from minibatch.train.recipes.origins import DataSet, Download

CACHE = "MINIBATCH_CACHE"


def fetched(
    recipe: str, used: Mapping[str, DataSet], called: str, *, quiet: bool = False
) -> tuple[Path, Mapping[str, DataSet]]:
    """The raw data of one of the data sets in `used`, downloaded: their path, and that data set by its name.

    called: its name, empty for the first. Raises ValueError where it cannot be downloaded, or is none of `used`, and
    OSError where the network fails; both say how to get the data by hand.
    """
    names = [name for name, one in used.items() if one.forms]
    if called and called not in names:
        raise ValueError(f"--data fetch:{called}: the recipe {recipe} can be trained on {', '.join(names)}")
    name = called or names[0]
    one = used[name]
    if not one.downloads:
        raise ValueError(
            f"--data fetch: {one.title} cannot be downloaded here; get it by hand and pass its path with --data: "
            f"{one.by_hand}"
        )
    folder = cache() / name
    files = [fetch(each, folder, one, quiet=quiet) for each in one.downloads]
    return (files[0] if len(files) == 1 else folder), {name: one}


def cache() -> Path:
    """The folder that downloads are kept in."""
    require("pooch", "convert", "downloading data")
    import pooch

    given = os.environ.get(CACHE)
    return Path(given) if given else Path(pooch.os_cache("minibatch"))


def fetch(wanted: Download, folder: Path, of: DataSet, *, quiet: bool) -> Path:
    """The file `wanted` in `folder`, which is there with its digest, or is downloaded."""
    require("pooch", "convert", "downloading data")
    import pooch
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    pooch.get_logger().setLevel("ERROR")  # what it would say is said here
    by_hand = f"get it by hand ({of.by_hand}) and pass its path with --data"
    console = Console(stderr=True)
    if not quiet and not (folder / wanted.name).exists():
        typer.echo(f"downloading {wanted.url} to {folder}", err=True)
    shown = console.is_terminal and not quiet
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        downloader = pooch.HTTPDownloader(progressbar=Bar(bar), timeout=60, chunk_size=2**17)
        try:
            path = pooch.retrieve(
                wanted.url, known_hash=wanted.digest, fname=wanted.name, path=folder, downloader=downloader
            )
        except ValueError as error:  # another digest
            raise ValueError(
                f"{wanted.url} is not what was expected, {wanted.digest}, and was thrown away: {one_line(error)}; try "
                f"again, or {by_hand}"
            ) from error
        except OSError as error:  # those of requests are of this kind
            raise OSError(
                f"{wanted.url} could not be downloaded: {one_line(error)}; try again, or {by_hand}"
            ) from error
    return Path(path)


class Bar:
    """A bar of rich as pooch calls one."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.total = 0
        self.task: Any = None

    def update(self, count: int) -> None:
        """So many more bytes have come."""
        if self.task is None:
            self.task = self.bar.add_task("", total=self.total or None)
        self.bar.advance(self.task, count)

    def reset(self) -> None:
        """Called before the end, which begins to count anew."""
        if self.task is not None:
            self.bar.reset(self.task)

    def close(self) -> None:
        """The end of a file."""


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
