"""`fit`: limits, validations and checkpoints where they belong, also after a resume; reasons to end; who is told."""

import json
from functools import partial

import pytest
from torchmetrics.classification import MulticlassF1Score

from minibatch.train import every
from minibatch.train.callbacks import EarlyStopping, KeepBest, Listener
from minibatch.train.checkpoint import checkpoints_in, time_of, verify
from minibatch.train.metrics import Collected
from minibatch.train.monitors import UpdateScales
from minibatch.train.progress import JsonLines
from minibatch.train.schedules import Plateau, Warmup
from minibatch.train.spikes import Spikes
from tests.train.small import fields, make_source, make_trainer, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("loop") / "data")


def saved_times(folder):
    return [time_of(path) for path in checkpoints_in(folder / "checkpoints")]


def test_every_limit_is_counted_from_zero_and_named(data):
    with make_source(data) as source, make_trainer(source) as trainer:
        assert trainer.fit(max_steps=3).stopped == "max_steps"
        assert trainer.step == 3
        ended = trainer.fit(max_steps=3)
        assert (ended.step, ended.stopped, ended.finished) == (3, "max_steps", True)
        assert trainer.fit(max_samples=40, max_steps=100).stopped == "max_samples"
        assert (trainer.nominal_time, trainer.step) == (40, 5)
        ended = trainer.fit(max_sweeps=1, max_samples=1000)
        assert (ended.stopped, ended.nominal_time) == ("max_sweeps", 53)


