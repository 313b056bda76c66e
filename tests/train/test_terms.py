"""Terms refuse what cannot be meant."""

import math

import pytest
import torch

from minibatch.train import Term, Trainer
from minibatch.train.schedules import Constant


def loss(outputs, batch):
    return outputs[:, 0]


@pytest.mark.parametrize("denominator", ["weight", 0, -1.0, math.nan, math.inf, ""])
def test_unknown_denominators_are_refused(denominator):
    with pytest.raises(ValueError, match="'weights', 'count', 'nominal'"):
        Term("it", loss, denominator=denominator)


def test_other_arguments_are_checked():
    with pytest.raises(ValueError, match="name"):
        Term("", loss)
    with pytest.raises(TypeError, match=r"\(outputs, batch\)"):
        Term("it", 3)
    with pytest.raises(ValueError, match="coefficient"):
        Term("it", loss, coefficient=math.nan)
    assert Term("it", loss, coefficient=Constant(0.5), denominator=None).coefficient(7) == 0.5


@pytest.mark.parametrize("terms", [[], None, [loss], "it"])
def test_a_trainer_needs_terms(terms):
    with pytest.raises(TypeError, match="terms"):
        Trainer(torch.nn.Linear(1, 1), terms, [], None, 1)


def test_terms_need_different_names():
    for names in (("a", "a"), ("total_loss",)):
        with pytest.raises(ValueError, match="different names"):
            Trainer(torch.nn.Linear(1, 1), [Term(name, loss) for name in names], [], None, 1)
