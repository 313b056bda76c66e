"""`minibatch spread`: runs that differ only in their seed, together; everything else apart."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from minibatch.tools.cli import app
from minibatch.train.progress import JsonLines
from minibatch.train.running import run_recipe

SHORT = {"max_samples": 640, "save_every": 640, "validate_every": 640}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, options in {"a1": {"seed": 1}, "a2": {"seed": 2}, "b1": {"seed": 1, "minibatch_size": 32}}.items():
        out = folder / name
        told = JsonLines(out / "metrics.jsonl")
        run_recipe("digits", out, options={**SHORT, **options}, say=lambda text: None, reporter=told)
    return folder


def spread(*arguments):
    done = CliRunner().invoke(app, ["spread", *map(str, arguments)])
    return done.exit_code, done.output


def test_runs_that_differ_in_their_seed_are_one_line_and_others_are_apart(runs):
    code, output = spread(runs / "a2", runs / "b1", runs / "a1", "--json")
    first, other = json.loads(output)["spreads"]
    assert code == 0
    assert (first["seeds"], other["seeds"]) == ([1, 2], [1])
    assert other["changed"] == {**SHORT, "minibatch_size": 32}
    for place, name in enumerate(["a1", "a2"]):
        result = json.loads((runs / name / "result.json").read_text())
        assert first["values"]["accuracy"][place] == result["validation"]["accuracy"]
    assert all(seconds > 0 for seconds in first["seconds"])


def test_the_tables_have_mean_least_and_most(runs):
    values = [json.loads((runs / name / "result.json").read_text())["validation"]["accuracy"] for name in ("a1", "a2")]
    _, screen = spread(runs / "a1", runs / "a2")
    line = next(line for line in screen.splitlines() if line.startswith("accuracy"))
    assert line.split()[1:4] == [f"{value:.4g}" for value in (sum(values) / 2, min(values), max(values))]
    _, table = spread(runs / "a1", runs / "a2", "--markdown")
    assert f"{min(values):.4g} … {max(values):.4g}" in table
    assert table.startswith("| recipe |")


def test_the_same_seed_twice_is_refused(runs):
    code, output = spread(runs / "a1", runs / "a1")
    assert code == 1
    assert "same recipe, settings and seed" in output


def test_runs_on_other_data_are_apart(runs, tmp_path):
    shutil.copytree(runs / "a2", tmp_path / "a2")
    manifest = tmp_path / "a2" / "data" / "train" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "fingerprint": "0" * 32}))
    _, output = spread(runs / "a1", tmp_path / "a2", "--json")
    assert [one["seeds"] for one in json.loads(output)["spreads"]] == [[1], [2]]
    assert [one["data"]["train"] == "0" * 32 for one in json.loads(output)["spreads"]] == [False, True]


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("config.json", "{", "config.json is damaged or not there: a seed was expected, it has None"),
        ("config.json", '{"seed": "x"}', "a seed was expected, it has 'x'"),
        ("result.json", '{"validation": null}', "result.json is damaged: 'validation' is None"),
    ],
)
def test_damaged_files_are_named(file, text, reason, runs, tmp_path):
    shutil.copytree(runs / "a1", tmp_path / "a1")
    (tmp_path / "a1" / file).write_text(text)
    code, output = spread(tmp_path / "a1")
    assert (code, reason in " ".join(output.split())) == (1, True)


def test_what_is_no_finished_run_is_refused(runs, tmp_path):
    code, output = spread(tmp_path)
    assert (code, "holds no run" in output) == (1, True)
    (runs / "b1" / "result.json").rename(tmp_path / "kept.json")
    code, output = spread(runs / "b1")
    assert (code, "only finished runs have a result" in output) == (1, True)
