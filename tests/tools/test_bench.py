"""`minibatch bench`: tables, JSON and markdown of what was measured."""

import json

import pytest

from minibatch.tools.bench_pairs import compare, row_of
from minibatch.tools.bench_peers import Measured
from minibatch.tools.bench_report import Report, as_markdown
from tests.tools.samples import run

TRIAL = ["--scale", "0.0001", "--pairs", 2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


def test_pairs_are_measured_in_turns_after_a_warm_up():
    calls = []
    row = compare(
        lambda: calls.append("a") or 6.0,
        lambda: calls.append("b") or 2.0,
        name="x",
        unit="rows/s",
        against="y",
        pairs=3,
    )
    assert "".join(calls) == "ab" * 4
    assert (row.ours, row.theirs, row.ratio) == (6, 2, 3)


def test_the_ratio_is_the_median_of_the_pairs_not_the_ratio_of_medians():
    row = row_of([(1.0, 1.0), (10.0, 2.0), (9.0, 3.0)], name="x", unit="s", against="y")
    assert (row.ratio, row.least, row.most) == (3, 1, 5)
    assert (row.ours, row.least_ours, row.most_ours) == (9, 1, 10)
    assert row.theirs == 2


def test_the_table_fits_80_columns_and_the_markdown_has_machine_command_and_spread(cache, tmp_path):
    result = run("bench", "order", "reader", "--workload", "W2", "--cache", cache, "--write", tmp_path / "b.md", *TRIAL)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    for part in ("order: windowed", "W2: reader, 1 thread", "against bare gather, 2 threads", "≥ 0.75"):
        assert part in result.stdout
    written = (tmp_path / "b.md").read_text(encoding="utf-8")
    for part in ("- machine: ", "- command: `minibatch ", "- minibatch: ", "2 pairs a row", "| ratio (spread) |"):
        assert part in written
    rows = [line for line in written.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in rows}) == 1
    assert "W2: reader, 1 thread: 4,096 × 32 float32, k 1024" in written


def test_with_json_there_is_one_document(cache):
    result = run("bench", "reader", "--workload", "W3", "--cache", cache, "--json", *TRIAL)
    document = json.loads(result.stdout)
    assert [row["name"] for row in document["rows"]] == ["W3: reader, 1 thread", "W3: reader, 2 threads"]
    assert document["pairs"] == 2
    assert document["peers"] == []
    assert "cores" in document["machine"]["machine"]


def test_peers_come_with_tables_of_their_own(cache, tmp_path):
    pytest.importorskip("torch")
    options = ["--workload", "W3", "--cache", cache, "--seconds", "0.01", "--write", tmp_path / "p.md", *TRIAL]
    result = run("bench", "--peers", "--peer", "torch", *options)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    for part in ("W3: 64 × 2048 uint16, k 16", "minibatch-2", "torch"):
        assert part in result.stdout
    assert "### W3: 64 × 2048 uint16, k 16" in (tmp_path / "p.md").read_text(encoding="utf-8")


def test_a_failed_peer_and_one_that_shuffles_less_are_told_apart():
    row = row_of([(4.0, 2.0)], name="W1", unit="samples/s", against="b")
    entry = {"workload": "W1", "detail": "d", "what": "w"}
    report = Report(
        pairs=1,
        peers=[
            Measured(**entry, peer="b", shuffle="minibatches", row=row, checked="ok"),
            Measured(**entry, peer="c", shuffle="rows", error="broken | pipe"),
        ],
        absent=["d is not installed"],
    )
    written = as_markdown(report)
    assert "| b | w | minibatches | 2 | 2.00 (2.00–2.00) |" in written
    assert "| failed: broken / pipe |" in written
    assert "- d is not installed" in written


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nonsense"], 1, "unknown part 'nonsense': expected one of order, reader, start, engine"),
        (["--workload", "W9"], 1, "unknown workload 'W9': expected one of W1, W2"),
        (["--peers", "order"], 2, "give parts or --peers, not both"),
        (["--peer", "torch"], 2, "--peer goes with --peers"),
        (["--peers", "--peer", "x", "--workload", "W3"], 1, "unknown loader 'x'"),
    ],
)
def test_what_is_not_known_is_refused(arguments, code, said, cache):
    result = run("bench", *arguments, "--cache", cache, *TRIAL)
    assert result.exit_code == code
    assert said in " ".join(result.stderr.replace("│", " ").split())
