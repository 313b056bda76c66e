"""Whole sequences by CNTK's rule, against the plain twin and against what CNTK 2.7 was seen to do."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from minibatch import MinibatchSource
from tests.plain.sequences import Whole
from tests.sequence_data import folder_of
from tests.sequence_walks import cases, limits, steps, walk


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sequences")


@given(cases, limits(), steps())
def test_whole_sequences_are_those_of_the_twin(root, case, limit, walked):
    walk(root, case, limit, walked, "whole", Whole)


@given(cases, limits(), steps())
def test_one_list_alone_may_count(root, case, limit, walked):
    walk(root, case, limit, walked, "whole", Whole, by="words")
