"""`minibatch export`: what other programs read in it, and that converting it gives the same data set again."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibatch import Dataset, DatasetWriter
from minibatch.ragged import Ragged
from minibatch.sparse import Sparse
from tests.datasets import every_type
from tests.tools.samples import ROOT, converted, run

METADATA = {"int8": {"classes": '["cat", "ünï"]'}, "image": {"scale": "255"}}
NOTHING = ("nothing", "no bits")  # arrays without elements, which Parquet lacks


def everything(rows):
    """Fields of every type that can be written, lists and sparse vectors too."""
    fields = every_type(rows)
    lengths = np.arange(rows) % 4
    words = Sparse(np.arange(2 * rows) % 5, np.arange(2 * rows) / 2, np.arange(rows + 1) * 2, 5)
    return fields | {
        "tokens": [np.arange(length, dtype=np.uint16) for length in lengths],
        "always empty": [np.zeros(0, np.int8)] * rows,
        "boxes": Ragged.of([np.full((length, 4), length, np.float32) for length in lengths]),
        "nested": [[[1, 2][:length], []] * (length % 3) or [[7]] for length in lengths],
        "words": [["a", "bü", ""][:length] for length in lengths],
        "blobs": [[b"\0", b"x\0"][:length] for length in lengths + 1],
        "flags": [np.arange(length) % 2 == 1 for length in lengths],
        "times": [np.arange(length).astype("M8[s]") for length in lengths],
        "sparse": words,
        "sparse sequence": Ragged(words, np.concatenate([[0], np.full(rows, rows)])),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of every type: 4 shards, 10 chunks."""
    folder = tmp_path_factory.mktemp("data") / "d"
    with DatasetWriter(folder, 3, 7, metadata=METADATA) as writer:
        writer.write(everything(26))
    return folder


def exported(folder, out, *options):
    result = run("export", folder, out, *options)
    assert result.exit_code == 0, result.output
    return out


def fields_for(out, folder):
    """What a format cannot hold is left out."""
    names = [name for name in Dataset.open(folder).fields if name not in NOTHING]
    return ["--fields", ",".join(names)] if out in ("x.parquet", "x") else []


OUTS = ["x.parquet", "x", "x.arrow", "x.feather", "x.arrows", "x.npz"]


@pytest.mark.parametrize("out", OUTS)
def test_what_was_exported_converts_to_the_same_data_set(out, data, tmp_path):
    options = fields_for(out, data)
    exported(data, tmp_path / out, *options)
    if options:  # the same fields of the same rows, in Arrow
        data = converted(exported(data, tmp_path / "some.arrow", *options), tmp_path / "some").folder
    again = converted(tmp_path / out, tmp_path / "again")
    assert again.fingerprint == Dataset.open(data).fingerprint
    for name, noted in METADATA.items():
        assert again.fields[name].metadata == noted


@pytest.mark.parametrize("out", OUTS)
def test_rows_of_a_range_come_in_their_order(out, data, tmp_path):
    for begin, end in ((0, 26), (5, 17), (25, 26), (7, 14)):
        again = converted(
            exported(data, tmp_path / f"{begin}" / out, "--rows", f"{begin}:{end}", "--fields", "int64,text,tokens"),
            tmp_path / f"{begin}-again",
        )
        got, wanted = again.read(np.arange(end - begin)), Dataset.open(data).read(np.arange(begin, end))
        assert list(got) == ["int64", "text", "tokens"]
        for name in ("int64", "text"):
            assert got[name].tolist() == wanted[name].tolist()
        assert [row.tolist() for row in got["tokens"]] == [row.tolist() for row in wanted["tokens"]]


@pytest.mark.parametrize("text", ["5:", ":5", "3:4"])
def test_an_end_of_the_range_may_be_left_out(text, data, tmp_path):
    out = exported(data, tmp_path / "x.parquet", "--rows", text, "--fields", "int64")
    begin, _, end = text.partition(":")
    assert pq.read_table(out)["int64"].to_pylist() == [37 * i - 64 for i in range(int(begin or 0), int(end or 26))]


