"""WAV files in a folder or tar, `[subset/]class/…/file.wav` or all in one folder: sound as arrays of varying length.

Fields: `audio`, a list of samples (int16, or float32 as soon as one file has more than 16 bits or floats; with several
channels, lists of (channels,)), `label` where the files lie in folders of classes, as for images, and `file`. All
files must have one sample rate, noted in the schema, and one number of channels. PCM of 8, 16, 24 and 32 bits and
floats of 32 and 64 bits are read (WAVE_FORMAT_EXTENSIBLE too): integers are divided by their largest magnitude where
they become floats, 8 bits are shifted to signed 16.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from minibatch.tools import sources
from minibatch.tools.sources import BadRecord, Options, Piece
from minibatch.tools.sources.files import Files, by_parts, open_files
from minibatch.tools.sources.images import SUBSETS, counted, lay_out, shortened
from minibatch.tools.sources.records import Kind, Record, pieces

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sound:
    """The header of one WAV file: `code` says how samples are stored; they are the bytes `begin` … `end` - 1."""

    code: int
    bits: int
    channels: int
    rate: int
    begin: int
    end: int


def open_source(text: str, options: Options) -> WavSource:
    """The WAV files of the folder or tar `text`; the headers of all are read to find what they have in common."""
    files = open_files(text)
    names = [name for name in files.names if is_wav(name)]
    if not names:
        raise ValueError(f"{text!r} holds no .wav files, but {counted(len(files.names), 'other file')}")
    classes: Sequence[str] = ()
    labels: Sequence[int] | None = None
    if in_classes(names):
        layout = lay_out(names, options.subset, text)
        names, labels, classes = list(layout.names), layout.labels, layout.classes
    elif options.subset is not None:
        names = [name for name in names if by_parts(name)[:-1][:1] == (options.subset,)]
        if not names:
            raise ValueError(f"{text!r} holds no subset {options.subset!r}: no folder of that name has .wav files")
    taken = dict(zip(names, labels if labels is not None else [0] * len(names), strict=True))
    wide, kept, first = False, [], None
    for name, content in zip(names, files.contents(names), strict=True):
        try:
            sound = header_of(content)
            first = first or (name, sound)
            refuse_unlike(first, sound)
        except ValueError as error:
            options.bad(BadRecord(text, name, str(error)))
            continue
        wide |= sound.code == FLOAT or sound.bits > 16
        kept.append(name)
    if first is None:
        raise ValueError(f"{text!r}: none of its {len(names):,} .wav files can be read")
    return WavSource(
        path=text,
        files=files,
        names=kept,
        labels=[taken[name] for name in kept] if labels is not None else None,
        classes=classes,
        dtype="float32" if wide else "int16",
        channels=first[1].channels,
        rate=first[1].rate,
        options=options,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WavSource:
    """Sounds of one sample rate, their classes and names."""

    path: str
    files: Files
    names: Sequence[str]
    labels: Sequence[int] | None
    classes: Sequence[str]
    dtype: str
    channels: int
    rate: int
    options: Options

    @property
    def rows(self) -> int:
        return len(self.names)

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        noted = {"audio": {"sample_rate": str(self.rate)}}
        if self.labels is not None:
            noted["label"] = {"classes": json.dumps(list(self.classes), ensure_ascii=False)}
        return noted

    def describe(self) -> str:
        classes = (
            f" in {counted(len(self.classes), 'class', 'classes')} ({', '.join(shortened(self.classes))})"
            if self.labels is not None
            else ""
        )
        channels = f", {self.channels} channels" if self.channels > 1 else ""
        return f"{counted(self.rows, 'WAV file')}{classes}: {self.dtype}, {self.rate:,} Hz{channels}"

    def batches(self) -> Iterator[Piece]:
        shape = () if self.channels == 1 else (self.channels,)
        kinds = {"audio": Kind(dtype=np.dtype(self.dtype), shape=shape, is_list=True)}
        if self.labels is not None:
            kinds["label"] = Kind(dtype=np.dtype(np.int64))
        kinds["file"] = Kind(dtype=str)
        yield from pieces(self.records(), kinds, self.options.bad)

    def units(self) -> Iterator[WavSource]:
        start = 0
        for files in self.files.parts(self.names, sources.PIECE_BYTES):
            stop = start + len(files.names)
            labels = None if self.labels is None else self.labels[start:stop]
            yield dataclasses.replace(self, files=files, names=files.names, labels=labels)
            start = stop

    def records(self) -> Iterator[Record]:
        """One record per file."""
        labels = self.labels if self.labels is not None else [0] * len(self.names)
        for name, label, content in zip(self.names, labels, self.files.contents(self.names), strict=True):
            sound = header_of(content)
            fields: dict[str, Any] = {"audio": samples_of(content, sound, self.dtype)}
            if self.labels is not None:
                fields["label"] = np.int64(label)
            yield Record(file=self.path, where=name, fields={**fields, "file": name})


def is_wav(name: str) -> bool:
    """Whether `name` is that of a WAV file which is not hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in (".wav", ".wave") and not any(part.startswith((".", "__")) for part in path.parts)


