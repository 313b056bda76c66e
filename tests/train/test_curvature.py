"""Products of the step's curvature with directions: against the Hessian itself, for any microbatches."""

import pytest
import torch
from torch import nn

from minibatch.train import Term, Trainer, mse, on
from tests.train.small import FEATURES, make_source, write


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
