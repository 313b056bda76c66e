"""The best weights: which they are, kept in memory or on disk, put back at the end, on Ctrl-C and after a resume."""

import pytest
import torch

from minibatch.train import Metric
from minibatch.train.best import Watch
from minibatch.train.checkpoint import checkpoints_in, time_of
from minibatch.train.validation import Validation
from tests.train.small import make_source, make_trainer, write

EVERY = 27  # samples, three steps


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("best") / "data")


def history(*values):
    return [
        Validation(
            pairs={"error": (0.0 if v is None else v, 0.0 if v is None else 1.0)}, samples=1, nominal_time=10 * t
        )
        for t, v in enumerate(values)
    ]


def test_the_best_is_the_first_of_equal_ones_and_nothing_while_there_is_no_number():
    nan = float("nan")
    assert Watch().best(history()) is None
    assert Watch().best(history(nan, None)) is None
    assert Watch().best(history(nan, 3.0, 2.0, None, 2.0)).nominal_time == 20
    assert Watch(mode="max").best(history(0.5, 0.9, 0.8)).nominal_time == 10
    assert Watch(since=20).best(history(1.0, 2.0, 4.0, 3.0)).nominal_time == 30


def test_patience_counts_failures_and_says_what_was_the_best():
    watch = Watch(patience=1)
    assert watch.stopped(history(3.0, 2.0, 2.5)) is None
    assert watch.stopped(history(3.0, 2.0, 2.5, 2.0)) == (
        "patience: 2 validations without an improvement of 'error' over 2, at 10 samples"
    )
    assert Watch(patience=1, since=20).stopped(history(3.0, 2.0, 2.5, 2.6)) is None
    assert Watch().stopped(history(*range(100))) is None


def test_a_checkpoint_is_needed_as_long_as_one_that_stays_would_put_it_back():
    watch = Watch()
    validations = history(5.0, 3.0, 4.0, 2.0, 6.0)
    assert watch.needed(validations, [25, 35, 45]) == {10, 30}
    assert watch.needed(validations, [45]) == {30}
    assert watch.needed(validations, []) == set()


