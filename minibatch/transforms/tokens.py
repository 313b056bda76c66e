"""Sequences of tokens: what a language model is to predict."""

from dataclasses import dataclass

import numpy as np

from minibatch.errors import SchemaError
from minibatch.ragged import Ragged
from minibatch.rng import Draws
from minibatch.transforms.operations import Fields


@dataclass(frozen=True, kw_only=True)
class NextToken:
    """Beside the list field `field`, of integers, the field `target`: at each token the one behind it in its sequence.

    Behind the last token of a sequence nothing stands: there the target is `missing`, as a loss takes it. The target is
    int32, of the same lengths; what it says does not depend on where packed sequences are cut. SchemaError for a field
    that is no list of integers.

    >>> fields = {"tokens": Ragged.of([np.array([5, 6, 7]), np.array([8])])}
    >>> NextToken()(fields, Draws(7, "NextToken", np.arange(2)))["next"].values
    array([ 6,  7, -1, -1], dtype=int32)
    """

    field: str = "tokens"
    target: str = "next"
    missing: int = -1

    def __call__(self, fields: Fields, draws: Draws) -> Fields:
        if self.field not in fields:
            raise SchemaError(f"there is no field {self.field!r}: the minibatch has {list(fields)}")
        tokens = fields[self.field]
        if not isinstance(tokens, Ragged) or tokens.dtype.kind not in "iu" or tokens.values.ndim != 1:
            got = tokens if isinstance(tokens, Ragged) else type(tokens).__name__
            raise SchemaError(f"NextToken: field {self.field!r} is {got}, expected a list of integers in each row")
        values = np.empty(len(tokens.values), np.int32)
        values[:-1] = tokens.values[1:]
        ends = tokens.offsets[1:][tokens.lengths > 0] - 1
        values[ends] = self.missing
        return {**fields, self.target: Ragged(values, tokens.offsets)}
