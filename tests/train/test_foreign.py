"""Noise without nominal time is refused, replaced or, if wanted, seeded in every microbatch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minibatch.train import Term, Trainer, cross_entropy, on, parameters_digest
from minibatch.train.foreign import first_model
from tests.train.small import make_source, write

CLASS = Term("class", on(cross_entropy, "label"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("foreign") / "data")


class Functional(nn.Module):
    """Draws in its forward method, where no module shows it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(6, 3, dtype=torch.float64)

    def forward(self, x):
        return self.linear(F.dropout(x, 0.5, self.training))


def with_dropout():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()


def make(model, source, **options):
    said = []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    return Trainer(model, CLASS, optimizer, source, 9, inputs="x", announce=said.append, **options), said


def plain(*, seed):
    return nn.Linear(6, 3)


def test_first_weights_of_torchs_own_layers_are_a_function_of_the_seed():
    torch.manual_seed(5)
    one = first_model(plain, 7)
    torch.rand(3)
    two, other = first_model(plain, 7), first_model(plain, 8)
    assert torch.equal(one.weight, two.weight)
    assert not torch.equal(one.weight, other.weight)


def test_making_first_weights_leaves_the_global_generator_as_it_was():
    before = torch.get_rng_state()
    first_model(plain, 7)
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_that_are_drawn_in_two_ways_have_no_equal_weights():
    def both(*, seed):
        model = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            nn.init.uniform_(model[1].weight, -(6**-0.5), 6**-0.5, generator=generator)
        return model

    model = first_model(both, 7)
    assert not torch.equal(model[0].weight, model[1].weight)


def test_torchs_dropout_is_refused_by_path_with_the_ways_out(data):
    with make_source(data) as source:
        with pytest.raises(ValueError, match=r"1: Dropout\(p=0\.5.*foreign_noise='convert'.*'allow'"):
            make(with_dropout(), source)
        with pytest.raises(ValueError, match="'refuse', 'convert' or 'allow'"):
            make(with_dropout(), source, foreign_noise="ignore")


def test_converting_makes_every_cut_equal(data):
    ends = []
    for size in (None, 2):
        with make_source(data) as source:
            trainer, said = make(with_dropout(), source, foreign_noise="convert", microbatch_size=size)
            assert trainer.converted == ["1"]
            assert said == ["these layers were replaced by keyed ones: 1"]
            trainer.fit(max_samples=60)
            ends.append(torch.cat([p.detach().ravel() for p in trainer.model.parameters()]))
    assert torch.allclose(ends[0], ends[1], rtol=0, atol=1e-12)


def test_functions_that_draw_are_noticed_in_the_first_step_before_anything_is_updated(data):
    with make_source(data) as source:
        for policy in ("refuse", "convert"):
            model = Functional()
            before = parameters_digest(model)
            with pytest.raises(ValueError, match=r"global generator \(F\.dropout"):
                make(model, source, foreign_noise=policy)[0].train_minibatch()
            assert parameters_digest(model) == before
            assert source.nominal_time == 0


@pytest.mark.parametrize("model", [Functional, with_dropout])
def test_allowed_noise_resumes_exactly(data, tmp_path, model):
    def start(source):
        return make(model(), source, foreign_noise="allow", microbatch_size=4)[0]

    with make_source(data) as source:
        trainer = start(source)
        trainer.fit(max_samples=36)
        trainer.save_checkpoint(tmp_path / "c")
        trainer.fit(max_samples=90)
        digest = parameters_digest(trainer.model)
    torch.manual_seed(77)
    torch.rand(5)
    with make_source(data) as source:
        again = start(source)
        again.restore_from_checkpoint(tmp_path / "c")
        torch.rand(3)
        again.fit(max_samples=90)
    assert parameters_digest(again.model) == digest


def test_allowed_noise_differs_between_microbatches_steps_and_seeds(data):
    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3, dtype=torch.float64)
            self.seen = []

        def forward(self, x):
            self.seen.append(torch.rand(3).tolist())
            return self.linear(x)

    draws = []
    for seed in (1, 2):
        with make_source(data) as source:
            model = Recorder()
            trainer, _ = make(model, source, foreign_noise="allow", microbatch_size=4, seed=seed)
            trainer.fit(max_samples=27)
            draws += [tuple(row) for row in model.seen]
    assert len(draws) == 2 * 9
    assert len(set(draws)) == 18
