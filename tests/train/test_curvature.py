"""Products of the step's curvature with directions: against the Hessian itself, for any microbatches."""

import pytest
import torch
from torch import nn

from minibatch.train import NonFiniteError, Term, Trainer, mse, on, parameters_digest
from minibatch.train.digest import tensors_digest
from minibatch.train.optimizers.esgd import ESGD
from minibatch.train.skips import Skip
from minibatch.train.spikes import Spikes
from minibatch.train.state import optimizer_tensors
from tests.train.small import FEATURES, fields, make_source, write


class Asking(torch.optim.SGD):
    """Keeps what the engine computes."""

    def __init__(self, parameters, *, block_diagonal=False):
        super().__init__(parameters, lr=0.0)
        self.block_diagonal = block_diagonal
        self.products = None
        self.asked = []

    def curvature_due(self, step):
        self.asked.append(step)
        return step % 2 == 0

    def directions(self, key):
        every = [p for group in self.param_groups for p in group["params"]]
        return {p: torch.linspace(-1, 1 + key % 7, p.numel(), dtype=p.dtype).view(p.shape) for p in every}

    def take_curvature(self, products):
        self.products = products


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("curvature") / "data")


def make_model():
    model = nn.Sequential(nn.Linear(FEATURES, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.sin(torch.arange(parameter.numel()).double() + number).view(parameter.shape))
    return model


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("options", [{}, {"microbatch_size": 3}, {"promise": "bits", "leaf_size": 4}])
def test_products_are_those_of_the_hessian(data, block, options):
    with make_source(data) as source:
        model = make_model()
        optimizer = Asking(model.parameters(), block_diagonal=block)
        term = Term("fit", on(mse, "target"), weight="zero", coefficient=0.7)
        trainer = Trainer(model, term, optimizer, source, 16, inputs="x", **options)
        batch = source.next_minibatch(16)
        source.seek(0)
        x, y, w = (torch.tensor(batch[name]) for name in ("x", "target", "zero"))
        names, parameters = zip(*model.named_parameters(), strict=True)

        def objective(*values):
            outputs = torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))
            return 0.7 * (w * mse(outputs, y)).sum() / w.sum()

        hessian = torch.autograd.functional.hessian(objective, tuple(p.detach() for p in parameters))
        result = trainer.train_minibatch()
        gradients = [p.grad.clone() for p in parameters]
        directions = optimizer.directions(key_of(trainer, 0))
        for i, p in enumerate(parameters):
            terms = [
                torch.tensordot(hessian[i][j], directions[q], dims=q.ndim)
                for j, q in enumerate(parameters)
                if not block or i == j
            ]
            torch.testing.assert_close(optimizer.products[p], sum(terms), rtol=1e-10, atol=1e-12)
        expected = torch.autograd.grad(objective(*parameters), parameters)
        for gradient, other in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-12)
        assert result["fit"] == pytest.approx(((w * mse(model(x), y)).sum() / w.sum()).item(), rel=1e-12)
        optimizer.products = None
        trainer.train_minibatch()
        assert optimizer.products is None
        assert optimizer.asked == [0, 1]  # how many steps there were before


def key_of(trainer, time):
    from minibatch import rng

    return rng.key(trainer.seed, "curvature", time)


def test_second_derivatives_of_a_term_over_the_minibatch_need_it_whole(data):
    with make_source(data) as source:
        model = make_model()
        term = Term("fit", on(mse, "target"), over="minibatch")
        optimizer = Asking(model.parameters())
        Trainer(model, term, optimizer, source, 8, inputs="x").train_minibatch()
        with pytest.raises(ValueError, match="second derivatives"):
            Trainer(model, term, optimizer, source, 8, 4, inputs="x").train_minibatch()


class Kinked(nn.Module):
    """Its loss |x w|^1.5 has at w = 0 a value and a slope, and a curvature that is infinite."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(FEATURES, dtype=torch.float64))

    def forward(self, x):
        return x @ self.w


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_products_that_are_not_finite_reach_neither_weights_nor_optimizer(data, policy):
    with make_source(data) as source:
        model = Kinked()
        optimizer = ESGD(model.parameters(), lr=0.01, period=1)
        term = Term("kinked", lambda outputs, batch: outputs.abs().pow(1.5) + outputs)
        trainer = Trainer(model, term, optimizer, source, 9, inputs="x", on_nonfinite=policy)
        if policy == "stop":
            with pytest.raises(NonFiniteError, match="step 1"):
                trainer.train_minibatch()
        else:
            result = trainer.train_minibatch()
            assert not result.finite
            assert not result.updated
        assert not model.w.any()
        assert not optimizer_tensors(trainer.optimizers, trainer.owned)


def test_a_spike_that_is_left_out_changes_no_curvature(tmp_path):
    """A run that was given the same skips from the beginning has the same bits."""
    target = fields()["target"].copy()
    target[30] = 1e4
    jumping = write(tmp_path / "jumping", target=target)

    def run(**options):
        with make_source(jumping) as source:
            model = make_model()
            optimizer = ESGD(model.parameters(), lr=0.01, period=1)
            term = Term("fit", on(mse, "target"), weight="uniform")
            trainer = Trainer(model, term, optimizer, source, 9, inputs="x", announce=lambda text: None, **options)
            for _ in range(12):
                trainer.train_minibatch()
            state = optimizer_tensors(trainer.optimizers, trainer.owned)
            return trainer.streams.skips, parameters_digest(model), tensors_digest(state)

    skips, *expected = run(spikes=Spikes(action="skip", warmup=4, window=8, factor=8.0))
    assert len(skips) == 2
    assert run(skips=[Skip(start=skip.start, stop=skip.stop) for skip in skips])[1:] == tuple(expected)


@pytest.mark.parametrize("policy", [None, "leaf"])
def test_running_statistics_count_a_step_with_curvature_once(data, policy):
    statistics = []
    for make in (lambda p: ESGD(p, lr=0.0, period=1), lambda p: torch.optim.SGD(p, lr=0.0)):
        with make_source(data) as source:
            model = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 2)).double()
            trainer = Trainer(
                model, Term("fit", on(mse, "target")), make(model.parameters()), source, 16, inputs="x",
                batch_norm=policy, leaf_size=8,
            )  # fmt: skip
            trainer.train_minibatch()
            statistics.append([buffer.tolist() for buffer in model.buffers()])
            assert model[0].num_batches_tracked == 1
    assert statistics[0] == statistics[1]
