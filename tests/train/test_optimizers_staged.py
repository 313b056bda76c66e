"""Staged: the same bits as optimizers called one after the other, and as a run that was never interrupted."""

import copy
from functools import partial

import pytest
import torch

from minibatch.train import Trainer
from minibatch.train.optimizers import Staged, optimizer
from minibatch.train.rates import set_rates
from minibatch.train.schedules import Constant, Cosine, Newbob
from tests.plain.staged import trained_in_turn
from tests.train.small import TERMS, TwoHeads, make_source, write

BORDERS = (40, 85, 130)
SIZE, STEPS = 9, 22  # 198 samples: borders inside steps, and one at which no step begins


def makes(preset="theanets", schedules=(None, None, None, None)):
    """theanets' four stages, each with velocity or averages of its own, and a plain one without any state."""
    named = [("nag", 0.05, 0.9), ("sgd", 0.02, 0.0), ("adam", 0.01, 0.0), ("rmsprop", 1e-3, 0.9)]
    return [
        partial(
            optimizer, name, preset=preset, lr=lr,
            **({"momentum": momentum} if momentum else {}), **({"schedules": {"lr": own}} if own else {}),
        )
        for (name, lr, momentum), own in zip(named, schedules, strict=True)
    ]  # fmt: skip


def parameters():
    return [torch.nn.Parameter(torch.linspace(-1.0, 1.0, n, dtype=torch.float64).reshape(-1, 2)) for n in (6, 4)]


def gradients(current, time):
    return [p.detach() * (1.0 + 0.1 * i) + 0.3 * torch.sin(p.detach() * 5 + time) for i, p in enumerate(current)]


def advance(made, owned, first, steps):
    for step in range(first, first + steps):
        set_rates([made], [None], step * SIZE, (step + 1) * SIZE)
        for parameter, gradient in zip(owned, gradients(owned, step * SIZE), strict=True):
            parameter.grad = gradient
        made.step()


def staged(owned, **options):
    return Staged([make(owned) for make in makes(**options)], borders=BORDERS)


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("preset", ["theanets", None])
def test_it_is_the_optimizers_called_one_after_the_other(preset):
    ours, theirs = parameters(), parameters()
    advance(staged(ours, preset=preset), ours, 0, STEPS)
    trained_in_turn(theirs, makes(preset), BORDERS, size=SIZE, steps=STEPS, gradients=gradients)
    assert same(ours, theirs)
    assert all(torch.isfinite(p).all() for p in ours)


def test_schedules_of_a_stage_see_the_time_since_it_began():
    own = [Cosine(0.05, samples=60), Constant(0.02), Cosine(0.01, samples=30), Constant(1e-3)]
    ours, theirs = parameters(), parameters()
    advance(staged(ours, schedules=own), ours, 0, STEPS)
    trained_in_turn(theirs, makes(), BORDERS, size=SIZE, steps=STEPS, gradients=gradients, rates=own)
    assert same(ours, theirs)


@pytest.mark.parametrize("first", [1, 4, 5, 9, 10, 14, 15, 21])
def test_its_state_goes_on_with_the_same_bits_from_any_step(first):
    whole, owned = parameters(), parameters()
    advance(staged(whole), whole, 0, STEPS)
    made = staged(owned)
    advance(made, owned, 0, first)
    saved = copy.deepcopy(made.state_dict())
    other = staged(owned)
    other.load_state_dict(saved)
    advance(other, owned, first, STEPS - first)
    assert same(whole, owned)


def test_state_of_a_stage_that_has_ended_is_dropped():
    owned = parameters()
    made = staged(owned)
    advance(made, owned, 0, 5)
    assert all(set(state) == {"velocity", "stage"} for state in made.state.values())
    advance(made, owned, 5, 1)  # nominal time 45: sgd without momentum has no state
    assert not any(set(state) - {"stage"} for state in made.state.values())
    advance(made, owned, 6, 5)
    assert all(
        set(state) == {"step", "exp_avg", "exp_avg_sq", "stage"} and state["step"] == 1 for state in made.state.values()
    )


def test_a_step_that_fails_leaves_the_state_of_its_stage():
    owned = parameters()
    made = staged(owned)
    advance(made, owned, 0, 2)
    marks = [state["stage"] for state in made.state.values()]
    owned[1].grad = torch.eye(2, dtype=torch.float64).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        made.step()
    assert [state["stage"] for state in made.state.values()] == marks


def trainer(source, folder, second="adam", **options) -> Trainer:
    model = TwoHeads(dropout=0.3, seed=1).double()
    made = Staged(
        [
            optimizer("nag", model, preset="theanets", lr=0.02, momentum=0.9),
            optimizer(second, model, lr=0.01, **({"momentum": 0.5} if second == "sgd" else {})),
            optimizer("rmsprop", model, preset="theanets", lr=1e-3, momentum=0.9),
        ],
        borders=(60, 120),
    )
    return Trainer(model, TERMS, made, source, 9, inputs="x", folder=folder, announce=lambda text: None, **options)


