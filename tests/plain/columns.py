"""Plain twin of `minibatch.columns` and `minibatch.buffers`: what `to_pylist` says, value by value, as it must be read.

A column is a list of Python values and a type. Its fields are found by walking down the type; nulls stay None until
`fill` or `valid` says what becomes of them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Form:
    """How a value is built: a list or an array (of `size`) of `inner`, or an element of an Arrow type."""

    what: str
    inner: "Form | None" = None
    size: int = 0
    kind: Any = None


def flatten(values: list[Any], kind: Any, name: str, metadata: Any = None) -> Iterator[tuple[str, Form, list[Any]]]:
    """The fields of a column: name, form and rows of each; None where something is null."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        yield from flatten(values, kind.value_type, name, metadata)
    elif pa.types.is_struct(kind) and metadata and b"sparse_width" in metadata:
        pairs = [None if each is None else (each["indices"], each["values"]) for each in values]
        yield name, Form("sparse", kind=kind.field("values").type.value_type), pairs
    elif pa.types.is_struct(kind):
        for child in kind:
            below = [None if each is None else each[child.name] for each in values]
            yield from flatten(below, child.type, f"{name}.{child.name}", child.metadata)
    elif isinstance(kind, pa.FixedShapeTensorType):
        shaped = [None if each is None else reshaped(each, kind.shape) for each in values]
        form = Form("element", kind=kind.value_type)
        for size in reversed(kind.shape):
            form = Form("array", form, size)
        yield name, form, [numbers(each, kind.value_type) for each in shaped]
    elif pa.types.is_fixed_size_list(kind):
        ((_, form, _),) = flatten([], kind.value_type, name)
        yield name, Form("array", form, kind.list_size), [numbers(each, form_kind(form)) for each in values]
    elif hasattr(kind, "value_field"):
        inside = [element for each in values for element in each or ()]
        for inner, form, rows in flatten(inside, kind.value_type, name, metadata):
            left = iter(rows)
            yield inner, Form("list", form), [None if each is None else [next(left) for _ in each] for each in values]
    else:
        yield name, Form("element", kind=kind), [numbers(each, kind) for each in values]


def form_kind(form: Form) -> Any:
    """The type of the elements of a form."""
    while form.inner is not None:
        form = form.inner
    return form.kind


def reshaped(values: Any, shape: Any) -> Any:
    """The elements of a tensor in row-major order as nested lists."""
    flat = [element for row in values for element in row] if values and isinstance(values[0], list) else values
    while flat and isinstance(flat[0], list):
        flat = [element for row in flat for element in row]
    for size in reversed(shape[1:]):
        flat = [flat[i : i + size] for i in range(0, len(flat), size)]
    return flat


def numbers(value: Any, kind: Any) -> Any:
    """A value as it is read: times as integers, what is stored otherwise as that."""
    if value is None or isinstance(value, list):
        return None if value is None else [numbers(each, kind) for each in value]
    if pa.types.is_temporal(kind):
        return pa.scalar(value, kind).value
    if isinstance(kind, pa.UuidType):
        return list(value.bytes)
    if isinstance(kind, pa.Bool8Type):
        return int(value)
    return list(value) if pa.types.is_fixed_size_binary(kind) else value


def width_of(kind: Any) -> int:
    """How many numbers an element of this type reads as; 0 for one that stands alone."""
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    return int(storage.byte_width) if pa.types.is_fixed_size_binary(storage) else 0


def fill(value: Any, form: Form, filler: Any) -> Any:
    """`value` with `filler` in place of nulls; a null list or sparse vector is empty, a null array is full of it."""
    if form.what == "list":
        return [fill(each, inside(form), filler) for each in value or ()]
    if form.what == "array":
        return [fill(each, inside(form), filler) for each in ([None] * form.size if value is None else value)]
    if form.what == "sparse":
        indices, values = ([], []) if value is None else value
        return (indices, [filler if each is None else each for each in values])
    if value is not None:
        return value
    return [filler] * width_of(form.kind) if width_of(form.kind) else filler


def valid(value: Any, form: Form) -> Any:
    """The mask of `value`: whether each of its elements is there."""
    if form.what == "list":
        return [valid(each, inside(form)) for each in value or ()]
    if form.what == "array":
        return [valid(each, inside(form)) for each in ([None] * form.size if value is None else value)]
    return value is not None


def inside(form: Form) -> Form:
    """What a list or an array is of."""
    if form.inner is None:
        raise AssertionError(f"{form.what} has nothing inside")
    return form.inner


def has_null(value: Any) -> bool:
    """Whether something is missing in a row."""
    return value is None or (isinstance(value, list | tuple) and any(map(has_null, value)))


def plain_filler(kind: Any) -> Any:
    """What nulls of elements of this type read as where nothing else is said."""
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if pa.types.is_boolean(storage):
        return False
    if "string" in str(storage):
        return ""
    return b"" if str(storage).startswith(("binary", "large_binary")) and math.isclose(width_of(kind), 0) else 0
