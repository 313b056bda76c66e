"""Terms over a whole minibatch: whatever the microbatches, the gradient of all samples together."""

import pytest
import torch
from torch import nn

from minibatch.models import MLP
from minibatch.models.noise import Dropout
from minibatch.train import Term, Trainer, mse, on, parameters_digest
from minibatch.train.selfcheck import one_pass, selfcheck
from tests.train.small import FEATURES, make_source, write


class Towers(nn.Module):
    """Two towers for the halves of x, and a temperature that the loss learns."""

    def __init__(self, dropout=0.3, norm=False):
        super().__init__()
        self.left, self.right = MLP(sizes=(3, 8, 5), seed=1), MLP(sizes=(3, 8, 5), seed=2)
        self.drop = Dropout(dropout)
        self.norm = nn.BatchNorm1d(5) if norm else nn.Identity()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return {"left": self.norm(self.drop(self.left(x[:, :3]))), "right": (self.right(x[:, 3:FEATURES]),), "n": None}


class Scored:
    """In-batch softmax of left against right, scaled by the model's own parameter."""

    def __init__(self, model):
        self.model = model

    def __call__(self, outputs, batch):
        scores = self.model.scale * outputs["left"] @ outputs["right"][0].T
        assert len(scores) == len(batch["label"])
        return -torch.log_softmax(scores, 1).diagonal()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("contrast") / "data")


def run(data, *, steps=8, dtype=torch.float64, order=None, norm=False, **options):
    model = Towers(norm=norm).to(dtype)
    terms = (
        Term("match", Scored(model), over="minibatch", weight="zero"),
        Term("size", lambda outputs, batch: outputs["left"].square().mean(1), coefficient=0.1),
    )

    def call(model, batch):
        return model(batch["x"].to(dtype))

    with make_source(data) as source:
        # Not Adam, which makes steps of rounding errors where a gradient is 0: here of the right tower's last bias.
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        trainer = Trainer(model, terms, optimizer, source, 16, inputs=call, **options)
        if order is not None:
            trainer.gradient.order = order
        results = [trainer.train_minibatch() for _ in range(steps)]
    return model, results


@pytest.mark.parametrize("microbatch", [1, 3, 5, 16])
def test_microbatches_change_rounding_only(data, microbatch):
    expected, whole = run(data)
    model, results = run(data, microbatch_size=microbatch)
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    for a, b in zip(results, whole, strict=True):
        assert a["match"] == pytest.approx(b["match"], rel=1e-9)
        assert a["size"] == pytest.approx(b["size"], rel=1e-9)


def test_a_term_per_sample_would_see_other_negatives(data):
    """The test above can fail: without over="minibatch" each microbatch has negatives of its own."""
    _, whole = run(data, steps=1)
    model = Towers().double()
    with make_source(data) as source:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        term = Term("match", lambda o, b: -torch.log_softmax(o["left"] @ o["right"][0].T, 1).diagonal())
        trainer = Trainer(model, term, optimizer, source, 16, 4, inputs="x", check_unreached=False)
        assert abs(trainer.train_minibatch()["match"] - whole[0]["match"]) > 0.1


def test_bits_hold_for_any_order_of_leaves(data):
    digests = set()
    for order in (list, lambda cuts: cuts[::-1], lambda cuts: cuts[::2] + cuts[1::2]):
        model, _ = run(data, dtype=torch.float32, promise="bits", leaf_size=4, order=order)
        digests.add(parameters_digest(model))
    assert len(digests) == 1


def test_running_statistics_count_a_step_once(data):
    model, _ = run(data, steps=3, norm=True, batch_norm="leaf", leaf_size=4)
    assert model.norm.num_batches_tracked == 3


def test_outputs_without_a_sample_axis_are_refused(data):
    model = nn.Linear(FEATURES, 1).double()
    with make_source(data) as source:
        trainer = Trainer(
            model,
            Term("x", lambda outputs, batch: outputs["y"][:, 0], over="minibatch"),
            torch.optim.SGD(model.parameters(), lr=0.1),
            source,
            8,
            4,
            inputs=lambda model, batch: {"y": model(batch["x"]), "total": torch.zeros(())},
        )
        with pytest.raises(ValueError, match="first axis"):
            trainer.train_minibatch()


def test_values_must_be_one_per_sample_of_the_minibatch(data):
    model = nn.Linear(FEATURES, 2).double()
    with make_source(data) as source:
        term = Term("x", lambda outputs, batch: outputs.mean(), over="minibatch")
        trainer = Trainer(model, term, torch.optim.SGD(model.parameters(), lr=0.1), source, 8, 4, inputs="x")
        with pytest.raises(ValueError, match=r"expected floating-point values of shape \(8,\)"):
            trainer.train_minibatch()


def test_over_is_checked():
    with pytest.raises(ValueError, match="over='epoch'"):
        Term("x", on(mse, "target"), over="epoch")


@pytest.mark.parametrize("options", [{"microbatch_size": 6}, {"promise": "bits", "leaf_size": 6, "microbatch_size": 6}])
def test_passes_in_any_order_see_every_sample_beside_its_own_fields(data, options):
    """The outputs are put together in the order of nominal time, like the fields, not in that of the passes."""

    def loss(outputs, batch):
        return torch.tanh(outputs @ outputs.T).square().mean(1) + mse(outputs, batch["target"])

    with make_source(data) as source:
        model = MLP(sizes=(FEATURES, 8, 2), seed=1).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer = Trainer(model, Term("pairs", loss, over="minibatch"), optimizer, source, 18, inputs="x", **options)
        expected = one_pass(trainer, 18, list).gradients
        for order in (lambda cuts: cuts[::-1], lambda cuts: [cuts[1], cuts[2], cuts[0]]):
            for name, gradient in one_pass(trainer, 18, order).gradients.items():
                rounding = {"rtol": 0.0, "atol": 0.0} if "promise" in options else {"rtol": 1e-9, "atol": 1e-11}
                torch.testing.assert_close(gradient, expected[name], **rounding)
        assert selfcheck(trainer).passed