class Scripted:
    """A metric whose value on the whole validation set is the next of a list, by the run's step."""

    def __init__(self, values):
        self.values = values
        self.trainer = None

    def __call__(self, outputs, batch):
        value = self.values[min(self.trainer.nominal_time // EVERY, len(self.values)) - 1]
        return torch.full((batch.num_samples,), value, dtype=torch.float64)


def scripted(source, data, values, **options):
    script = Scripted(values)
    trainer = make_trainer(source, validation=data, metrics=[Metric("score", script)], **options)
    script.trainer = trainer
    return trainer


FIT = {"validate_every": EVERY, "watch": "score", "restore_best": True}


def weights(trainer):
    return [value.clone() for value in trainer.model.state_dict().values()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_weights_of_the_best_validation_are_put_back_at_the_end(data, tmp_path, on_disk):
    kept = {}

    def keep(trainer, result):
        kept[result.interval[1]] = weights(trainer)

    options = {"folder": tmp_path / "run", "keep_last": 1} if on_disk else {}
    with make_source(data) as source, scripted(source, data, [3, 1, 2, 4, 5, 6], **options) as trainer:
        ended = trainer.fit(max_samples=500, patience=2, **FIT, callbacks=[keep])
        assert ended.stopped == "patience: 3 validations without an improvement of 'score' over 1, at 54 samples"
        assert (ended.nominal_time, ended.best.nominal_time) == (5 * EVERY, 2 * EVERY)
        assert same(weights(trainer), kept[2 * EVERY])
        assert not same(weights(trainer), kept[5 * EVERY])
        assert [trainer.model.training, trainer.nominal_time] == [True, 5 * EVERY]


def test_the_checkpoint_of_the_best_outlives_keep_last_and_only_that_one(data, tmp_path):
    with (
        make_source(data) as source,
        scripted(source, data, [9, 7, 8, 6, 8, 8, 8, 8], folder=tmp_path / "run", keep_last=2) as trainer,
    ):
        trainer.fit(max_samples=8 * EVERY, save_every=EVERY, **FIT)
    assert [time_of(p) // EVERY for p in checkpoints_in(tmp_path / "run" / "checkpoints")] == [4, 7, 8]


def test_a_resumed_run_puts_back_the_weights_that_an_earlier_process_found(data, tmp_path):
    values = [5, 2, 4, 4, 4, 4]

    def run(folder, stop=None, resume=False):
        callbacks = [lambda t, r: "killed" if r.step == stop else None]
        with make_source(data) as source, scripted(source, data, values, folder=folder, keep_last=1) as trainer:
            if resume:
                trainer.restore_from_checkpoint()
            ended = trainer.fit(max_samples=400, patience=3, save_every=20, **FIT, callbacks=callbacks)
            return ended.stopped, ended.nominal_time, weights(trainer)

    whole = run(tmp_path / "whole")
    assert whole[:2] == ("patience: 4 validations without an improvement of 'score' over 2, at 54 samples", 6 * EVERY)
    run(tmp_path / "run", stop=10)
    again = run(tmp_path / "run", resume=True)
    assert again[:2] == whole[:2]
    assert same(again[2], whole[2])
    # Once more: its patience is lost, so it does not take a step.
    finished = run(tmp_path / "run", resume=True)
    assert finished[:2] == whole[:2]
    assert same(finished[2], whole[2])


def test_the_checkpoint_of_the_end_has_the_last_weights_not_the_best(data, tmp_path):
    last = []
    with make_source(data) as source, scripted(source, data, [1, 2, 3], folder=tmp_path / "run") as trainer:
        callbacks = [lambda t, r: last.append(weights(t))]
        trainer.fit(max_samples=3 * EVERY, save_every=1000, **FIT, callbacks=callbacks)
    with make_source(data) as source, scripted(source, data, [1, 2, 3], folder=tmp_path / "run") as trainer:
        trainer.restore_from_checkpoint()
        assert same(weights(trainer), last[-1])


@pytest.mark.parametrize(("values", "best"), [([2, 3, 4, 1], 0), ([4, 3, 2, 9], 3)])
def test_the_best_is_saved_too_where_it_is_the_first_or_the_last(data, tmp_path, values, best):
    kept = {}

    def keep(trainer, result):
        kept[result.interval[1]] = weights(trainer)

    with make_source(data) as source, scripted(source, data, values, folder=tmp_path / "run") as trainer:
        kept[0] = weights(trainer)
        options = {**FIT, "validate_every": 26, "validate_first": True, "callbacks": [keep]}
        ended = trainer.fit(max_samples=3 * EVERY, **options)
        assert ended.best.nominal_time == best * EVERY
        assert same(weights(trainer), kept[best * EVERY])


def test_ctrl_c_puts_the_best_weights_back_before_it_goes_on(data):
    kept = {}

    def interrupt(trainer, result):
        kept[result.step] = weights(trainer)
        if result.step == 8:
            raise KeyboardInterrupt

    with make_source(data) as source, scripted(source, data, [1, 2, 3]) as trainer:
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(max_samples=900, **FIT, callbacks=[interrupt])
        assert same(weights(trainer), kept[3])
        assert not same(weights(trainer), kept[8])


def test_weights_that_are_gone_stay_as_they_are_and_it_is_said(data, tmp_path):
    said = []
    with make_source(data) as source:
        trainer = scripted(source, data, [1, 2, 3, 4], folder=tmp_path / "run", announce=said.append)
        trainer.fit(max_samples=2 * EVERY, validate_every=EVERY, save_every=1000)
        before = weights(trainer)
        assert trainer.fit(max_samples=2 * EVERY, **FIT).best is None
        trainer.close()
        assert same(weights(trainer), before)
    assert said == [said[0]]
    assert said[0].startswith("the weights of the best validation, at 27 samples, cannot be put back: there is no")


def test_a_second_phase_counts_its_own_validations(data):
    with make_source(data) as source, scripted(source, data, [1, 2, 3, 9, 8, 7, 6]) as trainer:
        first = trainer.fit(max_samples=900, patience=1, **FIT)
        second = trainer.fit(max_samples=7 * EVERY, patience=1, **FIT, since=trainer.nominal_time + 1)
        assert (first.best.nominal_time, second.best.nominal_time) == (EVERY, 7 * EVERY)
        assert second.stopped == "max_samples"
