"""Joint sources: exact ratios, places in closed form, and the same gradient as the sum of both losses."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minibatch import MinibatchSource
from minibatch.errors import CheckpointError
from minibatch.models import MLP
from minibatch.models.noise import Dropout
from minibatch.train import Term, Trainer, cross_entropy, mse, on, parameters_digest
from minibatch.train.joint import JointSource
from tests.train.small import CLASSES, FEATURES, write

TERMS = (
    Term("class", on(cross_entropy, "label"), stream="a"),
    Term("fit", on(mse, "target"), stream="b", coefficient=0.3),
)


class Heads(nn.Module):
    """One body, a head for each stream."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.body = MLP(sizes=(FEATURES, 7), seed=1)
        self.drop = Dropout(dropout)
        self.a, self.b = MLP(sizes=(7, CLASSES), seed=2), MLP(sizes=(7, 2), seed=3)


def call_a(model, batch):
    return model.a(model.drop(torch.tanh(model.body(batch["x"]))))


def call_b(model, batch):
    return model.b(model.drop(torch.tanh(model.body(batch["x"]))))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    return write(folder / "a"), write(folder / "b", rows=31)


def make_joint(data, ratios=None, **options):
    return JointSource(
        {
            name: MinibatchSource(folder, seed=seed, **options)
            for name, folder, seed in zip("ab", data, (5, 6), strict=True)
        },
        ratios or {"a": 3, "b": 1},
    )


def make_trainer(source, *, dropout=0.2, **options):
    model = Heads(dropout).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    defaults = {"inputs": {"a": call_a, "b": call_b}, "announce": lambda text: None}
    return Trainer(model, TERMS, optimizer, source, 12, **{**defaults, **options})


@given(st.lists(st.integers(1, 50), min_size=2, max_size=4), st.lists(st.integers(0, 10**12), min_size=1, max_size=8))
def test_times_of_the_sources_add_up_and_never_go_back(ratios, times):
    class Still:
        seed = 0

    names = [f"s{i}" for i in range(len(ratios))]
    joint = JointSource({name: Still() for name in names}, dict(zip(names, ratios, strict=True)))  # type: ignore[dict-item]
    period, before = sum(ratios), dict.fromkeys(names, 0)
    for time in sorted(times):
        now = {name: joint.time_of(name, time) for name in names}
        assert sum(now.values()) == time
        assert all(now[name] >= before[name] for name in names)
        whole = time // period * period
        assert {name: joint.time_of(name, whole) * period for name in names} == {
            name: whole * ratio for name, ratio in zip(names, ratios, strict=True)
        }
        before = now


def test_minibatches_of_any_size_are_those_of_single_samples(data):
    with make_joint(data) as one, make_joint(data) as other:
        rows = {"a": [], "b": []}
        for size in (1, 5, 12, 7, 3):
            for name, batch in one.next_minibatch(size).parts.items():
                rows[name] += batch.rows.tolist()
        whole = other.next_minibatch(28)
        assert {name: batch.rows.tolist() for name, batch in whole.parts.items()} == rows
        assert {name: len(found) for name, found in rows.items()} == {"a": 21, "b": 7}


def test_seeking_gives_what_reading_would_have(data):
    with make_joint(data) as one, make_joint(data) as other:
        one.next_minibatch(31)
        other.seek(31)
        a, b = one.next_minibatch(10), other.next_minibatch(10)
        for name in ("a", "b"):
            np.testing.assert_array_equal(a.parts[name].rows, b.parts[name].rows)


def test_the_axis_ends_before_what_a_source_cannot_fill(data):
    with make_joint(data, max_samples=13) as joint:
        assert joint.next_minibatch(16)
        assert not joint.next_minibatch(16)
        assert joint.nominal_time == 16


