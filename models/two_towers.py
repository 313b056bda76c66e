"""Two towers: what is alike in two alphabets gets neighbouring vectors, so that one finds the other.

Shapes: n pairs · l, m places of the longest sequence of either side · d units of a state · v numbers of a vector.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibatch.models import init as initialisation
from minibatch.models.noise import Dropout
from minibatch.models.recurrent import Recurrent, strongest


class TwoTowers(nn.Module):
    """{"first": (n, v), "second": (n, v)} of pairs of sequences: vectors of length 1, whose products are their scores.

    Each side is a tower of its own, joined by nothing but the score. first_words, second_words: how many numbers either
    alphabet has; size: v; the other arguments as of `Recurrent`. Bromley et al. 1993, with two towers as in Huang et
    al. 2013, "Learning deep structured semantic models".

    >>> model = TwoTowers(first_words=30, second_words=40, embedding=4, hidden=3, size=5, seed=1).eval()
    >>> letters, phones = torch.ones(2, 6, dtype=int), torch.ones(2, 4, dtype=int)
    >>> vectors = model(letters, torch.tensor([6, 2]), phones, torch.tensor([4, 3]))
    >>> {name: tuple(v.shape) for name, v in vectors.items()}
    {'first': (2, 5), 'second': (2, 5)}
    """

    def __init__(
        self,
        *,
        first_words: int,
        second_words: int,
        embedding: int = 64,
        hidden: int = 128,
        size: int = 128,
        layers: int = 1,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.first, self.second = (
            Tower(
                words=words,
                embedding=embedding,
                hidden=hidden,
                size=size,
                layers=layers,
                dropout=dropout,
                seed=seed + number,
            )
            for number, words in enumerate((first_words, second_words))
        )

    def forward(
        self, first_nl: Tensor, first_lengths_n: Tensor, second_nm: Tensor, second_lengths_n: Tensor
    ) -> dict[str, Tensor]:
        return {"first": self.first(first_nl, first_lengths_n), "second": self.second(second_nm, second_lengths_n)}


class Tower(nn.Module):
    """Vectors (n, v) of length 1 of sequences (n, l) of lengths (n,): the strongest states of a recurrent net."""

    def __init__(
        self, *, words: int, embedding: int, hidden: int, size: int, layers: int, dropout: float, seed: int
    ) -> None:
        super().__init__()
        self.encoder = Recurrent(
            words=words, embedding=embedding, hidden=hidden, layers=layers, dropout=dropout, seed=seed
        )
        self.dropout = Dropout(dropout)
        linear = nn.Linear(self.encoder.width, size, device="meta")
        self.linear = linear.to_empty(device=torch.get_default_device())
        initialisation.fill(self.linear, "lecun_normal", seed=seed + 2)

    def forward(self, words_nl: Tensor, lengths_n: Tensor) -> Tensor:
        states = strongest(self.encoder(words_nl, lengths_n), lengths_n)
        return F.normalize(self.linear(self.dropout(states)), dim=1)
