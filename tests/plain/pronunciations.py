"""CMUdict line by line with one regular expression: the twin of minibatch.tools.sources.pronunciations."""

import re

LINE = re.compile(r"(?P<word>\S+?)(\(\d+\))?(?P<sounds>(\s+[A-Za-z]{1,2}[012]?)+)\s*(\s#.*)?")


def read(text):
    """(WORD, [phone and stress or None, …]) of every entry of `text`, which has no bad line."""
    entries = []
    for line in text.splitlines():
        if line.strip() and not line.startswith(";;;"):
            found = LINE.fullmatch(line)
            sounds = [(sound.rstrip("012").upper(), sound[-1]) for sound in found["sounds"].split()]
            stress = [(phone, int(last) if last.isdigit() else None) for phone, last in sounds]
            entries.append((found["word"].upper(), stress))
    return entries
