"""`minibatch convert` with workers, with malformed records, killed and continued, and of a format that a stranger adds:
always the bytes, and the report, of one undisturbed process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minibatch import Dataset
from minibatch.check import check_dataset
from minibatch.tools import sources, workers
from minibatch.tools.convert import write_source
from minibatch.tools.sources import BadRecords, Format
from tests.tools import stranger_format
from tests.tools.samples import EVERY_SOURCE, ROOT, contents, converted, picture, run, write_files
from tests.tools.slow_units import Unit, Units


@pytest.fixture
def at_once(monkeypatch):
    """Workers begin with the first piece."""
    monkeypatch.setattr(workers, "START_SECONDS", 0.0)


def pictures(folder, count=40):
    return write_files(folder, {f"{'ab'[i % 2]}/{i:03}.png": picture(i) for i in range(count)})


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", ["images", "decoded images", "decoded tar.gz", "parquet"])
def test_the_bytes_do_not_depend_on_the_number_of_workers(kind, count, at_once, tmp_path, monkeypatch):
    monkeypatch.setattr("minibatch.tools.sources.images.UNIT_BYTES", 200)
    monkeypatch.setattr("minibatch.tools.sources.images.PIECE_BYTES", 300)
    source, options = tmp_path / "a.parquet", ["--shard-rows", 7]
    if kind == "parquet":
        table = pa.table({"x": np.arange(100), "s": [f"row {i}" for i in range(100)]})
        pq.write_table(table, source, row_group_size=9)
    else:
        source = pictures(tmp_path / "pets")
        if kind == "decoded tar.gz":
            subprocess.run(["tar", "czf", tmp_path / "pets.tar.gz", "-C", tmp_path, "pets"], check=True)
            source = tmp_path / "pets.tar.gz"
        options += ["--decode"] * kind.startswith("decoded")
    started = []
    real = workers.worker
    monkeypatch.setattr(workers, "worker", lambda number: started.append(number) or real(number))
    converted(source, tmp_path / "one", *options, "--workers", 1)
    assert not started
    converted(source, tmp_path / "several", *options, "--workers", count)
    assert started == list(range(count))
    assert contents(tmp_path / "one") == contents(tmp_path / "several")


@pytest.mark.parametrize("write", EVERY_SOURCE)
def test_every_source_gives_the_same_bytes_by_its_units(write, at_once, tmp_path):
    source = write(tmp_path)
    converted(source, tmp_path / "one", "--workers", 1)
    converted(source, tmp_path / "two", "--workers", 2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_several_parquet_files_are_one_source(tmp_path):
    for number in range(3):
        pq.write_table(pa.table({"x": np.arange(5) + 5 * number}), tmp_path / f"part-{number}.parquet")
    for text in (tmp_path, tmp_path / "part-*.parquet", tmp_path / "part-{0..2}.parquet"):
        dataset = converted(text, tmp_path.parent / f"{tmp_path.name}-{len(str(text))}")
        assert dataset.read(np.arange(15))["x"].tolist() == list(range(15))
    (tmp_path / "read me.txt").write_text("other files make it something else")
    assert "holds no images" in run("convert", tmp_path, tmp_path.parent / "none").stderr
    (tmp_path / "read me.txt").unlink()
    pq.write_table(pa.table({"y": [1]}), tmp_path / "part-3.parquet")
    result = run("convert", tmp_path, tmp_path.parent / f"{tmp_path.name}-other")
    assert result.exit_code == 1
    assert "part-3.parquet' has other columns than" in result.stderr


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_pattern_of_files_is_one_source_with_a_unit_for_each(kind, count, at_once, tmp_path):
    for number in range(12):
        rows = range(number * 10, number * 10 + 10)
        lines = [f'{{"x": {i}, "s": "row {i}"}}' if kind == "jsonl" else f"{i},row {i}" for i in rows]
        (tmp_path / f"part-{number:02}.{kind}").write_text("\n".join([*["x,s"] * (kind == "csv"), *lines]) + "\n")
    dataset = converted(tmp_path / f"part-*.{kind}", tmp_path / "out", "--workers", count)
    assert dataset.read(np.arange(120))["x"].tolist() == list(range(120))
    some = converted(tmp_path / f"part-{{03..04}}.{kind}", tmp_path / "some")
    assert some.read(np.arange(20))["s"].tolist() == [f"row {i}" for i in range(30, 50)]
    path = tmp_path / f"part-07.{kind}"
    path.write_text(path.read_text().replace("75", "7.5"))
    result = run("convert", tmp_path / f"part-*.{kind}", tmp_path / "other", "--workers", count)
    assert result.exit_code == 1
    assert "part-07" in result.stderr
    assert "say the types with --type" in result.stderr
    result = run("convert", tmp_path / f"part-*.{kind}", tmp_path / "other", "--type", "x=float64")
    assert Dataset.open(tmp_path / "other").read([75])["x"].tolist() == [7.5]
    assert run("convert", tmp_path / f"none-*.{kind}", tmp_path / "none").exit_code == 1


# --- malformed records --------------------------------------------------------------------------------------------


def pets_with_broken(folder, broken):
    pictures(folder)
    for number in broken:
        (folder / f"{'ab'[number % 2]}/{number:03}.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("count", [1, 2])
def test_up_to_max_errors_malformed_records_are_skipped_and_reported(count, at_once, tmp_path, monkeypatch):
    monkeypatch.setattr("minibatch.tools.sources.images.UNIT_BYTES", 200)
    source = pets_with_broken(tmp_path / "pets", [0, 7, 8, 39])
    result = run("convert", source, tmp_path / "out", "--decode", "--max-errors", 4, "--workers", count, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["rows"], document["complete"]) == (36, True)
    assert [record["where"] for record in document["bad_records"]] == [
        "a/000.png",
        "a/008.png",
        "b/007.png",
        "b/039.png",
    ]
    assert {record["file"] for record in document["bad_records"]} == {str(source)}
    reason = "is no readable image: cannot identify image file; replace or remove it"
    assert {record["reason"] for record in document["bad_records"]} == {reason}
    lines = result.stderr.splitlines()
    assert lines[-5] == "skipped 4 malformed records:"
    assert lines[-1].startswith(f"  '{source}', b/039.png: ")
    names = Dataset.open(tmp_path / "out").read(np.arange(36))["file"].tolist()
    assert names == [name for name in sorted(names) if name[2:5] not in ("000", "007", "008", "039")]
    intact = pictures(tmp_path / "intact" / "pets")
    for name in ("a/000.png", "b/007.png", "a/008.png", "b/039.png"):
        (intact / name).unlink()
    assert Dataset.open(tmp_path / "out").fingerprint == converted(intact, tmp_path / "good", "--decode").fingerprint


@pytest.mark.parametrize("count", [1, 2])
def test_one_malformed_record_more_ends_the_conversion(count, at_once, tmp_path, monkeypatch):
    monkeypatch.setattr("minibatch.tools.sources.images.UNIT_BYTES", 200)
    monkeypatch.setattr("minibatch.tools.sources.images.PIECE_BYTES", 300)
    source, out = pets_with_broken(tmp_path / "pets", [0, 7, 8, 39]), tmp_path / "out"
    options = ["--decode", "--shard-rows", 4, "--workers", count]
    result = run("convert", source, out, *options, "--max-errors", 3, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["complete"] is False
    assert "b/039.png" in document["error"]
    assert "3 bad records before it were skipped, no more may be" in document["error"]
    assert [record["where"] for record in document["bad_records"]] == ["a/000.png", "a/008.png", "b/007.png"]
    assert "the same command goes on after 9 finished shards" in result.stderr

    result = run("convert", source, out, *options, "--max-errors", 4, "--json")  # goes on, and knows the first three
    document = json.loads(result.stdout)
    assert (document["rows"], document["resumed_rows"]) == (36, 36)
    assert [record["where"] for record in document["bad_records"]] == [
        "a/000.png",
        "a/008.png",
        "b/007.png",
        "b/039.png",
    ]
    converted(source, tmp_path / "fresh", *options, "--max-errors", 9)
    assert contents(out) == contents(tmp_path / "fresh")


def test_without_max_errors_the_first_malformed_record_ends_the_conversion(tmp_path):
    result = run("convert", pets_with_broken(tmp_path / "pets", [0]), tmp_path / "out", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["bad_records"] == []
    assert "'a/000.png' is no readable image" in document["error"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("most", [0, 3, 11, 12])
def test_what_is_counted_does_not_depend_on_timing(most, at_once, tmp_path):
    given = tuple(Unit(number=i, bad=2, seconds=0.01 * (i % 3)) for i in range(6))
    found = []
    for count in (1, 2):
        bad = BadRecords(most)
        try:
            write_source(Units(given=given), tmp_path / f"{most} {count}", bad=bad, workers=count)
            ended = "well"
        except sources.BadRecord as error:
            ended = str(error)
        found.append(([str(record) for record in bad.found], ended))
    assert found[0] == found[1]
    assert len(found[0][0]) == min(most, 12)
    assert (found[0][1] == "well") == (most == 12)


# --- stopped and continued ----------------------------------------------------------------------------------------

CONVERT = """
import sys
from minibatch.tools import cli, workers
import minibatch.tools.sources.images as images
workers.START_SECONDS, images.UNIT_BYTES, images.PIECE_BYTES = 0.0, 200, 300
if __name__ == "__main__":
    cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_moments_of_the_clock_a_conversion_by_workers_comes_to_the_same_bytes(sent, tmp_path, monkeypatch):
    monkeypatch.setattr("minibatch.tools.sources.images.UNIT_BYTES", 200)
    monkeypatch.setattr("minibatch.tools.sources.images.PIECE_BYTES", 300)
    source = pictures(tmp_path / "pets", 400)
    (source / "a/010.png").write_bytes(b"no image")
    (tmp_path / "program.py").write_text(CONVERT)
    options = ["--decode", "--shard-rows", "5", "--max-errors", "1", "--workers", "2"]
    command = [sys.executable, tmp_path / "program.py", "convert", source, tmp_path / "out", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    resumed = 0
    for shards in (1, 20, 60):
        process = subprocess.Popen(
            command, env=environment, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        end = time.monotonic() + 40
        while len(list((tmp_path / "out").glob("shard-*.arrow"))) < shards and time.monotonic() < end:
            if process.poll() is not None:
                break
            time.sleep(0.002)
        os.killpg(process.pid, sent) if sent == signal.SIGINT else process.kill()
        _, said = process.communicate(timeout=30)
        resumed += "going on after row" in said
        assert "Traceback" not in said
        assert sent == signal.SIGKILL or process.returncode in (130, 0)
    result = run("convert", source, tmp_path / "out", *options, "--json")
    assert resumed >= 1
    if "holds a complete data set" not in result.stderr:
        assert json.loads(result.stdout)["resumed_rows"] >= 100
        assert len(json.loads(result.stdout)["bad_records"]) == 1
    converted(source, tmp_path / "fresh", *options)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_units_that_are_done_are_not_read_again(tmp_path):
    given = tuple(Unit(number=i, rows=10, folder=str(tmp_path), act="raise" if i == 7 else "") for i in range(9))
    with pytest.raises(ValueError, match="unit 7 is damaged"):
        write_source(Units(given=given), tmp_path / "out", shard_rows=20, resume={})
    for path in tmp_path.glob("*-0"):
        path.unlink()
    whole = tuple(Unit(number=i, rows=10, folder=str(tmp_path)) for i in range(9))
    heard, told = [], []
    done = write_source(
        Units(given=whole), tmp_path / "out", shard_rows=20, resume={}, advance=heard.append, tell=told.append
    )
    assert (done.rows, done.resumed_rows, heard) == (90, 80, [80, 10])
    assert told == [f"{tmp_path / 'out'}: going on after row 80, where the last finished shard ends"]
    # the first, which is looked at before anything is touched, and those behind the last mark before the shard's end
    assert sorted(path.name for path in tmp_path.glob("*-0")) == ["0-0", "7-0", "8-0"]
    assert Dataset.open(tmp_path / "out").read(np.arange(90))["unit"].tolist() == [
        i for i in range(9) for _ in range(10)
    ]


@pytest.mark.parametrize("limit", [15, 20, 40, 45])
def test_a_limit_holds_for_what_is_continued_too(limit, tmp_path):
    given = tuple(Unit(number=i, act="raise" if i == 4 else "") for i in range(9))
    whole = tuple(Unit(number=i) for i in range(9))
    with pytest.raises(ValueError, match="unit 4 is damaged"):
        write_source(Units(given=given), tmp_path / "out", shard_rows=10, limit=80, resume={})
    done = write_source(Units(given=whole), tmp_path / "out", shard_rows=10, limit=limit, resume={})
    fresh = write_source(Units(given=whole), tmp_path / "fresh", shard_rows=10, limit=limit)
    assert done.resumed_rows == 0  # of another limit
    assert (done.rows, done.fingerprint) == (limit, fresh.fingerprint)
    with pytest.raises(ValueError, match="unit 4 is damaged"):
        write_source(Units(given=given), tmp_path / "again", shard_rows=10, limit=limit + 40, resume={})
    done = write_source(Units(given=whole), tmp_path / "again", shard_rows=10, limit=limit + 40, resume={})
    assert (done.rows, done.resumed_rows) == (limit + 40, 50)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("another option", "options.decode was None and is True"),
        ("another limit", "limit was None and is 9"),
        ("a new file", "files was '40 files of "),
        ("a file that was touched", "files was '40 files of "),
    ],
)
def test_a_changed_source_or_option_starts_anew_and_says_so(change, reason, tmp_path, monkeypatch):
    monkeypatch.setattr("minibatch.tools.sources.images.PIECE_BYTES", 300)
    source = pets_with_broken(tmp_path / "pets", [39])
    options = ["--chunk-rows", 2, "--shard-rows", 4]
    # an unfinished conversion of 40 images, of which the last is damaged
    assert run("convert", source, tmp_path / "cut", *options).exit_code == 1
    options += {"another option": ["--decode"], "another limit": ["--limit", 9]}.get(change, [])
    (source / "b/039.png").write_bytes(picture(3)) if change == "a new file" else None
    if change == "a file that was touched":
        os.utime(source / "a/000.png", (1, 1))
    result = run("convert", source, tmp_path / "cut", *options, "--max-errors", 1)
    assert result.exit_code == 0
    told = " ".join(result.stderr.split())
    assert f"starting anew instead of continuing what was there before, because {reason}" in told
    assert json.loads(run("convert", source, tmp_path / "two", *options, "--max-errors", 1, "--json").stdout)[
        "rows"
    ] == len(Dataset.open(tmp_path / "cut"))
    assert contents(tmp_path / "cut") == contents(tmp_path / "two")


