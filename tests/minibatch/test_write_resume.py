"""`DatasetWriter(resume=…)`: stopped at any moment and started again, it goes on behind its finished shards, to the
bytes of an undisturbed writer; what was made from something else is not continued, and the reason is told."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch import Dataset, DatasetWriter
from minibatch.check import check_dataset
from minibatch.claim import JOURNAL
from minibatch.errors import DatasetError, UnfinishedDatasetError
from minibatch.storage import LOCK, MANIFEST
from tests.datasets import contents, every_type, put
from tests.minibatch.test_write_stopped import OLD, at_line, posix
from tests.syntax import ROOT

ROWS = {"x": np.arange(23), "s": [f"row {i}" for i in range(23)], "v": [np.arange(i % 3) for i in range(23)]}
WHAT = {"source": "rows", "size": 23}


def go_on(folder, fields=None, what=WHAT, stop=None, piece=3, **options):
    """Write the rows of `fields` that are not there yet, and give how many were; stop after row `stop` if told to."""
    fields = ROWS if fields is None else fields
    rows = len(next(iter(fields.values())))
    with DatasetWriter(folder, 2, 4, resume=what, **options) as writer:
        there = writer.rows
        for start in range(there, rows, piece):
            writer.write({name: values[start : min(start + piece, rows)] for name, values in fields.items()})
            writer.mark({"row": writer.rows})
            if stop is not None and writer.rows >= stop:
                writer.abandon()
                break
    return there


def fresh(base):
    """The files of a writer that nothing disturbed."""
    return contents(put(base / "fresh", ROWS, 2, 4))


def assert_finished(folder, base, kept=0):
    """Go on to the end; the files are those of an undisturbed writer, and `kept` rows were there."""
    assert go_on(folder, overwrite=(folder / MANIFEST).exists()) == kept
    assert contents(folder) == fresh(base)
    assert check_dataset(folder) == []


@pytest.mark.parametrize("stop", [1, 4, 11, 20, 23])
def test_a_writer_goes_on_behind_the_last_finished_shard(stop, tmp_path):
    go_on(tmp_path / "d", stop=stop)
    with pytest.raises(UnfinishedDatasetError):
        Dataset.open(tmp_path / "d")
    written = min(23, -(-stop // 3) * 3)
    assert_finished(tmp_path / "d", tmp_path, kept=written // 4 * 4)


def test_a_writer_may_be_stopped_again_and_again(tmp_path):
    kept = [go_on(tmp_path / "d", stop=stop) for stop in (2, 9, 10, 17, 18)]
    assert kept == [0, 0, 8, 8, 16]
    assert_finished(tmp_path / "d", tmp_path, kept=16)


def test_without_a_stop_resume_changes_nothing(tmp_path):
    assert_finished(tmp_path / "d", tmp_path)
    assert sorted(contents(tmp_path / "d")) == [MANIFEST, *(f"shard-{i:05d}.arrow" for i in range(6))]
    with pytest.raises(DatasetError, match="already holds a complete"):
        DatasetWriter(tmp_path / "d", 2, 4, resume=WHAT)


def test_sizes_that_were_found_from_the_first_rows_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("minibatch.write.CHUNK_BYTES", 60)
    monkeypatch.setattr("minibatch.write.SHARD_BYTES", 240)
    fields = every_type(30)
    whole = contents(put(tmp_path / "whole", {name: fields[name] for name in ("int64", "text")}, cuts=[7]))
    writer = DatasetWriter(tmp_path / "d", resume=WHAT)
    for start, stop in ((0, 7), (7, 25)):
        writer.write({name: fields[name][start:stop] for name in ("int64", "text")})
    writer.abandon()
    with DatasetWriter(tmp_path / "d", resume=WHAT) as writer:
        assert 0 < writer.rows < 25
        writer.write({name: fields[name][writer.rows :] for name in ("int64", "text")})
    assert contents(tmp_path / "d") == whole


def killed_while_writing(base, overwrite, step):
    """In a process of its own: for every moment a child that dies there, in a folder named by the moment."""
    base, moment = Path(base), 1
    go_on(base / "warm", stop=9)
    go_on(base / "warm")  # loads what Arrow loads at its first use, once and not in every child
    shutil.rmtree(base / "warm")
    while True:
        folder = base / str(moment)
        if overwrite:
            shutil.copytree(base / "old", folder)
        child = os.fork()
        if not child:
            at_line(moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
            go_on(folder, overwrite=overwrite)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            print(os.waitstatus_to_exitcode(status))
            return
        moment += step


@posix
@pytest.mark.parametrize(("overwrite", "step"), [(False, 19), (True, 29)])
def test_killed_at_any_line_a_writer_is_continued_to_the_same_bytes(overwrite, step, tmp_path):
    """SIGKILL at lines all over the files that write; a data set that is replaced stays until the new one is there."""
    put(tmp_path / "old", OLD)
    call = (
        f"from tests.minibatch.test_write_resume import *; killed_while_writing({str(tmp_path)!r}, {overwrite}, {step})"
    )
    done = subprocess.run([sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr
    undisturbed, kept = fresh(tmp_path), set()
    moments = sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    assert len(moments) > 900 / step
    for moment in moments:
        folder = tmp_path / str(moment)
        if not overwrite and (folder / MANIFEST).exists():  # it died after the end
            assert len(Dataset.open(folder)) == 23
            continue
        if overwrite and MANIFEST in contents(folder):
            assert len(Dataset.open(folder)) in (5, 23)
        kept.add(go_on(folder, overwrite=overwrite))
        assert contents(folder) == undisturbed
    assert kept == {0, 4, 8, 12, 16, 20}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupted_at_any_line_a_writer_is_continued_to_the_same_bytes(tmp_path):
    """Ctrl-C, as an exception from lines all over the same files."""
    undisturbed = fresh(tmp_path)

    def interrupt():
        raise KeyboardInterrupt

    moment, interrupted = 1, True
    tracer = sys.gettrace()
    while interrupted:
        folder, interrupted = tmp_path / str(moment), False
        at_line(moment, interrupt)
        try:
            go_on(folder)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(tracer)
        if not (folder / MANIFEST).exists():
            go_on(folder)
        files = contents(folder)
        if interrupted:  # perhaps just behind its end
            files = {name: content for name, content in files.items() if name not in (LOCK, JOURNAL)}
        assert files == undisturbed
        moment += 29
    assert moment > 900


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"what": {"source": "others", "size": 23}}, "^source was 'rows' and is 'others'$"),
        ({"what": {"source": "rows"}}, "^size was 23 and is None$"),
        ({"metadata": {"x": {"note": "new"}}}, "^metadata.x.note was None and is 'new'$"),
        ({"source": "b"}, "source was None and is 'b'"),
    ],
    ids=str,
)
def test_rows_of_something_else_are_not_continued_and_the_reason_is_told(change, reason, tmp_path):
    go_on(tmp_path / "d", stop=12)
    options = {"resume": change.get("what", WHAT)} | {name: value for name, value in change.items() if name != "what"}
    with DatasetWriter(tmp_path / "d", 2, 4, **options) as writer:
        assert writer.rows == 0
        assert re.search(reason, writer.resumption.refused), writer.resumption.refused
        assert [name for name in contents(tmp_path / "d") if name.startswith("shard")] == []
        writer.write(ROWS)
    assert check_dataset(tmp_path / "d") == []


def test_other_sizes_of_chunks_or_shards_are_not_continued(tmp_path):
    for sizes, reason in (((3, 4), "chunk_rows was 2 and is 3"), ((2, 6), "shard_rows was 4 and is 6")):
        go_on(tmp_path / "d", stop=12)
        writer = DatasetWriter(tmp_path / "d", *sizes, resume=WHAT)
        assert (writer.rows, writer.resumption.refused) == (0, reason)
        writer.abandon()


def test_another_release_of_the_libraries_does_not_go_on_with_files_of_the_first(tmp_path, monkeypatch):
    go_on(tmp_path / "d", stop=12)
    monkeypatch.setattr("pyarrow.__version__", "999.0.0")
    writer = DatasetWriter(tmp_path / "d", 2, 4, resume=WHAT)
    assert writer.rows == 0
    assert "pyarrow was " in writer.resumption.refused
    writer.abandon()


@pytest.mark.parametrize("damage", ["a flipped byte", "cut short", "removed"])
def test_a_finished_shard_that_was_damaged_is_written_again_with_all_that_follow(damage, tmp_path):
    go_on(tmp_path / "d", stop=20)
    path = tmp_path / "d" / "shard-00002.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "removed":
        path.write_bytes(content if damage == "a flipped byte" else content[:-20])
    writer = DatasetWriter(tmp_path / "d", 2, 4, resume=WHAT)
    assert writer.rows == 8
    assert "shard-00002.arrow" in writer.resumption.refused
    writer.abandon()
    assert_finished(tmp_path / "d", tmp_path, kept=8)


@pytest.mark.parametrize("end", range(1, 60, 7))
def test_a_line_of_the_journal_that_is_not_whole_ends_it(end, tmp_path):
    go_on(tmp_path / "d", stop=20)
    path = tmp_path / "d" / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2 + 5
    path.write_bytes(b"".join(lines[:5]) + lines[5][:-end])
    assert_finished(tmp_path / "d", tmp_path, kept=12)


def test_a_journal_that_was_changed_is_not_believed(tmp_path):
    go_on(tmp_path / "d", stop=20)
    path = tmp_path / "d" / JOURNAL
    path.write_bytes(path.read_bytes().replace(b'"rows":4', b'"rows":8', 1))
    assert_finished(tmp_path / "d", tmp_path, kept=0)


def test_a_writer_that_does_not_resume_clears_everything(tmp_path):
    go_on(tmp_path / "d", stop=12)
    put(tmp_path / "d", OLD)
    assert sorted(contents(tmp_path / "d")) == [MANIFEST, "shard-00000.arrow"]


def test_a_replacement_that_was_stopped_is_continued_beside_the_old_data_set(tmp_path):
    put(tmp_path / "d", OLD)
    go_on(tmp_path / "d", stop=14, overwrite=True)
    assert Dataset.open(tmp_path / "d").read(range(5))["x"].tolist() == OLD["x"].tolist()
    assert check_dataset(tmp_path / "d") == []
    with pytest.raises(DatasetError, match="already holds a complete"):
        DatasetWriter(tmp_path / "d", 2, 4, resume=WHAT)
    assert_finished(tmp_path / "d", tmp_path, kept=12)


def test_a_replacement_that_was_stopped_before_its_first_shard_leaves_nothing(tmp_path):
    before = contents(put(tmp_path / "d", OLD))
    go_on(tmp_path / "d", stop=3, overwrite=True)
    assert {name: content for name, content in contents(tmp_path / "d").items() if name != JOURNAL} == before


@given(
    stops=st.lists(st.integers(1, 39), max_size=4),
    pieces=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    shard_rows=st.integers(1, 9),
)
@settings(max_examples=25, deadline=None)
def test_the_mark_is_the_last_one_told_before_the_kept_rows_ended(stops, pieces, shard_rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("d") / "d"
    borders = [0]
    while borders[-1] < 40:
        borders.append(min(40, borders[-1] + pieces[len(borders) % len(pieces)]))
    for stop in [*sorted(stops), 40]:
        with DatasetWriter(folder, 2, shard_rows, resume={}) as writer:
            kept = writer.rows
            mark, mark_rows = writer.resumption.mark, writer.resumption.mark_rows
            covered = [border for border in borders[1:] if border < kept]  # what follows is told after the write
            assert (mark, mark_rows) == ((f"until {covered[-1]}", covered[-1]) if covered else (None, 0))
            for begin, end in itertools.pairwise(borders):
                if end <= mark_rows:
                    continue
                if end > writer.rows:
                    writer.write({"x": np.arange(max(begin, writer.rows), end)})
                writer.mark(f"until {end}")
                if end >= stop:
                    if stop < 40:
                        writer.abandon()
                    break
    assert Dataset.open(folder).read(np.arange(40))["x"].tolist() == list(range(40))


def test_what_cannot_be_written_down_is_refused(tmp_path):
    with pytest.raises(TypeError, match="resume must be made of what JSON can hold"):
        DatasetWriter(tmp_path / "d", resume={"source": object()})
    assert not (tmp_path / "d").exists()


def test_the_journal_tells_in_json_what_was_finished(tmp_path):
    go_on(tmp_path / "d", stop=9)
    lines = (tmp_path / "d" / JOURNAL).read_bytes().splitlines()
    what, schema, *shards = (json.loads(line.partition(b" ")[2]) for line in lines)
    assert what["what"]["what"] == WHAT
    assert (schema["schema"]["chunk_rows"], schema["schema"]["shard_rows"]) == (2, 4)
    assert [line["shard"]["entry"]["rows"] for line in shards] == [4, 4]
    assert [line["shard"]["mark"] for line in shards] == [{"row": 3}, {"row": 6}]
