"""`DatasetWriter` and its folder: what is not ours is not touched, what is complete is kept, one writer at a time; and
where there is no room or no permission, an error that names the folder and a data set that says it is unfinished."""

import os
import resource
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from minibatch import Dataset, DatasetWriter
from minibatch.check import check_dataset
from minibatch.errors import DatasetError, UnfinishedDatasetError, WriterBusyError
from minibatch.storage import LOCK, MANIFEST
from tests.datasets import contents, put

posix = pytest.mark.skipif(os.name != "posix", reason="files and users have limits as on POSIX systems")
GOOD = {"x": np.arange(3), "v": np.zeros((3, 2), np.float32), "s": ["a", "b", "c"]}
NEW = {"x": np.arange(9), "s": [f"row {i}" for i in range(9)]}


def test_a_finished_folder_has_nothing_but_the_data_set(tmp_path):
    put(tmp_path / "a" / "b" / "d", GOOD, 1, 2)
    assert sorted(contents(tmp_path / "a" / "b" / "d")) == [MANIFEST, "shard-00000.arrow", "shard-00001.arrow"]


def test_a_file_is_no_folder_to_write_into(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DatasetError, match="file is a file; expected a folder"):
        DatasetWriter(tmp_path / "file")
    with pytest.raises(NotADirectoryError, match="cannot write a data set here"):
        DatasetWriter(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def foreign(folder, kind):
    folder.mkdir()
    if kind == "a file":
        (folder / "thesis.tex").write_text("years of work")
    elif kind == "a folder":
        (folder / "photos").mkdir()
    elif kind == "a hidden file":
        (folder / ".git").touch()
    elif kind == "shards of somebody else":
        (folder / "shard-00000.arrow").write_text("theirs")
        (folder / "shard-00001.arrow.partial").write_text("theirs")
    elif kind == "a manifest of somebody else":
        (folder / MANIFEST).write_text('{"name": "a web page", "icons": []}')
    elif kind == "a folder called like a shard":
        (folder / LOCK).touch()
        (folder / "shard-00000.arrow").mkdir()
        (folder / "shard-00000.arrow" / "inside").touch()
    elif kind == "a link called like the lock":
        (folder.parent / "precious").write_text("precious")
        (folder / LOCK).symlink_to(folder.parent / "precious")
    elif kind == "beside a data set":
        put(folder, GOOD)
        (folder / "notes.txt").write_text("theirs")
    elif kind == "beside an unfinished data set":
        (folder / LOCK).touch()
        (folder / "shard-00000.arrow").touch()
        (folder / "shard-00000.arrow.bak").touch()


FOREIGN = [
    "a file",
    "a folder",
    "a hidden file",
    "shards of somebody else",
    "a manifest of somebody else",
    "a folder called like a shard",
    "a link called like the lock",
    "beside a data set",
    "beside an unfinished data set",
]


def tree(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_with_other_things_is_refused_and_not_touched(kind, overwrite, tmp_path):
    foreign(tmp_path / "d", kind)
    before = tree(tmp_path)
    with pytest.raises(DatasetError, match="holds other things"):
        DatasetWriter(tmp_path / "d", overwrite=overwrite)
    assert tree(tmp_path) == before


def test_a_complete_data_set_is_kept_unless_told_otherwise(tmp_path):
    folder = put(tmp_path / "d", GOOD)
    before = contents(folder)
    with pytest.raises(DatasetError, match=r"already holds a complete data set.*overwrite=True"):
        DatasetWriter(folder)
    assert contents(folder) == before
    put(folder, {"y": np.arange(50)}, 5, 10, overwrite=True)
    put(folder, {"y": np.arange(5)}, 5, 10, overwrite=True)
    assert sorted(contents(folder)) == [MANIFEST, "shard-00000.arrow"]
    assert list(Dataset.open(folder).read([4])["y"]) == [4]


def test_a_damaged_data_set_may_be_overwritten(tmp_path):
    folder = put(tmp_path / "d", GOOD)
    content = bytearray((folder / MANIFEST).read_bytes())
    content[-30] ^= 1
    (folder / MANIFEST).write_bytes(content)
    (folder / "shard-00000.arrow").write_bytes(b"")
    with pytest.raises(DatasetError, match="already holds"):
        DatasetWriter(folder)
    put(folder, GOOD, overwrite=True)
    assert check_dataset(folder) == []


def test_while_it_is_overwritten_a_data_set_stays_complete(tmp_path):
    folder = put(tmp_path / "d", {"x": np.arange(8)}, 2, 4)
    with DatasetWriter(folder, 1, 1, overwrite=True) as writer:
        writer.write(GOOD)
        assert check_dataset(folder) == []
        assert len(Dataset.open(folder)) == 8
    assert check_dataset(folder) == []
    assert len(Dataset.open(folder)) == 3


def test_an_overwriting_that_fails_leaves_the_old_data_set_and_nothing_else(tmp_path):
    folder = put(tmp_path / "d", {"x": np.arange(8)}, 2, 4)
    before = contents(folder)
    writer = DatasetWriter(folder, 1, 1, overwrite=True)
    writer.write(GOOD)
    writer.abandon()
    assert contents(folder) == before


def test_a_reader_is_told_when_its_data_set_was_overwritten(tmp_path):
    """What it has mapped it keeps; shards of the new data set in place of the others would be rows mixed up."""
    folder = put(tmp_path / "d", {"x": np.arange(8)}, 2, 4)
    dataset = Dataset.open(folder)
    assert dataset.read([0])["x"].tolist() == [0]
    put(folder, {"x": np.arange(8) + 100}, 2, 4, overwrite=True)
    assert dataset.read([3])["x"].tolist() == [3]
    with pytest.raises(DatasetError, match="written anew since it was opened: open it again"):
        dataset.read([4])
    assert Dataset.open(folder).read([4])["x"].tolist() == [104]


def test_a_writer_that_looks_while_others_take_turns_knows_the_folder_for_ours(tmp_path, monkeypatch):
    """The first writer has exchanged its lock for a manifest, the second the manifest for a lock, between two looks."""
    folder = put(tmp_path / "d", GOOD)
    read = Path.read_bytes

    def removed_before_it_is_read(path):
        if path.name == MANIFEST and path.exists():
            path.unlink()
            (folder / LOCK).touch()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", removed_before_it_is_read)
    DatasetWriter(folder).abandon()


def test_two_writers_in_one_process_exclude_each_other(tmp_path):
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write(GOOD)
        for overwrite in (False, True):
            with pytest.raises(WriterBusyError, match="another process is writing to"):
                DatasetWriter(tmp_path / "d", overwrite=overwrite)
    assert check_dataset(tmp_path / "d") == []


def test_an_exception_in_the_block_leaves_the_folder_unfinished_for_the_next_writer(tmp_path):
    def pieces():
        yield GOOD
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), DatasetWriter(tmp_path / "d", 1, 2) as writer:
        any(map(writer.write, pieces()))
    with pytest.raises(UnfinishedDatasetError, match="not finished; run the conversion again"):
        Dataset.open(tmp_path / "d")
    assert "shard-00000.arrow" in contents(tmp_path / "d")
    put(tmp_path / "d", {"y": np.arange(2)})
    assert sorted(contents(tmp_path / "d")) == [MANIFEST, "shard-00000.arrow"]
    assert len(Dataset.open(tmp_path / "d")) == 2


# --- no room, no permission ---------------------------------------------------------------------------------------


@contextmanager
def largest_file(size):
    """Let no file grow beyond `size` bytes: the system refuses the write, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@posix
def test_out_of_room_at_any_byte_a_writer_says_so_and_leaves_the_folder_unfinished(tmp_path):
    shards = put(tmp_path / "whole", NEW, 2, 4)
    largest = max(len(content) for content in contents(shards).values())
    for size in [*range(0, largest, 23), largest - 1]:
        folder = tmp_path / str(size)
        with pytest.raises(OSError, match="unfinished after row") as caught, largest_file(size):
            put(folder, NEW, 2, 4, cuts=[3])
        assert caught.value.filename == str(folder)
        assert "File too large" in str(caught.value)
        with pytest.raises(UnfinishedDatasetError):
            Dataset.open(folder)
        put(folder, NEW, 2, 4)
        assert contents(folder) == contents(shards)
    with largest_file(largest):
        put(tmp_path / "fits", NEW, 2, 4)
    assert contents(tmp_path / "fits") == contents(shards)


@posix
def test_no_room_for_the_manifest_alone_leaves_the_folder_unfinished(tmp_path):
    fields = {f"field {i}": np.arange(1, dtype=np.int8) for i in range(3)}
    whole = contents(put(tmp_path / "whole", fields))
    assert len(whole["shard-00000.arrow"]) < len(whole[MANIFEST]) - 1
    with pytest.raises(OSError, match="unfinished after row 1"), largest_file(len(whole[MANIFEST]) - 1):
        put(tmp_path / "d", fields)
    with pytest.raises(UnfinishedDatasetError):
        Dataset.open(tmp_path / "d")


@posix
def test_after_a_failed_write_nothing_more_is_taken(tmp_path):
    """A caller that swallows the error must not get a data set with a hole in it."""
    with DatasetWriter(tmp_path / "d", 2) as writer:
        writer.write({"x": np.arange(2)})
        with pytest.raises(OSError, match="unfinished after row 2"), largest_file(10):
            writer.write({"x": np.arange(2, 4)})
        with pytest.raises(ValueError, match="closed"):
            writer.write({"x": np.arange(4, 6)})
    with pytest.raises(UnfinishedDatasetError):
        Dataset.open(tmp_path / "d")


@posix
def test_a_failing_sync_is_an_error_and_no_data_set(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        put(tmp_path / "d", NEW)
    with pytest.raises(UnfinishedDatasetError):
        Dataset.open(tmp_path / "d")


@contextmanager
def nobody():
    """Run as a user without rights; root may write everywhere."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


@posix
def test_where_nothing_may_be_written_the_error_names_the_folder():
    base = Path(tempfile.mkdtemp())  # below a folder that everybody may enter, unlike tmp_path
    try:
        put(base / "data", GOOD)
        (base / "empty").mkdir()
        for folder in (base, base / "data", base / "empty"):
            folder.chmod(0o555)
        before = tree(base)
        with nobody():
            for name, overwrite in (("new", False), ("empty", False), ("data", False), ("data", True)):
                with pytest.raises(PermissionError, match="cannot write a data set here") as caught:
                    DatasetWriter(base / name, overwrite=overwrite)
                assert caught.value.filename == str(base / name)
            assert len(Dataset.open(base / "data").read([0, 1])["x"]) == 2
        assert tree(base) == before
    finally:
        for folder in (base, base / "data", base / "empty"):
            folder.chmod(0o755)
        shutil.rmtree(base)
