"""Acceptance 3 and 4: ten kills with another cut each, two minibatches for one, and a resume at any nominal time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from minibatch.train import read_ledger
from tests.train.small import fields, make_source, make_trainer, write

ROOT = Path(__file__).parents[2]
KILLS = 10


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("acceptance") / "data")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_ten_kills_with_another_microbatch_each_end_with_the_same_bits(tmp_path):
    target = fields()["target"]
    target[30] = 1e4  # spikes, and rollbacks, in most sweeps
    data = write(tmp_path / "data", target=target)
    folder = tmp_path / "a run: ä 日本"
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.killed_bits", data, folder, "7", str(KILLS)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["status"] == [0, 0], done.stderr
    assert [killed for killed, _ in seen["moments"]] == [True] * KILLS
    assert seen["moments"][-1][1] > 900
    assert seen["digests"][0] == seen["digests"][1]
    assert seen["digests"][0].count("(") >= 3  # intervals were left out on the way
    ours, theirs = read_ledger(folder), read_ledger(tmp_path / "whole")
    assert ours == theirs
    assert (folder / "validation.jsonl").read_bytes() == (tmp_path / "whole" / "validation.jsonl").read_bytes()


@pytest.mark.parametrize("promise", ["math", "bits"])
def test_two_steps_of_k_see_what_one_of_2k_sees(data, promise):
    """With weights that stay, the numerators of two halves add up to those of the whole, dropout and all."""
    options = {"promise": promise, "leaf_size": 3, "microbatch_size": 4, "lr": 0.0, "schedules": None}
    for k in (1, 6, 13, 40):
        with make_source(data) as one, make_source(data) as two:
            halves = make_trainer(one, minibatch_size=k, **options)
            whole = make_trainer(two, minibatch_size=2 * k, **options)
            for _ in range(4):
                parts = [halves.train_minibatch(), halves.train_minibatch()]
                both = whole.train_minibatch()
                assert (parts[0].interval[0], parts[1].interval[1]) == both.interval
                for number in range(2):
                    total = parts[0].numerators[number] + parts[1].numerators[number]
                    assert total == pytest.approx(both.numerators[number], rel=1e-13)
                    assert parts[0].denominators[number] + parts[1].denominators[number] == pytest.approx(
                        both.denominators[number], rel=1e-14
                    )


@pytest.mark.parametrize("at", [1, 5, 8])
def test_a_resume_that_is_no_multiple_of_the_new_minibatch_goes_on_at_the_next_sample(data, tmp_path, at):
    def rows_of(trainer, steps):
        seen = []
        take = trainer.streams.take

        def noting(size):
            taken = take(size)
            seen.extend(taken.batches[0].rows.tolist())
            return taken

        trainer.streams.take = noting
        for _ in range(steps):
            trainer.train_minibatch()
        return seen

    with make_source(data) as source:
        trainer = make_trainer(source, minibatch_size=9)
        before = rows_of(trainer, at)
        trainer.save_checkpoint(tmp_path / "c")
    with make_source(data) as source:
        trainer = make_trainer(source, minibatch_size=7)
        trainer.restore_from_checkpoint(tmp_path / "c")
        assert trainer.nominal_time == 9 * at
        after = rows_of(trainer, 6)
        assert before + after == source.at(0, 9 * at + 42).tolist()


def test_a_schedule_of_minibatch_sizes_resumes_where_it_stood(data, tmp_path):
    sizes = (4, 11, 7)

    def start(folder=None):
        return make_trainer(make_source(data), minibatch_size=lambda t: sizes[t // 30 % 3], folder=folder)

    whole = start()
    intervals = [whole.train_minibatch().interval for _ in range(25)]
    assert {t1 - t0 for t0, t1 in intervals} == set(sizes)
    seen = []
    for stop in (3, 9, 10, 17, 25):  # a new process at each
        with start(tmp_path / "run") as trainer:
            if trainer.holds_a_run():
                trainer.restore_from_checkpoint()
            while trainer.step < stop:
                seen.append(trainer.train_minibatch().interval)
            trainer.save_checkpoint(wait=False)
    assert seen == intervals
    for a, b in zip(whole.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert np.isfinite(whole.train_minibatch()["total_loss"])
