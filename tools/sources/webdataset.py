"""WebDataset: tars whose files of one name make a sample, `000.jpg` and `000.cls`; a tar, a folder, or a pattern.

A file's name up to the first dot is the sample's key, kept as `__key__`, and the rest names a field: `.cls`, `.index`
and the like hold an integer, `.txt` text, `.npy` an array, `.json` the fields inside it (with dotted names, where all
samples agree about them; else text); anything else stays bytes, pictures and pickles too. Files of one sample stand
together in the tar. Everything is read twice, in the first pass no more than names, numbers, arrays and JSON.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

import numpy as np

from minibatch.tools.sources import BadRecord, Options
from minibatch.tools.sources.files import COMPRESSED, opened, readable
from minibatch.tools.sources.images import SUFFIXES as IMAGES
from minibatch.tools.sources.patterns import matched
from minibatch.tools.sources.record_source import FilesOfRecords
from minibatch.tools.sources.records import JsonText, Record, Survey, survey

TARS = (".tar", *(f".tar{packed}" for packed in COMPRESSED if packed != ".tgz"), ".tgz")
NAME = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<field>[^/]+)")
KEY = "__key__"
LOOKED_AT = 4096  # files by which to tell samples from a tar of images
# What the `webdataset` library decodes by the last part of a name, and how; the rest is bytes.
INTEGERS = frozenset({"cls", "cls2", "class", "count", "index", "inx", "id"})
TEXTS = frozenset({"txt", "text", "transcript"})
JSON = frozenset({"json", "jsn"})


def recognises(text: str) -> bool:
    """Whether `text` is a pattern or folder of tars, or a tar whose first files make one sample."""
    if not os.path.isfile(text):
        return True
    names = first_names(text, LOOKED_AT)
    found = [NAME.fullmatch(name) for name in names]
    if len(found) > 1 and found[0] and found[1] and found[0]["key"] == found[1]["key"]:
        return True
    images = any(PurePosixPath(name).suffix.lower() in IMAGES for name in names)
    return bool(names) and not images and all(found)  # else a tar of images, each for itself


def first_names(path: str, count: int) -> list[str]:
    """The names of the first files in a tar; none if it cannot be read."""
    names: list[str] = []
    try:
        with opened(path, forwards=True) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isreg() and is_of_sample(member.name):
                    names.append(member.name)
                if len(names) == count:
                    break
    except (tarfile.TarError, OSError, EOFError):
        pass
    return names


def open_source(text: str, options: Options) -> WebDatasetSource:
    """The samples of the tar, folder or pattern `text`; a first reading finds what the fields are."""
    files = matched(text, TARS)
    if not files:
        raise ValueError(f"{text!r} holds no files {', '.join(TARS)}")
    source = WebDatasetSource(path=text, files=files, options=options, found=Survey(rows=0, kinds={}))
    return dataclasses.replace(source, found=survey(source.records(headers=True), options.bad))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebDatasetSource(FilesOfRecords):
    """The samples in some tars, one tar after another."""

    path: str

    def describe(self) -> str:
        return f"WebDataset of {len(self.files):,} tar{'s' * (len(self.files) != 1)}: {self.found.describe()}"

    def records(self, *, headers: bool = False) -> Iterator[Record]:
        """All samples that can be decoded; the others are reported. With `headers`, what stays bytes is empty."""
        for file in self.files:
            for where, members in samples_of(file, headers=headers):
                try:
                    yield Record(file=file, where=where, fields=decoded(members))
                except ValueError as error:
                    self.options.bad(BadRecord(file, where, str(error)))


def samples_of(path: str, *, headers: bool) -> Iterator[tuple[str, list[tuple[str, str, bytes | None]]]]:
    """The samples of one tar: where each begins, and its files as key, field and content (None: a link)."""
    with readable(path), opened(path, forwards=True) as file:
        where, last = "", None
        members: list[tuple[str, str, bytes | None]] = []
        for member, content in members_of(file, headers=headers):
            found = NAME.fullmatch(str(PurePosixPath(member.name)))
            if found is None:
                continue
            if found["key"] != last:
                if members:
                    yield where, members
                where, members, last = f"sample {found['key']!r}, byte {member.offset:,}", [], found["key"]
            members.append((found["key"], found["field"].lower(), content))
        if members:
            yield where, members


def members_of(file: IO[bytes], *, headers: bool) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """The files of a tar with their contents, None for a link; raises EOFError for one without its end."""
    count = 0
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            count += 1
            if is_of_sample(member.name) and not member.isdir():
                yield member, content_of(tar, member, headers=headers)
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep a kilobyte of each
        # tarfile takes a damaged header for the end; a true end is marked with zeros.
        file.seek(tar.offset)
        if file.read(512) != bytes(512):
            raise EOFError(f"after {count:,} files it is cut short or damaged")
        while file.read(2**20):  # gzip compares its checksum at the end
            pass


def content_of(tar: tarfile.TarFile, member: tarfile.TarInfo, *, headers: bool) -> bytes | None:
    """The bytes of a file, or none of them where only `headers` matter."""
    if not member.isreg() or member.issparse():
        return None
    if headers and how(member.name) is bytes:
        return b""
    inside = tar.extractfile(member)
    content = inside.read() if inside is not None else b""
    if len(content) < member.size:
        raise EOFError(f"the file {member.name!r} is cut short")
    return content


def is_of_sample(name: str) -> bool:
    """Whether a file belongs to a sample: not a hidden one, nor one about the whole tar (`__index__`)."""
    return not any(part.startswith((".", "__")) for part in PurePosixPath(name).parts if part != ".")


def how(name: str) -> Any:
    """How the content of a file or field becomes a value: int, str, json, array or bytes."""
    last = name.rsplit(".", 1)[-1].lower()
    if last in INTEGERS:
        return int
    if last in TEXTS:
        return str
    return JsonText if last in JSON else array_of if last == "npy" else bytes


def decoded(members: list[tuple[str, str, bytes | None]]) -> dict[str, Any]:
    """The fields of one sample; raises ValueError for a file that is not what its name says."""
    fields: dict[str, Any] = {KEY: members[0][0]}
    for _, field, content in members:
        if field in fields:
            raise ValueError(f"it has two files .{field}")
        if content is None:
            raise ValueError(f"its file .{field} is a link or sparse: pack the tar with --dereference")
        make = how(field)
        try:
            fields[field] = content.decode() if make is str else make(content)
        except (ValueError, EOFError) as error:
            raise ValueError(f"its file .{field} cannot be decoded: {error}") from error
    return fields


def array_of(content: bytes) -> Any:
    """The array in an .npy file; objects are never unpickled."""
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python, and raises whatever that stumbles over
        raise ValueError(str(error)) from error
    if not isinstance(array, np.ndarray):
        raise ValueError("it is no .npy file")
    return array
