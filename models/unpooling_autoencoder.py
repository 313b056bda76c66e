"""An autoencoder of convolutions and poolings, whose decoder unpools to where the maxima stood and deconvolves.

A stage is convolution, ReLU and max pooling; the decoder goes back through the stages, each unpooling and transposed
convolution, with a ReLU behind all but the last. CNTK 2.x, "Image auto encoder using deconvolution and unpooling", has
one stage of one map, a window of 4 × 4 and kernels of 5 × 5. The decoder sees the places of the maxima beside the code:
it is not told by the code's numbers alone (see Zhao et al. 2015, arXiv:1506.02351, "what" and "where").

Shapes: n images · c channels · h, w pixels · m maps of a stage.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minibatch.models import init
from minibatch.models.unpooling import MaxPool, Unpool


class UnpoolingAutoencoder(nn.Module):
    """Reconstructions (n, c, h, w) of images (n, c, h, w), floating; h and w multiples of the product of the windows.

    maps: of each stage. windows: of each stage, pixels to pool in each direction. kernel: of convolutions and
    deconvolutions, odd. seed: of the first weights: He's rule for convolutions, LeCun's for deconvolutions, N(0, 1 / f)
    of the f numbers that a pixel is computed from; biases begin at 0. It learns faster from images around 0.

    >>> net = UnpoolingAutoencoder(channels=3, maps=(8, 4), windows=(2, 2), seed=1)
    >>> code, places = net.encode(torch.zeros(5, 3, 32, 32))
    >>> code.shape, [tuple(each.shape) for each in places], net.decode(code, places).shape
    (torch.Size([5, 4, 8, 8]), [(5, 8, 16, 16), (5, 4, 8, 8)], torch.Size([5, 3, 32, 32]))
    """

    def __init__(
        self,
        *,
        channels: int,
        maps: Sequence[int] = (1,),
        windows: Sequence[int] = (4,),
        kernel: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not maps or len(maps) != len(windows) or min(maps) < 1 or channels < 1:
            raise ValueError(
                f"UnpoolingAutoencoder(channels={channels}, maps={tuple(maps)}, windows={tuple(windows)}): expected "
                "positive numbers, and one window for the maps of each stage"
            )
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"UnpoolingAutoencoder(kernel={kernel}): expected an odd number, which has a middle")
        sizes = (channels, *maps)
        border = kernel // 2
        # On the meta device the constructors draw nothing from the global generator; `fill` below gives the values.
        with torch.device("meta"):
            self.convolutions = nn.ModuleList(
                nn.Conv2d(below, above, kernel, padding=border) for below, above in zip(sizes, maps, strict=False)
            )
            self.deconvolutions = nn.ModuleList(
                nn.ConvTranspose2d(above, below, kernel, padding=border)
                for below, above in zip(sizes[-2::-1], sizes[:0:-1], strict=True)
            )
        self.to_empty(device=torch.get_default_device())
        self.pools = nn.ModuleList(MaxPool(window) for window in windows)
        self.unpools = nn.ModuleList(Unpool(window) for window in reversed(windows))
        init.fill(self, "he_normal", seed=seed)
        with torch.no_grad():
            for deconvolution, above, below in zip(self.deconvolutions, sizes[:0:-1], sizes[-2::-1], strict=True):
                # He's rule took the maps of the result for those of the input: their axes are the other way round.
                deconvolution.weight.mul_((below / (2.0 * above)) ** 0.5)  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(*self.encode(images))

    def encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The code (n, m, h', w') of the last stage, and the places of the maxima of every stage."""
        x, places = images, []
        for convolution, pool in zip(self.convolutions, self.pools, strict=True):
            x, found = pool(convolution(x).relu())
            places.append(found)
        return x, places

    def decode(self, code: Tensor, places: Sequence[Tensor]) -> Tensor:
        """Reconstructions (n, c, h, w) of what `encode` gave."""
        x = code
        last = len(self.deconvolutions) - 1
        stages = zip(self.unpools, self.deconvolutions, reversed(places), strict=True)
        for number, (unpool, deconvolution, found) in enumerate(stages):
            x = deconvolution(unpool(x, found))
            if number < last:
                x = x.relu()
        return x
