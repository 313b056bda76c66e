"""The lines of a text file, plain or gzip, in blocks of whole lines, and the numbers that stand in them.

Blocks come as bytes; NumPy and Arrow look at all of one at once. A block is a quarter of a piece, because looking at it
takes several times its size in memory. A single line that is longer makes its block longer.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from minibatch.tools import sources
from minibatch.tools.sources.field_types import FieldType

BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
DECIMAL = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"
WHOLE = r"^[-+]?[0-9]+$"
NOT_A_NUMBER = r"(?i)^[-+]?nan$"


@contextlib.contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """The bytes of the file `path`, unpacked if its name ends in .gz; damage is a ValueError that names the file."""
    try:
        with open(path, "rb") as file:
            yield cast(IO[bytes], gzip.GzipFile(fileobj=file)) if path.lower().endswith(".gz") else file
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path!r} cannot be unpacked, it was truncated or is something else: {error}") from error


def blocks(path: str, *, completed: bool = True) -> Iterator[tuple[int, bytes]]:
    """The file in blocks: the number of the first line (from 1), and whole lines.

    Each line ends in a newline; the last one too if `completed`, where the file lacks it. A UTF-8 byte order mark is
    left out. Raises ValueError for UTF-16.
    """
    size = max(1, sources.PIECE_BYTES // 4)
    line, rest, first = 1, [], True
    with opened(path) as file:
        while chunk := file.read(max(size, 3) if first else size):
            if first:
                if chunk[:2] in BYTE_ORDER_MARKS:
                    raise ValueError(
                        f"{path!r} is {BYTE_ORDER_MARKS[chunk[:2]]} text: re-encode it with `iconv -f utf-16 -t utf-8`"
                    )
                chunk, first = chunk.removeprefix(b"\xef\xbb\xbf"), False
            end = chunk.rfind(b"\n") + 1
            if not end:
                rest.append(chunk)
                continue
            block = b"".join([*rest, chunk[:end]])
            yield line, block
            line, rest = line + block.count(b"\n"), [chunk[end:]]
    if last := b"".join(rest):
        yield line, last + b"\n" * completed


def parts_of(data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> pa.Array:
    """The bytes data[starts[i]:ends[i]] as an Arrow string array (unchecked UTF-8); ascending, none overlapping."""
    marks = np.zeros(len(data) + 1, np.int8)
    marks[starts] = 1
    marks[ends] -= 1
    joined = data[np.cumsum(marks, dtype=np.int8)[:-1].view(np.bool_)]
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(ends - starts, out=offsets[1:])
    return pa.Array.from_buffers(
        pa.large_string(), len(starts), [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(joined))]
    )


def numbers(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], *, nan: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The decimal numbers written in data[starts[i]:ends[i]], and which of them are none (or too large to be one).

    >>> text = b"1.5 x -2e3 nan"
    >>> starts, ends = np.array([0, 4, 6, 11]), np.array([3, 5, 10, 14])
    >>> found, wrong = numbers(np.frombuffer(text, np.uint8), starts, ends)
    >>> found.tolist(), wrong.tolist()
    ([1.5, 0.0, -2000.0, 0.0], [False, True, False, True])
    """
    parts = parts_of(data, starts, ends)
    try:
        found = np.asarray(parts.cast(pa.float64()))
        if np.isfinite(found).all():
            return found, np.zeros(len(parts), np.bool_)
    except ValueError:  # some are no numbers: ArrowInvalid, or UnicodeDecodeError while it says which
        pass
    good = np.asarray(pc.match_substring_regex(parts.cast(pa.large_binary()), DECIMAL))
    if nan:
        good = good | np.asarray(pc.match_substring_regex(parts.cast(pa.large_binary()), NOT_A_NUMBER))
    found = np.zeros(len(parts))
    found[good] = np.asarray(parts.filter(pa.array(good)).cast(pa.float64()))
    wrong = ~good | np.isinf(found)
    found[wrong] = 0
    return found, wrong


def wholes(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """As `numbers`, for whole numbers without a sign and at most 18 digits.

    >>> found, wrong = wholes(np.frombuffer(b"178:1 -3:1", np.uint8), np.array([0, 6]), np.array([3, 8]))
    >>> found.tolist(), wrong.tolist()
    ([178, 0], [False, True])
    """
    digits = np.concatenate([[0], np.cumsum((data >= ord("0")) & (data <= ord("9")), dtype=np.int64)])
    lengths = ends - starts
    good = (digits[ends] - digits[starts] == lengths) & (lengths > 0) & (lengths <= 18)
    found = np.zeros(len(starts), np.int64)
    found[good] = np.asarray(parts_of(data, starts[good], ends[good]).cast(pa.int64()))
    return found, ~good


def stored_as(values: NDArray[np.float64], type_: FieldType) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """`values` as the dtype of `type_`, and which of them it cannot hold: fractions, or numbers beyond its range.

    Whole numbers beyond 2**53 are refused, because they were read as float64.

    >>> found, wrong = stored_as(np.array([1.0, 255.0, 256.0, 0.5]), FieldType(dtype=np.dtype(np.uint8)))
    >>> found[:2].tolist(), wrong.tolist()
    ([1, 255], [False, False, True, True])
    """
    if type_.dtype.kind == "f":
        with np.errstate(over="ignore"):
            found = values.astype(type_.dtype)
        return found, np.isinf(found) & ~np.isinf(values)
    if type_.dtype == np.bool_:
        return values != 0, (values != 0) & (values != 1)
    limits = np.iinfo(type_.dtype)
    wrong = (
        (values != np.floor(values)) | (values < limits.min) | (values > limits.max) | (np.abs(values) > float(2**53))
    )
    return np.where(wrong, 0, values).astype(type_.dtype), wrong


def text_of(data: NDArray[np.uint8], start: int, end: int, most: int = 40) -> str:
    """What stands in data[start:end], for an error message: cut to `most` characters.

    >>> text_of(np.frombuffer(b"|S0 12x:1", np.uint8), 4, 9)
    "'12x:1'"
    """
    text = data[start : min(end, start + 4 * most)].tobytes().decode(errors="replace")
    return repr(text if len(text) <= most else text[:most] + "…")


def offsets_of(lengths: NDArray[Any] | list[int]) -> NDArray[np.int64]:
    """Where each of several runs laid end to end begins, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def all_match(data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], pattern: str) -> bool:
    """Whether the regular expression `pattern` is found in each data[starts[i]:ends[i]]."""
    parts = parts_of(data, starts, ends).cast(pa.large_binary())
    return bool(np.asarray(pc.match_substring_regex(parts, pattern)).all())
