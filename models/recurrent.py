"""States of a sequence, read in both directions: embedding, keyed word dropout and dropout, gated recurrent layers.

Shapes: n sequences · l places of the longest · e numbers of an embedding · h units of one direction.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from minibatch.models import init as initialisation
from minibatch.models.noise import Dropout


class Recurrent(nn.Module):
    """States (n, l, 2h) of sequences of class numbers (n, l), zeros behind their lengths (n,).

    Numbers are 0 to words - 1; what stands behind a sequence's length is not looked at. embedding: e; hidden: h of one
    direction; layers: how many, one on top of the other. word_dropout: rate at which whole embeddings are left out;
    dropout: of the elements of embeddings, and of the states between layers. seed: of the weights, N(0, 1/inputs), with
    biases 0. Gated recurrent units: Cho et al. 2014, arXiv:1406.1078; in both directions: Schuster and Paliwal 1997.

    >>> model = Recurrent(words=10, embedding=4, hidden=3, seed=1).eval()
    >>> states = model(torch.tensor([[5, 6, 7], [5, 0, 0]]), torch.tensor([3, 1]))
    >>> states.shape, bool((states[1, 1:] == 0).all())
    (torch.Size([2, 3, 6]), True)
    """

    def __init__(
        self,
        *,
        words: int,
        embedding: int,
        hidden: int,
        layers: int = 1,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(words, embedding, hidden, layers) < 1:
            raise ValueError(
                f"words={words}, embedding={embedding}, hidden={hidden}, layers={layers}: expected positive numbers"
            )
        device = torch.get_default_device()
        # On the meta device constructors draw nothing from the global generator.
        self.embedding = nn.Embedding(words, embedding, device="meta").to_empty(device=device)
        self.word_dropout = Dropout(word_dropout, per_channel=True, rescale="never")
        self.dropouts = nn.ModuleList(Dropout(dropout) for _ in range(layers))
        self.layers = nn.ModuleList(
            nn.GRU(
                2 * hidden if number else embedding, hidden, batch_first=True, bidirectional=True, device="meta"
            ).to_empty(device=device)
            for number in range(layers)
        )
        self.width = 2 * hidden
        initialisation.fill(self, "lecun_normal", seed=seed)
        with torch.no_grad():
            for name, parameter in self.layers.named_parameters():
                if ".bias_" in name:  # torch calls them bias_ih_l0, …
                    parameter.zero_()

    def forward(self, words_nl: Tensor, lengths_n: Tensor) -> Tensor:
        longest = words_nl.shape[1]
        lengths = lengths_n.cpu().clamp(min=1)  # torch packs nothing that is empty; the mask below makes up for it
        states: Tensor = self.word_dropout(self.embedding(words_nl))
        for dropout, layer in zip(self.dropouts, self.layers, strict=True):
            packed = pack_padded_sequence(dropout(states), lengths, batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=longest)
        return states * places(lengths_n, longest)[:, :, None]


def places(lengths_n: Tensor, longest: int) -> Tensor:
    """Where the sequences have elements: bool (n, longest).

    >>> places(torch.tensor([2, 0]), 3)
    tensor([[ True,  True, False],
            [False, False, False]])
    """
    return torch.arange(longest, device=lengths_n.device) < lengths_n[:, None]


def strongest(states_nld: Tensor, lengths_n: Tensor) -> Tensor:
    """The largest value of every unit over the places of each sequence: (n, d); zeros of an empty one.

    Collobert and Weston 2008, "max over time".
    """
    inside = places(lengths_n, states_nld.shape[1])[:, :, None]
    most = states_nld.masked_fill(~inside, -torch.inf).amax(1)
    return most.masked_fill(lengths_n[:, None] == 0, 0.0)
