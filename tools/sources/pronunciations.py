"""Pronouncing dictionaries as CMUdict writes them: lines `WORD  PH ON EM ES`, a row each.

| field | a row |
|---|---|
| `word` | the word in capitals, without the number of its pronunciation |
| `letters` | list of int64: its characters, numbered from 1 on in LETTERS |
| `phones` | list of int64: the ARPAbet phones, numbered from 1 on in PHONES |
| `stress` | list of int64, one per phone: the digit behind it (0, 1, 2), -1 where there is none |

Both vocabularies are fixed, so that all dictionaries agree; they stand in the metadata `vocabulary` of the fields, a
JSON list that begins with "" for 0, which is no letter and no phone: it is free for padding, or for the blank of CTC.
`stress` is there if any phone of the file has a digit. A further pronunciation of a word, `WORD(1)`, is a row with the
same `word`. Lines that begin with `;;;`, what stands behind ` #`, and empty lines are passed over. What is not UTF-8, a
line without phones, an unknown phone and an unknown character are bad records.

The original is the CMU Pronouncing Dictionary of Carnegie Mellon University (BSD licence); its phones are explained at
http://www.speech.cs.cmu.edu/cgi-bin/cmudict. Of version 0.7b one line is not UTF-8: convert it with `--max-errors 1`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping

import numpy as np

from minibatch.ragged import Ragged
from minibatch.tools import sources
from minibatch.tools.sources import BadRecord, Options, Piece
from minibatch.tools.sources.text_lines import blocks, offsets_of

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ'-._0123456789!\"#$%&()*+,/:;<=>?@[\\]^`{|}~")
ARPABET = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
PHONES = tuple(ARPABET.split())
NUMBER_OF_LETTER = {letter: number for number, letter in enumerate(LETTERS, start=1)}
NUMBER_OF_PHONE = {phone: number for number, phone in enumerate(PHONES, start=1)}
FURTHER = re.compile(r"(.+)\([0-9]+\)")  # WORD(1)
COMMENT = re.compile(r"\s#.*")
BYTES_COMMENT = re.compile(rb"\s#.*")
DIGITS = "012"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One line: the word, and the numbers of its letters and phones with their stress."""

    word: str
    letters: list[int]
    phones: list[int]
    stress: list[int]


def entry_of(line: str) -> Entry:
    """What a line says; ValueError with the reason if it is no entry.

    >>> entry = entry_of("Read(1)  R IY1 D  # present tense")
    >>> entry.word, entry.letters, entry.phones, entry.stress
    ('READ', [18, 5, 1, 4], [28, 18, 9], [-1, 1, -1])
    """
    word, *sounds = COMMENT.sub("", line).split()
    if not sounds:
        raise ValueError(f"{word!r} has no phones: expected a word and its phones, such as CAT  K AE T")
    further = FURTHER.fullmatch(word)
    word = capitals(further[1] if further else word)
    letters = [NUMBER_OF_LETTER.get(letter, 0) for letter in word]
    if 0 in letters:
        raise ValueError(f"{word[letters.index(0)]!r} in {word!r} is not in the alphabet {''.join(LETTERS)}")
    stress = [int(sound[-1]) if sound[-1] in DIGITS else -1 for sound in sounds]
    bare = [sound if digit < 0 else sound[:-1] for sound, digit in zip(sounds, stress, strict=True)]
    phones = [NUMBER_OF_PHONE.get(capitals(sound), 0) for sound in bare]
    if 0 in phones:
        raise ValueError(f"{sounds[phones.index(0)]!r} is none of the phones {' '.join(PHONES)}")
    return Entry(word=word, letters=letters, phones=phones, stress=stress)


def capitals(text: str) -> str:
    """`text` with ASCII's letters as capitals; others stay, and are refused: `upper` makes two letters S of one ß."""
    return text.upper() if text.isascii() else text


def open_source(text: str, options: Options) -> PronunciationSource:
    """The entries of the dictionary `text`, counted in a pass over all of it, which also looks for stress."""
    rows, stressed = 0, False
    for _, line in entry_lines(text):
        rows += 1
        stressed = stressed or any(
            sound[-1:] in (b"0", b"1", b"2") for sound in BYTES_COMMENT.sub(b"", line).split()[1:]
        )
    return PronunciationSource(path=text, rows=rows, stressed=stressed, options=options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PronunciationSource:
    """The entries of one dictionary, bad ones counted."""

    path: str
    rows: int
    stressed: bool
    options: Options

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        vocabularies = {"letters": LETTERS, "phones": PHONES}
        return {name: {"vocabulary": json.dumps(["", *known])} for name, known in vocabularies.items()}

    def describe(self) -> str:
        return f"pronouncing dictionary of {self.rows:,} entries{', with stress' * self.stressed}"

    def batches(self) -> Iterator[Piece]:
        entries: list[Entry] = []
        size = 0
        for number, line in entry_lines(self.path):
            try:
                entry = entry_of(line.decode())
            except ValueError as error:
                reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
                self.options.bad(BadRecord(self.path, f"line {number}", reason))
                continue
            entries.append(entry)
            size += len(line)
            if size >= sources.PIECE_BYTES // 16:  # lists of int64 are many times the size of their text
                yield self.piece(entries)
                entries, size = [], 0
        if entries:
            yield self.piece(entries)

    def piece(self, entries: list[Entry]) -> Piece:
        """Entries as what a data set takes."""
        lists = {
            "letters": ragged([entry.letters for entry in entries]),
            "phones": ragged([entry.phones for entry in entries]),
        }
        if self.stressed:
            lists["stress"] = ragged([entry.stress for entry in entries])
        return {"word": [entry.word for entry in entries], **lists}


def entry_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """The lines of the file that are entries, with their numbers from 1 on."""
    for first, block in blocks(path):
        for number, line in enumerate(block.split(b"\n")[:-1], start=first):
            if not line.startswith(b";;;") and BYTES_COMMENT.sub(b"", line).strip():
                yield number, line


def ragged(lists: list[list[int]]) -> Ragged:
    """Lists of numbers laid end to end, int64."""
    values = [number for each in lists for number in each]
    return Ragged(np.array(values, np.int64), offsets_of([len(each) for each in lists]))
