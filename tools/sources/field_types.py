"""What `--type FIELD=DTYPE` and `--fill FIELD=VALUE` say: the type of a field, and what stands for a missing value."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

NUMBERS = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldType:
    """The dtype of a field (object for text), and the shape of its rows where lists are to be cut into arrays."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()

    @property
    def text(self) -> bool:
        return self.dtype == object

    @property
    def size(self) -> int:
        """Elements of a row."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        shape = f"[{','.join(map(str, self.shape))}]" if self.shape else ""
        return ("text" if self.text else self.dtype.name) + shape


def field_type(text: str, where: str) -> FieldType:
    """The type that `text` names; `where` begins the error if it names none.

    >>> str(field_type("uint8[28,28]", "--type image"))
    'uint8[28,28]'
    """
    found = re.fullmatch(r"\s*(\w+)\s*(?:\[\s*(\d+(?:\s*,\s*\d+)*)\s*\])?\s*", text)
    if found is None or found[1] not in (*NUMBERS, "text") or (found[1] == "text" and found[2]):
        raise ValueError(f"{where}: {text!r} is no type; expected {', '.join(NUMBERS)} or text, or one with a shape, "
                         "such as uint8[28,28]")  # fmt: skip
    shape = tuple(int(size) for size in found[2].split(",")) if found[2] else ()
    if 0 in shape:
        raise ValueError(f"{where}: {text!r} has a shape without elements")
    return FieldType(dtype=np.dtype(object if found[1] == "text" else found[1]), shape=shape)


def assignments(texts: Sequence[str], flag: str) -> dict[str, str]:
    """What the repeated option `flag` says of each field.

    >>> assignments(["label=uint8", "a=b=text"], "--type")
    {'label': 'uint8', 'a=b': 'text'}
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name:
            raise ValueError(f"{flag} {text}: expected FIELD=…, such as {flag} label={'uint8' if 'y' in flag else '0'}")
        if found.setdefault(name, value) != value:
            raise ValueError(f"{flag} is given twice for {name!r}: {found[name]!r} and {value!r}")
    return found


def field_types(texts: Sequence[str]) -> dict[str, FieldType]:
    """The types of the option `--type`.

    >>> {name: str(type_) for name, type_ in field_types(["label=uint8", "title=text"]).items()}
    {'label': 'uint8', 'title': 'text'}
    """
    return {name: field_type(text, f"--type {name}") for name, text in assignments(texts, "--type").items()}


def number_types(texts: Sequence[str], defaults: Mapping[str, str], where: str) -> dict[str, FieldType]:
    """The types of the fields in `defaults`, which all hold numbers and have no shape of their own."""
    given = field_types(texts)
    refuse_unknown(given, defaults, "--type", where)
    for name, type_ in given.items():
        if type_.text or type_.shape:
            raise ValueError(f"--type {name}={type_}: {name!r} of {where} is one number of a kind, such as float32")
    return {name: given.get(name) or field_type(default, name) for name, default in defaults.items()}


def refuse_unknown(given: Iterable[str], known: Iterable[str], flag: str, where: str) -> None:
    """Raise ValueError for the first of the `given` fields that is not `known`."""
    known = list(known)
    for name in given:
        if name not in known:
            raise ValueError(f"{flag} {name}=…: {where} has no field {name!r}; it has {', '.join(known) or 'none'}")
