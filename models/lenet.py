"""LeNet-5 as MindSpore's tutorials have it: rectified, with pooling by the maximum, and no connection left out.

LeCun, Bottou, Bengio and Haffner 1998, Gradient-based learning applied to document recognition, section II.B.
Shapes: n samples · c channels · 32 × 32 pixels · 6 and 16 maps · k classes.
"""

import torch
from torch import Tensor, nn

from minibatch.models import init as initialisation
from minibatch.models.convnet_layers import begin

SIDE = 32  # pixels: the two convolutions and poolings make 5 × 5 of them
MAPS = 16
# Deviation of the weights, and bias: MindSpore's default for nn.Conv2d, and what its LeNet gives nn.Dense.
MINDSPORE = {"0": (0.01, 0.0), "3": (0.01, 0.0), "7": (0.02, 0.0), "9": (0.02, 0.0), "11": (0.02, 0.0)}


class LeNet(nn.Module):
    """Logits (n, k) of images (n, 32, 32), or (n, c, 32, 32) with c channels.

    convolution 5 × 5 to 6 maps, pooling 2 × 2, convolution 5 × 5 to 16 maps, pooling 2 × 2, then 120, 84 and k units.

    init: a name in `models.init.RULES`, or "mindspore": N(0, 0.01²) in the convolutions and N(0, 0.02²) in the linear
    layers, biases zero. seed: of the weights (an engine passes `minibatch.rng.key(seed, "init")`).

    >>> LeNet(seed=1)(torch.zeros(5, 32, 32)).shape
    torch.Size([5, 10])
    """

    def __init__(self, *, classes: int = 10, channels: int = 1, init: str = "mindspore", seed: int = 0) -> None:
        super().__init__()
        if min(classes, channels) < 1:
            raise ValueError(f"classes={classes}, channels={channels}: expected at least 1 of each")
        # On the meta device the constructors draw nothing from the global generator; the values come below.
        with torch.device("meta"):
            self.layers = nn.Sequential(
                nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(6, MAPS, 5), nn.ReLU(), nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(MAPS * 5 * 5, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes),
            )  # fmt: skip
        self.to_empty(device=torch.get_default_device())
        if init == "mindspore":
            begin(self.layers, MINDSPORE, seed=seed)
        elif init in initialisation.RULES:
            initialisation.fill(self, init, seed=seed)
        else:
            raise ValueError(f"init={init!r} is not known; one of mindspore, {', '.join(initialisation.RULES)}")

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim == 3:
            images = images[:, None]
        if images.shape[-2:] != (SIDE, SIDE):
            raise ValueError(f"LeNet takes images of {SIDE} × {SIDE} pixels, got {tuple(images.shape)}: resize them")
        logits_nk: Tensor = self.layers(images)
        return logits_nk
