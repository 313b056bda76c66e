"""CNTK text format (CTF): lines `[id] |name values … |name values …`, a row per sequence, a field per stream.

A sequence is a run of lines with one id; a line without an id belongs to the one before it. If the file's first line
has no id, ids mean nothing and every line is a sequence. A sample is dense (numbers; too few are filled up with zeros)
or sparse (`index:value`). `|#` begins a comment, up to the next `|` or the end of the line. As in CNTK, it is an error
if a sequence lacks a stream, if a line holds no sample, and if the longest stream of a sequence has not exactly one
sample per line. The rules are those of CNTK's TextParser.cpp and Indexer.cpp.

What becomes of a stream, unless `--stream` says it:

| in the file | one sample in every sequence | sequences |
|---|---|---|
| dense, one number / more | float32 () / (width,) | list of those |
| sparse, always one index with value 1 | int64 class number; metadata `num_classes` | list of those |
| other sparse | sparse features of that width | list of those |

`--stream [FIELD=]NAME[:WIDTH][:KIND][:single|sequence]`, once per stream to take, gives what a test file must have in
common with its training file. KIND is dense, sparse (what the table says), ids (class numbers, or an error) or features
(sparse features, always). What it leaves open is found in a first pass over the file. `--type FIELD=DTYPE` sets the
dtype of the values, `--key FIELD` keeps the ids of the sequences (their numbers from 0 where there are none).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from minibatch.ragged import Ragged
from minibatch.sparse import Sparse
from minibatch.tools.sources import BadRecord, Column, Options, Piece
from minibatch.tools.sources.ctf_samples import Lines, Samples, sequence_blocks, streams_of
from minibatch.tools.sources.field_types import FieldType, number_types
from minibatch.tools.sources.text_lines import offsets_of, stored_as

T = TypeVar("T")
KINDS = ("dense", "sparse", "ids", "features")
EXAMPLE = "expected [FIELD=]NAME[:WIDTH][:KIND][:single|sequence], such as S0:943:sparse"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """A stream of the file and the field that it becomes; None for what has not been found out yet."""

    name: str
    field: str
    width: int | None = None
    kind: str | None = None
    single: bool | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing is left to find out."""
        return self.width is not None and self.kind not in (None, "sparse") and self.single is not None

    def __str__(self) -> str:
        kind = {"ids": "class numbers", "features": "sparse"}.get(self.kind or "", self.kind)
        return f"{self.field} ({kind}, width {self.width:,}, {'one each' if self.single else 'sequences'})"


def stream_of(text: str) -> Stream:
    """The stream that `--stream` describes.

    >>> stream_of("query=S0:943:ids:sequence")
    Stream(name='S0', field='query', width=943, kind='ids', single=False)
    """
    (name, *words), field = text.split(":"), ""
    if "=" in name:
        field, _, name = name.partition("=")
    settings: dict[str, Any] = {}
    value: Any
    for word in words:
        if word.isdecimal() and int(word) > 0:
            key, value = "width", int(word)
        elif word in KINDS:
            key, value = "kind", word
        elif word in ("single", "sequence"):
            key, value = "single", word == "single"
        else:
            raise ValueError(f"--stream {text}: {word!r} is no width and none of {', '.join(KINDS)}: {EXAMPLE}")
        if key in settings:
            raise ValueError(f"--stream {text} says its {key} twice: {EXAMPLE}")
        settings[key] = value
    if not name or any(character.isspace() or character == "|" for character in name):
        raise ValueError(f"--stream {text} names no stream: {EXAMPLE}")
    return Stream(name=name, field=field or name, **settings)


