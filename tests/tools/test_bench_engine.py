"""The loops whose times are compared do the same work, feature by feature."""

import pytest
import torch

from minibatch.tools.bench_engine import engine_overhead, overhead_table
from minibatch.tools.bench_engine_cases import CASES, make_loops

# Of dropout the masks differ; everything else must end at the same weights.
SAME = [name for name in CASES if not CASES[name].dropout]


@pytest.mark.parametrize("name", SAME)
def test_both_loops_end_with_the_same_weights(tmp_path, name):
    loops = make_loops(tmp_path, CASES[name])
    start = [parameter.detach().clone() for parameter in loops.model.parameters()]
    loops.raw(20)
    loops.engine(7)
    loops.engine(13)
    loops.close()
    for ours, theirs, before in zip(loops.model.parameters(), loops.raw_model.parameters(), start, strict=True):
        if CASES[name].microbatches == 1:
            assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)
        else:  # Adam divides by tiny gradients, whose rounding differs from cut to cut
            assert (ours - theirs).abs().mean() < 0.01 * (ours - before).abs().mean()
        assert not torch.equal(ours, before)


@pytest.mark.parametrize("name", ["weights and mask", "clipping", "weight_l2", "two terms"])
def test_a_feature_changes_what_is_learnt(tmp_path, name):
    """The test above can fail: without the feature the weights are others."""
    loops, plain = make_loops(tmp_path / "one", CASES[name]), make_loops(tmp_path / "two", CASES["plain"])
    loops.engine(20)
    plain.engine(20)
    weights, others = (next(each.model.parameters()) for each in (loops, plain))
    loops.close()
    plain.close()
    assert not torch.allclose(weights, others, rtol=1e-3, atol=1e-5)


def test_dropout_is_in_both_networks(tmp_path):
    loops = make_loops(tmp_path, CASES["keyed dropout"])
    loops.engine(2)
    loops.raw(2)
    loops.close()
    kinds = [[type(layer).__module__.split(".")[0] for layer in model] for model in (loops.model, loops.raw_model)]
    assert [kind.count("minibatch") for kind in kinds] == [2, 0]
    assert len(loops.raw_model) == len(loops.model) == 7


def test_the_figures_are_per_step_and_threads_are_put_back():
    before = torch.get_num_threads()
    figures = engine_overhead("plain", steps=20, repeats=2)
    assert torch.get_num_threads() == before
    assert figures["engine_us"] > 0
    assert figures["raw_us"] > 0
    assert figures["overhead_us_least"] <= figures["overhead_us"] <= figures["overhead_us_most"]


def test_the_table_has_a_row_for_each_case_and_the_goal_where_there_is_one():
    said = []
    table = overhead_table(10, 1, cases=("ledger", "clipping"), progress=said.append)
    assert [row[0] for row in table.rows] == ["ledger", "clipping"]
    assert [row[-1] for row in table.rows] == ["< 50", ""]
    assert [figures["steps"] for figures in table.figures] == [10, 1]
    assert said == ["engine: ledger", "engine: clipping"]
