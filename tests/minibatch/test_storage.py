"""`storage`: files are what the manifest says before they are mapped; what is written is there whole or not at all."""

import mmap
import os

import pytest

from minibatch import storage
from minibatch.errors import DamagedDatasetError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "ein ☃.bin"
    path.write_bytes(b"abc")
    return path


def test_a_mapped_file_has_the_bytes_of_the_file(file):
    assert storage.map_file(file, 3).to_pybytes() == b"abc"


@pytest.mark.parametrize("expected", [0, 2, 4, 2**62])
def test_a_file_of_another_size_is_not_mapped(file, expected):
    with pytest.raises(
        DamagedDatasetError, match=rf"ein ☃.bin in .* has 3 bytes, manifest.json says {expected:,}: .*check"
    ):
        storage.map_file(file, expected)


def test_a_file_that_is_missing_is_not_mapped(tmp_path):
    with pytest.raises(DamagedDatasetError, match=r"gone is missing from .*the manifest lists it"):
        storage.map_file(tmp_path / "gone", 3)


def test_an_empty_file_is_mapped_as_nothing(tmp_path):
    (tmp_path / "empty").touch()
    assert storage.map_file(tmp_path / "empty", 0).size == 0


def test_a_folder_is_not_mapped(tmp_path):
    with pytest.raises(DamagedDatasetError, match="is not a file"):
        storage.map_file(tmp_path, os.stat(tmp_path).st_size)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedDatasetError, match="is not a file"):
        storage.map_file(tmp_path / "pipe", 0)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_an_error_with_its_name(file):
    file.chmod(0)
    with pytest.raises(DamagedDatasetError, match=r"ein ☃.bin.* cannot be mapped"):
        storage.map_file(file, 3)


def test_the_identity_of_a_file_changes_with_its_bytes_and_its_replacement(file):
    before = storage.file_identity(file)
    assert storage.file_identity(file) == before
    other = file.with_name("other")
    other.write_bytes(b"abc")
    os.utime(other, ns=(0, 0))
    other.replace(file)
    replaced = storage.file_identity(file)
    assert replaced != before
    file.write_bytes(b"abd")
    assert storage.file_identity(file) != replaced
    file.unlink()
    assert storage.file_identity(file) is None


def test_an_atomic_write_replaces_everything(file):
    storage.write_atomically(file, b"longer than before")
    assert file.read_bytes() == b"longer than before"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_atomic_write_that_fails_changes_nothing(file, step, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        storage.write_atomically(file, b"longer than before")
    assert file.read_bytes() == b"abc"


def test_the_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(file, monkeypatch):
    """What is renamed before it is synced may be empty after a power cut."""
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(storage.os, "fsync", lambda descriptor: (done.append("sync"), fsync(descriptor)))
    monkeypatch.setattr(storage.os, "replace", lambda old, new: (done.append("rename"), replace(old, new)))
    storage.write_atomically(file, b"x")
    assert done == (["sync", "rename", "sync"] if os.name == "posix" else ["sync", "rename"])


def test_advice_never_reaches_beyond_the_pages_it_is_about(monkeypatch):
    """To give back a page at the edge would be to give back a neighbour's; to read one more is harmless."""
    page, said = mmap.PAGESIZE, []
    monkeypatch.setattr(storage, "_madvise", lambda *arguments: said.append(arguments))
    storage.advise(10 * page + 5, 3 * page, 3)
    assert said.pop() == (10 * page, 3 * page + 5, 3)
    if storage.GONE is not None:
        storage.advise(10 * page + 5, 3 * page, storage.GONE)
        assert said.pop() == (11 * page, 2 * page, storage.GONE)
        storage.advise(10 * page + 5, page, storage.GONE)
    storage.advise(10 * page, 0, 3)
    storage.advise(10 * page, page, None)
    assert not said


def test_where_a_system_takes_no_advice_nothing_happens(monkeypatch):
    monkeypatch.setattr(storage, "_madvise", None)
    storage.advise(1, 1 << 60, 3)


def test_advice_about_a_mapped_file_leaves_its_bytes(tmp_path):
    content = bytes(range(256)) * 1000
    (tmp_path / "x").write_bytes(content)
    mapped = storage.map_file(tmp_path / "x", len(content))
    kinds = ("HUGE_PAGES", "NORMAL", "SCATTERED", "COMING", "NOW", "COLD", "GONE")
    for kind in kinds:
        storage.advise(mapped.address, mapped.size, getattr(storage, kind))
        assert mapped.to_pybytes() == content
