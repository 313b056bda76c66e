"""Plain text in UTF-8, a file or a folder of files: the field `text`, a row per line, paragraph or file.

| `--text-as` | a row |
|---|---|
| text (default) | text |
| bytes | list of uint8 |
| characters | list of numbers; the field's metadata `vocabulary` is a JSON list of the characters, sorted |

Lines come without their ends (a newline, or one behind a carriage return), empty ones too. A paragraph is what stands
between blank lines, a file everything in it. `--row-tokens N` lays all files end to end, as they are, and cuts them in
rows of N bytes or characters, the last one shorter. Rows per file of a folder have the field `file` beside them. What
is not UTF-8 is a bad record. A folder needs `--format text`; hidden files in it are left out.

`--subset first:90%` and `--subset last:10%` part a text by position, as `first:5000` and `last:5000` do: in bytes or
characters with `--row-tokens`, in rows without, and rounded so that `first:P%` and `last:(100 - P)%` are all of it and
share nothing. The vocabulary is that of the whole text in either part, so that both have the same numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from minibatch.ragged import Ragged
from minibatch.tools import sources
from minibatch.tools.sources import BadRecord, Column, Options, Piece
from minibatch.tools.sources.files import open_files
from minibatch.tools.sources.text_lines import blocks, offsets_of, opened

ROWS = ("line", "paragraph", "file")
FORMS = ("text", "bytes", "characters")
PART = re.compile(r"(first|last):(?:(\d+)|(\d+(?:\.\d+)?)%)", re.ASCII)
T = TypeVar("T", "Rows", NDArray[Any])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows as bytes, the file they come from, and where each begins."""

    file: str
    texts: Sequence[bytes]
    lines: Sequence[int]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, place: slice) -> Rows:
        return Rows(file=self.file, texts=self.texts[place], lines=self.lines[place])


def open_source(text: str, options: Options) -> TextSource:
    """The text of the file or folder `text`; characters are collected in a pass over all of it."""
    for flag, given, known in (("--row-per", options.row_per, ROWS), ("--text-as", options.text_as, FORMS)):
        if given not in (None, *known):
            raise ValueError(f"{flag} {given}: expected {', '.join(known)}")
    form = options.text_as or "text"
    if options.row_tokens is not None:
        if options.row_tokens < 1:
            raise ValueError(f"--row-tokens {options.row_tokens}: expected at least 1")
        if form == "text" or options.row_per is not None:
            raise ValueError("--row-tokens cuts bytes or characters: give --text-as bytes or characters, no --row-per")
    if options.subset is not None:
        part_of(options.subset, 0)  # what makes no sense is refused before all is read
    names = folder_files(text) if os.path.isdir(text) else [""]
    source = TextSource(
        path=text,
        names=names,
        row_per=options.row_per or "line",
        form=form,
        row_tokens=options.row_tokens,
        vocabulary=np.zeros(0, np.uint32),
        part=(0, 0),
        options=options,
    )
    if form == "characters":
        source = dataclasses.replace(source, vocabulary=source.characters())
    total = source.count()
    part = (0, total) if options.subset is None else part_of(options.subset, total)
    return dataclasses.replace(source, part=part)


def part_of(subset: str, total: int) -> tuple[int, int]:
    """Where the part of a text begins and ends, of `total` rows, bytes or characters.

    >>> part_of("first:90%", 1001), part_of("last:10%", 1001), part_of("last:7", 1001)
    ((0, 900), (900, 1001), (994, 1001))
    """
    found = PART.fullmatch(subset)
    share = Decimal(found[3]) if found and found[3] else Decimal(0)
    if not found or not (0 < share <= 100 or int(found[2] or 0) > 0):
        raise ValueError(f"--subset {subset}: expected first:90%, last:10%, first:5000 or last:5000 of a text")
    if found[1] == "first":
        return 0, int(total * share / 100) if found[3] else min(total, int(found[2]))
    return int(total * (100 - share) / 100) if found[3] else max(0, total - int(found[2])), total


