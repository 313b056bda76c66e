"""A value of a data set in a few words: for `minibatch show` and `minibatch diff`, on the screen and in JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from minibatch.columns import SPARSE, Field
from minibatch.ragged import Ragged
from minibatch.sparse import Sparse
from minibatch.tools.screen import counted

ELEMENTS_SHOWN = 6  # of an array; of larger ones the range
TEXT_SHOWN = 60


def type_text(field: Field) -> str:
    """The type of a row: `float32 (8, 8)`, `int64`, `text`, `list<int32>`, `sparse<float32> of 943`, with units."""
    _, logical, shape, _ = field.describe()
    text = f"{logical} ({', '.join(map(str, shape))}{',' * (len(shape) == 1)})" if shape else str(logical)
    return f"{text} of {field.width:,}" if field.layout == SPARSE else text


def row_of(column: Any, place: int) -> Any:
    """Row `place` of a column as `Dataset.read` gives it; of a sparse column a `Sparse` of one row."""
    return column[place : place + 1] if isinstance(column, Sparse) else column[place]


def value_text(value: Any, field: Field) -> str:
    """One value in a few words.

    >>> import pyarrow as pa
    >>> from minibatch.columns import fields_in
    >>> (field,) = fields_in(pa.field("x", pa.list_(pa.int64(), 100)))
    >>> value_text(np.arange(100), field)
    '0 to 99, mean 49.5'
    """
    if isinstance(value, str | bytes):
        return scalar_text(value)
    if isinstance(value, Sparse):
        return sparse_text(value, field)
    if field.depth:
        return list_text(value)
    if np.size(value) > ELEMENTS_SHOWN:
        return range_text(value)
    if np.ndim(value):
        return " ".join(scalar_text(element) for element in value.ravel())
    return scalar_text(value) + (class_name(int(value), field) if field.dtype.kind in "iu" else "")


def scalar_text(value: Any) -> str:
    """A text cut to its beginning, bytes as how many there are, a number as it is (floating point: six digits)."""
    if isinstance(value, str):
        whole = len(value) <= TEXT_SHOWN and value.isprintable()
        return value if whole else repr(value[:TEXT_SHOWN]) + "…" * (len(value) > TEXT_SHOWN)
    if isinstance(value, bytes):
        return f"{len(value):,} bytes ({value[:8].hex(' ')}{' …' * (len(value) > 8)})"
    return f"{value:.6g}" if isinstance(value, np.floating) else str(value)


def range_text(value: Any) -> str:
    """Least, most and mean of an array."""
    return f"{scalar_text(value.min())} to {scalar_text(value.max())}, mean {scalar_text(value.mean(dtype=np.float64))}"


def sparse_text(row: Sparse, field: Field) -> str:
    """The first stored values of a sparse row; of a list of sparse rows how many there are and the first."""
    if field.depth:
        first = f": {sparse_text(row[:1], Field(**{**vars(field), 'depth': 0}))}" if len(row) else ""
        return f"{counted(len(row), 'row')}{first}{' …' * (len(row) > 1)}"
    pairs = zip(row.indices[:ELEMENTS_SHOWN], row.values[:ELEMENTS_SHOWN], strict=True)
    shown = " ".join(f"{index}:{scalar_text(value)}" for index, value in pairs)
    stored = len(row.values)
    return f"{stored:,} of {row.width:,}{': ' * bool(stored)}{shown}{' …' * (stored > ELEMENTS_SHOWN)}"


def list_text(value: Any) -> str:
    """How long a list is, and its first elements; of a list of lists their lengths."""
    count = len(value)
    more = " …" * (count > ELEMENTS_SHOWN)
    if isinstance(value, Ragged):
        shown = " ".join(map(str, value.lengths[:ELEMENTS_SHOWN].tolist()))
        return counted(count, "list") + (f" of lengths {shown}{more}" if count else "")
    if getattr(value, "ndim", 1) > 1:
        return f"{count:,} × {value.shape[1:]}" + (f": {range_text(value)}" if value.size else "")
    shown = " ".join(quoted(element) for element in value[:ELEMENTS_SHOWN])
    return f"{count:,} long" + (f": {shown}{more}" if count else "")


def quoted(element: Any) -> str:
    """An element of a list; text in quotes, as it may have spaces."""
    return repr(element) if isinstance(element, str) else scalar_text(element)


def plain_value(value: Any, field: Field) -> Any:
    """A value for JSON: itself, or what there is to say about bytes, larger arrays, lists and sparse rows."""
    if isinstance(value, Sparse):
        if field.depth:
            return {"length": len(value), "stored": len(value.values)}
        pairs = zip(value.indices[:ELEMENTS_SHOWN].tolist(), value.values[:ELEMENTS_SHOWN].tolist(), strict=True)
        return {"width": value.width, "stored": len(value.values), "first": [list(pair) for pair in pairs]}
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return {"bytes": len(value)}
    if isinstance(value, Ragged):
        return {"length": len(value), "lengths": value.lengths[:ELEMENTS_SHOWN].tolist()}
    if field.depth:
        return {"length": len(value), "first": [plain_element(element) for element in value[:ELEMENTS_SHOWN]]}
    if np.size(value) > ELEMENTS_SHOWN:
        return {"shape": list(value.shape), "min": plain_element(value.min()), "max": plain_element(value.max())}
    return value.tolist()


def plain_element(element: Any) -> Any:
    """An element of an array or list for JSON."""
    if isinstance(element, bytes):
        return {"bytes": len(element)}
    return element.tolist() if isinstance(element, np.ndarray | np.generic) else element


def classes_of(field: Field) -> list[str]:
    """The names of the classes that a field's numbers stand for, if it notes them."""
    try:
        classes = json.loads(field.metadata.get("classes", "[]"))
    except ValueError:
        return []
    # "classes" may mean anything to whoever wrote the data set
    return [str(name) for name in classes] if isinstance(classes, list) else []


def class_name(label: int, field: Field) -> str:
    """The name of class `label` in brackets, if the field notes the names of its classes."""
    classes = classes_of(field)
    return f" ({classes[label]})" if 0 <= label < len(classes) else ""
