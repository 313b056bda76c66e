"""CNTK text format: the rules of CNTK's parser, against a twin that reads word by word, and on ATIS."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minibatch.ragged import Ragged
from minibatch.sparse import Sparse
from minibatch.tools import sources
from minibatch.tools.sources import BadRecord, BadRecords, Options, open_source
from tests.plain import ctf as plain
from tests.tools.samples import DATA, converted, program

ATIS = [DATA / "atis.train.ctf", DATA / "atis.test.ctf"]


@pytest.fixture
def ctf(tmp_path):
    """Writes text as a file and gives its path."""

    def write(text):
        (tmp_path / "a.ctf").write_bytes(text.encode())
        return str(tmp_path / "a.ctf")

    return write


def rows(path, **options):
    """All rows: field → list; a dense sample as a number or list, a sparse one as a list of (index, value)."""
    found = {}
    for piece in open_source(path, Options(**options)).batches():
        for name, column in piece.items():
            found.setdefault(name, []).extend(listed(column))
    return found


def listed(column):
    if isinstance(column, Ragged):
        return [listed(part) for part in column]
    if isinstance(column, Sparse):
        return [list(zip(*map(np.ndarray.tolist, row), strict=True)) for row in column]
    return column.tolist()


def test_dense_streams_of_single_samples_become_plain_fields(ctf):
    source = ctf("|x 1 2 3 |y 4\n|y -5e-1 |x .5\n")
    piece = next(open_source(source).batches())
    assert {name: (column.dtype, column.shape) for name, column in piece.items()} == {
        "x": (np.float32, (2, 3)),
        "y": (np.float32, (2,)),
    }
    assert rows(source) == {"x": [[1, 2, 3], [0.5, 0, 0]], "y": [4, -0.5]}


def test_one_hot_streams_become_class_numbers_with_their_count(ctf):
    source = ctf("7 |w 4:1 |c 2:1\n7 |w 0:1\n8 |w 3:1 |c 0:1\n")
    opened = open_source(source)
    assert opened.metadata == {"w": {"num_classes": "5"}, "c": {"num_classes": "3"}}
    assert rows(source) == {"w": [[4, 0], [3]], "c": [2, 0]}
    assert next(opened.batches())["c"].dtype == np.int64
    assert opened.rows == 2


def test_other_sparse_streams_become_sparse_features(ctf):
    source = ctf("1 |w 4:1 0:2 |f 2:0.5\n1 |w\n2 |w 1:1 |f 0:1\n")
    piece = next(open_source(source).batches())
    assert isinstance(piece["w"], Ragged)
    assert isinstance(piece["w"].values, Sparse)
    assert (piece["w"].values.width, piece["f"].width) == (5, 3)
    assert rows(source) == {"w": [[[(0, 2), (4, 1)], []], [[(1, 1)]]], "f": [[(2, 0.5)], [(0, 1)]]}


# CNTK's own behaviour, observed: what a file means, as the values of its one stream by sequence.
RULES = {
    "without an id in the first line ids mean nothing": ("|S0 1\n5 |S0 2\n5 |S0 3\n", [1, 2, 3]),
    "a line without an id joins the former": ("5 |S0 1\n|S0 2\n6 |S0 3\n", [[1, 2], [3]]),
    "an id that comes again begins another sequence": ("1 |S0 1\n2 |S0 2\n1 |S0 3\n", [1, 2, 3]),
    "a last line without a newline is a line": ("1 |S0 1\n1 |S0 2", [[1, 2]]),
    "too few values are filled up with zeros": ("|S0 1 2\n|S0 3\n|S0\n", [[1, 2], [3, 0], [0, 0]]),
    "comments end at the next bar or the line's end": ("|# a 1:2 |S0 1 |# |#|# b\n|S0 2|#c\n", [1, 2]),
    "Windows line ends, tabs and spaces separate": ("1\t|S0  1\t2 \r\n2 |S0 3\t\r\n", [[1, 2], [3, 0]]),
    "a byte order mark is no part of the first line": ("\ufeff1 |S0 1\n1 |S0 2\n", [[1, 2]]),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_of_cntk(rule, ctf):
    text, expected = RULES[rule]
    assert rows(ctf(text)) == {"S0": expected}


def test_only_the_streams_that_are_asked_for_are_taken_under_the_names_that_are_given(ctf):
    source = ctf("|a 1 |b 2:1 |c 3 4\n|c 5 |b 0:1 |typo 1:2:3\n")
    assert rows(source, stream=("point=c:2:dense", "b:7:sparse"), type=("b=uint8", "point=int16")) == {
        "point": [[3, 4], [5, 0]],
        "b": [2, 0],
    }
    piece = next(open_source(source, Options(stream=("c",), type=("c=int16",))).batches())
    assert piece["c"].dtype == np.int16


def test_what_is_given_need_not_be_found_out(ctf):
    source = ctf("1 |w 4:1\n2 |w 3:1\n")
    opened = open_source(source, Options(stream=("w:9:features:sequence",)))
    assert opened.rows is None
    assert {(piece["w"].values.width, *piece["w"].lengths.tolist()) for piece in opened.batches()} == {(9, 1)}
    assert rows(source, stream=("w:9:features:sequence",)) == {"w": [[[(4, 1)]], [[(3, 1)]]]}
    assert rows(source, stream=("w:9:ids:sequence",)) == {"w": [[4], [3]]}


def test_ids_are_kept_as_a_field_when_asked_for(ctf):
    assert rows(ctf("30 |a 1\n30 |a 2\n|a 3\n7 |a 4\n"), key="id")["id"] == [30, 7]
    assert rows(ctf("|a 1\n9 |a 2\n"), key="id")["id"] == [0, 1]


# A file, the line that is wrong, and what is said.
WRONG = [
    ("|S0 1\n|S0 x\n", 2, "'x' in stream 'S0' is not a number"),
    ("|S0 1\n|S0 nan\n", 2, "'nan' in stream 'S0' is not a number"),
    ("|S0 1\n|S0 1_0\n", 2, "'1_0' in stream 'S0' is not a number"),
    ("|S0 1\n|S0 1e999\n", 2, "'1e999' in stream 'S0' is not a number"),
    ("|S0 1\n|S0 2:1\n", 2, "expected to hold numbers, but holds index:value"),
    ("|S0 1:1\n|S0 2\n", 2, "expected to hold index:value, but holds a number"),
    ("|S0 1:1\n|S0 -2:1\n", 2, "'-2:1' in stream 'S0' is not index:value"),
    ("|S0 1:1\n|S0 2:\n", 2, "'2:' in stream 'S0' is not index:value"),
    ("|S0 1:1\n|S0 1:2:3\n", 2, "'1:2:3' in stream 'S0' is not index:value"),
    ("|S0 1\n\n|S0 2\n", 2, "the line is blank"),
    ("|S0 1\n \t\r\n|S0 2\n", 2, "the line is blank"),
    ("|S0 1\nS0 2\n", 2, "the line has no '|'"),
    ("|S0 1\nx |S0 2\n", 2, "'x' stands where a sequence id or '|' is expected"),
    ("1 |S0 1\n2 3 |S0 2\n", 2, "'3' stands where a sequence id"),
    ("|S0 1\n| S0 2\n", 2, "a '|' is followed by no name"),
    ("|S0 1\n|S0 2 |\n", 2, "a '|' is followed by no name"),
    ("|S0 1 |S1 2\n|S0 2\n", 2, "the sequence that begins here has no stream 'S1'"),
    ("1 |S0 1\n1 |# only a comment\n", 1, "has 2 lines, but its longest stream has 1 samples"),
    ("1 |S0 1 |S0 2\n", 1, "has 1 lines, but its longest stream has 2 samples"),
]


@pytest.mark.parametrize(("text", "line", "said"), WRONG)
def test_a_bad_line_is_an_error_that_names_it(text, line, said, ctf):
    with pytest.raises(BadRecord, match=rf"a\.ctf', line {line}: ") as error:
        rows(ctf(text))
    assert said in error.value.reason


@pytest.mark.parametrize(
    ("text", "stream", "line", "said"),
    [
        ("|a 1\n|a 1 2 3\n", "a:2:dense:single", 2, "has 3 values, expected at most 2"),
        ("|a 1:1\n|a 5:1\n", "a:5:sparse", 2, "has index 5, expected 0 to 4"),
        ("|a 1:1\n|a 3:2\n", "a:5:ids:single", 2, "expected to hold one index with value 1"),
        ("|a 1:1\n|a 3:1 4:1\n", "a:5:ids", 2, "expected to hold one index with value 1"),
        ("|a 1:1\n|a\n", "a:5:ids", 2, "expected to hold one index with value 1"),
        ("1 |a 1:1\n2 |a 1:1\n2 |a 1:1\n", "a:5:ids:single", 2, "has 2 samples of stream 'a', expected one"),
        ("|a 1\n|a 2:1\n", "a:5:sparse", 1, "expected to hold index:value"),
    ],
)
def test_what_does_not_fit_a_given_stream_is_an_error(text, stream, line, said, ctf):
    with pytest.raises(BadRecord, match=rf"line {line}: ") as error:
        rows(ctf(text), stream=(stream,))
    assert said in error.value.reason


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "names no stream"),
        ("a:0", "'0' is no width and none of dense"),
        ("a:3:spares", "'spares' is no width and none of dense"),
        ("a:3:4", "says its width twice"),
        ("a b:3", "names no stream"),
    ],
)
def test_a_stream_that_makes_no_sense_is_refused_with_an_example(given, said, ctf):
    with pytest.raises(ValueError, match=rf"{said}.*S0:943:sparse"):
        rows(ctf("|a 1\n"), stream=(given,))


def test_names_and_types_that_make_no_data_set_are_refused(ctf):
    source = ctf("|a 1 |b 300:1\n")
    for options, said in [
        ({"stream": ("a", "a=b")}, "two fields would be named 'a'"),
        ({"key": "b"}, "two fields would be named 'b'"),
        ({"stream": ("c",)}, "the sequence that begins here has no stream 'c'"),
        ({"type": ("b=uint8",)}, "the class numbers of 301 classes need wider integers"),
        ({"type": ("b=float32",)}, "need wider integers"),
        ({"type": ("c=float32",)}, "has no field 'c'; it has a, b"),
        ({"type": ("a=text",)}, "'a' of .* is one number of a kind"),
    ]:
        with pytest.raises(ValueError, match=said):
            rows(source, **options)
    with pytest.raises(ValueError, match="holds no stream"):
        rows(ctf("no bar here\n"))


def test_a_value_that_its_dtype_cannot_hold_is_an_error(ctf):
    with pytest.raises(BadRecord, match=r"line 2: stream 'a' has the value 256, which is no uint8"):
        rows(ctf("|a 255\n|a 256\n"), type=("a=uint8",))


def test_bad_sequences_are_passed_over_whole_when_that_is_asked_for(ctf):
    source = ctf("1 |a 1\n1 |a x\n\n2 |a 2\n3 |a 3 4:4\n2 |a 5\n2 |a 6\n4 |b 7\n")
    bad = BadRecords(4)
    assert rows(source, stream=("a",), bad=bad, key="id") == {"a": [[2], [5, 6]], "id": [2, 2]}
    assert sorted(record.where for record in bad.found) == ["line 2", "line 3", "line 5", "line 8"]
    with pytest.raises(BadRecord, match="3 bad records before it were skipped, no more may be"):
        rows(source, stream=("a",), bad=BadRecords(3))


@pytest.mark.parametrize("size", [1, 7, 40, 400])
def test_the_size_of_the_blocks_changes_nothing(size, ctf, monkeypatch):
    lines = [f"{i // 3} |a {i} {i / 2} |b {i % 5}:1 {i % 5 + 1}:2 |c {i % 4}:1\n" for i in range(60)]
    source = ctf("".join(lines))
    expected = rows(source, key="id")
    assert expected["id"] == list(range(20))
    monkeypatch.setattr(sources, "PIECE_BYTES", 4 * size)
    assert rows(source, key="id") == expected


words = st.sampled_from(["1", "0", "-2.5", "+3", "1e2", ".5", "0:1", "1:1", "3:2", "4:-1", "5:1", "x", "1:", ":2", "7"])
segments = st.builds(
    lambda name, gap, words: f"|{name}{gap}{' '.join(words)}",
    st.sampled_from(["D", "S", "DD", "#", "# S 1:1", "", "E"]),
    st.sampled_from([" ", "\t", "  "]),
    st.lists(words, max_size=3),
)
good_lines = st.builds(
    lambda key, dense, sparse: f"{key} |D {dense} |S {sparse}",
    st.sampled_from(["", "1", "2", "33"]),
    st.sampled_from(["1", "1 2", "", "1 2 3"]),
    st.sampled_from(["0:1", "4:2 1:1", ""]),
)
any_lines = st.builds(
    lambda head, segments: head + "".join(segments),
    st.sampled_from(["", "1 ", "2 ", "2\t", "a ", "1 2 "]),
    st.lists(segments, max_size=3),
)


@given(
    st.lists(st.one_of(good_lines, good_lines, any_lines, st.sampled_from(["", " "])), max_size=12),
    st.sampled_from([1, 8, 1000]),
)
@example(["1 |D 1 |S 0:1", "", "|D 2 |S 1:1", "1 |D x |S"], 8)
@example(["2 |D |S", "1 |D 3 |S 9:9", "2 |D 1 |S"], 1)
@settings(max_examples=150, deadline=None)
def test_every_file_means_what_its_words_mean_one_by_one(tmp_path_factory, lines, size):
    text = "".join(f"{line}\n" for line in lines)
    path = tmp_path_factory.getbasetemp() / "property.ctf"
    path.write_text(text)
    expected, bad_lines = plain.read(text, {"D": 3, "S": -5})
    bad = BadRecords(99)
    options = Options(stream=("D:3:dense:sequence", "S:5:features:sequence"), key="id", bad=bad)
    before, sources.PIECE_BYTES = sources.PIECE_BYTES, 4 * size
    try:
        found = {"D": [], "S": [], "id": []}
        for piece in open_source(str(path), options).batches():
            for name, column in piece.items():
                found[name] += listed(column)
    finally:
        sources.PIECE_BYTES = before
    assert found["id"] == [sequence.key for sequence in expected]
    assert found["D"] == [sequence.samples["D"] for sequence in expected]
    assert found["S"] == [[sorted(sample.items()) for sample in sequence.samples["S"]] for sequence in expected]
    assert sorted(int(record.where.removeprefix("line ")) for record in bad.found) == bad_lines


@pytest.mark.skipif(not ATIS[0].exists(), reason="the ATIS files are not there")
def test_atis_is_read_as_its_lines_say():
    train, test = (open_source(str(path)) for path in ATIS)
    assert (train.rows, test.rows) == (4978, 893)
    assert train.metadata == {"S0": {"num_classes": "943"}, "S1": {"num_classes": "26"}, "S2": {"num_classes": "129"}}
    found = {}
    for piece in train.batches():
        for name, column in piece.items():
            found.setdefault(name, []).extend(listed(column))
    # Read by hand: the first query, "BOS i want to fly from boston at 838 am …", a flight.
    assert found["S0"][0][:10] == [178, 479, 902, 851, 431, 444, 266, 240, 168, 210]
    assert found["S1"][0] == 14
    assert found["S2"][0][:10] == [128, 128, 128, 128, 128, 128, 48, 128, 35, 100]
    expected, bad = plain.read(ATIS[0].read_text(), {"S0": -943, "S1": -26, "S2": -129})
    assert bad == []
    for name in ("S0", "S2"):
        assert found[name] == [[next(iter(sample)) for sample in sequence.samples[name]] for sequence in expected]
    assert found["S1"] == [next(iter(sequence.samples["S1"][0])) for sequence in expected]


@pytest.mark.skipif(not ATIS[1].exists(), reason="the ATIS files are not there")
def test_atis_becomes_a_data_set_that_gives_its_sequences_back(tmp_path):
    streams = [f"--stream={stream}" for stream in ("S0:943:sparse", "S1:26:sparse", "S2:129:sparse")]
    dataset = converted(ATIS[1], tmp_path / "out", *streams)
    assert len(dataset) == 893
    assert dataset.fields["S0"].metadata["num_classes"] == "943"
    read = dataset.read(np.arange(893))
    expected = rows(str(ATIS[1]))
    assert [part.tolist() for part in read["S0"]] == expected["S0"]
    assert read["S1"].tolist() == expected["S1"]


def test_memory_stays_bounded_whatever_the_size_of_the_file(tmp_path):
    def peak_megabytes(lines):
        path = tmp_path / f"{lines}.ctf"
        path.write_text("".join(f"{i // 7} |x {i} {i / 3:.3f} 5 6 7 8 9 |y {i % 90}:1\n" for i in range(lines)))
        code = (
            "import resource, sys; from minibatch.tools.sources import open_source\n"
            "rows = sum(len(piece['x']) for piece in open_source(sys.argv[1]).batches())\n"
            "print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        rows, megabytes = map(int, done.stdout.split())
        assert rows == -(-lines // 7)
        return megabytes

    assert peak_megabytes(400_000) - peak_megabytes(100_000) < 20


def test_the_command_says_what_it_found_and_what_it_skipped(ctf, tmp_path):
    source = ctf("|a 1 |b 2:1\n|a x |b 1:1\n|a 3 |b 0:1\n")
    done = program("convert", source, tmp_path / "out", "--max-errors", 1)
    assert done.returncode == 0, done.stderr
    assert "CNTK text format of 2 sequences: a (dense, width 1, one each), b (class numbers, width 3" in done.stderr
    assert "line 2: 'x' in stream 'a' is not a number" in done.stderr
