"""CSV and TSV: types, text in every script, and errors that name the line a person sees in the file."""

import numpy as np
import pytest

from minibatch.tools.sources import BadRecord, BadRecords, Options, delimited, delimited_rows, open_source
from tests.tools.samples import converted, rows_of


@pytest.fixture
def table(tmp_path):
    """Writes text (or bytes) as a file and gives its path."""

    def write(content, name="a.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(delimited, "PIECE_BYTES", 16)
    monkeypatch.setattr(delimited_rows, "PIECE_BYTES", 16)


def test_types_are_inferred_and_text_is_kept_as_it_is(table, tmp_path):
    source = table('i,f,b,day,text\n1,1.5,true,2020-01-01,NA\n-2,1e3,false,2020-01-03,"a, ""b""\nc"\n')
    dataset = converted(source, tmp_path / "out")
    read = dataset.read([0, 1])
    assert [read[name].dtype.kind for name in dataset.fields] == ["i", "f", "b", "i", "O"]
    assert read["i"].tolist() == [1, -2]
    assert read["f"].tolist() == [1.5, 1000]
    assert read["b"].tolist() == [True, False]
    assert np.diff(read["day"]).tolist() == [2]
    assert read["text"].tolist() == ["NA", 'a, "b"\nc']


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_byte_order_marks_and_windows_newlines_are_no_part_of_the_data(newline, start, table):
    source = table(start + newline.join(["größe,name", "1,ä", "2,日本", ""]))
    assert rows_of(source) == {"größe": [1, 2], "name": ["ä", "日本"]}


def test_a_tsv_is_cut_at_tabs(table):
    assert rows_of(table("a\tb\n1\tx,y\n", "a.tsv")) == {"a": [1], "b": ["x,y"]}


def test_a_file_of_many_blocks_gives_all_rows_in_order(table, small_blocks):
    source = table("number,name\n" + "".join(f'{i},"n\n{i}"\n' for i in range(1000)))
    rows = rows_of(source)
    assert rows["number"] == list(range(1000))
    assert rows["name"] == [f"n\n{i}" for i in range(1000)]
    assert 500 < open_source(str(source)).rows < 2000


# What is wrong, on which line (counted by hand), and what is said.
LINES = [
    ("a,b\n1,2\n3,4,5\n", 3, "Expected 2 columns, got 3: 3,4,5"),
    ("a,b\n1,2\n3\n", 3, "Expected 2 columns, got 1: 3"),
    ('a,b\n1,"x\ny"\n\n3,z,5\n', 5, "Expected 2 columns, got 3"),
    ("a,b\n1,2\n3,\n", 3, "column 'b' has no value"),
    ("a,b\n1,2\nNA,3\n", 3, "column 'a' has no value"),
    ("a,b\n1,\n2,\n", 2, "column 'b' has no value"),
    ("1,2\n3,4\n", 1, "numbers where the names of the columns should stand"),
    (b"a,b\n1,x\n\n2,\xff\n", 4, "column 'b' is not UTF-8 text.*iconv"),
    ('a,b\n1,"x"\n2,"y\n3,z\n', 3, "a quotation mark opens here and is never closed"),
]


@pytest.mark.parametrize(("content", "line", "said"), LINES)
def test_an_error_names_file_and_line(content, line, said, table):
    with pytest.raises(ValueError, match=rf"a\.csv', line {line}\b.*{said}"):
        rows_of(table(content))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("x,8", "column 'number': 'x' is not int64, which the column is in the first rows"),
        ("1.5,8", "column 'number': '1.5' is not int64"),
        ("1,2,3", "Expected 2 columns, got 3: 1,2,3"),
        (",5", "column 'number' has no value"),
    ],
)
def test_an_error_in_a_later_block_names_its_line_too(bad, said, table, small_blocks):
    good = ['5,"a\nb"', "", "6,cc"]
    source = table("\n".join(["number,text", *good * 50, bad, *good]) + "\n")
    with pytest.raises(ValueError, match=rf"a\.csv', line {1 + 4 * 50 + 1}\b.*{said}"):
        rows_of(source)


def test_text_that_stops_being_utf8_in_a_later_block_is_refused_with_its_line(table, small_blocks):
    source = table(b"number,text\n" + b"1,abc\n" * 50 + b"1,\xff\n")
    with pytest.raises(ValueError, match=r"line 52, column 'text'.*[uU][tT][fF]-?8"):
        rows_of(source)


def test_a_value_too_long_for_the_search_is_still_refused_with_its_record(table):
    with pytest.raises(ValueError, match="line of record 3"):
        rows_of(table(f"a,b\n{'x' * 200_000},2\n3,4,5\n"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty: the first line must name the columns"),
        ("\n\n", "cannot be read as a table"),
        ("a,a\n1,2\n", "more than one column named 'a'"),
        ("a,\n1,2\n", "column 2 has no name"),
        ("a\n12:30:01\n", r"column 'a' is time32\[s\], which is not supported: write it as a number"),
    ],
)
def test_tables_that_make_no_data_set_are_refused(content, said, table):
    with pytest.raises(ValueError, match=rf"a\.csv'.*{said}"):
        rows_of(table(content))


