"""What commands print: strict JSON, also where the encoding is poor; tables that fit."""

import io
import json
import sys

import pytest

from minibatch.tools.screen import plain_table, print_json, screen
from tests.tools.samples import program, run


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_is_readable_in_any_encoding(encoding, monkeypatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    document = {"text": "größe ☃", "bad": [float("nan"), float("inf")], "deep": {"x": (1, 2.5, None, True)}}
    print_json(document)
    stream.flush()
    found = json.loads(raw.getvalue().decode(encoding), parse_constant=pytest.fail)
    assert found == {"text": "größe ☃", "bad": ["nan", "inf"], "deep": {"x": [1, 2.5, None, True]}}


def test_a_table_that_is_too_wide_is_cut_not_folded(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    table = plain_table("a", "b", right=("b",))
    table.add_row("x" * 100, "1")
    screen().print(table)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80
    assert "…" in lines[1]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("arguments", [["show"], ["check"], ["at", 3], ["when", 3]])
def test_without_a_terminal_nothing_but_text_comes_in_80_columns(arguments, encoding, tiny_dataset, monkeypatch):
    command, *rest = arguments
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    done = program(command, tiny_dataset, *rest)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    long = [line for line in done.stdout.splitlines() if len(line) > 80 and str(tiny_dataset) not in line]
    assert not long


@pytest.mark.parametrize(
    "arguments",
    [["show", "DIR"], ["check", "DIR"], ["at", "DIR", "3"], ["when", "DIR", "3"], ["diff", "DIR", "DIR", "--read"]],
)
def test_with_json_there_is_one_document_on_stdout_and_nothing_else(arguments, tiny_dataset):
    result = run(*[tiny_dataset if argument == "DIR" else argument for argument in arguments], "--json")
    assert result.exit_code == 0
    json.loads(result.stdout, parse_constant=pytest.fail)
