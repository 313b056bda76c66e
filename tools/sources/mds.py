"""MDS shards of MosaicML Streaming: a folder with index.json, which names the shards, their columns and encodings.

A shard begins with the number of its samples and their offsets, as 32-bit integers; a sample with the sizes of those of
its columns that vary. Scalars become numbers; str and str_decimal text; bytes, jpeg and png bytes, lists of pictures
lists of bytes; ndarray and pil arrays (a list field where rows differ in their first axis); json the fields inside it
where all samples agree about them, else text. Pickles are refused. Compressed shards are unpacked, one at a time, into
a temporary file. Sizes and digests that the index notes are compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import xxhash

from minibatch.tools.sources import BadRecord, Options, unpacked
from minibatch.tools.sources.record_source import RecordSource
from minibatch.tools.sources.records import JsonText, Kind, Record, Survey, survey

NUMBERS = (
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
# The byte by which an array without a dtype in its column says its own.
DTYPES = dict(
    zip(
        (8, 9, 16, 17, 18, 32, 33, 34, 64, 65, 66),
        ("uint8", "int8", "uint16", "int16", "float16", "uint32", "int32", "float32", "uint64", "int64", "float64"),
        strict=True,
    )
)
CHANNELS = {"L": (), "RGB": (3,), "RGBA": (4,)}  # of Pillow's images with 8 bits a channel
# How Streaming calls the compressions that Arrow has.
COMPRESSIONS = {"gz": "gzip", "bz2": "bz2", "br": "brotli", "zstd": "zstd", "snappy": "snappy"}
XXHASHES = {"xxh32": "xxh32", "xxh64": "xxh64", "xxh128": "xxh128", "xxh3_64": "xxh3_64"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoding:
    """One column: how its bytes become a value, how many they are (None: it varies), and its kind if that is known."""

    name: str
    size: int | None
    kind: Kind | None
    decode: Callable[[bytes], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One shard: its file, how it is compressed, and what the index says of it."""

    path: str
    compression: str | None
    samples: int
    bytes: int
    raw_bytes: int
    digests: Mapping[str, str]


def open_source(text: str, options: Options) -> MdsSource:
    """The samples of the folder `text`, all shards of which are found to be there."""
    folder = subset_of(text, options.subset)
    index = read_index(folder)
    if not index:
        raise ValueError(f"{folder!r} holds no shards: its index.json names none")
    columns = columns_of(index[0], folder)
    for entry in index[1:]:
        if columns_of(entry, folder) != columns:
            raise ValueError(f"{folder!r}: its shards have different columns; write them with one set of columns")
    for name, encoding in columns.items():
        encoding_of(encoding, f"{folder!r}, column {name!r}")
    source = MdsSource(
        folder=folder,
        columns=columns,
        shards=[checked_shard(entry, folder) for entry in index],
        options=options,
        found=Survey(rows=0, kinds={}),
    )
    known = {name: encoding_of(columns[name], "").kind for name in columns}
    if all(known.values()):
        kinds = {name: kind for name, kind in known.items() if kind}
        found = Survey(rows=sum(shard.samples for shard in source.shards), kinds=kinds)
    else:
        found = survey(source.records(), options.bad)
    return dataclasses.replace(source, found=found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MdsSource(RecordSource):
    """The samples of some MDS shards, one shard after another."""

    folder: str
    columns: Mapping[str, str]
    shards: Sequence[Shard]

    def describe(self) -> str:
        return f"MDS of {len(self.shards):,} shard{'s' * (len(self.shards) != 1)}: {self.found.describe()}"

    def units(self) -> Iterator[MdsSource]:
        for shard in self.shards:
            yield dataclasses.replace(self, shards=[shard])

    def records(self) -> Iterator[Record]:
        """All samples that can be decoded; the others are reported."""
        encodings = {name: encoding_of(encoding, "") for name, encoding in self.columns.items()}
        for shard in self.shards:
            with opened(shard) as file:
                for sample, begin, data in samples_of(file, shard):
                    where = f"record {sample:,}, byte {begin:,}"
                    try:
                        yield Record(file=shard.path, where=where, fields=decoded(data, encodings))
                    except ValueError as error:
                        self.options.bad(BadRecord(shard.path, where, str(error)))


def subset_of(text: str, subset: str | None) -> str:
    """The folder of `subset`, one of those in `text` that have an index of their own."""
    if subset is None:
        return text
    folder = os.path.join(text, subset)
    if not os.path.isfile(os.path.join(folder, "index.json")):
        raise ValueError(f"{text!r} has no folder {subset!r} with an index.json")
    return folder


def read_index(folder: str) -> list[Mapping[str, Any]]:
    """What index.json says of each shard."""
    path = os.path.join(folder, "index.json")
    try:
        with open(path, encoding="utf-8") as file:
            index = json.load(file)
        shards = index["shards"]
        for shard in shards:
            if (shard["format"], shard["version"]) != ("mds", 2):
                raise ValueError(
                    f"its shards are {shard['format']!r} of version {shard['version']}, expected 'mds' of 2"
                )
        found: list[Mapping[str, Any]] = shards
        return found
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path!r} is no index of MDS shards: it lacks {error}") from error
    except ValueError as error:
        raise ValueError(f"{path!r} is no index of MDS shards: {error}") from error


