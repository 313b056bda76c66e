"""Greedy reading of connectionist temporal classification against a plain loop."""

from itertools import groupby

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minibatch.train.transcripts import greedy


@given(st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.integers(0, 6)), max_size=4))
def test_repetitions_are_one_and_blanks_nothing(samples):
    paths = torch.tensor([path for path, _ in samples], dtype=torch.int64).view(len(samples), 6)
    logits = torch.nn.functional.one_hot(paths, 4).float() - 0.5
    steps = torch.tensor([count for _, count in samples], dtype=torch.int64)
    for blank in (0, 2):
        expected = [[label for label, _ in groupby(path[:count]) if label != blank] for path, count in samples]
        assert greedy(logits, steps, blank=blank) == expected


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"float32 \(2, 3\), int64 \(2,\)"):
        greedy(torch.zeros(2, 3), torch.tensor([1, 2]))
