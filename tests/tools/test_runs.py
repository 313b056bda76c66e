"""`minibatch train --set`, `test`, `features`, `check-gradients` and `selfcheck` on a recipe in a file of its own."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from minibatch import Dataset
from tests.tools.samples import program, run
from tests.train import small, tiny_recipe


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    """What importing recipes adds to Python's path is taken back."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe in a file."""
    file = Path(shutil.copy(tiny_recipe.__file__, tmp_path_factory.mktemp("recipe") / "mine.py"))
    return f"{file}:tiny"


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """A finished run of it, made by the command."""
    before = [*sys.path]
    out = tmp_path_factory.mktemp("runs") / "run"
    result = run(
        "train", recipe, "--out", out, "--set", "net.width=4", "--set", "log_every=5", "--set", "keep_last=none",
        "--set", "validate_every=18", "--set", "save_every=18", "--quiet",
    )  # fmt: skip
    sys.path[:] = before
    assert result.exit_code == 0, result.output
    return out


def last_value(finished, name):
    last = json.loads((finished / "validation.jsonl").read_text().splitlines()[-1])
    return last["pairs"][name][0] / last["pairs"][name][1]


def test_what_was_set_is_in_the_run_and_is_printed_as_the_configuration(finished, recipe):
    config = json.loads((finished / "config.json").read_text())
    assert config["set"] == {
        "net.width": "4", "log_every": 5, "keep_last": None, "validate_every": 18, "save_every": 18,
    }  # fmt: skip
    assert config["options"]["net"]["width"] == 4
    assert config["log_every"] == 5
    shown = json.loads(run("train", recipe, "--set", "net.width=4", "--print-config").stdout)
    assert shown["options"] == config["options"]
    resumed = run("train", recipe, "--out", finished, "--resume", "--print-config", "--set", "rate=0.5").stdout
    assert json.loads(resumed)["set"] == {**config["set"], "rate": 0.5}
    assert json.loads((finished / "config.json").read_text()) == config, "printing changes nothing"
    kinds = [json.loads(line)["kind"] for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {"train", "valid"} <= set(kinds)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--set", "log_evry=3"), 1, "has no option 'log_evry'; did you mean log_every"),
        (("--set", "terms.clas.coefficient=3"), 1, "there is no 'clas' among 1 elements; did you mean class?"),
        (("--set", "log_every=often"), 1, "log_every: expected an integer, got 'often'"),
        (("--set", "log_every"), 1, "--set log_every: expected NAME=VALUE"),
        (("--set", "schedules.0=Cosin(1)"), 1, "there is no 'Cosin' to call; did you mean Cosine"),
        (("--seed", "-1"), 1, "seed must be at least 0, got -1"),
        (("--progress", "bar"), 2, "'bar' is not one of"),
    ],
)
def test_a_change_that_cannot_be_is_one_line(recipe, tmp_path, arguments, code, message):
    result = run("train", recipe, "--out", tmp_path / "new", *arguments)
    assert result.exit_code == code
    assert message in re.sub(r"[\s│]+", " ", result.stderr)
    assert not (tmp_path / "new").exists()


def test_a_run_needs_a_folder(recipe):
    result = run("train", recipe)
    assert result.exit_code == 2
    assert "a run needs a folder" in result.stderr


def test_an_error_in_a_users_recipe_shows_shapes_and_place(tmp_path):
    file = Path(shutil.copy(tiny_recipe.__file__, tmp_path / "broken.py"))
    text = file.read_text().replace('on(cross_entropy, "label", label_smoothing=0.1)', "summed")
    file.write_text(text + "\n\ndef summed(outputs, batch):\n    return outputs.sum()\n")
    result = run("train", f"{file}:tiny", "--out", tmp_path / "run", "--quiet")
    assert result.exit_code == 1
    assert "a loss returns one value per sample, not their mean or sum" in result.stderr
    assert "minibatch: the outputs are float64 (9, 3)" in result.stderr
    file.write_text(file.read_text().replace("    return outputs.sum()", "    raise ValueError('too bad')"))
    result = run("train", f"{file}:tiny", "--out", tmp_path / "run2", "--quiet")
    assert "error: too bad" in result.stderr
    assert f"raised at {file}:" in result.stderr
    assert "in summed: `raise ValueError('too bad')`" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_exception_of_a_recipe_that_is_no_value_error_says_where_it_was_raised(tmp_path):
    file = tmp_path / "zero.py"
    file.write_text("def zero(*, seed: int = 1):\n    return 1 // (seed - 1)\n")
    done = program("train", f"{file}:zero", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: ZeroDivisionError: integer division or modulo by zero",
        f"  raised at {file}:2, in zero: `return 1 // (seed - 1)`",
        "  --debug shows the traceback",
    ]
    debug = program("train", f"{file}:zero", "--out", tmp_path / "run", "--debug").stderr
    assert "Traceback (most recent call last)" in debug
    assert f"raised at {file}:2" in debug


def test_testing_gives_the_last_validation(finished):
    document = json.loads(run("test", finished, "--json").stdout)
    assert document["values"]["class"] == last_value(finished, "class")
    assert document["values"]["accuracy"] == last_value(finished, "accuracy")
    assert (document["nominal_time"], document["samples"], document["views"]) == (106, small.ROWS, 1)
    assert not run("test", finished, "--json").stderr, "nothing for a script to pass over"
    shown = run("test", finished, "--checkpoint", "best").stdout
    assert "class" in shown
    assert "after step" in shown


