"""What is shown of a run: one line rewritten on a terminal, plain lines elsewhere, curves on boards, JSON lines."""

import builtins
import importlib.machinery
import io
import json
import math
import re
import sys
import types
from dataclasses import replace

import pytest

from minibatch.errors import MissingExtraError
from minibatch.tools import run_files
from minibatch.train import StepResult, Term, every, metrics, on, read_ledger
from minibatch.train.monitors import UpdateScales
from minibatch.train.progress import ConvnetLines, JsonLines, ProgressLine, Several, TensorBoard, WandB
from minibatch.train.progress.json_lines import means
from minibatch.train.validation import Validation
from tests.train.small import TERMS, make_source, make_trainer, write


class Terminal(io.StringIO):
    def isatty(self):
        return True


def result(t1=640, step=10):
    made = StepResult(("class",), step, (t1 - 64, t1), 64)
    made.numerators, made.denominators, made.measures = (32.0,), (64.0,), (64.0,)
    return made


VALIDATION = Validation(pairs={"accuracy": (3.0, 4.0), "none": (0.0, 0.0)}, samples=4, nominal_time=640, step=10)


def test_a_file_gets_lines(monkeypatch):
    now = iter([100.0, 110.0, 111.0, 112.0])
    monkeypatch.setattr("minibatch.train.progress.line.time.monotonic", lambda: next(now))
    file = io.StringIO()
    line = ProgressLine(file)
    line.step(result(640), 64_000)
    line.step(result(1280), 64_000)
    line.step(result(1344), 64_000)  # too soon after the one before
    line.validation(VALIDATION)
    line.step(result(64_000), 64_000)  # the last one is always shown
    line.close()
    assert file.getvalue().splitlines() == [
        "  1 %  640/64,000 samples  step 10  class 0.5",
        "  2 %  1,280/64,000 samples  step 10  class 0.5  64/s  16:20 left",
        "at 640 samples, on 4 held out:  accuracy 0.75  none absent",
        "100 %  64,000/64,000 samples  step 10  class 0.5  5,280/s",
    ]


