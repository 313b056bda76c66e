"""CNTK map files: a line `path TAB label` per image, or `key TAB path TAB label`; fields `image`, `label` and `file`.

Paths are relative to the map file, also those that begin with `...` as in CNTK; `pets.zip@cat/1.png` lies in a zip.
`label` is a class number, int64; `file` is the path as it is written; `key`, where the lines have one, the sequence key
by which CNTK joins files. With `--decode` images come as pixels, as those of a folder do (see images.py). Rows keep the
order of the lines; blank lines are bad records, and so are missing files, broken images and labels that are no number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minibatch.errors import require
from minibatch.tools import sources
from minibatch.tools.sources import BadRecord, Options, Piece
from minibatch.tools.sources.images import checked, decoded, refuse_other_shape
from minibatch.tools.sources.text_lines import blocks

UNIT_LINES = 256
MOST_ZIPS = 16  # open at a time


def open_source(text: str, options: Options) -> MapSource:
    """The images that the lines of the file `text` name; the first line tells how many columns there are."""
    require("PIL", "convert", "reading images")
    if os.path.isdir(text):
        raise ValueError(f"{text!r} is a folder; expected a map file, whose lines are path TAB label")
    columns, rows = None, 0
    for _, block in blocks(text):
        columns = columns or next((len(line.split(b"\t")) for line in block.split(b"\n") if line.strip()), None)
        rows += block.count(b"\n")
    if columns not in (None, 2, 3):
        raise ValueError(
            f"{text!r}: the first line has {columns} columns divided by tabs, expected 2 (path, label) or 3 "
            "(key, path, label); if it is plain text, give --format text"
        )
    return MapSource(path=text, columns=columns or 2, rows=rows, options=options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapSource:
    """The images of one map file."""

    path: str
    columns: int
    rows: int
    options: Options

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return {}

    def describe(self) -> str:
        return f"CNTK image map of {self.rows:,} lines{' with keys' * (self.columns == 3)}"

    def inputs(self) -> Iterator[str]:
        """The paths of the files in which the images lie; nothing of lines that name none."""
        for _, line in self.lines():
            cells = line.decode(errors="replace").split("\t")
            if len(cells) == self.columns:
                yield os.path.join(os.path.dirname(self.path), plain_path(cells[-2])[0])

    def batches(self) -> Iterator[Piece]:
        for unit in self.units():
            yield from unit.batches()

    def units(self) -> Iterator[MapUnit]:
        """Runs of lines: reading and decoding their images can be shared among processes."""
        first, lines = None, self.lines()
        while some := list(itertools.islice(lines, UNIT_LINES)):
            unit = MapUnit(path=self.path, columns=self.columns, lines=some, first=first, options=self.options)
            if self.options.decode and first is None:
                first = unit.first_shape()
            yield dataclasses.replace(unit, first=first)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines and their numbers."""
        for first, block in blocks(self.path):
            yield from enumerate(block.split(b"\n")[:-1], start=first)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapUnit:
    """Some lines of a map file and their numbers; decoded images must be like the `first`: name, (height, width)."""

    path: str
    columns: int
    lines: Sequence[tuple[int, bytes]]
    first: tuple[str, tuple[int, int]] | None
    options: Options

    def batches(self) -> Iterator[Piece]:
        with Contents(os.path.dirname(self.path)) as contents:
            rows: list[tuple[Any, ...]] = []
            size = 0
            for number, line in self.lines:
                try:
                    row = self.row(line, contents)
                    if self.first is not None:
                        refuse_other_shape(self.path, self.first, (row[1], row[0].shape[:2]))
                except ValueError as error:
                    self.options.bad(BadRecord(self.path, f"line {number}", str(error)))
                    continue
                rows.append(row)
                size += memoryview(row[0]).nbytes
                if size >= sources.PIECE_BYTES:
                    yield self.piece(rows)
                    rows, size = [], 0
            if rows:
                yield self.piece(rows)

    def first_shape(self) -> tuple[str, tuple[int, int]] | None:
        """The first image of these lines that can be decoded, and its height and width."""
        with Contents(os.path.dirname(self.path)) as contents:
            for _, line in self.lines:
                with contextlib.suppress(ValueError):  # it is refused, or passed over, when its turn comes
                    image, name, *_ = self.row(line, contents)
                    return name, image.shape[:2]
        return None

    def row(self, line: bytes, contents: Contents) -> tuple[Any, ...]:
        """Image, path, label and key of a line; raises ValueError if it has none."""
        try:
            cells = line.rstrip(b"\r").decode().split("\t")
        except UnicodeDecodeError as error:
            raise ValueError(f"it is not UTF-8: {error}") from error
        if cells == [""]:
            raise ValueError("the line is blank")
        if len(cells) != self.columns:
            expected = "path TAB label" if self.columns == 2 else "key TAB path TAB label"
            raise ValueError(f"it has {len(cells)} columns divided by tabs, expected {self.columns}: {expected}")
        *key, name, label = cells
        if not label.strip().isascii() or not label.strip().isdecimal() or int(label) > np.iinfo(np.int64).max:
            raise ValueError(f"label {label!r} is no class number")
        image = (decoded if self.options.decode else checked)(contents.read(name), f"the image {name!r}")
        return image, name, int(label), *key

    def piece(self, rows: list[tuple[Any, ...]]) -> Piece:
        images, names, labels, *keys = map(list, zip(*rows, strict=True))
        return {
            "image": np.stack(images) if self.options.decode else images,
            "label": np.asarray(labels, np.int64),
            "file": names,
            **({"key": keys[0]} if keys else {}),
        }


def plain_path(name: str) -> tuple[str, str]:
    """Where the image `name` of a map lies: the path relative to the map, and the path in the zip that this is, or "".

    >>> plain_path(".../pets.zip@/cat/1.png"), plain_path("cat/2.png")
    (('pets.zip', 'cat/1.png'), ('cat/2.png', ''))
    """
    plain = name.removeprefix("...").lstrip("/\\") if name.startswith("...") else name
    archive, _, member = plain.partition("@")
    return (archive, member.lstrip("/")) if member and archive.lower().endswith(".zip") else (plain, "")


class Contents(contextlib.ExitStack):
    """The files that a map in `folder` names; zips stay open for the next ones."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder
        self.zips: dict[str, zipfile.ZipFile] = {}

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises ValueError if they cannot be read."""
        file_name, member = plain_path(name)
        try:
            if member:
                return self.opened(os.path.join(self.folder, file_name)).read(member)
            with open(os.path.join(self.folder, file_name), "rb") as file:
                return file.read()
        except (OSError, KeyError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise ValueError(f"the image {name!r} cannot be read: {reason}") from error

    def opened(self, path: str) -> zipfile.ZipFile:
        if path not in self.zips:
            if len(self.zips) >= MOST_ZIPS:
                self.zips.pop(next(iter(self.zips))).close()
            self.zips[path] = self.enter_context(zipfile.ZipFile(path))
        return self.zips[path]