@pytest.mark.parametrize("microbatch_size", [None, 4])
@pytest.mark.parametrize("at", [3, 6, 7, 10, 13, 14, 18])
def test_a_run_resumed_in_the_middle_of_any_stage_ends_with_the_same_bits(tmp_path, at, microbatch_size):
    data = write(tmp_path / "data")
    options = {"promise": "bits", "leaf_size": 4, "microbatch_size": microbatch_size}
    with make_source(data) as source, trainer(source, tmp_path / "whole", promise="bits", leaf_size=4) as whole:
        whole.fit(max_samples=180)
        expected = {name: p.detach().clone() for name, p in whole.model.named_parameters()}
    with make_source(data) as source, trainer(source, tmp_path / "run", **options) as first:
        for _ in range(at):
            first.train_minibatch()
        first.save_checkpoint()
    with make_source(data) as source, trainer(source, tmp_path / "run", **options) as second:
        restored = second.restore_from_checkpoint()
        assert not restored.changes
        second.fit(max_samples=180)
        assert all(torch.equal(p, expected[name]) for name, p in second.model.named_parameters())


def test_the_ledger_has_the_rate_of_the_stage_and_changes_of_stages_are_told(tmp_path):
    data = write(tmp_path / "data")
    with make_source(data) as source, trainer(source, tmp_path / "run") as first:
        rates = [first.train_minibatch().learning_rates[0] for _ in range(20)]
        first.save_checkpoint()
    assert rates == [0.02] * 7 + [0.01] * 7 + [1e-3] * 6
    with make_source(data) as source:
        other = trainer(source, tmp_path / "run", second="sgd")
        changes = other.restore_from_checkpoint().changes
        assert any('stages[1].optimizer: "Adam" → "SGD"' in change for change in changes), changes
        assert not any("lr" in change and "stages" not in change for change in changes), (
            "rates only say where it stands"
        )
        other.close()


def test_a_stage_that_is_another_optimizer_after_a_resume_begins_with_fresh_state(tmp_path):
    data = write(tmp_path / "data")
    with make_source(data) as source, trainer(source, tmp_path / "run", second="sgd") as first:
        for _ in range(8):
            first.train_minibatch()
        first.save_checkpoint()
    with make_source(data) as source, trainer(source, tmp_path / "run") as second:  # Adam would ask for its averages
        second.restore_from_checkpoint()
        second.train_minibatch()
        assert all(state["step"] == 1 for state in second.optimizers[0].state.values())


def test_what_does_not_fit_together_is_refused():
    owned = parameters()
    sgd = partial(torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match=r"Staged: 2 stages and borders \(5, 9\)"):
        Staged([sgd(owned), sgd(owned)], borders=[5, 9])
    with pytest.raises(ValueError, match=r"stages\[1\], SGD, has other groups of parameters than stages\[0\]"):
        Staged([sgd(owned), sgd(owned[:1])], borders=[5])
    with pytest.raises(ValueError, match=r"stages\[1\], ESGD, asks the Trainer for curvature"):
        Staged([sgd(owned), optimizer("esgd", owned)], borders=[5])
    with pytest.raises(ValueError, match=r"stages\[0\], Adam, is fused or capturable"):
        Staged([torch.optim.Adam(owned, fused=True), sgd(owned)], borders=[5])
    with pytest.raises(ValueError, match=r"stages\[0\], SGD, has the entries rate_per"):
        Staged([optimizer("sgd", owned, lr=0.1, rate_per=32), sgd(owned)], borders=[5])
    with pytest.raises(ValueError, match=r"a schedule of 'betas.0', which is no single number"):
        Staged([optimizer("adam", owned, schedules={"betas.0": Constant(0.5)}), sgd(owned)], borders=[5])
    used = sgd(owned, momentum=0.9)
    owned[0].grad = torch.ones_like(owned[0])
    used.step()
    with pytest.raises(ValueError, match=r"stages\[1\], SGD, has made steps already"):
        Staged([sgd(owned), used], borders=[5])


def test_a_stage_may_react_to_validations():
    owned = parameters()
    newbob = Newbob(rate=0.8, watches="accuracy", mode="max")
    made = Staged(
        [optimizer("sgd", owned, lr=0.8, schedules={"lr": newbob}), torch.optim.SGD(owned, lr=0.1)], borders=[90]
    )
    values = {"accuracy": ((10, 0.5), (20, 0.501), (30, 0.6))}
    assert [set_rates([made], [None], t, t + 9, values)[0] for t in (31, 90)] == [0.2, 0.1]


def test_its_group_says_what_the_stages_are():
    group = staged(parameters()).param_groups[0]
    assert [stage["optimizer"] for stage in group["stages"]] == ["Momentum", "Momentum", "Adam", "GravesRMSprop"]
    assert [stage["lr"] for stage in group["stages"]] == [0.05, 0.02, 0.01, 1e-3]
