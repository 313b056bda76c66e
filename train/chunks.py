"""Chunks of words: F1, precision and recall over phrases, by the rules of CoNLL's evaluation script.

A tag is "O" (outside) or a kind and a type, "B-NP": B begins a chunk, I goes on, E ends one, S (or U) is one alone
(IOB1, IOB2, IOBES; L is E). Two neighbours that are no O belong to different chunks where the second is a B or S, where
the first is an E or S, or where their types differ; everything between is one chunk, of the type of its words. Chunks
count as found where begin, end and type agree.

The rules are those of conlleval.pl (Tjong Kim Sang, the evaluation of the CoNLL-2000 shared task), with S and U as
later versions read them.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minibatch.train.batches import shapes_of

OUTSIDE, BEGIN, INSIDE, END, SINGLE = range(5)
KINDS = {"B": BEGIN, "I": INSIDE, "E": END, "L": END, "S": SINGLE, "U": SINGLE}


class ChunkScores:
    """F1, precision and recall over the chunks of all sentences it was given, an object as torchmetrics has them.

    names: the tag of every class, "B-NP", "I-NP", "O" … For `Collected`: `make=partial(ChunkScores, names)`, with
    `arguments=` a function that gives `update` its three tensors. Counts are added up, so results do not depend on how
    sentences come in minibatches. Raises ValueError for tags that are none.

    >>> scores = ChunkScores(["O", "B-NP", "I-NP"])
    >>> tags = torch.tensor([[1, 2, 0, 1]])
    >>> scores.update(torch.tensor([[1, 0, 0, 1]]), tags, torch.ones(1, 4, dtype=torch.bool))
    >>> scores.compute()
    {'f1': 0.5, 'precision': 0.5, 'recall': 0.5}
    """

    def __init__(self, names: Sequence[str]) -> None:
        kinds, types = kinds_and_types(names)
        self.kinds, self.types = torch.tensor(kinds), torch.tensor(types)
        self.correct = self.found = self.there = 0

    def to(self, device: torch.device) -> "ChunkScores":
        """Itself, counting on `device`."""
        self.kinds, self.types = self.kinds.to(device), self.types.to(device)
        return self

    def update(self, found: Tensor, there: Tensor, mask: Tensor) -> None:
        """Count the chunks of n sentences: tags that were found, those that are right, and where words are.

        found, there: class numbers (n, l); mask: bool (n, l), of every sentence its first words.
        """
        if found.ndim != 2 or not found.shape == there.shape == mask.shape or mask.dtype is not torch.bool:
            raise ValueError(
                "ChunkScores needs class numbers (n, l) that were found and that are right, and a bool mask (n, l), "
                f"got {shapes_of((found, there, mask))}"
            )
        last, right = self._last(found, mask), self._last(there, mask)
        same = (last == right) & (right >= 0) & (self.types[found] == self.types[there])
        counts = torch.stack([same.sum(), (last >= 0).sum(), (right >= 0).sum()]).tolist()
        self.correct += counts[0]
        self.found += counts[1]
        self.there += counts[2]

    def compute(self) -> Mapping[str, float]:
        """2·p·r / (p + r), p = correct / found and r = correct / there: 0 where nothing is correct."""
        precision = self.correct / self.found if self.found else 0.0
        recall = self.correct / self.there if self.there else 0.0
        f1 = 2 * self.correct / (self.found + self.there) if self.correct else 0.0
        return {"f1": f1, "precision": precision, "recall": recall}

    def _last(self, tags: Tensor, mask: Tensor) -> Tensor:
        """Where a chunk begins, the place of its last word among all; elsewhere -1: int64 (n, l)."""
        kinds, types = self.kinds[tags].masked_fill(~mask, OUTSIDE), self.types[tags]
        words = kinds != OUTSIDE
        border = torch.ones((len(tags), tags.shape[1] + 1), dtype=torch.bool, device=tags.device)
        before, after = kinds[:, :-1], kinds[:, 1:]
        border[:, 1:-1] = (
            ~words[:, :-1]
            | ~words[:, 1:]
            | ((after == BEGIN) | (after == SINGLE))
            | ((before == END) | (before == SINGLE))
            | (types[:, :-1] != types[:, 1:])
        )
        first, end = words & border[:, :-1], words & border[:, 1:]
        last = torch.full(tags.shape, -1, device=tags.device)
        last[first] = end.flatten().nonzero().flatten()  # chunks end in the order in which they begin
        return last


def kinds_and_types(names: Sequence[str]) -> tuple[list[int], list[int]]:
    """The kind of every tag, and its type as a number; types are equal where their names are.

    >>> kinds_and_types(["O", "B-NP", "I-NP", "B-VP"])
    ([0, 1, 2, 1], [0, 1, 1, 2])
    """
    numbers = {"": 0}
    kinds, types = [], []
    for name in names:
        kind, dash, type_ = name.partition("-")
        if name == "O":
            kinds.append(OUTSIDE)
        elif kind in KINDS and (type_ or not dash):
            kinds.append(KINDS[kind])
        else:
            raise ValueError(f"{name!r} is no tag: expected O, or {', '.join(KINDS)} and a type, such as B-NP")
        types.append(numbers.setdefault(type_, len(numbers)))
    return kinds, types
