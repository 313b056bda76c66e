"""A class of every sentence and of every word in it: two heads on the states of a recurrent net.

Shapes: n sentences · l words of the longest · d units of a state · i classes of sentences · s classes of words.
"""

import torch
from torch import Tensor, nn

from minibatch.models import init as initialisation
from minibatch.models.combined import combine
from minibatch.models.noise import Dropout
from minibatch.models.recurrent import Recurrent, strongest


class Tagger(nn.Module):
    """{"intent": logits (n, i), "slots": logits (n, s, l)} of words (n, l), of which lengths (n,) count.

    The two heads are combined into one model; "slots" has its classes on axis 1, where losses look for them.
    words, intents, slots: how many classes there are of each; the other arguments as of `Recurrent`. Two tasks on one
    recurrent net: Liu and Lane 2016, arXiv:1609.01454.

    >>> import torch
    >>> model = Tagger(words=9, intents=2, slots=5, embedding=4, hidden=3, seed=1).eval()
    >>> {name: tuple(y.shape) for name, y in model(torch.ones(3, 6, dtype=int), torch.tensor([6, 2, 1])).items()}
    {'intent': (3, 2), 'slots': (3, 5, 6)}
    """

    def __init__(
        self,
        *,
        words: int,
        intents: int,
        slots: int,
        embedding: int = 100,
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = Recurrent(
            words=words,
            embedding=embedding,
            hidden=hidden,
            layers=layers,
            dropout=dropout,
            word_dropout=word_dropout,
            seed=seed,
        )
        width = self.encoder.width
        self.heads = combine(
            intent=OfSentences(width, intents, dropout=dropout), slots=OfWords(width, slots, dropout=dropout)
        )
        initialisation.fill(self.heads, "lecun_normal", seed=seed + 1)

    def forward(self, words_nl: Tensor, lengths_n: Tensor) -> dict[str, Tensor]:
        logits: dict[str, Tensor] = self.heads(self.encoder(words_nl, lengths_n), lengths_n)
        return logits


class OfSentences(nn.Module):
    """Logits (n, classes) of states (n, l, d): of the largest value of every unit over the words."""

    def __init__(self, width: int, classes: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = _linear(width, classes)

    def forward(self, states_nld: Tensor, lengths_n: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.dropout(strongest(states_nld, lengths_n)))
        return logits


class OfWords(nn.Module):
    """Logits (n, classes, l) of states (n, l, d): of each word by itself."""

    def __init__(self, width: int, classes: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = _linear(width, classes)

    def forward(self, states_nld: Tensor, lengths_n: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.dropout(states_nld))
        return logits.transpose(1, 2)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer without first values."""
    return nn.Linear(inputs, outputs, device="meta").to_empty(device=torch.get_default_device())
