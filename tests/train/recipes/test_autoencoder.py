"""The recipe autoencoder on a few images: it beats the mean image, its report is right, its bits survive a resume."""

import numpy as np
import pytest
import torch
from PIL import Image

from minibatch import Dataset, rng
from minibatch.train import recipes
from minibatch.train.recipes import digits_data
from minibatch.train.recipes.autoencoder import flat, pixels, principal
from minibatch.train.running import run_recipe
from minibatch.train.saved_model import load_model
from tests.tools.samples import converted

SMALL = {"maps": (12, 4), "windows": (2, 2), "kernel": 3, "max_samples": 3000, "learning_rate": 1e-2, "threads": 1}
FEW = {**SMALL, "max_samples": 160, "save_every": 48, "validate_every": 64, "report": None}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of two colours on the two sides of a line, as a folder of PNG files converts to."""
    folder = tmp_path_factory.mktemp("autoencoder")
    rows, columns = np.mgrid[-15.5:16, -15.5:16]
    for subset, count in (("train", 120), ("valid", 24)):
        (folder / subset / "any").mkdir(parents=True)
        for number in range(count):
            draws = rng.uniform(rng.key(3, subset, number), np.arange(8))
            angle, offset = 2 * np.pi * draws[0], 16 * draws[1] - 8
            side = (rows * np.sin(angle) + columns * np.cos(angle) > offset)[:, :, None]
            pixels = np.where(side, draws[2:5], draws[5:8]) * 255
            Image.fromarray(pixels.astype(np.uint8)).save(folder / subset / "any" / f"{number:03}.png")
        converted(folder / subset, folder / "data" / subset, "--decode")
    return folder / "data"


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("autoencoder") / "run"
    return out, run(out, data, SMALL)


def run(out, data, options, **more):
    return run_recipe("autoencoder", out, options=options, data=data, say=lambda text: None, **more)


def images_of(path):
    """All images of a data set, float64 (n, pixels) from 0 to 1, in the recipe's order of axes."""
    dataset = Dataset.open(path)
    images = dataset.read(np.arange(len(dataset)))["image"].astype(np.float64)
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1) / 255.0


def test_it_beats_the_mean_image_by_far(finished):
    outcome = finished[1]
    assert outcome.validation["mse"] < 0.5 * outcome.report["mse of the mean image"]
    assert outcome.validation["rmse"] ** 2 <= outcome.validation["mse"]


def test_its_report_compares_it_with_the_mean_image_and_with_principal_components(finished, data):
    report = finished[1].report
    assert report["numbers in a code"] == 4 * 8 * 8 == 256
    assert report["places beside a code"] == sum(m * (32 >> i) ** 2 for i, m in enumerate(SMALL["maps"], 1))
    train, valid = images_of(data / "train"), images_of(data / "valid")
    assert report["mse of the mean image"] == pytest.approx(np.mean((valid - train.mean(0)) ** 2), rel=1e-4)
    names = {"numbers in a code", "places beside a code", "mse of the mean image"}
    assert set(report) == names, "120 images have no 256 components"


def test_principal_components_are_those_of_a_singular_value_decomposition(data):
    train = np.concatenate(list(flat(data / "train")))
    np.testing.assert_allclose(train, images_of(data / "train"), atol=1e-6)
    centred = (train - train.mean(0))[:, :500]
    ours = principal(centred, 20).astype(np.float64)
    _, _, theirs = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(ours @ ours.T, theirs[:20].T @ theirs[:20], atol=2e-4)
    assert principal(centred, 120) is None, "120 images have no more directions"


def test_the_picture_has_the_images_above_what_became_of_them(finished, data):
    with Image.open(finished[0] / "reconstructions.png") as picture:
        shown = np.asarray(picture.convert("RGB")).astype(float)
    # The first columns of pixels that are not white bound the first image; the same columns hold both rows.
    above, below = shown[: len(shown) // 2], shown[len(shown) // 2 :]
    model = load_model(finished[0]).model.eval()
    first = pixels({"image": torch.as_tensor(Dataset.open(data / "valid").read(range(1))["image"])})
    with torch.no_grad():
        second = (model(first - 0.5) + 0.5).clamp(0, 1)
    for half, image in ((above, first), (below, second)):
        inside = np.argwhere((half < 250).any(2))
        top, left = inside.min(0)
        size = inside[inside[:, 1] < left + half.shape[1] // 13].max(0)[0] - top
        patch = half[top : top + size, left : left + size].mean((0, 1)) / 255.0
        np.testing.assert_allclose(patch, image[0].mean((1, 2)).numpy(), atol=0.05)


@pytest.mark.parametrize("loss", ["rmse", "bce"])
def test_other_losses_learn_and_are_measured_alike(data, tmp_path, loss):
    outcome = run(tmp_path, data, {**SMALL, "loss": loss})
    assert outcome.validation["mse"] < 0.6 * outcome.report["mse of the mean image"]
    assert outcome.validation["rmse"] ** 2 <= outcome.validation["mse"]
    assert loss in outcome.validation


def test_digits_come_in_grey(tmp_path):
    digits_data.prepare(tmp_path / "digits")
    options = {"images": "digits", "maps": (8,), "windows": (4,), "max_samples": 8000, "threads": 1}
    outcome = run(tmp_path / "run", tmp_path / "digits", options)
    report = outcome.report
    assert report["numbers in a code"] == report["places beside a code"] == 8 * 2 * 2
    assert report["mse of 32 principal components"] < outcome.validation["mse"] < report["mse of the mean image"]
    assert (tmp_path / "run" / "reconstructions.png").stat().st_size > 1000


@pytest.mark.parametrize("loss", ["mse", "rmse"])
def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(data, tmp_path, loss):
    options = {**FEW, "promise": "bits", "leaf_size": 8, "loss": loss}
    whole = run(tmp_path / "whole", data, options)

    def stop(trainer, result):
        return "stop" if result.step == 5 else None

    assert run(tmp_path / "cut", data, options, callbacks=[stop]).stopped == "stop"
    resumed = run(tmp_path / "cut", data, {"microbatch_size": 8}, resume=True)
    assert resumed.parameters_digest == whole.parameters_digest
    assert resumed.validation == whole.validation


def test_its_steps_run_under_deterministic_algorithms(data, tmp_path):
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert run(tmp_path, data, FEW).stopped is None
    finally:
        torch.use_deterministic_algorithms(before)


def test_a_window_that_does_not_divide_the_images_is_said(data, tmp_path):
    with pytest.raises(ValueError, match="multiples of 3"):
        run(tmp_path, data, {**FEW, "windows": (3, 2)})
    with pytest.raises(ValueError, match="one window for the maps of each stage"):
        recipes.configure("autoencoder", {"windows": (2,)}).model(seed=1)