def test_other_programs_read_the_values_and_the_notes(data, tmp_path):
    wanted = everything(26)
    fields = ["--fields", "int8,text,tokens,image,vector,time_s,sparse,words"]
    tables = [
        pq.read_table(exported(data, tmp_path / "x.parquet", *fields)),
        pq.read_table(exported(data, tmp_path / "folder", *fields)),
        pyarrow.feather.read_table(exported(data, tmp_path / "x.feather", *fields)),
        pa.ipc.open_stream(exported(data, tmp_path / "x.arrows", *fields)).read_all(),
    ]
    for table in tables:
        assert table["text"].to_pylist() == wanted["text"]
        assert table["words"].to_pylist() == wanted["words"]
        assert table["tokens"].to_pylist() == [row.tolist() for row in wanted["tokens"]]
        assert table["vector"].combine_chunks().to_numpy_ndarray().tolist() == wanted["vector"].tolist()
        assert np.array_equal(table["time_s"].to_numpy().astype("M8[s]"), wanted["time_s"])
        assert table.schema.field("int8").metadata[b"classes"].decode() == METADATA["int8"]["classes"]
        assert table["sparse"][3].as_py() == {"indices": [1, 2], "values": [3.0, 3.5]}


def test_an_npz_has_numpys_own_types_and_lists_as_offsets_and_values(data, tmp_path):
    wanted = everything(26)
    with np.load(exported(data, tmp_path / "x.npz")) as arrays:
        for name in ("int8", "float16", "bool", "image", "cube of bits", "time_s", "span_ns", "date", "nothing"):
            assert arrays[name].dtype == wanted[name].dtype, name
            assert np.array_equal(arrays[name], wanted[name]), name
        marks = arrays["tokens.offsets"]
        assert (marks.dtype, marks.tolist()) == (np.int64, [0, *np.cumsum([len(row) for row in wanted["tokens"]])])
        assert np.array_equal(arrays["tokens.values"], np.concatenate(wanted["tokens"]))
        marks, content = arrays["text.offsets"], arrays["text.bytes"].tobytes()
        assert [content[a:b].decode() for a, b in itertools.pairwise(marks)] == wanted["text"]
        assert np.array_equal(arrays["sparse.indices.values"], wanted["sparse"].indices)
        assert arrays["boxes.values"].shape == (sum(len(row) for row in wanted["boxes"]), 4)


@given(rows=st.integers(1, 30), chunk=st.integers(1, 9), shard=st.integers(1, 20), data=st.data())
@settings(max_examples=12, deadline=None)
def test_any_range_of_any_chunks_comes_back_with_its_fingerprint(rows, chunk, shard, data, tmp_path_factory):
    begin = data.draw(st.integers(0, rows - 1))
    end = data.draw(st.integers(begin + 1, rows))
    out = data.draw(st.sampled_from(["x.parquet", "x.arrow", "x.npz"]))
    base = tmp_path_factory.mktemp("d")
    names = ("bool", "int64", "bits", "text", "tokens", "flags", "boxes", "sparse")
    fields = {name: values for name, values in everything(rows).items() if name in names}
    with DatasetWriter(base / "whole", chunk, shard) as writer:
        writer.write(fields)
    with DatasetWriter(base / "part") as writer:
        writer.write({name: values[begin:end] for name, values in fields.items()})
    again = converted(exported(base / "whole", base / out, "--rows", f"{begin}:{end}"), base / "again")
    assert again.fingerprint == Dataset.open(base / "part").fingerprint


def test_a_field_of_a_data_set_that_arrow_wrote_keeps_its_type(tmp_path):
    columns = {
        "zone": pa.array([1, 2, 3], pa.timestamp("s", "Europe/Berlin")),
        "day": pa.array([0, 86_400_000, 0], pa.date64()),
        "clock": pa.array([1, 2, 3], pa.time32("s")),
        "fixed": pa.array([b"ab", b"cd", b"ef"], pa.binary(2)),
        "large": pa.array([[1], [], [2, 3]], pa.large_list(pa.int8())),
        "large text": pa.array(["a", "", "b"], pa.large_string()),
        "struct": pa.array([{"a": 1, "b": "x"}] * 3, pa.struct([("a", pa.int32()), ("b", pa.string())])),
    }
    folder = write_arrow_files(tmp_path / "d", columns)
    for out in ("x.parquet", "x.arrow", "x.npz"):
        again = converted(exported(folder, tmp_path / out), tmp_path / f"{out}.again")
        assert again.fingerprint == Dataset.open(folder).fingerprint, out


def write_arrow_files(folder, columns):
    folder.mkdir()
    table = pa.table(columns)
    with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return folder


def test_nulls_stay_in_parquet_and_have_no_place_in_an_npz(tmp_path):
    folder = write_arrow_files(tmp_path / "d", {"x": pa.array([1, None, 3])})
    assert pq.read_table(exported(folder, tmp_path / "x.parquet"))["x"].to_pylist() == [1, None, 3]
    result = run("export", folder, tmp_path / "x.npz")
    assert result.exit_code == 1
    assert "field 'x' has nulls, which an .npz cannot hold" in result.stderr


