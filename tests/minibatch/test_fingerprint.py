"""`manifest`: the fingerprint is that of the content alone, and frozen: golden values and a plain twin."""

import copy
import itertools
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch import Dataset, DatasetWriter
from minibatch.arrow_input import as_arrow
from minibatch.buffers import readable
from minibatch.check import check_dataset
from minibatch.columns import field_of
from minibatch.manifest import Fingerprint, fields_of
from minibatch.ragged import Ragged, join
from minibatch.sparse import Sparse
from tests import datasets
from tests.datasets import put

GOLDEN = Path(__file__).parents[1] / "golden" / "fingerprints.txt"


def plain_fingerprint(fields, rows):
    """The fingerprint from its description: fields as [name, type, shape, metadata, bytes of the values, lengths]."""
    streams = [[xxhash.xxh3_128(part).hexdigest() for part in field[4:]] for field in fields]
    document = {"fields": [field[:4] for field in fields], "rows": rows, "streams": streams}
    return xxhash.xxh3_128(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def plain_field(name, values, metadata=None):
    """The part of one field in it, from what was given to `write`."""
    if isinstance(values, Ragged):
        kind, shape, streams, noted = plain_sequences([values[i] for i in range(len(values))])
    elif isinstance(values, Sparse):
        kind, shape, streams, noted = plain_sparse(values)
    elif isinstance(values, list) and isinstance(values[0], list | np.ndarray):
        kind, shape, streams, noted = plain_sequences(values)
    else:
        kind, shape, streams, noted = plain_elements(values)
        streams = [streams[0], b"".join(streams[1:])]
    return [name, kind, shape, {**(metadata or {}), **noted}, *streams]


def numbers(values):
    return b"".join(struct.pack("<q", value) for value in values)


def plain_elements(values):
    """Kind, shape, [values, lengths] and metadata of elements that stand side by side."""
    if isinstance(values, list):
        encoded = [value.encode() if isinstance(value, str) else value for value in values]
        kind = "text" if isinstance(values[0], str) else "bytes"
        return kind, [], [b"".join(encoded), numbers(map(len, encoded))], {}
    kind = str(values.dtype)
    if values.dtype.kind in "mM":
        unit = np.datetime_data(values.dtype)[0]
        kind = "date32" if unit == "D" else f"{'timestamp' if values.dtype.kind == 'M' else 'duration'}[{unit}]"
    content = datasets.as_read(values)
    content = content.astype(content.dtype.newbyteorder("<"))
    return kind, list(values.shape[1:]), [content.tobytes()], {}


def plain_sequences(rows):
    """The same of rows that are lists: the lengths of the outer ones come before those of what they hold."""
    inside = [element for row in rows for element in row]
    if isinstance(rows[0], np.ndarray):
        kind, shape, (values, *inner), noted = plain_elements(np.concatenate(rows))
    elif isinstance(rows[0], Sparse):
        kind, shape, leaves, noted = plain_sparse(join(rows))
        outer = numbers(map(len, rows))
        return f"list<{kind}>", shape, [leaves[0], outer, leaves[1], leaves[2], outer, leaves[3]], noted
    elif isinstance(inside[0], str | bytes):
        kind, shape, (values, *inner), noted = plain_elements(inside)
    elif isinstance(inside[0], int):
        kind, shape, (values, *inner), noted = plain_elements(np.array(inside, np.int64))
    else:
        kind, shape, (values, *inner), noted = plain_sequences(inside)
    return f"list<{kind}>", shape, [values, numbers(map(len, rows)), *inner], noted


def plain_sparse(sparse):
    """The same of sparse vectors: 64-bit indices and their lengths, then values and theirs."""
    rows = [(indices.tolist(), values) for indices, values in sparse]
    lengths = numbers(len(indices) for indices, _ in rows)
    indices = numbers(index for row, _ in rows for index in row)
    kind, _, (values,), _ = plain_elements(np.concatenate([values for _, values in rows]))
    return f"sparse<{kind}>", [], [indices, lengths, values, lengths], {"sparse_width": str(sparse.width)}


def cases():
    """Small data sets by name: every type alone, all together, in other orders, with metadata, without rows."""
    everything = datasets.every_type(11)
    for name, values in everything.items():
        yield f"eleven rows of {name}", {name: values}, {}
    yield "eleven rows of every type", everything, {}
    yield "eleven rows of every type, backwards", dict(reversed(everything.items())), {}
    yield "one row of every type", datasets.every_type(1, first=5), {}
    noted = {"text": {"language": "de", "ü": "☃"}, "int8": {"classes": '["cat", "dog"]'}}
    yield "eleven rows of every type, with metadata", everything, noted
    yield "no rows of a vector", {"x": np.zeros((0, 3), np.float32)}, {}
    lists = datasets.every_list(11, first=1)
    for name, values in lists.items():
        yield f"eleven rows of {name}", {name: values}, {}
    yield "eleven rows of every list, with metadata", lists, {"words": {"language": "de"}, "sparse": {"a": "b"}}


CASES = {name: (fields, metadata) for name, fields, metadata in cases()}


def golden():
    lines = [line for line in GOLDEN.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.rsplit(" = ", 1) for line in lines)


def test_the_golden_file_has_every_case():
    assert list(golden()) == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_fingerprints_are_for_ever(name, tmp_path):
    """Checkpoints hold fingerprints: golden values, and the plain twin of what the docstring says."""
    fields, metadata = CASES[name]
    rows = len(next(iter(fields.values())))
    plain = plain_fingerprint([plain_field(key, values, metadata.get(key)) for key, values in fields.items()], rows)
    assert Dataset.open(put(tmp_path / "d", fields, metadata=metadata)).fingerprint == plain == golden()[name]


@given(data=st.data())
@settings(max_examples=30)
def test_cutting_into_calls_chunks_and_shards_does_not_change_a_fingerprint(data, tmp_path_factory):
    rows = data.draw(st.integers(4, 25))  # fewer may have only empty lists, which tell no type
    fields = datasets.every_type(rows) | datasets.every_list(rows, first=1)
    for name in ("boxes", "grids of bits"):  # a call with arrays of one shape would make tensors of them
        fields[name] = Ragged.of(fields[name])
    cuts = data.draw(st.lists(st.integers(0, rows), max_size=3).map(sorted))
    chunk_rows, shard_rows = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    got = Dataset.open(put(tmp_path_factory.mktemp("d") / "x", fields, chunk_rows, shard_rows, cuts))
    assert got.fingerprint == plain_fingerprint([plain_field(*field) for field in fields.items()], rows)


def test_names_of_files_and_folders_and_what_made_them_do_not_matter(tmp_path):
    first = Dataset.open(put(tmp_path / "a", {"x": np.arange(5)}))
    with DatasetWriter(tmp_path / "ü b", source="elsewhere") as writer:
        writer.write({"x": np.arange(5)})
    assert Dataset.open(tmp_path / "ü b").fingerprint == first.fingerprint
    chunks = [[{"x": pa.array([0, 1])}], [{"x": pa.array([2, 3, 4])}]]
    for number, names in enumerate(["{}.arrow", "ünï {}"]):
        folder = datasets.write_foreign(tmp_path / str(number), chunks, names=names)
        assert Dataset.open(folder).fingerprint == first.fingerprint


FLAT = np.arange(24, dtype=np.uint8)
TENSOR = pa.fixed_shape_tensor(pa.uint8(), [2, 3])
BITS = np.arange(24) % 5 < 2
LISTS = (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)


def lists(values, *sizes):
    for size in sizes:
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values


@pytest.mark.parametrize(
    "same",
    [
        [
            pa.ExtensionArray.from_storage(TENSOR, lists(pa.array(FLAT), 6)),
            lists(pa.array(FLAT), 3, 2),
            lists(pa.array([bytes(FLAT[i : i + 3]) for i in range(0, 24, 3)], pa.binary(3)), 2),
            lists(pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), [3]), lists(pa.array(FLAT), 3)), 2),
            lists(pa.array(np.concatenate([FLAT, FLAT])), 3, 2).slice(4, 4),
            lists(pa.array([255, 255, 255, *FLAT], pa.uint8()).slice(3), 3, 2),
        ],
        [
            lists(pa.array(BITS), 6),
            lists(pa.array([True, *BITS, True]).slice(1, 24), 6),
            as_arrow(BITS.reshape(4, 6), "x"),
        ],
        [
            *(pa.array(["a", "", "ü"], kind) for kind in (pa.string(), pa.large_string(), pa.string_view())),
            pa.array(["x", "a", "", "ü"]).slice(1),
            pa.array(["a", "", "ü"]).dictionary_encode(),
            pa.RunEndEncodedArray.from_arrays([1, 2, 3], pa.array(["a", "", "ü"], pa.large_string())),
            pa.ExtensionArray.from_storage(pa.json_(), pa.array(["a", "", "ü"])),
        ],
        [pa.array([b"a", b"", b"b"], kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())],
        [
            *(pa.array([[1], [], [2, 3]], make(pa.int32())) for make in LISTS),
            pa.array([[9], [1], [], [2, 3]], pa.list_(pa.int32())).slice(1),
            pa.ListViewArray.from_arrays([2, 0, 0], [1, 0, 2], pa.array([2, 3, 1], pa.int32())),
            pa.ListArray.from_arrays([0, 1, 1, 3], pa.array([1, 2, 3], pa.int32()).dictionary_encode()),
            pa.DictionaryArray.from_arrays([1, 2, 0], pa.array([[2, 3], [1], []], pa.list_(pa.int32()))),
        ],
        [
            *(pa.array([["a", ""], [], ["ü"]], make(pa.string())) for make in LISTS),
            pa.array([["a", ""], [], ["ü"]], pa.list_(pa.string_view())),
            pa.ListArray.from_arrays([0, 2, 2, 3], pa.array(["a", "", "ü"]).dictionary_encode()),
        ],
        [
            pa.array([[[True], []], [], [[False, True]]], make(inner(pa.bool_())))
            for make, inner in itertools.product(LISTS, LISTS)
        ],
        [
            pa.array(
                [{"indices": [3], "values": [1.0]}, {"indices": [], "values": []}],
                pa.struct([("indices", make(index)), ("values", inner(pa.float32()))]),
            )
            for make, inner, index in itertools.product(LISTS, LISTS, (pa.int8(), pa.uint64()))
        ],
        [pa.array([b"ab", b"cd"], pa.binary(2)), as_arrow(np.frombuffer(b"abcd", np.uint8).reshape(2, 2), "x")],
    ],
    ids=["tensors", "bits", "text", "bytes", "lists", "lists of texts", "nested", "sparse", "fixed bytes"],
)
def test_how_values_are_stored_does_not_matter(same, tmp_path):
    options = [None, pa.ipc.IpcWriteOptions(compression="zstd"), pa.ipc.IpcWriteOptions(compression="lz4")]
    found = set()
    for number, column in enumerate(same):
        for option in options:
            folder = tmp_path / f"{number} {options.index(option)}"
            noted = {"x": {"sparse_width": "5"}} if pa.types.is_struct(column.type) else None
            datasets.write_foreign(folder, [[{"x": column}]], metadata=noted, options=option)
            assert check_dataset(folder) == []
            found.add(Dataset.open(folder).fingerprint)
            (folder / "manifest.json").unlink()
            found.add(Dataset.open(folder).fingerprint)
    assert len(found) == 1


