"""The recipe detection on drawn cells: it finds them, its passes are exact, a resumed run ends with the same bits."""

import json

import numpy as np
import pytest
from matplotlib.image import imread

from minibatch.train import recipes
from minibatch.train.recipes.detection import validation_of
from minibatch.train.running import load_config, make_trainer, opened_source, run_recipe
from tests.tools.samples import run
from tests.train.recipes.cells import write_data

SMALL = {
    "image": (48, 64),
    "anchors": (8.0, 14.0, 20.0),
    "channels": (8, 16, 16, 16, 16),
    "rois": 24,
    "threads": 1,
    "device": "cpu",
}
TRAINED = {**SMALL, "max_samples": 1200, "learning_rate": 5e-3, "validate_every": 1200}
FEW = {**SMALL, "max_samples": 64, "validate_every": 64, "save_every": 16}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("cells"), train=60, valid=16)


def trained(out, data, options, **more):
    return run_recipe("detection", out, options=options, data=data, say=lambda text: None, **more)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "detection"
    return out, trained(out, data, TRAINED)


def test_it_finds_cells_and_reports_what_it_found(finished):
    out, outcome = finished
    assert outcome.validation["AP@0.5/mean"] > 0.5
    assert set(outcome.validation) == {
        "class", "box", "AP@0.5/mean", "AP@0.5/Platelets", "AP@0.5/RBC", "AP@0.5/WBC",
    }  # fmt: skip
    assert 0.9 < outcome.report["covered"] <= 1.0
    assert json.loads((out / "result.json").read_text())["report"] == outcome.report
    picture = imread(out / "detections.png")
    assert picture.shape == (750, 1300, 4)
    assert picture[..., :3].std() > 0.1


def test_show_and_test_know_the_run(finished):
    out, outcome = finished
    tested = run("test", out)
    assert tested.exit_code == 0, tested.output
    assert f"{outcome.validation['AP@0.5/mean']:.3f}"[:5] in tested.output
    assert run("show", out).exit_code == 0


def gradients(data, **options):
    """The gradient of the first step in float64, and its losses."""
    config = recipes.configure("detection", {**SMALL, "minibatch_size": 8, **options})
    with opened_source(config, config.data(data)) as source:
        trainer = make_trainer(config, source, None, lambda text: None)
        trainer.model.double()
        trainer.clip = ()
        result = trainer.train_minibatch()
    return result


@pytest.mark.parametrize("multiplier", [2, 3, 8])
def test_the_batch_size_multiplier_changes_rounding_only(data, multiplier):
    whole, parts = gradients(data, batch_size_multiplier=1), gradients(data, batch_size_multiplier=multiplier)
    assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=1e-12)
    for name in ("class", "box"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-12)
        assert parts.numerators == pytest.approx(whole.numerators, rel=1e-12)


def test_the_multiplier_decides_how_many_images_are_in_a_pass():
    sizes = [
        recipes.configure("detection", {"minibatch_size": 6, "batch_size_multiplier": m}).microbatch_size
        for m in (1, 2, 4, 6)
    ]
    assert sizes == [6, 3, 2, 1]


def test_a_run_that_is_stopped_and_cut_otherwise_ends_with_the_same_bits(data, tmp_path):
    options = {**FEW, "promise": "bits", "leaf_size": 2}
    whole = trained(tmp_path / "whole", data, options)
    stopped = trained(
        tmp_path / "run", data, options, callbacks=[lambda trainer, result: "a test" if result.step == 3 else None]
    )
    assert stopped.stopped == "a test"
    resumed = trained(tmp_path / "run", data, {"batch_size_multiplier": 4}, resume=True)
    assert resumed.parameters_digest == whole.parameters_digest
    assert load_config(tmp_path / "run").microbatch_size == 2
    assert resumed.validation == whole.validation


def test_without_the_promise_the_cut_changes_bits(data, tmp_path):
    """The test above can fail."""
    digests = {trained(tmp_path / str(m), data, {**FEW, "batch_size_multiplier": m}).parameters_digest for m in (1, 4)}
    assert len(digests) == 2


def test_what_is_held_out_is_read_alike_whatever_the_seed(data):
    config = recipes.configure("detection", SMALL)
    seen = []
    for seed in (1, 2):
        with config.validation_source(config.data(data), seed) as source:
            batch = source.next_minibatch(16)
            seen.append((batch["image"], batch["rois"], batch["boxes"].values))
    for one, other in zip(*seen, strict=True):
        np.testing.assert_array_equal(one, other)
    assert config.validation_source.func is validation_of


def test_class_weights_count_in_the_loss(data):
    plain = gradients(data, batch_size_multiplier=1)
    weighted = gradients(data, batch_size_multiplier=1, class_weights=(0.0, 1.0, 1.0, 1.0))
    same = gradients(data, batch_size_multiplier=1, class_weights=(2.0, 2.0, 2.0, 2.0))
    assert same["class"] == pytest.approx(plain["class"], rel=1e-12)
    assert weighted["class"] != pytest.approx(plain["class"], rel=1e-3)
    assert weighted["box"] == plain["box"]
