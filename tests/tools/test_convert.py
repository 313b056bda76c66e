"""`minibatch convert`: equal bytes, refused places, and what a conversion that fails or is killed leaves behind."""

import io
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console

from minibatch import Dataset
from minibatch.errors import UnfinishedDatasetError
from minibatch.tools import convert as convert_file
from tests.tools.samples import (
    EVERY_SOURCE,
    PETS,
    ROOT,
    contents,
    converted,
    pack,
    picture,
    program,
    run,
    write_files,
)


@pytest.fixture
def numbers(tmp_path):
    """An .npy file of 1,000 rows."""
    np.save(tmp_path / "numbers.npy", np.arange(1000, dtype=np.int32))
    return tmp_path / "numbers.npy"


def fresh(source, folder, *options):
    """The files of a conversion that nothing disturbed."""
    converted(source, folder / "fresh", *options)
    return contents(folder / "fresh")


@pytest.mark.parametrize("write", EVERY_SOURCE)
def test_the_same_source_gives_the_same_bytes_each_time(write, tmp_path):
    source = write(tmp_path)
    converted(source, tmp_path / "one", "--chunk-rows", 2, "--shard-rows", 3)
    if os.path.exists(source):
        os.utime(source)
    assert program("convert", source, tmp_path / "two", "--chunk-rows", 2, "--shard-rows", 3).returncode == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) >= 3


def test_the_bytes_do_not_depend_on_where_the_source_lies(tmp_path):
    for folder in ("a", "b/ü"):
        write_files(tmp_path / folder / "pets", PETS)
        converted(tmp_path / folder / "pets", tmp_path / folder / "out")
    assert contents(tmp_path / "a" / "out") == contents(tmp_path / "b/ü" / "out")


def test_the_summary_line_says_what_was_written(numbers, tmp_path):
    result = run("convert", numbers, tmp_path / "out", "--shard-rows", 400)
    dataset = Dataset.open(tmp_path / "out")
    line = result.stdout
    assert line.count("\n") == 1
    size = sum(shard.bytes for shard in dataset.manifest.shards)
    for part in (f"{tmp_path / 'out'}: 1,000 rows", f"{size / 1e6:.1f} MB in 3 shards", " s (", "MB/s)"):
        assert part in line
    assert line.strip().endswith(f"fingerprint {dataset.fingerprint}")
    assert result.stderr == f"{numbers}: 1 NumPy array: x int32 (1000,)\n"


def test_quiet_leaves_only_the_summary_line(numbers, tmp_path):
    result = run("convert", numbers, tmp_path / "out", "--quiet")
    assert result.stderr == ""
    assert result.stdout.count("\n") == 1


def test_a_terminal_shows_a_bar_with_rate_and_time_left():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with convert_file.progress(console, 1000, shown=True) as advance:
        for _ in range(4):
            advance(100)
            time.sleep(0.01)
    shown = screen.getvalue()
    assert "40 %" in shown
    assert "400 rows" in shown
    assert "rows/s" in shown
    assert "0:00:" in shown


def test_the_chosen_sizes_of_chunks_and_shards_are_kept(numbers, tmp_path):
    dataset = converted(numbers, tmp_path / "out", "--chunk-rows", 70, "--shard-rows", 300)
    assert [shard.rows for shard in dataset.manifest.shards] == [300, 300, 300, 100]
    assert dataset.manifest.shards[0].chunks == (70, 70, 70, 70, 20)


@pytest.mark.parametrize("limit", [1, 999, 1000, 5000])
def test_a_limit_takes_the_first_rows(limit, numbers, tmp_path, monkeypatch):
    monkeypatch.setattr("minibatch.tools.sources.PIECE_BYTES", 28)
    dataset = converted(numbers, tmp_path / "out", "--limit", limit)
    assert dataset.read(np.arange(len(dataset)))["x"].tolist() == list(range(min(limit, 1000)))


def test_the_manifest_says_from_what_the_data_were_made(tmp_path):
    source = write_files(tmp_path / "pets", {f"train/{name}": content for name, content in PETS.items()})
    out = tmp_path / "out"
    made = converted(source, out, "--subset", "train", "--decode", "--limit", 2)
    assert made.manifest.source == "pets --subset train --decode --limit 2"


