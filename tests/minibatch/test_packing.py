"""Sequences packed into blocks, against the plain twin: exact for every size, at every token."""

from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plain.sequences import Packed
from tests.sequence_data import LAID
from tests.sequence_walks import cases, limits, steps, walk


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sequences")


@given(cases, limits(), st.sampled_from([1, 2, 3, 8]), st.data())
def test_packed_minibatches_are_those_of_the_twin(root, case, limit, block, data):
    walked = data.draw(steps(1))
    walk(root, case, limit, walked, "packed", partial(Packed, block=block), block, by="tokens", block=block, fields=LAID)