def fingerprint_of(fields, metadata=None):
    columns = {name: as_arrow(values, name) for name, values in fields.items()}
    schema = pa.schema(
        [pa.field(name, column.type, False, (metadata or {}).get(name)) for name, column in columns.items()]
    )
    fields = fields_of(schema)
    fingerprint = Fingerprint(fields)
    fingerprint.update([readable(columns[field.column], field, "here", {}) for field in fields])
    return fingerprint.hexdigest()


def test_every_value_matters_in_its_place():
    """One element changed, or two unequal rows exchanged: every type, every row."""
    rows = 6
    fields = datasets.every_type(rows)
    seen = {fingerprint_of(fields)}
    changes = 0
    for name, values in fields.items():
        for row in range(rows):
            changed = copy.deepcopy(values)
            if isinstance(values, list):
                changed[row] += "!" if isinstance(changed[row], str) else b"!"
            elif changed[row].size == 0:
                continue
            else:
                first = (row, *[0] * (values.ndim - 1))
                changed[first] = ~changed[first] if values.dtype == bool else changed[first] + 1
            seen.add(fingerprint_of({**fields, name: changed}))
            changes += 1
        swapped = [values[i] for i in (1, 0, 2, 3, 4, 5)]
        swapped = swapped if isinstance(values, list) else np.array(swapped)
        if not np.array_equal(datasets.as_read(swapped), datasets.as_read(values)):
            seen.add(fingerprint_of({**fields, name: swapped}))
            changes += 1
    assert len(seen) == 1 + changes > 150


