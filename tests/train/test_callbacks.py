"""Callbacks: what is called, MindSpore's lines by sweep, early stopping, and checkpoints of their own."""

import io
import re

import pytest
import torch

from minibatch.train import StepResult, every
from minibatch.train.callbacks import (
    Checkpoint,
    EarlyStopping,
    Hooks,
    KeepBest,
    Listener,
    LossMonitor,
    TimeMonitor,
    place_in_epoch,
)
from minibatch.train.checkpoint import checkpoints_in, read, time_of
from minibatch.train.validation import Validation
from tests.train.small import make_source, make_trainer, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("callbacks") / "data")


def test_functions_and_listeners_are_called_and_methods_that_do_nothing_are_not():
    class Ends(Listener):
        def on_end(self, trainer, reason):
            pass

    class Both:
        def __call__(self, trainer, result):
            return None

        def on_save(self, trainer, path):
            pass

    def function(trainer, result):
        return None

    ends, both = Ends(), Both()
    hooks = Hooks([ends, function, both])
    assert hooks.on_step == [function, both]
    assert hooks.on_end == [ends.on_end]
    assert hooks.on_save == [both.on_save]
    assert hooks.on_begin == hooks.on_validation == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (LossMonitor, r"got the class LossMonitor, expected an object: LossMonitor\(…\)"),
        ("print", "got 'print', expected a function"),
        (
            type("Mine", (Listener,), {"on_validate": lambda self: None})(),
            "Mine: nothing calls on_validate; did you mean on_validation",
        ),
    ],
)
def test_what_nobody_would_call_is_refused(wrong, message):
    with pytest.raises(TypeError, match=message):
        Hooks([wrong])


@pytest.mark.parametrize("size", [1, 3, 7, 10, 23, 30])
def test_places_in_epochs_count_every_step_once(size):
    rows, target = 10, 60
    seen: dict[int, list[tuple[int, int]]] = {}
    for t in range(0, target, size):
        epoch, step, steps = place_in_epoch((t, min(t + size, target)), rows, size, target)
        seen.setdefault(epoch, []).append((step, steps))
    for places in seen.values():
        assert [step for step, _ in places] == list(range(1, len(places) + 1))
        assert {steps for _, steps in places} == {len(places)}


def finished(loss, step, t0, t1, rate=0.01):
    made = StepResult(("class",), step, (t0, t1), t1 - t0)
    made.numerators, made.denominators, made.learning_rates = (loss * (t1 - t0),), (float(t1 - t0),), (rate,)
    return made


def test_the_loss_monitor_prints_mindspores_lines(data, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("minibatch.train.callbacks.epochs.time.monotonic", lambda: now[0])
    file = io.StringIO()
    with make_source(data) as source:
        trainer = make_trainer(source, minibatch_size=25)
        trainer.target = 106
        monitor = LossMonitor(1, file)
        monitor.on_begin(trainer)
        for step, loss in enumerate((3.0, 1.0, 0.5, 0.5), 1):
            now[0] += 0.002
            trainer.step = step
            monitor(trainer, finished(loss, step, 25 * step - 25, 25 * step))
        now[0] += 0.004
        monitor(trainer, finished(0.25, 5, 100, 106))
        monitor.on_end(trainer, "max_samples")
    assert file.getvalue().splitlines() == [
        "Epoch:[  0/  2], step:[    1/    2], loss:[3.000/3.000], time:2.000 ms, lr:0.01000",
        "Epoch:[  0/  2], step:[    2/    2], loss:[1.000/2.000], time:2.000 ms, lr:0.01000",
        "Epoch time: 4.000 ms, per step time: 2.000 ms, avg loss: 2.000",
        "Epoch:[  1/  2], step:[    1/    3], loss:[0.500/0.500], time:2.000 ms, lr:0.01000",
        "Epoch:[  1/  2], step:[    2/    3], loss:[0.500/0.500], time:2.000 ms, lr:0.01000",
        "Epoch:[  1/  2], step:[    3/    3], loss:[0.250/0.473], time:4.000 ms, lr:0.01000",
        "Epoch time: 8.000 ms, per step time: 2.667 ms, avg loss: 0.473",
    ]


def test_in_a_run_the_means_are_those_of_the_sweeps_and_lines_come_at_log_points(data):
    file, times, losses = io.StringIO(), io.StringIO(), []
    with make_source(data) as source, make_trainer(source, log_every=4, minibatch_size=10) as trainer:
        callbacks = [lambda t, r: losses.append(r["total_loss"]), LossMonitor(file=file), TimeMonitor(times)]
        trainer.fit(max_samples=100, callbacks=callbacks)
    lines = file.getvalue().splitlines()
    assert [re.sub(r"[\d.]+ ms", "x ms", line.split(", loss")[0]) for line in lines if line.startswith("Epoch:")] == [
        "Epoch:[  0/  2], step:[    4/    5]",
        "Epoch:[  1/  2], step:[    3/    5]",
    ]
    means = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("Epoch time")]
    assert means == pytest.approx([sum(losses[:5]) / 5, sum(losses[5:]) / 5], abs=6e-4)
    assert all(
        re.fullmatch(r"epoch time: [\d.]+ ms, per step time: [\d.]+ ms", line) for line in times.getvalue().splitlines()
    )
    assert times.getvalue().count("\n") == 2


