"""Single steps of a ledger: found by bisection, in few bytes, whatever is damaged; and what only some lines have."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch.errors import CheckpointError
from minibatch.train import StepResult, read_ledger
from minibatch.train.ledger import Ledger, Lines, last_line, line_of

SAMPLES = 4


def line(step):
    return (line_of(StepResult(("class",), step, (SAMPLES * (step - 1), SAMPLES * step), SAMPLES)) + "\n").encode()


def plainly(content, key, most):
    """The twin of `last_line`: every line from the first to the last."""
    at, found = 0, (0, 0, None)
    for each in content.splitlines(keepends=True):
        try:
            document = json.loads(each) if each.endswith(b"\n") else None
        except ValueError:
            document = None
        if document is not None and document[key] <= most:
            found = (at, at + len(each), document)
        at += len(each)
    return found


@given(st.data())
def test_bisection_finds_what_reading_every_line_finds(data):
    steps = sorted(data.draw(st.sets(st.integers(1, 60), max_size=25)))
    pieces = [line(step) for step in steps]
    for place in data.draw(st.sets(st.integers(0, max(0, len(pieces) - 1)), max_size=4)) if pieces else ():
        pieces[place] = data.draw(st.sampled_from([b"\0" * 30 + b"\n", b"\n", b'{"step": 3\n', b"[]\n"]))
    content = b"".join(pieces)
    content = content[: len(content) - data.draw(st.integers(0, 20))]
    key, most = data.draw(st.sampled_from([("step", 0), ("t0", 3)])), data.draw(st.integers(-1, 250))
    # Damaged lines are passed over by both; the twin must only not be asked for their keys.
    twin = content.replace(b"[]\n", b"!!\n")
    assert last_line(io.BytesIO(content), key[0], most) == plainly(twin, key[0], most)


class Counted(io.BytesIO):
    taken = 0

    def readline(self, *arguments):
        found = super().readline(*arguments)
        self.taken += len(found)
        return found


def test_a_step_among_many_is_found_in_few_bytes():
    content = b"".join(line(step) for step in range(1, 20_001))
    for step in (1, 2, 777, 19_999, 20_000, 20_001):
        file = Counted(content)
        _, _, found = last_line(file, "step", step)
        assert found["step"] == min(step, 20_000)
        assert file.taken < 12_000 < len(content) / 100


@pytest.fixture
def ledger(tmp_path):
    lines = Lines(tmp_path / "ledger.jsonl")
    for step in range(1, 31):
        lines.add(line(step).decode()[:-1])
    lines.flush()
    return Ledger(tmp_path)


def test_lines_are_found_by_step_and_by_time(ledger):
    assert [ledger.line_at(step).t0 for step in (1, 17, 30)] == [0, 64, 116]
    assert [ledger.line_at_time(time).step for time in (0, 3, 4, 119)] == [1, 1, 2, 30]
    assert ledger.line_at_time(120) is None
    assert ledger.last().step == 30
    assert [each.step for each in ledger.between(28, 40)] == [28, 29, 30]
    assert [each.step for each in ledger.between(1, 3)] == [1, 2]


def test_a_step_that_is_not_there_is_an_error_that_says_which_are(ledger):
    with pytest.raises(ValueError, match=r"has no step 31: it has the steps 1 to 30"):
        ledger.line_at(31)
    ledger.path.write_bytes(b"")
    with pytest.raises(ValueError, match="no step at all yet"):
        ledger.line_at(1)
    assert ledger.last() is None


def test_a_run_without_a_ledger_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="ledger=False"):
        Ledger(tmp_path)


def test_a_ledger_that_grows_is_read_as_it_is_then(ledger):
    with open(ledger.path, "ab") as file:
        file.write(line(31)[:20])
        file.flush()
        assert ledger.last().step == 30
        assert len(list(ledger.documents())) == 30
        file.write(line(31)[20:])
    assert ledger.line_at(31).step == 31


def test_a_damaged_line_in_the_middle_is_an_error_where_it_is_read_over(ledger):
    whole = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join([*whole[:9], b"\0" * 50 + b"\n", *whole[10:]]))
    assert ledger.line_at(15).step == 15
    assert len(list(ledger.documents(12))) == 19
    with pytest.raises(CheckpointError, match="damaged line"):
        list(ledger.documents(5))


class Full(StepResult):
    """A result with everything that a line may have."""


def test_what_only_some_steps_have_is_read_as_it_was_written(tmp_path):
    full = Full(("class",), 3, (8, 12), 4)
    full.clipped = True
    full.regularizers = {"weight_l2": 0.125}
    full.set_spike(True)
    full.streams = (("a", 6, 9, 3), ("b", 2, 3, 1))
    full.events = {"ratio": float("inf")}
    full.digest = "4be0"
    plain = StepResult(("class",), 4, (12, 16), 4)
    path = tmp_path / "ledger.jsonl"
    path.write_text(f"{line_of(full)}\n{line_of(plain)}\n")
    one, two = read_ledger(path)
    assert (one.clipped, one.regularizers, one.digest) == (True, {"weight_l2": 0.125}, "4be0")
    assert one.streams == {"a": (6, 9, 3), "b": (2, 3, 1)}
    assert one.events == {"skipped": "spike", "ratio": "inf"}
    assert (two.clipped, two.regularizers, two.streams, two.events, two.digest) == (None, {}, {}, {}, None)
    assert json.loads(line_of(full), parse_constant=pytest.fail)["finite"] is True
    assert line_of(plain).endswith('"finite": true}')
