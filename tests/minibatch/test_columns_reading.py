"""Every Arrow type, in files that Arrow wrote, opened as they are: each row is what `to_pylist` says, in any order."""

import warnings

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch import Dataset, MinibatchSource, NullMask, Ragged
from minibatch.buffers import leaf_buffers, readable
from minibatch.columns import fields_in, mask_of
from minibatch.errors import DatasetError, SchemaError
from tests import arrow_columns, datasets
from tests.datasets import listed
from tests.plain import columns as plain


def dtype_of(form):
    """The dtype that a form is read in."""
    kind = plain.form_kind(form)
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if pa.types.is_temporal(storage):
        return np.dtype(f"int{storage.bit_width}")
    if pa.types.is_fixed_size_binary(storage):
        return np.dtype(np.uint8)
    return np.dtype(storage.to_pandas_dtype())


def element_dtype(values):
    while isinstance(values, Ragged):
        values = values.values
    return values.dtype


def read(path, rows, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* is compressed")
        return Dataset.open(path, **options).read(rows)


def some_file(data, folder, nulls=0.0):
    """A column of a drawn type as a file of a drawn format, and rows of it in a drawn order."""
    field = data.draw(arrow_columns.fields)
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    before, rows, behind = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 20)), data.draw(st.integers(0, 9))
    column = arrow_columns.column_of(field.type, before + rows + behind, draw, nulls).slice(before, rows)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=4)))
    form = data.draw(st.sampled_from(arrow_columns.FORMATS))
    path = arrow_columns.write(folder / "some.arrow", column, field, cuts, form)
    order = data.draw(st.lists(st.integers(0, rows - 1), max_size=30)) if rows else []
    return field, column, path, order


@pytest.mark.kernels
@given(data=st.data())
@settings(max_examples=300)
def test_every_row_is_what_arrow_says(data):
    with datasets.temporary_folder() as folder:
        field, column, path, order = some_file(data, folder)
        got = read(path, order)
        wanted = list(plain.flatten(column.to_pylist(), field.type, "f", field.metadata))
        assert list(got) == [name for name, _, _ in wanted]
        for name, form, rows in wanted:
            assert listed(got[name]) == [rows[row] for row in order], name
            assert element_dtype(got[name]) == dtype_of(form), name
            assert len(got[name]) == len(order)


@given(data=st.data())
@settings(max_examples=200)
def test_nulls_at_every_level_read_as_the_value_and_the_mask_says_where(data):
    with datasets.temporary_folder() as folder:
        field, column, path, order = some_file(data, folder, nulls=0.2)
        wanted = list(plain.flatten(column.to_pylist(), field.type, "f", field.metadata))
        masked = data.draw(st.sets(st.sampled_from([name for name, _, _ in wanted])))
        nulls = {}
        for name, form, _ in wanted:
            filler = plain.plain_filler(plain.form_kind(form))
            nulls[name] = NullMask() if name in masked else filler
        got = read(path, order, nulls=nulls)
        assert set(got) == {name for name, _, _ in wanted} | {f"{name}.valid" for name in masked}
        for name, form, rows in wanted:
            filler = plain.plain_filler(plain.form_kind(form))
            assert listed(got[name]) == [plain.fill(rows[row], form, filler) for row in order], name
            assert element_dtype(got[name]) == dtype_of(form), name
            if name in masked:
                assert listed(got[f"{name}.valid"]) == [plain.valid(rows[row], form) for row in order], name


