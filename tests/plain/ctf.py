"""CNTK text format, line by line and word by word: the twin of minibatch.tools.sources.ctf."""

import re
from dataclasses import dataclass, field

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)


@dataclass
class Sequence:
    """An id, the lines' numbers, the samples of each stream, and the numbers of the lines that are wrong."""

    key: int
    lines: list = field(default_factory=list)
    samples: dict = field(default_factory=dict)
    wrong: set = field(default_factory=set)


def read(text, widths):
    """The good sequences of `text`, and the first wrong line of each bad one; blank lines are wrong by themselves.

    `widths` are those of the streams to take; a negative one is sparse. A dense sample is a list of that many numbers,
    a sparse one a dict.
    """
    lines = text.split("\n")
    lines = lines[:-1] if not lines[-1] else lines
    filled = [(number, line) for number, line in enumerate(lines, start=1) if line.strip(" \t\r")]
    blank = [number for number, line in enumerate(lines, start=1) if not line.strip(" \t\r")]
    sequences = []
    ids_count = bool(filled) and filled[0][1].split("|")[0].strip().isdigit()
    for number, line in filled:
        head, *segments = line.split("|")
        head = head.split()
        key = int(head[0]) if head and head[0].isdigit() else None
        if not ids_count:
            sequences.append(Sequence(key=number - 1))
        elif key is not None and (not sequences or sequences[-1].key != key):
            sequences.append(Sequence(key=key))
        sequence = sequences[-1]
        sequence.lines.append(number)
        if not segments or len(head) > 1 or (head and key is None):
            sequence.wrong.add(number)
        for segment in segments:
            read_segment(segment, widths, sequence, number)
    for sequence in sequences:
        lengths = [len(sequence.samples.get(name, [])) for name in widths]
        if 0 in lengths or max(lengths) != len(sequence.lines):
            sequence.wrong.add(sequence.lines[0])
    bad = blank + [min(sequence.wrong) for sequence in sequences if sequence.wrong]
    return [sequence for sequence in sequences if not sequence.wrong], sorted(bad)


def read_segment(segment, widths, sequence, number):
    """What stands between two bars: a comment, the sample of a stream, or something wrong."""
    if segment.startswith("#"):
        return
    if not segment or segment[0] in " \t\r":
        sequence.wrong.add(number)
        return
    name, *words = segment.split()
    if name not in widths:
        return
    width = abs(widths[name])
    sample = {} if widths[name] < 0 else []
    for word in words:
        index, colon, value = word.rpartition(":")
        good = NUMBER.fullmatch(value) and bool(colon) == (widths[name] < 0)
        if colon:
            good = good and re.fullmatch("[0-9]+", index) and int(index) < width
        if not good:
            sequence.wrong.add(number)
        elif colon:
            sample[int(index)] = sample.get(int(index), 0) + float(value)
        else:
            sample.append(float(value))
    if isinstance(sample, list):
        if len(sample) > width:
            sequence.wrong.add(number)
        sample += [0.0] * (width - len(sample))
    sequence.samples.setdefault(name, []).append(sample)