def test_json_is_one_document_on_stdout(tmp_path):
    result = run("convert", "sklearn:iris", tmp_path / "out", "--json")
    document = json.loads(result.stdout)
    assert set(document) == {
        *{"path", "complete", "rows", "bytes", "shards", "fingerprint", "resumed_rows", "seconds", "bad_records"},
    }
    assert document["fingerprint"] == Dataset.open(tmp_path / "out").fingerprint
    result = run("convert", "sklearn:iris", tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["complete"] is False


# --- what a stranger adds -----------------------------------------------------------------------------------------


@pytest.fixture
def points(monkeypatch, tmp_path):
    """A folder of points, and the format in the table."""
    row = Format(name="points", example="FOLDER of .points", suffixes=("-points/",), module="stranger_format")
    monkeypatch.setattr(sources, "FORMATS", (row, *sources.FORMATS))
    monkeypatch.setitem(sys.modules, "minibatch.tools.sources.stranger_format", stranger_format)
    folder = tmp_path / "my-points"
    folder.mkdir()
    for number in range(6):
        lines = [f"{number} {line / 4}" for line in range(20)]
        lines[3] = "1 2 3" if number % 2 else lines[3]
        (folder / f"{number}.points").write_text("\n".join(lines) + "\n")
    return folder


def test_a_stranger_adds_a_format_in_30_lines():
    text = Path(stranger_format.__file__).read_text()
    code = [line for line in text.splitlines() if line.strip()]
    assert len(code) <= 33  # with the docstring and the imports


@pytest.mark.parametrize("count", [1, 2])
def test_the_format_of_a_stranger_has_all_that_ours_have(count, points, at_once, tmp_path):
    out = tmp_path / "out"
    refused = run("convert", points, out, "--workers", count, "--shard-rows", 8, "--max-errors", 2)
    assert refused.exit_code == 1
    assert "5.points', line 4: too many values to unpack" in refused.stderr
    result = run("convert", points, out, "--workers", count, "--shard-rows", 8, "--max-errors", 3, "--json")
    document = json.loads(result.stdout)
    assert document["rows"] == 117
    assert document["resumed_rows"] == 96
    assert [(Path(bad["file"]).name, bad["where"]) for bad in document["bad_records"]] == [
        (f"{number}.points", "line 4") for number in (1, 3, 5)
    ]
    dataset = Dataset.open(out)
    assert dataset.fields["point"].metadata == {"unit": "metre"}
    assert dataset.read([116])["point"].tolist() == [[5.0, 4.75]]
    assert check_dataset(out) == []
