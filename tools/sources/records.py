"""Records that come one by one, as pieces: what kind of field each name is, and which records do not fit.

Formats without a schema (TFRecord, WebDataset, WAV folders, arrays in MDS) are read twice: `survey` finds the kinds of
all fields, so that a field whose arrays differ in length is a list field from its first row on; `pieces` then makes the
columns. A record that has no place beside the ones before it goes to `bad`, in both passes alike.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from minibatch.ragged import Ragged
from minibatch.tools import sources
from minibatch.tools.sources import BadRecord, Column, Piece

Bad: TypeAlias = Callable[[BadRecord], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One record: its values by field, and where it stands, for errors."""

    file: str
    where: str
    fields: Mapping[str, Any]

    def bad(self, reason: str) -> BadRecord:
        return BadRecord(self.file, self.where, reason)


@dataclasses.dataclass(frozen=True)
class JsonText:
    """A value that is JSON, not parsed yet."""

    encoded: bytes

    def as_text(self) -> str:
        return self.encoded.decode("utf-8-sig")

    def value(self) -> Any:
        """What it says; raises ValueError if it is not JSON."""
        return json.loads(self.as_text())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """What one field holds: text or bytes (`dtype` str or bytes), or numbers; `shape` of a row.

    `is_list`: rows differ in length, and `shape` is that of one element.
    """

    dtype: Any
    shape: tuple[int, ...] = ()
    is_list: bool = False
    python: bool = False  # numbers as JSON has them: an int among floats is a float
    single: bool = False  # values come as arrays or lists of one

    def __str__(self) -> str:
        name = self.dtype.__name__ if isinstance(self.dtype, type) else str(self.dtype)
        if self.is_list:
            return f"lists of {name}{f' {self.shape}' if self.shape else ''}"
        return f"{name} {self.shape}" if self.shape else name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """What a first pass found: how many good records, and the kind of each field."""

    rows: int
    kinds: Mapping[str, Kind]
    texts: frozenset[str] = frozenset()  # the JSON fields that stay text

    def describe(self) -> str:
        return ", ".join(f"{name} {kind}" for name, kind in self.kinds.items())


def kind_of(value: Any) -> Kind:
    """The kind of one value: text, bytes, a number, an array, or a list of texts, bytes or numbers.

    >>> str(kind_of(b"abc")), str(kind_of(np.zeros((2, 3), np.uint8))), str(kind_of([1, 2.5]))
    ('bytes', 'uint8 (2, 3)', 'float64 (2,)')
    """
    if isinstance(value, str | bytes):
        return Kind(dtype=type(value))
    if isinstance(value, list):
        if value and all(isinstance(each, type(value[0])) for each in value) and isinstance(value[0], str | bytes):
            return Kind(dtype=type(value[0]), shape=(len(value),))
        if not value:
            return Kind(dtype=None, shape=(0,), python=True)  # an empty list of whatever the others hold
        inside = [kind_of(each) for each in value]
        met: Kind | None = inside[0]
        for other in inside[1:]:
            met = together(met, other) if met else None
        if met is None or met.is_list or met.dtype is None or isinstance(met.dtype, type):
            raise ValueError(f"it is a list of values that make no array: {value!r:.60}")
        return Kind(dtype=met.dtype, shape=(len(value), *met.shape), python=True)
    if isinstance(value, bool | int | float):
        return Kind(dtype=number_type(value), python=True)
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            raise ValueError(f"it has the dtype {value.dtype}; expected bool, integers or float16/32/64")
        return Kind(dtype=value.dtype.newbyteorder("="), shape=value.shape)
    raise ValueError(f"it is {'missing (null)' if value is None else type(value).__name__}")


def number_type(value: bool | int | float) -> np.dtype[Any]:
    """The dtype of a Python number; raises ValueError for an integer beyond 64 bits."""
    if isinstance(value, bool):
        return np.dtype(np.bool_)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"the integer {value} has more than 64 bits")
    return np.dtype(np.int64 if isinstance(value, int) else np.float64)


