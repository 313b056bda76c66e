"""The mean of means: what it does to weights, and that the engine does not."""

import numpy as np
import pytest
import torch

from minibatch.tools.bench_weights import (
    arranged,
    balanced_accuracy,
    draw,
    errors_table,
    gradient_errors,
    learnt_table,
    mean_of_means,
    random_minibatches,
    rare_digits,
    train_both,
    trained,
)


def test_the_engine_is_exact_for_any_cut_and_the_mean_of_means_is_not():
    found = gradient_errors(minibatches=3, cuts=(1, 4, 64))
    assert len(found) == 12
    for one in found:
        if one.loop == "minibatch" or one.microbatches == 1:
            assert one.error.most < 1e-14
            assert one.loss.most < 1e-14
        else:
            assert one.error.least > 0.01
            assert one.cosine.most < 0.9999
    table = errors_table(found, 3)
    assert "3 minibatches" in table.notes[0]


def test_in_microbatches_of_one_sample_weights_cancel():
    (batch,) = random_minibatches(1, "iid")
    weighted, _ = mean_of_means(batch, (1.0, 1.0, 1.0, 1.0, 20.0), 64)
    unweighted, _ = mean_of_means(batch, (1.0,) * 5, 1)
    torch.testing.assert_close(weighted, unweighted, rtol=1e-12, atol=1e-14)


def test_sorted_minibatches_hold_the_same_samples():
    (batch,) = random_minibatches(1, "iid")
    ordered = arranged(batch, "sorted")
    assert np.all(np.diff(ordered["label"]) >= 0)
    assert sorted(ordered["x"][:, 0]) == sorted(batch["x"][:, 0])


def test_half_of_the_digits_are_twenty_times_rarer_and_the_held_out_ones_are_not():
    train, test = rare_digits()
    counts = np.bincount(train["label"])
    assert np.all(counts[:5] > 15 * counts[5:])
    assert np.all(counts[5:] >= 5)
    assert np.bincount(test["label"]).min() > 40
    rows = {tuple(row) for row in train["x"]}
    assert not any(tuple(row) in rows for row in test["x"])


def test_whole_minibatches_train_alike_in_both_loops():
    train, _ = rare_digits()
    weights = [
        next(trained(train, loop, cut, "iid", seed=1, steps=30).parameters())
        for loop, cut in (("mean of means", 1), ("minibatch", 1), ("minibatch", 4), ("mean of means", 64))
    ]
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(weights[1], weights[2], rtol=1e-8, atol=1e-10)
    assert (weights[3] - weights[1]).abs().max() > 1e-3


def test_balanced_accuracy_counts_classes_alike():
    test = {"x": np.eye(3)[[0, 0, 0, 1]], "label": np.array([0, 0, 0, 1])}
    assert balanced_accuracy(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2), test) == pytest.approx(0.5)


def test_the_tables_and_the_picture_are_of_what_was_found(tmp_path):
    errors = gradient_errors(minibatches=2, cuts=(1, 4))
    learnt = train_both(seeds=2, steps=5, cuts=(1, 4))
    draw(tmp_path / "p.png", errors, learnt)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    table = learnt_table(learnt)
    assert [row[:3] for row in table.rows] == [
        ("minibatch", "iid", "any"),
        ("mean of means", "iid", "1"),
        ("mean of means", "iid", "4"),
        ("mean of means", "sorted", "4"),
    ]
    assert table.rows[0][4] == "–"