def test_a_loss_that_is_not_finite_stops_at_the_next_line(data):
    with make_source(data) as source:
        trainer = make_trainer(source)
        trainer.target = 0
        monitor = LossMonitor(2, io.StringIO())
        monitor.on_begin(trainer)
        assert monitor(trainer, finished(float("nan"), 1, 0, 9)) is None
        assert monitor(trainer, finished(1.0, 2, 9, 18)) == "LossMonitor: the loss of step 1 is nan"
        assert monitor(trainer, finished(1.0, 4, 18, 27)) is None


def test_sweeps_need_a_source():
    with make_trainer(None) as trainer, pytest.raises(ValueError, match="TimeMonitor counts sweeps of a source"):
        trainer.fit(max_steps=1, callbacks=[TimeMonitor()])


def scores(trainer, values):
    """Have the trainer's validations give these accuracies one after the other."""
    waiting = iter(values)

    def validate(**options):
        made = Validation(
            pairs={"accuracy": (next(waiting), 1.0)}, samples=1, nominal_time=trainer.nominal_time, step=trainer.step
        )
        trainer.history.append(made)
        return made

    trainer.validate = validate


def test_early_stopping_ends_as_fit_would(data):
    with make_source(data) as source, make_trainer(source, validation=data) as trainer:
        scores(trainer, [0.5, 0.7, 0.7, 0.6, 0.9])
        stopping = EarlyStopping("accuracy", mode="max", patience=1)
        ended = trainer.fit(max_samples=900, validate_every=9, callbacks=[stopping])
    assert ended.step == 4
    assert ended.stopped == "patience: 2 validations without an improvement of 'accuracy' over 0.7, at 18 samples"


def test_the_best_checkpoints_are_kept_and_can_be_gone_on_from(data, tmp_path):
    said, kept = [], {}
    with make_source(data) as source, make_trainer(source, validation=data, announce=said.append) as trainer:
        scores(trainer, [0.5, 0.4, 0.7, 0.6, 0.9, 0.9])
        keep = KeepBest(tmp_path / "best", "accuracy", mode="max", keep=2)

        def remember(trainer, result):
            kept[result.interval[1]] = {n: v.clone() for n, v in trainer.model.state_dict().items()}

        trainer.fit(max_samples=54, validate_every=9, callbacks=[keep, remember])
    assert [time_of(path) for path in checkpoints_in(tmp_path / "best")] == [27, 45]
    for path in checkpoints_in(tmp_path / "best"):
        saved = read(path).model
        assert all(torch.equal(saved[name], value) for name, value in kept[time_of(path)].items())
    assert [line.partition(",")[0] for line in said] == [f"best accuracy so far: {v}" for v in (0.5, 0.7, 0.9)]


def test_checkpoints_of_a_callback_are_kept_up_to_a_number(data, tmp_path):
    with make_source(data) as source, make_trainer(source) as trainer:
        trainer.fit(max_samples=90, callbacks=[Checkpoint(tmp_path / "own", every.Steps(2), keep=3)])
        assert [time_of(path) for path in checkpoints_in(tmp_path / "own")] == [54, 72, 90]
        digest = [value.clone() for value in trainer.model.state_dict().values()]
    with make_source(data) as source, make_trainer(source) as trainer:
        trainer.restore_from_checkpoint(checkpoints_in(tmp_path / "own")[0])
        trainer.fit(max_samples=90)
        assert all(torch.equal(a, b) for a, b in zip(digest, trainer.model.state_dict().values(), strict=True))
