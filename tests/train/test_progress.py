"""What is shown of a run: one line rewritten on a terminal, plain lines elsewhere, curves in TensorBoard."""

import builtins
import io

import pytest

from minibatch.errors import MissingExtraError
from minibatch.train import StepResult
from minibatch.train.progress import ProgressLine, Several, TensorBoard
from minibatch.train.validation import Validation
from tests.train.small import make_source, make_trainer, write


class Terminal(io.StringIO):
    def isatty(self):
        return True


def result(t1=640, step=10):
    made = StepResult(("class",), step, (t1 - 64, t1), 64)
    made.numerators, made.denominators = (32.0,), (64.0,)
    return made


VALIDATION = Validation(pairs={"accuracy": (3.0, 4.0), "none": (0.0, 0.0)}, samples=4, nominal_time=640, step=10)


def test_a_file_gets_lines(monkeypatch):
    now = iter([100.0, 110.0, 111.0, 112.0])
    monkeypatch.setattr("minibatch.train.progress.time.monotonic", lambda: next(now))
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