def test_names_in_every_script_are_fine(tmp_path):
    folder = tmp_path / "データ ü [x]"
    source = write_files(folder / "Tiere 🐈", PETS)
    dataset = converted(source, folder / "出力 [bold]")
    assert dataset.read(np.arange(4))["file"].tolist() == list(PETS)


def test_a_complete_data_set_is_replaced_only_when_told_to(numbers, tmp_path):
    out = tmp_path / "out"
    converted("sklearn:iris", out)
    before = contents(out)
    result = run("convert", numbers, out)
    assert result.exit_code == 1
    assert "holds a complete data set: choose another folder, or replace it with --overwrite" in result.stderr
    assert contents(out) == before
    assert len(converted(numbers, out, "--overwrite")) == 1000
    assert contents(out) == fresh(numbers, tmp_path)


def test_a_source_that_cannot_be_read_does_not_cost_the_old_data_set(tmp_path):
    out = tmp_path / "out"
    converted("sklearn:iris", out)
    before = contents(out)
    (tmp_path / "bad.csv").write_text("a,b\n1,2,3\n")
    assert run("convert", tmp_path / "bad.csv", out, "--overwrite").exit_code == 1
    assert contents(out) == before


def test_a_folder_with_other_things_is_left_alone(numbers, tmp_path):
    other = write_files(tmp_path / "other", {"thesis.txt": b"years of work"})
    for options in ([], ["--overwrite"]):
        result = run("convert", numbers, other, *options)
        assert result.exit_code == 1
        assert "holds other things (thesis.txt" in result.stderr
        assert "unfinished" not in result.stderr
    assert contents(other) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize("inside", [".", "cat", "new/folder"])
def test_out_may_not_lie_in_the_source(inside, tmp_path):
    source = write_files(tmp_path / "pets", PETS)
    result = run("convert", source, source / inside)
    assert result.exit_code == 1
    assert "is SOURCE or lies in it" in result.stderr
    assert sorted(file.relative_to(source).as_posix() for file in source.rglob("*.*")) == sorted(PETS)


def test_out_may_not_be_the_source_file(numbers):
    assert "is SOURCE or lies in it" in run("convert", numbers, numbers).stderr


def test_a_file_in_the_place_of_out_is_refused(numbers, tmp_path):
    (tmp_path / "out").write_text("a file")
    result = run("convert", numbers, tmp_path / "out")
    assert result.exit_code == 1
    assert "is a file; expected a folder" in result.stderr


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv"])
def test_a_source_without_rows_is_refused_and_nothing_is_made(name, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((0, 3)))
    np.savez(tmp_path / "a.npz", x=np.zeros((0, 3)), y=np.zeros(0))
    (tmp_path / "a.csv").write_text("x,y\n")
    result = run("convert", tmp_path / name, tmp_path / "out")
    assert result.exit_code == 1
    assert "error: there are no rows in this source" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_error_in_the_first_piece_leaves_nothing_behind(tmp_path):
    source = write_files(tmp_path / "pets", {"cat/1.png": b"no image"})
    result = run("convert", source, tmp_path / "out")
    assert result.exit_code == 1
    assert "'cat/1.png' is no readable image" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_error_later_leaves_a_folder_that_says_it_is_unfinished_and_can_be_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr("minibatch.tools.sources.images.PIECE_BYTES", 50)
    source = write_files(tmp_path / "pets", {**PETS, "zebra/1.png": b"no image"})
    out = tmp_path / "out"
    result = run("convert", source, out, "--chunk-rows", 1, "--shard-rows", 2)
    assert result.exit_code == 1
    assert f"{out} is unfinished and no data set; the same command goes on after 1 finished shard" in result.stderr
    assert "error: " in result.stderr
    with pytest.raises(UnfinishedDatasetError):
        Dataset.open(out)
    (source / "zebra/1.png").write_bytes(picture(7))
    again = run("convert", source, out, "--chunk-rows", 1, "--shard-rows", 2)
    assert f"{out}: starting anew instead of continuing what was there before, because " in again.stderr
    assert len(Dataset.open(out)) == 5
    assert contents(out) == fresh(source, tmp_path, "--chunk-rows", 1, "--shard-rows", 2)


