"""A run that is interrupted at any step ends with the bits of one that is not; what does not fit is refused by name."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from minibatch.errors import CheckpointError
from minibatch.train import Term, Trainer, cross_entropy, mse, on, parameters_digest, read_ledger
from minibatch.train.schedules import Constant
from tests.train.small import TERMS, TwoHeads, fields, make_source, make_trainer, write

STEPS = 14  # of 9 samples: more than two sweeps of 53


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("resume") / "data")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A folder with a checkpoint after every step of an uninterrupted run, and its digests."""
    folder = tmp_path_factory.mktemp("whole")
    with make_source(data) as source:
        trainer = make_trainer(source)
        trainer.save_checkpoint(folder / "0")
        digests = [parameters_digest(trainer.model)]
        for step in range(1, STEPS + 1):
            trainer.train_minibatch()
            trainer.save_checkpoint(folder / str(step))
            digests.append(parameters_digest(trainer.model))
    return folder, digests


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, foreach=True),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
}


@pytest.mark.parametrize("at", range(STEPS + 1))
def test_resumed_at_any_step_it_ends_with_the_same_bits(data, whole, at):
    folder, digests = whole
    with make_source(data) as source:
        trainer = make_trainer(source)
        restored = trainer.restore_from_checkpoint(folder / str(at))
        assert (restored.step, restored.nominal_time, restored.changes) == (at, 9 * at, ())
        assert parameters_digest(trainer.model) == digests[at]
        for step in range(at + 1, STEPS + 1):
            result = trainer.train_minibatch()
            assert result.step == step
            assert parameters_digest(trainer.model) == digests[step]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_resumes_with_the_same_bits(data, tmp_path, name):
    def start():
        model = TwoHeads(dropout=0.3).double()
        source = make_source(data)
        return Trainer(
            model, TERMS, OPTIMIZERS[name](model.parameters()), source, 9, 4, "x", announce=lambda text: None
        )

    trainer = start()
    trainer.fit(max_samples=36)
    trainer.save_checkpoint(tmp_path / "c")
    trainer.fit(max_samples=90)
    again = start()
    again.restore_from_checkpoint(tmp_path / "c")
    again.fit(max_samples=90)
    assert parameters_digest(again.model) == parameters_digest(trainer.model)


def test_two_optimizers_and_absent_heads_resume_with_the_same_bits(data, tmp_path):
    """State is kept by name: an optimizer whose head has had no gradient yet has no state for it."""

    def start():
        model = TwoHeads(dropout=0.3).double()
        terms = [TERMS[0], Term("fit", TERMS[1].loss, mask=lambda batch: batch.times >= 40)]
        heads = [{"params": model.values.parameters()}, {"params": model.classes.parameters(), "lr": 0.05}]
        optimizers = [
            torch.optim.Adam(reversed(list(model.body.parameters())), lr=0.01),
            torch.optim.SGD(heads, lr=0.1, momentum=0.9),
        ]
        return Trainer(
            model, terms, optimizers, make_source(data), 9, inputs="x", schedules=[Constant(0.02), None],
            announce=lambda text: None,
        )  # fmt: skip

    trainer = start()
    trainer.fit(max_samples=27)
    trainer.save_checkpoint(tmp_path / "c")
    trainer.fit(max_samples=80)
    again = start()
    assert again.restore_from_checkpoint(tmp_path / "c").changes == ()
    again.fit(max_samples=80)
    assert parameters_digest(again.model) == parameters_digest(trainer.model)


def test_buffers_and_tied_weights_come_back(data, tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 6, dtype=torch.float64)
            self.b = nn.Linear(6, 6, dtype=torch.float64)
            self.b.weight = self.a.weight
            self.norm = nn.BatchNorm1d(6, dtype=torch.float64)
            self.heads = TwoHeads().double()
            self.register_buffer("part", self.a.weight.detach()[:3])

        def forward(self, x):
            return self.heads(self.norm(self.b(torch.tanh(self.a(x)))))

    def start():
        torch.manual_seed(3)
        model = Tied()
        return Trainer(
            model, TERMS, torch.optim.Adam(model.parameters()), make_source(data), 9, inputs="x",
            announce=lambda text: None,
        )  # fmt: skip

    trainer = start()
    trainer.fit(max_samples=27)
    trainer.save_checkpoint(tmp_path / "c")
    trainer.fit(max_samples=54)
    again = start()
    again.restore_from_checkpoint(tmp_path / "c")
    assert again.model.b.weight is again.model.a.weight
    again.fit(max_samples=54)
    assert parameters_digest(again.model) == parameters_digest(trainer.model)
    assert again.model.norm.num_batches_tracked == 6


def test_no_state_of_a_generator_is_saved_or_needed(data, whole):
    folder, digests = whole
    torch.manual_seed(123)
    with make_source(data) as source:
        trainer = make_trainer(source)
        trainer.restore_from_checkpoint(folder / "5")
        torch.rand(17)
        trainer.fit(max_samples=9 * STEPS)
    assert parameters_digest(trainer.model) == digests[STEPS]
    names = "".join(path.read_text(errors="replace") for path in (folder / "5").glob("*.json"))
    assert "rng" not in names
    assert "generator" not in names


