"""IDX files (MNIST and its relatives), plain or gzip; a folder of them is read as images with their labels.

The first two bytes are 0, the third says the type, the fourth the number of axes; then come the axes' lengths as 32-bit
integers and the values, all most significant byte first (http://yann.lecun.com/exdb/mnist). The first axis counts the
rows. Fields: `image` and `label` after the words in the files' names, `x` where there is none. Labels, whole numbers
with one per row, become int64.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import struct
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from minibatch.tools.sources import Options, Piece, rows_per_piece
from minibatch.tools.sources.arrays import read_exactly
from minibatch.tools.sources.text_lines import opened

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
# "train-images-idx3-ubyte.gz" and "train-images.idx3-ubyte" are the images of "train".
NAME = re.compile(r"(?P<of>.*?)[-_.]?(?P<what>images|labels)?[-_.]idx\d-\w+(\.gz)?$", re.IGNORECASE)
FIELDS = {"images": "image", "labels": "label"}
# The words by which files of MNIST and its relatives say to which subset they belong.
SUBSETS = {"train": "train", "t10k": "test", "test": "test"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdxFile:
    """What the header of one IDX file says; the values begin at byte `begin`."""

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def is_label(self) -> bool:
        return len(self.shape) == 1 and self.dtype.kind in "iu"


def open_source(text: str, options: Options) -> IdxSource:
    """The file `text`, or the pair of one subset in the folder `text`; headers are read and found to fit."""
    if not os.path.isdir(text):
        if options.subset is not None:
            raise ValueError(f"--subset means nothing to a single IDX file, {text!r}: leave it out")
        found = NAME.match(os.path.basename(text))
        return IdxSource(
            path=text, files={FIELDS.get(((found and found["what"]) or "").lower(), "x"): read_header(text)}
        )
    files = {field: read_header(os.path.join(text, name)) for field, name in chosen(text, options.subset).items()}
    first, *others = files.items()
    for field, file in others:
        if file.shape[0] != first[1].shape[0]:
            raise ValueError(
                f"{file.path!r} has {file.shape[0]:,} rows ({field}), {first[1].path!r} has {first[1].shape[0]:,} "
                f"({first[0]}): these files do not belong together"
            )
    return IdxSource(path=text, files=files)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdxSource:
    """The rows of one IDX file, or of several that count the same rows."""

    path: str
    files: Mapping[str, IdxFile]

    @property
    def rows(self) -> int:
        return next(iter(self.files.values())).shape[0]

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return {}

    def describe(self) -> str:
        told = (
            f"{field} {file.dtype.name} {file.shape} of {os.path.basename(file.path)}"
            for field, file in self.files.items()
        )
        return f"IDX: {', '.join(told)}"

    def batches(self) -> Iterator[Piece]:
        step = rows_per_piece(sum(file.row_bytes for file in self.files.values()))
        with contextlib.ExitStack() as stack:
            opens = {field: stack.enter_context(opened(file.path)) for field, file in self.files.items()}
            for field, file in self.files.items():
                read_part(opens[field], file, 0, file.begin)
            for start in range(0, self.rows, step):
                count = min(step, self.rows - start)
                yield {field: read_rows(opens[field], file, start, count) for field, file in self.files.items()}
            for field, file in self.files.items():
                if opens[field].read(1):
                    raise ValueError(
                        f"{file.path!r} goes on after its {self.rows:,} rows: its header is wrong, or it grew"
                    )


def chosen(folder: str, subset: str | None) -> dict[str, str]:
    """The files of one subset in `folder`: field → name. Of a file and the same one with .gz the first counts."""
    sets: dict[str, dict[str, str]] = {}
    for name in sorted(os.listdir(folder)):  # "a" comes before "a.gz"
        found = NAME.match(name)
        if found:
            word = next((word for word in SUBSETS if word in found["of"].lower()), None)
            of = f"{found['of'].lower()}:{SUBSETS.get(word or '', found['of'])}"
            sets.setdefault(of, {}).setdefault(FIELDS.get((found["what"] or "").lower(), "x"), name)
    if not sets:
        raise ValueError(f"{folder!r} holds no IDX files; their names are like train-images-idx3-ubyte[.gz]")
    fitting = [of for of in sets if subset is None or subset.lower() in of.split(":")]
    named = ", ".join(sorted({of.split(":")[1] for of in sets}))
    if len(fitting) > 1:
        named = ", ".join(of.split(":")[0] if subset else of.split(":")[1] for of in fitting)
        raise ValueError(f"{folder!r} holds several subsets: {named}; choose one with --subset")
    if not fitting:
        raise ValueError(f"{folder!r} holds no subset {subset!r}; there are {named}")
    files = sets[fitting[0]]
    return {field: files[field] for field in ("image", "label", "x") if field in files}


def read_header(path: str) -> IdxFile:
    """The header of the IDX file at `path`; raises ValueError for anything else, and for a file of another size."""
    with opened(path) as file:
        start = file.read(4)
        if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in DTYPES or not start[3]:
            raise ValueError(
                f"{path!r} is no IDX file: it begins with {start.hex(' ') or 'nothing'}, expected 00 00, a type "
                f"({', '.join(f'{code:02x}' for code in DTYPES)}) and the number of axes"
            )
        lengths = file.read(4 * start[3])
        if len(lengths) < 4 * start[3]:
            raise ValueError(f"{path!r} ends within its header, at byte {4 + len(lengths):,}: it was truncated")
    shape = struct.unpack(f">{start[3]}I", lengths)
    header = IdxFile(path=path, dtype=np.dtype(DTYPES[start[2]]), shape=shape, begin=4 + len(lengths))
    if 0 in shape[1:]:
        raise ValueError(f"{path!r} has rows of shape {shape[1:]}, which hold no value")
    size, expected = os.path.getsize(path), header.begin + shape[0] * header.row_bytes
    if size != expected and not path.lower().endswith(".gz"):
        raise ValueError(f"{path!r} has {size:,} bytes, its header says {expected:,}: it was truncated or appended to")
    return header


def read_rows(file: IO[bytes], header: IdxFile, start: int, count: int) -> np.ndarray[Any, Any]:
    """Rows `start` … `start + count - 1`, which come next in `file`, in this machine's byte order."""
    values = read_part(file, header, header.begin + start * header.row_bytes, count * header.row_bytes)
    array = np.frombuffer(values, header.dtype).reshape(count, *header.shape[1:])
    return array.astype(np.int64 if header.is_label else header.dtype.newbyteorder("="))


def read_part(file: IO[bytes], header: IdxFile, begin: int, size: int) -> bytearray:
    """The `size` bytes from byte `begin` on, where `file` stands."""
    try:
        return read_exactly(file, size)
    except EOFError as error:
        raise ValueError(
            f"{header.path!r} cannot be read on from byte {begin:,} of its (unpacked) {header.shape[0]:,} rows: {error}"
        ) from error
