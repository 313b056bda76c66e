"""The two loops whose times are compared do the same work."""

import torch

from minibatch.tools.bench_engine import engine_overhead, make_loops


def test_both_loops_end_with_the_same_weights(tmp_path):
    loops = make_loops(tmp_path, ledger=True)
    start = [parameter.detach().clone() for parameter in loops.model.parameters()]
    loops.raw(20)
    loops.engine(7)
    loops.engine(13)
    loops.close()
    for ours, theirs, before in zip(loops.model.parameters(), loops.raw_model.parameters(), start, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)
        assert not torch.equal(ours, before)


def test_the_figures_are_per_step_and_threads_are_put_back():
    before = torch.get_num_threads()
    figures = engine_overhead(steps=20, repeats=2, ledger=False)
    assert torch.get_num_threads() == before
    assert figures["engine_us"] > 0
    assert figures["raw_us"] > 0
    assert figures["overhead_us_least"] <= figures["overhead_us"] <= figures["overhead_us_most"]
