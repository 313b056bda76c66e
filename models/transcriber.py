"""One alphabet written in another: every letter writes some signs or none, whose places nobody has to know.

Shapes: n words · l letters of the longest · r signs that a letter may write · c classes, of which 0 writes nothing.
"""

import torch
from torch import Tensor, nn

from minibatch.models import init as initialisation
from minibatch.models.noise import Dropout
from minibatch.models.recurrent import Recurrent


class Transcriber(nn.Module):
    """{"logits": (n, l·r, c), "steps": r times the lengths, int64 (n,)} of letters (n, l) of lengths (n,).

    The steps of a word are those of its letters, r each, for a loss that finds the alignment itself (connectionist
    temporal classification): class 0 is its blank. letters, classes: the size of either alphabet; signs: r; the other
    arguments as of `Recurrent`.

    >>> model = Transcriber(letters=30, classes=5, signs=2, embedding=4, hidden=3, seed=1).eval()
    >>> outputs = model(torch.ones(2, 6, dtype=int), torch.tensor([6, 4]))
    >>> outputs["logits"].shape, outputs["steps"].tolist()
    (torch.Size([2, 12, 5]), [12, 8])
    """

    def __init__(
        self,
        *,
        letters: int,
        classes: int,
        signs: int = 4,
        embedding: int = 64,
        hidden: int = 128,
        layers: int = 2,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.signs, self.classes = signs, classes
        self.encoder = Recurrent(
            words=letters, embedding=embedding, hidden=hidden, layers=layers, dropout=dropout, seed=seed
        )
        self.dropout = Dropout(dropout)
        linear = nn.Linear(self.encoder.width, signs * classes, device="meta")
        self.linear = linear.to_empty(device=torch.get_default_device())
        initialisation.fill(self.linear, "lecun_normal", seed=seed + 1)

    def forward(self, letters_nl: Tensor, lengths_n: Tensor) -> dict[str, Tensor]:
        states = self.dropout(self.encoder(letters_nl, lengths_n))
        logits = self.linear(states).view(len(letters_nl), -1, self.classes)
        return {"logits": logits, "steps": lengths_n * self.signs}