def test_a_file_of_names_alone_has_no_rows(table):
    source = open_source(str(table("a,b\n")))
    assert source.rows == 0
    assert list(source.batches()) == []


def test_types_are_what_the_user_says(table, tmp_path):
    source = table("zip,x,b,h\n01234,1,true,1.5\n56789,255,false,2\n")
    types = ("zip=text", "x=uint8", "h=float16")
    piece = next(open_source(str(source), Options(type=types)).batches())
    assert piece["zip"] == ["01234", "56789"]
    assert [piece[name].dtype for name in ("x", "b", "h")] == ["uint8", "bool", "float16"]
    assert piece["x"].tolist() == [1, 255]
    dataset = converted(source, tmp_path / "out", *[f"--type={each}" for each in types])
    assert dataset.read([1])["zip"].tolist() == ["56789"]


def test_a_given_type_holds_where_the_first_rows_would_mislead(table, small_blocks):
    source = table("a\n" + "1\n" * 30 + "1.5\n")
    with pytest.raises(ValueError, match=r"line 32, column 'a': '1\.5' is not int64.*--type"):
        rows_of(source)
    assert rows_of(source, type=("a=float32",))["a"] == [1.0] * 30 + [1.5]


def test_missing_values_are_filled_when_the_user_says_with_what(table):
    source = table("a,b,c\n1,,x\nNA,2.5,\n")
    assert rows_of(source, fill=("a=-1", "b=0.5")) == {"a": [1, -1], "b": [0.5, 2.5], "c": ["x", ""]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"type": ("c=uint8",)}, "--type c=…: .* has no field 'c'; it has a, b"),
        ({"type": ("a=uint8[2]",)}, "a column of a table holds single values"),
        ({"type": ("a=uint8",)}, "line 3, column 'a': '300' is not uint8"),
        ({"type": ("b=float32",)}, "line 2, column 'b': 'x' is not float"),
        ({"fill": ("a=y",)}, "--fill a=y: the column is int64, which 'y' is not"),
        ({"fill": ("c=y",)}, "--fill c=…: .* has no field 'c'"),
    ],
)
def test_types_and_fills_that_do_not_fit_are_refused(options, said, table):
    with pytest.raises(ValueError, match=said):
        rows_of(table("a,b\n1,x\n300,y\n"), **options)


def test_a_number_beyond_half_precision_is_refused(table):
    with pytest.raises(ValueError, match=r"column 'a': 70000\.0 is beyond float16"):
        rows_of(table("a\n70000\n"), type=("a=float16",))


# A row that is wrong, and what is said of it.
BAD_ROWS = [
    ("1,2,3", "Expected 2 columns, got 3: 1,2,3"),
    ("x,8", "column 'number': 'x' is not int64"),
    ("1.5,8", "column 'number': '1.5' is not int64"),
    (",5", "column 'number' has no value"),
    ("NA,5", "column 'number' has no value"),
    (b"1,\xff", "column 'text' is not UTF-8 text"),
]


@pytest.mark.parametrize(("wrong", "said"), BAD_ROWS)
@pytest.mark.parametrize("before", [2, 50])
def test_bad_rows_are_passed_over_when_that_is_asked_for(wrong, said, before, table, small_blocks):
    good = ['5,"a\nb"', "", " 6,NA"]
    wrong = wrong if isinstance(wrong, bytes) else wrong.encode()
    content = "\n".join(["number,text", *good * before]).encode() + b"\n" + wrong + b"\n"
    source = table(content + "\n".join(good * 40).encode() + b"\n" + wrong + b"\n")
    bad = BadRecords(2)
    found = rows_of(source, bad=bad)
    assert found == {"number": [5, 6] * (before + 40), "text": ["a\nb", "NA"] * (before + 40)}
    lines = [1 + 4 * before + 1, 1 + 4 * before + 1 + 160 + 1]
    assert [(record.where, record.reason) for record in bad.found] == [(f"line {line}", said) for line in lines]
    with pytest.raises(BadRecord, match=f"line {lines[1]}: .*1 bad record before it was skipped"):
        rows_of(source, bad=BadRecords(1))


def test_passing_over_bad_rows_changes_nothing_where_there_are_none(table, tmp_path):
    source = table('i,f,b,day,text\n1,1.5,true,2020-01-01,NA\n-2,1e3,false,2020-01-03,"a, ""b"""\n')
    assert rows_of(source, bad=BadRecords(9)) == rows_of(source)
    one = converted(source, tmp_path / "one")
    assert converted(source, tmp_path / "two", "--max-errors", 9).fingerprint == one.fingerprint


def test_every_kind_of_column_survives_a_bad_row(table):
    good = 'i,f,b,day,text\n1,1.5,true,2020-01-01,NA\n-2,1e3,false,2020-01-03,"a, ""b"""\n'
    bad = BadRecords(1)
    assert rows_of(table(good + "1,2,3\n"), bad=bad) == rows_of(table(good))
    assert len(bad.found) == 1
