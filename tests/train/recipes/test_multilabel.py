"""The recipe multilabel on drawn cells: it beats the commoner answers, and its tiles show what it says."""

import json

import numpy as np
import pytest
from matplotlib.image import imread

from minibatch import Dataset
from minibatch.train import recipes
from minibatch.train.recipes.multilabel import TILES
from minibatch.train.running import run_recipe
from tests.tools.samples import run
from tests.train.recipes.cells import write_data

SMALL = {"image": (48, 64), "tile": 32, "channels": (8, 16, 16), "threads": 1, "device": "cpu"}
TRAINED = {**SMALL, "max_samples": 4000, "validate_every": 4000, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("cells"), train=60, valid=16)


def trained(out, data, options, **more):
    return run_recipe("multilabel", out, options=options, data=data, say=lambda text: None, **more)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "multilabel"
    return out, trained(out, data, TRAINED)


def test_it_is_wrong_far_less_often_than_the_commoner_answers(finished):
    out, outcome = finished
    assert outcome.validation["hamming"] < 0.5 * outcome.report["majority"]
    assert outcome.validation["wrong"] == pytest.approx(3 * outcome.validation["hamming"])
    f1 = [outcome.validation[f"cells/{name}_f1"] for name in ("Platelets", "RBC", "WBC")]
    assert min(f1) > 0.5
    assert json.loads((out / "result.json").read_text())["report"] == outcome.report
    assert imread(out / "tiles.png")[..., :3].std() > 0.1
    tested = run("test", out)
    assert tested.exit_code == 0, tested.output
    assert run("show", out).exit_code == 0


def test_held_out_tiles_are_twelve_of_each_image_whatever_the_seed(data):
    config = recipes.configure("multilabel", SMALL)
    prepared = config.data(data)
    seen = []
    for seed in (1, 2):
        with config.validation_source(prepared, seed) as source:
            assert len(source.dataset) == TILES * len(Dataset.open(prepared.valid))
            batch = source.next_minibatch(len(source.dataset))
            seen.append((batch["image"], batch["present"]))
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    np.testing.assert_array_equal(seen[0][1], seen[1][1])
    of_one_image = seen[0][0][:: len(seen[0][0]) // TILES]
    assert len({image.tobytes() for image in of_one_image}) == TILES
    shares = seen[0][1].mean(0)
    assert (shares > 0.05).all()
    assert (shares < 0.95).all()


def test_microbatches_change_rounding_only_and_a_resume_nothing(data, tmp_path):
    few = {**SMALL, "max_samples": 160, "validate_every": 160, "save_every": 32}
    whole = trained(tmp_path / "whole", data, {**few, "microbatch_size": 8})
    stopped = trained(
        tmp_path / "run",
        data,
        {**few, "microbatch_size": 8},
        callbacks=[lambda trainer, result: "a test" if result.step == 3 else None],
    )
    assert stopped.stopped == "a test"
    assert trained(tmp_path / "run", data, {}, resume=True).parameters_digest == whole.parameters_digest
    other = trained(tmp_path / "other", data, few)
    assert other.validation["present"] == pytest.approx(whole.validation["present"], rel=1e-3)