@given(data=st.data())
@settings(max_examples=100)
def test_nulls_of_which_nothing_is_said_are_an_error_when_their_field_is_read(data):
    with datasets.temporary_folder() as folder:
        field, column, path, order = some_file(data, folder, nulls=0.1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* is compressed")
            dataset = Dataset.open(path)
            for name, _, rows in plain.flatten(column.to_pylist(), field.type, "f", field.metadata):
                if not any(map(plain.has_null, rows)):
                    assert listed(dataset.read(order, [name])[name]) == [rows[row] for row in order]
                else:
                    with pytest.raises(SchemaError, match=r"field .*null.*; say what they read as \(nulls="):
                        Dataset.open(path).read(range(len(rows)), [name])


def in_python(column, leaf):
    """A leaf in plain form as rows of Python's own values: times as integers, tensors with all their axes."""
    kind = column.type
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type

    def shaped(value, levels):
        if levels:
            return [shaped(each, levels - 1) for each in value]
        return plain.reshaped(value, leaf.shape) if leaf.shape and 0 not in leaf.shape else value

    texts = "string" in str(kind) or str(kind) in ("binary", "large_binary")
    return [shaped(plain.numbers(value, kind), leaf.levels - texts) for value in column.to_pylist()]


@given(data=st.data())
@settings(max_examples=200)
def test_columns_in_memory_may_be_slices_with_anything_around_them(data):
    """Arrow writes no such columns into files; other writers may, and callers have them."""
    field = data.draw(arrow_columns.fields)
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    before, rows, behind = (data.draw(st.integers(0, 6)) for _ in range(3))
    whole = arrow_columns.column_of(field.type, before + rows + behind, draw, data.draw(st.sampled_from([0, 0.2])))
    column = whole.slice(before, rows)
    wanted = list(plain.flatten(column.to_pylist(), field.type, "f", field.metadata))
    for each, (name, form, values) in zip(fields_in(field), wanted, strict=True):
        filler = plain.plain_filler(plain.form_kind(form))
        filled = [plain.fill(value, form, filler) for value in values]
        leaves = readable(column, each, "here", {name: NullMask()})
        leaf_buffers(leaves, each, "here")
        if len(leaves) == 1:
            assert in_python(leaves[0], each.leaves[0]) == filled, name
            (mask,) = readable(column, mask_of(each), "here", {})
            leaf_buffers([mask], mask_of(each), "here")
            assert in_python(mask, mask_of(each).leaves[0]) == [plain.valid(value, form) for value in values], name
        elif form.what == "sparse":
            assert list(zip(*map(in_python, leaves, each.leaves), strict=True)) == filled, name
        if any(map(plain.has_null, values)):
            with pytest.raises(SchemaError, match="null"):
                readable(column, each, "here", {})
        else:
            same = readable(column, each, "here", {})
            assert [one.to_pylist() for one in same] == [one.to_pylist() for one in leaves]


def test_every_type_has_a_mask(tmp_path):
    draw = np.random.default_rng(2)
    fields = list(arrow_columns.every_field())
    columns = [arrow_columns.column_of(field.type, 23, draw, 0.3) for field in fields]
    together = pa.StructArray.from_arrays(columns, fields=fields)
    path = arrow_columns.write(tmp_path / "all.arrow", together, pa.field("f", together.type), [9], "file")
    wanted = list(plain.flatten(together.to_pylist(), together.type, "f"))
    got = read(path, range(23), nulls={name: NullMask() for name, _, _ in wanted})
    assert len(got) == 2 * len(wanted)
    for name, form, rows in wanted:
        assert listed(got[f"{name}.valid"]) == [plain.valid(row, form) for row in rows], name
        assert element_dtype(got[f"{name}.valid"]) == np.bool_


@pytest.mark.parametrize("form", arrow_columns.FORMATS)
def test_every_type_at_once_in_every_format(form, tmp_path):
    draw = np.random.default_rng(7)
    fields = list(arrow_columns.every_field())
    columns = [arrow_columns.column_of(field.type, 23, draw) for field in fields]
    together = pa.StructArray.from_arrays(columns, fields=fields)
    path = arrow_columns.write(tmp_path / "all.arrow", together, pa.field("f", together.type), [5, 5, 11], form)
    order = draw.permutation(23)
    got = read(path, order)
    assert len(got) == len(fields) > 150
    for name, _, rows in plain.flatten(together.to_pylist(), together.type, "f"):
        assert listed(got[name]) == [rows[row] for row in order], name


def test_a_source_shuffles_lists_texts_and_sparse_vectors_as_it_does_numbers(tmp_path):
    """The path of blocks, kernels and views, instead of `read`."""
    draw = np.random.default_rng(3)
    kinds = {
        "number": pa.int64(),
        "list": pa.list_(pa.float32()),
        "bits": pa.list_view(pa.bool_()),
        "texts": pa.large_list(pa.string_view()),
        "nested": pa.list_(pa.list_(pa.int16())),
    }
    fields = [pa.field(name, kind) for name, kind in kinds.items()]
    vector = pa.struct([("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))])
    fields.append(pa.field("sparse", vector, metadata=arrow_columns.SPARSE))
    columns = [arrow_columns.column_of(field.type, 50, draw) for field in fields]
    together = pa.StructArray.from_arrays(columns, fields=fields)
    path = arrow_columns.write(tmp_path / "s.arrow", together, pa.field("f", together.type), [20, 20, 31], "stream")
    wanted = {name: rows for name, _, rows in plain.flatten(together.to_pylist(), together.type, "f")}
    seen = []
    with MinibatchSource(path, seed=5, sequences="rows", max_sweeps=2) as source:
        for batch in source.minibatches(7):
            seen += batch.rows.tolist()
            for name, rows in wanted.items():
                assert listed(batch[name]) == [rows[row] for row in batch.rows.tolist()], name
    assert sorted(seen) == sorted([*range(50)] * 2)
    assert seen[:50] != seen[50:]


# --- what is refused ----------------------------------------------------------------------------------------------

REFUSED = [
    pa.null(),
    pa.decimal128(5, 2),
    pa.month_day_nano_interval(),
    pa.map_(pa.string(), pa.int32()),
    pa.list_(pa.list_(pa.list_(pa.int8()))),
    pa.list_(pa.list_(pa.int8()), 2),
    pa.list_(pa.string(), 2),
    pa.dictionary(pa.int8(), pa.decimal128(3)),
]


@pytest.mark.parametrize("kind", REFUSED, ids=str)
@pytest.mark.parametrize("wrapped", [False, True])
def test_other_types_are_refused_when_opened_and_may_be_left_out(kind, wrapped, tmp_path):
    bad, name = (pa.struct([("in", kind), ("also", pa.int8())]), "bad.in") if wrapped else (kind, "bad")
    schema = pa.schema([("fine", pa.int64()), ("bad", bad)])
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), schema) as writer:
        writer.write_batch(pa.record_batch([pa.array([1, 2, 3]), pa.nulls(3, bad)], schema=schema))
    with pytest.raises(SchemaError, match=f"field '{name}' has type .*convert it to.*leave it out"):
        Dataset.open(tmp_path)
    with pytest.raises(SchemaError, match=f"field '{name}' has type"):
        Dataset.open(tmp_path, fields=["fine", name])
    dataset = Dataset.open(tmp_path, fields=["fine"])
    assert dataset.read([2, 0], ["fine"])["fine"].tolist() == [3, 1]
    with MinibatchSource(tmp_path, fields=["fine"], shuffle=None, max_sweeps=1) as source:
        assert source.next_minibatch(5)["fine"].tolist() == [1, 2, 3]
        assert len(source.get_checkpoint_state()["fingerprint"]) == 32
    if wrapped:
        assert list(dataset.fields) == ["fine", "bad.also"]


def test_fields_with_nulls_do_not_disturb_who_reads_others(tmp_path):
    schema = pa.schema([("fine", pa.int64()), ("holes", pa.float32())])
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), schema) as writer:
        writer.write_batch(pa.record_batch([pa.array([1, 2]), pa.array([None, 1.0], pa.float32())], schema=schema))
    dataset = Dataset.open(tmp_path)
    assert dataset.read([1, 0], ["fine"])["fine"].tolist() == [2, 1]
    with pytest.raises(SchemaError, match="field 'holes': 1 null"):
        dataset.read([1])


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (pa.uint8(), -1, "its nulls cannot read as -1"),
        (pa.uint8(), 3.5, "its nulls cannot read as 3.5"),
        (pa.int32(), float("nan"), "cannot read as nan"),
        (pa.int32(), "x", "cannot read as 'x'"),
        (pa.string(), b"x", "cannot read as b'x'"),
        (pa.binary(), "x", "cannot read as 'x'"),
        (pa.bool_(), 2, "cannot read as 2"),
        (pa.list_(pa.int8()), 1000, "cannot read as 1000"),
        (pa.list_(pa.int8(), 2), [1, 2], r"cannot read as \[1, 2\]"),
    ],
    ids=str,
)
def test_a_value_that_a_field_cannot_have_is_refused_when_opened(kind, value, message, tmp_path):
    arrow_columns.write(tmp_path / "x.arrow", pa.nulls(2, kind), pa.field("x", kind), [], "file")
    for policy in (value, NullMask(fill=value)):
        with pytest.raises(SchemaError, match=f"field 'x'.*{message}"):
            Dataset.open(tmp_path, nulls={"x": policy})
    with pytest.raises(SchemaError, match="no field 'y' in this data set"):
        Dataset.open(tmp_path, nulls={"y": 0})


def test_values_for_nulls_are_kept_to_the_bit(tmp_path):
    for kind, value in (
        (pa.float32(), float("nan")),
        (pa.float64(), -0.0),
        (pa.uint64(), 2**64 - 1),
        (pa.bool_(), True),
    ):
        arrow_columns.write(tmp_path / "x.arrow", pa.nulls(2, kind), pa.field("x", kind), [], "file")
        got = Dataset.open(tmp_path, nulls={"x": value}).read([0, 1])["x"]
        assert got.tobytes() == np.full(2, value, got.dtype).tobytes()


def test_a_field_whose_name_occurs_twice_is_refused(tmp_path):
    kind = pa.struct([("b", pa.int8())])
    schema = pa.schema([("a", kind), ("a.b", pa.int8())])
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), schema) as writer:
        writer.write_batch(pa.record_batch([pa.nulls(1, kind), pa.nulls(1, pa.int8())], schema=schema))
    with pytest.raises(DatasetError, match=r"the field 'a\.b' occurs more than once"):
        Dataset.open(tmp_path)
