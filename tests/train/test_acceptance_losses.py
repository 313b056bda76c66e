"""Acceptance 1: every built-in loss, weights, cuts and short minibatches: equal gradients, and with "bits" equal bits.

The other side is one plain computation over the whole minibatch: the loss function on all outputs, weights, masks and
denominators by hand, one backward pass. Losses themselves are held to their twins in test_losses_twins.py.
"""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from minibatch import DatasetWriter, MinibatchSource
from minibatch.train import Temperature, Term, Trainer, losses, on, present, uncertain
from minibatch.train.digest import tensors_digest
from minibatch.train.losses import Uncertainty, of_batch, of_outputs, overshoot, sum_of_squares

ROWS, SIZE, SHORT = 47, 28, 13
WEIGHTS = (None, "uniform", "zero", "extreme", "nothing")
MICROBATCHES = (1, 2, 4, 7)
NAN = float("nan")


def columns():
    draw = np.random.default_rng(8)
    numbers = np.arange(ROWS)
    p = draw.uniform(0.05, 1.0, size=(ROWS, 3))
    lacking = draw.normal(size=(ROWS, 2))
    lacking[draw.uniform(size=(ROWS, 2)) < 0.3] = NAN
    return {
        "x": draw.normal(size=(ROWS, 5)),
        "target": draw.normal(size=(ROWS, 2)),
        "lacking": lacking,
        "label": draw.integers(3, size=ROWS),
        "label_or_not": np.where(draw.uniform(size=ROWS) < 0.3, -1, draw.integers(3, size=ROWS)),
        "binary": (draw.uniform(size=(ROWS, 2)) < 0.5).astype(np.float64),
        "p": p / p.sum(1, keepdims=True),
        "key": numbers % 9,
        "text": draw.integers(1, 3, size=(ROWS, 2)),
        "letters": draw.integers(0, 3, size=ROWS),
        "uniform": np.full(ROWS, 2.5),
        "zero": np.where(numbers == 11, 0.0, 1.0 + 0.01 * numbers),
        "extreme": np.where(numbers % 7 == 2, 1e4, 1.0),
        "nothing": np.zeros(ROWS),
    }


COLUMNS = columns()


class Outputs(nn.Module):
    """Something for every loss, from one smooth layer."""

    def __init__(self):
        super().__init__()
        sizes = {"logits": 3, "values": 2, "spread": 2, "a": 3, "b": 3, "steps": 15}
        self.body = nn.Linear(5, 6)
        self.heads = nn.ModuleDict({f"to {name}": nn.Linear(6, size) for name, size in sizes.items()})
        self.temperature = Temperature(0.5)
        self.head = Uncertainty(["it"], initial=0.2)
        with torch.no_grad():
            for number, parameter in enumerate(self.body.parameters()):
                parameter.copy_(torch.sin(torch.arange(parameter.numel()) + number).view(parameter.shape))
            for number, parameter in enumerate(self.heads.parameters()):
                parameter.copy_(torch.cos(2.0 * torch.arange(parameter.numel()) + number).view(parameter.shape))

    def forward(self, x):
        hidden = torch.tanh(self.body(x))
        outputs = {name.removeprefix("to "): head(hidden) for name, head in self.heads.items()}
        outputs["spread"] = nn.functional.softplus(outputs["spread"]) + 0.1
        outputs["steps"] = outputs["steps"].view(-1, 5, 3)
        return {**outputs, "temperature": self.temperature().expand(len(x)), "s": self.head(len(x))["it"]}