def together(one: Kind, other: Kind) -> Kind | None:
    """The kind of a field that holds values of both kinds; None if no field can.

    >>> str(together(kind_of(np.zeros((2, 3))), kind_of(np.zeros((5, 3)))))
    'lists of float64 (3,)'
    >>> together(kind_of("a"), kind_of(1)) is None
    True
    """
    dtypes = {kind.dtype for kind in (one, other) if kind.dtype is not None}
    python = one.python and other.python
    if len(dtypes) > 1:
        if not python or dtypes != {np.dtype(np.int64), np.dtype(np.float64)}:
            return None
        dtypes = {np.dtype(np.float64)}
    dtype = dtypes.pop() if dtypes else None
    if not one.is_list and not other.is_list and one.shape == other.shape:
        return Kind(dtype=dtype, shape=one.shape, python=python)
    elements = []
    for kind, beside in ((one, other), (other, one)):
        if kind.dtype is None:  # an empty list fits beside any list
            elements.append(beside.shape if beside.is_list else beside.shape[1:])
        elif not kind.is_list and not kind.shape:
            return None
        else:
            elements.append(kind.shape if kind.is_list else kind.shape[1:])
    if elements[0] != elements[1] or not (one.is_list or one.shape) or not (other.is_list or other.shape):
        return None
    return Kind(dtype=dtype, shape=elements[0], is_list=True, python=python)


def survey(records: Iterable[Record], bad: Bad, *, single: bool = False) -> Survey:
    """The kinds of all fields, from a pass over all records; one that does not fit those before it goes to `bad`.

    With `single`, arrays and lists that have one element in every record are scalars. JSON becomes the fields inside it
    where all records agree about them, else it stays text: records do not go to `bad` for that.
    """
    kinds: dict[str, Kind] = {}
    inside: dict[str, dict[str, Kind]] = {}  # of JSON fields
    texts: set[str] = set()
    rows = 0
    for record in records:
        try:
            if kinds:
                refuse_other_names(record, kinds)
            parsed = {name: parsed_in(record, name) for name in record.fields if is_json(record.fields[name])}
            found = {name: Kind(dtype=str) if name in parsed else kind_in(record, name) for name in record.fields}
            kinds = {name: kind_beside(record, name, kinds.get(name), found[name]) for name in kinds or found}
        except BadRecord as error:
            bad(error)
            continue
        rows += 1
        for name, value in parsed.items():
            agreed = kinds_inside(name, value, inside.get(name)) if name not in texts else None
            if agreed is None:
                texts.add(name)
            else:
                inside[name] = agreed
    taken: dict[str, Kind] = {}
    for name, kind in kinds.items():
        taken.update(inside[name] if name in inside and name not in texts else {name: kind})
    if single:
        taken = {name: scalar(kind) if is_single(kind) else kind for name, kind in taken.items()}
    return Survey(rows=rows, kinds={name: settled(kind) for name, kind in taken.items()}, texts=frozenset(texts))


def is_single(kind: Kind) -> bool:
    return kind.shape == (1,) and not kind.is_list


def scalar(kind: Kind) -> Kind:
    return dataclasses.replace(kind, shape=(), single=True)


def is_json(value: Any) -> bool:
    return isinstance(value, JsonText)


def parsed_in(record: Record, name: str) -> Any:
    try:
        return record.fields[name].value()
    except ValueError as error:
        raise record.bad(f"field {name!r} is no JSON: {error}") from None


def kinds_inside(name: str, value: Any, known: Mapping[str, Kind] | None) -> dict[str, Kind] | None:
    """The kinds of the fields in the JSON `value`, beside those `known`; None if they do not agree or are no fields."""
    try:
        found = {dotted: kind_of(each) for dotted, each in flattened(name, value).items()}
    except ValueError:
        return None
    if not found or (known is not None and known.keys() != found.keys()):
        return None
    kinds = {}
    for dotted, kind in found.items():
        met = kind if known is None else together(known[dotted], kind)
        if met is None:
            return None
        kinds[dotted] = met
    return {dotted: kinds[dotted] for dotted in known or kinds}


def flattened(name: str, value: Any) -> dict[str, Any]:
    """The members of JSON objects, one in another too, under dotted names.

    >>> flattened("json", {"a": 1, "b": {"c": [2, 3]}})
    {'json.a': 1, 'json.b.c': [2, 3]}
    """
    if not isinstance(value, dict):
        return {name: value}
    return {dotted: each for key in value for dotted, each in flattened(f"{name}.{key}", value[key]).items()}


def expanded(record: Record, texts: frozenset[str]) -> Record:
    """`record` with its JSON as fields, or as text for the names in `texts`."""
    if not any(is_json(value) for value in record.fields.values()):
        return record
    fields: dict[str, Any] = {}
    for name, value in record.fields.items():
        if not is_json(value):
            fields[name] = value
        else:
            parsed = parsed_in(record, name)
            fields.update({name: value.as_text()} if name in texts else flattened(name, parsed))
    return dataclasses.replace(record, fields=fields)


def kind_in(record: Record, name: str) -> Kind:
    try:
        return kind_of(record.fields[name])
    except ValueError as error:
        raise record.bad(f"field {name!r}: {error}") from None


