"""The ledger: one exact line per step, written late, read back, cut back."""

import json
import math

import pytest

from minibatch.errors import CheckpointError
from minibatch.train import StepResult, read_ledger
from minibatch.train.ledger import Lines, line_of
from tests.train.small import make_source, make_trainer, write


def result(step=3, numerator=97.125, denominator=64.0, **attributes):
    made = StepResult(("class", 'odd "100 %s"'), step, (128, 192), 64)
    made.numerators, made.denominators, made.coefficients = (numerator, 0.0), (denominator, 0.0), (0.5, 1.0)
    made.measures = attributes.get("measures", made.denominators)
    made.learning_rates = (0.001, 1e-9)
    made.set_grad_norm(attributes.get("norm", 1 / 3))
    made.set_finite(attributes.get("finite", True))
    return made


def test_a_line_is_read_as_it_was_written(tmp_path):
    ledger = Lines(tmp_path / "ledger.jsonl")
    ledger.add(line_of(result()))
    ledger.flush()
    (line,) = read_ledger(tmp_path)
    assert (line.step, line.t0, line.t1, line.samples, line.lr, line.finite) == (3, 128, 192, 64, (0.001, 1e-9), True)
    assert line.terms == {"class": (97.125, 64.0), 'odd "100 %s"': (0.0, 0.0)}
    assert line.total_loss == 0.5 * 97.125 / 64
    assert line.grad_norm == 1 / 3
    assert line.value("class") == 97.125 / 64
    assert line.value('odd "100 %s"') is None


def test_what_a_mean_divides_by_is_written_only_where_the_objective_divides_by_something_else(tmp_path):
    ledger = Lines(tmp_path / "ledger.jsonl")
    ledger.add(line_of(result()))
    ledger.add(line_of(result(step=4, denominator=1.0, measures=(64.0, 0.0))))
    ledger.flush()
    first, second = (json.loads(text) for text in (tmp_path / "ledger.jsonl").read_text().splitlines())
    assert "measures" not in first
    assert second["measures"] == {"class": 64.0}
    for line in read_ledger(tmp_path):
        assert line.mean("class") == 97.125 / 64
        assert line.mean('odd "100 %s"') is None
    assert [line.value("class") for line in read_ledger(tmp_path)] == [97.125 / 64, 97.125]


def test_lines_are_strict_json_even_without_numbers(tmp_path):
    bad = result(numerator=math.nan, norm=-math.inf, finite=False)

    def no_constant(name):
        raise AssertionError(name)

    document = json.loads(line_of(bad), parse_constant=no_constant)
    assert document["total_loss"] == "nan"
    (tmp_path / "ledger.jsonl").write_text(line_of(bad) + "\n")
    (line,) = read_ledger(tmp_path)
    assert math.isnan(line.terms["class"][0])
    assert line.grad_norm == -math.inf
    assert not line.finite


def filled(path, steps=10):
    ledger = Lines(path)
    for step in range(1, steps + 1):
        ledger.add(line_of(result(step)))
    ledger.flush()
    return ledger, path.read_bytes()


def test_a_half_written_last_line_is_left_out_when_read_and_goes_when_cut(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger, whole = filled(path)
    length = len(whole) - len(whole.splitlines(keepends=True)[-1])
    for size in range(length, len(whole)):
        path.write_bytes(whole[:size])
        assert [line.step for line in read_ledger(path)] == list(range(1, 10))
        assert ledger.last_step() == 9
        assert ledger.cut(10) == 0
        assert path.read_bytes() == whole[:length]


@pytest.mark.parametrize("step", [0, 1, 5, 9, 10, 11])
def test_cutting_keeps_the_steps_up_to_one(tmp_path, step):
    path = tmp_path / "ledger.jsonl"
    ledger, whole = filled(path)
    assert ledger.cut(step) == max(0, 10 - step)
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:step])
    ledger.add(line_of(result(step + 1)))
    ledger.flush()
    assert ledger.last_step() == step + 1 if step < 10 else True


def test_nothing_is_cut_from_nothing(tmp_path):
    ledger = Lines(tmp_path / "none.jsonl")
    assert ledger.cut(3) == 0
    assert ledger.last_step() == 0
    with pytest.raises(FileNotFoundError):
        read_ledger(tmp_path / "none.jsonl")


def test_damage_in_the_middle_is_an_error_with_its_line(tmp_path):
    path = tmp_path / "ledger.jsonl"
    _, whole = filled(path)
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"\0" * 40 + b"\n", *lines[5:]]))
    with pytest.raises(CheckpointError, match="line 5 is damaged"):
        read_ledger(path)


def test_lines_wait_for_the_log_point_and_for_close(tmp_path):
    data = write(tmp_path / "data")
    with make_source(data) as source:
        trainer = make_trainer(source, folder=tmp_path / "run", log_every=4)
        path = tmp_path / "run" / "ledger.jsonl"
        seen = []
        for _ in range(10):
            trainer.train_minibatch()
            seen.append(len(read_ledger(path)) if path.exists() else 0)
        assert seen == [0, 0, 0, 4, 4, 4, 4, 8, 8, 8]
        trainer.save_checkpoint()
        assert len(read_ledger(path)) == 10
        results = [trainer.train_minibatch()]
        del trainer  # nobody has called close()
        assert len(read_ledger(path)) == 11
    last = read_ledger(path)[-1]
    assert last.total_loss == results[0]["total_loss"]
    assert last.terms["fit"] == (results[0].numerators[1], results[0].denominators[1])


def test_the_ledger_may_be_left_out(tmp_path):
    data = write(tmp_path / "data")
    with make_source(data) as source, make_trainer(source, folder=tmp_path / "run", ledger=False) as trainer:
        trainer.fit(max_samples=30, save_every=20)
    assert not (tmp_path / "run" / "ledger.jsonl").exists()
