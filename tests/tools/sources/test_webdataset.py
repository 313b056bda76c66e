"""WebDataset: how names become samples and fields, several tars, and damaged or unlike samples."""

import io
import pickle
import tarfile

import numpy as np
import pytest

from minibatch.tools.sources import FORMATS, BadRecords, open_source
from tests.tools.binary_samples import npy_bytes, sample_files, webdataset
from tests.tools.samples import PETS, pack, picture, rows_of

HEAD = [("0.cls", b"1"), ("0.txt", b"a")]


def tar_of(folder, files, name="a.tar"):
    return pack(folder / name, files)


@pytest.mark.parametrize(
    ("field", "contents", "expected"),
    [
        ("cls", [b"3", b" 4\n"], [3, 4]),
        ("index", [b"3", b"-4"], [3, -4]),
        ("txt", ["ä".encode(), b""], ["ä", ""]),
        ("jpg", [b"\xff", b""], [b"\xff", b""]),
        ("seg.png", [b"1", b"2"], [b"1", b"2"]),
        ("PNG", [b"1", b"2"], [b"1", b"2"]),
        ("pkl", [pickle.dumps(1), b"2"], [pickle.dumps(1), b"2"]),
        ("npy", [npy_bytes(np.arange(3)), npy_bytes(np.arange(3))], [[0, 1, 2], [0, 1, 2]]),
        ("npy", [npy_bytes(np.arange(3)), npy_bytes(np.arange(2))], [[0, 1, 2], [0, 1]]),
        ("npy", [npy_bytes(np.float32(1.5)), npy_bytes(np.float32(2))], [1.5, 2]),
        ("json", [b"[1]", b'{"a": 1}'], ["[1]", '{"a": 1}']),
        ("json", [b"null", b"1"], ["null", "1"]),
        ("json", [b"[1, 2]", b"[]"], [[1, 2], []]),
    ],
)
def test_the_last_part_of_a_name_says_what_a_field_holds(field, contents, expected, tmp_path):
    files = [(f"{place}.{field}", content) for place, content in enumerate(contents)]
    rows = rows_of(tar_of(tmp_path, files), format="WebDataset")
    assert [row.tolist() if hasattr(row, "tolist") else row for row in rows[field.lower()]] == expected
    assert rows["__key__"] == ["0", "1"]


def test_json_becomes_fields_where_all_samples_agree(tmp_path):
    contents = [b'{"n": 1, "of": {"t": "a"}, "l": [1, 2]}', b'{"n": 2.5, "of": {"t": "b"}, "l": [3]}']
    rows = rows_of(tar_of(tmp_path, [(f"{place}.json", each) for place, each in enumerate(contents)]))
    assert (rows["json.n"], rows["json.of.t"]) == ([1, 2.5], ["a", "b"])
    assert [row.tolist() for row in rows["json.l"]] == [[1, 2], [3]]


@pytest.mark.parametrize("other", [b'{"n": null}', b'{"m": 1}', b'{"n": "1"}', b'{"n": 1, "m": 2}', b"{}"])
def test_json_stays_text_where_samples_do_not_agree(other, tmp_path):
    rows = rows_of(tar_of(tmp_path, [("0.json", b'{"n": 1}'), ("1.json", other)]))
    assert rows["json"] == ['{"n": 1}', other.decode()]


def test_a_whole_number_that_its_neighbours_would_round_is_a_bad_record(tmp_path):
    files = [("0.json", b'{"n": 0.5}'), ("1.json", b'{"n": 9007199254740993}')]
    with pytest.raises(ValueError, match=r"sample '1', .*float64, which the field is, would round"):
        rows_of(tar_of(tmp_path, files))


def test_the_key_is_everything_up_to_the_first_dot_of_the_name(tmp_path):
    files = [(f"./a.b/{key}.{field}", b"1") for key in ("x", "y") for field in ("cls", "left.txt", "right.txt")]
    rows = rows_of(tar_of(tmp_path, files))
    assert list(rows) == ["__key__", "cls", "left.txt", "right.txt"]
    assert rows["__key__"] == ["a.b/x", "a.b/y"]


