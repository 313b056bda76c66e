"""How torch computes during a run: what cannot be is refused before it is tried."""

from dataclasses import replace

import pytest
import torch

from minibatch.train.computing import MOST_THREADS, computing
from minibatch.train.recipes.demo import demo


def test_more_threads_than_a_process_can_have_are_refused():
    before = torch.get_num_threads()
    config = replace(demo(), threads=MOST_THREADS + 1)
    with pytest.raises(ValueError, match="threads=1025: expected 1 to 1024, or none"), computing(config):
        raise AssertionError("torch was asked for them")
    assert torch.get_num_threads() == before
