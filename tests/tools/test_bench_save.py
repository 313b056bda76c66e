"""The stall of a checkpoint: what counts as the step with the save, and what as the others."""

import pytest

from minibatch.tools import bench_save
from minibatch.tools.bench_save import KINDS, measure_saves, save_table

SMALL = (16, 64, 16)


def test_each_kind_of_save_is_measured_and_the_state_is_that_of_adam():
    found = measure_saves(saves=2, window=3, step_ms=0.5, sizes=SMALL)
    assert tuple(stall.kind for stall in found.stalls) == KINDS
    assert found.parameters == 16 * 64 + 64 + 64 * 16 + 16
    assert 12 * found.parameters < found.state_bytes < 12 * found.parameters + 20_000  # weights and two of Adam
    none, without, waiting = found.stalls
    assert none.call.most == 0
    assert 0 < without.call.median <= without.first.most + found.step_ms
    assert waiting.first.median > 0  # it is synced
    assert found.write_ms.least > 0


def test_the_save_belongs_to_the_first_step(monkeypatch):
    saved = []

    class Slow:
        def save_checkpoint(self, *, wait):
            saved.append(wait)
            now[0] += 0.1

        def train_minibatch(self):
            now[0] += 0.01

    now = [0.0]
    monkeypatch.setattr(bench_save.time, "perf_counter", lambda: now[0])
    assert bench_save._window(Slow(), "wait=True", 3)[1] == pytest.approx([110, 10, 10])
    assert bench_save._window(Slow(), "no save", 2) == (0.0, pytest.approx([10, 10]))
    call, _ = bench_save._window(Slow(), "wait=False", 1)
    assert call == pytest.approx(100)
    assert saved == [True, False]


def test_the_table_has_the_goal_where_training_goes_on():
    table = save_table(saves=1, window=2, step_ms=0.5, sizes=SMALL)
    assert [row[-1] for row in table.rows] == ["", "< 1 step", ""]
    assert "0.0 million parameters" in table.notes[0]