def columns_of(entry: Mapping[str, Any], folder: str) -> dict[str, str]:
    """The encoding of each column of a shard."""
    try:
        return dict(zip(entry["column_names"], entry["column_encodings"], strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder!r}: index.json does not say the encoding of each column: {error}") from error


def checked_shard(entry: Mapping[str, Any], folder: str) -> Shard:
    try:
        shard = shard_of(entry, folder)
        if any(not isinstance(number, int) or number < 0 for number in (shard.samples, shard.raw_bytes)):
            raise TypeError("its numbers of samples and bytes must be integers")
        return shard
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder!r}: index.json does not describe its shards as MDS does: {error!r}") from error


def shard_of(entry: Mapping[str, Any], folder: str) -> Shard:
    """The shard that `entry` of the index describes: its raw file, or else its compressed one."""
    raw, packed = entry["raw_data"], entry.get("zip_data")
    raw_path = os.path.join(folder, raw["basename"])
    if os.path.isfile(raw_path):
        told, path, compression = raw, raw_path, None
    elif packed and os.path.isfile(os.path.join(folder, packed["basename"])):
        told, path = packed, os.path.join(folder, packed["basename"])
        compression = str(entry["compression"]).split(":")[0]
        if compression not in COMPRESSIONS:
            raise ValueError(f"{path!r} is compressed with {compression!r}; known are {', '.join(COMPRESSIONS)}")
    else:
        raise ValueError(f"{folder!r} lacks the shard {raw['basename']!r}, which its index.json names")
    size = os.path.getsize(path)
    if size != told["bytes"]:
        raise ValueError(
            f"{path!r} has {size:,} bytes, index.json says {told['bytes']:,}: it was truncated or replaced"
        )
    return Shard(
        path=path,
        compression=compression,
        samples=entry["samples"],
        bytes=size,
        raw_bytes=raw["bytes"],
        digests=told.get("hashes") or {},
    )


