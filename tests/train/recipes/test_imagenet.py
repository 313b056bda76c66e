"""The recipe imagenet on a few small JPEG files of differing sizes: it learns, and its tests and lines are the
document's."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from minibatch import Dataset
from minibatch.models.alexnet import AlexNet
from minibatch.rng import Draws
from minibatch.train.config import Prepared
from minibatch.train.monitors import UpdateScales
from minibatch.train.progress import ConvnetLines
from minibatch.train.recipes import configure
from minibatch.train.recipes.imagenet import Shown, imagenet, of_so_many_classes
from minibatch.train.running import opened_source, run_recipe
from minibatch.train.testing import measure_run
from minibatch.transforms import HorizontalFlip, RandomCrop, apply, name_operations
from tests.train.recipes.image_folders import write_data

SMALL = {
    "minibatch_size": 30, "max_samples": 4500, "classes": 3, "size": 48, "shorter_side": 56, "hidden": 512,
    "widths": (64, 64, 64, 64, 64), "rates": "0.02", "bias_rates": "0.04", "threads": 1, "log_every": 10,
    "validate_every": 900, "save_every": 900,
}  # fmt: skip


def silent(text):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("imagenet"), train=30, valid=10, sizes=(50, 90))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished run, what it ended with, and the lines it printed."""
    out, file = tmp_path_factory.mktemp("imagenet") / "run", io.StringIO()
    scales = UpdateScales(300)
    outcome = run_recipe(
        "imagenet", out, options=SMALL, data=data, say=silent, callbacks=[scales],
        reporter=ConvnetLines(scales=scales, file=file),
    )  # fmt: skip
    return out, outcome, file.getvalue().splitlines()


def test_it_learns_and_prints_three_values(finished):
    _, outcome, lines = finished
    assert outcome.validation["logprob"] < 0.3, "chance is 1.10"
    assert outcome.validation["top1"] < 0.1
    assert outcome.validation["top5"] == 0.0, "of three classes"
    values = r"logprob:  \d\.\d{6}, [01]\.\d{6}, 0\.000000"
    assert re.fullmatch(rf"1\.0 \(0\.00%\)\.\.\. {values} \([\d.]+ sec\)", lines[0])
    begin = lines.index("Test output".center(55, "="))
    assert re.fullmatch(values, lines[begin + 1])
    layers = [re.match(r"Layer '(\w+)'", line)[1] for line in lines[begin + 3 : begin + 19 : 2]]
    assert layers == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc4096a", "fc4096b", "fc1000"]


def test_test_only_gives_the_last_validation_and_multiview_ten_views(finished):
    out, outcome, _ = finished
    assert dict(measure_run(out).validation) == dict(outcome.validation)
    views = measure_run(out, views="recipe")
    assert views.views == 10
    assert views.validation["top1"] < 0.1
    assert views.validation["logprob"] != outcome.validation["logprob"]


def test_it_is_stopped_and_resumed_with_the_same_bits(data, tmp_path):
    options = {**SMALL, "promise": "bits", "max_samples": 96, "validate_every": None, "widths": (8,) * 5, "hidden": 16}
    whole = run_recipe("imagenet", tmp_path / "whole", options=options, data=data, say=silent)
    for resume in (False, True):
        parts = run_recipe(
            "imagenet", tmp_path / "parts", options={} if resume else options, data=data, resume=resume, say=silent,
            callbacks=[] if resume else [lambda trainer, result: "a test" if result.step == 2 else None],
        )  # fmt: skip
    assert parts.parameters_digest == whole.parameters_digest


def test_images_of_any_size_are_resized_and_cropped(data):
    options = {
        name: value for name, value in SMALL.items() if name not in ("validate_every", "save_every", "log_every")
    }
    config = imagenet(**options)
    prepared = Prepared(train=data / "train", valid=data / "valid")
    with opened_source(config, prepared) as source:
        crops = source.next_minibatch(60)["image"]
    assert (crops.shape, crops.dtype) == ((60, 48, 48, 3), np.float32)
    whole = config.validation_source(prepared, 1)
    images = whole.next_minibatch(30)["image"]
    assert (images.shape, images.dtype) == ((30, 56, 56, 3), np.uint8)
    model = AlexNet(size=48, classes=3, widths=(2, 2, 2, 2, 2), hidden=2)
    config.start(model, prepared, 1)
    decode = name_operations(config.start.keywords["decode"])
    rows = np.arange(90)
    middles = apply(decode, Dataset.open(data / "train").read(rows, ["image"]), 0, rows, rows)[0]["image"]
    np.testing.assert_allclose(model.data.mean, middles[:, 4:52, 4:52].mean(0), rtol=1e-6)


def test_pixels_that_are_decoded_already_come_out_the_same():
    pixels = np.random.default_rng(1).integers(0, 256, (6, 20, 30, 3)).astype(np.uint8)
    files = [io.BytesIO() for _ in pixels]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file, "PNG")
    encoded = np.array([file.getvalue() for file in files], object)
    shown = Shown(shorter_side=40, crop=RandomCrop(size=33), flip=HorizontalFlip())
    times = np.arange(70, 76)
    one, other = (shown({"image": each}, Draws(7, "Shown", times))["image"] for each in (encoded, pixels))
    assert one.shape == (6, 33, 33, 3)
    np.testing.assert_array_equal(one, other)


def test_rates_are_those_of_the_parameter_file():
    config = configure("imagenet", {"max_samples": 1000})
    model = AlexNet(size=48, classes=3, widths=(2, 2, 2, 2, 2), hidden=2)
    weights, biases = config.optimizers(model).param_groups
    assert (weights["weight_decay"], biases["weight_decay"], weights["momentum"]) == (0.0005, 0.0, 0.9)
    assert [round(config.schedules[0](t), 8) for t in (0, 250, 500, 750)] == [0.01, 0.0015874, 0.00025198, 0.00004]
    assert [biases["schedules"]["lr"](t) for t in (0, 499, 500, 999)] == [0.02, 0.02, 0.002, 0.002]
    assert len(weights["params"]) == len(biases["params"]) == 8


def test_another_number_of_classes_is_refused_with_what_to_do(data):
    with pytest.raises(ValueError, match=r"images of 3 classes and the network is for 1,000: pass --set classes=3"):
        of_so_many_classes(data, classes=1000)
    assert of_so_many_classes(data, classes=3).valid == data / "valid"
    assert torch.is_tensor(AlexNet(size=48, widths=(2, 2, 2, 2, 2), hidden=2).fc1000.weight)