def test_max_seconds_ends_this_call_after_a_step_and_is_no_end_of_the_run(data, tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("minibatch.train.loop.time.monotonic", lambda: now[0])

    def pass_a_second(trainer, result):
        now[0] += 1.0

    with make_source(data) as source:
        trainer = make_trainer(source, folder=tmp_path / "run")
        ended = trainer.fit(max_samples=900, max_seconds=3, save_every=500, callbacks=[pass_a_second])
        trainer.close()
    assert (ended.stopped, ended.step, ended.finished) == ("max_seconds (3) have passed", 3, False)
    assert saved_times(tmp_path / "run") == [27]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_seconds": 0}, "max_seconds=0: expected a number above 0"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"patience": 3}, "patience= needs validations: pass validate_every="),
        ({"restore_best": True}, "restore_best= needs validations: pass validate_every="),
        ({"validate_every": every.Minutes(1)}, "may only decide when to save"),
        ({"save_every": every.Minutes(1)}, "save_every= needs a folder"),
        ({"validate_every": 9, "watch": "acuracy"}, "watch='acuracy' is neither .* which has class, fit, accuracy"),
        ({"callbacks": [EarlyStopping("acuracy")]}, "EarlyStopping: watch='acuracy' is neither a term nor a metric"),
        ({"callbacks": [KeepBest("best", "acuracy")]}, "KeepBest: watch='acuracy' is neither a term nor a metric"),
        ({"validate_every": 9, "patience": -1}, "patience must be at least 0, got -1"),
        ({"validate_every": 9, "patience": 1, "min_improvement": -0.1}, "min_improvement=-0.1: expected"),
        ({"validate_every": 9, "patience": 1, "mode": "best"}, "mode='best': expected 'min'"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_step(data, options, message):
    with make_source(data) as source, make_trainer(source, validation=data) as trainer:
        with pytest.raises((TypeError, ValueError), match=message):
            trainer.fit(max_samples=90, **options)
        assert trainer.step == 0


def test_schedules_that_react_need_validations_of_what_they_watch(data):
    plateau = partial(Plateau, rate=0.02, patience=1)
    for schedule, options, message in (
        (plateau(watches="acuracy"), {"validation": data}, r"schedules\[0\] watches 'acuracy', which is neither a"),
        (plateau(watches="class"), {}, r"schedules\[0\] watches 'class', which nothing measures: pass validation="),
        (Warmup(9, plateau(watches="accuracy/0")), {"validation": data}, "'accuracy/0', which is neither a term"),
    ):
        with make_source(data) as source, make_trainer(source, schedules=schedule, **options) as trainer:
            with pytest.raises(ValueError, match=message):
                trainer.fit(max_samples=90)
            assert trainer.step == 0
    with make_source(data) as source, make_trainer(source, validation=data) as trainer:
        trainer.optimizers[0].param_groups[0]["schedules"] = {"weight_decay": plateau(watches="loss")}
        message = r"optimizers\[0\], the schedule of 'weight_decay' of a group, watches 'loss'"
        with pytest.raises(ValueError, match=message):
            trainer.fit(max_samples=90, validate_every=9)


def test_a_schedule_that_reacts_to_validations_by_hand_is_told_of_until_there_is_one(data):
    said = []
    options = {"schedules": Plateau(rate=0.02, watches="class"), "validation": data, "announce": said.append}
    with make_source(data) as source, make_trainer(source, **options) as trainer:
        for sweeps in (1, 2):
            trainer.fit(max_sweeps=sweeps)
            trainer.validate()
    assert said == [
        "schedules[0] watches 'class', which is not measured unless somebody calls validate(): pass validate_every="
    ]


def test_a_name_below_that_of_a_collected_metric_is_known_when_it_is_computed(data):
    metric = Collected("f1", partial(MulticlassF1Score, num_classes=3, average=None), target="label", output="logits")
    options = {"validation": data, "metrics": (metric,)}
    with make_source(data) as source, make_trainer(source, **options) as trainer:
        trainer.fit(max_samples=18, validate_every=9, patience=5, watch="f1/1", mode="max")
        assert trainer.step == 2
        with pytest.raises(ValueError, match="watch='f2/1' is neither"):
            trainer.fit(max_samples=27, validate_every=9, watch="f2/1")


def test_validation_and_saving_by_steps_sweeps_samples_and_the_clock(data, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("minibatch.train.every.time.monotonic", lambda: now[0])

    def tick(trainer, result):
        now[0] = 600.0 if result.step == 8 else 0.0

    with make_source(data) as source, make_trainer(source, validation=data, folder=tmp_path / "run") as trainer:
        ended = trainer.fit(
            max_samples=140,
            validate_every=every.Sweeps(),
            validate_first=True,
            save_every=(every.Steps(5), every.Minutes(10), 100),
            callbacks=[tick],
        )
        assert [validation.nominal_time for validation in trainer.history] == [0, 54, 108, 140]
    assert ended.validation.nominal_time == 140
    assert saved_times(tmp_path / "run") == [45, 72, 90, 108, 135, 140]


def test_a_resumed_run_validates_and_saves_at_the_same_places(data, tmp_path):
    options = {"validate_every": 31, "save_every": every.Steps(4), "validate_first": True}
    with make_source(data) as source, make_trainer(source, validation=data, folder=tmp_path / "whole") as trainer:
        trainer.fit(max_samples=200, **options)
        whole = [(v.nominal_time, v.step, dict(v.pairs)) for v in trainer.history]
    with make_source(data) as source, make_trainer(source, validation=data, folder=tmp_path / "run") as trainer:
        trainer.fit(max_samples=200, **options, callbacks=[lambda t, r: "killed" if r.step == 10 else None])
    with make_source(data) as source, make_trainer(source, validation=data, folder=tmp_path / "run") as trainer:
        trainer.restore_from_checkpoint()
        trainer.fit(max_samples=200, **options)
        assert [(v.nominal_time, v.step, dict(v.pairs)) for v in trainer.history] == whole
        ended = trainer.fit(max_samples=200, **options)  # nothing is left to do, and nothing is done twice
        assert (ended.step, ended.validation) == (trainer.step, None)
        assert [(v.nominal_time, v.step, dict(v.pairs)) for v in trainer.history] == whole
    # The end of the interrupted call is one more place.
    assert [t for t in saved_times(tmp_path / "run") if t != 90] == saved_times(tmp_path / "whole")


class Diary(Listener):
    def __init__(self):
        self.lines = []

    def on_begin(self, trainer):
        self.lines.append("begin")

    def on_validation(self, trainer, validation):
        self.lines.append(f"valid {validation.nominal_time}")
        assert trainer.history[-1] is validation
        return "seen enough" if validation.nominal_time > 60 else None

    def on_save(self, trainer, path):
        verify(path)  # it is there, whole
        self.lines.append(f"saved {time_of(path)}")

    def on_end(self, trainer, reason):
        self.lines.append(f"end: {reason}")


def test_a_listener_hears_everything_in_order_and_may_end_it_at_a_validation(data, tmp_path):
    diary = Diary()
    with make_source(data) as source, make_trainer(source, validation=data, folder=tmp_path / "run") as trainer:
        ended = trainer.fit(max_samples=900, validate_every=30, save_every=50, callbacks=[diary])
    assert diary.lines == ["begin", "valid 36", "saved 54", "valid 63", "saved 63", "end: seen enough"]
    assert ended.stopped == "seen enough"


def test_a_listener_hears_of_an_exception_too_and_so_does_a_second_one_whose_first_fails(data):
    class Broken(Listener):
        def on_end(self, trainer, reason):
            raise RuntimeError("broken")

    def fail(trainer, result):
        raise ZeroDivisionError("in a callback")

    diary = Diary()
    with make_source(data) as source, make_trainer(source) as trainer:
        with pytest.raises(RuntimeError, match="broken") as caught:
            trainer.fit(max_samples=900, callbacks=[Broken(), fail, diary])
        assert isinstance(caught.value.__context__, ZeroDivisionError)
    assert diary.lines == ["begin", "end: ZeroDivisionError: in a callback"]


def test_reasons_of_several_callbacks_are_all_told(data):
    with make_source(data) as source, make_trainer(source) as trainer:
        callbacks = [lambda t, r: "one", lambda t, r: None, lambda t, r: "two"]
        assert trainer.fit(max_samples=90, callbacks=callbacks).stopped == "one; two"


def test_reporters_are_told_the_target_every_step_and_checkpoints(data, tmp_path):
    told = []

    class Everything:
        def begin(self, trainer, target):
            told.append(("begin", trainer.step, target))

        def steps(self, results, target):
            told.append(("steps", [result.step for result in results], target))

        def step(self, result, target):
            raise AssertionError("steps() is there")

        def validation(self, validation):
            told.append(("validation", validation.nominal_time))

        def saved(self, path):
            told.append(("saved", time_of(path)))

        def close(self):
            told.append(("close",))

    with make_source(data) as source:
        trainer = make_trainer(source, validation=data, folder=tmp_path / "run", log_every=3)
        trainer.fit(max_steps=8, validate_every=40, save_every=60, progress=Everything())
        trainer.close()
    assert told == [
        ("begin", 0, 72),
        ("steps", [1, 2, 3], 72),
        ("validation", 45),
        ("steps", [4, 5, 6], 72),
        ("saved", 63),
        ("steps", [7, 8], 72),
        ("validation", 72),
        ("saved", 72),
        ("close",),
    ]


def test_the_target_of_the_fit_under_way_is_known_to_callbacks(data):
    seen = []
    with make_source(data) as source, make_trainer(source) as trainer:
        trainer.fit(max_sweeps=2, callbacks=[lambda t, r: seen.append(t.target)])
        assert set(seen) == {106}


@pytest.mark.parametrize("log_every", [1, 4])
def test_a_run_that_goes_back_from_a_spike_goes_on_to_its_end_and_its_files_have_each_step_once(tmp_path, log_every):
    target = fields()["target"]
    target[30] = 1e4
    data = write(tmp_path / "data", target=target)
    folder = tmp_path / "run"
    spikes = Spikes(action="rollback", rollback_steps=2, warmup=4, window=8, factor=8.0)
    called = []
    with (
        make_source(data) as source,
        make_trainer(source, spikes=spikes, folder=folder, validation=data, log_every=log_every) as trainer,
    ):
        ended = trainer.fit(
            max_samples=180,
            validate_every=45,
            save_every=9,
            progress=JsonLines(folder / "metrics.jsonl"),
            callbacks=[UpdateScales(9), lambda trainer, result: called.append(result.step)],
        )
        assert trainer.streams.skips
        times = [validation.nominal_time for validation in trainer.history]
    assert (ended.stopped, ended.nominal_time) == ("max_samples", 180)
    assert times == sorted(set(times))
    assert times[-1] == 180
    assert called != sorted(called)  # it did go back
    ledger = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert [line["step"] for line in ledger] == list(range(1, ended.step + 1))
    scales = [json.loads(line)["step"] for line in (folder / "scales.jsonl").read_text().splitlines()]
    assert scales == [line["step"] for line in ledger if line["total_loss"]]  # the others learnt nothing
    reports = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    reported = [line["step"] for line in reports if line["kind"] == "train"]
    assert reported == sorted(set(reported))
    assert reported[-1] == ended.step
