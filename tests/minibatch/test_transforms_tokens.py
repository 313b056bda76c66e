"""NextToken: what is to be predicted stands beside every token, wherever packed sequences are cut."""

import numpy as np
import pytest

from minibatch import DatasetWriter, MinibatchSource
from minibatch.errors import SchemaError
from minibatch.ragged import Ragged
from minibatch.rng import Draws
from minibatch.transforms.tokens import NextToken

DRAWS = Draws(7, "NextToken", np.arange(5))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_every_token_but_the_last_of_a_sequence_has_the_one_behind_it(dtype):
    sequences = [np.array(numbers, dtype) for numbers in ([3, 1, 2], [], [7], [255, 0], [])]
    fields = {"tokens": Ragged.of(sequences), "label": np.arange(5)}
    found = NextToken(missing=-9)(fields, DRAWS)
    assert [one.tolist() for one in found["next"]] == [[1, 2, -9], [], [-9], [0, -9], []]
    assert found["next"].dtype == np.int32
    assert found["tokens"] is fields["tokens"]
    assert found["label"] is fields["label"]


def test_nothing_but_empty_sequences_stays_empty():
    found = NextToken()({"tokens": Ragged(np.zeros(0, np.int32), np.zeros(3, np.int64))}, DRAWS)
    assert found["next"].lengths.tolist() == [0, 0]


@pytest.mark.parametrize("block", [3, 4, 64])
def test_in_packed_rows_each_token_is_followed_in_every_sweep(tmp_path, block):
    lengths = [3, 5, 1, 7, 4, 2]
    with DatasetWriter(tmp_path / "data") as writer:
        writer.write({"tokens": [100 * i + np.arange(n) for i, n in enumerate(lengths)]})
    with MinibatchSource(
        tmp_path / "data", seed=3, sequences="packed", block=block, max_sweeps=2, transforms=[NextToken()]
    ) as source:
        batches = list(source.minibatches(block))
    tokens, following, ids = (
        np.concatenate([np.ravel(part) for part in parts])
        for parts in (
            [batch["tokens"] for batch in batches],
            [batch["next"] for batch in batches],
            [batch.segment_ids for batch in batches],
        )
    )
    tokens, following = tokens[ids > 0], following[ids > 0]
    assert len(tokens) == 2 * sum(lengths)
    last = {100 * i + n - 1 for i, n in enumerate(lengths)}
    assert following.tolist() == [-1 if token in last else token + 1 for token in tokens.tolist()]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"other": np.zeros(5)}, r"no field 'tokens': the minibatch has \['other'\]"),
        ({"tokens": np.zeros(5, np.int64)}, "is ndarray, expected a list of integers"),
        ({"tokens": Ragged.of([np.zeros(2)])}, "expected a list of integers"),
        ({"tokens": Ragged.of([np.zeros((2, 3), np.int64)])}, "expected a list of integers"),
    ],
)
def test_what_is_no_list_of_integers_is_refused(fields, said):
    with pytest.raises(SchemaError, match=said):
        NextToken()(fields, DRAWS)
