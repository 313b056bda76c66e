"""Runs drawn at random agree with plain PyTorch in every step, and come through everything with the same bits.

Some seconds of what `python -m tests.train.random_run SECONDS` does for as long as one likes; the plans are the same in
every run of the tests.
"""

import time

import pytest

from tests.train import random_run

PLANS = 60
SECONDS = 6.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return random_run.write_data(tmp_path_factory.mktemp("random"))


def test_random_runs_are_exact_and_keep_their_bits(folders):
    end, steps, plans = time.monotonic() + SECONDS, 0, 0
    for seed in range(PLANS):
        try:
            steps += random_run.check(seed, folders)
        except Exception as error:
            error.add_note(f"plan {seed}: {random_run.Plan(seed).describe()}")
            raise
        plans += 1
        if time.monotonic() >= end:  # on a slow machine fewer, but never none
            break
    assert steps >= 5 * plans


def test_a_wrong_seed_of_backward_would_be_noticed(folders, monkeypatch):
    """The test above can fail: a gradient that is off by 1e-9 of itself does not pass."""
    from minibatch.train.terms import Share

    exact = Share.seed
    monkeypatch.setattr(Share, "seed", lambda self, *arguments: exact(self, *arguments) * (1 + 1e-9))
    failed = 0
    for seed in range(12):
        try:
            random_run.straight(random_run.Plan(seed), folders)
        except AssertionError:
            failed += 1
    assert failed >= 4
