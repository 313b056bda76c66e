"""Ledger, self-check and first step: each is measured in its own unit."""

from minibatch.tools import bench_costs
from minibatch.tools.bench_costs import costs_table, first_step, ledger_line_us, write_data


def test_a_line_of_the_ledger_costs_microseconds():
    spread = ledger_line_us(lines=100, repeats=2)
    assert 0 < spread.least <= spread.median <= spread.most < 10_000


def test_a_fresh_process_tells_its_parts(tmp_path):
    write_data(tmp_path / "data")
    found = first_step("engine", str(tmp_path))
    parts = [found[name] for name in ("torch", "engine", "construction", "step")]
    assert min(parts) > 0
    assert sum(parts) < found["seconds"]
    assert first_step("by hand", str(tmp_path))["engine"] < 0.01  # it imports no engine


def test_the_table_has_shares_and_goals(monkeypatch):
    parts = {"torch": 1.0, "engine": 0.5, "construction": 0.1, "step": 0.1}
    starts = [{"engine": {**parts, "seconds": 2.0}, "by hand": {**parts, "seconds": 1.5}}]
    monkeypatch.setattr(bench_costs, "first_steps", lambda pairs: starts)
    table = costs_table(repeats=1, lines=50)
    assert [row[-1] for row in table.rows] == ["< 1%", "< 1%", "", "", "", ""]
    assert table.rows[4][1].startswith("2.00")
    assert table.rows[5][1].startswith("0.50")
    assert table.rows[0][2].endswith("%")
