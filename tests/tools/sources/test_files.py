"""Folders and tars as sorted lists of files: how a tar was packed changes nothing, and damage is found."""

import gzip
import io
import os
import tarfile

import pytest

from minibatch.tools.sources.files import open_files
from tests.tools.samples import pack, write_files

FILES = {
    "a/z": b"1",
    "a-b/y": b"22",
    "a/b/c": b"",
    "ü/ß 1": b"x" * 100_000,
    "last": b"end",
}
SORTED = ["a/b/c", "a/z", "a-b/y", "last", "ü/ß 1"]


def everything(path):
    files = open_files(str(path))
    return dict(zip(files.names, files.contents(files.names), strict=True))


def test_names_are_sorted_part_by_part(tmp_path):
    assert list(everything(write_files(tmp_path, FILES))) == SORTED


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
@pytest.mark.parametrize("order", [list(FILES), SORTED, SORTED[::-1]], ids=["mixed", "sorted", "backwards"])
@pytest.mark.parametrize("prefix", ["", "./", "/"])
def test_a_tar_is_the_folder_it_was_packed_from(name, order, prefix, tmp_path):
    folder = write_files(tmp_path / "folder", FILES)
    path = pack(tmp_path / name, [(prefix + file, FILES[file]) for file in order])
    assert list(everything(path).items()) == list(everything(folder).items())


def test_contents_come_in_the_order_asked_for(tmp_path):
    path = pack(tmp_path / "a.tar.gz", FILES.items())
    assert list(open_files(str(path)).contents(["ü/ß 1", "a/z"])) == [b"x" * 100_000, b"1"]


def test_of_members_with_one_name_the_last_counts_as_when_unpacking(tmp_path):
    path = pack(tmp_path / "a.tar", [("a", b"old"), ("b", b"b"), ("./a", b"new")])
    assert everything(path) == {"a": b"new", "b": b"b"}


def test_hard_links_in_a_tar_are_the_files_they_lead_to_and_symbolic_ones_are_refused_when_read(tmp_path):
    folder = write_files(tmp_path / "folder", {"a": b"content"})
    os.link(folder / "a", folder / "b")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder / "a", "a")
        tar.add(folder / "b", "b")
    assert everything(tmp_path / "a.tar") == {"a": b"content", "b": b"content"}

    os.symlink("a", folder / "c")
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        tar.add(folder / "a", "a")
        tar.add(folder / "c", "c")
    files = open_files(str(tmp_path / "c.tar"))
    assert list(files.contents(["a"])) == [b"content"]
    with pytest.raises(ValueError, match=r"c\.tar': the file 'c' is a link or sparse: pack the tar with --dereference"):
        list(files.contents(["c"]))


def test_links_in_a_folder_are_followed_but_not_in_circles(tmp_path):
    folder = write_files(tmp_path / "folder", {"real/a": b"1"})
    os.symlink(folder / "real", folder / "again")
    os.symlink(folder / "real" / "a", folder / "file")
    os.symlink(folder, folder / "real" / "up")
    assert list(everything(folder)) == ["again/a", "file", "real/a"]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_tar_cut_anywhere_is_refused(name, tmp_path):
    # Bytes that gzip cannot shorten, so that every cut removes some of them.
    content = bytes((i * i * 31 + i // 7) % 251 for i in range(3000))
    path = pack(tmp_path / name, [(f"{i}", content) for i in range(4)])
    whole = path.read_bytes()
    # The end mark of a plain tar is two blocks of zeros at 4 · (512 + 3072), and one block of them is enough.
    end = 4 * (512 + 3072) if name == "a.tar" else len(whole) - 1
    for kept in {*range(0, end, 512), *range(1, end, 997), end}:
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=rf"{name}' cannot be read as a tar, it was truncated"):
            everything(path)


def test_a_damaged_header_in_the_middle_does_not_pass_for_the_end(tmp_path):
    path = pack(tmp_path / "a.tar", [("a", b"1"), ("b", b"2"), ("c", b"3")])
    content = bytearray(path.read_bytes())
    content[1024 + 5] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tar' cannot be read as a tar.*after 1 files it is cut short or damaged"):
        open_files(str(path))


def test_a_changed_byte_in_a_compressed_tar_is_found(tmp_path):
    path = pack(tmp_path / "a.tar.gz", FILES.items())
    content = bytearray(path.read_bytes())
    for position in (len(content) // 3, len(content) // 2, len(content) - 6):
        damaged = bytearray(content)
        damaged[position] ^= 0x20
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.tar\.gz' cannot be read as a tar"):
            everything(path)


def test_what_is_no_tar_is_refused(tmp_path):
    for name, content in {
        "a.tar": b"hello" * 1000,
        "b.tar.gz": b"hello",
        "c.tgz": gzip.compress(b"hello" * 999),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}' cannot be read as a tar"):
            open_files(str(tmp_path / name))


def test_a_temporary_folder_without_room_is_named_with_what_to_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    path = pack(tmp_path / "a.tar.gz", FILES.items())
    files = open_files(str(path))
    monkeypatch.setattr("minibatch.tools.sources.shutil.copyfileobj", refuse)
    assert list(files.contents(["a/z"])) == [b"1"]
    with pytest.raises(OSError, match=r"No space left on device while unpacking.*set TMPDIR"):
        list(files.contents(SORTED))


def test_a_name_that_is_not_unicode_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("caf\xe9.jpg"), io.BytesIO())
    with pytest.raises(ValueError, match=r"a\.tar': the name of the file 'caf\\udce9\.jpg' is not UTF-8"):
        open_files(str(tmp_path / "a.tar"))
