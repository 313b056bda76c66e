"""The network of cuda-convnet2's 11 % error on CIFAR-10: two convolutions, two locally connected layers, one dense.

Source: layers-cifar10-11pct.cfg of cuda-convnet2 and layers-conv-local-11pct.cfg of cuda-convnet, with their first
weights; the names of the layers are those of the files.

Shapes: n samples · h rows · w columns · 3 colours · c classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from minibatch.models.convnet_layers import LocallyConnected, Pixels, ResponseNorm, begin, pool, pooled


class ConvNet(nn.Module):
    """Logits (n, c) of images (n, h, w, 3) of any numeric dtype, 0 … 255: of their middle `size` × `size`.

        conv1    64 filters 5 × 5, padding 2, relu; pool 3 / 2; response normalisation over 9 maps
        conv2    64 filters 5 × 5, padding 2, relu; response normalisation over 9 maps; pool 3 / 2
        local3   64 filters 3 × 3 of its own at every place, padding 1, relu
        local4   32 of them, relu
        fc10     c logits

    size: of a crop. widths: filters of the four layers. data.mean is the mean image, zeros until it is set. seed: of
    the first weights, which are normal with the deviations of the file (1e-4, 0.01, 0.04, 0.04, 0.01); biases are 0.

    >>> import torch
    >>> model = ConvNet(size=8, widths=(4, 4, 4, 2), seed=1)
    >>> model(torch.zeros(5, 10, 10, 3, dtype=torch.uint8)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        *,
        size: int = 24,
        classes: int = 10,
        widths: tuple[int, int, int, int] = (64, 64, 64, 32),
        seed: int = 0,
    ) -> None:
        super().__init__()
        one, two, three, four = widths
        side = pooled(pooled(size))
        if side < 1:
            raise ValueError(f"size={size}: expected a crop of at least 4 × 4 pixels")
        self.data = Pixels(size)
        # On the meta device constructors draw nothing from the global generator; `begin` gives the values.
        self.conv1 = nn.Conv2d(3, one, 5, padding=2, device="meta")
        self.pool1, self.rnorm1 = pool(), ResponseNorm(9, channels=one, scale=0.001)
        self.conv2 = nn.Conv2d(one, two, 5, padding=2, device="meta")
        self.rnorm2, self.pool2 = ResponseNorm(9, channels=two, scale=0.001), pool()
        self.local3 = LocallyConnected(two, three, size=side, window=3, padding=1)
        self.local4 = LocallyConnected(three, four, size=side, window=3, padding=1)
        self.fc10 = nn.Linear(four * side * side, classes, device="meta")
        begin(self, FIRST, seed=seed)

    def forward(self, images_nhw3: Tensor) -> Tensor:
        x = self.data(images_nhw3)
        x = self.rnorm1(self.pool1(F.relu(self.conv1(x))))
        x = self.pool2(self.rnorm2(F.relu(self.conv2(x))))
        x = F.relu(self.local4(F.relu(self.local3(x))))
        logits_nc: Tensor = self.fc10(x.flatten(1))
        return logits_nc


# initW and initB of the layers file
FIRST = {
    "conv1": (0.0001, 0.0),
    "conv2": (0.01, 0.0),
    "local3": (0.04, 0.0),
    "local4": (0.04, 0.0),
    "fc10": (0.01, 0.0),
}
