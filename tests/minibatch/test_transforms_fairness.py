"""Random transforms give every outcome its share: places, sizes, partners, factors; each against what was promised."""

import numpy as np
import pytest

from minibatch.rng import Draws
from minibatch.transforms import (
    ColorJitter,
    ColorNoise,
    CutMix,
    Cutout,
    Dropout,
    GaussianNoise,
    HorizontalFlip,
    MixUp,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    color_components,
)

N = 6000


def draws(n: int = N) -> Draws:
    return Draws(11, "fairness", np.arange(n))


def check_even(outcomes: np.ndarray, kinds: int) -> None:
    """Chi-square: beyond mean + 4.5 deviations less than once in 10,000 fair samples, for 5 kinds or more."""
    counts = np.bincount(outcomes.reshape(-1), minlength=kinds)
    assert len(counts) == kinds
    expected = outcomes.size / kinds
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < (kinds - 1) + 4.5 * np.sqrt(2 * (kinds - 1)), counts


def coordinates(height: int, width: int, n: int = N) -> np.ndarray:
    """Images whose pixels tell where they are: 1 + row · 100 + column."""
    return np.broadcast_to(1 + np.arange(height)[:, None] * 100 + np.arange(width), (n, height, width))


@pytest.mark.parametrize("padding", [0, 2])
def test_crops_lie_everywhere_alike(padding):
    crop = RandomCrop(size=(7, 4), padding=padding)
    found = crop({"image": coordinates(9, 8)}, draws())["image"].reshape(N, 28)
    first = (found > 0).argmax(1)  # the first pixel of the crop that is not padding, and where it lies in the image
    at = found[np.arange(N), first] - 1
    top, left = at // 100 - first // 4 + padding, at % 100 - first % 4 + padding
    down, right = 9 - 7 + 2 * padding + 1, 8 - 4 + 2 * padding + 1
    check_even(top * right + left, down * right)


def test_flips_have_their_probability():
    images = coordinates(1, 2)
    for probability in (0.5, 0.2):
        found = HorizontalFlip(probability=probability)({"image": images}, draws())["image"]
        assert abs((found[:, 0, 0] == 2).mean() - probability) < 4 * np.sqrt(probability * (1 - probability) / N)


def test_resized_crops_have_areas_and_ratios_as_promised():
    crop = RandomResizedCrop(size=8, scale=(0.1, 0.5), ratio=(0.5, 2.0))
    heights, widths = np.full(N, 400), np.full(N, 300)
    top, left, height, width = crop.boxes(crop.draw(draws()), heights, widths).T
    areas, logs = height * width / 120_000, np.log2(width / height)
    assert ((areas > 0.097) & (areas < 0.503)).all()
    assert ((logs > -1.05) & (logs < 1.05)).all()
    assert ((top >= 0) & (left >= 0) & (top + height <= 400) & (left + width <= 300)).all()
    check_even(((areas.clip(0.1, 0.4999) - 0.1) / 0.4 * 10).astype(int), 10)
    places = top / (400 - height + 1)
    check_even((places * 8).astype(int), 8)
    assert abs(logs.mean()) < 0.05
    assert abs(logs.std() - np.sqrt(4 / 12)) < 0.02


