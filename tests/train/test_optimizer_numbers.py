"""What optimizers keep besides tensors of parameters: numbers in their groups resume, anything elsewhere is refused."""

import pytest
import torch

from minibatch.errors import CheckpointError
from minibatch.train import Trainer, parameters_digest
from tests.train.small import TERMS, TwoHeads, make_source, write


class Counting(torch.optim.SGD):
    """Counts its steps in the group, where schedule-free optimizers, Prodigy and D-Adaptation keep their numbers."""

    def __init__(self, parameters, *, power=1.0):
        super().__init__(parameters, lr=0.1)
        for group in self.param_groups:
            group.update(count=0, warm=False, power=power)

    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] += 1
            group["warm"] = True
            group["lr"] = 0.1 / group["count"] ** group["power"]
        return super().step(closure)


class Global(torch.optim.SGD):
    """Keeps a number of its own where states of parameters belong."""

    def step(self, closure=None):
        self.state.setdefault("global", {"count": 0})["count"] += 1
        return super().step(closure)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("numbers") / "data")


def make_trainer(source, make, **options):
    model = TwoHeads().double()
    heads = [{"params": model.body.parameters()}, {"params": [*model.classes.parameters(), *model.values.parameters()]}]
    return Trainer(model, TERMS, make(heads, **options), source, 9, inputs="x", announce=lambda text: None)


def test_an_optimizer_that_counts_in_its_groups_resumes_with_the_same_bits(data, tmp_path):
    with make_source(data) as source:
        trainer = make_trainer(source, Counting)
        for step in range(6):
            if step == 3:
                trainer.save_checkpoint(tmp_path / "saved")
            trainer.train_minibatch()
    with make_source(data) as source:
        again = make_trainer(source, Counting)
        again.restore_from_checkpoint(tmp_path / "saved")
        assert [group["count"] for group in again.optimizers[0].param_groups] == [3, 3]
        assert all(group["warm"] is True for group in again.optimizers[0].param_groups)
        for _ in range(3):
            again.train_minibatch()
    assert parameters_digest(again.model) == parameters_digest(trainer.model)


def test_settings_in_the_groups_are_those_of_the_resumed_run(data, tmp_path):
    """What an optimizer has not changed by itself is a setting, and so is every rate."""
    with make_source(data) as source:
        trainer = make_trainer(source, Counting)
        trainer.train_minibatch()
        trainer.save_checkpoint(tmp_path / "saved")
    with make_source(data) as source:
        again = make_trainer(source, Counting, power=0.5)
        again.optimizers[0].param_groups[0]["lr"] = 0.7
        again.restore_from_checkpoint(tmp_path / "saved")
        first = again.optimizers[0].param_groups[0]
        assert (first["count"], first["power"], first["lr"]) == (1, 0.5, 0.7)


def test_numbers_counted_before_a_second_resume_are_not_lost(data, tmp_path):
    """A count is saved although it has not changed since this process restored it."""
    with make_source(data) as source:
        trainer = make_trainer(source, Counting)
        trainer.train_minibatch()
        trainer.save_checkpoint(tmp_path / "first")
    with make_source(data) as source:
        again = make_trainer(source, Counting)
        again.restore_from_checkpoint(tmp_path / "first")
        again.save_checkpoint(tmp_path / "second")
    with make_source(data) as source:
        third = make_trainer(source, Counting)
        third.restore_from_checkpoint(tmp_path / "second")
        assert third.optimizers[0].param_groups[0]["count"] == 1


def test_state_under_a_key_that_is_no_parameter_is_refused_by_name(data, tmp_path):
    with make_source(data) as source:
        trainer = make_trainer(source, lambda groups: Global(groups, lr=0.1))
        trainer.train_minibatch()
        with pytest.raises(CheckpointError, match=r"optimizers\[0\] \(.*Global\) keeps state under 'global'"):
            trainer.save_checkpoint(tmp_path / "saved")
        assert not (tmp_path / "saved").exists()