def open_source(text: str, options: Options) -> CtfSource:
    """The sequences of the file `text`; what is not known of its streams is found out in a pass over all of it."""
    streams = [stream_of(each) for each in options.stream] or [
        Stream(name=name, field=name) for name in streams_of(text)
    ]
    fields = [stream.field for stream in streams] + ([options.key] if options.key else [])
    for name in fields:
        if fields.count(name) > 1:
            raise ValueError(f"{text!r}: two fields would be named {name!r}: rename one with --stream NEW=NAME")
    if not streams:
        raise ValueError(f"{text!r} holds no stream: expected lines such as '|features 1 2 3 |labels 0 1'")
    rows = None
    if not all(stream.settled for stream in streams):
        streams, rows = survey(text, streams, options)
    defaults = {stream.field: "int64" if stream.kind == "ids" else "float32" for stream in streams}
    types = number_types(options.type, defaults, repr(text))
    for stream in streams:
        limits = types[stream.field].dtype
        if stream.kind == "ids" and (limits.kind not in "iu" or np.iinfo(limits).max < (stream.width or 0) - 1):
            raise ValueError(
                f"--type {stream.field}={limits}: the class numbers of {stream.width:,} classes need wider integers"
            )
    return CtfSource(path=text, streams=streams, types=types, rows=rows, options=options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CtfSource:
    """The sequences of one CTF file; `rows` is None where the file has not been surveyed."""

    path: str
    streams: Sequence[Stream]
    types: Mapping[str, FieldType]
    rows: int | None
    options: Options

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return {stream.field: {"num_classes": str(stream.width)} for stream in self.streams if stream.kind == "ids"}

    def describe(self) -> str:
        counted = "" if self.rows is None else f" of {self.rows:,} sequences"
        return f"CNTK text format{counted}: {', '.join(map(str, self.streams))}"

    def batches(self) -> Iterator[Piece]:
        for unit in self.units():
            yield from unit.batches()

    def units(self) -> Iterator[CtfUnit]:
        """Stretches of whole sequences, which several processes can read."""
        for lines in sequence_blocks(self.path):
            yield CtfUnit(source=self, lines=lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CtfUnit:
    """Some whole sequences of a CTF file."""

    source: CtfSource
    lines: Lines

    def batches(self) -> Iterator[Piece]:
        source = self.source

        def columns(found: list[Samples], lines: Lines, wrong: dict[int, str]) -> Piece:
            return {
                stream.field: column_of(stream, samples, source.types[stream.field], lines, wrong)
                for stream, samples in zip(source.streams, found, strict=True)
            }

        for lines, _, piece in taken_apart(source.path, self.lines, source.streams, source.options, columns):
            yield {**piece, source.options.key: lines.ids} if source.options.key else piece


def taken_apart(
    path: str,
    lines: Lines,
    streams: Sequence[Stream],
    options: Options,
    look: Callable[[list[Samples], Lines, dict[int, str]], T],
) -> Iterator[tuple[Lines, list[Samples], T]]:
    """The good ones of the `lines`, their samples by stream, and what `look` makes of them; nothing if none is good.

    `look` may add to what is wrong. Each bad sequence is told to `options.bad` and left out, and the rest looked at
    again.
    """
    names = [stream.name for stream in streams]
    lines = without_blank(path, lines, options)
    while lines.sequences:
        found, wrong = lines.samples(names)
        result = look(found, lines, wrong)
        if not wrong:
            yield lines, found, result
            return
        lines = report(path, lines, wrong, options)


def without_blank(path: str, lines: Lines, options: Options) -> Lines:
    """The lines that are not blank; the others are records of their own, and bad ones."""
    blank = lines.blank()
    for line in np.flatnonzero(blank):
        options.bad(BadRecord(path, f"line {lines.numbers[line]}", "the line is blank"))
    return lines.only(~blank) if blank.any() else lines


def report(path: str, lines: Lines, wrong: Mapping[int, str], options: Options) -> Lines:
    """The lines without the sequences that have `wrong` ones; `options.bad` hears of the first one of each."""
    first: dict[int, int] = {}
    for line in sorted(wrong):
        first.setdefault(int(lines.sequence[line]), line)
    for line in first.values():
        options.bad(BadRecord(path, f"line {lines.numbers[line]}", wrong[line]))
    return lines.only(~np.isin(lines.sequence, list(first)))


def survey(path: str, streams: Sequence[Stream], options: Options) -> tuple[list[Stream], int]:
    """The streams with all found out that was left open, and how many sequences there are."""
    seen = [Seen(stream) for stream in streams]

    def look(found: list[Samples], lines: Lines, wrong: dict[int, str]) -> None:
        for each, samples in zip(seen, found, strict=True):
            each.check(samples, wrong)

    rows = 0
    for block in sequence_blocks(path):
        for lines, found, _ in taken_apart(path, block, streams, options, look):
            for each, samples in zip(seen, found, strict=True):
                each.add(samples)
            rows += lines.sequences
    return [each.settled(path) for each in seen], rows


class Seen:
    """What a first pass has seen of one stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.sparse = None if stream.kind is None else stream.kind != "dense"
        self.width = 0
        self.one_hot = self.single = True

    def check(self, samples: Samples, wrong: dict[int, str]) -> None:
        """Note in `wrong` the lines whose samples do not fit this stream."""
        if self.sparse is None and len(samples.sparse):
            self.sparse = bool(samples.sparse[0])
        refuse_other_kind(self.stream, samples, bool(self.sparse), wrong)

    def add(self, samples: Samples) -> None:
        """Take in samples that are all right."""
        if self.sparse:
            self.width = max(self.width, int(samples.indices.max(initial=-1)) + 1)
            self.one_hot = self.one_hot and not len(not_one_hot(samples))
        else:
            self.width = max(self.width, int(samples.counts.max(initial=0)))
        self.single = self.single and bool((samples.lengths == 1).all())

    def settled(self, path: str) -> Stream:
        """The stream, with what was seen where it left something open."""
        kind, width = self.stream.kind, self.stream.width or self.width
        if not width:
            raise ValueError(
                f"{path!r}: stream {self.stream.name!r} has no value in any good line: check its name, or give its "
                f"width with --stream {self.stream.name}:WIDTH:KIND"
            )
        if kind in (None, "sparse"):
            kind = "dense" if not self.sparse else "ids" if self.one_hot else "features"
        single = self.single if self.stream.single is None else self.stream.single
        return dataclasses.replace(self.stream, width=width, kind=kind, single=single)


def refuse_other_kind(stream: Stream, samples: Samples, sparse: bool, wrong: dict[int, str]) -> None:
    """Note the lines in which the stream holds the other kind of values."""
    for token in np.flatnonzero(samples.sparse != sparse):
        holds, expected = ("index:value", "numbers") if samples.sparse[token] else ("a number", "index:value")
        wrong.setdefault(samples.line_of_token(token), f"stream {stream.name!r} is expected to hold {expected}, "
                         f"but holds {holds} here")  # fmt: skip


def not_one_hot(samples: Samples) -> NDArray[np.int64]:
    """The samples that are not one index with value 1."""
    if (samples.counts == 1).all() and (samples.values == 1).all():
        return np.zeros(0, np.int64)
    ones = np.bincount(samples.sample_of_token()[samples.values == 1], minlength=len(samples.counts))
    return np.flatnonzero((samples.counts != 1) | (ones != 1))


def column_of(stream: Stream, samples: Samples, type_: FieldType, lines: Lines, wrong: dict[int, str]) -> Column:
    """The samples of the sequences as a column; what has no place in it is noted in `wrong`."""
    width, name = stream.width or 0, stream.name
    refuse_other_kind(stream, samples, stream.kind != "dense", wrong)
    if stream.single:
        for sequence in np.flatnonzero(samples.lengths > 1):
            wrong.setdefault(lines.first_of(sequence), f"the sequence that begins here has {samples.lengths[sequence]} "
                             f"samples of stream {name!r}, expected one")  # fmt: skip
    if stream.kind == "dense":
        for sample in np.flatnonzero(samples.counts > width):
            wrong.setdefault(samples.lines[sample], f"stream {name!r} has {samples.counts[sample]} values, expected "
                             f"at most {width}")  # fmt: skip
    else:
        for token in np.flatnonzero(samples.indices >= width):
            wrong.setdefault(samples.line_of_token(token), f"stream {name!r} has index {samples.indices[token]}, "
                             f"expected 0 to {width - 1}")  # fmt: skip
    if stream.kind == "ids":
        for sample in not_one_hot(samples):
            wrong.setdefault(samples.lines[sample], f"stream {name!r} is expected to hold one index with value 1")
        values, unfit = samples.indices, np.zeros(0, np.bool_)
    else:
        values, unfit = stored_as(samples.values, type_)
    for token in np.flatnonzero(unfit):
        wrong.setdefault(samples.line_of_token(token), f"stream {name!r} has the value {samples.values[token]:g}, "
                         f"which is no {type_}")  # fmt: skip
    if wrong:
        return []
    column: Any
    if stream.kind == "ids":
        column = values.astype(type_.dtype)
    elif stream.kind == "dense":
        column = np.zeros((len(samples.counts), width), type_.dtype)
        column[samples.sample_of_token(), samples.place_in_sample()] = values
        column = column[:, 0] if width == 1 else column
    else:
        column = sparse_of(samples, values, width)
    return column if stream.single else Ragged(column, offsets_of(samples.lengths))


def sparse_of(samples: Samples, values: NDArray[Any], width: int) -> Sparse:
    """The samples as sparse rows, the indices of each in ascending order."""
    indices, rows = samples.indices, samples.sample_of_token()
    if (np.diff(indices)[np.diff(rows) == 0] < 0).any():
        order = np.lexsort((indices, rows))
        indices, values = indices[order], values[order]
    small = np.int32 if width <= 2**31 - 1 else np.int64
    return Sparse(indices.astype(small), values, offsets_of(samples.counts), width)
