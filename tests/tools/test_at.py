"""`minibatch at` and `minibatch when`: the axis of the source itself, forwards and back."""

import json
import shutil

import numpy as np
import pytest

from minibatch import MinibatchSource, Window
from tests.tools.samples import run


def records(*arguments):
    return json.loads(run(*arguments, "--json").stdout)


@pytest.mark.parametrize(
    ("options", "seed", "shuffle"), [([], 0, "full"), (["--seed", 7], 7, "full"), (["--window", 8], 0, Window(rows=8))]
)
def test_at_is_what_the_source_reads(options, seed, shuffle, tiny_dataset):
    found = records("at", tiny_dataset, 35, "--count", 50, *options)
    with MinibatchSource(tiny_dataset, seed=seed, shuffle=shuffle) as source:
        source.seek(35)
        assert [record["row"] for record in found] == source.next_minibatch(50)["x"].tolist()
    assert [record["time"] for record in found] == list(range(35, 85))
    assert all(record["sweep"] * 40 + record["place"] == record["time"] for record in found)


@pytest.mark.parametrize("options", [[], ["--seed", 3], ["--window", 8]])
def test_when_is_the_inverse_of_at(options, tiny_dataset):
    found = records("when", tiny_dataset, 17, "--sweeps", 3, *options)
    assert [record["sweep"] for record in found] == [0, 1, 2]
    for record in found:
        assert records("at", tiny_dataset, record["time"], *options) == [record]
    assert records("when", tiny_dataset, 17, "--sweep", 2, *options) == found[2:]
    assert records("when", tiny_dataset, 17, *options) == found[:1]


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
        (["when", "DIR", "40"], 1, "row must be at most 39, got 40"),
        (["at", "DIR", str(2**62 + 1)], 1, "must be at most"),
        (["when", "DIR", "1", "--sweep", "1", "--sweeps", "2"], 2, "give --sweep or --sweeps, not both"),
        (["at", "DIR", "1", "--count", "0"], 2, "greater than or equal to 1"),
        (["at", "DIR", "1", "--window", "0"], 2, "greater than or equal to 1"),
        (["at", "DIR", "1", "--seed", str(2**70)], 1, "seed"),
    ],
)
def test_numbers_outside_their_range_are_refused(arguments, code, said, tiny_dataset):
    result = run(*[str(tiny_dataset) if argument == "DIR" else argument for argument in arguments])
    assert result.exit_code == code
    assert said in result.stderr


def test_rows_are_not_read(tiny_dataset, tmp_path):
    copy = shutil.copytree(tiny_dataset, tmp_path / "copy")
    for shard in copy.glob("*.arrow"):
        shard.write_bytes(np.zeros(shard.stat().st_size, np.uint8).tobytes())
    assert records("at", copy, 0, "--count", 9) == records("at", tiny_dataset, 0, "--count", 9)
