"""Sequences on lanes, against the plain twin: nothing dropped, exact for every size."""

from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plain.sequences import Truncated
from tests.sequence_data import LAID
from tests.sequence_walks import cases, limits, steps, walk


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sequences")


@given(cases, st.sampled_from([1, 2, 3, 8]), st.data())
def test_truncated_minibatches_are_those_of_the_twin(root, case, lanes, data):
    limit, walked = data.draw(limits(lanes)), data.draw(steps(1))
    walk(root, case, limit, walked, "truncated", partial(Truncated, lanes=lanes), lanes, by="tokens", lanes=lanes, fields=LAID)