def test_a_terminal_gets_one_line_that_fits(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    file = Terminal()
    line = ProgressLine(file, seconds=0.0)
    line.step(result(64_000), 64_000)
    line.validation(VALIDATION)
    line.step(result(64_000), 64_000)
    line.close()
    shown = file.getvalue()
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
    assert all(len(part) <= 39 for part in shown.rstrip("\n").split("\r"))


def test_without_a_target_there_is_no_share():
    file = io.StringIO()
    line = ProgressLine(file, seconds=0.0)
    line.step(result(640), 0)
    assert file.getvalue() == "  640 samples  step 10  class 0.5\n"


@pytest.mark.parametrize("denominator", ["weights", "count", "nominal", None, 7.0])
def test_training_is_reported_in_the_unit_of_validations_whatever_the_objective_divides_by(
    tmp_path, wandb_runs, denominator
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data, out = write(tmp_path / "data"), tmp_path / "run"
    terms = tuple(replace(term, denominator=denominator) for term in TERMS)
    line, convnet = io.StringIO(), io.StringIO()
    reporters = (
        *(ProgressLine(line), ConvnetLines({"both": ("class", "fit")}, file=convnet)),
        *(JsonLines(out / "metrics.jsonl"), TensorBoard(tmp_path / "board"), WandB()),
    )
    with (
        make_source(data) as source,
        make_trainer(
            source, terms=terms, metrics=(), validation=data, folder=out, dropout=0.0, lr=1e-30, schedules=None,
            log_every=100,
        ) as trainer,
    ):  # fmt: skip
        # One sweep without learning, with a short minibatch at its end: both measure the same.
        trainer.fit(max_sweeps=1, validate_every=every.Sweeps(), progress=Several(*reporters))
        expected = dict(trainer.history[-1])
    train, valid = (json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines())
    read = run_files.read_run(out)
    for name, value in expected.items():
        assert train[name] == pytest.approx(value, rel=1e-9)
        assert valid[name] == value
        lines = read_ledger(out)
        weights = [line.terms[name][0] / line.mean(name) for line in lines if line.mean(name)]
        assert math.fsum(line.terms[name][0] for line in lines) / math.fsum(weights) == pytest.approx(value, rel=1e-9)
        assert [line.mean(name) for line in lines if line.mean(name) is not None] == list(read.losses[name].mean)
        events = EventAccumulator(str(tmp_path / "board"))
        events.Reload()
        assert events.Scalars(f"train/{name}")[0].value == pytest.approx(value, rel=1e-6)
        assert wandb_runs[0].logged[0][f"train/{name}"] == pytest.approx(value, rel=1e-9)
        assert f"{name} {value:.4g}" in line.getvalue().splitlines()[0]
    assert f"both:  {expected['class']:.6f}, {expected['fit']:.6f} (" in convnet.getvalue().splitlines()[0]


def test_a_line_is_the_mean_of_all_steps_since_the_line_before(monkeypatch):
    now = iter([100.0, 101.0, 110.0])
    monkeypatch.setattr("minibatch.train.progress.line.time.monotonic", lambda: next(now))
    file = io.StringIO()
    line = ProgressLine(file)
    for step, loss in enumerate((32.0, 64.0, 0.0), 1):
        made = result(64 * step, step)
        made.numerators = (loss,)
        line.steps([made], 64_000)  # the second comes too soon to be shown by itself
    assert [re.search(r"class (\S+)", text)[1] for text in file.getvalue().splitlines()] == ["0.5", "0.5"]


def test_boards_draw_the_mean_of_the_steps_between_log_points(tmp_path, wandb_runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data, seen = write(tmp_path / "data"), []
    with make_source(data) as source, make_trainer(source, log_every=3) as trainer:
        trainer.fit(
            max_samples=54,
            progress=Several(TensorBoard(tmp_path / "board"), WandB()),
            callbacks=[lambda trainer, result: seen.append(result)],
        )
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    for place, point in enumerate(events.Scalars("train/class")):
        mean = means(seen[3 * place : 3 * place + 3])["class"]
        assert point.value == pytest.approx(mean, rel=1e-6)
        assert wandb_runs[0].logged[place]["train/class"] == mean
        assert mean != seen[3 * place + 2].mean("class")
    norms = [sum(result.grad_norm for result in seen[i : i + 3]) / 3 for i in (0, 3)]
    assert [point.value for point in events.Scalars("train/grad_norm")] == pytest.approx(norms, rel=1e-6)


def test_tensorboard_has_the_curves_over_nominal_time(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path)
    both = Several(board, ProgressLine(io.StringIO()))
    made = result()
    made.learning_rates = (0.25,)
    both.step(made, 0)
    both.validation(VALIDATION)
    both.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"train/total_loss", "train/class", "train/grad_norm", "train/learning_rate_0", "valid/accuracy"} == set(
        tags
    )
    (point,) = events.Scalars("train/class")
    assert (point.step, point.value) == (640, 0.5)


def test_without_tensorboard_the_pip_command_is_given(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name.startswith(("torch.utils.tensorboard", "tensorboard")):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r'pip install "minibatch-timeline\[train\]"'):
        TensorBoard(tmp_path)


def test_fit_reports_at_log_points_and_at_the_end(tmp_path):
    data = write(tmp_path / "data")
    steps, validations, closed = [], [], []

    class Recorder:
        def step(self, result, target):
            steps.append((result.step, target))

        def validation(self, validation):
            validations.append(validation.nominal_time)

        def close(self):
            closed.append(True)

    with make_source(data) as source:
        make_trainer(source, validation=data, log_every=3).fit(max_samples=72, validate_every=30, progress=Recorder())
    assert steps == [(3, 72), (6, 72), (8, 72)]
    assert validations == [36, 63, 72]
    assert closed == [True]


def test_a_resumed_run_takes_back_what_tensorboard_had_beyond_its_checkpoint(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = write(tmp_path / "data")
    for resume in (False, True):
        with make_source(data) as source, make_trainer(source, folder=tmp_path / "run", log_every=1) as trainer:
            if resume:
                trainer.restore_from_checkpoint()
            trainer.fit(max_samples=45, save_every=27, progress=TensorBoard(tmp_path / "board"))
            if not resume:  # as if it had been killed after step 5
                (tmp_path / "run" / "checkpoints" / "t-000000000045" / "manifest.json").unlink()
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert [point.step for point in events.Scalars("train/total_loss")] == [9, 18, 27, 36, 45]


class FakeRun:
    def __init__(self, options):
        self.options, self.id = options, options.get("id", "new1")
        self.logged, self.metrics, self.finished = [], [], False

    def define_metric(self, name, step_metric=None):
        self.metrics.append((name, step_metric))

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb_runs(monkeypatch):
    """A module wandb that remembers what it was told."""
    runs = []
    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.init = lambda **options: runs.append(FakeRun(options)) or runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return runs


def test_wandb_has_the_curves_over_nominal_time_and_a_resume_goes_on_in_the_same_run(tmp_path, wandb_runs):
    data, folder = write(tmp_path / "data"), tmp_path / "run"
    for resume in (False, True):
        with (
            make_source(data) as source,
            make_trainer(source, folder=folder, validation=data, log_every=2, config={"lr": 0.02}) as trainer,
        ):
            if resume:
                trainer.restore_from_checkpoint()
            board = WandB(project="digits", mode="offline")
            trainer.fit(max_samples=72 if resume else 36, validate_every=36, save_every=36, progress=board)
    first, second = wandb_runs
    assert first.options == {
        "config": {"lr": 0.02},
        "project": "digits",
        "mode": "offline",
        "dir": str(folder),
    }
    assert ("*", "nominal_time") in first.metrics
    steps = [values["nominal_time"] for values in first.logged if "train/total_loss" in values]
    assert steps == [18, 36]
    assert {"train/class", "train/fit", "train/grad_norm", "train/learning_rate_0", "step"} <= set(first.logged[0])
    (valid,) = [values for values in first.logged if "valid/accuracy" in values]
    assert valid["nominal_time"] == 36
    assert (second.options["id"], second.options["resume"]) == ("new1", "allow")
    assert [values["nominal_time"] for values in second.logged if "train/class" in values] == [54, 72]
    assert first.finished
    assert second.finished


def test_without_wandb_it_is_said_at_once_with_the_pip_command(monkeypatch):
    monkeypatch.setattr("minibatch.train.progress.boards.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="need 'wandb', which is not installed: pip install wandb"):
        WandB(project="digits")


def test_json_lines_have_exact_means_since_the_line_before_and_a_resume_cuts_them(tmp_path):
    data, path = write(tmp_path / "data"), tmp_path / "run" / "metrics.jsonl"
    seen = []

    def run(until, resume):
        with (
            make_source(data) as source,
            make_trainer(source, folder=tmp_path / "run", validation=data, log_every=3) as trainer,
        ):
            if resume:
                trainer.restore_from_checkpoint()
            trainer.fit(
                max_samples=until,
                validate_every=54,
                save_every=27,
                progress=Several(JsonLines(path)),
                callbacks=[lambda trainer, result: seen.append(result)],
            )

    run(108, False)
    for checkpoint in sorted((tmp_path / "run" / "checkpoints").iterdir())[1:]:
        (checkpoint / "manifest.json").unlink()
    run(108, True)  # from 27 on once more
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["kind"], line["t"]) for line in lines] == [
        ("train", 27),
        ("train", 54),
        ("valid", 54),
        ("train", 81),
        ("train", 108),
        ("valid", 108),
    ]
    first = seen[:3]
    assert lines[0]["fit"] == pytest.approx(
        sum(result.numerators[1] for result in first) / sum(result.denominators[1] for result in first), rel=1e-12
    )
    assert lines[0]["total_loss"] == pytest.approx(sum(result["total_loss"] for result in first) / 3, rel=1e-12)
    assert (lines[0]["steps"], lines[0]["samples"], lines[0]["lr"]) == (3, 27, list(first[-1].learning_rates))
    assert lines[0]["seconds"] > 0
    assert set(lines[2]) == {"step", "t", "kind", "samples", "class", "fit", "accuracy"}


def test_json_lines_are_json_also_where_numbers_are_not_finite(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    made = result()
    made.numerators = (float("inf"),)
    lines.step(made, 0)
    lines.validation(VALIDATION)
    lines.close()
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (first["class"], second["none"]) == ("inf", None)


def watched(name, loss):
    """A term that is only watched."""
    return Term(name, on(loss, "label", output="logits"), coefficient=0.0)


def top2(logits, labels):
    return 1.0 - metrics.top_k(logits, labels, k=2)


def test_convnet_lines_are_those_of_cuda_convnet(tmp_path):
    data, file = write(tmp_path / "data"), io.StringIO()
    scales = UpdateScales(27)
    lines = ConvnetLines({"logprob": ("class", "top1", "top2")}, scales=scales, file=file)
    terms = (*TERMS, watched("top1", metrics.error), watched("top2", top2))
    with (
        make_source(data) as source,
        make_trainer(source, terms=terms, metrics=(), folder=tmp_path / "run", validation=data, log_every=3) as trainer,
    ):
        trainer.fit(max_samples=81, validate_every=54, save_every=54, progress=lines, callbacks=[scales])
        names = [name for name, _ in trainer.model.named_parameters()]
    shown = re.sub(r"\([\d.]+ sec\)", "(s sec)", file.getvalue()).splitlines()
    values = r"logprob:  \d\.\d{6}, \d\.\d{6}, \d\.\d{6}"
    assert re.fullmatch(rf"1\.0 \(0\.00%\)\.\.\. {values} \(s sec\)", shown[0])
    assert re.fullmatch(rf"1\.1 \(33\.33%\)\.\.\. {values} \(s sec\)", shown[1])
    assert shown[2:4] == ["", "======================Test output======================"]
    assert re.fullmatch(values, shown[4])
    assert shown[5] == "-" * 55
    layers = shown[6 : 6 + len(names)]
    number = r"\d\.\d{6}e[+-]\d\d"
    assert re.fullmatch(rf"Layer 'body.layers.1' weights\[0\]: {number} \[{number}\] \[{number}\]", layers[0])
    assert re.fullmatch(rf"Layer 'body.layers.1' biases: {number} \[{number}\]", layers[1])
    after = shown[6 + len(names) :]
    assert after[0] == "-" * 55
    assert after[1].startswith("Saved checkpoint to ")
    assert after[2] == "=" * 55 + " (s sec)"
    assert re.fullmatch(rf"2\.1 \(66\.67%\)\.\.\. {values} \(s sec\)", after[3])
    assert shown[-1] == "=" * 55 + " (s sec)"


def test_convnet_lines_say_how_long_steps_and_tests_took(monkeypatch, tmp_path):
    clock = [100.0]
    monkeypatch.setattr("minibatch.train.progress.convnet.time.monotonic", lambda: clock[0])
    file = io.StringIO()
    lines = ConvnetLines(file=file)
    tells = (
        (10, lambda: lines.step(result(640), 0)), (3, lambda: lines.validation(VALIDATION)),
        (1, lambda: lines.saved(tmp_path)), (6, lambda: lines.step(result(1280), 0)), (0, lines.close),
    )  # fmt: skip
    for seconds, tell in tells:
        clock[0] += seconds
        tell()
    assert re.findall(r"\(([\d.]+) sec\)", file.getvalue()) == ["10.000", "4.000", "6.000"]


def test_convnet_lines_of_a_resumed_run_have_the_numbers_of_a_whole_one(tmp_path):
    """53 rows in lines of three steps of 9: also of a line that is cut by a resume, and of a short last one."""
    data = write(tmp_path / "data")

    def numbers(folder, *stops):
        found = []
        for stop in stops:
            file = io.StringIO()
            with make_source(data) as source, make_trainer(source, folder=folder, log_every=3) as trainer:
                trainer.minibatch_size = 9
                if found:
                    trainer.restore_from_checkpoint()
                trainer.fit(max_samples=stop, save_every=9, progress=ConvnetLines(file=file))
            found.append(re.findall(r"^(\d+\.\d+) \(", file.getvalue(), re.MULTILINE))
        return found

    assert numbers(tmp_path / "whole", 117) == [["1.0", "1.1", "2.1", "2.2", "3.1"]]
    assert numbers(tmp_path / "cut", 36, 117) == [["1.0", "1.1"], ["1.1", "2.1", "2.2", "3.1"]]


def test_convnet_lines_print_every_term_if_nobody_says_which(tmp_path):
    file = io.StringIO()
    lines = ConvnetLines(file=file)
    lines.step(result(640), 0)
    lines.validation(VALIDATION)
    lines.close()
    shown = file.getvalue().splitlines()
    assert shown[0].startswith("1.9... class:  0.500000 (")
    assert shown[3] == "accuracy:  0.750000, absent"
