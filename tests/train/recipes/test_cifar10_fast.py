"""The fast recipe on a slice: it learns, its first layer is whitened by its own data, and a stopped run keeps bits."""

import numpy as np
import pytest
import torch

from minibatch import Dataset, DatasetWriter, MinibatchSource, rng
from minibatch.models.fast_convnet import FastConvNet, patches_of, scaled
from minibatch.train.config import Prepared
from minibatch.train.recipes import configure
from minibatch.train.recipes.cifar10_fast import SIZES, cifar10_fast, nesterov, whitened
from minibatch.train.running import make_trainer, opened_source, run_recipe
from minibatch.train.saved_model import load_model

QUIET = {"say": lambda text: None}
SMALL = {"widths": (25, 16, 16), "minibatch_size": 16, "threads": 1, "validate_every": None, "save_every": None}


def write(folder, count, seed):
    """Images whose class is the width and colour of their stripes, in noise: bytes (count, 32, 32, 3)."""
    labels = rng.integers(rng.key(seed, "labels"), np.arange(count), 10)
    noise = rng.normal(rng.key(seed, "noise"), np.arange(count * 32 * 32 * 3)).reshape(count, 32, 32, 3)
    waves = np.sin(np.arange(32) * np.array([0.3, 0.6, 1.2, 1.9, 2.7])[labels % 5][:, None])
    stripes = 60 * waves[:, :, None, None] * np.where(labels[:, None] < 5, (1, 0, 0), (0, 1, 1))[:, None, None]
    images = (128 + stripes + 10 * noise).clip(0, 255).astype(np.uint8)
    with DatasetWriter(folder) as writer:
        writer.write({"image": images, "label": labels.astype(np.int64)})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stripes")
    write(folder / "train", 600, 1)
    write(folder / "valid", 200, 2)
    return folder


def test_it_learns_stripes(data, tmp_path):
    options = {**SMALL, "max_samples": 2400, "save_every": None}
    outcome = run_recipe("cifar10_fast", tmp_path / "run", options=options, data=data, **QUIET)
    assert outcome.validation["accuracy"] > 0.6, "chance is 0.1"


@pytest.mark.parametrize("stop", [160, 176])
def test_a_run_that_is_stopped_and_resumed_has_the_same_bits(data, tmp_path, stop):
    options = {**SMALL, "minibatch_size": 32, "leaf_size": 16, "promise": "bits", "save_every": 32}
    options["learning_rate_per_sample"] = 0.001
    whole = run_recipe("cifar10_fast", tmp_path / "whole", options={**options, "max_samples": 320}, data=data, **QUIET)
    config = configure("cifar10_fast", {**options, "max_samples": 320, "microbatch_size": 16})
    prepared = Prepared(train=data / "train", valid=data / "valid")
    with opened_source(config, prepared) as source, make_trainer(config, source, tmp_path / "cut", start=prepared) as t:
        while t.nominal_time < stop:
            t.train_minibatch()
        t.save_checkpoint()
    (tmp_path / "cut" / "config.json").write_bytes((tmp_path / "whole" / "config.json").read_bytes())
    resumed = run_recipe(
        "cifar10_fast", tmp_path / "cut", options={"microbatch_size": 48}, resume=True, data=data, **QUIET
    )
    assert resumed.parameters_digest == whole.parameters_digest
    other = run_recipe(
        "cifar10_fast", tmp_path / "other", options={**options, "max_samples": 320, "seed": 2}, data=data, **QUIET
    )
    assert other.parameters_digest != whole.parameters_digest


def test_a_microbatch_changes_nothing_and_leaves_as_large_as_a_minibatch_are_the_whole_minibatch(data, tmp_path):
    digests = set()
    for name, changes in {"leaf": {}, "cut": {"microbatch_size": 16}, "sync": {"batch_norm": "sync"}}.items():
        options = {**SMALL, "max_samples": 96, **changes}
        run_recipe("cifar10_fast", tmp_path / name, options=options, data=data, **QUIET)
        model = load_model(tmp_path / name).model
        digests.add(tuple(p.detach().numpy().tobytes() for p in model.parameters()))
    assert len(digests) == 1


def test_the_first_layer_whitens_the_patches_of_the_training_images(data):
    model = FastConvNet(widths=(25, 8, 8), seed=1)
    prepared = Prepared(train=data / "train")
    whitened(model, prepared, 7)
    images = torch.from_numpy(Dataset.open(data / "train").read(np.arange(600))["image"])
    with torch.no_grad():
        pixels = scaled(images, model.mean, model.std)
        outputs = model.whitening(pixels)[:, :12].double().permute(0, 2, 3, 1).reshape(-1, 12)
    products = (outputs.T @ outputs / len(outputs)).numpy()
    values = np.linalg.eigvalsh(np.cov(patches_of(pixels, 2).double().numpy().T, bias=True))
    assert values.min() > 5e-3, "the floor of 5e-4 matters little"
    np.testing.assert_allclose(products, np.eye(12), atol=0.1)
    again = FastConvNet(widths=(25, 8, 8), seed=1)
    whitened(again, prepared, 8)
    torch.testing.assert_close(again.whitening.weight, model.whitening.weight, msg="all images, in another order")


def test_what_is_not_given_is_as_the_size_says():
    small, large = cifar10_fast(), cifar10_fast(size="large")
    assert (small.precision, large.precision) == (None, "bf16")
    assert large.model.keywords == {"widths": SIZES["large"].widths}
    assert (large.minibatch_size, large.leaf_size, large.max_samples) == (1024, 1024, 800_000)
    mixed = cifar10_fast(
        size="large", max_samples=2000, minibatch_size=64, learning_rate_per_sample=0.01, widths=(26, 8, 8)
    )
    assert (mixed.max_samples, mixed.minibatch_size, mixed.precision) == (2000, 64, "bf16")
    assert mixed.schedules[0](460) == pytest.approx(0.64)
    assert mixed.model.keywords == {"widths": (26, 8, 8)}
    with pytest.raises(ValueError, match="'small' or 'large'"):
        configure("cifar10_fast", {"size": "medium"})


def test_shifts_learn_faster_and_all_parameters_decay_alike():
    model = FastConvNet(widths=(25, 8, 8), seed=1)
    filters, shifts = nesterov(model, learning_rate=0.1, weight_decay=1e-3).param_groups
    biases = {p for name, p in model.named_parameters() if name.endswith("bias")}
    if set(filters["params"]) & biases:
        filters, shifts = shifts, filters
    assert set(shifts["params"]) == biases
    assert shifts["lr"] == pytest.approx(6.4)
    assert shifts["lr"] * shifts["weight_decay"] == pytest.approx(filters["lr"] * filters["weight_decay"])


def test_the_large_size_computes_in_bf16_and_learns(data, tmp_path):
    options = {**SMALL, "size": "large", "max_samples": 1600, "learning_rate_per_sample": 0.003, "minibatch_size": 32}
    outcome = run_recipe("cifar10_fast", tmp_path / "run", options=options, data=data, **QUIET)
    assert outcome.validation["accuracy"] > 0.4, "chance is 0.1"


def test_images_reach_the_device_as_bytes(data):
    config = cifar10_fast()
    with MinibatchSource(data / "train", seed=1, transforms=config.transforms) as source:
        assert source.next_minibatch(8)["image"].dtype == np.uint8
