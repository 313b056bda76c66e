"""`minibatch show`: everything a person wants to know of a data set, in 80 columns; all of it as JSON."""

import json
import re

import numpy as np
import pytest

from minibatch import Dataset, DatasetWriter
from tests.tools.samples import run


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """A data set with fields of every kind and 13 shards."""
    path = tmp_path_factory.mktemp("show") / "vielfältig"
    classes = {"classes": json.dumps(["Katze", "Hund"])}
    with DatasetWriter(path, chunk_rows=1, shard_rows=1, metadata={"label": classes}, source="a test") as writer:
        writer.write(
            {
                "image": np.arange(13 * 12, dtype=np.float32).reshape(13, 3, 4),
                "label": np.array([1, 0, 7, *[0] * 10]),
                "pair": np.arange(26, dtype=np.int8).reshape(13, 2),
                "yes": np.arange(13) % 2 == 0,
                "text": ["short", "two\nlines", "long " * 100, *["x"] * 10],
                "mask": np.arange(13 * 9).reshape(13, 9) % 3 == 0,
                "odd": np.array([np.nan, -np.inf, 1 / 3, *[0] * 10]),
                "large": np.full((13, 2), 2**62 + 1),
                "raw": [bytes(range(20)), b"", b"abc", *[b"x"] * 10],
                "day": np.array(["2020-01-01"] * 13, "datetime64[s]"),
            }
        )
    return path


def test_the_screen_has_size_fields_first_rows_notes_and_shards_in_80_columns(varied):
    result = run("show", varied)
    assert result.exit_code == 0
    dataset = Dataset.open(varied)
    shown = result.stdout
    for part in (
        "vielfältig",
        f"13 rows, {sum(shard.bytes for shard in dataset.manifest.shards) / 1e6:.1f} MB in 13 shards, chunks of 1 row",
        f"fingerprint {dataset.fingerprint}",
        "from a test",
        'label classes: ["Katze", "Hund"]',
        "shard-00009.arrow",
        "… 3 more",
    ):
        assert part in shown
    assert "shard-00010" not in shown
    fields = re.search(r"^field .*?(?=^label classes)", shown, re.DOTALL | re.MULTILINE)
    lines = [line.rstrip() for line in fields[0].splitlines()[1:]]
    assert [re.split(r"  +", line, maxsplit=2) for line in lines[::3]] == [
        ["image", "float32 (3, 4)", "0 to 11, mean 5.5"],
        ["label", "int64", "1 (Hund)"],
        ["pair", "int8 (2,)", "0 1"],
        ["yes", "bool", "True"],
        ["text", "text", "short"],
        ["mask", "bool (9,)", "False to True, mean 0.333333"],
        ["odd", "float64", "nan"],
        ["large", "int64 (2,)", "4611686018427387905 4611686018427387905"],
        ["raw", "bytes", "20 bytes (00 01 02 03 04 05 06 07 …)"],
        ["day", "timestamp[s]", "1577836800"],
    ]
    assert lines[4].split() == ["0", "(Katze)"]
    assert lines[5].split() == ["7"]
    assert lines[13].strip() == r"'two\nlines'"
    assert lines[14].strip().endswith("…")
    assert max(len(line) for line in shown.splitlines()[1:]) <= 80


def test_json_has_the_whole_of_it(varied):
    document = json.loads(run("show", varied, "--json", "--samples", 1).stdout)
    dataset = Dataset.open(varied)
    assert document["rows"] == 13
    assert document["fingerprint"] == dataset.fingerprint
    assert document["source"] == "a test"
    assert len(document["shards"]) == 13
    assert document["bytes"] == sum(shard["bytes"] for shard in document["shards"])
    assert document["fields"][0] == {"name": "image", "type": "float32 (3, 4)", "shape": [3, 4], "metadata": {}}
    assert document["samples"] == {
        "image": [{"shape": [3, 4], "min": 0, "max": 11}],
        "label": [1],
        "pair": [[0, 1]],
        "yes": [True],
        "text": ["short"],
        "mask": [{"shape": [9], "min": False, "max": True}],
        "odd": ["nan"],
        "large": [[2**62 + 1, 2**62 + 1]],
        "raw": [{"bytes": 20}],
        "day": [1577836800],
    }


@pytest.mark.parametrize("samples", [0, 1, 100])
def test_as_many_first_rows_are_shown_as_asked_for_and_there(samples, varied):
    assert run("show", varied, "--samples", samples).exit_code == 0
    document = json.loads(run("show", varied, "--json", "--samples", samples).stdout)
    assert {len(values) for values in document["samples"].values()} == {min(samples, 13)}


def test_an_empty_data_set_is_shown(tmp_path):
    with DatasetWriter(tmp_path / "empty") as writer:
        writer.write({"x": np.zeros((0, 2))})
    result = run("show", tmp_path / "empty")
    assert result.exit_code == 0
    assert "0 rows" in result.stdout


@pytest.mark.parametrize("classes", ["no json", "5", '{"a": 1}', "[]"])
def test_a_note_on_classes_of_another_meaning_does_no_harm(classes, tmp_path):
    with DatasetWriter(tmp_path / "out", metadata={"label": {"classes": classes}}) as writer:
        writer.write({"label": np.arange(3)})
    assert run("show", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("making", ["nothing", "file", "empty folder"])
def test_what_is_no_data_set_is_an_error_that_names_it(making, tmp_path):
    path = tmp_path / "it"
    if making == "file":
        path.touch()
    if making == "empty folder":
        path.mkdir()
    result = run("show", path)
    assert result.exit_code == 1
    assert str(path) in result.stderr


def test_of_a_run_it_says_where_its_files_are(tmp_path):
    (tmp_path / "ledger.jsonl").write_text("")
    result = run("show", tmp_path)
    assert result.exit_code == 1
    assert "holds a run, not a data set: its data sets are in data/" in " ".join(result.stderr.split())
