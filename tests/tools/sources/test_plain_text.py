"""Plain text: lines, paragraphs and files, as text, bytes and characters; nothing lost, nothing added."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch.ragged import Ragged
from minibatch.tools import sources
from minibatch.tools.sources import BadRecord, BadRecords, Options, open_source
from tests.tools.samples import DATA, converted, write_files

TEXT = "äb\r\n\r\n\nc d\ne\n \nf"


@pytest.fixture
def text(tmp_path):
    def write(content, name="a.txt"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / name)

    return write


def rows(path, **options):
    """The rows of the field `text`: str, or lists of numbers."""
    found = []
    for piece in open_source(str(path), Options(**options)).batches():
        column = piece["text"]
        found += [part.tolist() for part in column] if isinstance(column, Ragged) else column
    return found


def spelled(path, **options):
    """The rows of characters as text again, by the vocabulary."""
    source = open_source(str(path), Options(text_as="characters", **options))
    vocabulary = json.loads(source.metadata["text"]["vocabulary"])
    assert vocabulary == sorted(set(vocabulary))
    return ["".join(vocabulary[place] for place in row) for row in rows(path, text_as="characters", **options)]


EXPECTED = {
    "line": ["äb", "", "", "c d", "e", " ", "f"],
    "paragraph": ["äb", "c d\ne", "f"],
    "file": [TEXT],
}


@pytest.mark.parametrize("size", [1, 12, 2**23])
@pytest.mark.parametrize("row_per", EXPECTED)
def test_a_row_is_a_line_a_paragraph_or_a_file_in_every_form(row_per, size, text, monkeypatch):
    monkeypatch.setattr(sources, "PIECE_BYTES", size)
    path = text(TEXT)
    expected = EXPECTED[row_per]
    assert rows(path, row_per=row_per) == expected
    assert [bytes(row).decode() for row in rows(path, row_per=row_per, text_as="bytes")] == expected
    assert spelled(path, row_per=row_per) == expected
    assert open_source(path, Options(row_per=row_per)).rows == len(expected)


def test_rows_of_a_size_end_to_end_are_the_file(text):
    path = text(TEXT)
    for size in (1, 4, 5, 1000):
        by_bytes = rows(path, text_as="bytes", row_tokens=size)
        assert b"".join(map(bytes, by_bytes)) == TEXT.encode()
        assert {len(row) for row in by_bytes[:-1]} <= {size}
        by_characters = spelled(path, row_tokens=size)
        assert "".join(by_characters) == TEXT
        assert {len(row) for row in by_characters[:-1]} <= {size}
        assert open_source(path, Options(text_as="characters", row_tokens=size)).rows == len(by_characters)


@pytest.mark.parametrize("size", [1, 7, 2**23])
def test_the_parts_of_a_text_are_all_of_it_and_have_one_vocabulary(size, text, monkeypatch):
    monkeypatch.setattr(sources, "PIECE_BYTES", size)
    path = text(TEXT)
    for share in (0.5, 10, 33, 62.5, 90):
        first, last = f"first:{share}%", f"last:{100 - share}%"
        for row_tokens in (1, 4, 1000):
            begin, end = (spelled(path, row_tokens=row_tokens, subset=part) for part in (first, last))
            assert "".join(begin) == TEXT[: int(len(TEXT) * share / 100)]
            assert "".join(begin + end) == TEXT
        for form in ("text", "bytes"):
            parts = [rows(path, subset=part, text_as=form) for part in (first, last)]
            assert parts[0] + parts[1] == rows(path, text_as=form)
            assert len(parts[0]) == int(7 * share / 100)
    whole = open_source(path, Options(text_as="characters"))
    for subset in ("first:1", "last:1"):
        part = open_source(path, Options(text_as="characters", subset=subset))
        assert (part.metadata, part.rows, whole.rows) == (whole.metadata, 1, 7)
    assert rows(path, subset="last:2") == [" ", "f"]
    assert rows(path, subset="first:100") == EXPECTED["line"]
    assert "first 90% of it" in open_source(path, Options(subset="first:90%")).describe()


def test_a_bad_row_of_another_part_is_nobodys_fault(text):
    path = text(b"a\nb\n\xff\n")
    assert rows(path, subset="first:2") == ["a", "b"]
    with pytest.raises(ValueError, match="line 3: it is not UTF-8"):
        rows(path, subset="last:1")


@given(st.text(alphabet="ab ä\n\r\u2028\x85😀", max_size=40), st.sampled_from([1, 5, 40, 2**23]), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_every_text_is_cut_at_newlines_and_nowhere_else(tmp_path_factory, content, size, row):
    path = tmp_path_factory.getbasetemp() / "property.txt"
    path.write_bytes(content.encode())
    lines = content.split("\n")
    lines = [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]
    before, sources.PIECE_BYTES = sources.PIECE_BYTES, 4 * size
    try:
        assert rows(path) == lines
        assert "".join(spelled(path, row_tokens=row)) == content
        assert rows(path, row_per="file") == [content]
    finally:
        sources.PIECE_BYTES = before


def test_the_numbers_of_characters_are_as_small_as_can_be(text):
    for count, dtype in [(256, np.uint8), (257, np.uint16)]:
        path = text("".join(map(chr, range(0x4E00, 0x4E00 + count))))
        assert next(open_source(path, Options(text_as="characters")).batches())["text"].dtype == dtype


def test_packed_text_and_byte_order_marks_are_taken_off(text):
    assert rows(text(gzip.compress(b"a\nb\n"), "a.txt.gz")) == ["a", "b"]
    assert rows(text("\ufeffa\nb\n")) == ["a", "b"]
    with pytest.raises(ValueError, match="is UTF-16 text: re-encode it with `iconv"):
        rows(text("a\n".encode("utf-16")))


@pytest.mark.parametrize("form", ["text", "characters"])
def test_a_row_that_is_not_utf8_is_named_by_its_line_and_can_be_passed_over(form, text):
    path = text(b"ok\n\nx\xff\nfine\n")
    with pytest.raises(BadRecord, match=r"a\.txt', line 3: it is not UTF-8 .*iconv"):
        rows(path, text_as=form)
    with pytest.raises(BadRecord, match="line 3: "):
        rows(path, text_as=form, row_per="file")
    bad = BadRecords(1)
    assert len(rows(path, text_as=form, bad=bad)) == 3
    assert [record.where for record in bad.found] == ["line 3"]
    assert bytes(rows(path, text_as="bytes")[2]) == b"x\xff"


def test_a_folder_gives_its_files_in_sorted_order_with_their_names(tmp_path):
    folder = write_files(tmp_path / "books", {"b.txt": b"B\n", "a/x": b"1\n2", ".hidden": b"no", "a-b": b""})
    options = Options(format="text", row_per="file")
    pieces = list(open_source(str(folder), options).batches())
    assert [(piece["file"], piece["text"]) for piece in pieces] == [
        (["a/x"], ["1\n2"]),
        (["a-b"], [""]),
        (["b.txt"], ["B\n"]),
    ]
    assert rows(folder, format="text") == ["1", "2", "B"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"row_per": "word"}, "--row-per word: expected line, paragraph, file"),
        ({"text_as": "tokens"}, "--text-as tokens: expected text, bytes, characters"),
        ({"row_tokens": 4}, "give --text-as bytes or characters, no --row-per"),
        ({"row_tokens": 4, "text_as": "bytes", "row_per": "line"}, "no --row-per"),
        ({"row_tokens": 0, "text_as": "bytes"}, "expected at least 1"),
        ({"subset": "train"}, "--subset train: expected first:90%, last:10%"),
        ({"subset": "first:0%"}, "--subset first:0%: expected"),
        ({"subset": "last:101%"}, "--subset last:101%: expected"),
        ({"subset": "last:0"}, "--subset last:0: expected"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said, text):
    with pytest.raises(ValueError, match=said):
        rows(text("a\n"), **options)


@pytest.mark.skipif(not (DATA / "tinyshakespeare.txt").exists(), reason="tinyshakespeare.txt is not there")
def test_shakespeare_becomes_rows_of_characters_and_comes_back(tmp_path):
    path = DATA / "tinyshakespeare.txt"
    dataset = converted(path, tmp_path / "out", "--text-as", "characters", "--row-tokens", 1000)
    content = path.read_text(encoding="utf-8")
    vocabulary = json.loads(dataset.fields["text"].metadata["vocabulary"])
    assert vocabulary == sorted(set(content))
    read = dataset.read(np.arange(len(dataset)))["text"]
    assert read.dtype == np.uint8
    assert "".join(np.array(vocabulary)[read.values]) == content


def test_a_percentage_in_other_digits_is_refused(text):
    path = text("a\nb\n")
    with pytest.raises(ValueError, match="expected first:90%"):
        open_source(path, Options(subset="first:٣%"))
