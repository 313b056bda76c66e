"""WAV: every form of samples, classes and subsets, and files that are broken or unlike the others."""

import json
import struct

import numpy as np
import pytest

from minibatch.tools.sources import BadRecords, Options, open_source
from tests.tools.binary_samples import wav, wav_bytes
from tests.tools.samples import rows_of, write_files


def riff(*chunks):
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def form(code, bits, channels=1, rate=8000, extra=b""):
    block = channels * bits // 8
    return b"fmt ", struct.pack("<HHIIHH", code, channels, rate, rate * block, block, bits) + extra


def extensible(code, bits):
    guid = struct.pack("<H", code) + bytes.fromhex("000000001000800000aa00389b71")
    return form(0xFFFE, bits, extra=struct.pack("<HHI", 22, bits, 4) + guid)


@pytest.mark.parametrize(
    ("header", "data", "expected", "dtype"),
    [
        (form(1, 16), struct.pack("<3h", 1, -2, 32767), [1, -2, 32767], np.int16),
        (form(1, 8), bytes([0, 128, 255]), [-32768, 0, 32512], np.int16),
        (form(1, 24), bytes([0, 0, 0x40, 0xFF, 0xFF, 0xFF, 0, 0, 0x80]), [0.5, -(2.0**-23), -1], np.float32),
        (form(1, 32), struct.pack("<2i", 2**30, -(2**31)), [0.5, -1], np.float32),
        (form(3, 32), struct.pack("<2f", 0.25, -1.5), [0.25, -1.5], np.float32),
        (form(3, 64), struct.pack("<2d", 0.25, -1.5), [0.25, -1.5], np.float32),
        (extensible(1, 16), struct.pack("<2h", 5, 6), [5, 6], np.int16),
        (extensible(3, 32), struct.pack("<f", 0.5), [0.5], np.float32),
    ],
)
def test_samples_of_every_form_come_back(header, data, expected, dtype, tmp_path):
    content = riff((b"LIST", b"odd"), header, (b"data", data), (b"cue ", b"later"))
    rows = rows_of(write_files(tmp_path / "sounds", {"a.wav": content}))
    assert rows["audio"][0].dtype == dtype
    assert rows["audio"][0].tolist() == expected
    assert list(rows) == ["audio", "file"]


def test_one_wide_file_makes_all_of_them_floats(tmp_path):
    wide = riff(form(3, 32), (b"data", struct.pack("<f", 0.25)))
    rows = rows_of(write_files(tmp_path / "sounds", {"a.wav": wav_bytes([16384]), "b.wav": wide}))
    assert [row.tolist() for row in rows["audio"]] == [[0.5], [0.25]]
    assert {row.dtype for row in rows["audio"]} == {np.dtype(np.float32)}


def test_several_channels_lie_beside_each_other(tmp_path):
    content = wav_bytes([1, 2, 3, 4, 5, 6], channels=2)
    rows = rows_of(write_files(tmp_path / "sounds", {"a.wav": content}))
    assert rows["audio"][0].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_classes_are_the_folders_and_the_rate_is_noted(tmp_path):
    source = open_source(wav(tmp_path))
    rows = rows_of(wav(tmp_path))
    assert ([int(label) for label in rows["label"]], rows["file"]) == ([0, 0, 1], ["no/1.wav", "no/2.wav", "yes/1.wav"])
    assert source.metadata["audio"] == {"sample_rate": "8000"}
    assert json.loads(source.metadata["label"]["classes"]) == ["no", "yes"]


def test_a_subset_is_chosen_as_for_images(tmp_path):
    files = {f"{part}/{kind}/1.wav": wav_bytes([1]) for part in ("train", "test") for kind in ("no", "yes")}
    folder = write_files(tmp_path / "words", files)
    assert rows_of(folder, subset="test")["file"] == ["test/no/1.wav", "test/yes/1.wav"]
    with pytest.raises(ValueError, match="choose one, such as --subset test"):
        open_source(str(folder))


def test_files_in_one_folder_or_in_subsets_alone_have_no_classes(tmp_path):
    folder = write_files(tmp_path / "a", {"train/1.wav": wav_bytes([1]), "test/2.wav": wav_bytes([2])})
    assert list(rows_of(folder)) == ["audio", "file"]
    assert rows_of(folder, subset="test")["file"] == ["test/2.wav"]
    with pytest.raises(ValueError, match="no subset 'dev'"):
        open_source(str(folder), Options(subset="dev"))


GOOD = wav_bytes([1, 2, 3])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is no WAV file: it begins with b''"),
        (b"fLaC" + bytes(40), "it is no WAV file: it begins with b'fLaC"),
        (GOOD[:-2], "it says 6 bytes of samples at byte 44, 4 are there"),
        (GOOD[:36], "it has no samples"),
        (riff((b"data", b"12"), form(1, 16)), "come before their description"),
        (riff(form(1, 16), (b"data", b"123")), "no whole number of 1 × 16 bits"),
        (riff(form(7, 8), (b"data", b"123")), "the code 7, 8 bits and 1 channels"),
        (riff((b"fmt ", b"short"), (b"data", b"123")), "chunk 'fmt ' at byte 12 has 5 bytes"),
        (wav_bytes([1], rate=16000), r"it has 16,000 Hz and 1 channel, 'a\.wav' has 8,000 Hz and 1 channel"),
        (wav_bytes([1, 2], channels=2), "2 channels"),
    ],
)
def test_a_file_that_is_broken_or_unlike_the_others_is_a_bad_record(content, reason, tmp_path):
    folder = write_files(tmp_path / "sounds", {"a.wav": GOOD, "b.wav": content, "c.wav": GOOD})
    with pytest.raises(ValueError, match=rf"sounds', b\.wav: .*{reason}"):
        open_source(str(folder))
    bad = BadRecords(1)
    assert rows_of(folder, bad=bad)["file"] == ["a.wav", "c.wav"]
    assert [record.where for record in bad.found] == ["b.wav"]


def test_a_folder_of_broken_files_alone_is_refused(tmp_path):
    folder = write_files(tmp_path / "sounds", {"a.wav": b"?"})
    with pytest.raises(ValueError, match=r"none of its 1 \.wav files can be read"):
        open_source(str(folder), Options(bad=BadRecords(9)))
