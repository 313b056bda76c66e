"""`minibatch diff A B`: what differs between two data sets: schema, sizes, and which rows of which fields.

Two runs are compared by diff_runs.py.

Exit code 0 says that their content is the same, 1 that it differs, 2 that something went wrong, as with diff(1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from minibatch import Dataset
from minibatch.ragged import Ragged, take
from minibatch.sparse import Sparse
from minibatch.tools import diff_runs
from minibatch.tools.screen import counted, plain_table, print_json, screen, size_text
from minibatch.tools.show_values import row_of, scalar_text, type_text, value_text

BLOCK_BYTES = 32 << 20  # of each data set, read and compared at a time


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A data set, or a run.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    read: Annotated[bool, typer.Option("--read", help="Compare rows also where fingerprints are equal.")] = False,
    replay: Annotated[
        bool, typer.Option("--replay/--no-replay", help="Of runs: run the first step that differs again.")
    ] = True,
    data: Annotated[Path | None, typer.Option(help="Of runs: folder of the data sets (default: RUN/data).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """What differs between two data sets: fields, numbers of rows, values. Exit code 1 if anything does.

    How they are cut into shards and chunks is no content. Values differ if their bits do. Between two runs:
    configuration, the first step whose ledger line differs, and the first tensor; their results count, not their
    configuration.
    """
    if diff_runs.is_run(first) and diff_runs.is_run(second):
        if diff_runs.diff_runs(first, second, replay=replay, data=data, as_json=as_json):
            raise typer.Exit(1)
        return
    one, two = Dataset.open(first), Dataset.open(second)
    found = compare(one, two, read=read)
    if as_json:
        print_json(as_document(one, two, found))
    else:
        print_differences(one, two, found, screen())
    if found.any:
        raise typer.Exit(1)


@dataclass(kw_only=True)
class FieldDifference:
    """A field of both data sets: in how many rows it differs, the first of these, and both values there."""

    name: str
    rows: int = 0
    first: int = -1
    values: tuple[str, str] = ("", "")
    where: str = ""


@dataclass(kw_only=True)
class Differences:
    """What differs. `schema` is in words; `fields` has those that were compared, `compared` rows of them each.

    `same` says that equal fingerprints made reading unnecessary.
    """

    schema: list[str] = field(default_factory=list)
    fields: list[FieldDifference] = field(default_factory=list)
    rows: tuple[int, int] = (0, 0)
    compared: int = 0
    same: bool = False

    @property
    def any(self) -> bool:
        """Whether anything differs that is content."""
        return bool(self.schema) or self.rows[0] != self.rows[1] or any(each.rows for each in self.fields)

    @property
    def first(self) -> FieldDifference | None:
        """The field with the first differing row."""
        return min((each for each in self.fields if each.rows), key=lambda each: each.first, default=None)


def compare(one: Dataset, two: Dataset, *, read: bool = False) -> Differences:
    """All that differs between two data sets; rows are read block by block, unless fingerprints say that all is equal.

    Only fields of one type and shape in both are compared; the others are differences of the schema.
    """
    found = Differences(schema=schema_differences(one, two), rows=(len(one), len(two)))
    prints = [dataset.manifest.fingerprint for dataset in (one, two)]
    if not read and prints[0] and prints[0] == prints[1]:
        found.same = True
        return found
    names = [name for name in one.fields if name in two.fields and comparable(one, two, name)]
    found.fields = [FieldDifference(name=name) for name in names]
    found.compared = min(found.rows) if names else 0
    for start, stop in blocks(one, two, found.compared):
        rows = np.arange(start, stop)
        left, right = one.read(rows, names), two.read(rows, names)
        for each in found.fields:
            unlike = differing_rows(left[each.name], right[each.name])
            if len(unlike) and not each.rows:
                place = int(unlike[0])
                values = row_of(left[each.name], place), row_of(right[each.name], place)
                each.first = start + place
                described = one.fields[each.name]
                each.values = value_text(values[0], described), value_text(values[1], described)
                each.where = first_element(*values)
            each.rows += len(unlike)
    return found


def schema_differences(one: Dataset, two: Dataset) -> list[str]:
    """Fields that only one has, and those of another type, shape or metadata, in words."""
    found = []
    for name in dict.fromkeys([*one.fields, *two.fields]):
        if name not in two.fields:
            found.append(f"field {name!r} ({type_text(one.fields[name])}) is only in A")
        elif name not in one.fields:
            found.append(f"field {name!r} ({type_text(two.fields[name])}) is only in B")
        else:
            mine, other = one.fields[name], two.fields[name]
            if type_text(mine) != type_text(other):
                found.append(f"field {name!r} is {type_text(mine)} in A, {type_text(other)} in B")
            for key in dict.fromkeys([*mine.metadata, *other.metadata]):
                notes = mine.metadata.get(key), other.metadata.get(key)
                if notes[0] != notes[1]:
                    shown = ("nothing" if note is None else repr(note) for note in notes)
                    found.append(f"field {name!r} notes {key}: {next(shown)} in A, {next(shown)} in B")
    common = [name for name in one.fields if name in two.fields]
    if common != [name for name in two.fields if name in one.fields]:
        found.append(f"fields stand in another order: {', '.join(one.fields)} in A, {', '.join(two.fields)} in B")
    return found


def comparable(one: Dataset, two: Dataset, name: str) -> bool:
    """Whether the field has one type and shape in both."""
    return type_text(one.fields[name]) == type_text(two.fields[name])


def blocks(one: Dataset, two: Dataset, rows: int) -> Iterator[tuple[int, int]]:
    """Rows [start, stop) that are read at a time: whole chunks of A, about `BLOCK_BYTES` of the larger data set."""
    row_bytes = max(dataset.stored_bytes / max(1, len(dataset)) for dataset in (one, two))
    chunks = max(1, int(BLOCK_BYTES / max(1.0, row_bytes) / one.chunk_rows))
    step = chunks * one.chunk_rows if one.chunk_rows * row_bytes < 4 * BLOCK_BYTES else int(BLOCK_BYTES // row_bytes)
    for start in range(0, rows, max(1, step)):
        yield start, min(rows, start + max(1, step))


def differing_rows(one: Any, two: Any) -> NDArray[np.int64]:
    """The places, ascending, at which two columns of one type and as many rows differ in any bit: int64.

    >>> differing_rows(np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]]))
    array([1])
    """
    if isinstance(one, Sparse):
        parts = (Ragged(one.indices, one.offsets), Ragged(two.indices, two.offsets))
        weights = (Ragged(one.values, one.offsets), Ragged(two.values, two.offsets))
        return np.union1d(differing_rows(*parts), differing_rows(*weights))
    if isinstance(one, Ragged):
        return differing_sequences(one, two)
    if one.dtype == object:
        return np.flatnonzero(np.asarray(one != two, bool))
    width = int(np.prod(one.shape[1:])) * one.dtype.itemsize
    bits = (np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(len(one), width) for array in (one, two))
    return np.flatnonzero((next(bits) != next(bits)).any(1))


def differing_sequences(one: Ragged, two: Ragged) -> NDArray[np.int64]:
    """The places of lists that differ in length or in any element."""
    same = one.lengths == two.lengths
    rows = np.flatnonzero(same)
    owner = np.repeat(rows, one.lengths[rows])  # of each element, the list that it is in
    mine, other = elements(one, same), elements(two, same)
    return np.union1d(np.flatnonzero(~same), owner[differing_rows(mine, other)])


def elements(lists: Ragged, wanted: NDArray[np.bool_]) -> Any:
    """The elements of the wanted lists, end to end."""
    return take(lists, wanted).values


def first_element(one: Any, two: Any) -> str:
    """Where two arrays or lists first differ, and both elements there; nothing for single values and texts."""
    if isinstance(one, Sparse):
        where = first_element(one.indices, two.indices)
        return f"indices, {where}" if where else f"values, {first_element(one.values, two.values)}"
    if not isinstance(one, np.ndarray) or not one.ndim:
        return ""
    if one.shape[1:] != two.shape[1:]:
        return ""
    most = min(len(one), len(two))
    unlike = differing_rows(one[:most], two[:most])
    if not len(unlike) and len(one) == len(two):
        return ""
    if not len(unlike):
        return f"lengths {len(one):,} and {len(two):,}"
    place: tuple[int, ...] = (int(unlike[0]),)
    mine, other = one[place[0]], two[place[0]]
    if isinstance(mine, np.ndarray) and mine.ndim:
        inner = differing_rows(mine.reshape(-1), other.reshape(-1))[0]
        place += tuple(int(index) for index in np.unravel_index(inner, mine.shape))
        mine, other = mine.reshape(-1)[inner], other.reshape(-1)[inner]
    shown = place[0] if len(place) == 1 else place
    return f"element {shown}: {scalar_text(mine)} and {scalar_text(other)}"


def as_document(one: Dataset, two: Dataset, found: Differences) -> dict[str, Any]:
    """What differs, for JSON."""
    first = found.first
    return {
        "differ": found.any,
        "sides": [
            {
                "path": dataset.name,
                "fingerprint": dataset.manifest.fingerprint or None,
                "rows": len(dataset),
                "bytes": dataset.stored_bytes,
                "shards": len(dataset.manifest.shards),
                "chunk_rows": dataset.chunk_rows,
            }
            for dataset in (one, two)
        ],
        "schema": found.schema,
        "rows_compared": found.compared,
        "fields": [
            {"name": each.name, "differing_rows": each.rows, "first_row": each.first if each.rows else None}
            for each in found.fields
        ],
        "first": None
        if first is None
        else {"row": first.first, "field": first.name, "values": list(first.values), "where": first.where or None},
    }


def print_differences(one: Dataset, two: Dataset, found: Differences, console: Console) -> None:
    """Both sides, then what differs, then a verdict."""
    table = plain_table("", "A", "B")
    sides = (one, two)
    table.add_row("path", *(Text(shortened(dataset.name)) for dataset in sides))
    table.add_row("fingerprint", *(dataset.manifest.fingerprint or "none" for dataset in sides))
    table.add_row("rows", *(f"{len(dataset):,}" for dataset in sides))
    table.add_row("size", *(size_text(dataset.stored_bytes) for dataset in sides))
    table.add_row("shards", *(f"{len(dataset.manifest.shards):,}" for dataset in sides))
    table.add_row("chunk rows", *(f"{dataset.chunk_rows:,}" for dataset in sides))
    console.print(table)
    for line in found.schema:
        console.print(Text(line), soft_wrap=True)
    if unlike := [each for each in found.fields if each.rows]:
        table = plain_table("field", "differing rows", "first", right=("differing rows", "first"))
        for each in unlike:
            table.add_row(Text(each.name), f"{each.rows:,} of {found.compared:,}", f"{each.first:,}")
        console.print()
        console.print(table)
        if first := found.first:
            where = f", {first.where}" if first.where else ""
            console.print(Text(f"\nrow {first.first}, field {first.name!r}{where}"), soft_wrap=True)
            for side, value in zip("AB", first.values, strict=True):
                console.print(Text(f"  {side}  {value}"), no_wrap=True, overflow="ellipsis")
            console.print()
    console.print(Text(verdict(found)), soft_wrap=True)


def shortened(path: str, most: int = 32) -> str:
    """A path of at most `most` characters, its end kept: there it says which one it is."""
    return path if len(path) <= most else "…" + path[1 - most :]


def verdict(found: Differences) -> str:
    """The result in a sentence."""
    if found.same:
        return "the same content: fingerprints are equal"
    if not found.any:
        return f"the same content: {counted(found.compared, 'row')} compared"
    parts = [counted(len(found.schema), "difference") + " in the schema"] if found.schema else []
    if found.rows[0] != found.rows[1]:
        longer, by = (
            ("A", found.rows[0] - found.rows[1])
            if found.rows[0] > found.rows[1]
            else ("B", found.rows[1] - found.rows[0])
        )
        parts.append(f"{longer} has {counted(by, 'row')} more")
    unlike = sum(1 for each in found.fields if each.rows)
    if unlike:
        parts.append(f"values differ in {counted(unlike, 'field')}")
    elif found.fields:
        parts.append(f"in the first {counted(found.compared, 'row')} all compared values are equal")
    return "different: " + "; ".join(parts)
