"""What `minibatch convert` can read: one file per format in this folder, and one row for it in `FORMATS`.

A source says what it is and gives its rows in pieces of a few MiB, so that memory stays bounded whatever its size, and
always in the same order, so that the same source gives the same bytes. Nothing is repaired on the way: what a data set
cannot hold is refused with its place and with what to do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any, Protocol, TypeAlias, cast

import numpy as np

# As large as a chunk is by default: enough that the cost per piece vanishes, little enough to hold several.
PIECE_BYTES = 8 * 2**20

Column: TypeAlias = np.ndarray[Any, Any] | list[str] | list[bytes]
Piece: TypeAlias = dict[str, Column]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may ask of a source; refused where the format's row in `FORMATS` does not say that it takes it."""

    subset: str | None = None
    decode: bool = False


class Source(Protocol):
    """Rows from somewhere, in pieces. Opening one has checked all that can be checked without reading everything.

    The smallest complete source. Its file would be tools/sources/squares.py, with a function
    `open_source(text, options)` that returns `Squares(rows=int(text.removeprefix("squares:")))`, and its row below
    `Format(name="squares", example="squares:1000", prefix="squares:", module="squares")`.

    >>> class Squares:
    ...     def __init__(self, *, rows: int) -> None:
    ...         self.rows = rows
    ...         self.metadata = {"square": {"formula": "number * number"}}
    ...
    ...     def describe(self) -> str:
    ...         return f"{self.rows:,} numbers and their squares"
    ...
    ...     def batches(self) -> Iterator[Piece]:
    ...         for start in range(0, self.rows, 1000):
    ...             number = np.arange(start, min(start + 1000, self.rows))
    ...             yield {"number": number, "square": number * number}

    >>> source: Source = Squares(rows=2500)
    >>> source.describe(), [len(piece["square"]) for piece in source.batches()]
    ('2,500 numbers and their squares', [1000, 1000, 500])
    """

    @property
    def rows(self) -> int | None:
        """How many rows there are, or about how many; None if unknown. Only the progress bar believes it."""

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        """What the schema notes beside each field, such as {"label": {"classes": '["cat", "dog"]'}}."""

    def describe(self) -> str:
        """One line for the user: what was found, and what was left out."""

    def batches(self) -> Iterator[Piece]:
        """The rows in pieces: field → array (n, …), list of n str or list of n bytes. Errors name file and place."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """One row of the table: how a source of this format is recognised, and which module here reads it."""

    name: str
    example: str
    module: str
    suffixes: tuple[str, ...] = ()  # of the file's name in small letters; "/" stands for a folder
    prefix: str | None = None  # of a source that is not a file
    takes: tuple[str, ...] = ()  # the options that have a meaning for it

    def recognises(self, text: str) -> bool:
        """Whether `text` looks like a source of this format."""
        if self.prefix is not None:
            return text.startswith(self.prefix)
        return (text.lower() + "/" * os.path.isdir(text)).endswith(self.suffixes)


FORMATS = (
    Format(name="NumPy", example="FILE.npy, FILE.npz", suffixes=(".npy", ".npz"), module="arrays"),
    Format(name="CSV", example="FILE.csv, FILE.tsv", suffixes=(".csv", ".tsv"), module="delimited"),
    Format(name="Parquet", example="FILE.parquet", suffixes=(".parquet", ".pq"), module="parquet"),
    Format(
        name="images",
        example="FOLDER, FILE.tar, FILE.tar.gz",
        suffixes=("/", ".tar", ".tar.gz", ".tgz"),
        module="images",
        takes=("subset", "decode"),
    ),
    Format(name="scikit-learn", example="sklearn:digits", prefix="sklearn:", module="bundled"),
)


def open_source(text: str, options: Options | None = None) -> Source:
    """The source that `text` names: a file, a folder or `sklearn:NAME`.

    Raises FileNotFoundError where there is none, ValueError where its format is unknown, an option means nothing to it,
    or its content cannot become a data set.

    >>> open_source("sklearn:digits").describe()
    'scikit-learn digits: image, label'
    """
    options = options or Options()
    format_ = next((format_ for format_ in FORMATS if format_.recognises(text)), None)
    if (format_ is None or format_.prefix is None) and not os.path.exists(text):
        raise FileNotFoundError(f"there is no file or folder {text!r}")
    if format_ is None:
        known = "; ".join(f"{format_.example} ({format_.name})" for format_ in FORMATS)
        raise ValueError(f"no known format has a source like {text!r}; known are: {known}")
    for option in dataclasses.fields(options):
        if option.name not in format_.takes and getattr(options, option.name) != option.default:
            raise ValueError(f"--{option.name} means nothing to the {format_.name} source {text!r}: leave it out")
    module = importlib.import_module(f"{__name__}.{format_.module}")
    return cast(Source, module.open_source(text, options))


def rows_per_piece(row_bytes: float) -> int:
    """How many rows of `row_bytes` bytes make up a piece: at least 1.

    >>> rows_per_piece(784), rows_per_piece(0), rows_per_piece(10**9)
    (10699, 8388608, 1)
    """
    return max(1, int(PIECE_BYTES // max(1, row_bytes)))


@contextlib.contextmanager
def unpacked(packed: IO[bytes]) -> Iterator[IO[bytes]]:
    """What `packed` still has to give, as a temporary file that can be read in any order, gone afterwards.

    It lies on disk, in TMPDIR, because memory may be too small for it.

    >>> import io
    >>> with unpacked(io.BytesIO(b"abc")) as file:
    ...     file.seek(1), file.read()
    (1, b'bc')
    """
    with tempfile.TemporaryFile() as copy:
        try:
            shutil.copyfileobj(packed, copy, 2**20)
            copy.flush()
        except OSError as error:
            if error.errno is None:  # what gzip says of damaged data
                raise
            reason = f"{error.strerror} while unpacking the source here; set TMPDIR to a roomier place"
            raise OSError(error.errno, reason, tempfile.gettempdir()) from error
        yield copy
