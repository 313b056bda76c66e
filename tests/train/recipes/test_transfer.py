"""Transfer on a slice: the base run sees only its classes, a frozen body does not move, a timm body is cut by name."""

import importlib.util
import sys

import numpy as np
import pytest
import torch

from minibatch import Dataset, DatasetWriter, rng
from minibatch.errors import CheckpointError, MissingExtraError
from minibatch.train import checkpoint
from minibatch.train.config import Prepared
from minibatch.train.recipes import configure
from minibatch.train.recipes.transfer import OfClasses, Recount, network, normalized, transfer
from minibatch.train.running import load_config, run_recipe
from minibatch.train.saved_model import load_model
from minibatch.train.start_from import digest_of, weights_of
from tests.train.recipes.test_cifar10_fast import write

QUIET = {"say": lambda text: None}
WIDTHS = (25, 16, 16)
NEW = {"classes": ("8", "3"), "images": 10, "widths": WIDTHS, "max_samples": 800, "learning_rate": 0.1}
TIMM = """
import torch
from torch import nn

def create_model(name, pretrained, num_classes):
    assert name == "tiny" and not pretrained
    return Tiny(num_classes)

class Tiny(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(16, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU())
        self.fc = nn.Linear(16, num_classes)

    def forward_features(self, x):
        return self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x)))))

    def forward(self, x):
        return self.fc(self.forward_features(x).mean((2, 3)))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stripes")
    write(folder / "train", 800, 1)
    write(folder / "valid", 300, 2)
    return folder


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "run"
    options = {"left_out": ("3", "8"), "widths": WIDTHS, "max_samples": 3200, "minibatch_size": 16, "leaf_size": 16}
    outcome = run_recipe("transfer_base", folder, options={**options, "threads": 1}, data=data, **QUIET)
    assert outcome.validation["accuracy"] > 0.4, "chance is 1/8"
    return folder


def labels_of(folder):
    dataset = Dataset.open(folder)
    return dataset.read(np.arange(len(dataset)), ["label"])["label"]


def rows_of(source, count):
    return source.next_minibatch(count).rows


def test_a_base_run_sees_the_other_classes_alone_counted_from_zero(data):
    config = configure("transfer_base", {"left_out": ("3", "8")})
    prepared = Prepared(train=data / "train", valid=data / "valid")
    for make, part in ((config.source, "train"), (config.validation_source, "valid")):
        labels = labels_of(data / part)
        kept = [0, 1, 2, 4, 5, 6, 7, 9]
        with make(prepared, 5) as source:
            count = len(source.dataset)
            assert count == np.isin(labels, kept).sum()
            batch = source.next_minibatch(count)
            expected = np.flatnonzero(np.isin(labels, kept))[batch.rows]
            assert [kept[number] for number in batch["label"]] == labels[expected].tolist()
    assert (batch.rows == np.arange(count)).all(), "held-out rows come in their own order"


def test_so_many_images_of_each_class_are_chosen_by_the_seed(data):
    prepared = Prepared(train=data / "train")
    chosen = {}
    for seed in (1, 1, 2):
        with OfClasses(classes=("8", "3"), per_class=10)(prepared, seed) as source:
            batch = source.next_minibatch(20)
            assert not batch.end_of_sweep or len(source.dataset) == 20
            assert np.bincount(batch["label"]).tolist() == [10, 10]
            found = source.dataset.read(np.arange(20))
            assert set(found["label"].tolist()) == {3, 8}
            for row, label in zip(batch.rows, batch["label"], strict=True):
                assert found["label"][row] == (8, 3)[label]
            images = found["image"].tobytes()
            assert chosen.setdefault(seed, images) == images
    assert chosen[1] != chosen[2]


def test_classes_may_be_named_as_the_data_set_names_them(tmp_path):
    with DatasetWriter(tmp_path / "named", metadata={"label": {"classes": '["ant", "bee", "7"]'}}) as writer:
        writer.write({"label": np.array([0, 1, 2, 1, 0])})
    prepared = Prepared(train=tmp_path / "named")
    with OfClasses(classes=("bee", "ant"))(prepared, 1) as source:
        assert sorted(source.next_minibatch(4)["label"].tolist()) == [0, 0, 1, 1]
    with OfClasses(classes=("7",))(prepared, 1) as source:
        assert len(source.dataset) == 1
    with pytest.raises(ValueError, match="no row of the class 'cat'; its classes are ant, bee, 7"):
        OfClasses(classes=("cat",), others=True)(prepared, 1)
    with pytest.raises(ValueError, match="images=3 of each class: expected 1 to 2"):
        OfClasses(classes=("bee",), per_class=3)(prepared, 1)


def test_labels_are_counted_anew():
    draws = rng.Draws(1, "Recount", np.arange(4))
    given = {"label": np.array([7, 2, 2, 5]), "x": np.arange(4)}
    found = Recount(labels=(5, 7, 2))(given, draws)
    assert found["label"].tolist() == [1, 2, 2, 0]
    assert given["label"].tolist() == [7, 2, 2, 5]


def test_a_frozen_body_does_not_move_and_the_head_learns(data, base, tmp_path):
    out = tmp_path / "run"
    outcome = run_recipe("transfer", out, options={"base": str(base), **NEW}, data=data, **QUIET)
    assert outcome.validation["accuracy"] > 0.8, "chance is 0.5"
    body, before = load_model(out).model.body.state_dict(), weights_of(base)
    assert not any(name.startswith("head") for name in body)
    assert all(torch.equal(tensor, before[name]) for name, tensor in body.items()), "statistics of norms included"
    assert load_config(out).start.digest == digest_of(base)
    fresh = checkpoint.read(checkpoint.checkpoints_in(out / "checkpoints")[0]).model["head.weight"]
    assert not torch.equal(fresh, load_model(out).model.head.weight)
    trained = {path.name for path in checkpoint.checkpoints_in(out / "checkpoints")}
    assert trained, "a run that can be looked at"


def test_a_body_that_is_not_frozen_learns_but_for_its_statistics(data, base, tmp_path):
    out = tmp_path / "run"
    run_recipe("transfer", out, options={"base": str(base), "frozen": False, **NEW}, data=data, **QUIET)
    body, before = load_model(out).model.body.state_dict(), weights_of(base)
    moved = {name for name, tensor in body.items() if not torch.equal(tensor, before[name])}
    convolutions = {f"stage{i}.conv{j}.weight" for i in (1, 2, 3) for j in (1, 2)}
    shifts = {f"stage{i}.norm{j}.bias" for i in (1, 2, 3) for j in (1, 2)}
    assert moved == {"whitening.bias"} | convolutions | shifts


def test_from_scratch_the_whole_network_is_trained_on_the_same_images(data, base, tmp_path):
    config = configure("transfer", {"base": None, **NEW})
    assert config.source == configure("transfer", {"base": str(base), **NEW}).source
    out = tmp_path / "run"
    run_recipe("transfer", out, options={"base": None, **NEW, "max_samples": 200}, data=data, **QUIET)
    model = load_model(out).model
    assert [name for name, _ in model.named_children()][-2:] == ["stage3", "head"]
    assert model.head.out_features == 2
    first = checkpoint.read(checkpoint.checkpoints_in(out / "checkpoints")[0]).model
    assert not torch.equal(first["stage1.conv1.weight"], model.stage1.conv1.weight)
    assert not torch.equal(first["stage1.norm1.running_mean"], model.stage1.norm1.running_mean)


def test_a_run_that_is_resumed_needs_no_base_and_has_the_same_bits(data, base, tmp_path):
    options = {**NEW, "base": str(base), "cut": "stage2.conv2", "max_samples": 300, "save_every": 50, "promise": "bits"}
    whole = run_recipe("transfer", tmp_path / "whole", options=options, data=data, **QUIET)
    part = tmp_path / "part"
    assert load_model(tmp_path / "whole").model.head.in_features == WIDTHS[1]
    run_recipe("transfer", part, options=options, data=data, **QUIET)
    for path in checkpoint.checkpoints_in(part / "checkpoints"):
        if checkpoint.time_of(path) > 250:
            path.rename(tmp_path / path.name)  # as if it had been killed before
    moved = tmp_path / "moved"
    base.rename(moved)
    try:
        resumed = run_recipe("transfer", part, options={"microbatch_size": 60}, resume=True, data=data, **QUIET)
        with pytest.raises(CheckpointError, match=r"first weights from another run: .* holds no run"):
            run_recipe("transfer", tmp_path / "new", options=options, data=data, **QUIET)
    finally:
        moved.rename(base)
    assert resumed.parameters_digest == whole.parameters_digest


def test_a_base_with_other_widths_or_another_digest_is_refused(data, base, tmp_path):
    options = {**NEW, "base": str(base), "widths": (25, 8, 16)}
    with pytest.raises(ValueError, match=r"other shapes .*stage2.conv1.weight \(16, 25, 3, 3\), here \(8, 25, 3, 3\)"):
        run_recipe("transfer", tmp_path / "narrow", options=options, data=data, **QUIET)
    options = {**NEW, "base": str(base), "base_digest": "0" * 32}
    with pytest.raises(CheckpointError, match="has other weights"):
        run_recipe("transfer", tmp_path / "other", options=options, data=data, **QUIET)


@pytest.fixture
def small_timm(tmp_path, monkeypatch):
    """In place of the library one that makes a small network, of blocks named as its ResNets name them."""
    (tmp_path / "timm.py").write_text(TIMM)
    monkeypatch.syspath_prepend(tmp_path)
    real = sys.modules.pop("timm", None)
    yield
    sys.modules.pop("timm", None)
    if real is not None:
        sys.modules["timm"] = real


def test_a_timm_body_is_trained_cut_by_name_and_transferred(data, tmp_path, small_timm):
    timm = {"backbone": "timm:tiny"}
    base = tmp_path / "base"
    options = {**timm, "left_out": ("3", "8"), "max_samples": 800, "threads": 1}
    options |= {"minibatch_size": 20, "leaf_size": 20}
    run_recipe("transfer_base", base, options=options, data=data, **QUIET)
    out = tmp_path / "run"
    options = {**NEW, **timm, "base": str(base), "cut": "layer1", "max_samples": 200}
    run_recipe("transfer", out, options=options, data=data, **QUIET)
    body = load_model(out).model.body.state_dict()
    assert {name.partition(".")[0] for name in body} == {"conv1", "bn1", "layer1"}
    assert all(torch.equal(tensor, weights_of(base)[name]) for name, tensor in body.items())
    assert load_model(out).model.head.in_features == 16


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_without_timm_its_bodies_are_an_error_that_says_so():
    with pytest.raises(MissingExtraError, match="backbone='timm:resnet18' needs 'timm'"):
        transfer(backbone="timm:resnet18").model(seed=1)


@pytest.mark.parametrize("name", ["resnet18", "timm:", "torch:resnet18"])
def test_other_bodies_are_refused(name):
    with pytest.raises(ValueError, match="expected 'fast', or 'timm:' and the name of a model"):
        network(backbone=name, widths=WIDTHS, classes=2, seed=1)


def test_a_real_timm_model_is_cut():
    pytest.importorskip("timm")
    model = transfer(backbone="timm:resnet18", cut="layer2").model(seed=1)
    assert model.head.in_features == 128
    assert model(normalized(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))).shape == (2, 2)


def test_pixels_for_timm_are_normalised_and_channels_first():
    images = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).view(2, 4, 5, 3)
    found = normalized(images)
    assert found.shape == (2, 3, 4, 5)
    assert found[1, 2, 3, 4].item() == pytest.approx((119 / 255 - 0.4465) / 0.2616, rel=1e-5)