def folder_files(path: str) -> list[str]:
    """The names of the files in a folder that are not hidden."""
    found = [
        name
        for name in open_files(path).names
        if not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    ]
    if not found:
        raise ValueError(f"{path!r} holds no files")
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSource:
    """The text of one file, or of the files `names` of a folder: the `part` from one place up to another, in rows, or
    in bytes or characters where those are cut end to end."""

    path: str
    names: Sequence[str]
    row_per: str
    form: str
    row_tokens: int | None
    vocabulary: NDArray[np.uint32]
    part: tuple[int, int]
    options: Options

    @property
    def rows(self) -> int:
        """How many rows there are, bad ones counted."""
        return -(-(self.part[1] - self.part[0]) // (self.row_tokens or 1))

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        if self.form != "characters":
            return {}
        return {"text": {"vocabulary": json.dumps(list(map(chr, self.vocabulary)), ensure_ascii=False)}}

    def describe(self) -> str:
        files = f"{len(self.names):,} files of text" if len(self.names) > 1 else "text"
        cut = f"a row per {self.row_per}" if self.row_tokens is None else f"in rows of {self.row_tokens:,}"
        held = {"text": "", "bytes": ", as bytes", "characters": f", as {len(self.vocabulary):,} different characters"}
        part = "" if self.options.subset is None else f", {self.options.subset.replace(':', ' ')} of it"
        return f"{files}, {cut}{held[self.form]}{part}"

    @property
    def files(self) -> Iterator[str]:
        """The paths of the files."""
        return (os.path.join(self.path, name) if name else self.path for name in self.names)

    def count(self) -> int:
        """How many rows there are in the whole text, bad ones counted; bytes or characters, if it is cut in those."""
        if self.row_per == "file":
            return len(self.names)
        if self.row_tokens is not None:
            return sum(len(piece) for piece in self.stream())
        return sum(len(rows.texts) for rows in self.raw_rows())

    def raw_rows(self) -> Iterator[Rows]:
        """The rows as bytes, a block at a time."""
        rows_in = {"line": lines_in, "paragraph": paragraphs_in, "file": file_in}[self.row_per]
        return itertools.chain.from_iterable(map(rows_in, self.files))

    def characters(self) -> NDArray[np.uint32]:
        """All characters that occur, as code points in ascending order."""
        seen = np.zeros(0x110000, np.bool_)
        for codes in self.code_points():
            seen[codes] = True
        return np.flatnonzero(seen).astype(np.uint32)

    def code_points(self) -> Iterator[NDArray[np.uint32]]:
        """The code points of all good rows, or of all that is laid end to end."""
        if self.row_tokens is not None:
            for file in self.files:
                for line, block in blocks(file, completed=False):
                    lines = split_lines(block)
                    rows = Rows(file=file, texts=lines, lines=range(line, line + len(lines)))
                    yield codes_of("".join(self.decoded(rows)[0]))
        else:
            for rows in self.raw_rows():
                yield codes_of("".join(self.decoded(rows)[0]))

    def decoded(self, rows: Rows) -> tuple[list[str], list[int]]:
        """The good rows as text, and which of `rows` they are; `options.bad` hears of the others."""
        try:
            return [text.decode() for text in rows.texts], list(range(len(rows.texts)))
        except UnicodeDecodeError:
            pass
        texts, places = [], []
        for place, text in enumerate(rows.texts):
            try:
                texts.append(text.decode())
                places.append(place)
            except UnicodeDecodeError as error:
                where = f"line {rows.lines[place] + text.count(bytes([10]), 0, error.start)}"
                advice = "re-encode the file, for example with `iconv -f latin1 -t utf-8`, or take --text-as bytes"
                self.options.bad(BadRecord(rows.file, where, f"it is not UTF-8 ({error.reason}): {advice}"))
        return texts, places

    def stream(self) -> Iterator[NDArray[Any]]:
        """The bytes, or the numbers of the characters, of all files end to end."""
        if self.form == "characters":
            yield from map(self.numbered, self.code_points())
            return
        for file in self.files:
            with opened(file) as content:
                while piece := content.read(max(1, sources.PIECE_BYTES // 4)):
                    yield np.frombuffer(piece, np.uint8)

    def numbered(self, codes: NDArray[np.uint32]) -> NDArray[Any]:
        """The places of characters in the vocabulary."""
        count = len(self.vocabulary)
        dtype = np.uint8 if count <= 2**8 else np.uint16 if count <= 2**16 else np.uint32
        place = np.zeros(int(self.vocabulary[-1]) + 1 if count else 0, dtype)
        place[self.vocabulary] = np.arange(count)
        return place[codes]

    def batches(self) -> Iterator[Piece]:
        if self.row_tokens is not None:
            for values, offsets in cut(between(self.stream(), *self.part), self.row_tokens):
                yield {"text": Ragged(values, offsets)}
            return
        for rows in between(self.raw_rows(), *self.part):
            column, places = self.column(rows)
            if places:
                named = self.row_per == "file" and self.names != [""]
                yield {"text": column, **({"file": self.relative(rows.file)} if named else {})}

    def relative(self, file: str) -> Column:
        return [os.path.relpath(file, self.path).replace(os.sep, "/")]

    def column(self, rows: Rows) -> tuple[Column, Sequence[int]]:
        """The good rows in the form that is asked for, and which they are."""
        if self.form == "bytes":
            values = np.frombuffer(b"".join(rows.texts), np.uint8)
            return Ragged(values, offsets_of(list(map(len, rows.texts)))), range(len(rows.texts))
        texts, places = self.decoded(rows)
        if self.form == "text":
            return texts, places
        return Ragged(self.numbered(codes_of("".join(texts))), offsets_of(list(map(len, texts)))), places


def codes_of(text: str) -> NDArray[np.uint32]:
    """The code points of `text`.

    >>> codes_of("aß").tolist()
    [97, 223]
    """
    return np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint32, copy=False)


def split_lines(block: bytes) -> list[bytes]:
    """The lines of a block with their ends, cut at newlines only."""
    parts = block.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + [parts[-1]] * bool(parts[-1])


def lines_in(file: str) -> Iterator[Rows]:
    """The lines of a file without their ends."""
    for line, block in blocks(file):
        texts = (block.replace(b"\r\n", b"\n") if b"\r" in block else block).split(b"\n")[:-1]
        yield Rows(file=file, texts=texts, lines=range(line, line + len(texts)))


def paragraphs_in(file: str) -> Iterator[Rows]:
    """The paragraphs of a file: lines joined by newlines, up to a blank line."""
    paragraph: list[bytes] = []
    begin = 0
    for rows in lines_in(file):
        texts, lines = [], []
        for text, line in zip(rows.texts, rows.lines, strict=True):
            if text and not text.isspace():
                begin = begin if paragraph else line
                paragraph.append(text)
            elif paragraph:
                texts.append(b"\n".join(paragraph))
                lines.append(begin)
                paragraph = []
        if texts:
            yield Rows(file=file, texts=texts, lines=lines)
    if paragraph:
        yield Rows(file=file, texts=[b"\n".join(paragraph)], lines=[begin])


def file_in(file: str) -> Iterator[Rows]:
    """A whole file as one row."""
    yield Rows(file=file, texts=[b"".join(block for _, block in blocks(file, completed=False))], lines=[1])


def between(pieces: Iterable[T], begin: int, end: int) -> Iterator[T]:
    """What lies from `begin` up to `end` in `pieces` that are laid end to end; nothing is read beyond it.

    >>> [part.tolist() for part in between([np.arange(4), np.arange(4, 6), np.arange(6, 9)], 3, 7)]
    [[3], [4, 5], [6]]
    """
    place = 0
    for piece in pieces:
        part = piece[max(0, begin - place) : max(0, end - place)]
        place += len(piece)
        if len(part):
            yield part
        if place >= end:
            return


def cut(pieces: Iterator[NDArray[Any]], size: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
    """What comes in `pieces`, laid end to end, in rows of `size` (the last one shorter): values and offsets.

    >>> [offsets.tolist() for _, offsets in cut(iter([np.arange(5), np.arange(2)]), 3)]
    [[0, 3], [0, 3], [0, 1]]
    """
    kept: list[NDArray[Any]] = []
    count = 0
    for piece in pieces:
        kept.append(piece)
        count += len(piece)
        if count >= size:
            values = np.concatenate(kept)
            whole = count - count % size
            yield values[:whole], np.arange(0, whole + 1, size)
            kept, count = [values[whole:]], count - whole
    if count:
        yield np.concatenate(kept), np.array([0, count])
