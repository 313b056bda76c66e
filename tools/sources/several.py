"""Several files of a format that reads one at a time, as one source: `"logs-*.jsonl"`, `"part-{00..15}.csv"`.

Only the first file is opened at once; the others are, one after another or by several processes, when their rows are
wanted. All must have the fields and types of the first.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence

from minibatch.tools.sources import Options, Piece, Source
from minibatch.tools.sources.patterns import matched


def open_several(text: str, module: str, options: Options) -> SeveralFiles:
    """The files that the pattern `text` means, read by the given module; the first one has been opened."""
    files = matched(text, ())
    first: Source = importlib.import_module(module).open_source(files[0], options)
    return SeveralFiles(text=text, files=files, module=module, first=first, options=options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeveralFiles:
    """The rows of several files, in their order."""

    text: str
    files: Sequence[str]
    module: str
    first: Source
    options: Options

    @property
    def rows(self) -> int | None:
        return None if self.first.rows is None else self.first.rows * len(self.files)

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return self.first.metadata

    def describe(self) -> str:
        return f"{len(self.files):,} files, the first: {self.first.describe()}"

    def batches(self) -> Iterator[Piece]:
        for unit in self.units():
            yield from unit.batches()

    def units(self) -> Iterator[OneFile]:
        types = types_of(self.first)
        for path in self.files:
            yield OneFile(path=path, like=self.files[0], types=types, module=self.module, options=self.options)

    def inputs(self) -> Sequence[str]:
        return self.files


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneFile:
    """One of the files, opened when its rows are wanted; its `types` must be those of the file `like`."""

    path: str
    like: str
    types: str
    module: str
    options: Options

    def batches(self) -> Iterator[Piece]:
        source = importlib.import_module(self.module).open_source(self.path, self.options)
        if types_of(source) != self.types:
            raise ValueError(
                f"{self.path!r} has the fields {types_of(source)}; {self.like!r} has {self.types}: write all files "
                "alike, or say the types with --type"
            )
        yield from source.batches()


def types_of(source: Source) -> str:
    """The fields and their types, of a source that tells them: its `fields`, or the columns of its Arrow `schema`."""
    fields = getattr(source, "fields", None)
    if fields is not None:
        return ", ".join(map(str, fields))
    return ", ".join(f"{field.name} {field.type}" for field in getattr(source, "schema", ()))
