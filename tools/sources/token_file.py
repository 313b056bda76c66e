"""Token files: numbers without a header in `.bin`, or a 1-D `.npy`; the list field `tokens`.

`--dtype uint16` (little endian) says how a `.bin` is read. `--end-of-text ID` makes a row of each document: the tokens
up to and with ID, so that the rows end to end are the file; `--row-tokens N` makes rows of N tokens, the last one
shorter. A `.npy` needs `--format tokens`, because arrays have a format of their own. A `.bin` with the header of llm.c
(dev/data/data_common.py there) is recognised, and needs no `--dtype`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.ragged import Ragged
from minibatch.tools import sources
from minibatch.tools.sources import Options, Piece, rows_per_piece
from minibatch.tools.sources.arrays import read_header

DTYPES = ("uint8", "uint16", "uint32", "int16", "int32", "int64")
LLM_C = {20240520: "uint16", 20240801: "uint32"}  # the first number of the header: the dtype of what follows
LLM_C_HEADER = 256 * 4


def open_source(text: str, options: Options) -> TokenSource:
    """The tokens of the file `text`."""
    if (options.end_of_text is None) == (options.row_tokens is None):
        given = "neither is given" if options.row_tokens is None else "both are given"
        raise ValueError(
            f"{text!r}: give --end-of-text ID (a row per document) or --row-tokens N (rows of N tokens); {given}"
        )
    if options.row_tokens is not None and options.row_tokens < 1:
        raise ValueError(f"--row-tokens {options.row_tokens}: expected at least 1")
    if options.dtype not in (None, *DTYPES):
        raise ValueError(f"--dtype {options.dtype}: expected {', '.join(DTYPES)}")
    tokens = open_npy(text, options) if text.lower().endswith(".npy") else open_bin(text, options)
    limits = np.iinfo(tokens.dtype)
    ends = None
    if options.end_of_text is not None:
        if not limits.min <= options.end_of_text <= limits.max:
            raise ValueError(f"--end-of-text {options.end_of_text} is no {tokens.dtype}: {text!r} cannot hold it")
        ends = sum(len(found) for _, found in ends_in(tokens, options.end_of_text))
        if not ends and len(tokens):
            raise ValueError(
                f"{text!r} holds no {options.end_of_text} among its {len(tokens):,} {tokens.dtype} tokens: "
                "is --end-of-text right, and --dtype?"
            )
        ends += int(tokens[-1] != options.end_of_text) if len(tokens) else 0
    return TokenSource(
        tokens=tokens,
        end_of_text=options.end_of_text,
        row_tokens=options.row_tokens,
        rows=ends if ends is not None else -(-len(tokens) // (options.row_tokens or 1)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenSource:
    """The tokens of one file, mapped."""

    tokens: NDArray[Any]
    end_of_text: int | None
    row_tokens: int | None
    rows: int

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return {} if self.end_of_text is None else {"tokens": {"end_of_text": str(self.end_of_text)}}

    def describe(self) -> str:
        rows = (
            f"documents that end with {self.end_of_text}" if self.row_tokens is None else f"rows of {self.row_tokens:,}"
        )
        return f"{len(self.tokens):,} tokens, {self.tokens.dtype}, in {self.rows:,} {rows}"

    def batches(self) -> Iterator[Piece]:
        if self.row_tokens is not None:
            step = self.row_tokens * rows_per_piece(self.row_tokens * self.tokens.itemsize)
            for start in range(0, len(self.tokens), step):
                part = np.array(self.tokens[start : start + step])
                offsets = np.append(np.arange(0, len(part), self.row_tokens), len(part))
                yield {"tokens": Ragged(part, offsets)}
            return
        begin = 0
        for _, ends in ends_in(self.tokens, self.end_of_text or 0):
            if len(ends):
                yield {"tokens": Ragged(np.array(self.tokens[begin : ends[-1]]), np.append(begin, ends) - begin)}
                begin = int(ends[-1])
        if begin < len(self.tokens):
            rest = np.array(self.tokens[begin:])
            yield {"tokens": Ragged(rest, np.array([0, len(rest)]))}


def ends_in(tokens: NDArray[Any], end_of_text: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """For each stretch of `tokens`: where it begins, and the places behind each `end_of_text` in it."""
    step = max(1, sources.PIECE_BYTES // tokens.itemsize)
    for start in range(0, len(tokens), step):
        yield start, start + 1 + np.flatnonzero(tokens[start : start + step] == end_of_text)


def open_bin(path: str, options: Options) -> NDArray[Any]:
    """The numbers of a `.bin`, mapped."""
    size = os.path.getsize(path)
    header = np.fromfile(path, "<i4", 3)
    if len(header) == 3 and int(header[0]) in LLM_C:
        dtype = np.dtype(LLM_C[int(header[0])])
        if size == LLM_C_HEADER + int(header[2]) * dtype.itemsize:
            if options.dtype not in (None, dtype.name):
                raise ValueError(f"--dtype {options.dtype}: the header of {path!r} (llm.c) says {dtype}")
            return mapped(path, dtype, LLM_C_HEADER)
    if options.dtype is None:
        raise ValueError(f"{path!r} has no header that tells its type: give --dtype uint16 or uint32")
    dtype = np.dtype(options.dtype)
    if size % dtype.itemsize:
        raise ValueError(
            f"{path!r} has {size:,} bytes, which is no whole number of {dtype}: it was truncated, or its --dtype is "
            "another"
        )
    return mapped(path, dtype, 0)


def mapped(path: str, dtype: np.dtype[Any], begin: int) -> NDArray[Any]:
    if os.path.getsize(path) == begin:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype.newbyteorder("<"), mode="r", offset=begin)


def open_npy(path: str, options: Options) -> NDArray[Any]:
    """The numbers of a `.npy`, mapped."""
    with open(path, "rb") as file:
        header = read_header(file, repr(path), os.fstat(file.fileno()).st_size)
    if header.dtype.kind not in "iu" or len(header.shape) != 1:
        raise ValueError(f"{path!r} is {header.dtype} {header.shape}; token files are whole numbers in one dimension")
    if options.dtype not in (None, header.dtype.name):
        raise ValueError(f"--dtype {options.dtype}: the header of {path!r} says {header.dtype}")
    return mapped(path, header.dtype, header.begin) if header.shape[0] else np.zeros(0, header.dtype)