def test_sizes_and_rates_may_change_and_what_changed_is_said(data, whole):
    folder, _ = whole
    said = []
    with make_source(data) as source:
        trainer = make_trainer(
            source,
            minibatch_size=20,
            microbatch_size=None,
            schedules=None,
            lr=0.5,
            clip_grad_norm=None,
            announce=said.append,
        )
        changes = trainer.restore_from_checkpoint(folder / "5").changes
        assert trainer.train_minibatch().interval == (45, 65)
        assert trainer.train_minibatch().learning_rates == (0.5,)
    assert "minibatch_size: 9 → 20" in changes
    assert "microbatch_size: 4 → null" in changes
    assert "clip_grad_norm: 0.5 → null" in changes
    assert "optimizers[0].groups[0].lr: not set → 0.5" in changes
    assert any(change.startswith("schedules[0]: {") for change in changes)
    assert said == [f"changed since the checkpoint: {change}" for change in changes]


def test_terms_noise_and_environment_are_compared(data, whole, tmp_path):
    folder, _ = whole
    with make_source(data) as source:
        terms = [TERMS[0], Term("fit", on(mse, "target", output="values"), mask="has_target", coefficient=0.4)]
        changes = make_trainer(source, terms=terms, dropout=0.31).restore_from_checkpoint(folder / "5").changes
    assert "terms.fit.coefficient: 0.3 → 0.4" in changes
    assert 'noise.body.layers.0: "Dropout(p=0.3)" → "Dropout(p=0.31)"' in changes
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        with make_source(data) as source:
            changes = make_trainer(source).restore_from_checkpoint(folder / "5").changes
    finally:
        torch.set_num_threads(before)
    assert changes == (f"environment.threads: {before} → {before + 1}",)


def refused(trainer, path, message, **options):
    """The restore is refused, and nothing of the trainer has changed."""
    before = (parameters_digest(trainer.model), trainer.step, trainer.nominal_time)
    with pytest.raises(CheckpointError, match=message):
        trainer.restore_from_checkpoint(path, **options)
    assert (parameters_digest(trainer.model), trainer.step, trainer.nominal_time) == before


def test_another_model_is_refused_with_the_first_differences(data, whole):
    folder, _ = whole
    with make_source(data) as source:
        trainer = make_trainer(source)
        trainer.model.classes.layers[0] = nn.Linear(7, 4, dtype=torch.float64)
        refused(trainer, folder / "5", r"another model: classes\.layers\.0\.weight is float64 \(3, 7\) in the "
                r"checkpoint, float64 \(4, 7\) in this model")  # fmt: skip
        refused(make_trainer(source, dropout=0.0), folder / "5", r"body\.layers\.1\.weight is in the checkpoint only")
        trainer = make_trainer(source)
        trainer.model.float()
        refused(trainer, folder / "5", r"body\.layers\.1\.weight is float64 .* in the checkpoint, float32")


def test_other_optimizers_are_refused(data, whole):
    folder, _ = whole
    with make_source(data) as source:
        model = TwoHeads(dropout=0.3).double()

        def make(*optimizers):
            return Trainer(model, TERMS, optimizers, source, 9, inputs="x", announce=lambda text: None)

        refused(make(torch.optim.SGD(model.parameters(), lr=0.1)), folder / "5", r"adam\.Adam.*this run has.*sgd\.SGD")
        split = [torch.optim.Adam(part.parameters()) for part in model.children()]
        refused(make(*split), folder / "5", "made with the optimizers")
        model.values.requires_grad_(False)
        part = torch.optim.Adam([*model.body.parameters(), *model.classes.parameters()])
        refused(make(part), folder / "5", r"owns other parameters.*there only \['values\.layers\.0\.bias'")


def test_other_data_another_seed_and_another_order_are_refused_with_both_sides(data, whole, tmp_path):
    folder, _ = whole
    other = write(tmp_path / "other", uniform=np.full(53, 2.4))
    state = json.loads((folder / "5" / "state.json").read_text())
    with make_source(other) as source:
        mine = source.dataset.fingerprint
        refused(make_trainer(source), folder / "5", f"another data.*{state['source']['fingerprint']}.*{mine}")
        trainer = make_trainer(source)
        trainer.restore_from_checkpoint(folder / "5", override=["fingerprint"])
        assert trainer.nominal_time == 45
    with make_source(data, seed=6) as source:
        refused(make_trainer(source), folder / "5", "made with seed 5, this run has seed 6")
        refused(make_trainer(source, seed=5), folder / "5", "another seed")
        changes = make_trainer(source).restore_from_checkpoint(folder / "5", override=["seed"]).changes
        assert changes[0] == "seed: 5 → 6"
    with make_source(data, shuffle=None) as source:
        refused(make_trainer(source), folder / "5", "another order")
    refused(make_trainer(None, seed=5), folder / "5", "made with a source, this Trainer is without a source")


