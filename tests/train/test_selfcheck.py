"""`selfcheck` names what breaks a promise, and passes what keeps it."""

import random

import pytest
import torch
from torch import nn

from minibatch.models import MLP
from minibatch.models.noise import Dropout
from minibatch.train import Term, Trainer, cross_entropy, on, parameters_digest
from minibatch.train.selfcheck import selfcheck
from tests.train.small import CLASSES, FEATURES, make_source, write


class Jitter(nn.Module):
    """Noise from Python's own generator, which no key of the engine reaches."""

    def forward(self, x):
        return x * (1.0 + 0.1 * random.random()) if self.training else x


class Counting(nn.Module):
    """Depends on how often it was called."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * (1.0 + 0.01 * self.calls)


class Centred(nn.Module):
    """Statistics over the batch that no policy knows of."""

    def forward(self, x):
        return x - x.mean(0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("selfcheck") / "data")


def make_trainer(source, layer, **options):
    model = nn.Sequential(MLP(sizes=(FEATURES, 8), seed=1), layer, MLP(sizes=(8, CLASSES), seed=2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Trainer(model, Term("class", on(cross_entropy, "label")), optimizer, source, 16, inputs="x", **options)


@pytest.mark.parametrize(
    "options", [{}, {"microbatch_size": 5}, {"promise": "bits", "leaf_size": 4}, {"promise": "data"}]
)
def test_a_model_that_keeps_the_promise_passes(data, options):
    with make_source(data) as source:
        trainer = make_trainer(source, Dropout(0.5), **options)
        checked = selfcheck(trainer)
        assert checked.passed, checked
        assert "nothing differs" in str(checked)


@pytest.mark.parametrize("promise", ["math", "bits", "data"])
@pytest.mark.parametrize("layer", [Jitter(), Counting()])
def test_what_changes_from_call_to_call_is_named(data, promise, layer):
    with make_source(data) as source:
        checked = selfcheck(make_trainer(source, layer, promise=promise, leaf_size=4))
        assert not checked.passed
        assert checked.findings[0].comparison == "the same step again"
        assert checked.findings[0].modules[0] == "1"
        assert "the first module that differs is 1;" in str(checked)


def test_statistics_over_a_batch_break_math_but_not_leaves(data):
    with make_source(data) as source:
        checked = selfcheck(make_trainer(source, Centred()))
        assert [finding.comparison for finding in checked.findings][:1] == ["halves of microbatches"]
        assert selfcheck(make_trainer(source, Centred(), promise="bits", leaf_size=4)).passed


def test_a_loss_that_draws_is_found(data):
    def loss(outputs, batch):
        return cross_entropy(outputs, batch["label"]) * (1.0 + random.random())

    with make_source(data) as source:
        model = MLP(sizes=(FEATURES, CLASSES), seed=1).double()
        trainer = Trainer(model, Term("x", loss), torch.optim.SGD(model.parameters(), lr=0.1), source, 8, inputs="x")
        checked = selfcheck(trainer)
        assert checked.findings[0].modules == ()
        assert "no module differs: a loss does" in str(checked)


def test_nothing_of_the_run_changes(data):
    results = []
    for check in (False, True):
        with make_source(data) as source:
            trainer = make_trainer(source, nn.BatchNorm1d(8), batch_norm="leaf", leaf_size=4)
            trainer.train_minibatch()
            if check:
                assert selfcheck(trainer).passed
                assert trainer.nominal_time == source.nominal_time == 16
            trainer.train_minibatch()
            results.append(parameters_digest(trainer.model))
    assert results[0] == results[1]


@pytest.mark.parametrize("options", [{}, {"microbatch_size": 5}, {"promise": "bits", "leaf_size": 4}])
def test_noise_that_was_allowed_is_no_finding(data, options):
    """It is drawn anew for every microbatch from a seed: the same step has the same, another cut has other."""
    with make_source(data) as source:
        trainer = make_trainer(source, nn.Dropout(0.5), foreign_noise="allow", **options)
        checked = selfcheck(trainer)
        assert checked.passed, checked
        assert checked.comparisons == ("the same step again",)