def test_files_about_the_tar_and_hidden_ones_are_left_out(tmp_path):
    files = [("__index__.json", b"?"), *HEAD, ("._0.cls", b"?"), (".DS_Store", b"?"), ("README", b"?"), ("1.cls", b"2")]
    rows = rows_of(tar_of(tmp_path, [*files, ("1.txt", b"b")]))
    assert (rows["cls"], rows["txt"]) == ([1, 2], ["a", "b"])


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
def test_tars_are_told_apart_from_folders_of_images(name, tmp_path):
    def format_of(files):
        path = str(tar_of(tmp_path, files, name))
        return next(format_.name for format_ in FORMATS if format_.recognises(path))

    assert format_of(sample_files(2)) == "WebDataset"
    assert format_of([("0.json", b"{}"), ("1.json", b"{}")]) == "WebDataset"
    assert format_of(PETS.items()) == "images"
    assert format_of([("a/b/1.jpg", picture(1)), ("a/b/1.cls", b"1")]) == "WebDataset"
    assert format_of([]) == "images"


def test_tars_of_a_folder_come_in_the_order_of_their_names(tmp_path):
    for part in (1, 0):
        tar_of(tmp_path, [(f"{part}.cls", str(part).encode()), (f"{part}.txt", b"")], f"p-{part}.tar")
    assert rows_of(tmp_path)["cls"] == [0, 1]
    assert rows_of(f"{tmp_path}/p-{{1,0}}.tar")["cls"] == [1, 0]
    assert open_source(f"{tmp_path}/p-*.tar").inputs() == [f"{tmp_path}/p-0.tar", f"{tmp_path}/p-1.tar"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([("1.cls", b"cat"), ("1.txt", b"b")], r"its file \.cls cannot be decoded: invalid literal"),
        ([("1.cls", b"1"), ("1.txt", b"\xff")], r"its file \.txt cannot be decoded: 'utf-8'"),
        ([("1.cls", b"1")], r"it lacks \['txt'\]"),
        ([("1.cls", b"1"), ("1.txt", b"b"), ("1.jpg", b"")], r"it also has \['jpg'\]"),
        ([("1.cls", b"1"), ("1.txt", b"b"), ("1.TXT", b"b")], r"it has two files \.txt"),
        ([("1.cls", b"9" * 20), ("1.txt", b"b")], "more than 64 bits"),
    ],
)
def test_a_sample_that_is_broken_or_unlike_the_others_is_a_bad_record(files, reason, tmp_path):
    path = tar_of(tmp_path, [*HEAD, *files, ("2.cls", b"2"), ("2.txt", b"c")])
    with pytest.raises(ValueError, match=rf"a\.tar', sample '1', byte 2,048: .*{reason}"):
        open_source(str(path))
    bad = BadRecords(1)
    assert rows_of(path, bad=bad)["cls"] == [1, 2]
    assert len(bad.found) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy_bytes(np.array([print], object)), "allow_pickle"),
        (b"no array", "its file .npy cannot be decoded"),
        (npy_bytes(np.arange(3))[:-4], "its file .npy cannot be decoded"),
        (npy_bytes(np.zeros(2, complex)), "it has the dtype complex128"),
    ],
)
def test_an_array_that_cannot_be_read_is_a_bad_record(content, reason, tmp_path):
    path = tar_of(tmp_path, [("0.npy", npy_bytes(np.arange(3))), ("1.npy", content)])
    with pytest.raises(ValueError, match=reason):
        open_source(str(path))


def test_a_link_is_a_bad_record(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in HEAD:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("1.cls")
        link.type, link.linkname = tarfile.SYMTYPE, "0.cls"
        tar.addfile(link)
    with pytest.raises(ValueError, match=r"sample '1', .*\.cls is a link or sparse: pack the tar with --dereference"):
        open_source(str(tmp_path / "a.tar"))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("kept", [0.3, 0.7])
def test_a_truncated_tar_is_refused(name, kept, tmp_path):
    path = tar_of(tmp_path, sample_files(20), name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=rf"{name}' cannot be read as a tar, it was truncated"):
        rows_of(path)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    path = tmp_path / webdataset(tmp_path)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"train/0002.cls")
    content[place : place + 5] = b"?????"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cut short or damaged"):
        open_source(str(path))