def test_the_gradient_is_that_of_both_losses_together(data):
    with make_joint(data) as source:
        trainer = make_trainer(source, dropout=0.0)
        reference = Heads().double()
        reference.load_state_dict(trainer.model.state_dict())
        batch = source.next_minibatch(12)
        source.seek(0)
        a, b = batch.parts["a"], batch.parts["b"]
        loss = cross_entropy(call_a(reference, {"x": torch.tensor(a["x"])}), torch.tensor(a["label"])).mean()
        loss = loss + 0.3 * mse(call_b(reference, {"x": torch.tensor(b["x"])}), torch.tensor(b["target"])).mean()
        loss.backward()
        result = trainer.train_minibatch()
        assert result["total_loss"] == pytest.approx(loss.item(), rel=1e-12)
        for mine, theirs in zip(trainer.model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-11, atol=1e-13)


def test_microbatches_change_rounding_only_and_bits_nothing(data):
    found = {}
    for promise, microbatch in (("math", None), ("math", 2), ("bits", None), ("bits", 9)):
        with make_joint(data) as source:
            trainer = make_trainer(source, promise=promise, microbatch_size=microbatch, leaf_size=4)
            for _ in range(10):
                trainer.train_minibatch()
            found[promise, microbatch] = trainer.model.state_dict()
    for a, b in zip(found["math", None].values(), found["math", 2].values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    for a, b in zip(found["bits", None].values(), found["bits", 9].values(), strict=True):
        assert torch.equal(a, b)


def test_a_resume_goes_on_with_every_source_where_it_was(data, tmp_path):
    digests = []
    for resume in (False, True):
        with make_joint(data) as source:
            trainer = make_trainer(source)
            if resume:
                trainer.restore_from_checkpoint(tmp_path / "saved")
            for step in range(4, 9) if resume else range(9):
                if step == 4 and not resume:
                    trainer.save_checkpoint(tmp_path / "saved")
                trainer.train_minibatch()
            digests.append(parameters_digest(trainer.model))
    assert digests[0] == digests[1]


def test_other_ratios_are_refused_unless_overridden(data, tmp_path):
    with make_joint(data) as source:
        make_trainer(source).save_checkpoint(tmp_path / "saved")
    with make_joint(data, {"a": 1, "b": 1}) as source:
        trainer = make_trainer(source)
        with pytest.raises(CheckpointError, match=r"ratios.*'a': 3.*'a': 1"):
            trainer.restore_from_checkpoint(tmp_path / "saved")
        trainer.restore_from_checkpoint(tmp_path / "saved", override=["ratios"])


def test_samples_of_two_sources_at_one_time_have_masks_of_their_own(data):
    with make_joint(data, {"a": 1, "b": 1}) as source:
        trainer = make_trainer(source, dropout=0.5)
        masks = []

        def note(module, inputs, output):
            masks.append((output == 0).detach())

        trainer.model.drop.register_forward_hook(note)
        trainer.train_minibatch()
        assert masks[0].shape == masks[1].shape
        assert not torch.equal(masks[0], masks[1])


def test_what_does_not_fit_is_an_error_at_the_start(data):
    with make_joint(data) as source:
        model = Heads().double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def make(terms, **options):
            return Trainer(model, terms, optimizer, source, 12, **{"inputs": {"a": call_a, "b": call_b}, **options})

        with pytest.raises(ValueError, match=r"say with stream="):
            make([Term("class", on(cross_entropy, "label")), TERMS[1]])
        with pytest.raises(ValueError, match=r"no term is of the source 'b'"):
            make(TERMS[0])
        with pytest.raises(ValueError, match=r"inputs are given for \['a'\]"):
            make(TERMS, inputs={"a": call_a})
    with pytest.raises(ValueError, match="two or more"):
        JointSource({})
    with make_joint(data) as source, pytest.raises(ValueError, match="ratios are for"):
        JointSource(source.sources, {"a": 1})
    with make_joint(data) as source, pytest.raises(ValueError, match=r"ratios\['b'\]"):
        JointSource(source.sources, {"a": 1, "b": 0})


def test_samples_given_by_name_train_too(data):
    rng = np.random.default_rng(0)
    with make_joint(data) as source:
        trainer = make_trainer(source)
        given = {
            "a": {"x": rng.normal(size=(5, FEATURES)), "label": np.arange(5) % CLASSES},
            "b": {"x": rng.normal(size=(3, FEATURES)), "target": rng.normal(size=(3, 2))},
        }
        result = trainer.train_minibatch(given)
        assert result.interval == (0, 8)
        assert source.nominal_time == 8
