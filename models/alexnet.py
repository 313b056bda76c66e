"""The network of cuda-convnet2 that trains on ImageNet on one GPU: five convolutions, three dense layers.

Source: layers-imagenet-1gpu.cfg of cuda-convnet2, with its first weights and names of layers; the one of Krizhevsky
2014, arXiv:1404.5997, "One weird trick", without dropout's inverse scaling (`dropout2` scales when testing).

Shapes: n samples · h rows · w columns · 3 colours · c classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibatch.models.convnet_layers import Pixels, ResponseNorm, begin, pool, pooled
from minibatch.models.noise import Dropout


class AlexNet(nn.Module):
    """Logits (n, c) of images (n, h, w, 3) of any numeric dtype, 0 … 255: of their middle `size` × `size`.

        conv1                 64 filters 11 × 11 at stride 4; response normalisation over 5 maps; pool 3 / 2; relu
        conv2                 192 filters 5 × 5, relu; response normalisation; pool
        conv3, conv4          384 and 256 filters 3 × 3, relu
        conv5                 256 filters 3 × 3; pool; relu
        fc4096a, fc4096b      relu, each followed by dropout of one half
        fc1000                c logits

    size: of a crop. widths: filters of the convolutions; hidden: units of the dense layers; both smaller for small
    images. dropout: of the two dense layers. data.mean is the mean image, zeros until it is set. seed: of the first
    weights, which are normal with deviation 0.01 (conv3 to conv5 0.03); the biases begin with 1 from conv2 on but for
    conv3, and with -7 in fc1000 of 1,000 classes, the logarithm of their share.

    >>> model = AlexNet(size=64, classes=3, widths=(4, 6, 6, 4, 4), hidden=8, seed=1).eval()
    >>> model(torch.zeros(2, 70, 80, 3, dtype=torch.uint8)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        *,
        size: int = 224,
        classes: int = 1000,
        widths: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256),
        hidden: int = 4096,
        dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        one, two, three, four, five = widths
        side = -(-(size - 11) // 4) + 1
        # A last module that stands out over the image sees zeros there, where torch would leave it out: 224 gives 55.
        self._outside = (side - 1) * 4 + 11 - size
        side = pooled(pooled(pooled(side)))
        if size < 11 or side < 1:
            raise ValueError(f"size={size}: expected a crop of at least 36 × 36 pixels")
        meta = torch.device("meta")  # as in convnet.py
        self.data = Pixels(size)
        self.conv1 = nn.Conv2d(3, one, 11, stride=4, device=meta)
        self.rnorm1, self.pool1 = ResponseNorm(5, channels=one, scale=1e-4, offset=2.0), pool()
        self.conv2 = nn.Conv2d(one, two, 5, padding=2, device=meta)
        self.rnorm2, self.pool2 = ResponseNorm(5, channels=two, scale=1e-4, offset=2.0), pool()
        self.conv3 = nn.Conv2d(two, three, 3, padding=1, device=meta)
        self.conv4 = nn.Conv2d(three, four, 3, padding=1, device=meta)
        self.conv5 = nn.Conv2d(four, five, 3, padding=1, device=meta)
        self.pool3 = pool()
        self.fc4096a = nn.Linear(five * side * side, hidden, device=meta)
        self.dropout1 = Dropout(dropout, rescale="test")
        self.fc4096b = nn.Linear(hidden, hidden, device=meta)
        self.dropout2 = Dropout(dropout, rescale="test")
        self.fc1000 = nn.Linear(hidden, classes, device=meta)
        begin(self, FIRST, seed=seed)

    def forward(self, images_nhw3: Tensor) -> Tensor:
        x = F.pad(self.data(images_nhw3), (0, self._outside, 0, self._outside))
        x = F.relu(self.pool1(self.rnorm1(self.conv1(x))))
        x = self.pool2(self.rnorm2(F.relu(self.conv2(x))))
        x = F.relu(self.conv4(F.relu(self.conv3(x))))
        x = F.relu(self.pool3(self.conv5(x)))
        x = self.dropout1(F.relu(self.fc4096a(x.flatten(1))))
        x = self.dropout2(F.relu(self.fc4096b(x)))
        logits_nc: Tensor = self.fc1000(x)
        return logits_nc


# initW and initB of the layers file
FIRST = {
    "conv1": (0.01, 0.0),
    "conv2": (0.01, 1.0),
    "conv3": (0.03, 0.0),
    "conv4": (0.03, 1.0),
    "conv5": (0.03, 1.0),
    "fc4096a": (0.01, 1.0),
    "fc4096b": (0.01, 1.0),
    "fc1000": (0.01, -7.0),
}
