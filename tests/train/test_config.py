"""Configurations in JSON, and what differs between two of them."""

import functools
import json
from pathlib import Path

import numpy as np
import torch

from minibatch.train import Metric, Term, cross_entropy, metrics, on
from minibatch.train.config import described, differences
from minibatch.train.recipes import configure
from minibatch.train.schedules import Cosine, Warmup


def test_everything_becomes_json():
    config = described(configure("demo", {"seed": 3}))
    assert json.loads(json.dumps(config)) == config
    assert config["options"]["seed"] == 3
    assert config["terms"][0]["loss"]["function"] == "minibatch.train.losses.classes:cross_entropy"
    assert config["transforms"] == [
        {"kind": "minibatch.train.recipes.digits_data:Shift", "pixels": 1, "field": "image"}
    ]
    assert config["data"] == "minibatch.train.recipes.digits_data:prepare"


def test_values_by_kind():
    assert described(Warmup(10, Cosine(0.1, samples=100)))["then"]["rate"] == 0.1
    assert described(functools.partial(cross_entropy, 1, label_smoothing=0.1)) == {
        "call": "minibatch.train.losses.classes:cross_entropy", "args": [1], "label_smoothing": 0.1,
    }  # fmt: skip
    assert described(Path("a/b")) == "a/b"
    assert described({1: (2, 3)}) == {"1": [2, 3]}
    assert described(torch.tensor([1.5, 2.0])) == [1.5, 2.0]
    assert described(np.float32) == "numpy:float32"
    assert described(lambda x: x).endswith(":25") or "<lambda> at test_config.py:" in described(lambda x: x)
    assert described(b"x") == "b'x'"


def test_objects_are_described_alike_in_every_process():
    class Callable:
        def __call__(self):
            return None

    assert "0x" not in str(described(Callable()))
    assert described(Callable()) == described(Callable())
    assert described(Term("a", on(cross_entropy, "y"))) == described(Term("a", on(cross_entropy, "y")))
    assert described(Metric("a", on(metrics.accuracy, "y"))) != described(Metric("a", on(metrics.error, "y")))


def test_differences_are_named_by_path():
    before = {"a": {"b": [1, {"c": 2}], "gone": "x"}, "same": None}
    after = {"a": {"b": [1, {"c": 3}], "new": [1]}, "same": None}
    assert differences(before, after) == ["a.b[1].c: 2 → 3", 'a.gone: "x" → not set', "a.new: not set → [1]"]
    assert differences([1], [1, 2], "list") == ["list: [1] → [1, 2]"]
    assert differences(before, before) == []