def kind_beside(record: Record, name: str, known: Kind | None, kind: Kind) -> Kind:
    met = kind if known is None else together(known, kind)
    if met is None:
        raise record.bad(f"field {name!r} is {kind}, in the records before it {known}")
    return met


def refuse_other_names(record: Record, kinds: Mapping[str, Kind]) -> None:
    """Raise BadRecord unless `record` has the fields of `kinds`, in whatever order."""
    if record.fields.keys() != kinds.keys():
        missing = [name for name in kinds if name not in record.fields]
        more = [name for name in record.fields if name not in kinds]
        found = [f"{word} {names}" for word, names in (("lacks", missing), ("also has", more)) if names]
        raise record.bad(f"it {' and '.join(found)}; the records before it have the fields {list(kinds)}")


def settled(kind: Kind) -> Kind:
    """`kind` once all records are known: lists that were all empty hold float64, and no row has a length of 0."""
    kind = dataclasses.replace(kind, dtype=np.dtype(np.float64)) if kind.dtype is None else kind
    if kind.shape and not kind.is_list and (0 in kind.shape or isinstance(kind.dtype, type)):
        return dataclasses.replace(kind, shape=kind.shape[1:], is_list=True)
    return kind


def pieces(
    records: Iterable[Record], kinds: Mapping[str, Kind], bad: Bad, texts: frozenset[str] = frozenset()
) -> Iterator[Piece]:
    """The good ones of `records` in pieces of some MiB, their fields as `kinds` and `texts` say."""
    taken: list[Record] = []
    size = 0
    for record in records:
        try:
            record = expanded(record, texts)
            refuse_other_names(record, kinds)
            for name, kind in kinds.items():
                refuse_other_kind(record, name, kind)
        except BadRecord as error:
            bad(error)
            continue
        taken.append(record)
        size += sum(size_of(value) for value in record.fields.values())
        if size >= sources.PIECE_BYTES:
            yield columns(taken, kinds)
            taken, size = [], 0
    if taken:
        yield columns(taken, kinds)


def refuse_other_kind(record: Record, name: str, kind: Kind) -> None:
    """Raise BadRecord unless the value of `name` fits in a field of `kind`."""
    found = kind_in(record, name)
    met = together(kind, scalar(found) if kind.single and is_single(found) else found)
    if met is None or dataclasses.replace(settled(met), single=kind.single) != kind:
        raise record.bad(f"field {name!r} is {found}, expected {kind}")
    if kind.python and kind.dtype == np.float64 and is_rounded(record.fields[name]):
        raise record.bad(f"field {name!r} has an integer that float64, which the field is, would round")


def is_rounded(value: Any) -> bool:
    """Whether a Python number, or one in a list, is an integer that float64 cannot hold.

    >>> is_rounded([2**53, 0.5]), is_rounded(2**53 + 1)
    (False, True)
    """
    if isinstance(value, list):
        return any(is_rounded(each) for each in value)
    return isinstance(value, int) and int(float(value)) != value


def size_of(value: Any) -> int:
    """About how many bytes a value takes.

    >>> size_of(b"abc"), size_of([1, 2]), size_of(np.zeros(3))
    (3, 16, 24)
    """
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list):
        return sum(size_of(each) for each in value)
    return value.nbytes if isinstance(value, np.ndarray | np.generic) else 8


def columns(records: list[Record], kinds: Mapping[str, Kind]) -> Piece:
    """The fields of `records`, each as one column."""
    return {name: column([record.fields[name] for record in records], kind) for name, kind in kinds.items()}


def column(values: list[Any], kind: Kind) -> Column:
    """`values` as one column of `kind`.

    >>> column([np.array([1, 2]), np.array([3])], Kind(dtype=np.dtype(np.int64), is_list=True)).lengths.tolist()
    [2, 1]
    """
    if kind.is_list:
        offsets = np.zeros(len(values) + 1, np.int64)
        np.cumsum([len(value) for value in values], out=offsets[1:])
        if isinstance(kind.dtype, type):
            flat = [each for value in values for each in value]
            return Ragged(np.fromiter(flat, object, len(flat)), offsets)
        arrays = [np.asarray(value, kind.dtype).reshape(-1, *kind.shape) for value in values if len(value)]
        empty = np.zeros((0, *kind.shape), kind.dtype)
        return Ragged(np.concatenate([empty, *arrays]), offsets)
    if isinstance(kind.dtype, type):
        return [value[0] if isinstance(value, list) else value for value in values]
    if not kind.shape:
        return np.asarray([np.asarray(value).item() for value in values], kind.dtype)
    return np.stack([np.asarray(value, kind.dtype) for value in values])
