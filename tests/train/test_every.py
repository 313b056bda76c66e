"""How often: samples, steps and sweeps by position alone, minutes by the clock and for saving only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibatch.train import every


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 120))
def test_samples_are_due_once_in_each_step_that_passes_a_multiple(sizes, count):
    ask, t = every.due(every.Samples(count), "validate_every", None), 0
    for step, size in enumerate(sizes, 1):
        passed = any(time % count == 0 for time in range(t + 1, t + size + 1))
        assert ask(step, (t, t + size)) == passed == every.crosses((t, t + size), count)
        t += size


def test_an_integer_counts_samples_and_sweeps_count_rows():
    steps = [(step, (4 * step - 4, 4 * step)) for step in range(1, 12)]
    assert [s for s, i in steps if every.due(10, "save_every", None)(s, i)] == [3, 5, 8, 10]
    assert [s for s, i in steps if every.due(every.Sweeps(), "save_every", 10)(s, i)] == [3, 5, 8, 10]
    assert [s for s, i in steps if every.due(every.Sweeps(2), "save_every", 10)(s, i)] == [5, 10]
    assert [s for s, i in steps if every.due(every.Steps(4), "save_every", 10)(s, i)] == [4, 8]
    assert not any(every.due(None, "save_every", 10)(s, i) for s, i in steps)


def test_minutes_are_counted_from_the_last_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("minibatch.train.every.time.monotonic", lambda: clock[0])
    ask, found = every.due(every.Minutes(1.5), "save_every", None), []
    for now in (10.0, 89.9, 90.0, 100.0, 185.0, 270.0, 275.0):
        clock[0] = now
        found.append(ask(1, (0, 1)))
    assert found == [False, False, True, False, True, False, True]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "validate_every must be at least 1, got 0"),
        (1.5, "validate_every must be an integer, got 1.5 of type float"),
        (every.Minutes(5), r"validate_every=Minutes\(count=5\): what the clock decides .* expected samples"),
        (every.Sweeps(1), r"validate_every=Sweeps\(count=1\) counts sweeps of a source, and this Trainer has none"),
    ],
)
def test_what_cannot_be_is_refused_by_the_arguments_name(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        every.due(given, "validate_every", None, minutes=False)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "10"])
def test_minutes_are_a_number_above_zero(wrong):
    with pytest.raises(ValueError, match=r"Minutes\(.*expected a number of minutes above 0"):
        every.Minutes(wrong)
