"""`minibatch when`: the inverse of `minibatch at`."""

import pytest

from tests.tools.samples import run
from tests.tools.test_at import records


@pytest.mark.parametrize("options", [[], ["--seed", 3], ["--window", 8], ["--shuffle", "none"]])
def test_when_is_the_inverse_of_at(options, tiny_dataset):
    found = records("when", tiny_dataset, 17, "--sweeps", 3, *options)
    assert [record["sweep"] for record in found] == [0, 1, 2]
    for record in found:
        assert records("at", tiny_dataset, record["time"], *options) == [record]
    assert records("when", tiny_dataset, 17, "--sweep", 2, *options) == found[2:]
    assert records("when", tiny_dataset, 17, *options) == found[:1]


def test_without_shuffling_a_row_is_seen_at_its_own_place(tiny_dataset):
    found = records("when", tiny_dataset, 17, "--sweeps", 2, "--shuffle", "none")
    assert [record["time"] for record in found] == [17, 57]


def test_the_columns_are_aligned_under_their_titles(tiny_dataset):
    lines = run("when", tiny_dataset, 1, "--sweeps", 30).stdout.splitlines()
    assert lines[0].split() == ["time", "sweep", "place", "row"]
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 31


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["40"], 1, "row must be at most 39, got 40"),
        (["1", "--sweep", "1", "--sweeps", "2"], 2, "give --sweep or --sweeps, not both"),
        (["1", "--sweeps", "0"], 2, "greater than or equal to 1"),
    ],
)
def test_numbers_outside_their_range_are_refused(arguments, code, said, tiny_dataset):
    result = run("when", tiny_dataset, *arguments)
    assert result.exit_code == code
    assert said in " ".join(result.stderr.replace("│", " ").split())