def test_a_folder_that_may_not_be_written_is_named(numbers, tmp_path, monkeypatch):
    # Simulated, because the superuser may write everywhere.
    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    result = run("convert", numbers, tmp_path / "read-only" / "out")
    assert result.exit_code == 1
    assert f"error: {tmp_path / 'read-only' / 'out'}: " in result.stderr
    assert "Permission denied" in result.stderr


def test_a_disk_that_fills_up_leaves_an_unfinished_folder(tmp_path):
    # A limit on the size of a file, as a full disk would, makes the system refuse to write on.
    done = program(
        "convert",
        "sklearn:digits",
        tmp_path / "out",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "is unfinished and no data set" in done.stderr
    with pytest.raises(UnfinishedDatasetError):
        Dataset.open(tmp_path / "out")
    assert len(converted("sklearn:digits", tmp_path / "out")) == 1797


# A conversion that says on stdout when it has written its first pieces, and then waits for ever.
STUCK = """
import sys, time
import numpy as np
from minibatch.tools import convert, cli

class Stuck:
    rows, metadata = 1000, {}
    def describe(self): return "1 NumPy array: x int32 (1000,)"
    def batches(self):
        for start in range(0, 500, 100):
            yield {"x": np.arange(start, start + 100, dtype=np.int32)}
        print("stuck", flush=True)
        time.sleep(60)

convert.open_source = lambda text, options: Stuck()
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_conversion_that_is_stopped_or_killed_starts_again_to_the_same_bytes(sent, code, numbers, tmp_path):
    out, options = tmp_path / "out", ["--chunk-rows", "30", "--shard-rows", "100"]
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, "convert", numbers, out, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(sent)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    if sent == signal.SIGINT:
        assert (
            f"{out} is unfinished and no data set; the same command goes on after 5 finished shards\nstopped\n" in said
        )
        assert "Traceback" not in said
    assert (out / "shard-00003.arrow").exists()
    with pytest.raises(UnfinishedDatasetError):
        Dataset.open(out)
    assert run("show", out).exit_code == 1

    result = run("convert", numbers, out, *options)
    assert f"{out}: going on after row 500, where the last finished shard ends" in result.stderr
    assert contents(out) == fresh(numbers, tmp_path, *options)


def test_a_stop_before_anything_is_written_changes_nothing(numbers, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(convert_file, "open_source", interrupt)
    result = run("convert", numbers, tmp_path / "out")
    assert (result.exit_code, result.stderr) == (130, "stopped\n")
    assert not (tmp_path / "out").exists()


def test_a_second_writer_on_the_same_folder_gets_a_clear_error(numbers, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, "convert", numbers, tmp_path / "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout.readline() == "stuck\n"
    try:
        result = run("convert", numbers, tmp_path / "out")
        assert result.exit_code == 1
        assert "another process is writing to" in result.stderr
        assert "unfinished" not in result.stderr
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ["compressed npz", "unsorted tar.gz"])
def test_memory_stays_bounded_whatever_the_size_of_the_source(kind, tmp_path):
    def make(megabytes):
        if kind == "compressed npz":
            path = tmp_path / f"{megabytes}.npz"
            np.savez_compressed(path, x=np.zeros((megabytes, 1000, 1000), np.uint8))
            return path
        image = picture(1, (100, 100), "BMP") + bytes(1_000_000 - 30_054)  # most readers ignore what follows an image
        return pack(tmp_path / f"{megabytes}.tar.gz", [(f"a/{i:04}.bmp", image) for i in reversed(range(megabytes))])

    def peak_megabytes(source):
        code = (
            "import resource, sys; from minibatch.tools import cli\n"
            "try: cli.main(sys.argv[1:])\n"
            "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
        )
        command = [sys.executable, "-c", code, "convert", source, f"{source}.out", "--shard-rows", "10", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        return int(done.stdout.split()[-1])

    assert peak_megabytes(make(200)) - peak_megabytes(make(20)) < 60
