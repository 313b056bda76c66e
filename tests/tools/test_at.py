"""`minibatch at`: the axis of the source itself."""

import json
import shutil

import numpy as np
import pytest

from minibatch import DatasetWriter, MinibatchSource, Window
from tests.tools.samples import run


def records(*arguments):
    return json.loads(run(*arguments, "--json").stdout)


@pytest.mark.parametrize(
    ("options", "seed", "shuffle"),
    [
        ([], 0, "full"),
        (["--seed", 7, "--shuffle", "full"], 7, "full"),
        (["--window", 8], 0, Window(rows=8)),
        (["--shuffle", "none"], 0, None),
    ],
)
def test_at_is_what_the_source_reads(options, seed, shuffle, tiny_dataset):
    found = records("at", tiny_dataset, 35, "--count", 50, *options)
    with MinibatchSource(tiny_dataset, seed=seed, shuffle=shuffle) as source:
        source.seek(35)
        assert [record["row"] for record in found] == source.next_minibatch(50)["x"].tolist()
    assert [record["time"] for record in found] == list(range(35, 85))
    assert all(record["sweep"] * 40 + record["place"] == record["time"] for record in found)


def test_the_columns_are_aligned_under_their_titles(tiny_dataset):
    lines = run("at", tiny_dataset, 98, "--count", 4).stdout.splitlines()
    assert lines[0] == "time  sweep  place  row"
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[:3] for line in lines[1:]] == [
        ["98", "2", "18"],
        ["99", "2", "19"],
        ["100", "2", "20"],
        ["101", "2", "21"],
    ]


def test_a_count_of_many_blocks_has_no_seam(tiny_dataset, monkeypatch):
    whole = records("at", tiny_dataset, 5, "--count", 100)
    monkeypatch.setattr("minibatch.tools.at.BLOCK", 7)
    assert records("at", tiny_dataset, 5, "--count", 100) == whole


def test_times_far_out_are_fine(tiny_dataset):
    (record,) = records("at", tiny_dataset, 10**18)
    assert 0 <= record["row"] < 40
    assert record["sweep"] == 10**18 // 40


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["at", "DIR", str(2**62 + 1)], 1, "must be at most"),
        (["at", "DIR", "1", "--window", "8", "--shuffle", "none"], 2, "give --shuffle or --window, not both"),
        (["at", "DIR", "1", "--shuffle", "some"], 2, "expected full or none"),
        (["at", "DIR", "1", "--count", "0"], 2, "greater than or equal to 1"),
        (["at", "DIR", "1", "--window", "0"], 2, "greater than or equal to 1"),
        (["at", "DIR", "1", "--seed", str(2**70)], 1, "seed"),
    ],
)
def test_numbers_outside_their_range_are_refused(arguments, code, said, tiny_dataset):
    result = run(*[str(tiny_dataset) if argument == "DIR" else argument for argument in arguments])
    assert result.exit_code == code
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_the_nominal_time_of_sequences_counts_rows_here(tmp_path):
    with DatasetWriter(tmp_path / "lists") as writer:
        writer.write({"tokens": [np.arange(number) for number in range(1, 6)]})
    found = records("at", tmp_path / "lists", 0, "--count", 10)
    assert sorted(record["row"] for record in found[:5]) == [0, 1, 2, 3, 4]
    assert [record["sweep"] for record in found] == [0] * 5 + [1] * 5


def test_rows_are_not_read(tiny_dataset, tmp_path):
    copy = shutil.copytree(tiny_dataset, tmp_path / "copy")
    for shard in copy.glob("*.arrow"):
        shard.write_bytes(np.zeros(shard.stat().st_size, np.uint8).tobytes())
    assert records("at", copy, 0, "--count", 9) == records("at", tiny_dataset, 0, "--count", 9)
