"""Token files: documents and rows of a size, end to end the file; and wrong sizes, types and ids refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch.tools import sources
from minibatch.tools.sources import Options, open_source
from tests.tools.samples import converted


@pytest.fixture
def tokens(tmp_path):
    def write(values, dtype="<u2", before=b""):
        (tmp_path / "a.bin").write_bytes(before + np.asarray(values, dtype).tobytes())
        return str(tmp_path / "a.bin")

    return write


def rows(path, **options):
    return [row.tolist() for piece in open_source(path, Options(**options)).batches() for row in piece["tokens"]]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_rows_of_a_size_are_the_file_and_only_the_last_is_shorter(dtype, tokens):
    path = tokens(range(10), dtype)
    assert rows(path, dtype=dtype, row_tokens=4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    source = open_source(path, Options(dtype=dtype, row_tokens=4))
    assert source.rows == 3
    assert next(source.batches())["tokens"].dtype == dtype
    assert source.describe() == f"10 tokens, {dtype}, in 3 rows of 4"


def test_documents_end_with_their_token_and_the_last_may_lack_it(tokens):
    path = tokens([5, 6, 0, 0, 7, 0, 8])
    source = open_source(path, Options(dtype="uint16", end_of_text=0))
    assert rows(path, dtype="uint16", end_of_text=0) == [[5, 6, 0], [0], [7, 0], [8]]
    assert source.rows == 4
    assert source.metadata == {"tokens": {"end_of_text": "0"}}


@given(st.lists(st.integers(0, 3), max_size=30), st.sampled_from([1, 4, 10, 2**23]), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_every_file_is_its_rows_end_to_end(tmp_path_factory, values, size, row):
    path = tmp_path_factory.getbasetemp() / "property.bin"
    np.array([*values, 3], "<u2").tofile(path)
    documents = [[]]
    for value in [*values, 3]:
        documents[-1].append(value)
        if value == 3:
            documents.append([])
    before, sources.PIECE_BYTES = sources.PIECE_BYTES, size
    try:
        assert rows(str(path), dtype="uint16", end_of_text=3) == documents[:-1]
        found = rows(str(path), dtype="uint16", row_tokens=row)
        assert [value for each in found for value in each] == [*values, 3]
        assert all(len(each) == row for each in found[:-1])
    finally:
        sources.PIECE_BYTES = before


def test_an_array_file_is_read_as_tokens_when_that_is_asked_for(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(5, dtype=np.int32))
    path = str(tmp_path / "a.npy")
    assert rows(path, format="tokens", row_tokens=3) == [[0, 1, 2], [3, 4]]
    np.save(path, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"is float64 \(2, 3\); token files are whole numbers in one dimension"):
        rows(path, format="tokens", row_tokens=3)
    with pytest.raises(ValueError, match="--row-tokens means nothing to the NumPy source"):
        rows(path, row_tokens=3)


def test_the_header_of_llm_c_is_recognised(tokens):
    for magic, dtype in [(20240520, "uint16"), (20240801, "uint32")]:
        header = np.zeros(256, "<i4")
        header[:3] = magic, 1, 5
        path = tokens([1, 2, 3, 4, 70 + 5], dtype, header.tobytes())
        assert rows(path, row_tokens=3) == [[1, 2, 3], [4, 75]]
        with pytest.raises(ValueError, match=rf"the header of .* \(llm\.c\) says {dtype}"):
            rows(path, row_tokens=3, dtype="int64")
    path = tokens([1, 2], "uint16", header.tobytes())  # another size than the header says: no header
    assert len(rows(path, row_tokens=10**6, dtype="uint16")[0]) == 514


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "uint16"}, "give --end-of-text ID .* or --row-tokens N .*; neither is given"),
        ({"dtype": "uint16", "row_tokens": 2, "end_of_text": 0}, "both are given"),
        ({"row_tokens": 2}, "has no header that tells its type: give --dtype uint16 or uint32"),
        ({"row_tokens": 0, "dtype": "uint16"}, "expected at least 1"),
        ({"row_tokens": 2, "dtype": "float32"}, "--dtype float32: expected uint8, uint16"),
        ({"row_tokens": 2, "dtype": "uint32"}, "has 6 bytes, which is no whole number of uint32: it was truncated"),
        ({"end_of_text": 9, "dtype": "uint16"}, "holds no 9 among its 3 uint16 tokens"),
        ({"end_of_text": 65536, "dtype": "uint16"}, "--end-of-text 65536 is no uint16"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(options, said, tokens):
    with pytest.raises(ValueError, match=said):
        rows(tokens([1, 2, 3]), **options)


def test_a_data_set_of_it_gives_its_tokens_back(tokens, tmp_path):
    values = np.random.default_rng(3).integers(0, 50_000, 9_999)
    options = ["--dtype", "uint16", "--row-tokens", 64]
    dataset = converted(tokens(values), tmp_path / "out", *options, "--chunk-rows", 10)
    read = dataset.read(np.arange(len(dataset)))["tokens"]
    assert read.dtype == np.uint16
    assert np.array_equal(read.values, values)