def test_predictions_and_features_are_data_sets(finished, tmp_path):
    result = run("test", finished, "--test-out", tmp_path / "said", "--keep", "label")
    assert result.exit_code == 0, result.output
    said = Dataset.open(tmp_path / "said")
    assert [*said.fields] == ["row", "label", "output"]
    result = run("features", finished, "layers.0,layers.3", tmp_path / "features", "--keep", "label", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["layers"] == ["layers.0", "layers.3"]
    found = Dataset.open(tmp_path / "features")
    rows = np.arange(small.ROWS)
    np.testing.assert_allclose(found.read(rows)["layers.3"], said.read(rows)["output"], rtol=1e-12)
    assert found.read(rows)["layers.0"].shape == (small.ROWS, 4)
    again = run("features", finished, "layers.0", tmp_path / "features")
    assert again.exit_code == 1
    assert again.stderr.endswith("choose another folder, or pass --overwrite\n")
    assert run("features", finished, "layers.0", tmp_path / "features", "--overwrite").stdout.startswith("53 rows of")


def test_several_views_of_images(tmp_path):
    out = tmp_path / "digits"
    assert run("train", "demo", "--out", out, "--max-samples", "320", "--quiet").exit_code == 0
    one = json.loads(run("test", out, "--json").stdout)
    nine = json.loads(run("test", out, "--json", "--multiview", "grid", "--crop", "8").stdout)
    assert (one["views"], nine["views"]) == (1, 9)
    assert nine["values"]["class"] == pytest.approx(one["values"]["class"], rel=1e-9), "nine times the whole image"
    ten = json.loads(run("test", out, "--json", "--multiview", "corners", "--crop", "8").stdout)
    assert ten["views"] == 10
    wrong = run("test", out, "--multiview", "corners", "--crop", "6", "--json")
    assert wrong.exit_code == 1
    message, note, hint = wrong.stderr.splitlines()  # and nothing about threads
    assert message.startswith("error: RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert "in several views, which must have the shape that the model takes" in note
    assert hint == "  --debug shows the traceback"
    assert ten["values"]["class"] != pytest.approx(one["values"]["class"], rel=1e-3), "half of them are mirrored"


@pytest.mark.parametrize(
    ("command", "arguments", "code", "message"),
    [
        ("test", ("--multiview", "grid"), 2, "the views and their size belong together"),
        ("test", ("--crop", "3"), 2, "the views and their size belong together"),
        ("test", ("--multiview", "recipe"), 1, "says nothing of several views"),
        ("test", ("--checkpoint", "17"), 1, "no checkpoint at nominal time 17"),
        ("test", ("--averaged",), 1, "has no averaged weights"),
        ("test", ("--stream", "a"), 1, "the run has no stream 'a'"),
        ("features", ("layers.7", "{out}"), 1, "the model has no layer 'layers.7'; did you mean"),
        ("features", ("layers.0", "{out}", "--keep", "labels"), 1, "no field 'labels'; did you mean label"),
    ],
)
def test_what_cannot_be_measured_is_told(finished, tmp_path, command, arguments, code, message):
    result = run(command, finished, *(argument.format(out=tmp_path / "out") for argument in arguments))
    assert result.exit_code == code, result.output
    assert message in re.sub(r"[\s│]+", " ", result.stderr)


def test_the_gradients_of_a_recipe_are_checked(recipe, tmp_path):
    result = run("check-gradients", recipe, "--elements", "3", "--data", tmp_path / "data")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("agrees") == 4
    document = json.loads(
        run("check-gradients", recipe, "--elements", "3", "--data", tmp_path / "data", "--json").stdout
    )
    assert document["passed"]
    assert [parameter["passed"] for parameter in document["parameters"]] == [True] * 4
    assert max(parameter["error"] for parameter in document["parameters"]) < 1e-5


def test_a_wrong_gradient_ends_with_its_name_and_exit_code_1(tmp_path):
    file = Path(shutil.copy(tiny_recipe.__file__, tmp_path / "wrong.py"))
    text = file.read_text().replace('on(cross_entropy, "label", label_smoothing=0.1)', "half")
    file.write_text(
        text + "\n\ndef half(outputs, batch):\n    loss = cross_entropy(outputs, batch['label'])\n"
        "    return loss.detach() + 0.5 * (loss - loss.detach())\n"
    )
    result = run("check-gradients", f"{file}:tiny", "--elements", "2")
    assert result.exit_code == 1
    assert result.stdout.count("differs") == 4
    assert "the gradients of layers.0.weight, layers.0.bias" in result.stderr


def test_a_recipe_that_keeps_its_promise_passes_the_selfcheck(recipe, tmp_path):
    for promise, equal in (("math", 3), ("bits", 3), ("data", 1)):
        result = run("selfcheck", recipe, "--data", tmp_path / "data", "--set", f"promise={promise}")
        assert result.exit_code == 0, result.output
        assert result.stdout.count("equal") == equal


def test_a_loss_that_draws_by_itself_fails_the_selfcheck(tmp_path):
    file = Path(shutil.copy(tiny_recipe.__file__, tmp_path / "drawing.py"))
    text = file.read_text().replace('on(cross_entropy, "label", label_smoothing=0.1)', "drawn")
    file.write_text(
        text + "\n\nimport random\n\n\ndef drawn(outputs, batch):\n"
        "    return cross_entropy(outputs, batch['label']) * (1 + random.random())\n"
    )
    result = run("selfcheck", f"{file}:tiny", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert not document["passed"]
    assert document["findings"][0]["comparison"] == "the same step again"
    assert document["findings"][0]["modules"] == []
    assert "layers.0.weight" in document["findings"][0]["parameters"]
