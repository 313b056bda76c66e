"""Finding the other one of a pair among all: recall among the k nearest, and the rank of the right one."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minibatch.train.batches import shapes_of
from minibatch.train.losses.shapes import wide

ROWS = 1024  # of the scores that are looked at together


class Recall:
    """The share of pairs whose second one is among the k nearest of the first one: an object as torchmetrics has them.

    For `Collected`: `arguments=` a function that gives `update` the vectors of n queries and of what each of them is to
    find, (n, size); a score is their product. Every query looks among all that were handed over. k: one number or
    several. Ties count against the query, so that equal vectors find nothing.

    >>> recall = Recall((1, 2))
    >>> recall.update(torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]]))
    >>> recall.compute()
    {'recall@1': 0.333..., 'recall@2': 0.333...}
    """

    def __init__(self, k: int | Sequence[int] = (1, 10)) -> None:
        self.k = (k,) if isinstance(k, int) else tuple(k)
        if not self.k or min(self.k) < 1:
            raise ValueError(f"Recall needs numbers k ≥ 1, got {self.k}")
        self.queries: list[Tensor] = []
        self.answers: list[Tensor] = []

    def update(self, queries: Tensor, answers: Tensor) -> None:
        """Take in n pairs of vectors, (n, size) each."""
        if queries.ndim != 2 or queries.shape != answers.shape:
            raise ValueError(f"Recall needs queries and answers (n, size), got {shapes_of((queries, answers))}")
        self.queries.append(queries.detach())
        self.answers.append(answers.detach())

    def compute(self) -> Mapping[str, float]:
        """The shares, by "recall@k"; of no pairs NaN."""
        if not self.queries:
            return {f"recall@{k}": float("nan") for k in self.k}
        rank = ranks(torch.cat(self.queries), torch.cat(self.answers))
        return {f"recall@{k}": (rank < k).double().mean().item() for k in self.k}


def ranks(queries: Tensor, answers: Tensor) -> Tensor:
    """How many of the answers (n, size) are at least as near to query i, (n, size), as answer i is: int64 (n,).

    0 is a hit. Products are the scores, in float32 at least; a NaN counts as near.

    >>> ranks(torch.eye(2), torch.tensor([[0.0, 1.0], [0.5, 1.0]]))
    tensor([1, 1])
    """
    queries, answers = wide(queries), wide(answers)
    found = []
    for start in range(0, len(queries), ROWS):
        scores = queries[start : start + ROWS] @ answers.T
        own = scores.diagonal(start)[:, None]
        # Negated, because every comparison with NaN is false; less one for the answer itself.
        found.append((~(scores < own)).sum(1) - 1)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=queries.device)
