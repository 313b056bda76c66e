"""Every schedule goes into a run's configuration as JSON, from which the same value can be made again."""

import importlib
import json

import numpy as np
import pytest

from minibatch.train import schedules
from minibatch.train.config import described
from minibatch.train.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    DiscreteExponential,
    Exponential,
    Growing,
    Held,
    Linear,
    Newbob,
    OneCycle,
    Plateau,
    Polynomial,
    Product,
    Scaled,
    Stage,
    Steps,
    Sum,
    Then,
    Warmup,
)

EXAMPLES = [
    Constant(0.1),
    Cosine(0.1, samples=1000, last=0.01),
    CosineRestarts(0.1, samples=1000, factor=2, shrink=0.5),
    DiscreteExponential(0.1, 0.01, levels=4, samples=1000, after_border=True),
    Exponential(0.1, factor=0.5, samples=1000),
    Growing(size=32, factor=1.5, samples=1000, largest=512),
    Held(Linear(0.1, samples=1000), every=100),
    Linear(0.1, samples=1000, last=0.01),
    Newbob(rate=0.1, watches="loss"),
    OneCycle(0.1, samples=1000, rise=300, first=0.01, last=0.0),
    Plateau(rate=0.1, watches="loss"),
    Polynomial(0.1, samples=1000, power=2),
    Product((Cosine(1.0, samples=1000), Plateau(rate=0.1, watches="loss"))),
    Scaled(Constant(0.1), factor=2),
    Stage(optimizer="nag", options={"learning_rate": 0.1}),
    Steps([0.1, 0.01], borders=[1000]),
    Sum([0.1, Linear(0.1, samples=1000)]),
    Then([0.1, Cosine(0.1, samples=1000), 0.0], borders=[1000, 2000], restart=False),
    Warmup(samples=100, then=Cosine(0.1, samples=1000)),
]


def rebuilt(description):
    if isinstance(description, list):
        return [rebuilt(item) for item in description]
    if not isinstance(description, dict):
        return description
    fields = {name: rebuilt(item) for name, item in description.items() if name != "kind"}
    if "kind" not in description:
        return fields
    module, name = description["kind"].split(":")
    return getattr(importlib.import_module(module), name)(**fields)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=lambda schedule: type(schedule).__name__)
def test_a_schedule_can_be_made_again_from_its_description(schedule):
    schedule_again = rebuilt(json.loads(json.dumps(described(schedule))))
    assert schedule_again == schedule
    assert described(schedule_again) == described(schedule)
    if callable(schedule):
        for t in (0, 99, 1000, 12345):
            assert schedule_again(t) == schedule(t)


def test_having_been_called_does_not_change_what_is_described():
    schedule = Plateau(rate=0.1, watches="loss", patience=0)
    before = described(schedule)
    schedule(5, ((1, 1.0), (2, 2.0)))
    assert described(schedule) == before
    assert schedule == Plateau(rate=0.1, watches="loss", patience=0)


def test_every_schedule_is_among_the_examples():
    classes = {value for value in vars(schedules).values() if isinstance(value, type)}
    assert classes == {type(example) for example in EXAMPLES}


def test_numbers_of_numpy_are_described_as_numbers():
    schedule = Then((np.float32(0.5), Cosine(np.float64(0.25), samples=np.int64(1000))), borders=np.array([10]))
    assert json.loads(json.dumps(described(schedule)))["parts"][0] == 0.5
    assert rebuilt(described(schedule)) == schedule
