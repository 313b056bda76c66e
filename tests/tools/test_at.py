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
        (["at", "DIR", "1", "--sequences", "packed"], 2, "expected whole or rows"),
        (["at", "DIR", "1", "--count", "0"], 2, "greater than or equal to 1"),
        (["at", "DIR", "1", "--window", "0"], 2, "greater than or equal to 1"),
        (["at", "DIR", "1", "--seed", str(2**70)], 1, "seed"),
    ],
)
def test_numbers_outside_their_range_are_refused(arguments, code, said, tiny_dataset):
    result = run(*[str(tiny_dataset) if argument == "DIR" else argument for argument in arguments])
    assert result.exit_code == code
    assert said in " ".join(result.stderr.replace("│", " ").split())


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Five sequences of 1 … 5 tokens, each with twice as many words: 15 tokens, 30 words a sweep."""
    path = tmp_path_factory.mktemp("at") / "lists"
    with DatasetWriter(path) as writer:
        lengths = range(1, 6)
        words = [["w"] * 2 * length for length in lengths]
        writer.write({"tokens": [np.arange(length) for length in lengths], "words": words})
    return path


@pytest.mark.parametrize(("options", "field"), [([], "words"), (["--length-field", "tokens"], "tokens")])
def test_the_nominal_time_of_sequences_counts_their_elements(options, field, lists):
    total = {"tokens": 15, "words": 30}[field]
    found = records("at", lists, 0, "--count", 2 * total, *options)
    assert [record["sweep"] for record in found] == [0] * total + [1] * total
    assert [record["place"] for record in found] == [*range(total)] * 2
    with MinibatchSource(lists, length_field="tokens" if options else None) as source:
        assert [record["row"] for record in found] == source.at(0, 2 * total).tolist()
    for sweep in (0, 1):
        (seen,) = records("when", lists, 2, "--sweep", sweep, *options)
        assert found[seen["time"]] == seen


def test_the_nominal_time_of_sequences_counts_rows_on_request(lists):
    found = records("at", lists, 0, "--count", 10, "--sequences", "rows")
    assert sorted(record["row"] for record in found[:5]) == [0, 1, 2, 3, 4]
    assert [record["sweep"] for record in found] == [0] * 5 + [1] * 5


def test_rows_are_not_read(tiny_dataset, tmp_path):
    copy = shutil.copytree(tiny_dataset, tmp_path / "copy")
    for shard in copy.glob("*.arrow"):
        shard.write_bytes(np.zeros(shard.stat().st_size, np.uint8).tobytes())
    assert records("at", copy, 0, "--count", 9) == records("at", tiny_dataset, 0, "--count", 9)
