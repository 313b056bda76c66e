"""A run that learns nothing says so at its first log point, and does not end as if all were well."""

from dataclasses import replace

import numpy as np
import pytest

from minibatch.train import TrainingError
from minibatch.train.schedules import Constant, Steps, Warmup
from tests.train.small import ROWS, TERMS, make_source, make_trainer, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("idle") / "data")


def trained(data, *, samples, **options):
    said = []
    with make_source(data) as source:
        trainer = make_trainer(source, **{"log_every": 10, "announce": said.append, **options})
        try:
            trainer.fit(max_samples=samples)
        finally:
            trainer.said = said
    return said


def test_that_every_rate_is_0_is_said_at_the_first_log_point_and_an_error_at_the_end(data):
    said = []
    with pytest.raises(TrainingError, match="nothing was learned: every rate was 0 in 30 steps; look at lr="):
        trained(data, samples=270, schedules=Constant(0.0), announce=said.append)
    assert said == [
        "nothing is being learned: every rate was 0 in 10 steps; look at lr= of the optimizers and at schedules="
    ]


def test_that_no_term_has_a_sample_is_said_and_an_error_at_the_end(data):
    terms = tuple(replace(term, weight="nothing", mask=None) for term in TERMS)
    said = []
    with pytest.raises(TrainingError, match="nothing was learned: no term had a sample in 20 steps: all weights were"):
        trained(data, samples=180, terms=terms, check_unreached=False, announce=said.append)
    assert len(said) == 1
    assert "nothing is being learned: no term had a sample in 10 steps" in said[0]


def test_a_warmup_that_begins_at_0_is_nothing_to_speak_of(data):
    assert trained(data, samples=108, schedules=Warmup(samples=90, then=0.1), log_every=1) == []
    assert trained(data, samples=9, schedules=Warmup(samples=90, then=0.1), log_every=1) == []


def test_what_is_said_is_no_error_where_learning_begins_later(data):
    said = trained(data, samples=180, schedules=Steps((0.0, 0.1), borders=(99,)))
    assert len(said) == 1
    assert "every rate was 0 in 10 steps" in said[0]


def test_a_group_with_a_rate_of_its_own_learns(data):
    said = []
    with make_source(data) as source:
        trainer = make_trainer(source, schedules=Constant(0.0), log_every=10, announce=said.append)
        trainer.optimizers[0].param_groups[0]["schedules"] = {"lr": Constant(0.01)}
        trainer.fit(max_samples=180)
    assert said == []


def test_a_resumed_run_may_find_its_schedule_at_the_end(data, tmp_path):
    schedule = Steps((0.1, 0.0), borders=(90,))
    said = []
    for samples in (90, 270):
        with (
            make_source(data) as source,
            make_trainer(source, folder=tmp_path, schedules=schedule, log_every=10, announce=said.append) as trainer,
        ):
            if samples > 90:
                trainer.restore_from_checkpoint()
            assert trainer.fit(max_samples=samples, save_every=90).finished
    assert [text for text in said if "learned" in text] == [
        "nothing is being learned: every rate was 0 in 10 steps; look at lr= of the optimizers and at schedules="
    ]


def test_updates_that_were_all_left_out_are_an_error(tmp_path):
    bad = write(tmp_path / "data", target=np.full((ROWS, 2), np.inf))
    with pytest.raises(TrainingError, match=r"in 20 steps every update was left out, .* the others not finite"):
        trained(bad, samples=180, on_nonfinite="skip")
