"""The recipe cifar10 on a few images: it learns, its tests and lines are the document's, its bits survive a resume."""

import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from minibatch import Dataset
from minibatch.models.convnet import ConvNet
from minibatch.tools.features import features
from minibatch.train import read_ledger
from minibatch.train.config import Prepared
from minibatch.train.monitors import UpdateScales
from minibatch.train.progress import ConvnetLines
from minibatch.train.recipes import configure
from minibatch.train.recipes.cifar10 import cifar10, one_after_the_other
from minibatch.train.recipes.pixel_statistics import pixel_statistics
from minibatch.train.running import opened_source, run_recipe
from minibatch.train.saved_model import load_model
from minibatch.train.testing import measure_run
from minibatch.transforms import color_components
from tests.train.recipes.image_folders import write_data

# Three classes and narrow layers: the same code in a tenth of the time.
SMALL = {
    "minibatch_size": 32, "max_samples": 9600, "model.classes": 3, "model.widths": (8, 8, 8, 4), "threads": 1,
    "validate_every": 3200, "save_every": 3200, "log_every": 50,
}  # fmt: skip


def silent(text):
    pass


def stop_at(step):
    return lambda trainer, result: "a test" if result.step == step else None


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("cifar"), "--decode", train=40, valid=15, sizes=(32, 32))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished run, what it ended with, and the lines it printed."""
    out, file = tmp_path_factory.mktemp("cifar") / "run", io.StringIO()
    scales = UpdateScales(500)
    outcome = run_recipe(
        "cifar10", out, options=SMALL, data=data, say=silent, callbacks=[scales],
        reporter=ConvnetLines(scales=scales, file=file),
    )  # fmt: skip
    return out, outcome, file.getvalue()


def test_it_learns_and_reports_nine_views_and_its_filters(finished):
    out, outcome, _ = finished
    assert outcome.validation["top1"] < 0.2, "chance is 0.67"
    assert outcome.validation["logprob"] < 0.6
    assert set(outcome.report) == {"nine views logprob", "nine views top1"}
    assert outcome.report["nine views logprob"] != outcome.validation["logprob"]
    with Image.open(out / "filters.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_the_lines_are_those_of_the_document(finished):
    lines = [re.sub(r"\([\d.]+ sec\)", "(s sec)", line) for line in finished[2].splitlines()]
    values = r"logprob:  \d\.\d{6}, \d\.\d{6}"
    assert re.fullmatch(rf"1\.0 \(0\.00%\)\.\.\. {values} \(s sec\)", lines[0])
    assert [line.partition("%")[0] for line in lines if "..." in line] == [
        "1.0 (0.00", "14.1 (16.67", "27.1 (33.33", "41.0 (50.00", "54.1 (66.67", "67.1 (83.33",
    ]  # fmt: skip
    begin = lines.index("Test output".center(55, "="))
    assert re.fullmatch(values, lines[begin + 1])
    layers = [
        re.match(r"Layer '(\w+)' (weights\[0\]|biases): ", line).groups() for line in lines[begin + 3 : begin + 13]
    ]
    names = ("conv1", "conv2", "local3", "local4", "fc10")
    assert layers == [(name, what) for name in names for what in ("weights[0]", "biases")]
    assert lines[begin + 13] == "-" * 55
    assert lines[begin + 14].startswith("Saved checkpoint to ")
    assert lines[begin + 15] == "=" * 55 + " (s sec)"


def test_test_only_gives_the_last_validation_and_multiview_the_report(finished, tmp_path):
    out, outcome, _ = finished
    assert dict(measure_run(out).validation) == dict(outcome.validation)
    views = measure_run(out, views="recipe")
    assert views.views == 9
    assert views.validation["top1"] == outcome.report["nine views top1"]
    assert views.validation["logprob"] == pytest.approx(outcome.report["nine views logprob"], rel=1e-6)


def test_features_of_a_layer_are_those_of_the_model(finished, data, tmp_path):
    features(finished[0], "local4,fc10", tmp_path / "features", keep=["label"])
    written = Dataset.open(tmp_path / "features").read(range(45))
    model = load_model(finished[0], say=silent).model
    held_out = Dataset.open(data / "valid").read(range(45))
    with torch.no_grad():
        logits = model(torch.from_numpy(held_out["image"]))
    np.testing.assert_allclose(written["fc10"], logits, rtol=1e-4, atol=1e-5)
    assert written["local4"].shape == (45, 4, 6, 6)
    np.testing.assert_array_equal(written["label"], held_out["label"])


def test_killed_and_resumed_with_the_next_parameter_file(data, tmp_path):
    """What the document does by hand: Ctrl-C, other rates in the file, and on from the last checkpoint."""
    options = {**SMALL, "rates": "0.001", "save_every": 320}
    stopped = run_recipe("cifar10", tmp_path, options=options, data=data, callbacks=[stop_at(25)], say=silent)
    assert (stopped.stopped, stopped.nominal_time) == ("a test", 800)
    changed = {"rates": "0.0001", "max_samples": 1280}
    said = []
    ended = run_recipe("cifar10", tmp_path, options=changed, data=data, resume=True, say=said.append)
    assert ended.nominal_time == 1280
    ledger = read_ledger(tmp_path)
    assert [tuple(line.lr) for line in ledger] == [(0.001,)] * 25 + [(0.0001,)] * 15
    assert any("0.001 → 0.0001" in line for line in said), said
    assert json.loads((tmp_path / "config.json").read_text())["options"]["rates"] == ["0.0001"]


@pytest.mark.parametrize("color_noise", [0.0, 0.1])
def test_bits_do_not_depend_on_a_stop_nor_on_microbatches(data, tmp_path, color_noise):
    options = {**SMALL, "promise": "bits", "max_samples": 352, "color_noise": color_noise, "validate_every": None}
    whole = run_recipe("cifar10", tmp_path / "whole", options=options, data=data, say=silent)
    parts = run_recipe(
        "cifar10", tmp_path / "parts", options={**options, "microbatch_size": 32}, data=data,
        callbacks=[stop_at(4)], say=silent,
    )  # fmt: skip
    assert parts.stopped == "a test"
    parts = run_recipe(
        "cifar10", tmp_path / "parts", options={"microbatch_size": 96}, data=data, resume=True, say=silent
    )
    assert parts.parameters_digest == whole.parameters_digest
    assert parts.nominal_time == 352


def test_rates_biases_and_decay_are_those_of_the_parameter_file(data):
    config = configure("cifar10", {})
    model = config.model(seed=1)
    optimizer = config.optimizers(model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: (group["lr"], group["momentum"], group["weight_decay"], group["velocity"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    decay = {"conv1": 0.0, "conv2": 0.0, "local3": 0.004, "local4": 0.004, "fc10": 0.01}
    for layer, value in decay.items():
        assert found[f"{layer}.weight"] == (0.001, 0.9, value, "inside")
        assert found[f"{layer}.bias"] == (0.002, 0.9, 0.0, "inside")
    rate = config.schedules[0]
    assert [rate(t * 50_000) for t in (0, 499, 500, 509, 510, 519)] == [0.001] * 2 + [0.0001] * 2 + [0.00001] * 2
    levels = one_after_the_other(["dexp[base=0.001;tgtFactor=10;numSteps=2]", "0.5"], [1, 3], 400)
    assert [levels(t) for t in (0, 49, 50, 99, 100, 399)] == [0.001, 0.001, 0.0001, 0.0001, 0.5, 0.5]


@pytest.mark.parametrize(("rates", "shares"), [((), (1,)), (("0.1", "0.01"), (1,)), (("0.1",), (0,))])
def test_rates_need_shares(rates, shares):
    with pytest.raises(ValueError, match="expected at least one rate, and a share above 0 of each"):
        cifar10(rates=rates, shares=shares)


def test_the_mean_is_that_of_the_middles_and_the_noise_keeps_it(data):
    images = Dataset.open(data / "train").read(range(120))["image"]
    middles = images[:, 4:28, 4:28].astype(np.float64)
    found = pixel_statistics(data / "train", size=24, most=10_000)
    np.testing.assert_allclose(found.mean, middles.mean(0), rtol=1e-6)
    vectors, deviations = color_components([middles])
    np.testing.assert_allclose(found.vectors, vectors, atol=1e-6)
    np.testing.assert_allclose(found.deviations, deviations, atol=1e-6)
    some = pixel_statistics(data / "train", size=24, most=30)
    np.testing.assert_allclose(some.mean, middles[::4].mean(0), rtol=1e-6)

    prepared = Prepared(train=data / "train", valid=data / "valid")
    model = ConvNet()
    cifar10().start(model, prepared, 1)
    np.testing.assert_array_equal(model.data.mean.numpy(), found.mean)
    with opened_source(cifar10(color_noise=0.0), prepared) as plain, opened_source(cifar10(), prepared) as noisy:
        clean, noised = (source.next_minibatch(1200)["image"] for source in (plain, noisy))
    assert (clean.dtype, clean.shape, noised.dtype) == (np.uint8, (1200, 24, 24, 3), np.float32)
    center = found.mean.mean((0, 1))
    noise = (noised - center) * 1.1 - (clean - center)
    assert np.abs(noise - noise[:, :1, :1]).max() < 1e-3, "one colour for all pixels of an image"
    np.testing.assert_allclose(np.cov(noise[:, 0, 0].T), 0.01 * (vectors.T * deviations**2) @ vectors, atol=2.5)


def test_a_whole_image_is_seen_in_its_middle(finished, data):
    model = load_model(finished[0], say=silent).model
    images = torch.from_numpy(Dataset.open(data / "valid").read(range(5))["image"])
    with torch.no_grad():
        assert torch.equal(model(images), model(images[:, 4:28, 4:28]))
