"""Tile net: a small convolutional net that says of a tile of an image which of several things can be seen in it.

Shapes: n tiles · h × w pixels · f channels of the features · k things.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from minibatch.models import init as initialisation
from minibatch.models.noise import Dropout


class TileNet(nn.Module):
    """Logits (n, k), one per thing, of tiles uint8 (n, h, w, 3), of any size that the poolings leave something of.

    channels: of the convolutions, each followed by a group norm of 8 groups and, but for the last, a maximum over 2 × 2
    cells. The features are then both averaged and maximised over the tile: something small is seen by the maximum,
    something large by both. dropout: of these 2 f numbers. seed: of the weights.

    >>> TileNet(things=3).eval()(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self, *, things: int, channels: Sequence[int] = (16, 32, 64, 64), dropout: float = 0.2, seed: int = 0
    ) -> None:
        super().__init__()
        if not channels or any(count < 8 or count % 8 for count in channels):
            raise ValueError(f"channels={tuple(channels)}: expected multiples of 8, for group norms of 8 groups")
        layers: list[nn.Module] = []
        for number, (below, above) in enumerate(pairwise((3, *channels)), 1):
            layers.append(nn.utils.skip_init(nn.Conv2d, below, above, 3, 1, 1, bias=False))
            layers += [nn.GroupNorm(8, above), nn.ReLU()]
            if number < len(channels):
                layers.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*layers)
        self.dropout = Dropout(dropout)
        self.classifier = nn.utils.skip_init(nn.Linear, 2 * channels[-1], things)
        initialisation.fill(self, "he_normal", seed=seed)

    def forward(self, tiles_nhw3: Tensor) -> Tensor:
        pixels = tiles_nhw3.movedim(-1, 1).to(self.classifier.weight.dtype) / 127.5 - 1.0
        features_nfhw = self.body(pixels)
        seen_n2f = torch.cat([features_nfhw.mean((2, 3)), features_nfhw.amax((2, 3))], 1)
        logits_nk: Tensor = self.classifier(self.dropout(seen_n2f))
        return logits_nk
