"""TFRecord: features of every form, checksums, SequenceExample, and what damaged files say."""

import gzip
import struct
import sys

import numpy as np
import pytest

import minibatch.tools.sources
from minibatch.ragged import Ragged
from minibatch.tools.sources import BadRecords, open_source
from minibatch.tools.sources.tf_example import decoded, integers_of
from tests.tools.binary_samples import example, feature, features, field, number, tfrecord, tfrecord_bytes
from tests.tools.samples import rows_of, run


@pytest.fixture
def file(tmp_path):
    """Writes records as a TFRecord file and gives its path."""

    def write(records, name="a.tfrecord"):
        path = tmp_path / name
        content = tfrecord_bytes(records)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write


def test_the_checksum_is_that_of_tensorflow():
    stub = pytest.importorskip("tensorboard.compat.tensorflow_stub.pywrap_tensorflow")
    from minibatch.tools.sources.tfrecord import masked_checksum

    for content in (b"", b"a", bytes(range(256)) * 5):
        assert masked_checksum(content) == stub.masked_crc32c(content)


def test_files_written_by_tensorboard_are_read(tmp_path):
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer")
    with open(tmp_path / "a.tfrecord", "wb") as opened:
        records = writer.RecordWriter(opened)
        for each in range(3):
            records.write(example(x=[each]))
        records.flush()
    assert rows_of(tmp_path / "a.tfrecord")["x"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[7], [-1], [2**62]], [7, -1, 2**62]),
        ([[0.5], [1.5], [-2.0]], [0.5, 1.5, -2]),
        ([[b"a"], [b""], [b"\xff"]], [b"a", b"", b"\xff"]),
        ([[1, 2], [3, 4], [-5, 300]], [[1, 2], [3, 4], [-5, 300]]),
        ([[1, 2], [3], [4, 5, 6]], [[1, 2], [3], [4, 5, 6]]),
        ([[1, 2], [], [3]], [[1, 2], [], [3]]),
        ([[b"a", b"b"], [b"c"], []], [[b"a", b"b"], [b"c"], []]),
        ([[b"a", b"b"], [b"c", b"d"], [b"e", b"f"]], [[b"a", b"b"], [b"c", b"d"], [b"e", b"f"]]),
    ],
)
@pytest.mark.parametrize("piece_bytes", [1, 2**20])
def test_features_become_scalars_arrays_or_lists(values, expected, piece_bytes, file, monkeypatch):
    monkeypatch.setattr(minibatch.tools.sources, "PIECE_BYTES", piece_bytes)
    source = open_source(str(file([example(x=each, i=[0]) for each in values])))
    pieces = list(source.batches())
    assert len(pieces) == (3 if piece_bytes == 1 else 1)
    rows = [row.tolist() if hasattr(row, "tolist") else row for piece in pieces for row in piece["x"]]
    assert rows == expected
    varies = len({len(each) for each in values}) > 1 or (
        isinstance(expected[0], list) and isinstance(expected[0][0], bytes)
    )
    assert all(isinstance(piece["x"], Ragged) == varies for piece in pieces)


def test_float_features_are_float32_and_others_int64(file):
    (piece,) = open_source(str(file([example(a=[0.1], b=[1])]))).batches()
    assert (piece["a"].dtype, piece["b"].dtype) == (np.float32, np.int64)
    assert piece["a"][0] == np.float32(0.1)


@pytest.mark.parametrize("name", ["a.tfrecord.gz", "a.tfrecord", "part.tfrecord-00000-of-00002", "a.tfrec"])
def test_files_are_known_by_their_names(name, file):
    assert rows_of(file([example(x=[1]), example(x=[2])], name))["x"] == [1, 2]


def test_several_files_come_in_the_order_of_their_names(file, tmp_path):
    for part in (1, 0):
        file([example(x=[part, part])], f"p.tfrecord-{part:05d}-of-00002")
    assert np.stack(rows_of(tmp_path)["x"]).tolist() == [[0, 0], [1, 1]]
    assert np.stack(rows_of(tmp_path / "p.tfrecord-*")["x"]).tolist() == [[0, 0], [1, 1]]


def test_a_file_that_begins_like_gzip_by_chance_is_read(file):
    record = example(x=[b"a" * (0x8B1F - len(example(x=[b"a" * 35000])) + 35000)])
    assert len(record) == 0x8B1F
    path = file([record])
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert len(rows_of(path)["x"][0]) > 35000


