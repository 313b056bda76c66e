"""Waits for the device are seen where there are any, and there are none between log points."""

import pytest
import torch

from minibatch.tools.bench_waits import CONTROL, reads_counted, waits, waits_table


@pytest.mark.parametrize("case", ["ledger", "weights and mask", "clipping", "weight_l2"])
def test_no_step_between_log_points_waits_for_the_device(case):
    found = waits(case, steps=60)
    assert found.between == 0, found.sites
    assert found.operators == 0
    assert found.log_points == 1
    assert found.at_log_points >= 1  # where values are fetched, they are


def test_weights_are_looked_at_as_columns_on_the_host():
    assert waits("weights and mask", steps=3).columns > 0
    assert waits("ledger", steps=3).columns == 0


def test_a_loss_that_reads_a_value_is_found_and_named():
    found = waits(CONTROL, steps=10)
    assert found.between == 10
    assert found.operators == 10
    assert set(found.sites) == {"bench_waits.py:waits"}


def test_every_way_to_read_a_value_is_counted_and_afterwards_none():
    original = torch.Tensor.item
    with reads_counted() as seen:
        one = torch.ones(1)
        one.item(), one.tolist(), float(one), int(one), bool(one), one.numpy(), one.nonzero(), one.cpu()
        assert len(seen) >= 8
        assert all("test_bench_waits.py:test_every_way" in site for site in seen)
    assert torch.Tensor.item is original
    one.item()
    assert len(seen) >= 8


def test_the_table_says_what_was_seen():
    table = waits_table(steps=50, cases=("ledger", CONTROL))
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["ledger"][:2] == ("0.00", "0.00")
    assert rows["ledger"][-1] == "0"
    assert rows[CONTROL][:2] == ("1.00", "1.00")
