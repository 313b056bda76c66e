"""JSON lines: types settled over the whole file, lists, nested objects, and errors that name the line."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch.ragged import Ragged
from minibatch.tools import sources
from minibatch.tools.sources import BadRecord, BadRecords, Options, open_source
from tests.tools.samples import converted


@pytest.fixture
def lines(tmp_path):
    """Writes lines as a file and gives its path."""

    def write(*texts, name="a.jsonl"):
        content = b"".join((text if isinstance(text, bytes) else text.encode()) + b"\n" for text in texts)
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(tmp_path / name)

    return write


def rows(path, **options):
    """All rows: field → list of plain Python values."""
    found = {}
    for piece in open_source(str(path), Options(**options)).batches():
        for name, column in piece.items():
            found.setdefault(name, []).extend(listed(column))
    return found


def listed(column):
    if isinstance(column, Ragged):
        return [listed(part) for part in column]
    return column if isinstance(column, list) else column.tolist()


def test_values_become_fields_of_their_kind(lines):
    source = lines(
        '{"i": 1, "f": 1.5, "b": true, "t": "ä", "day": "2020-01-01", "l": [1, 2], "n": [[1], [2.5, 3]], "w": ["x"]}',
        '{"i": -2, "f": 2, "b": false, "t": "", "day": "2020-01-02", "l": [], "n": [], "w": ["y", "z"]}',
    )
    assert rows(source) == {
        "i": [1, -2],
        "f": [1.5, 2.0],
        "b": [True, False],
        "t": ["ä", ""],
        "day": ["2020-01-01", "2020-01-02"],
        "l": [[1, 2], []],
        "n": [[[1.0], [2.5, 3.0]], []],
        "w": [["x"], ["y", "z"]],
    }
    piece = next(open_source(source).batches())
    assert [piece[name].dtype for name in ("i", "f", "b", "l", "n")] == ["int64", "float64", "bool", "int64", "float64"]


def test_objects_inside_become_dotted_names(lines):
    source = lines('{"user": {"age": 3, "at": {"x": 1}}, "z": 0}', '{"z": 1, "user": {"at": {"x": 2}, "age": 4}}')
    assert rows(source) == {"user.age": [3, 4], "user.at.x": [1, 2], "z": [0, 1]}


@pytest.mark.parametrize("size", [4, 80, 2**23])
def test_types_are_those_of_the_whole_file_not_of_its_beginning(size, lines, monkeypatch):
    monkeypatch.setattr(sources, "PIECE_BYTES", size)
    texts = ['{"a": 1, "b": [], "c": "2020-01-01"}'] * 20 + ['{"a": 1.5, "b": [2], "c": "no day"}']
    found = rows(lines(*texts))
    assert found == {"a": [1.0] * 20 + [1.5], "b": [[]] * 20 + [[2]], "c": ["2020-01-01"] * 20 + ["no day"]}
    assert all(isinstance(value, float) for value in found["a"])


@pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.gz", "a.ndjson"])
def test_packed_files_are_unpacked(name, lines):
    assert rows(lines('{"a": 1}', '{"a": 2}', name=name)) == {"a": [1, 2]}


def test_a_packed_file_that_is_cut_short_is_named(lines, tmp_path):
    path = lines('{"a": 1}', name="a.jsonl.gz")
    with open(path, "rb+") as file:
        file.truncate(12)
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz' cannot be unpacked"):
        rows(path)


def test_types_and_shapes_are_what_the_user_says(lines):
    source = lines(
        '{"a": 1, "v": [1, 2, 3, 4], "m": [[1, 2], [3, 4]]}', '{"a": 2, "v": [5, 6, 7, 8], "m": [[5, 6], [7, 8]]}'
    )
    piece = next(open_source(source, Options(type=("a=uint8", "v=float32[2,2]", "m=int16[2,2]"))).batches())
    assert {name: (column.dtype, column.shape) for name, column in piece.items()} == {
        "a": (np.uint8, (2,)),
        "v": (np.float32, (2, 2, 2)),
        "m": (np.int16, (2, 2, 2)),
    }
    assert piece["v"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert piece["m"].tolist() == piece["v"].tolist()


def test_missing_values_are_filled_when_the_user_says_with_what(lines):
    source = lines('{"a": 1, "t": "x", "l": [1]}', "{}", '{"a": null, "t": null, "l": null}')
    assert rows(source, fill=("a=-1", "t=none", "l=[]")) == {
        "a": [1, -1, -1],
        "t": ["x", "none", "none"],
        "l": [[1], [], []],
    }
    assert rows(lines('{"a": null}', "{}"), type=("a=float32",), fill=("a=2.5",)) == {"a": [2.5, 2.5]}


def test_whole_numbers_beyond_float64_are_never_rounded(lines):
    large = 2**63 + 1
    source = lines(f'{{"id": {large}}}', '{"id": 1}')
    with pytest.raises(
        BadRecord, match=r"line 1: 'id' holds a whole number that float64 would round.*--type id=uint64"
    ):
        rows(source)
    assert rows(source, type=("id=uint64",)) == {"id": [large, 1]}
    assert rows(lines(f'{{"id": {2**62 + 1}}}')) == {"id": [2**62 + 1]}
    with pytest.raises(BadRecord, match="line 2: 'id' holds a whole number that float64 would round"):
        rows(lines('{"id": 1.5}', f'{{"id": {2**53 + 1}}}'))
    assert rows(lines('{"id": 1e300}')) == {"id": [1e300]}


GOOD = '{"a": 1, "b": [1, 2]}'
WRONG = [
    ('{"a": "x", "b": [1]}', "'a' is text here, but whole numbers in lines before it"),
    ('{"a": 1, "b": 1}', "'b' is whole numbers here, but a list in lines before it"),
    ('{"a": 1, "b": ["x"]}', "is text here, but whole numbers in lines before it"),
    ('{"a": 1, "b": [1]', "it is not JSON: Expecting ',' delimiter at column 18"),
    ('{"a": 1, "b": [1]} {"a": 1, "b": [1]}', "it is not JSON: Extra data at column 20"),
    ("[1]", "it is a JSON array, expected an object"),
    ("17", "it is a JSON number, expected an object"),
    ('{"a": 1, "a": 2, "b": []}', "was specified twice"),
    (b'{"a": 1, "b": [1], "\xff": 1}', "it cannot be read: 'utf-8' codec can't decode byte 0xff"),
    ('{"a": 1}', "'b' is missing or null; --fill b=VALUE fills it"),
    ('{"a": null, "b": []}', "'a' is missing or null; --fill a=VALUE fills it"),
    ('{"a": 1, "b": [null]}', "a list in 'b' holds null"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
@pytest.mark.parametrize("before", [1, 7])
def test_a_bad_line_is_an_error_that_names_it_and_can_be_passed_over(wrong, said, before, lines):
    source = lines(*[GOOD] * before, "", wrong, *[GOOD] * 3)
    with pytest.raises(BadRecord, match=rf"a\.jsonl', line {before + 2}: ") as error:
        rows(source)
    assert said in error.value.reason
    bad = BadRecords(1)
    assert rows(source, bad=bad) == {"a": [1] * (before + 3), "b": [[1, 2]] * (before + 3)}
    assert [record.where for record in bad.found] == [f"line {before + 2}"]


@pytest.mark.parametrize(
    ("wrong", "type_", "said"),
    [
        ('{"a": 256, "b": []}', "a=uint8", "'a' holds 256, which is no uint8"),
        ('{"a": -1, "b": []}', "a=uint8", "'a' holds -1, which is no uint8"),
        ('{"a": 1, "b": [1, 2, 70000]}', "b=int16", "'b' holds 70000, which is no int16"),
        ('{"a": 1, "b": [1]}', "b=int16[2]", r"'b' has not the shape \[2\]"),
    ],
)
def test_a_value_that_its_type_cannot_hold_is_an_error(wrong, type_, said, lines):
    source = lines(GOOD, GOOD, wrong, GOOD)
    with pytest.raises(BadRecord, match=f"line 3: {said}"):
        rows(source, type=(type_,))
    bad = BadRecords(1)
    assert len(rows(source, type=(type_,), bad=bad)["a"]) == 3


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        (['[{"a": 1}, {"a": 2}]'], {}, "is one JSON array, not an object per line.*jq"),
        (['{"a": null}'], {}, "field 'a' holds no value at all: give its type with --type a=DTYPE"),
        (['{"a": []}'], {}, "field 'a' holds empty lists only"),
        (['{"a": [{"b": 1}]}'], {}, "field 'a' holds lists of objects"),
        (['{"a": [[[1]]]}'], {}, "field 'a' holds lists of lists 3 deep"),
        (['{"a.b": 1, "a": {"b": 2}}'], {}, r"two fields named 'a\.b'"),
        (['{"": 1}'], {}, "a key without a name"),
        ([GOOD], {"type": ("c=uint8",)}, "has no field 'c'; it has a, b"),
        ([GOOD], {"type": ("a=text",)}, "--type a=text: .* holds numbers"),
        ([GOOD], {"type": ("a=uint8[2]",)}, "holds single values, which do not have this shape"),
        ([GOOD], {"type": ("a=uint8", "a=int8")}, "--type is given twice for 'a'"),
        ([GOOD], {"type": ("uint8",)}, "expected FIELD="),
        ([GOOD], {"type": ("a=uint7",)}, "'uint7' is no type; expected bool, int8"),
        ([GOOD], {"fill": ("a=x",)}, "--fill a=x: expected int64"),
        ([GOOD], {"fill": ("b=3",)}, r"--fill b=3: expected an empty list, \[\]"),
    ],
)
def test_what_makes_no_data_set_is_refused_with_what_to_do(texts, options, said, lines):
    with pytest.raises(ValueError, match=said):
        rows(lines(*texts), **options)


values = st.fixed_dictionaries(
    {
        "i": st.integers(-(2**63), 2**63 - 1),
        "f": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
        "t": st.text(),
        "o": st.fixed_dictionaries({"b": st.booleans(), "ü": st.lists(st.integers(-100, 100))}),
        "n": st.lists(st.lists(st.floats(-10, 10, width=32), max_size=3), max_size=3),
    }
)


@given(st.lists(values, min_size=1, max_size=8), st.sampled_from([20, 400, 2**23]), st.booleans())
@settings(max_examples=80, deadline=None)
def test_every_file_is_read_as_the_json_module_reads_it(tmp_path_factory, objects, size, escaped):
    # One row with an element in every list settles their types.
    objects = [*objects, {"i": 0, "f": 0.5, "t": "", "o": {"b": True, "ü": [1]}, "n": [[0.5]]}]
    path = tmp_path_factory.getbasetemp() / "property.jsonl"
    path.write_text("".join(json.dumps(each, ensure_ascii=escaped) + "\n" for each in objects), encoding="utf-8")
    before, sources.PIECE_BYTES = sources.PIECE_BYTES, size
    try:
        found = rows(path)
    finally:
        sources.PIECE_BYTES = before
    assert found["i"] == [each["i"] for each in objects]
    assert found["f"] == [each["f"] for each in objects]
    assert found["t"] == [each["t"] for each in objects]
    assert found["o.b"] == [each["o"]["b"] for each in objects]
    assert found["o.ü"] == [each["o"]["ü"] for each in objects]
    assert found["n"] == [each["n"] for each in objects]


def test_a_data_set_of_it_gives_its_values_back(lines, tmp_path):
    texts = [json.dumps({"t": f"x{i}", "l": list(range(i % 4)), "n": [[i], []], "u": {"v": i / 2}}) for i in range(50)]
    dataset = converted(lines(*texts), tmp_path / "out", "--chunk-rows", 7, "--type", "l=uint8")
    read = dataset.read([49, 3])
    assert dataset.fields["l"].dtype == np.uint8
    assert [part.tolist() for part in read["l"]] == [[0], [0, 1, 2]]
    assert read["t"].tolist() == ["x49", "x3"]
    assert read["u.v"].tolist() == [24.5, 1.5]
    assert [[inner.tolist() for inner in part] for part in read["n"]] == [[[49], []], [[3], []]]