def in_classes(names: Sequence[str]) -> bool:
    """Whether every file lies in a folder, and not all in one, nor all in folders of subsets."""
    parts = [by_parts(name) for name in names]
    tops = {folders[0] for folders in parts if len(folders) > 1}
    if any(len(folders) == 1 for folders in parts):
        return False
    depth = max(len(folders) for folders in parts)
    return depth > 2 or (len(tops) > 1 and not all(top.lower() in SUBSETS for top in tops))


def header_of(content: bytes) -> Sound:
    """What the chunks of a WAV file say of its samples; raises ValueError for anything else, or for one cut short.

    The layout is that of RIFF (Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0, 1991).
    """
    if len(content) < 12 or content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError(f"it is no WAV file: it begins with {content[:12]!r}, expected RIFF….WAVE")
    at, known = 12, None
    while at + 8 <= len(content):
        name, size = struct.unpack("<4sI", content[at : at + 8])
        begin = at + 8
        if name == b"fmt ":
            if size < 16 or begin + size > len(content):
                raise ValueError(f"its chunk 'fmt ' at byte {at:,} has {size} bytes, expected 16 or more")
            code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[begin : begin + 16])
            if code == EXTENSIBLE and size >= 40:
                code = struct.unpack("<H", content[begin + 24 : begin + 26])[0]
            known = (code, bits, channels, rate)
        elif name == b"data":
            if known is None:
                raise ValueError(f"its samples, at byte {begin:,}, come before their description")
            code, bits, channels, rate = known
            if (code, bits) not in {
                (PCM, 8),
                (PCM, 16),
                (PCM, 24),
                (PCM, 32),
                (FLOAT, 32),
                (FLOAT, 64),
            } or not channels:
                raise ValueError(
                    f"its samples have the code {code}, {bits} bits and {channels} channels; expected PCM of 8, 16, "
                    "24 or 32 bits or floats of 32 or 64: convert it, for example with ffmpeg"
                )
            if begin + size > len(content):
                raise ValueError(
                    f"it says {size:,} bytes of samples at byte {begin:,}, {len(content) - begin:,} are there"
                )
            if size % (channels * bits // 8):
                raise ValueError(f"its {size:,} bytes of samples are no whole number of {channels} × {bits} bits")
            return Sound(code=code, bits=bits, channels=channels, rate=rate, begin=begin, end=begin + size)
        at = begin + size + size % 2
    raise ValueError(f"it has no samples (chunk 'data') in its {len(content):,} bytes")


def refuse_unlike(first: tuple[str, Sound], sound: Sound) -> None:
    """Raise ValueError unless `sound` has the rate and channels of the first one (name, header)."""
    name, other = first
    if (sound.rate, sound.channels) != (other.rate, other.channels):
        raise ValueError(
            f"it has {sound.rate:,} Hz and {counted(sound.channels, 'channel')}, {name!r} has {other.rate:,} Hz and "
            f"{counted(other.channels, 'channel')}: convert all to one, for example with ffmpeg"
        )


def samples_of(content: bytes, sound: Sound, dtype: str) -> np.ndarray[Any, Any]:
    """The samples of a file as int16 or float32: (length,), or (length, channels) with more than one."""
    data = content[sound.begin : sound.end]
    if sound.code == FLOAT:
        samples: np.ndarray[Any, Any] = np.frombuffer(data, f"<f{sound.bits // 8}").astype(np.float32)
    else:
        if sound.bits == 24:  # the upper three bytes of 32-bit integers
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            integers, scale = wide.reshape(-1).view("<i4"), 31
        elif sound.bits == 8:
            integers, scale = (np.frombuffer(data, np.uint8).astype(np.int16) - 128) * np.int16(256), 15
        else:
            integers, scale = np.frombuffer(data, f"<i{sound.bits // 8}"), sound.bits - 1
        samples = integers.astype(np.int16) if dtype == "int16" else (integers * 2.0**-scale).astype(np.float32)
    return samples.reshape(-1, sound.channels) if sound.channels > 1 else samples
