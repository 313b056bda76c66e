"""What promise="bits" costs: the ways that are compared are what they are called."""

import sys

import pytest

from minibatch.tools.bench_bits import Way, bits_table, child, forget_peak, make_trainer, measure_bits, peak_memory


@pytest.mark.parametrize("model", ["MLP", "conv net"])
def test_ways_differ_in_passes_and_sums_but_not_in_what_they_learn(model, tmp_path):
    losses, cuts = [], []
    for way in (
        Way(promise="math", leaf_size=0),
        Way(promise="math", leaf_size=8),
        Way(promise="bits", leaf_size=8),
        Way(promise="bits", leaf_size=32),
    ):
        trainer = make_trainer(tmp_path, model, way, 32)
        assert (trainer.gradient.exact is not None) == (way.promise == "bits")
        parts = trainer.streams.parts(trainer.streams.take(32), 32, None)
        trainer.source.seek(0)
        cuts.append(len(parts[0].cuts))
        losses.append([trainer.train_minibatch()["class"] for _ in range(3)][-1])
        trainer.source.close()
    assert cuts == [1, 4, 4, 1]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-3)


def test_the_costs_are_of_every_leaf_size_and_of_the_whole():
    costs = measure_bits("MLP", samples=32, leaves=(8, 64), steps=1, repeats=1, memory=False)
    assert [(cost.leaf_size, cost.leaves) for cost in costs] == [(8, 4), (32, 1)]
    for cost in costs:
        assert cost.bits_ms > 0
        assert cost.math_ms == costs[0].math_ms
        assert cost.sums_bytes == 2 * 8 * cost.parameters  # two float64 for every value
        assert cost.ratio.median == pytest.approx(cost.bits_ms / cost.math_ms)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the most memory since a moment")
def test_memory_is_what_the_process_grew_by():
    begin = forget_peak()
    block = bytearray(b"x") * (64 << 20)
    assert 60 << 20 < peak_memory() - begin < 80 << 20
    del block
    job = {"model": "MLP", "way": {"promise": "bits", "leaf_size": 8}, "samples": 32, "threads": 1}
    assert child(job) >= 0


def test_the_table_names_the_whole_minibatch():
    table = bits_table(samples=16, steps=1, repeats=1, models=("conv net",), leaves=(8,), memory=False)
    assert [row[1] for row in table.rows] == ["8", "whole"]
    assert table.rows[0][-1] == "–"