def test_every_element_and_every_length_of_a_list_matters():
    """One element changed, one more, one less, a border moved, two rows exchanged."""
    seen = set()
    nested = [[[1, 2], [3]], [], [[]], [[4, 5, 6]]]
    variants = [
        nested,
        [[[1, 2], [9]], [], [[]], [[4, 5, 6]]],
        [[[1, 2, 3], []], [], [[]], [[4, 5, 6]]],
        [[[1, 2, 3]], [], [[]], [[4, 5, 6]]],
        [[[1, 2], [3]], [[]], [], [[4, 5, 6]]],
        [[[1, 2], [3]], [], [[], []], [[4, 5, 6]]],
        [[[1, 2], [3]], [], [[]], [[4, 5], [6]]],
        [[], [[1, 2], [3]], [[]], [[4, 5, 6]]],
    ]
    for variant in variants:
        seen.add(fingerprint_of({"x": variant}))
        seen.add(fingerprint_of({"x": [[["a" * n for n in row] for row in rows] for rows in variant]}))
        flat = [[value for row in rows for value in row] for rows in variant]
        pairs = datasets.sparse_of([[(value, 0.5 * value) for value in row] for row in flat], 10)
        noted = {"x": {"sparse_width": "10"}}
        seen.add(fingerprint_of({"x": pairs}, noted))
        seen.add(fingerprint_of({"x": Sparse(pairs.indices, pairs.values + 1, pairs.offsets, 10)}, noted))
    sparse = len({repr([[value for row in rows for value in row] for rows in variant]) for variant in variants})
    assert len(seen) == 2 * len(variants) + 2 * sparse
    wider = Sparse(pairs.indices, pairs.values, pairs.offsets, 11)
    assert fingerprint_of({"x": wider}, {"x": {"sparse_width": "11"}}) not in seen