LOSSES = {
    "mse": on(losses.mse, "target", output="values"),
    "mse, elements": on(losses.mse, "target", output="values", reduce="none"),
    "mse, missing": (on(losses.mse, "lacking", output="values", missing=NAN, reduce="none"), present("lacking")),
    "l1": on(losses.l1, "target", output="values"),
    "huber": on(losses.huber, "target", output="values", beta=0.11),
    "overshoot": on(overshoot, "target", output="values"),
    "sum_of_squares": on(sum_of_squares, output="values"),
    "cosine": on(losses.cosine, "target", output="values"),
    "cross_entropy": on(losses.cross_entropy, "label", output="logits"),
    "cross_entropy, classes": on(losses.cross_entropy, "label", output="logits", class_weights=[1.0, 20.0, 0.0]),
    "cross_entropy, missing": (
        on(losses.cross_entropy, "label_or_not", output="logits", missing=-1),
        present("label_or_not", missing=-1),
    ),
    "cross_entropy, soft": on(losses.cross_entropy, "p", output="logits"),
    "binary_cross_entropy": on(losses.binary_cross_entropy, "binary", output="values"),
    "focal": on(losses.focal, "label", output="logits", gamma=2.0, class_weights=[1.0, 2.0, 3.0]),
    "sigmoid_focal": on(losses.sigmoid_focal, "binary", output="values", gamma=0.5),
    "hinge": on(losses.hinge, "binary", output="values", squared=True),
    "multiclass_hinge": on(losses.multiclass_hinge, "label", output="logits"),
    "kl": on(losses.kl, "p", output="logits"),
    "gaussian_nll": on(losses.gaussian_nll, "target", output=("values", "spread")),
    "ctc": on(losses.ctc, "text", output="steps", target_lengths=of_batch("letters")),
    "uncertain": uncertain(on(losses.mse, "target", output="values"), of_outputs("s"), "it"),
    "mmd": on(losses.mmd, output=("a", "b"), bandwidths=(1.0, 4.0)),
    "contrastive": on(
        losses.contrastive, output=("a", "b"), keys=of_batch("key"), temperature=of_outputs("temperature")
    ),
    "contrastive_margin": on(losses.contrastive_margin, output=("a", "b")),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("losses") / "data"
    with DatasetWriter(path, chunk_rows=6) as writer:
        writer.write(COLUMNS)
    return path


def term_of(name, weight):
    loss, mask = LOSSES[name] if isinstance(LOSSES[name], tuple) else (LOSSES[name], None)
    return Term("it", loss, weight=weight, mask=mask, over=getattr(loss, "over", "sample"), coefficient=0.7)


def steps(data, name, weight, microbatches, *, dtype=torch.float64, order=None, **options):
    """Gradients by name, and the value, of a full minibatch and of the short one at the end of the axis."""
    found = []
    with MinibatchSource(data, seed=3, max_samples=SIZE + SHORT) as source:
        model = Outputs().to(dtype)
        trainer = Trainer(
            model, term_of(name, weight), torch.optim.SGD(model.parameters(), lr=0.0), source, SIZE,
            math.ceil(SIZE / microbatches), lambda model, batch: model(batch["x"].to(dtype)), check_unreached=False,
            **options,
        )  # fmt: skip
        if order is not None:
            trainer.gradient.order = lambda cuts: random.Random(order).sample(cuts, len(cuts))
        for result in trainer.itertrain():
            gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            found.append((gradients, result["it"], result.interval))
        assert [interval for _, _, interval in found] == [(0, SIZE), (SIZE, SIZE + SHORT)]
    return found


def plain(data, name, weight, start, n):
    """The same by hand: no engine."""
    with MinibatchSource(data, seed=3) as source:
        rows = source.at(start, n)
    batch = {key: torch.from_numpy(values[rows]) for key, values in COLUMNS.items()}
    model = Outputs().double()
    term = term_of(name, weight)
    values = term.loss(model(batch["x"]), batch)
    w = torch.ones(n).double() if weight is None else batch[weight]
    w = w.view(-1, *[1] * (values.ndim - 1)).expand(values.shape)
    if term.mask is not None:
        mask = term.mask(batch).double()
        w = w * mask.view(*mask.shape, *[1] * (values.ndim - mask.ndim))
    if not w.sum():
        return {}, None
    mean = (w * values).sum() / w.sum()
    (0.7 * mean).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, mean.item()


def test_every_built_in_loss_is_here():
    given = [loss[0] if isinstance(loss, tuple) else loss for loss in LOSSES.values()]
    here = {loss.function.__name__ for loss in given if hasattr(loss, "function")} | {"uncertain"}
    for_terms = {"on", "of_batch", "of_outputs", "class_weight", "present"}
    assert here == {name for name, value in vars(losses).items() if name.islower() and callable(value)} - for_terms


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_whole_minibatch_for_every_cut(data, name):
    for weight in WEIGHTS:
        expected = [plain(data, name, weight, 0, SIZE), plain(data, name, weight, SIZE, SHORT)]
        for microbatches in MICROBATCHES:
            for (ours, value, _), (theirs, mean) in zip(steps(data, name, weight, microbatches), expected, strict=True):
                if mean is None:
                    assert value is None
                    assert not any(gradient.any() for gradient in ours.values())
                    continue
                assert value == pytest.approx(mean, rel=1e-12, abs=1e-13), (weight, microbatches)
                size = math.sqrt(sum(g.square().sum().item() for g in theirs.values()))
                for key in ours.keys() | theirs.keys():
                    zero = torch.zeros_like(next(iter(ours.values())))
                    a, b = ours.get(key, zero * 0), theirs.get(key, zero * 0)
                    error = (a - b).abs().max().item()
                    assert error <= 1e-12 * size + 1e-300, (weight, microbatches, key, error / size)


@pytest.mark.parametrize("name", LOSSES)
def test_bits_are_equal_for_every_cut_and_order_in_float32(data, name):
    for weight in ("zero", "extreme"):
        found = {
            tuple(
                (tensors_digest(gradients), value)
                for gradients, value, _ in steps(
                    data, name, weight, cuts, dtype=torch.float32, promise="bits", leaf_size=4, order=order
                )
            )
            for cuts, order in ((1, None), (2, 5), (4, 6), (7, 7))
        }
        assert len(found) == 1, weight
