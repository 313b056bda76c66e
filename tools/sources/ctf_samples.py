"""How a stretch of CNTK text is taken apart: lines into sequences, their samples by stream, all of them at once.

Nothing here loops over characters, values or lines: NumPy finds the separators of a block, and Arrow reads the numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch.tools.sources.text_lines import blocks, numbers, text_of, wholes

WORD, SPACE, PIPE, NEWLINE = range(4)
KIND_OF_BYTE = np.full(256, WORD, np.uint8)
KIND_OF_BYTE[:33] = SPACE
KIND_OF_BYTE[127] = SPACE
KIND_OF_BYTE[ord("|")] = PIPE
KIND_OF_BYTE[ord("\n")] = NEWLINE
MOST_STREAMS = 1000  # more names than that are no names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """The samples of one stream in a stretch of lines, in order.

    `counts` values each, in `lines`; `lengths` samples to each sequence. `values` of all samples end to end, `indices`
    the same (0 where the value stands alone), and `sparse` whether a value had an index.
    """

    counts: NDArray[np.int64]
    lines: NDArray[np.int64]
    lengths: NDArray[np.int64]
    values: NDArray[np.float64]
    indices: NDArray[np.int64]
    sparse: NDArray[np.bool_]

    def sample_of_token(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def place_in_sample(self) -> NDArray[np.int64]:
        begins = np.cumsum(self.counts) - self.counts
        return np.arange(len(self.values)) - np.repeat(begins, self.counts)

    def line_of_token(self, token: Any) -> int:
        return int(self.lines[np.searchsorted(np.cumsum(self.counts), token, side="right")])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lines:
    """Whole lines of whole sequences.

    `numbers` are the lines' numbers in the file, `sequence` tells the sequence of each (ascending, any numbers), and
    `keys` the ids by which `sequence` counts: ids[i] = keys[sequence of the i-th one].
    """

    data: NDArray[np.uint8]
    numbers: NDArray[np.int64]
    sequence: NDArray[np.int64]
    keys: NDArray[np.int64]

    @property
    def sequences(self) -> int:
        """How many sequences there are."""
        return 0 if not len(self.sequence) else int(np.count_nonzero(np.diff(self.sequence))) + 1

    @property
    def ids(self) -> NDArray[np.int64]:
        """The id of each sequence."""
        return self.keys[np.unique(self.sequence)]

    def first_of(self, place: Any) -> int:
        """The first line of the sequence at `place`."""
        return int(np.unique(self.sequence, return_index=True)[1][place])

    def blank(self) -> NDArray[np.bool_]:
        """Which lines hold nothing but spaces."""
        kinds = KIND_OF_BYTE[self.data]
        filled = np.cumsum((kinds == WORD) | (kinds == PIPE))[kinds == NEWLINE]
        return np.asarray(np.diff(filled, prepend=0) == 0)

    def only(self, keep: NDArray[np.bool_]) -> Lines:
        """The lines to `keep`."""
        ends = np.flatnonzero(self.data == ord("\n")) + 1
        bytes_kept = np.repeat(keep, np.diff(ends, prepend=0))
        return dataclasses.replace(
            self, data=self.data[bytes_kept], numbers=self.numbers[keep], sequence=self.sequence[keep]
        )

    def samples(self, names: Sequence[str]) -> tuple[list[Samples], dict[int, str]]:
        """The samples of each of the named streams, and what is wrong: the line (of these) and the reason."""
        words, wrong = Words(self.data), dict[int, str]()
        place = np.cumsum(np.diff(self.sequence, prepend=self.sequence[0]) != 0)  # of each line's sequence
        for line in np.flatnonzero(np.bincount(words.line_of_segment, minlength=len(self.numbers)) == 0):
            wrong.setdefault(int(line), "the line has no '|'")
        for segment in np.flatnonzero(~words.named):
            wrong.setdefault(int(words.line_of_segment[segment]), "a '|' is followed by no name")
        words.refuse_bad_ids(wrong)
        which = words.streams([name.encode() for name in names])
        found = []
        for number, name in enumerate(names):
            segments = np.flatnonzero(which == number)
            lines = words.line_of_segment[segments]
            lengths = np.bincount(place[lines], minlength=int(place[-1]) + 1)
            found.append(words.samples(segments, lengths, name, wrong))
        self.refuse_bad_lengths(names, found, place, wrong)
        return found, wrong

    def refuse_bad_lengths(
        self, names: Sequence[str], found: Sequence[Samples], place: NDArray[np.int64], wrong: dict[int, str]
    ) -> None:
        """Note the sequences without a stream, and those whose longest stream has not one sample per line."""
        rows = np.bincount(place)
        firsts = np.cumsum(rows) - rows
        longest = np.max([samples.lengths for samples in found], axis=0)
        for name, samples in zip(names, found, strict=True):
            for sequence in np.flatnonzero(samples.lengths == 0):
                wrong.setdefault(int(firsts[sequence]), f"the sequence that begins here has no stream {name!r}")
        for sequence in np.flatnonzero((longest != rows) & (longest > 0)):
            wrong.setdefault(
                int(firsts[sequence]),
                f"the sequence that begins here has {rows[sequence]} lines, but its longest stream has "
                f"{longest[sequence]} samples; expected one sample per line",
            )


class Words:
    """The words of some lines and what they belong to.

    A segment is what stands between a "|" and the next one or the end of the line; a word belongs to the segment or, at
    the beginning of a line, to none. All positions count in bytes from the beginning of `data`.
    """

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.data = data
        kinds = KIND_OF_BYTE[data]
        word = np.concatenate([[False], kinds == WORD, [False]])
        edges = np.flatnonzero(word[1:] != word[:-1])
        self.starts, self.ends = edges[::2], edges[1::2]
        marks = np.flatnonzero(kinds >= PIPE)  # where segments begin or lines end
        newline = kinds[marks] == NEWLINE
        line_of_mark = np.cumsum(newline) - newline
        self.pipes, self.line_of_segment = marks[~newline], line_of_mark[~newline]
        self.newlines = marks[newline]
        before = np.searchsorted(marks, self.starts) - 1  # the mark before each word
        inside = before >= 0
        inside[inside] = ~newline[before[inside]]
        segment_of_mark = np.cumsum(~newline) - 1
        self.heads = np.flatnonzero(~inside)  # words before the first "|" of a line
        self.line_of_head = np.searchsorted(self.newlines, self.starts[self.heads])
        self.words = np.flatnonzero(inside)
        self.segment_of_word = segment_of_mark[before[self.words]]
        counts = np.bincount(self.segment_of_word, minlength=len(self.pipes))
        self.first_word = np.cumsum(counts) - counts
        self.counts = counts
        follows = np.minimum(self.pipes + 1, len(data) - 1)
        self.comment = data[follows] == ord("#")
        self.named = kinds[follows] == WORD

    def heads_as_ids(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The number that each word before the first "|" of a line is, and which of them are none."""
        return wholes(self.data, self.starts[self.heads], self.ends[self.heads])

    def refuse_bad_ids(self, wrong: dict[int, str]) -> None:
        """Note the lines that begin with something else than one number."""
        _, bad = self.heads_as_ids()
        bad[1:] |= np.diff(self.line_of_head) == 0
        for head in np.flatnonzero(bad):
            word = self.heads[head]
            found = text_of(self.data, int(self.starts[word]), int(self.ends[word]))
            wrong.setdefault(int(self.line_of_head[head]), f"{found} stands where a sequence id or '|' is expected")

    def name_ends(self) -> NDArray[np.int64]:
        """Where the name of each segment ends; where it begins if it has none."""
        ends: NDArray[np.int64] = self.pipes + 1
        ends[self.named] = self.ends[self.words[self.first_word[self.named]]]
        return ends

    def streams(self, names: Sequence[bytes]) -> NDArray[np.int64]:
        """Which of the `names` each segment has; -1 for others and for comments."""
        begins, lengths = self.pipes + 1, self.name_ends() - self.pipes - 1
        which = np.full(len(begins), -1)
        for number, name in enumerate(names):
            fits = np.flatnonzero((lengths == len(name)) & ~self.comment)
            for place, byte in enumerate(name):
                fits = fits[self.data[begins[fits] + place] == byte]
            which[fits] = number
        return which

    def names(self) -> list[bytes]:
        """The names of all segments that are no comments, in order of their first appearance."""
        ends, found = self.name_ends(), list[bytes]()
        left = np.flatnonzero(self.named & ~self.comment)
        while len(left) and len(found) <= MOST_STREAMS:
            found.append(self.data[self.pipes[left[0]] + 1 : ends[left[0]]].tobytes())
            left = left[self.streams(found[-1:])[left] < 0]
        return found

    def samples(
        self, segments: NDArray[np.int64], lengths: NDArray[np.int64], name: str, wrong: dict[int, str]
    ) -> Samples:
        """The values in the `segments` of one stream; what is no value is noted in `wrong`."""
        counts = self.counts[segments] - 1  # the first word is the name
        begins = np.repeat(self.first_word[segments] + 1 - (np.cumsum(counts) - counts), counts)
        words = self.words[begins + np.arange(counts.sum())]
        starts, ends = self.starts[words], self.ends[words]
        lines = self.line_of_segment[segments]
        colons = np.flatnonzero(self.data == ord(":"))
        first_colon = np.searchsorted(colons, starts)
        colon = np.append(colons, len(self.data))[first_colon]
        sparse = colon < ends
        indices, bad = np.zeros(len(words), np.int64), np.zeros(len(words), np.bool_)
        indices[sparse], bad[sparse] = wholes(self.data, starts[sparse], colon[sparse])
        value_starts = np.where(sparse, colon + 1, starts)
        values, no_number = numbers(self.data, value_starts, ends)
        if (bad | no_number).any():
            line_of_word = np.repeat(lines, counts)
            for word in np.flatnonzero(bad | no_number):
                found = text_of(self.data, int(starts[word]), int(ends[word]))
                what = "index:value" if sparse[word] else "a number"
                wrong.setdefault(int(line_of_word[word]), f"{found} in stream {name!r} is not {what}")
        return Samples(counts=counts, lines=lines, lengths=lengths, values=values, indices=indices, sparse=sparse)


