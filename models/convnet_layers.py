"""Layers of cuda-convnet2 that torch does not have: locally connected, response normalisation across maps, pixels in.

Sources: layer.py, layer.cu and cudaconv3 of cuda-convnet2, https://github.com/akrizhevsky/cuda-convnet2.

Shapes: n samples · h rows · w columns · i channels in · o channels out · k window · l = h·w places of the output.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibatch.models import init as initialisation
from minibatch.models.noise import GOLDEN, MASK_64, mix64


class Pixels(nn.Module):
    """The middle `size` × `size` of images (n, h, w, i) of any numeric dtype, minus the mean image: (n, i, size, size).

    mean: a buffer (size, size, i), zeros until it is set from the training data; float32, or what the model is. Images
    of just that size, crops and views, are taken as they are; of an odd rest one pixel more is cut below and right.

    >>> pixels = Pixels(2)
    >>> _ = pixels.mean.fill_(100)
    >>> pixels(torch.full((5, 4, 4, 3), 101, dtype=torch.uint8)).unique().tolist()
    [1.0]
    """

    mean: Tensor

    def __init__(self, size: int, channels: int = 3) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.zeros(size, size, channels))

    def forward(self, images_nhwi: Tensor) -> Tensor:
        if (
            images_nhwi.ndim != 4
            or min(images_nhwi.shape[1:3]) < self.size
            or images_nhwi.shape[3:] != self.mean.shape[2:]
        ):
            raise ValueError(
                f"images of shape {tuple(images_nhwi.shape)}: expected (n, height, width, {self.mean.shape[2]}), at "
                f"least {self.size} × {self.size} pixels, the colours last"
            )
        top, left = ((length - self.size) // 2 for length in images_nhwi.shape[1:3])
        middle = images_nhwi[:, top : top + self.size, left : left + self.size]
        return (middle.to(self.mean.dtype) - self.mean).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return f"size={self.size}, channels={self.mean.shape[2]}"


class LocallyConnected(nn.Module):
    """A convolution with weights of its own at every place, stride 1: (n, i, h, w) to (n, o, h + 2p - k + 1, …).

    size: h = w of the input; window: k; padding: p zeros at each side. weight: (l, k·k·i, o), of the window the rows
    first, then its columns, then the channels; bias: (l, o). Both are zeros until they are given first values.

    >>> layer = LocallyConnected(2, 3, size=5, window=3, padding=1)
    >>> layer(torch.zeros(4, 2, 5, 5)).shape, layer.weight.shape
    (torch.Size([4, 3, 5, 5]), torch.Size([25, 18, 3]))
    """

    def __init__(self, channels: int, filters: int, *, size: int, window: int, padding: int = 0) -> None:
        super().__init__()
        side = size + 2 * padding - window + 1
        if min(channels, filters, window, side) < 1 or padding < 0:
            raise ValueError(
                f"LocallyConnected({channels}, {filters}, size={size}, window={window}, padding={padding}): expected "
                "positive numbers, and a window that fits"
            )
        self.size, self.window, self.padding, self.side = size, window, padding, side
        self.weight = nn.Parameter(torch.zeros(side * side, window * window * channels, filters))
        self.bias = nn.Parameter(torch.zeros(side * side, filters))

    def forward(self, x_nihw: Tensor) -> Tensor:
        if x_nihw.shape[2:] != (self.size, self.size):
            raise ValueError(
                f"an input of shape {tuple(x_nihw.shape)}: this layer has weights for every place of "
                f"{self.size} × {self.size}"
            )
        side, p = self.side, self.padding
        padded_hwni = F.pad(x_nihw, (p, p, p, p)).permute(2, 3, 0, 1)
        # One product of matrices a place: its samples with what their windows show, times its weights.
        windows_hwnj = torch.cat(
            [padded_hwni[i : i + side, j : j + side] for i in range(self.window) for j in range(self.window)], dim=3
        )
        out_lno: Tensor = torch.baddbmm(self.bias[:, None], windows_hwnj.flatten(0, 1), self.weight)
        return out_lno.view(side, side, *out_lno.shape[1:]).permute(2, 3, 0, 1)

    def extra_repr(self) -> str:
        _, inputs, filters = self.weight.shape
        shape = f"size={self.size}, window={self.window}, padding={self.padding}"
        return f"{inputs // self.window**2}, {filters}, {shape}"


class ResponseNorm(nn.Module):
    """cuda-convnet2's cmrnorm, x / (offset + scale · mean of x² over the `size` maps around each)^power.

    x: (n, i, h, w). Maps beyond the first and the last count as zeros. `scale` is that of a layer-params file, which
    layer.py divides by `size`: so it is the alpha of torch.nn.LocalResponseNorm(size, alpha, beta, k), which this
    equals. offset: minDiv. Krizhevsky et al. 2012, section 3.3; their formula has the sum, so alpha = scale / size.

    >>> ResponseNorm(3, channels=2, scale=3.0, power=1.0)(torch.ones(1, 2, 1, 1)).flatten()    # 1 / (1 + 1 + 1)
    tensor([0.3333, 0.3333])
    """

    band: Tensor

    def __init__(self, size: int, *, channels: int, scale: float, power: float = 0.75, offset: float = 1.0) -> None:
        super().__init__()
        if size < 1 or size % 2 == 0 or channels < 1:
            raise ValueError(f"ResponseNorm({size}, channels={channels}): expected an odd size and a positive number")
        self.size, self.scale, self.power, self.offset = size, scale, power, offset
        maps = torch.arange(channels)
        band = ((maps[:, None] - maps).abs() <= size // 2).float()[:, :, None, None]
        self.register_buffer("band", band, persistent=False)

    def forward(self, x_nihw: Tensor) -> Tensor:
        # The sum over neighbours as a convolution of 1 × 1: six times as fast as torch's layer on a CPU.
        sums = F.conv2d(x_nihw * x_nihw, self.band)
        divisor = self.offset + (self.scale / self.size) * sums
        if self.power == 0.75:  # two roots cost less than a power
            root = divisor.rsqrt()
            factors = root * root.sqrt()
        else:
            factors = divisor.pow(-self.power)
        return x_nihw * factors

    def extra_repr(self) -> str:
        return f"{self.size}, scale={self.scale}, power={self.power}, offset={self.offset}"


@torch.no_grad()
def begin(model: nn.Module, first: Mapping[str, tuple[float, float]], *, seed: int) -> None:
    """First values of layers by name, (initW, initB) of a layers file: weights N(0, initW²), biases all initB.

    seed: 64 bits; each layer's weights are a function of it, of the layer's number in `first` and of its shape.

    >>> net = nn.Sequential(nn.Linear(2, 3))
    >>> begin(net, {"0": (0.01, -7.0)}, seed=1)
    >>> net[0].bias.tolist()
    [-7.0, -7.0, -7.0]
    """
    for number, (name, (deviation, bias)) in enumerate(first.items(), 1):
        layer = model.get_submodule(name)
        if next(layer.parameters()).is_meta:
            layer.to_empty(device=torch.get_default_device())
        initialisation.fill(layer, "lecun_normal", seed=mix64((seed + number * GOLDEN) & MASK_64))
        for kind, parameter in layer.named_parameters():
            if kind == "bias":
                parameter.fill_(bias)
            else:  # drawn with variance 1 / (elements of one output)
                parameter.mul_(deviation * math.sqrt(parameter[0].numel()))


def pooled(size: int) -> int:
    """How long a side is behind pooling of windows 3 at stride 2, where one may stand out at the end (ceil_mode).

    >>> pooled(24), pooled(12), pooled(55)
    (12, 6, 27)
    """
    return -(-(size - 3) // 2) + 1


def pool() -> nn.MaxPool2d:
    """cuda-convnet2's overlapping pooling: the largest of windows of 3 × 3 at stride 2, which may stand out."""
    return nn.MaxPool2d(3, 2, ceil_mode=True)