def test_a_run_without_a_source_resumes_too(data, tmp_path):
    columns = fields()

    def steps(trainer, n):
        for _ in range(n):
            t = trainer.nominal_time
            trainer.train_minibatch({name: values[t : t + 5] for name, values in columns.items()})
        return parameters_digest(trainer.model)

    trainer = make_trainer(None)
    steps(trainer, 3)
    trainer.save_checkpoint(tmp_path / "c")
    expected = steps(trainer, 4)
    again = make_trainer(None)
    again.restore_from_checkpoint(tmp_path / "c")
    assert again.nominal_time == 15
    assert steps(again, 4) == expected


def test_the_newest_checkpoint_of_the_folder_is_taken(data, whole, tmp_path):
    _, digests = whole
    with make_source(data) as source, make_trainer(source, folder=tmp_path) as trainer:
        trainer.fit(max_samples=9 * 10, save_every=27)
    with make_source(data) as source, make_trainer(source, folder=tmp_path) as trainer:
        assert trainer.restore_from_checkpoint().step == 10
        trainer.fit(max_samples=9 * STEPS, save_every=27)
        assert parameters_digest(trainer.model) == digests[STEPS]
    assert [line.step for line in read_ledger(tmp_path)] == list(range(1, STEPS + 1))


def test_a_folder_that_holds_a_run_is_not_begun_anew(data, tmp_path):
    with make_source(data) as source, make_trainer(source, folder=tmp_path) as trainer:
        trainer.fit(max_samples=27)
    with make_source(data) as source, make_trainer(source, folder=tmp_path) as trainer:
        for attempt in (trainer.train_minibatch, trainer.save_checkpoint):
            with pytest.raises(CheckpointError, match=r"already holds a run: call restore_from_checkpoint\(\)"):
                attempt()
        with pytest.raises(CheckpointError, match=r"no complete checkpoint.*there is none"):
            trainer.restore_from_checkpoint()
    assert len(read_ledger(tmp_path)) == 3


def test_going_back_leaves_the_other_branch_aside(data, whole, tmp_path):
    """Ledger and checkpoints after the one restored belong to a branch that is left; they are cut off and set aside."""
    _, digests = whole
    with make_source(data) as source, make_trainer(source, folder=tmp_path) as trainer:
        trainer.fit(max_samples=9 * 10, save_every=27)
    checkpoints = tmp_path / "checkpoints"
    said = []
    with make_source(data) as source, make_trainer(source, folder=tmp_path, announce=said.append) as trainer:
        trainer.restore_from_checkpoint(checkpoints / "t-000000000054")
        assert len(read_ledger(tmp_path)) == 10  # looking changes nothing
        trainer.train_minibatch()
        assert sorted(path.name for path in checkpoints.iterdir()) == [
            "t-000000000027", "t-000000000054", "t-000000000081.given-up-1", "t-000000000090.given-up-1",
        ]  # fmt: skip
        trainer.fit(max_samples=9 * STEPS, save_every=27)
        assert parameters_digest(trainer.model) == digests[STEPS]
    assert [line.step for line in read_ledger(tmp_path)] == list(range(1, STEPS + 1))
    assert any("steps 7 to 10 are computed again" in text for text in said)
    assert any("given-up-1" in text for text in said)


def test_a_checkpoint_elsewhere_needs_no_folder(data, tmp_path):
    with make_source(data) as source:
        trainer = make_trainer(source)
        for attempt in (trainer.save_checkpoint, trainer.restore_from_checkpoint):
            with pytest.raises(ValueError, match="has no folder"):
                attempt()
        assert trainer.save_checkpoint(tmp_path / "anywhere") == tmp_path / "anywhere"
        trainer.train_minibatch()
        trainer.save_checkpoint(tmp_path / "anywhere")
        trainer.restore_from_checkpoint(tmp_path / "anywhere")
        assert trainer.step == 1


def test_a_run_may_branch_into_another_folder(data, whole, tmp_path):
    folder, digests = whole
    with make_source(data) as source, make_trainer(source, folder=tmp_path) as trainer:
        trainer.restore_from_checkpoint(folder / "5")
        trainer.fit(max_samples=9 * STEPS)
        assert parameters_digest(trainer.model) == digests[STEPS]
    assert [line.step for line in read_ledger(tmp_path)] == list(range(6, STEPS + 1))


def test_a_loss_is_a_function_of_its_parts(data):
    """What the comparison above relies on: terms are described by name, options and numbers."""
    from minibatch.train.config import described

    one, two = (Term("c", on(cross_entropy, "label", output="logits", label_smoothing=s)) for s in (0.1, 0.2))
    assert described(one) != described(two)
    assert described(one)["loss"]["options"] == {"label_smoothing": 0.1}


def test_other_transforms_limits_and_holes_of_the_source_are_said(data, whole):
    folder, _ = whole[0], None
    with make_source(data, skip=[(80, 100)], max_samples=1000) as source:
        changes = make_trainer(source).restore_from_checkpoint(folder / "5").changes
    assert "source.max_samples: null → 1000" in changes
    assert any(change.startswith("source.skip: ") and "[80, 100]" in change for change in changes)