def test_without_a_part_that_fits_the_largest_allowed_one_is_in_the_middle():
    crop = RandomResizedCrop(size=8, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    boxes = crop.boxes(crop.draw(draws(3)), np.array([10, 20, 15]), np.array([20, 10, 15]))
    assert boxes.tolist() == [[0, 5, 10, 10], [5, 0, 10, 10], [0, 0, 15, 15]]


def test_cutout_has_its_middle_at_any_pixel():
    cut = Cutout(size=1)({"image": np.ones((N, 5, 4), np.float32)}, draws())["image"]
    assert (cut.reshape(N, -1).sum(1) == 19).all()
    check_even((cut.reshape(N, -1) == 0).argmax(1), 20)


def test_erasing_has_its_probability_and_area():
    erase = RandomErasing(probability=0.3, scale=(0.1, 0.2), ratio=(0.5, 2.0))
    found = erase({"image": np.ones((N, 30, 30), np.float32)}, draws())["image"]
    areas = (found == 0).mean((1, 2))
    hit = areas > 0
    assert abs(hit.mean() - 0.3) < 4 * np.sqrt(0.21 / N)
    assert abs(areas[hit].mean() - 0.15) < 0.005
    assert ((areas[hit] > 0.085) & (areas[hit] < 0.215)).all()


def test_erased_noise_is_uniform_bytes_or_standard_normal():
    erase = RandomErasing(probability=1.0, scale=(1.0, 1.0), ratio=(1.0, 1.0), fill="noise")
    noise = erase({"image": np.zeros((600, 8, 8), np.uint8)}, draws(600))["image"]
    check_even(noise.astype(np.int64), 256)
    normal = erase({"image": np.zeros((600, 8, 8, 1), np.float32)}, draws(600))["image"]
    assert abs(normal.mean()) < 4 / np.sqrt(normal.size)
    assert abs(normal.std() - 1) < 4 / np.sqrt(2 * normal.size)


def test_dropout_has_its_probability_and_keeps_the_mean():
    values = np.ones((1000, 40), np.float32)
    for probability in (0.1, 0.5):
        found = Dropout(field="x", probability=probability)({"x": values}, draws(1000))["x"]
        deviation = np.sqrt(probability * (1 - probability) / values.size)
        assert abs((found == 0).mean() - probability) < 4 * deviation
        assert abs(found.mean() - 1) < 4 * deviation / (1 - probability)
        assert np.allclose(found[found != 0], 1 / (1 - probability))
        assert abs(np.corrcoef((found == 0)[:, :2].T)[0, 1]) < 4 / np.sqrt(1000)


def test_noise_is_normal_and_independent_from_element_to_element():
    found = GaussianNoise(field="x", sigma=2.0)({"x": np.zeros((4000, 3))}, draws(4000))["x"]
    assert abs(found.std() - 2) < 4 * 2 / np.sqrt(2 * found.size)
    assert np.abs(np.corrcoef(found.T) - np.eye(3)).max() < 4 / np.sqrt(4000)


def test_every_other_sample_of_the_neighbourhood_is_as_often_the_partner():
    n, size = 7000, 7
    values = np.eye(size, dtype=np.float32)[np.arange(n) % size]
    mix = MixUp(field="x", alpha=1.0, neighbourhood=size, label=None)
    own = np.arange(n) % size
    mixed = mix({"x": values}, draws(n))["x"].copy()
    mixed[np.arange(n), own] = 0
    hops = (mixed.argmax(1) - own) % size
    assert (hops > 0).all(), "never oneself"
    check_even(hops - 1, size - 1)
    check_even(mixed.argmax(1), size)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_weights_of_mixing_are_beta_numbers(alpha):
    fields = {"image": np.zeros((N, 16, 16), np.uint8)}
    for mix in (MixUp(alpha=alpha, label=None), MixUp(alpha=alpha, label=None, probability=0.5)):
        weights = mix(fields, draws())["lambda"]
        mixed = weights[weights < 1] if mix.probability < 1 else weights
        assert abs(mixed.mean() - 0.5) < 0.03
        assert abs(mixed.var() - 1 / (4 * (2 * alpha + 1))) < 0.01
        if mix.probability < 1:
            assert abs((weights == 1).mean() - 0.5) < 0.05


def test_cutmix_replaces_what_its_weight_says():
    images = np.repeat(np.arange(N, dtype=np.int32), 400).reshape(N, 20, 20)
    found = CutMix(label=None, neighbourhood=50)({"image": images}, draws())
    foreign = found["image"] != images
    assert np.allclose(1 - foreign.mean((1, 2)), found["lambda"], atol=1e-6)
    partner = np.where(foreign, found["image"], -1).max((1, 2))
    touched = partner >= 0
    assert (partner[touched] // 50 == np.flatnonzero(touched) // 50).all()
    assert 0.5 < found["lambda"].mean() < 0.75, "boxes are cut off at the edges"
    edges = foreign[:, 0].any(1).mean(), foreign[:, -1].any(1).mean(), foreign[:, :, 0].any(1).mean()
    assert max(edges) - min(edges) < 0.05


def test_jitter_factors_are_uniform_around_one():
    image = np.full((N, 1, 1), 100, np.float32)
    found = ColorJitter(brightness=0.4)({"image": image}, draws())["image"].reshape(-1) / 100
    check_even(((found.clip(0.6, 1.39999) - 0.6) / 0.8 * 10).astype(int), 10)
    wide = ColorJitter(brightness=3.0)({"image": image}, draws())["image"].reshape(-1) / 100
    assert wide.min() >= 0
    assert 3.9 < wide.max() <= 4


def test_contrast_keeps_the_mean_and_saturation_the_grey():
    images = np.arange(N * 12).reshape(N, 2, 2, 3).astype(np.float32) % 251
    grey = np.array([0.299, 0.587, 0.114])
    before = images @ grey
    contrast = ColorJitter(contrast=0.9)({"image": images}, draws())["image"] @ grey
    assert np.allclose(contrast.mean((1, 2)), before.mean((1, 2)), atol=1e-3)
    assert (np.abs(contrast - before).max((1, 2)) > 0.1).mean() > 0.8
    saturation = ColorJitter(saturation=0.9)({"image": images}, draws())["image"]
    assert np.allclose(saturation @ grey, before, atol=1e-3)
    assert (np.abs(saturation - images).max((1, 2, 3)) > 0.1).mean() > 0.9


def test_colour_noise_has_the_covariance_of_the_data():
    """With the standard deviations as amounts and scale 1, the noise is distributed as the colours themselves."""
    mixing = np.array([[5.0, 2, 0], [1, 3, 1], [0, 1, 4]])
    pixels = GaussianNoise(field="x", sigma=1.0)({"x": np.zeros((4000, 3))}, draws(4000))["x"] @ mixing + 100
    vectors, deviations = color_components([pixels[:1000, None, None], pixels[1000:].reshape(100, 30, 3)])
    assert np.allclose(np.cov(pixels.T, bias=True), (vectors.T * deviations**2) @ vectors)
    assert np.allclose(vectors @ vectors.T, np.eye(3))
    assert (np.diff(deviations) <= 0).all()
    noise = ColorNoise(vectors=vectors, amounts=deviations, scale=1.0)
    found = noise({"image": np.zeros((N, 1, 1, 3), np.float32)}, draws())["image"].reshape(N, 3)
    wanted = np.cov(pixels.T)
    assert np.abs(np.cov(found.T) - wanted).max() < 0.06 * wanted.max()
    divided = ColorNoise(vectors=vectors, amounts=deviations, scale=1.0, form="cuda-convnet2")
    halves = divided({"image": np.full((N, 1, 1, 3), 8, np.uint8)}, draws())["image"].reshape(N, 3)
    assert np.allclose(halves, (found + 8) / 2, atol=1e-4)
