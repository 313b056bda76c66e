"""Several files by one name: braces as in a shell, `*` and `?`, or a folder."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence

# More files than any data set has shards; a slip such as {0..9999999999} should not fill memory.
MOST_NAMES = 10_000_000


def matched(text: str, suffixes: Sequence[str]) -> list[str]:
    """The files that `text` means: itself, those in a folder whose names end in `suffixes`, or those of a pattern.

    Braces give names in their order, which must all exist; `*` and `?` what there is, sorted. Raises FileNotFoundError
    for a name without a file.
    """
    if os.path.isdir(text):
        names = sorted(name for name in os.listdir(text) if name.lower().endswith(tuple(suffixes)))
        return [os.path.join(text, name) for name in names if os.path.isfile(os.path.join(text, name))]
    if os.path.exists(text):
        return [text]
    files: list[str] = []
    for name in braces_expanded(text):
        found = sorted(glob.glob(name)) if glob.has_magic(name) else [name] * os.path.exists(name)
        if not found:
            raise FileNotFoundError(f"there is no file {name!r}" + (f" (of {text!r})" if name != text else ""))
        files += found
    return files


def braces_expanded(text: str) -> Iterator[str]:
    """The names that a pattern with braces means: {a,b} and {000..011}, the zeros in front kept.

    >>> list(braces_expanded("s-{08..10}.{tar,idx}"))
    ['s-08.tar', 's-08.idx', 's-09.tar', 's-09.idx', 's-10.tar', 's-10.idx']
    """
    found = re.search(r"\{([^{}]*)\}", text)
    if found is None:
        yield text
        return
    span = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if span:
        first, last = int(span[1]), int(span[2])
        if last < first or last - first >= MOST_NAMES:
            raise ValueError(f"{text!r}: {{{found[1]}}} must count upwards, and at most {MOST_NAMES:,} names")
        wide = len(span[1]) if span[1].startswith("0") else 0
        parts: Sequence[str] = [f"{number:0{wide}}" for number in range(first, last + 1)]
    else:
        parts = found[1].split(",")
    if len(parts) == 1 and not span:
        raise ValueError(f"{text!r}: {{{found[1]}}} is neither a list {{a,b}} nor a span {{000..099}}")
    for part in parts:
        for rest in braces_expanded(text[found.end() :]):
            yield text[: found.start()] + part + rest
