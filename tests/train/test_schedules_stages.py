"""Recipes of several trainings."""

import pytest

from minibatch.train.schedules import Stage, theanets_newbob


def test_theanets_newbob_has_the_rates_and_momenta_of_its_manual():
    # for e in (-2, -3, -4): train(algorithm="nag", learning_rate=10 ** e, momentum=1 - 10 ** (e + 1))
    *nags, last = theanets_newbob()
    for e, stage in zip((-2, -3, -4), nags, strict=True):
        assert stage.optimizer == "nag"
        assert stage.options == pytest.approx({"learning_rate": 10.0**e, "momentum": 1 - 10.0 ** (e + 1)}, rel=1e-15)
    assert last == Stage(optimizer="rmsprop", options={"learning_rate": 1e-4, "momentum": 0.9})
    assert len(theanets_newbob((-1,))) == 2
    assert theanets_newbob((-1,))[0].options["momentum"] == 0.0


@pytest.mark.parametrize(
    "make", [lambda: theanets_newbob((0,)), lambda: theanets_newbob((-1.5,)), lambda: Stage(optimizer="")]
)
def test_arguments_are_checked(make):
    with pytest.raises(ValueError, match="expected"):
        make()
