"""LibSVM files: against scikit-learn's reader, and by hand."""

import numpy as np
import pytest
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from minibatch.ragged import join
from minibatch.tools import sources
from minibatch.tools.sources import BadRecord, BadRecords, Options, open_source
from tests.tools.samples import converted


@pytest.fixture
def libsvm(tmp_path):
    def write(text):
        (tmp_path / "a.libsvm").write_bytes(text.encode())
        return str(tmp_path / "a.libsvm")

    return write


def columns(path, **options):
    """Whole columns: an array, a Ragged or a Sparse each."""
    pieces = list(open_source(str(path), Options(**options)).batches())
    return {name: join([piece[name] for piece in pieces]) for name in pieces[0]}


@pytest.mark.parametrize("zero_based", [True, False])
@pytest.mark.parametrize("size", [100, 2**23])
def test_what_scikit_learn_writes_is_read_as_it_reads_it(zero_based, size, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PIECE_BYTES", size)
    values = np.round(np.random.default_rng(1).normal(size=(80, 30)), 3)
    values[values < 0.5] = 0
    values[0, 0] = 1.5
    path = str(tmp_path / "a.svm")
    queries = np.arange(80) // 7
    dump_svmlight_file(values, np.arange(80) % 3, path, zero_based=zero_based, query_id=queries, comment="two\nlines")
    found = columns(path)
    theirs, labels, theirs_queries = load_svmlight_file(path, query_id=True)
    assert np.array_equal(found["features"].dense(), theirs.toarray().astype(np.float32))
    assert np.array_equal(found["label"], labels)
    assert np.array_equal(found["qid"], theirs_queries)
    said = open_source(path).describe()
    assert said == f"LibSVM of 80 rows: label, qid, 30 features counted from {int(not zero_based)} (found)"


def test_types_come_from_the_whole_file_or_from_the_user(libsvm):
    source = libsvm("1 1:2\n-1 1:1\n")
    assert {name: column.dtype for name, column in columns(source).items()} == {"label": "int64", "features": "float32"}
    assert columns(libsvm("1 1:2\n-1.5 1:1\n"))["label"].dtype == np.float64
    given = columns(libsvm("1 1:2\n-1 1:1\n"), type=("label=int8", "features=uint16"))
    assert {name: column.dtype for name, column in given.items()} == {"label": "int8", "features": "uint16"}


def test_width_and_first_index_are_what_the_user_says(libsvm):
    source = libsvm("1 1:2\n0 3:1\n")
    found = columns(source, width=9, first_index=0)["features"]
    assert (found.width, found.indices.tolist()) == (9, [1, 3])
    found = columns(source)["features"]
    assert (found.width, found.indices.tolist()) == (3, [0, 2])
    assert "counted from 0 (given)" in open_source(source, Options(first_index=0)).describe()


def test_lines_with_several_labels_make_a_list_field(libsvm):
    found = columns(libsvm("3,17 1:0.5\n 2:1\n5 1:1 # one, two\n"))
    assert [part.tolist() for part in found["label"]] == [[3, 17], [], [5]]
    assert found["features"].dense().tolist() == [[0.5, 0], [0, 1], [1, 0]]


def test_comments_and_blank_lines_are_no_rows_and_a_row_may_have_no_features(libsvm):
    source = libsvm("# about 1:2\n\n1 1:1 # 2:2\n  \n2\n3 2:nan\n")
    found = columns(source)
    assert found["label"].tolist() == [1, 2, 3]
    assert np.array_equal(found["features"].dense(), [[1, 0], [0, 0], [0, np.nan]], equal_nan=True)


WRONG = [
    ("1 1:1\nx 1:1\n", 2, "'x' is no label, which is a number"),
    ("1 1:1\n# c\n1 1:x\n", 3, "'1:x': it is not index:value"),
    ("1 1:1\n1 1.5:1\n", 2, "'1.5:1': it is not index:value"),
    ("1 1:1\n1 1:1e999\n", 2, "'1:1e999': it is not index:value"),
    ("1 1:1\n1 2:1 foo 3:1\n", 2, "'foo' is not index:value"),
    ("1 1:1\n1 2:1 2:1\n", 2, "its index does not ascend: 2 stands before it"),
    ("1 1:1\n1 2:1 1:1\n", 2, "its index does not ascend: 2 stands before it"),
    ("1 qid:1 1:1\n1 1:1\n", 2, "the line has no qid, but others have"),
    ("1 qid:1 1:1\n1 qid:x 1:1\n", 2, "'qid:x' is not qid: and a whole number"),
    ("1 1:1\n2:1\n", 2, "the line begins with a feature where its label is expected"),
]


@pytest.mark.parametrize(("text", "line", "said"), WRONG)
def test_a_bad_line_is_an_error_that_names_it_and_can_be_passed_over(text, line, said, libsvm):
    source = libsvm(text)
    with pytest.raises(BadRecord, match=rf"a\.libsvm', line {line}: ") as error:
        columns(source)
    assert said in error.value.reason
    bad = BadRecords(1)
    assert columns(source, bad=bad)["label"].tolist() == [1]
    assert [record.where for record in bad.found] == [f"line {line}"]


def test_what_does_not_fit_what_the_user_says_is_an_error(libsvm):
    source = libsvm("1 1:1\n2.5 3:300\n")
    for options, said in [
        ({"width": 2}, "'3:300': feature 3 is not among 1 to 2"),
        ({"first_index": 0, "width": 3}, "feature 3 is not among 0 to 2"),
        ({"type": ("label=int32",)}, "label 2.5 is no int32"),
        ({"type": ("features=uint8",)}, "value 300 is no uint8"),
    ]:
        with pytest.raises(BadRecord, match=f"line 2: .*{said}"):
            columns(source, **options)
    for options, said in [
        ({"width": 0}, "at least 1"),
        ({"first_index": 2}, "from 0 or from 1"),
        ({"type": ("qid=int32",)}, "has no field 'qid'; it has label, features"),
    ]:
        with pytest.raises(ValueError, match=said):
            columns(source, **options)
    with pytest.raises(ValueError, match="has no feature at all"):
        columns(libsvm("just some words\n".replace("just some words", "1")))


def test_a_data_set_of_it_gives_its_features_back(libsvm, tmp_path):
    source = libsvm("1 qid:4 1:0.5 7:1\n0 qid:4\n1 qid:5 2:2\n")
    dataset = converted(source, tmp_path / "out", "--width", 9)
    read = dataset.read([2, 0, 1])
    assert read["features"].width == 9
    assert np.array_equal(read["features"].dense(), columns(source, width=9)["features"].dense()[[2, 0, 1]])
    assert read["qid"].tolist() == [5, 4, 4]
