"""Acceptance 5, 6, 7, 8, 10, 12, through the Trainer and by hand: formulas, denominators, a NaN, a replay, a check."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from minibatch.train import (
    NonFiniteError,
    Term,
    Trainer,
    cross_entropy,
    mse,
    on,
    optimizer,
    parameters_digest,
    read_ledger,
    selfcheck,
)
from minibatch.train.schedules import Exponential, Steps
from minibatch.train.travel import replay, who
from tests.train.small import fields, make_source, make_trainer, write
from tests.train.travel.runs import hand_made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("guards") / "data")


# 5: a hundred steps against float64 formulas, gradient included: a linear model, W ← W - …, no torch on the other side.


def sgd(w, g, state, lr):
    state["v"] = 0.9 * state.get("v", 0.0) + g
    return w - lr * (g + 0.9 * state["v"])


def adam(w, g, state, lr):
    t = state["t"] = state.get("t", 0) + 1
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    state["s"] = 0.999 * state.get("s", 0.0) + 0.001 * g * g
    m, s = state["m"] / (1 - 0.9**t), state["s"] / (1 - 0.999**t)
    return w - lr * m / (np.sqrt(s) + 1e-8)


def downhill(w, g, state, lr):
    """theanets: the learning rate inside the velocity, v ← μ v - lr g; w ← w + v."""
    state["v"] = 0.9 * state.get("v", 0.0) - lr * g
    return w + state["v"]


FORMULAS = {
    "sgd": (sgd, lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True)),
    "adam": (adam, lambda p: torch.optim.Adam(p, lr=1.0)),
    "downhill": (downhill, lambda p: optimizer("sgd", p, velocity="inside", lr=1.0, momentum=0.9)),
}
SCHEDULES = {
    "steps": (lambda t: 0.05 if t < 400 else 0.005, Steps((0.05, 0.005), borders=(400,))),
    "exponential": (lambda t: 0.05 * 0.5 ** (t / 300), Exponential(0.05, factor=0.5, samples=300)),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", FORMULAS)
def test_a_hundred_steps_are_those_of_the_formula(data, name, schedule):
    update, make = FORMULAS[name]
    rate, given = SCHEDULES[schedule]
    columns = fields()
    model = nn.Linear(6, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-1, 1, 12).view(2, 6))
        model.bias.zero_()
    w = np.concatenate([model.weight.detach().numpy(), model.bias.detach().numpy()[:, None]], axis=1).copy()
    state = {}
    with make_source(data) as source:
        trainer = Trainer(
            model, Term("fit", on(mse, "target"), weight="zero"), make(model.parameters()), source, 9, 4, "x",
            schedules=given,
        )  # fmt: skip
        for step in range(100):
            rows = source.at(9 * step, 9)
            x = np.concatenate([columns["x"][rows], np.ones((9, 1))], axis=1)
            y, weight = columns["target"][rows], columns["zero"][rows]
            error = x @ w.T - y
            gradient = (weight[:, None] * error).T @ x / weight.sum()  # of Σ w · mean(error²) / Σ w: 2/2
            value = (weight * (error**2).mean(1)).sum() / weight.sum()
            result = trainer.train_minibatch()
            assert result["fit"] == pytest.approx(value, rel=1e-9)
            assert result.learning_rates == pytest.approx((rate(9 * step),), rel=1e-14)
            w = update(w, gradient, state, rate(9 * step))
    ours = torch.cat([model.weight, model.bias[:, None]], 1).detach().numpy()
    assert np.abs(ours - w).max() <= 1e-10 * np.abs(w).max()


# 12: through the Trainer, on ½ p² with p = 1 at first.


@pytest.mark.parametrize(
    ("velocity", "expected"), [("outside", [0.065, 0.076, 0.085]), ("inside", [0.186, 0.306, 0.410])]
)
def test_the_two_conventions_of_momentum_differ_after_a_drop_of_the_rate(velocity, expected):
    class P(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x):
            return 0.5 * self.p.square().expand(len(x))

    model = P()
    made = optimizer("sgd", model.parameters(), velocity=velocity, lr=0.1, momentum=0.9)
    # One sample a step, so that nominal time counts steps.
    trainer = Trainer(
        model, Term("half p²", lambda out, batch: out), made, None, 1, inputs="x",
        schedules=Steps((0.1, 0.01), borders=(15,)),
    )  # fmt: skip
    seen = []
    for _ in range(18):
        trainer.train_minibatch({"x": np.zeros(1)})
        seen.append(model.p.item())
    assert [round(value, 3) for value in seen[15:]] == expected


# 6: five denominators, by hand, of a short minibatch of three samples.


@pytest.mark.parametrize("cut", [None, 1, 2])
@pytest.mark.parametrize(
    ("denominator", "expected"),
    [
        ("weights", (2 * 1 + 5 * 3) / 7),  # the second has no mask
        ("count", (2 * 1 + 5 * 3) / 2),
        ("nominal", (2 * 1 + 5 * 3) / 8),
        (0.25, (2 * 1 + 5 * 3) / 0.25),
        (None, 2 * 1 + 5 * 3),
    ],
)
def test_five_denominators_are_what_they_say(denominator, expected, cut):
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)
    term = Term(
        "it", lambda out, batch: out[:, 0] * batch["loss"], weight="w", mask="m", denominator=denominator,
        coefficient=0.5,
    )  # fmt: skip
    trainer = Trainer(model, term, torch.optim.SGD(model.parameters(), lr=1.0), None, 8, cut, inputs="x")
    batch = {"x": np.ones((3, 1)), "loss": np.array([1.0, 7.0, 3.0]), "w": [2.0, 9.0, 5.0], "m": [True, False, True]}
    result = trainer.train_minibatch({name: np.asarray(values) for name, values in batch.items()})
    assert result["it"] == pytest.approx(expected, rel=1e-15)
    assert result["total_loss"] == pytest.approx(0.5 * expected, rel=1e-15)
    assert model.weight.item() == pytest.approx(1.0 - 0.5 * expected, rel=1e-14)


# 7


@pytest.mark.parametrize("options", [{}, {"promise": "bits", "leaf_size": 4}], ids=["math", "bits"])
@pytest.mark.parametrize("field", ["x", "target"])
def test_a_nan_sample_changes_nothing_and_is_named(tmp_path, field, options):
    values = fields()[field]
    values[17, 1] = np.nan
    data = write(tmp_path / "data", **{field: values})
    with make_source(data) as source, make_trainer(source, folder=tmp_path / "run", **options) as trainer:
        bad = source.when(17, 0) // 9
        for _ in range(bad):
            trainer.train_minibatch()
        before, state = parameters_digest(trainer.model), str(trainer.optimizers[0].state_dict()["state"])
        with pytest.raises(NonFiniteError, match=rf"step {bad + 1}, .*rows \[17\] of the data set"):
            trainer.train_minibatch()
        assert parameters_digest(trainer.model) == before
        assert str(trainer.optimizers[0].state_dict()["state"]) == state
        assert trainer.train_minibatch().step == bad + 2  # over it, if one goes on
    lines = read_ledger(tmp_path / "run")
    assert [line.finite for line in lines] == [True] * bad + [False, True]
    assert (lines[bad].t0, lines[bad].t1) == (9 * bad, 9 * bad + 9)
    with make_source(data) as source:
        assert 17 in source.at(lines[bad].t0, 9)


def test_left_out_steps_leave_weights_and_moments_alone(tmp_path):
    values = fields()["x"]
    values[17, 1] = np.nan
    data = write(tmp_path / "data", x=values)
    with make_source(data) as source:
        trainer = make_trainer(source, on_nonfinite="skip", schedules=None)
        for _ in range(30):
            before = parameters_digest(trainer.model)
            result = trainer.train_minibatch()
            assert result.finite == (17 not in source.at(result.interval[0], 9))
            assert (parameters_digest(trainer.model) == before) == (not result.finite)
            assert result.updated == result.finite


# 8


def test_a_replayed_step_sums_to_the_ledgers_numerator_in_every_bit(tmp_path):
    past = hand_made(tmp_path, promise="bits", leaf_size=4, microbatch_size=None, steps=20)
    line = read_ledger(past.folder)[13]
    again = replay(past, 14)
    assert again.exact
    for name, term in again.terms.items():
        assert term.numerator == line.terms[name][0]
        assert math.fsum(term.weighted.tolist()) == pytest.approx(line.terms[name][0], rel=1e-15)
    (rows,) = who(past, 14)
    assert again.terms["class"].rows.tolist() == rows.rows.tolist()


# 10


class Random(nn.Module):
    def forward(self, x):
        return x * (1.0 + random.random())


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x + self.calls


class Synced(nn.Module):
    """Batch normalisation that nobody would know as such."""

    def forward(self, x):
        return (x - x.mean(0)) / (x.std(0) + 1.0)


@pytest.mark.parametrize("layer", [Random(), Counting(), Synced()], ids=lambda layer: type(layer).__name__)
def test_the_self_check_catches_what_breaks_the_promise(data, layer):
    model = nn.Sequential(nn.Linear(6, 8), nn.Sequential(layer), nn.Linear(8, 3)).double()
    with make_source(data) as source:
        trainer = Trainer(
            model, Term("class", on(cross_entropy, "label")), torch.optim.SGD(model.parameters(), lr=0.1), source, 16,
            inputs="x",
        )  # fmt: skip
        before = parameters_digest(model)
        checked = selfcheck(trainer)
        assert not checked.passed
        assert "1.0" in checked.findings[0].modules
        assert (parameters_digest(model), trainer.nominal_time) == (before, 0)


def test_a_model_with_everything_passes_the_self_check(data):
    with make_source(data) as source:
        assert selfcheck(make_trainer(source, promise="bits", leaf_size=4)).passed
