"""LibSVM (svmlight) files: `label [qid:N] index:value …` a line, the fields `label`, `features` and, if given, `qid`.

`features` are sparse, float32; `label` is int64 if all labels of the file are whole numbers, else float64; `--type
FIELD=DTYPE` sets another. Labels with commas (`3,17,20 1:0.5`) make `label` a list field, in which a line that begins
with a feature has none. What follows a `#` is a comment; blank lines do not count. A first pass finds whether features
count from 0 or 1 (0 if any index is 0) and how many there are; `--first-index` and `--width` say it, as they should for
a test file that is to fit its training file. The indices of a line must ascend.
The format: https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/ and https://www.cs.cornell.edu/people/tj/svm_light/.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.ragged import Ragged
from minibatch.sparse import Sparse
from minibatch.tools.sources import BadRecord, Column, Options, Piece
from minibatch.tools.sources.field_types import FieldType, number_types
from minibatch.tools.sources.text_lines import (
    WHOLE,
    all_match,
    blocks,
    numbers,
    offsets_of,
    stored_as,
    text_of,
    wholes,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What the whole file has in common."""

    first_index: int
    width: int
    several_labels: bool
    whole_labels: bool
    qid: bool


def open_source(text: str, options: Options) -> LibsvmSource:
    """The rows of the file `text`; a pass over all of it finds what its lines have in common."""
    if options.first_index not in (None, 0, 1):
        raise ValueError(f"--first-index {options.first_index}: features count from 0 or from 1")
    if options.width is not None and options.width < 1:
        raise ValueError(f"--width {options.width}: expected how many features there are, at least 1")
    layout, rows = survey(text, options)
    defaults = {"label": "int64" if layout.whole_labels else "float64", "features": "float32"}
    return LibsvmSource(
        path=text, layout=layout, types=number_types(options.type, defaults, repr(text)), rows=rows, options=options
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LibsvmSource:
    """The rows of one LibSVM file."""

    path: str
    layout: Layout
    types: Mapping[str, FieldType]
    rows: int
    options: Options

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return {}

    def describe(self) -> str:
        layout, origin = self.layout, "given" if self.options.first_index is not None else "found"
        return (
            f"LibSVM of {self.rows:,} rows: {'several labels each' if layout.several_labels else 'label'}"
            f"{', qid' * layout.qid}, {layout.width:,} features counted from {layout.first_index} ({origin})"
        )

    def batches(self) -> Iterator[Piece]:
        for unit in self.units():
            yield from unit.batches()

    def units(self) -> Iterator[LibsvmUnit]:
        """Blocks of lines, which several processes can read."""
        for line, block in blocks(self.path):
            yield LibsvmUnit(source=self, line=line, block=block)

    def columns(self, rows: Rows) -> Piece:
        """The fields of `rows`; what does not fit is added to what is wrong with them."""
        layout = self.layout
        if not layout.several_labels:
            rows.refuse(rows.label_counts != 1, "the line begins with a feature where its label is expected")
        if layout.qid:
            rows.refuse(rows.qids < 0, "the line has no qid, but others have")
        indices = rows.indices - layout.first_index
        for word in np.flatnonzero((indices < 0) | (indices >= layout.width)):
            rows.refuse_feature(word, f"feature {rows.indices[word]} is not among {layout.first_index} to "
                                f"{layout.width - 1 + layout.first_index}")  # fmt: skip
        labels, no_label = stored_as(rows.labels, self.types["label"])
        for place in np.flatnonzero(no_label):
            row = int(np.searchsorted(np.cumsum(rows.label_counts), place, side="right"))
            rows.wrong.setdefault(row, f"label {rows.labels[place]:g} is no {self.types['label']}")
        values, no_value = stored_as(rows.values, self.types["features"])
        for word in np.flatnonzero(no_value):
            rows.refuse_feature(word, f"value {rows.values[word]:g} is no {self.types['features']}")
        if rows.wrong:
            return {}
        label: Column = Ragged(labels, offsets_of(rows.label_counts)) if layout.several_labels else labels
        small = np.int32 if layout.width <= 2**31 - 1 else np.int64
        features = Sparse(indices.astype(small), values, offsets_of(rows.counts), layout.width)
        return {"label": label, **({"qid": rows.qids} if layout.qid else {}), "features": features}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LibsvmUnit:
    """Some lines of a LibSVM file, `line` the number of the first."""

    source: LibsvmSource
    line: int
    block: bytes

    def batches(self) -> Iterator[Piece]:
        rows = Rows(np.frombuffer(self.block, np.uint8), self.line)
        columns = self.source.columns(rows)
        while rows.wrong:
            rows = rows.reported(self.source.path, self.source.options)
            columns = self.source.columns(rows)
        if len(rows.lines):
            yield columns


def survey(path: str, options: Options) -> tuple[Layout, int]:
    """What the lines of the file have in common, and how many rows there are."""
    lowest, highest, count = 2**62, -1, 0
    several, qid, whole = False, False, True
    for line, block in blocks(path):
        rows = Rows(np.frombuffer(block, np.uint8), line)
        while rows.wrong:
            rows = rows.reported(path, options)
        count += len(rows.lines)
        lowest = min(lowest, int(rows.indices.min(initial=lowest)))
        highest = max(highest, int(rows.indices.max(initial=highest)))
        several |= bool((rows.label_counts > 1).any())
        qid |= bool((rows.qids >= 0).any())
        whole &= rows.whole_labels
    first = options.first_index if options.first_index is not None else int(lowest > 0)
    width = options.width or highest + 1 - first
    if width < 1 and count:
        raise ValueError(f"{path!r} has no feature at all: give their number with --width, or is it another format?")
    return Layout(first_index=first, width=width, several_labels=several, whole_labels=whole, qid=qid), count


class Rows:
    """The rows in whole lines, `line` the number of the first, and what is `wrong` with them: row → reason.

    `labels` and `values` are float64; a row has `label_counts` of the one and `counts` of the other. `qids` are -1
    where there are none, `lines` the numbers of the rows' lines.
    """

    def __init__(self, data: NDArray[np.uint8], line: int, numbers_of_lines: NDArray[np.int64] | None = None) -> None:
        newline = data == ord("\n")
        self.data, self.ends = without_comments(data, newline), np.flatnonzero(newline)
        self.numbers = line + np.arange(len(self.ends)) if numbers_of_lines is None else numbers_of_lines
        word = np.concatenate([[False], self.data > ord(" "), [False]])
        edges = np.flatnonzero(word[1:] != word[:-1])
        starts, ends = edges[::2], edges[1::2]
        at = np.searchsorted(self.ends, starts)
        self.filled, row_of_word = np.unique(at, return_inverse=True)
        self.lines = self.numbers[self.filled]
        self.wrong: dict[int, str] = {}
        colons = np.append(np.flatnonzero(self.data == ord(":")), len(data))
        colon = colons[np.searchsorted(colons, starts)]
        pair = colon < ends
        first = np.diff(row_of_word, prepend=-1) != 0
        self.read_labels(starts, ends, row_of_word, first & ~pair)
        second = np.append(False, (first & ~pair)[:-1]) | (first & pair)
        qid = second & (ends - starts > 4)
        for place, byte in enumerate(b"qid:"):
            qid[qid] = self.data[starts[qid] + place] == byte
        self.qids = np.full(len(self.lines), -1)
        found, bad = wholes(self.data, starts[qid] + 4, ends[qid])
        self.qids[row_of_word[qid]] = found
        self.refuse_words(row_of_word[qid][bad], starts[qid][bad], ends[qid][bad], "is not qid: and a whole number")
        alone = ~pair & ~first
        self.refuse_words(row_of_word[alone], starts[alone], ends[alone], "is not index:value")
        feature = pair & ~qid
        self.starts, self.stops, self.row_of_feature = starts[feature], ends[feature], row_of_word[feature]
        self.counts = np.bincount(self.row_of_feature, minlength=len(self.lines))
        self.indices, bad = wholes(self.data, self.starts, colon[feature])
        self.values, no_number = numbers(self.data, colon[feature] + 1, self.stops, nan=True)
        for word_ in np.flatnonzero(bad | no_number):
            self.refuse_feature(word_, "it is not index:value")
        same_row = np.diff(self.row_of_feature) == 0
        for word_ in np.flatnonzero(same_row & (np.diff(self.indices) <= 0)) + 1:
            self.refuse_feature(word_, f"its index does not ascend: {self.indices[word_ - 1]} stands before it")

    def read_labels(
        self, starts: NDArray[np.int64], ends: NDArray[np.int64], row_of_word: NDArray[Any], is_label: NDArray[np.bool_]
    ) -> None:
        """Set `labels`, `label_counts` and `whole_labels` from the first words of the rows, cut at commas."""
        begins, stops, rows = starts[is_label], ends[is_label], row_of_word[is_label]
        commas = np.flatnonzero(self.data == ord(","))
        of_label = np.searchsorted(begins, commas, side="right") - 1
        inside = of_label >= 0
        inside[inside] = commas[inside] < stops[of_label[inside]]
        commas, of_label = commas[inside], of_label[inside]
        all_starts = np.sort(np.concatenate([begins, commas + 1]))
        all_stops = np.sort(np.concatenate([stops, commas]))
        row_of_label = np.sort(np.concatenate([rows, rows[of_label]]))
        self.labels, bad = numbers(self.data, all_starts, all_stops)
        self.label_counts = np.bincount(row_of_label, minlength=len(self.lines))
        self.refuse_words(row_of_label[bad], all_starts[bad], all_stops[bad], "is no label, which is a number")
        self.whole_labels = all_match(self.data, all_starts, all_stops, WHOLE)

    def refuse(self, bad: NDArray[np.bool_], reason: str) -> None:
        """Note the rows that are `bad`."""
        for row in np.flatnonzero(bad):
            self.wrong.setdefault(int(row), reason)

    def refuse_words(self, rows: NDArray[Any], starts: NDArray[np.int64], ends: NDArray[np.int64], reason: str) -> None:
        """Note the `rows` with the words that are wrong."""
        for row, start, end in zip(rows, starts, ends, strict=True):
            self.wrong.setdefault(int(row), f"{text_of(self.data, int(start), int(end))} {reason}")

    def refuse_feature(self, feature: Any, reason: str) -> None:
        """Note the row of one of the features."""
        found = text_of(self.data, int(self.starts[feature]), int(self.stops[feature]))
        self.wrong.setdefault(int(self.row_of_feature[feature]), f"{found}: {reason}")

    def reported(self, path: str, options: Options) -> Rows:
        """The other rows, once `options.bad` has heard of each that is wrong."""
        for row in sorted(self.wrong):
            options.bad(BadRecord(path, f"line {self.lines[row]}", self.wrong[row]))
        keep = np.ones(len(self.ends), np.bool_)
        keep[self.filled[list(self.wrong)]] = False
        lengths = np.diff(self.ends, prepend=-1)
        return Rows(self.data[np.repeat(keep, lengths)], 0, self.numbers[keep])


def without_comments(data: NDArray[np.uint8], newline: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The bytes with spaces from each `#` to the end of its line.

    >>> text = np.frombuffer(b"1 2:3 # one # two\\n4 5:6\\n", np.uint8)
    >>> without_comments(text, text == 10).tobytes()
    b'1 2:3            \\n4 5:6\\n'
    """
    hashes = np.flatnonzero(data == ord("#"))
    if not len(hashes):
        return data
    ends = np.flatnonzero(newline)
    lines, first = np.unique(np.searchsorted(ends, hashes), return_index=True)
    marks = np.zeros(len(data) + 1, np.int8)
    marks[hashes[first]] = 1
    marks[ends[lines]] -= 1
    return np.where(np.cumsum(marks, dtype=np.int8)[:-1].view(np.bool_), np.uint8(ord(" ")), data)