def test_the_same_data_set_gives_the_same_bytes(data, tmp_path):
    for out in OUTS:
        files = []
        for folder in ("a", "b"):
            path = exported(data, tmp_path / folder / out, *fields_for(out, data))
            files.append([file.read_bytes() for file in (sorted(path.iterdir()) if path.is_dir() else [path])])
        assert files[0] == files[1], out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x.csv"], r"no format is known by the suffix '.csv'; known are FILE.parquet"),
        (["x.parquet"], "field 'nothing' is .*: Parquet cannot hold arrays without elements"),
        (["x.npz", "--rows", "5"], "--rows 5: expected A:B with 0 ≤ A < B ≤ 26"),
        (["x.npz", "--rows", "5:5"], "--rows 5:5: expected A:B"),
        (["x.npz", "--rows", "a:b"], "--rows a:b: expected A:B"),
        (["x.npz", "--rows", "-3:"], "--rows -3:: expected A:B"),
        (["x.npz", "--rows", "0:27"], "--rows 0:27: expected A:B"),
        (["x.npz", "--fields", "int8,image2"], "--fields int8,image2: expected some of bool, int8"),
        (["x.npz", "--fields", "int8,int8"], "each once"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_and_nothing_is_left(options, message, data, tmp_path):
    result = run("export", data, tmp_path / options[0], *options[1:])
    assert result.exit_code == 1
    assert re.search(message, result.stderr), result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["x.parquet", "folder"])
def test_nothing_that_is_there_is_overwritten(out, data, tmp_path):
    (tmp_path / "x.parquet").write_text("mine")
    (tmp_path / "folder").mkdir()
    result = run("export", data, tmp_path / out)
    assert result.exit_code == 1
    assert f"{tmp_path / out} exists: choose another name, or remove it" in result.stderr
    assert (tmp_path / "x.parquet").read_text() == "mine"


def test_no_data_set_is_an_error(tmp_path):
    result = run("export", tmp_path, tmp_path / "x.npz", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["complete"] is False
    assert "has no manifest.json" in result.stderr


def test_two_fields_that_would_be_one_array_are_refused(tmp_path):
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write({"a": [np.arange(2)], "a.offsets": np.arange(1)})
    result = run("export", tmp_path / "d", tmp_path / "x.npz")
    assert result.exit_code == 1
    assert "the array 'a.offsets' would occur more than once" in result.stderr


def test_json_is_one_document(data, tmp_path):
    result = run("export", data, tmp_path / "out", "--fields", "int8", "--json")
    document = json.loads(result.stdout)
    assert (document["rows"], document["fields"], document["complete"]) == (26, ["int8"], True)
    assert [os.path.basename(file) for file in document["files"]] == [f"part-{i:05d}.parquet" for i in range(4)]
    assert document["bytes"] == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert result.stderr == ""


def test_the_summary_line_says_what_was_written(data, tmp_path):
    result = run("export", data, tmp_path / "x.npz", "--rows", "3:9")
    assert result.stdout.startswith(f"{tmp_path / 'x.npz'}: 6 rows, 0.0 MB in 1 file, ")
    assert result.stdout.count("\n") == 1


STUCK = """
import sys, time
from minibatch.tools import export, cli

def stuck(batches, advance):
    yield next(iter(batches))
    print("stuck", flush=True)
    time.sleep(60)

export.counted = stuck
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize("out", ["x.parquet", "x", "x.arrow"])
def test_ctrl_c_leaves_nothing_but_a_word(out, data, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, "export", data, tmp_path / out, "--fields", "int8"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, f"stopped; {tmp_path / out} was not written\n")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_replaced(data, tmp_path):
    (tmp_path / ".x.parquet.partial").write_bytes(b"half")
    exported(data, tmp_path / "x.parquet", "--fields", "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


@pytest.mark.parametrize("out", ["x.parquet", "x.npz"])
def test_memory_stays_bounded_whatever_the_size_of_the_data_set(out, tmp_path):
    def peak_megabytes(megabytes):
        folder = tmp_path / str(megabytes)
        with DatasetWriter(folder, 1000, 10_000) as writer:
            for _ in range(megabytes):
                writer.write({"x": np.zeros((1000, 1000), np.uint8), "s": ["text"] * 1000})
        code = (
            "import sys; from minibatch.tools import cli\n"
            "try: cli.main(sys.argv[1:])\n"
            "finally: print([line.split()[1] for line in open('/proc/self/status') if 'RssAnon' in line][0])"
        )
        command = [sys.executable, "-c", code, "export", folder, tmp_path / f"{megabytes}-{out}", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        return int(done.stdout.split()[-1]) / 1024

    assert peak_megabytes(150) - peak_megabytes(15) < 50
