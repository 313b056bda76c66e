"""`record_batches`: the rows and places of record batches, read without decoding them, are those that Arrow finds."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch.record_batches import RECORD_BATCH, blocks, messages, open_content

SCHEMA = pa.schema([("x", pa.list_(pa.int32())), ("word", pa.dictionary(pa.int8(), pa.string()))])
COMPRESSIONS = [None, "lz4", "zstd"]


def batches_of(sizes):
    whole = pa.array(["a", "b", "c"] * 30).dictionary_encode().cast(SCHEMA.field("word").type)
    for start, stop in itertools.pairwise([0, *itertools.accumulate(sizes)]):
        column = pa.array([[i] * (i % 3) for i in range(start, stop)], pa.list_(pa.int32()))
        yield pa.record_batch([column, whole.slice(start, stop - start)], schema=SCHEMA)


def written(sizes, make, compression, **options):
    sink = pa.BufferOutputStream()
    with make(sink, SCHEMA, options=pa.ipc.IpcWriteOptions(compression=compression, **options)) as writer:
        for batch in batches_of(sizes):
            writer.write_batch(batch)
    return sink.getvalue()


@given(
    sizes=st.lists(st.integers(0, 9), max_size=8),
    make=st.sampled_from([pa.ipc.new_file, pa.ipc.new_stream]),
    compression=st.sampled_from(COMPRESSIONS),
    legacy=st.booleans(),
)
@settings(max_examples=100)
def test_every_batch_is_found_with_its_rows_in_files_and_streams_of_any_age(sizes, make, compression, legacy):
    legacy = legacy and compression is None  # Arrow itself cannot read compressed files of the old version again
    options = {"use_legacy_format": True, "metadata_version": pa.ipc.MetadataVersion.V4} if legacy else {}
    content = written(sizes, make, compression, **options)
    batch, rows, schema = open_content(content)
    assert (rows, schema) == (sizes, SCHEMA)
    for number in np.random.default_rng(1).permutation(len(sizes)).tolist():
        assert batch(number).equals(list(batches_of(sizes))[number])


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_stream_says_which_of_its_batches_are_compressed(compression):
    found = list(messages(memoryview(written([3, 0, 4], pa.ipc.new_stream, compression))))
    assert [each.rows for each in found if each.kind == RECORD_BATCH] == [3, 0, 4]
    assert {each.compressed for each in found if each.kind == RECORD_BATCH} == {compression is not None}
    for one, other in itertools.pairwise(found):
        assert one.stop == other.start


def test_dictionaries_that_change_within_a_compressed_stream_are_those_of_each_batch():
    sink = pa.BufferOutputStream()
    schema = pa.schema([("word", pa.dictionary(pa.int8(), pa.string()))])
    words = [["a", "b"], ["c", "a"], ["a", "d", "e"]]
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for each in words:
            writer.write_batch(
                pa.record_batch([pa.array(each).dictionary_encode().cast(schema.field(0).type)], schema=schema)
            )
    batch, rows, _ = open_content(sink.getvalue())
    assert rows == [2, 2, 3]
    assert [batch(number).column(0).to_pylist() for number in (2, 0, 1)] == [words[2], words[0], words[1]]


def test_a_batch_of_an_uncompressed_stream_lies_where_it_was():
    content = written([3, 4], pa.ipc.new_stream, None)
    batch, _, _ = open_content(content)
    for buffer in batch(1).column("x").buffers()[1::2]:
        assert content.address <= buffer.address < content.address + content.size


@pytest.mark.parametrize("make", [pa.ipc.new_file, pa.ipc.new_stream])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_changed_bytes_are_an_error_or_other_numbers_and_never_more(make, compression):
    content = written([3, 4], make, compression).to_pybytes()
    draw = np.random.default_rng(4)
    outcomes = set()
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] = int(draw.integers(256)) if at % 2 else 0xFF
        try:
            found = list(blocks(memoryview(changed)) if make is pa.ipc.new_file else messages(memoryview(changed)))
        except ValueError:
            outcomes.add("error")
            continue
        outcomes.add("found")
        assert len(found) < len(content)
        assert all(0 <= each.start < each.stop <= len(content) and each.rows >= 0 for each in found)
    assert outcomes == {"error", "found"}


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\x08\0\0\0", b"ARROW1", b"ARROW1\0\0ARROW1"]
)
def test_what_is_too_short_is_an_error(content):
    with pytest.raises((ValueError, pa.ArrowException)):
        open_content(pa.py_buffer(content))


def test_a_stream_that_does_not_end_was_cut_off():
    content = written([3, 4], pa.ipc.new_stream, None)
    *_, last = messages(memoryview(content))
    with pytest.raises(ValueError, match="no mark of its end: it was cut off or is still being written"):
        open_content(content.slice(0, last.stop))
