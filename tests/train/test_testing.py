"""Testing a run: the values of its own validation, other checkpoints, other data, several views, predictions."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from minibatch import Dataset
from minibatch.errors import CheckpointError
from minibatch.train.gradient_check import check_config, failures
from minibatch.train.multiview import MultiView
from minibatch.train.running import run_recipe
from minibatch.train.saved_model import load_model
from minibatch.train.testing import measure_run, of_stream
from tests.train import small

TINY = "tests.train.tiny_recipe:tiny"


def quiet(text):
    pass


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of the tiny recipe with a checkpoint at every validation, and averaged weights."""
    out = tmp_path_factory.mktemp("testing") / "run"
    changes = {"validate_every": "18", "save_every": "18", "keep_last": "none", "averaging": "EMA(halflife=30)"}
    run_recipe(TINY, out, options={**changes, "schedules.0": "Constant(0.4)"}, say=quiet)
    return out


def validations(run):
    lines = (run / "validation.jsonl").read_text().splitlines()
    return {line["t"]: line for line in map(json.loads, lines)}


def test_the_newest_weights_give_the_last_validation_of_the_run_bit_for_bit(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    tested = measure_run(run, say=quiet)
    last = validations(run)[106]
    assert {name: list(pair) for name, pair in tested.validation.pairs.items()} == last["pairs"]
    assert (tested.validation.nominal_time, tested.validation.step) == (106, last["step"])
    assert tested.validation.samples == small.ROWS
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_every_checkpoint_can_be_tested(run):
    for time, line in validations(run).items():
        pairs = measure_run(run, which=str(time), say=quiet).validation.pairs
        assert {name: list(pair) for name, pair in pairs.items()} == line["pairs"]
    path = run / "checkpoints" / "t-000000000018"
    assert measure_run(run, which=path, say=quiet).validation["class"] == pytest.approx(
        measure_run(run, which=18, say=quiet).validation["class"]
    )
    assert measure_run(run, which="t-000000000018", say=quiet).saved.path == path


def test_the_best_checkpoint_is_that_of_the_best_validation(run):
    values = {time: line["pairs"]["class"][0] / line["pairs"]["class"][1] for time, line in validations(run).items()}
    best = min(values, key=lambda time: values[time])
    tested = measure_run(run, which="best", say=quiet)
    assert (tested.validation.nominal_time, tested.validation["class"]) == (best, values[best])


def test_averaged_weights_are_measured_where_there_are_some_and_the_others_on_request(run):
    own, averaged, default = (
        measure_run(run, averaged=which, say=quiet).validation["class"] for which in (False, True, None)
    )
    assert own != averaged == default, "as the run's own validations"
    assert measure_run(run, which=0, say=quiet).validation.nominal_time == 0, "before the average has begun"
    saved = load_model(run, averaged=True, say=quiet)
    assert not saved.model.training
    with pytest.raises(CheckpointError, match="has no averaged weights yet: they begin at 0"):
        load_model(run, averaged=True, which=0, say=quiet)


def test_averages_are_there_for_what_was_trained_where_a_rule_has_frozen_a_layer(tmp_path):
    run_recipe("tests.train.tiny_recipe:frozen", tmp_path / "run", options={}, say=quiet)
    last = validations(tmp_path / "run")[106]
    tested = measure_run(tmp_path / "run", say=quiet)
    assert {name: list(pair) for name, pair in tested.validation.pairs.items()} == last["pairs"]


def test_other_data_and_data_elsewhere(run, tmp_path):
    part = small.write(tmp_path / "other", rows=20)
    assert measure_run(run, data=part, say=quiet).validation.samples == 20
    shutil.copytree(run / "data", tmp_path / "moved")
    assert measure_run(run, data=tmp_path / "moved", say=quiet).validation == measure_run(run, say=quiet).validation
    with pytest.raises(ValueError, match=r"the data sets of the run .* are not in .*nowhere: say with --data"):
        measure_run(run, data=tmp_path / "nowhere", say=quiet)


def test_predictions_are_written_row_by_row(run, tmp_path):
    measure_run(run, predictions=tmp_path / "said", fields=["label"], say=quiet)
    dataset = Dataset.open(tmp_path / "said")
    said = dataset.read(np.arange(len(dataset)))
    given = small.fields()
    np.testing.assert_array_equal(said["row"], np.arange(small.ROWS))
    np.testing.assert_array_equal(said["label"], given["label"])
    with torch.no_grad():
        logits = load_model(run, say=quiet).model(torch.from_numpy(given["x"]))
    np.testing.assert_allclose(said["output"], logits, rtol=1e-12)
    accuracy = np.mean(said["output"].argmax(1) == said["label"])
    assert accuracy == measure_run(run, say=quiet).validation["accuracy"]


def test_several_views_are_measured_like_one(run):
    def views(inputs):
        return MultiView(views=(lambda f, d: f, lambda f, d: {**f, "x": -f["x"]}), inputs=inputs)

    tested = measure_run(run, views=views, say=quiet)
    assert tested.views == 2
    x, labels = (small.fields()[name] for name in ("x", "label"))
    model = load_model(run, say=quiet).model
    with torch.no_grad():
        mean = sum(torch.softmax(model(torch.from_numpy(one)), 1) for one in (x, -x)) / 2
    assert tested.validation["accuracy"] == np.mean(mean.argmax(1).numpy() == labels)
    with pytest.raises(ValueError, match="says nothing of several views"):
        measure_run(run, views="recipe", say=quiet)


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("17", "no checkpoint at nominal time 17; it has 0, 18, 36"),
        ("nowhere/at/all", "there is no checkpoint at nowhere"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_told(run, which, message):
    with pytest.raises(CheckpointError, match=message):
        load_model(run, which=which, say=quiet)


def test_a_folder_that_is_no_run_and_a_model_that_is_another_are_refused(run, tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
        load_model(tmp_path, say=quiet)
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"no complete checkpoint in .*there is none"):
        load_model(tmp_path / "run", say=quiet)
    (tmp_path / "run" / "validation.jsonl").unlink()
    with pytest.raises(CheckpointError, match="has no best checkpoint: nothing was measured"):
        load_model(tmp_path / "run", which="best", say=quiet)
    document = json.loads((run / "config.json").read_text())
    document["options"]["widths"] = [4]
    shutil.copytree(run / "checkpoints", tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="layers"):
        load_model(tmp_path / "run", say=quiet)


def test_of_a_joint_model_one_stream_is_tested(run):
    config = load_model(run, say=quiet).config
    terms = [replace(term, stream=stream) for term in config.terms for stream in ("a", "b")]
    metrics = [replace(metric, stream="b") for metric in config.metrics]
    joint = replace(config, terms=terms, metrics=metrics, inputs={"a": "x", "b": "y"})
    chosen, measured, inputs = of_stream(joint, "b")
    assert ([term.stream for term in chosen], [metric.stream for metric in measured], inputs) == ([None], [None], "y")
    assert of_stream(joint, "a")[1:] == ([], "x")
    with pytest.raises(ValueError, match="several streams: say with stream= which of them, a, b"):
        of_stream(joint, None)
    with pytest.raises(ValueError, match="no stream 'c'; it has a, b"):
        of_stream(joint, "c")
    with pytest.raises(ValueError, match="one source without a name"):
        of_stream(config, "a")


def test_a_joint_run_begins_resumes_and_is_tested_stream_by_stream(tmp_path):
    recipe, out = "tests.train.tiny_recipe:joint", tmp_path / "run"
    whole = run_recipe(recipe, out, options={}, say=quiet)
    run_recipe(
        recipe, tmp_path / "cut", options={}, say=quiet, callbacks=[lambda _, r: "a test" if r.step == 3 else None]
    )
    again = run_recipe(recipe, tmp_path / "cut", options={}, resume=True, say=quiet)
    assert again.parameters_digest == whole.parameters_digest
    tested = measure_run(out, say=quiet).validation
    assert dict(tested) == whole.validation
    assert set(tested) == {"class", "fit", "accuracy"}
    only = measure_run(out, stream="b", say=quiet).validation
    assert dict(only) == {"fit": tested["fit"]}
    with pytest.raises(ValueError, match="views and predictions are of one stream: say which"):
        measure_run(out, predictions=tmp_path / "said", say=quiet)
    checks = check_config(load_model(out, say=quiet).config, out / "data", elements=2)
    assert not failures(checks)