def sequence_blocks(path: str) -> Iterator[Lines]:
    """The file `path` in stretches of whole sequences."""
    ids_count: bool | None = None
    kept, kept_line = b"", 1
    for line, block in blocks(path):
        data, begin = (kept + block, kept_line) if kept else (block, line)
        if ids_count is None:
            ids_count = begins_with_id(block)
        lines = sequences_in(np.frombuffer(data, np.uint8), begin, ids_count=bool(ids_count))
        if not ids_count:
            yield lines
            continue
        last = int(np.searchsorted(lines.sequence, lines.sequence[-1]))  # it may go on in the next block
        if last:
            whole = np.arange(len(lines.sequence)) < last
            yield lines.only(whole)
        end = 0 if not last else int(np.flatnonzero(lines.data == ord("\n"))[last - 1]) + 1
        kept, kept_line = data[end:], begin + last
    if kept:
        yield sequences_in(np.frombuffer(kept, np.uint8), kept_line, ids_count=True)


def begins_with_id(block: bytes) -> bool | None:
    """Whether the first line that is not blank begins with a number; None if there is none."""
    filled = block.lstrip()
    return filled.split(b"\n", 1)[0].split(b"|")[0].strip().isdigit() if filled else None


def sequences_in(data: NDArray[np.uint8], line: int, *, ids_count: bool) -> Lines:
    """The lines of `data`, of which the first has number `line`.

    If ids count, a line with an id other than that of the line before it begins a new sequence. Otherwise each line is
    one, whose id is the line's number from 0.
    """
    places = line + np.arange(np.count_nonzero(data == ord("\n")))
    if not ids_count:
        return Lines(data=data, numbers=places, sequence=np.arange(len(places)), keys=places - 1)
    words = Words(data)
    ids, bad = words.heads_as_ids()
    first = ~bad & (np.diff(words.line_of_head, prepend=-1) != 0)
    ids, at = ids[first], words.line_of_head[first]
    begins = at[np.diff(ids, prepend=ids[:1] - 1) != 0]
    sequence = np.zeros(len(places), np.int64)
    sequence[begins] = 1
    sequence[0] = 0
    sequence = np.cumsum(sequence)
    keys = np.full(int(sequence[-1]) + 1, -1, np.int64)
    keys[sequence[at]] = ids
    return Lines(data=data, numbers=places, sequence=sequence, keys=keys)


def streams_of(path: str) -> list[str]:
    """The names of the streams in the file `path`, in order of their first appearance."""
    found: list[str] = []
    for line, block in blocks(path):
        for name in Words(np.frombuffer(block, np.uint8)).names():
            try:
                text = name.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{path!r}: the stream name {name!r} near line {line} is not UTF-8") from error
            if text not in found:
                found.append(text)
        if len(found) > MOST_STREAMS:
            raise ValueError(
                f"{path!r} holds over {MOST_STREAMS:,} streams ({found[0]!r}, {found[1]!r}, …): is it CTF? "
                "If it is, name those to take with --stream"
            )
    return found
