"""What `minibatch convert` can read: one file per format in this folder, and one row for it in `FORMATS`.

A source says what it is and gives its rows in pieces of a few MiB, so that memory stays bounded whatever its size, and
always in the same order, so that the same source gives the same bytes. Nothing is repaired on the way: what a data set
cannot hold is refused with its place and with what to do.

Two more methods are a source's own choice. `units()` gives its parts, such as files, in the order of their rows, so
that several processes can read them at once, and a conversion that was stopped skips those that are done; a part of
about one piece is best. `inputs()` gives the paths of the files that it reads where they are not in what the user
named: if one of them has changed, a conversion that was stopped starts from its beginning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias, cast

import numpy as np

from minibatch.ragged import Ragged
from minibatch.sparse import Sparse
from minibatch.tools.sources.bad_records import BadRecord as BadRecord
from minibatch.tools.sources.bad_records import BadRecords as BadRecords
from minibatch.tools.sources.bad_records import refuse as refuse

# As large as a chunk is by default: enough that the cost per piece vanishes, little enough to hold several.
PIECE_BYTES = 8 * 2**20

Column: TypeAlias = np.ndarray[Any, Any] | list[str] | list[bytes] | Ragged | Sparse
Piece: TypeAlias = dict[str, Column]


def option(default: Any, text: str) -> Any:
    """A field of `Options`: its default, and what `minibatch convert --help` says of it."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may ask of a source; refused where the format's row in `FORMATS` does not say that it takes it.

    `bad` is for every format. A source calls `options.bad(BadRecord(file, where, reason))` for a record that it cannot
    read, and goes on with the next one if that returns. It may report a record in more than one pass. What is wrong
    with a whole file (damaged, unknown type) is a ValueError, not a BadRecord. A source keeps nothing else about bad
    records, so that it can be sent to another process.
    """

    subset: str | None = option(None, "The part to take, such as train: a top folder, a split; of text, first:90%.")
    decode: bool = option(False, "Images: store pixels, not files; all of one shape.")
    format: str | None = option(None, "The format's name, where the file's name does not tell it.")
    type: tuple[str, ...] = option((), "FIELD=DTYPE: the type of a field, such as label=uint8. Repeatable.")
    fill: tuple[str, ...] = option((), "FIELD=VALUE: what stands for a missing value of a field. Repeatable.")
    stream: tuple[str, ...] = option((), "CTF: [FIELD=]NAME[:WIDTH][:dense|sparse|ids|features]. Repeatable.")
    key: str | None = option(None, "CTF: the field in which to keep the sequence ids.")
    width: int | None = option(None, "LibSVM: how many features there are.")
    first_index: int | None = option(None, "LibSVM: the index of the first feature, 0 or 1.")
    row_per: str | None = option(None, "Text: a row per line, paragraph or file (default: line).")
    text_as: str | None = option(None, "Text: rows as text, bytes or characters (default: text).")
    dtype: str | None = option(None, "Tokens: uint16 or uint32.")
    end_of_text: int | None = option(None, "Tokens: the token that ends a document; a row per document.")
    row_tokens: int | None = option(None, "Tokens and text: cut everything in rows of so many tokens.")
    bad: Callable[[BadRecord], None] = refuse


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


class Unit(Protocol):
    """A part of a source that another process can read by itself: what it takes to do so, and picklable."""

    def batches(self) -> Iterator[Piece]:
        """The rows of this part in pieces, as those of a source; there may be none."""


def units_of(source: Source) -> Iterator[Unit]:
    """The parts of `source` in the order of their rows: those that its method `units` gives, or the source itself."""
    units = getattr(source, "units", None)
    return iter([source]) if units is None else iter(units())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """One row of the table: how a source of this format is recognised, and which module here reads it."""

    name: str
    example: str
    module: str
    suffixes: tuple[str, ...] = ()  # patterns of the end of a name in small letters; "/" ends a folder's
    prefix: str | None = None  # of a source that is not a file
    takes: tuple[str, ...] = ()  # the options that have a meaning for it
    holds: tuple[str, ...] = ()  # a folder with a file whose name fits one of these patterns is of this format
    asks: bool = False  # whether its module's recognises(text) has the last word where the name fits
    patterns: bool = False  # whether it takes several files at once: "a-*.tar", "a-{000..099}.tar"
    each: bool = False  # whether such a pattern means its files, read one after another

    def recognises(self, text: str) -> bool:
        """Whether `text` looks like a source of this format."""
        if self.prefix is not None:
            return text.startswith(self.prefix)
        name = text.lower() + "/" * os.path.isdir(text)
        fits = any(fnmatch.fnmatchcase(name, f"*{suffix}") for suffix in self.suffixes)
        if not fits and os.path.isdir(text):
            fits = any(next(Path(text).glob(pattern), None) is not None for pattern in self.holds)
        return fits and (not self.asks or bool(importlib.import_module(f"{__name__}.{self.module}").recognises(text)))

    def is_missing(self, text: str) -> bool:
        """Whether `text` should be there and is not."""
        several = (self.patterns or self.each) and any(mark in text for mark in "*?[{")
        return self.prefix is None and not several and not os.path.exists(text)


FORMATS = (
    Format(
        name="IDX",
        example="FILE-idx3-ubyte[.gz], FOLDER of them",
        suffixes=("-ubyte", "-ubyte.gz", ".idx", ".idx.gz"),
        holds=("*[.-]idx[1-9]-*",),
        module="idx",
        takes=("subset",),
    ),
    Format(
        name="cuda-convnet",
        example="FOLDER with data_batch_N and batches.meta",
        holds=("data_batch_*",),
        asks=True,
        module="convnet",
        takes=("subset",),
    ),
    Format(
        name="CIFAR",
        example="FOLDER with data_batch_1[.bin], test_batch[.bin]",
        suffixes=("/data_batch_[0-9]", "/test_batch", "data_batch_[0-9].bin", "test_batch.bin"),
        holds=("data_batch_*", "test_batch*", "fine_label_names.txt", "meta"),
        asks=True,
        module="cifar",
        takes=("subset",),
    ),
    Format(
        name="Hugging Face",
        example="FOLDER written by save_to_disk",
        holds=("state.json", "dataset_dict.json"),
        module="huggingface",
        takes=("subset", "fill"),
    ),
    Format(
        name="Arrow",
        example="FILE.arrow, FILE.feather, FOLDER of them, PATTERN",
        suffixes=(".arrow", ".arrows", ".feather", ".ipc"),
        holds=("*.arrow", "*.arrows", "*.feather", "*.ipc"),
        module="arrow_files",
        takes=("fill",),
        patterns=True,
    ),
    Format(name="MDS", example="FOLDER with index.json", holds=("index.json",), module="mds", takes=("subset",)),
    Format(
        name="TFRecord",
        example="FILE.tfrecord, FOLDER of them, PATTERN",
        suffixes=(".tfrecord", ".tfrecords", ".tfrec", ".tfrecord.gz", ".tfrecords.gz", ".tfrecord-*"),
        holds=("*.tfrecord*", "*.tfrec"),
        module="tfrecord",
        patterns=True,
    ),
    Format(
        name="Pascal VOC",
        example="FOLDER or FILE.tar with Annotations/*.xml and JPEGImages/",
        suffixes=(".tar", ".tar.gz", ".tgz"),
        holds=("Annotations/*.xml", "*/Annotations/*.xml", "*/*/Annotations/*.xml"),
        asks=True,
        module="voc",
        takes=("subset",),
    ),
    Format(
        name="WebDataset",
        example="FILE.tar, FOLDER of them, FILE-{000..099}.tar",
        suffixes=(".tar", ".tar.gz", ".tgz"),
        holds=("*.tar", "*.tar.gz", "*.tgz"),
        asks=True,
        module="webdataset",
        patterns=True,
    ),
    Format(name="HDF5", example="FILE.h5, FILE.hdf5", suffixes=(".h5", ".hdf5", ".he5"), module="hdf5"),
    Format(
        name="WAV",
        example="FOLDER",
        holds=("*.[wW][aA][vV]", "*/*.[wW][aA][vV]", "*/*/*.[wW][aA][vV]"),
        module="wav",
        takes=("subset",),
    ),
    Format(name="NumPy", example="FILE.npy, FILE.npz", suffixes=(".npy", ".npz"), module="arrays"),
    Format(
        name="CSV",
        example="FILE.csv, FILE.tsv, PATTERN",
        suffixes=(".csv", ".tsv"),
        module="delimited",
        takes=("type", "fill"),
        each=True,
    ),
    Format(
        name="Parquet",
        example="FILE.parquet, FOLDER of them, PATTERN",
        suffixes=(".parquet", ".pq"),
        holds=("*.parquet", "*.pq"),
        asks=True,
        patterns=True,
        module="parquet",
        takes=("fill",),
    ),
    Format(
        name="images",
        example="FOLDER, FILE.tar, FILE.tar.gz",
        suffixes=("/", ".tar", ".tar.gz", ".tgz"),
        module="images",
        takes=("subset", "decode"),
    ),
    Format(name="CTF", example="FILE.ctf", suffixes=(".ctf",), module="ctf", takes=("stream", "type", "key")),
    Format(
        name="image map",
        example="FILE_map.txt, FILE.map",
        suffixes=("_map.txt", "-map.txt", ".map"),
        module="image_map",
        takes=("decode",),
    ),
    Format(
        name="LibSVM",
        example="FILE.libsvm, FILE.svmlight, FILE.svm",
        suffixes=tuple(f"{name}{packed}" for name in (".libsvm", ".svmlight", ".svm") for packed in ("", ".gz")),
        module="libsvm",
        takes=("type", "width", "first_index"),
    ),
    Format(
        name="JSON lines",
        example="FILE.jsonl, FILE.jsonl.gz, FILE.json.gz, PATTERN",
        suffixes=(".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".json.gz"),
        module="json_lines",
        takes=("type", "fill"),
        each=True,
    ),
    Format(
        name="text",
        example="FILE.txt, FILE.txt.gz",
        suffixes=(".txt", ".txt.gz"),
        module="plain_text",
        takes=("row_per", "text_as", "row_tokens", "subset"),
    ),
    Format(
        name="tokens",
        example="FILE.bin",
        suffixes=(".bin",),
        module="token_file",
        takes=("dtype", "end_of_text", "row_tokens"),
    ),
    Format(
        name="pronunciations",
        example="FILE.dict, cmudict-0.7b",
        suffixes=(".dict", "cmudict", "cmudict.train", "cmudict.test", "cmudict[-.]0.[0-9]*"),
        module="pronunciations",
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
    format_ = (
        next((format_ for format_ in FORMATS if format_.recognises(text)), None)
        if options.format is None
        else format_named(options.format)
    )
    if not os.path.exists(text) if format_ is None else format_.is_missing(text):
        raise FileNotFoundError(f"there is no file or folder {text!r}")
    if format_ is None:
        known = "; ".join(f"{format_.example} ({format_.name})" for format_ in FORMATS)
        raise ValueError(f"no known format has a source like {text!r}; known are: {known}")
    for given in dataclasses.fields(options):
        if given.name not in ("format", "bad", *format_.takes) and getattr(options, given.name) != given.default:
            flag = "--" + given.name.replace("_", "-")
            raise ValueError(f"{flag} means nothing to the {format_.name} source {text!r}: leave it out")
    module = f"{__name__}.{format_.module}"
    if format_.each and not os.path.exists(text):
        from minibatch.tools.sources.several import open_several

        return open_several(text, module, options)
    return cast(Source, importlib.import_module(module).open_source(text, options))


def format_named(name: str) -> Format:
    """The row of `FORMATS` that `--format` names, in whatever case, with "-" for a space; raises ValueError if none.

    >>> format_named("csv").module, format_named("json-lines").module
    ('delimited', 'json_lines')
    """
    plain = {format_.name.lower().replace(" ", "-"): format_ for format_ in FORMATS}
    if name.lower().replace(" ", "-") not in plain:
        raise ValueError(f"there is no format {name!r}; known are {', '.join(plain)}")
    return plain[name.lower().replace(" ", "-")]


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
