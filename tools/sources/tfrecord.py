"""TFRecord files of tf.train.Example or SequenceExample, plain or gzip: one, a folder of them, or a pattern of names.

A record is its length (64 bits), a checksum of that, its bytes, and a checksum of those; both checksums, masked
CRC-32C, are compared. Everything is read twice: a feature that has one value in every record becomes a scalar, one with
equally many an array, any other a list field. Byte strings stay bytes: nothing says which are text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import IO, cast

from minibatch.errors import require
from minibatch.tools.sources import BadRecord, Options
from minibatch.tools.sources.patterns import matched
from minibatch.tools.sources.record_source import FilesOfRecords
from minibatch.tools.sources.records import Record, Survey, survey
from minibatch.tools.sources.tf_example import decoded

SUFFIXES = (".tfrecord", ".tfrecords", ".tfrec", ".tfrecord.gz", ".tfrecords.gz")
GZIP_MAGIC = b"\x1f\x8b"


def open_source(text: str, options: Options) -> TfRecordSource:
    """The records of the file, folder or pattern `text`; a first reading finds what the features are."""
    require("crc32c", "convert", "reading TFRecord")
    files = matched(text, SUFFIXES)
    if not files and os.path.isdir(text):
        names = (name for name in sorted(os.listdir(text)) if ".tfrecord" in name.lower())
        files = [os.path.join(text, name) for name in names]
    if not files:
        raise ValueError(f"{text!r} holds no files {', '.join(SUFFIXES)}")
    source = TfRecordSource(files=files, options=options, found=Survey(rows=0, kinds={}))
    return dataclasses.replace(source, found=survey(source.records(), options.bad, single=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfRecordSource(FilesOfRecords):
    """The examples in some TFRecord files, one file after another."""

    def describe(self) -> str:
        return f"TFRecord, {len(self.files):,} file{'s' * (len(self.files) != 1)}: {self.found.describe()}"

    def records(self) -> Iterator[Record]:
        """All examples that can be decoded; the others are reported."""
        for file in self.files:
            for number, begin, data in records_of(file, self.options.bad):
                where = f"record {number:,}, byte {begin:,}"
                try:
                    fields = decoded(data)
                    if not fields:
                        raise ValueError("it has no features: it is no tf.train.Example, or an empty one")
                except ValueError as error:
                    self.options.bad(BadRecord(file, where, str(error)))
                else:
                    yield Record(file=file, where=where, fields=fields)


def records_of(path: str, bad: Callable[[BadRecord], None]) -> Iterator[tuple[int, int, bytes]]:
    """The records of the file at `path`: number, first byte (once unpacked), bytes.

    One whose bytes do not fit their checksum goes to `bad`; if its length does not, nothing behind it can be found, and
    the file is refused.
    """
    number = at = 0
    with opened(path) as file:
        while head := file.read(12):
            if len(head) < 12:
                raise ValueError(f"{path!r} ends within the head of record {number:,}, byte {at:,}: it was truncated")
            length, check = struct.unpack("<QI", head)
            if masked_checksum(head[:8]) != check:
                what = "is no TFRecord file" if not number else "is damaged"
                raise ValueError(f"{path!r} {what}: the length of record {number:,}, byte {at:,}, fails its checksum")
            data = file.read(length)
            tail = file.read(4)
            if len(data) < length or len(tail) < 4:
                raise ValueError(
                    f"{path!r} ends within record {number:,}, byte {at:,}, which has {length:,} bytes: it was truncated"
                )
            if masked_checksum(data) != struct.unpack("<I", tail)[0]:
                bad(BadRecord(path, f"record {number:,}, byte {at:,}", "its bytes fail their checksum: it is damaged"))
            else:
                yield number, at, data
            number += 1
            at += 16 + length


def masked_checksum(data: bytes) -> int:
    """TensorFlow's checksum: CRC-32C, its halves swapped by rotation and shifted (tensorflow/core/lib/hash/crc32c.h).

    >>> hex(masked_checksum(b"123456789"))
    '0xc78ab0e5'
    """
    import crc32c

    check = crc32c.crc32c(data)
    return int(((check >> 15 | check << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@contextlib.contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """The bytes of the file at `path`, unpacked if it is gzip."""
    with open(path, "rb") as file:
        head = file.read(12)  # a record's length may begin as gzip does, but then its checksum follows
        packed = head[:2] == GZIP_MAGIC and masked_checksum(head[:8]) != int.from_bytes(head[8:], "little")
    try:
        with gzip.open(path) if packed else open(path, "rb") as opens:
            yield cast(IO[bytes], opens)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path!r} cannot be unpacked, it was truncated or is something else: {error}") from error
