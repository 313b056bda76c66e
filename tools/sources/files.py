"""The files of a folder or of a tar, by name in sorted order, so that how a tar was packed changes nothing.

A tar is read twice, once for its names and once for the contents. A compressed one can only be read forwards: where its
packing order is not the sorted one, the second reading first unpacks it to a temporary file (in TMPDIR), because
memory would have to hold the archive otherwise. Links in a folder are followed; in a tar, hard links are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from minibatch.tools.sources import unpacked

COMPRESSED = (".gz", ".tgz")


class Files(Protocol):
    """Files that have names: "/" between the parts, relative to what holds them."""

    @property
    def names(self) -> Sequence[str]:
        """The names of all files, sorted part by part, so that those of one folder stand together."""

    def contents(self, names: Sequence[str]) -> Iterator[bytes]:
        """The bytes of the files `names`, one after another."""

    def parts(self, names: Sequence[str], size: int) -> Iterator[Files]:
        """The files `names` in runs of about `size` bytes, for other processes: `names` of a part are all it holds."""


def open_files(path: str) -> Files:
    """The files of the folder or tar `path`; raises ValueError for a damaged tar and for a name that is not Unicode."""
    files: Files = Folder(path=Path(path), names=folder_names(path)) if os.path.isdir(path) else read_tar(path)
    for name in files.names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{path!r}: the name of the file {name!a} is not UTF-8: rename it") from error
    return files


def by_parts(name: str) -> tuple[str, ...]:
    """The sorting key: "a/z" comes before "a-b/y", as the folder "a" comes before the folder "a-b"."""
    return PurePosixPath(name).parts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder:
    """The files below a folder."""

    path: Path
    names: Sequence[str]

    def contents(self, names: Sequence[str]) -> Iterator[bytes]:
        for name in names:
            yield (self.path / name).read_bytes()

    def parts(self, names: Sequence[str], size: int) -> Iterator[Folder]:
        for part in runs(((name, os.stat(self.path / name).st_size) for name in names), size):
            yield Folder(path=self.path, names=part)


def folder_names(path: str) -> list[str]:
    """The names of all files below the folder `path`, through links too, except those that lead back up."""
    names: list[str] = []

    def walk(folder: str, above: frozenset[tuple[int, int]]) -> None:
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in above:
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    walk(entry.path, above | {(here.st_dev, here.st_ino)})
                else:
                    names.append(Path(entry.path).relative_to(path).as_posix())

    walk(path, frozenset())
    return sorted(names, key=by_parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tar:
    """The files of a tar; `extents` has the first byte in the uncompressed tar and the size of each that has bytes."""

    path: str
    names: Sequence[str]
    extents: dict[str, tuple[int, int]]

    def contents(self, names: Sequence[str]) -> Iterator[bytes]:
        for name in names:
            if name not in self.extents:
                raise ValueError(
                    f"{self.path!r}: the file {name!r} is a link or sparse: pack the tar with --dereference"
                )
        begins = [self.extents[name][0] for name in names]
        with readable(self.path), opened(self.path, forwards=begins == sorted(begins)) as file:
            for name in names:
                begin, size = self.extents[name]
                file.seek(begin)
                content = file.read(size)
                if len(content) < size:
                    raise EOFError(f"the file {name!r} is cut short")
                yield content

    def parts(self, names: Sequence[str], size: int) -> Iterator[Files]:
        if not self.path.lower().endswith(COMPRESSED):
            for part in runs(((name, self.extents.get(name, (0, 0))[1]) for name in names), size):
                extents = {name: self.extents[name] for name in part if name in self.extents}
                yield Tar(path=self.path, names=part, extents=extents)
            return
        held: dict[str, bytes] = {}
        for name, content in zip(names, self.contents(names), strict=True):
            held[name] = content
            if sum(map(len, held.values())) >= size:
                yield Held(held=held)
                held = {}
        if held:
            yield Held(held=held)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """Files in memory: a run from a compressed tar, which other processes could not read from its middle."""

    held: dict[str, bytes]

    @property
    def names(self) -> Sequence[str]:
        return list(self.held)

    def contents(self, names: Sequence[str]) -> Iterator[bytes]:
        for name in names:
            yield self.held[name]

    def parts(self, names: Sequence[str], size: int) -> Iterator[Files]:
        yield Held(held={name: self.held[name] for name in names})


def runs(sizes: Iterable[tuple[str, int]], size: int) -> Iterator[list[str]]:
    """The names of (name, bytes) in runs of at least `size` bytes, but for the last.

    >>> list(runs([("a", 3), ("b", 1), ("c", 9), ("d", 0)], 4))
    [['a', 'b'], ['c'], ['d']]
    """
    names: list[str] = []
    filled = 0
    for name, bytes_ in sizes:
        names.append(name)
        filled += bytes_
        if filled >= size:
            yield names
            names, filled = [], 0
    if names:
        yield names


def read_tar(path: str) -> Tar:
    """The tar at `path`, its names read; of several members with one name the last counts, as when unpacking."""
    names: set[str] = set()
    extents: dict[str, tuple[int, int]] = {}
    with readable(path), opened(path, forwards=True) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            name = plain_name(member.name)
            if not member.isdir():
                names.add(name)
                extents.pop(name, None)
            if member.isreg() and not member.issparse():
                extents[name] = (member.offset_data, member.size)
            elif member.islnk() and plain_name(member.linkname) in extents:
                extents[name] = extents[plain_name(member.linkname)]
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep a kilobyte of each
        # tarfile takes a damaged header for the end; a true end is marked with zeros.
        file.seek(tar.offset)
        if file.read(512) != bytes(512):
            raise EOFError(f"after {len(names):,} files it is cut short or damaged")
        while file.read(2**20):  # gzip compares its checksum at the end
            pass
    return Tar(path=path, names=sorted(names, key=by_parts), extents=extents)


def plain_name(name: str) -> str:
    """The name of a member without a leading "/" or "./".

    >>> plain_name("./cat/1.jpg"), plain_name("/cat/1.jpg")
    ('cat/1.jpg', 'cat/1.jpg')
    """
    return PurePosixPath(name).as_posix().lstrip("/")


@contextlib.contextmanager
def opened(path: str, *, forwards: bool) -> Iterator[IO[bytes]]:
    """The bytes of the tar at `path`, uncompressed; `forwards` promises that no seek goes back."""
    with contextlib.ExitStack() as stack:
        file: Any
        if not path.lower().endswith(COMPRESSED):
            file = stack.enter_context(open(path, "rb"))
        else:
            file = stack.enter_context(gzip.open(path))
            if not forwards:
                file = stack.enter_context(unpacked(file))
        yield file


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Whatever shows that the tar at `path` is damaged becomes a ValueError that names it."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path!r} cannot be read as a tar, it was truncated or is something else: {error}") from error
