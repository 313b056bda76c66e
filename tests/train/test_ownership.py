"""Which optimizer owns which parameter, also later on: a layer that is added under way is not left out in silence."""

import pytest
import torch
from torch import nn

from minibatch import MinibatchSource
from minibatch.train import Term, Trainer, cross_entropy, on
from minibatch.train.errors import TrainingError
from tests.train import small


@pytest.fixture
def trainer(tmp_path):
    small.write(tmp_path / "data")
    model = nn.Sequential(nn.Linear(small.FEATURES, 4), nn.Tanh(), nn.Linear(4, small.CLASSES)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
    with MinibatchSource(tmp_path / "data", seed=7) as source:
        yield Trainer(
            model,
            Term("class", on(cross_entropy, "label")),
            optimizer,
            source,
            8,
            inputs="x",
            log_every=3,
            check_unreached=False,
        )


def test_a_layer_that_was_added_is_noticed_at_the_next_log_point(trainer):
    trainer.train_minibatch()
    trainer.model.append(nn.Linear(small.CLASSES, small.CLASSES).double())
    trainer.train_minibatch()
    with pytest.raises(TrainingError, match=r"3\.weight, 3\.bias; finish the model first"):
        trainer.train_minibatch()


def test_what_is_frozen_or_unfrozen_among_those_that_were_known_is_none_of_its_business(trainer):
    trainer.model[0].requires_grad_(False)
    for _ in range(4):
        trainer.train_minibatch()
    trainer.model[0].requires_grad_(True)
    for _ in range(4):
        trainer.train_minibatch()
    trainer.look()
