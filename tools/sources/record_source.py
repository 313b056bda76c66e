"""What sources of single records have in common: a first pass has found their fields, and files are their units."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from minibatch.tools.sources import Options, Piece
from minibatch.tools.sources.records import Record, Survey, pieces


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSource:
    """A source whose `records()` come one by one, of the kinds that `found` says."""

    options: Options
    found: Survey

    @property
    def rows(self) -> int:
        return self.found.rows

    @property
    def metadata(self) -> Mapping[str, Mapping[str, str]]:
        return {}

    def batches(self) -> Iterator[Piece]:
        yield from pieces(self.records(), self.found.kinds, self.options.bad, self.found.texts)

    def records(self) -> Iterator[Record]:
        """All records that can be decoded; the others are reported."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilesOfRecords(RecordSource):
    """The records in some files, one file after another."""

    files: Sequence[str]

    def inputs(self) -> Sequence[str]:
        return self.files

    def units(self) -> Iterator[Self]:
        for file in self.files:
            yield dataclasses.replace(self, files=[file])