def test_what_a_field_is_called_typed_shaped_and_noted_matters():
    n = np.arange(12)
    variants = [
        ({"x": n}, {}),
        ({"y": n}, {}),
        ({"x": n, "y": n}, {}),
        ({"x": n}, {"x": {"a": "b"}}),
        ({"x": n}, {"x": {"a": "c"}}),
        ({"x": n}, {"x": {"b": "b"}}),
        ({"x": n.view(np.uint64)}, {}),
        ({"x": n.view("M8[s]")}, {}),
        ({"x": n.view("M8[ms]")}, {}),
        ({"x": n.view("m8[s]")}, {}),
        ({"x": n.reshape(12, 1)}, {}),
        ({"x": n.reshape(6, 2)}, {}),
        ({"x": n.reshape(2, 6)}, {}),
        ({"x": n.reshape(2, 2, 3)}, {}),
        ({"x": n.reshape(2, 3, 2)}, {}),
        ({"x": np.zeros((3, 0))}, {}),
        ({"x": np.zeros((4, 0))}, {}),
        ({"x": np.array([0.0])}, {}),
        ({"x": np.array([-0.0])}, {}),
        ({"x": np.array([True])}, {}),
        ({"x": np.array([1], np.uint8)}, {}),
        ({"x": ["1"]}, {}),
        ({"x": [b"1"]}, {}),
        ({"x": ["ab", "c"]}, {}),
        ({"x": ["a", "bc"]}, {}),
        ({"x": ["abc", ""]}, {}),
        ({"x": ["", "abc"]}, {}),
        ({"x": ["abc"]}, {}),
        ({"x": ["a"], "y": ["b"]}, {}),
        ({"x": ["b"], "y": ["a"]}, {}),
        ({"y": ["b"], "x": ["a"]}, {}),
        ({"x": [""], "y": ["ab"]}, {}),
        ({"x": [["a", "b"]]}, {}),
        ({"x": [["ab"]]}, {}),
        ({"x": [["a"], ["b"]]}, {}),
        ({"x": [[b"ab"]]}, {}),
        ({"x": [[1, 2]]}, {}),
        ({"x": [[[1, 2]]]}, {}),
        ({"x": [[[1], [2]]]}, {}),
        ({"x": np.array([[1, 2]])}, {}),
        ({"x": Ragged(np.array([[1, 2]]), np.array([0, 1]))}, {}),
        ({"x": Ragged(np.array([[1], [2]]), np.array([0, 2]))}, {}),
    ]
    assert len({fingerprint_of(*variant) for variant in variants}) == len(variants)


def test_the_order_of_metadata_does_not_matter():
    one, other = {"a": "1", "b": "2"}, {"b": "2", "a": "1"}
    assert fingerprint_of({"x": [1]}, {"x": one}) == fingerprint_of({"x": [1]}, {"x": other})


def test_the_names_of_types_in_fingerprints_are_ours():
    kinds = [
        pa.date64(),
        pa.time32("ms"),
        pa.time64("ns"),
        pa.timestamp("us", "Europe/Berlin"),
        pa.float16(),
        pa.bool_(),
    ]
    names = ["date64", "time[ms]", "time[ns]", "timestamp[us, Europe/Berlin]", "float16", "bool"]
    assert [field_of(pa.field("x", kind)).describe()[1] for kind in kinds] == names