@contextlib.contextmanager
def opened(shard: Shard) -> Iterator[IO[bytes]]:
    """The bytes of a shard, unpacked, once its digests have been found right."""
    refuse_other_digest(shard)
    with contextlib.ExitStack() as stack:
        file: Any
        if shard.compression is None:
            file = stack.enter_context(open(shard.path, "rb"))
        else:
            try:
                file = stack.enter_context(unpacked(decompressed(shard)))
            except (pa.ArrowException, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise ValueError(f"{shard.path!r} cannot be unpacked ({shard.compression}): {error}") from error
            size = file.seek(0, os.SEEK_END)
            if size != shard.raw_bytes:
                raise ValueError(f"{shard.path!r} unpacks to {size:,} bytes, index.json says {shard.raw_bytes:,}")
        yield file


def decompressed(shard: Shard) -> Any:
    """The bytes of a compressed shard, to be read forwards."""
    assert shard.compression is not None
    if shard.compression == "snappy":  # one block, which says its size nowhere else
        with open(shard.path, "rb") as file:
            return pa.BufferReader(pa.decompress(file.read(), shard.raw_bytes, codec="snappy"))
    return pa.input_stream(shard.path, compression=COMPRESSIONS[shard.compression])


def refuse_other_digest(shard: Shard) -> None:
    """Raise ValueError if a digest in the index is not that of the file."""
    for name, expected in shard.digests.items():
        hasher: Any = getattr(xxhash, XXHASHES[name])() if name in XXHASHES else None
        if hasher is None and name in hashlib.algorithms_available:
            hasher = hashlib.new(name)
        if hasher is None:
            continue
        with open(shard.path, "rb") as file:
            while block := file.read(2**20):
                hasher.update(block)
        if hasher.hexdigest() != expected:
            raise ValueError(f"{shard.path!r} has the {name} {hasher.hexdigest()}, index.json says {expected}: damaged")


def samples_of(file: IO[bytes], shard: Shard) -> Iterator[tuple[int, int, bytes]]:
    """The samples of a shard: number, first byte, bytes."""
    file.seek(0)
    head = file.read(4)
    count = struct.unpack("<I", head)[0] if len(head) == 4 else 0
    if count != shard.samples:
        raise ValueError(f"{shard.path!r} begins with {count:,} samples, index.json says {shard.samples:,}")
    marks = np.frombuffer(file.read(4 * (count + 1)), "<u4").astype(np.int64)
    if (
        len(marks) != count + 1
        or (np.diff(marks) < 0).any()
        or marks[0] < 4 * (count + 2)
        or marks[-1] > shard.raw_bytes
    ):
        raise ValueError(
            f"{shard.path!r}: the offsets of its samples do not ascend within its {shard.raw_bytes:,} bytes"
        )
    file.seek(marks[0])
    for sample in range(count):
        yield sample, int(marks[sample]), file.read(int(marks[sample + 1] - marks[sample]))


def decoded(data: bytes, encodings: Mapping[str, Encoding]) -> dict[str, Any]:
    """The values of one sample; raises ValueError for one whose bytes do not fit its columns."""
    varying = [name for name, encoding in encodings.items() if encoding.size is None]
    begin = 4 * len(varying)
    if len(data) < begin:
        raise ValueError(f"it has {len(data):,} bytes, its {len(varying)} sizes need {begin}")
    told = dict(zip(varying, struct.unpack(f"<{len(varying)}I", data[:begin]), strict=True))
    sizes = {name: told.get(name, encoding.size) or 0 for name, encoding in encodings.items()}
    if begin + sum(sizes.values()) != len(data):
        raise ValueError(f"it has {len(data):,} bytes, its columns need {begin + sum(sizes.values()):,}")
    values = {}
    for name, encoding in encodings.items():
        try:
            values[name] = encoding.decode(data[begin : begin + sizes[name]])
        except (ValueError, KeyError, IndexError, struct.error) as error:
            raise ValueError(f"column {name!r} is no {encoding.name}: {error}") from error
        begin += sizes[name]
    return values


def encoding_of(text: str, where: str) -> Encoding:
    """The encoding that index.json calls `text`, such as int, str, ndarray:uint8:28,28 or jpeg."""
    name, _, rest = text.partition(":")
    text_kind, bytes_kind, number = Kind(dtype=str), Kind(dtype=bytes), Kind(dtype=np.dtype(np.int64))
    list_kind = Kind(dtype=bytes, is_list=True)
    if name in NUMBERS or name == "int":
        dtype = np.dtype("int64" if name == "int" else name).newbyteorder("<")
        kind = Kind(dtype=dtype.newbyteorder("="))
        return Encoding(name=name, size=dtype.itemsize, kind=kind, decode=lambda data: np.frombuffer(data, dtype)[0])
    if name == "ndarray":
        return array_encoding(rest, where)
    found: dict[str, tuple[Kind | None, Callable[[bytes], Any]]] = {
        "bytes": (bytes_kind, bytes),
        "jpeg": (bytes_kind, bytes),
        "png": (bytes_kind, bytes),
        "str": (text_kind, bytes.decode),
        "str_decimal": (text_kind, bytes.decode),
        "str_int": (number, lambda data: np.int64(int(data.decode()))),
        "str_float": (Kind(dtype=np.dtype(np.float64)), lambda data: np.float64(float(data.decode()))),
        "pil": (None, image_of),
        "json": (None, JsonText),
        "jpegarray": (list_kind, byte_strings),
        "jpeg_array": (list_kind, byte_strings),
        "list[jpeg]": (list_kind, lambda data: byte_strings(data[4:])),
        "list[png]": (list_kind, lambda data: byte_strings(data[4:])),
    }
    if name not in found:
        advice = "pickles are not read, because they can run anything" if name == "pkl" else "it is not known"
        raise ValueError(
            f"{where} has the encoding {text!r}: {advice}; known are ndarray, {', '.join([*NUMBERS, *found])}"
        )
    known, decode = found[name]
    return Encoding(name=name, size=None, kind=known, decode=decode)


def array_encoding(rest: str, where: str) -> Encoding:
    """Arrays, whose dtype and shape stand in the column's encoding or before each array."""
    dtype_name, _, sizes = rest.partition(":")
    try:
        dtype = np.dtype(dtype_name).newbyteorder("<") if dtype_name else None
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} has the encoding 'ndarray:{rest}': {error}") from error
    if dtype is not None and shape is not None:
        kind = Kind(dtype=dtype.newbyteorder("="), shape=shape)
        return Encoding(
            name="ndarray",
            size=dtype.itemsize * math.prod(shape),
            kind=kind,
            decode=lambda data: np.frombuffer(data, dtype).reshape(shape),
        )

    def decode(data: bytes) -> Any:
        here, begin = dtype, 0
        if here is None:
            here, begin = np.dtype(DTYPES[data[0]]).newbyteorder("<"), 1
        if shape is not None:
            return np.frombuffer(data[begin:], here).reshape(shape)
        axes, width = data[begin] >> 2, 1 << (data[begin] & 3)
        end = begin + 1 + axes * width
        lengths = np.frombuffer(data[begin + 1 : end], f"<u{width}")
        if not axes:
            raise ValueError("it has no axes")
        return np.frombuffer(data[end:], here).reshape(lengths.tolist())

    return Encoding(name="ndarray", size=None, kind=None, decode=decode)


def byte_strings(data: bytes) -> list[bytes]:
    """The parts of a list: how many there are, their sizes, and they themselves."""
    count = struct.unpack("<I", data[:4])[0]
    sizes = np.frombuffer(data[4 : 4 + 4 * count], "<u4").astype(np.int64)
    ends = 4 + 4 * count + np.cumsum(sizes)
    if len(sizes) != count or (count and ends[-1] != len(data)):
        raise ValueError(f"it says {count:,} parts of {sizes.sum():,} bytes, it has {len(data):,} bytes")
    return [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def image_of(data: bytes) -> Any:
    """The pixels of one of Pillow's images as it lies in memory: uint8 (height, width[, channels])."""
    width, height, letters = struct.unpack("<3I", data[:12])
    mode = data[12 : 12 + letters].decode()
    if mode not in CHANNELS:
        raise ValueError(f"its mode is {mode!r}, expected {', '.join(CHANNELS)}")
    return np.frombuffer(data[12 + letters :], np.uint8).reshape(height, width, *CHANNELS[mode])
