"""The types of JSON lines, settled over a whole file, and blocks of lines as Arrow tables, bad lines found by halving.

Arrow reads a block at once. If it cannot, or if a block's types do not fit those before it, the block is halved until a
single line is to blame, so that one bad line costs a few readings and no line is looked at by Python.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.types as types

from minibatch.tools.sources import BadRecord, Options
from minibatch.tools.sources.text_lines import blocks

MOST_FIELDS = 10_000


class ConflictError(ValueError):
    """Two types of one field that have nothing in common."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lines:
    """Some lines of a file that are not blank, and their numbers."""

    texts: Sequence[bytes]
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, part: slice) -> Lines:
        return Lines(texts=self.texts[part], numbers=self.numbers[part])


def line_blocks(path: str) -> Iterator[Lines]:
    """The lines of the file `path` that are not blank, a block at a time."""
    for first, block in blocks(path):
        texts = block.split(b"\n")[:-1]
        filled = [place for place, text in enumerate(texts) if text and not text.isspace()]
        if len(filled) < len(texts):
            yield Lines(texts=[texts[place] for place in filled], numbers=[first + place for place in filled])
        else:
            yield Lines(texts=texts, numbers=range(first, first + len(texts)))


def settled_types(path: str, options: Options) -> tuple[pa.DataType, int]:
    """The type of the objects in the file `path`, a struct of all fields that any good line has, and how many are good.

    Raises ValueError for a file that is one JSON array.
    """
    whole, count = pa.struct([]), 0

    def merge(table: pa.Table) -> None:
        nonlocal whole, count
        whole = merged(whole, pa.struct(list(table.schema)), "")
        count += table.num_rows
        if whole.num_fields > MOST_FIELDS:
            raise ValueError(f"{path!r} has over {MOST_FIELDS:,} fields: its keys look like values")

    for number, lines in enumerate(line_blocks(path)):
        if number == 0 and len(lines) and lines.texts[0].lstrip().startswith(b"["):
            raise ValueError(
                f"{path!r} is one JSON array, not an object per line: rewrite it, for example with `jq -c '.[]'`"
            )
        taken(path, lines, options, None, merge)
    return whole, count


def taken(
    path: str, lines: Lines, options: Options, schema: pa.Schema | None, use: Callable[[pa.Table], None]
) -> list[Lines]:
    """Call `use` with the tables of the `lines`, in order; gives the lines of each table.

    What cannot be read, or what `use` refuses with a ConflictError, is halved, down to the lines that are told to
    `options.bad`.
    """
    if not len(lines):
        return []
    try:
        use(table_of(lines, schema))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError, ConflictError) as error:
        if len(lines) > 1:
            half = len(lines) // 2
            return [
                *taken(path, lines[:half], options, schema, use),
                *taken(path, lines[half:], options, schema, use),
            ]
        options.bad(BadRecord(path, f"line {lines.numbers[0]}", reason_of(lines.texts[0], error)))
        return []
    return [lines]


def table_of(lines: Lines, schema: pa.Schema | None) -> pa.Table:
    """The `lines` as a table with a row per line, of one chunk."""
    block = b"\n".join(lines.texts)
    block.decode()
    table = pyarrow.json.read_json(
        io.BytesIO(block),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
        ),
    )
    if table.num_rows != len(lines):
        raise pa.ArrowInvalid(f"{len(lines)} lines hold {table.num_rows} objects")
    return table


def reason_of(text: bytes, error: Exception) -> str:
    """Why the line `text` could not be used."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as wrong:
        return f"it is not JSON: {wrong.msg} at column {wrong.colno}"
    except (UnicodeDecodeError, RecursionError) as wrong:
        return f"it cannot be read: {wrong}"
    if not isinstance(found, dict):
        return f'it is a JSON {kind_of(found)}, expected an object such as {{"text": "…", "label": 3}}'
    return str(error).removeprefix("JSON parse error: ").removesuffix(" in row 0")


def kind_of(value: Any) -> str:
    names = {list: "array", str: "text", bool: "true or false", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), "object")


def merged(one: pa.DataType, two: pa.DataType, path: str) -> pa.DataType:
    """The type that holds the values of both; raises ConflictError, naming the field `path`, if there is none.

    >>> merged(pa.list_(pa.int64()), pa.list_(pa.float64()), "x")
    ListType(list<item: double>)
    """
    if one == two or types.is_null(two):
        return one
    if types.is_null(one):
        return two
    if types.is_struct(one) and types.is_struct(two):
        fields = {field.name: field.type for field in one}
        for field in two:
            inside = f"{path}.{field.name}" if path else field.name
            known = fields.get(field.name)
            fields[field.name] = field.type if known is None else merged(known, field.type, inside)
        return pa.struct(list(fields.items()))
    if types.is_list(one) and types.is_list(two):
        return pa.list_(merged(one.value_type, two.value_type, f"{path}[…]"))
    kinds = [kind_name(one), kind_name(two)]
    if kinds == ["whole numbers", "numbers"] or kinds == ["numbers", "whole numbers"]:
        return pa.float64()
    if kinds == ["text", "text"]:
        return pa.string()
    raise ConflictError(f"{path!r} is {kinds[1]} here, but {kinds[0]} in lines before it")


def kind_name(type_: pa.DataType) -> str:
    """What a user calls the values of `type_`; Arrow takes text that looks like instants for instants."""
    if types.is_integer(type_):
        return "whole numbers"
    if types.is_floating(type_):
        return "numbers"
    if types.is_boolean(type_):
        return "true or false"
    if types.is_string(type_) or types.is_timestamp(type_):
        return "text"
    return "an object" if types.is_struct(type_) else "a list"
