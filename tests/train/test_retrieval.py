"""Recall among the nearest against a twin that looks at every score, and that nothing comes of equal vectors."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from minibatch.train import retrieval
from minibatch.train.retrieval import Recall, ranks
from tests.plain import retrieval as plain


def recall_of(queries, answers, k, cuts=()):
    recall = Recall(k)
    borders = [0, *cuts, len(queries)]
    for start, stop in pairwise(borders):
        recall.update(torch.tensor(queries[start:stop]), torch.tensor(answers[start:stop]))
    return recall.compute()


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_what_the_twin_finds_however_pairs_come(seed, monkeypatch):
    draw = np.random.default_rng(seed)
    # Small whole numbers: products are exact and ties are many.
    answers = draw.integers(-2, 3, size=(23, 4)).astype(float)
    queries = answers + draw.integers(-1, 2, size=answers.shape)
    expected = {f"recall@{k}": plain.recall(queries.tolist(), answers.tolist(), k) for k in (1, 3, 10)}
    assert 0 < expected["recall@3"] < expected["recall@10"]
    assert recall_of(queries, answers, (1, 3, 10)) == expected
    assert recall_of(queries, answers, (1, 3, 10), cuts=(5, 6)) == expected
    monkeypatch.setattr(retrieval, "ROWS", 7)
    assert recall_of(queries, answers, (1, 3, 10)) == expected


def test_equal_vectors_and_nan_find_nothing():
    assert Recall(1).compute().keys() == {"recall@1"}
    assert math.isnan(Recall(1).compute()["recall@1"])
    same = np.ones((4, 3))
    assert recall_of(same, same, (1, 3, 4)) == {"recall@1": 0.0, "recall@3": 0.0, "recall@4": 1.0}
    assert recall_of(same * np.nan, same, 1) == {"recall@1": 0.0}
    assert ranks(torch.eye(3), torch.eye(3)).tolist() == [0, 0, 0]
    assert ranks(torch.zeros(0, 3), torch.zeros(0, 3)).tolist() == []


def test_half_precision_is_computed_wide_and_wrong_shapes_are_refused():
    vectors = torch.nn.functional.normalize(torch.arange(12.0).view(4, 3).sin(), dim=1)
    assert ranks(vectors.bfloat16(), vectors.bfloat16()).tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match=r"float32 \(4, 3\), float32 \(3, 3\)"):
        Recall().update(vectors, vectors[:3])
    with pytest.raises(ValueError, match="k ≥ 1"):
        Recall((1, 0))