def test_values_that_are_not_packed_are_read():
    numbers = field(3, b"".join(number(8) + number(each) for each in (1, 300, -1)))
    floats = field(2, b"".join(number(8 + 5) + struct.pack("<f", each) for each in (0.5, 2)))
    entries = b"".join(field(1, field(1, name) + field(2, value)) for name, value in ((b"n", numbers), (b"f", floats)))
    found = decoded(field(1, entries))
    assert found["n"].tolist() == [1, 300, -1]
    assert found["f"].tolist() == [0.5, 2]


def test_fields_of_later_versions_are_passed_over():
    unknown = (
        number(8 * 9) + number(7) + field(10, b"abc") + number(8 * 11 + 1) + bytes(8) + number(8 * 12 + 5) + bytes(4)
    )
    found = decoded(unknown + field(1, unknown + features({"x": [1]})))
    assert found["x"].tolist() == [1]


def test_integers_of_every_size_are_unpacked():
    values = [0, 1, 127, 128, 2**31, 2**63 - 1, -(2**63), -1]
    assert integers_of(memoryview(b"".join(map(number, values)))).tolist() == values


def sequence_example(context, lists):
    entries = [
        field(1, field(1, name.encode()) + field(2, b"".join(field(1, feature(step)) for step in steps)))
        for name, steps in lists.items()
    ]
    return field(1, features(context)) + field(2, b"".join(entries))


def test_feature_lists_become_lists_of_steps(file):
    records = [
        sequence_example({"id": [b"a"]}, {"frame": [[0.5, 1.5], [2.5, 3.5]], "word": [[b"x"], [b"y"]]}),
        sequence_example({"id": [b"b"]}, {"frame": [[4.5, 5.5]], "word": [[b"z"]]}),
    ]
    rows = rows_of(file(records))
    assert rows["id"] == [b"a", b"b"]
    assert [row.tolist() for row in rows["frame"]] == [[[0.5, 1.5], [2.5, 3.5]], [[4.5, 5.5]]]
    assert [list(row) for row in rows["word"]] == [[b"x", b"y"], [b"z"]]


GOOD = [example(x=[each], t=[b"some text"]) for each in range(5)]


def test_a_record_that_fails_its_checksum_is_a_bad_record_and_the_next_one_is_found(file):
    path = file(GOOD)
    content = bytearray(path.read_bytes())
    size = 16 + len(GOOD[0])
    content[2 * size + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.tfrecord', record 2, byte {2 * size}: its bytes fail their checksum"):
        rows_of(path)
    bad = BadRecords(1)
    assert rows_of(path, bad=bad)["x"] == [0, 1, 3, 4]
    assert [record.where for record in bad.found] == [f"record 2, byte {2 * size}"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"", "it has no features"),
        (b"no protocol buffer", "protocol buffer"),
        (field(1, features({"x": [1]}) + features({"x": [2]})), None),
        (example(x=[b"text"], t=[b""]), r"field 'x' is bytes \(1,\), in the records before it int64 \(1,\)"),
        (example(x=[1]), r"it lacks \['t'\]; the records before it have the fields \['x', 't'\]"),
        (example(x=[1], t=[b""], more=[1]), r"it also has \['more'\]"),
    ],
)
def test_a_record_that_is_none_or_does_not_fit_the_others_is_a_bad_record(record, reason, file):
    path = file([*GOOD[:3], record, *GOOD[3:]])
    with pytest.raises(ValueError, match=rf"record 3, byte \d+: .*{reason or ''}"):
        open_source(str(path))
    bad = BadRecords(1)
    assert rows_of(path, bad=bad)["x"] == list(range(5))
    assert len(bad.found) == 1


@pytest.mark.parametrize("kept", [5, 12, 14, -1, -3])
def test_a_truncated_file_is_refused_with_the_record(kept, file):
    path = file(GOOD)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"a\.tfrecord' ends within .*record \d, byte \d+.*truncated"):
        open_source(str(path))


def test_a_damaged_length_is_not_believed(file):
    path = file(GOOD)
    content = bytearray(path.read_bytes())
    content[16 + len(GOOD[0]) + 6] = 255  # an exabyte
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged: the length of record 1, byte .* fails its checksum"):
        open_source(str(path))
    path.write_bytes(b"something else, which is long enough")
    with pytest.raises(ValueError, match="is no TFRecord file: the length of record 0"):
        open_source(str(path))


def test_a_truncated_gzip_is_refused(file):
    path = file(GOOD, "a.tfrecord.gz")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"a\.tfrecord\.gz'"):
        open_source(str(path))


def test_a_library_that_is_not_installed_is_named(tmp_path, monkeypatch):
    source = tfrecord(tmp_path)
    monkeypatch.setitem(sys.modules, "crc32c", None)
    result = run("convert", source, tmp_path / "out")
    assert result.exit_code == 1
    assert "needs 'crc32c', which is not installed" in result.stderr
