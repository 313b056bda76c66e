"""Arrow columns of every type that is supported, of random values, as Arrow's own functions make them.

A type is drawn by Hypothesis, so that a failure shrinks to the simplest one; values come from a generator of NumPy.
Views of lists lie in any order, sliced arrays have rows around them, and what lies below a null may be anything.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from pyarrow import feather

Draw = np.random.Generator
WORDS = ("", "a", "ünï", "日本語", "nul\0inside", "a text that is longer than what views hold inline")
SPARSE = {"sparse_width": "9"}

NUMBERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
NUMBERS += [pa.float16(), pa.float32(), pa.float64(), pa.bool_()]
TIMES = [pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")]
TIMES += [pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")] + [pa.timestamp("us", "Europe/Berlin")]
TIMES += [pa.duration(unit) for unit in ("s", "ms", "us", "ns")]
TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]
STORED = [pa.binary(3), pa.uuid(), pa.bool8()]
LISTS: list[Callable[[Any], pa.DataType]] = [pa.list_, pa.large_list, pa.list_view, pa.large_list_view]

elements = st.sampled_from([*NUMBERS, *TIMES, *STORED])
texts = st.sampled_from(TEXTS)
index_types = st.sampled_from([pa.int8(), pa.uint16(), pa.int32(), pa.int64()])
tensors = st.builds(
    pa.fixed_shape_tensor, st.sampled_from([*NUMBERS, *TIMES]), st.sampled_from([[2], [2, 3], [1, 2, 2]])
)
plain_arrays = st.recursive(
    st.sampled_from([*NUMBERS, *TIMES, pa.binary(3)]),
    lambda inner: st.builds(pa.list_, inner, st.integers(0, 3)),
    max_leaves=2,
)
arrays = st.recursive(elements, lambda inner: st.builds(pa.list_, inner, st.integers(0, 3)), max_leaves=2) | tensors


def encoded(kinds: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    """Dictionaries and runs of `kinds`."""
    runs = st.builds(pa.run_end_encoded, st.sampled_from([pa.int16(), pa.int32(), pa.int64()]), kinds)
    return st.builds(pa.dictionary, index_types, kinds) | runs


def lists(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[pa.DataType]:
    """Lists of every kind of `inner`."""
    return st.builds(lambda make, kind: make(kind), st.sampled_from(LISTS), inner)


leaves = (
    arrays | texts | st.just(pa.json_()) | encoded(plain_arrays | texts)
)  # Arrow itself cannot read dictionaries of extension types
sparse = st.builds(
    lambda make, index, value: pa.struct([("indices", make(index)), ("values", make(value))]),
    st.sampled_from(LISTS[:2]),
    st.sampled_from([pa.int8(), pa.int32(), pa.uint64()]),
    st.sampled_from(NUMBERS),
)
one_level = lists(leaves)
two_levels = lists(one_level)
any_but_struct = leaves | one_level | two_levels


def structs(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    """Structs of one or two of `inner`, sparse vectors among them."""
    plain = st.builds(lambda kind, name: pa.field(name, kind), inner, st.just("x"))
    marked = st.builds(lambda kind: pa.field("s", kind, metadata=SPARSE), sparse)
    return st.lists(plain | marked, min_size=1, max_size=2, unique_by=lambda field: field.name).map(pa.struct)


fields = st.one_of(
    st.builds(pa.field, st.just("f"), any_but_struct),
    st.builds(pa.field, st.just("f"), structs(any_but_struct | structs(leaves))),
    st.builds(pa.field, st.just("f"), lists(structs(leaves | one_level))),
    st.builds(lambda kind: pa.field("f", kind, metadata=SPARSE), sparse | lists(sparse)),
)


def number_of(kind: pa.DataType, draw: Draw) -> int:
    """An integer that a number, bool or time of this type can be made of."""
    if pa.types.is_boolean(kind):
        return int(draw.integers(2))
    if pa.types.is_date64(kind):
        return int(draw.integers(-1000, 1000)) * 86_400_000
    unit = 1000 if str(kind).endswith("[ns]") else 1  # Python's own times have no nanoseconds
    least = 0 if pa.types.is_time(kind) or pa.types.is_unsigned_integer(kind) else -100
    return int(draw.integers(least, 100)) * unit


def column_of(kind: Any, count: int, draw: Draw, nulls: float = 0.0) -> pa.Array:
    """A column of `count` random values of a type; each of them null with the given probability, at every level."""
    missing = draw.random(count) < nulls
    mask = pa.array(missing) if missing.any() else None
    if pa.types.is_dictionary(kind):
        values = column_of(kind.value_type, 5, draw, nulls / 2)
        indices = pa.array(draw.integers(0, 5, count), kind.index_type, mask=missing if mask is not None else None)
        return pa.DictionaryArray.from_arrays(indices, values)
    if pa.types.is_run_end_encoded(kind):
        ends = np.unique([*draw.integers(1, count + 1, 3), count]) if count else np.zeros(0, int)
        values = column_of(kind.value_type, len(ends), draw, nulls)
        return pa.RunEndEncodedArray.from_arrays(pa.array(ends, kind.run_end_type), values, kind)
    if isinstance(kind, pa.Bool8Type):
        return pa.ExtensionArray.from_storage(kind, pa.array(draw.integers(0, 2, count), pa.int8(), mask=missing))
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, column_of(kind.storage_type, count, draw, nulls))
    if pa.types.is_struct(kind):
        if [field.name for field in kind] == ["indices", "values"]:
            return sparse_column(kind, count, draw, mask, nulls)
        children = [column_of(field.type, count, draw, nulls) for field in kind]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=mask)
    if pa.types.is_fixed_size_list(kind):
        inner = column_of(kind.value_type, count * kind.list_size, draw, nulls)
        validity = None if mask is None else pa.array(~missing).buffers()[1]
        return pa.FixedSizeListArray.from_buffers(kind, count, [validity], children=[inner])
    if hasattr(kind, "value_field"):
        return list_column(kind, count, draw, missing, nulls)
    if pa.types.is_fixed_size_binary(kind):
        return pa.array([draw.bytes(kind.byte_width) for _ in range(count)], kind, mask=missing)
    if kind in TEXTS:  # a JSON column is an extension of text
        words = [WORDS[i] for i in draw.integers(0, len(WORDS), count)]
        text = "string" in str(kind)
        return pa.array(
            [None if gone else word if text else word.encode() for word, gone in zip(words, missing, strict=True)], kind
        )
    numbers = [number_of(kind, draw) for _ in range(count)]
    if pa.types.is_boolean(kind):
        return pa.array([bool(number) for number in numbers], kind, mask=missing)
    if pa.types.is_floating(kind):
        return pa.array(np.array(numbers, kind.to_pandas_dtype()) / 4, kind, mask=missing)
    return pa.array(numbers, kind, mask=missing)


def offsets_of(lengths: Any, first: int, missing: Any) -> tuple[Any, pa.Array]:
    """Where lists of these lengths begin and end, `first` elements in front; null where they are missing."""
    marks = first + np.concatenate([[0], np.cumsum(lengths)])
    return marks, pa.array(marks, pa.int64(), mask=np.append(missing, False))


def list_column(kind: Any, count: int, draw: Draw, missing: Any, nulls: float) -> pa.Array:
    """Lists with elements in front that none of them has; views in any order, overlapping."""
    lengths = draw.integers(0, 4, count)
    marks, offsets = offsets_of(lengths, int(draw.integers(3)), missing)
    inner = column_of(kind.value_type, int(marks[-1]) + int(draw.integers(2)), draw, nulls)
    if kind.id in (pa.list_(pa.int8()).id, pa.large_list(pa.int8()).id):
        large = pa.types.is_large_list(kind)
        make = pa.LargeListArray if large else pa.ListArray
        return make.from_arrays(offsets if large else offsets.cast(pa.int32()), inner, kind)
    large = pa.types.is_large_list_view(kind)
    width, make = (pa.int64(), pa.LargeListViewArray) if large else (pa.int32(), pa.ListViewArray)
    begins = draw.integers(0, len(inner) + 1, count)
    sizes = np.minimum(lengths, len(inner) - begins)
    mask = pa.array(missing) if missing.any() else None
    return make.from_arrays(pa.array(begins, width), pa.array(sizes, width), inner, kind, mask=mask)


def sparse_column(kind: Any, count: int, draw: Draw, mask: Any, nulls: float) -> pa.Array:
    """Sparse vectors of width 9: indices that ascend or not, also the same one twice."""
    marks, offsets = offsets_of(draw.integers(0, 4, count), 0, np.zeros(count, bool))
    indices = pa.array(draw.integers(0, 9, marks[-1]), kind.field("indices").type.value_type)
    values = column_of(kind.field("values").type.value_type, int(marks[-1]), draw, nulls)
    parts = []
    for field, inner in zip(kind, (indices, values), strict=True):
        large = pa.types.is_large_list(field.type)
        make = pa.LargeListArray if large else pa.ListArray
        parts.append(make.from_arrays(offsets if large else offsets.cast(pa.int32()), inner, field.type))
    return pa.StructArray.from_arrays(parts, fields=list(kind), mask=mask)


# --- files --------------------------------------------------------------------------------------------------------

FORMATS = ("file", "stream", "file lz4", "file zstd", "stream lz4", "feather", "feather lz4", "feather zstd")


def write(path: Path, column: pa.Array, field: pa.Field, cuts: Sequence[int], form: str) -> Path:
    """A file of one column, as chunks that are slices of it between `cuts`, which may be empty."""
    schema = pa.schema([field])
    bounds = [0, *cuts, len(column)]
    chunks = [column.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    kind, _, compression = form.partition(" ")
    if kind == "feather" and "dictionary" not in str(field.type):  # which would unify them, as it cannot for all types
        table = pa.Table.from_arrays([pa.chunked_array(chunks, field.type)], schema=schema)
        feather.write_feather(table, str(path), compression=compression or "uncompressed")
        return path
    options = pa.ipc.IpcWriteOptions(compression=compression or None)
    make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as sink, make(sink, schema, options=options) as writer:
        for chunk in chunks:
            writer.write_batch(pa.record_batch([chunk], schema=schema))
    return path


def every_field() -> Iterator[pa.Field]:
    """One field of each type, for tests that want all of them once."""
    for kind in (
        *NUMBERS,
        *TIMES,
        *TEXTS,
        *STORED,
        pa.list_(pa.float32(), 2),
        pa.fixed_shape_tensor(pa.bool_(), [2, 3]),
    ):
        for number, make in enumerate([lambda kind: kind, *LISTS]):
            yield pa.field(f"{kind} {number}", make(kind))
