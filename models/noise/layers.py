"""Noise layers: dropout of elements, channels and paths, Gaussian noise, and activations that draw.

Every mask is a function of (key of the layer, call, nominal time of the sample, element) alone, see keys.py: the same
for any cut into microbatches, on any device, after a resume and in a recomputation. Inputs are floating (n, …), n
samples; results have their shape and dtype.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from minibatch.models.noise.keys import KeyedNoise
from minibatch.models.noise.words import uniforms

Rescale = Literal["train", "test", "never"]


class Dropout(KeyedNoise):
    """Zero each element with probability `p` and scale the others by 1/(1 - p); identity in eval mode.

    Hinton et al. 2012, arXiv:1207.0580. x: floating (n, …), n samples; the result has its shape and dtype. With
    `per_channel`, whole channels x[i, j] are zeroed (Tompson et al. 2015, arXiv:1411.4280).

    rescale: what makes up for the missing elements:
        "train"   the others are scaled by 1/(1 - p): the "inverted" form, which leaves the test net as it is
        "test"    all are scaled by 1 - p in eval mode: the paper's form, and cuda-convnet2's `dropout2`
        "never"   nothing, so that in eval mode units get larger inputs than in training: theanets 0.6

    >>> from minibatch.models.noise import bind
    >>> layer = Dropout(0.5)
    >>> with bind(layer, lambda name: 7).at(torch.arange(3)):
    ...     layer(torch.ones(3, 4)).unique().tolist()
    [0.0, 2.0]
    >>> Dropout(0.25, rescale="test").eval()(torch.ones(2))
    tensor([0.7500, 0.7500])
    """

    def __init__(self, p: float = 0.5, *, per_channel: bool = False, rescale: Rescale = "train") -> None:
        super().__init__()
        if rescale not in get_args(Rescale):
            raise ValueError(f"rescale={rescale!r}: expected one of {', '.join(map(repr, get_args(Rescale)))}")
        self.p = _probability(p)
        self.per_channel = per_channel
        self.rescale = rescale

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0.0:
            return x
        if not self.training:
            return x * (1.0 - self.p) if self.rescale == "test" else x
        if self.p == 1.0:
            return x * 0.0
        shape = _channels(self, x) if self.per_channel else x.shape
        keep = kept(self, x, self.p, shape)
        return _masked(x, keep, 1.0 / (1.0 - self.p) if self.rescale == "train" else 1.0)

    def extra_repr(self) -> str:
        channels = ", per_channel=True" if self.per_channel else ""
        return f"p={self.p}{channels}" + (f", rescale={self.rescale!r}" if self.rescale != "train" else "")


class DropPath(KeyedNoise):
    """Zero whole samples with probability `p` and scale the others by 1/(1 - p), unless not `rescale`.

    Put at the end of a residual branch it skips the branch: stochastic depth, Huang et al. 2016, arXiv:1603.09382.

    >>> from minibatch.models.noise import bind
    >>> layer = DropPath(0.5)
    >>> with bind(layer, lambda name: 7).at(torch.arange(4)):
    ...     layer(torch.ones(4, 2)).tolist()
    [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [2.0, 2.0]]
    """

    def __init__(self, p: float = 0.1, *, rescale: bool = True) -> None:
        super().__init__()
        self.p = _probability(p)
        self.rescale = rescale

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if self.p == 1.0:
            return x * 0.0
        keep = kept(self, x, self.p, x.shape[:1] + (1,) * (x.ndim - 1))
        return _masked(x, keep, 1.0 / (1.0 - self.p) if self.rescale else 1.0)

    def extra_repr(self) -> str:
        return f"p={self.p}" + ("" if self.rescale else ", rescale=False")


class AlphaDropout(KeyedNoise):
    """Dropout that keeps mean 0 and variance 1 of SELU units: dropped elements take the value -λα, then a·x + b.

    Klambauer et al. 2017, arXiv:1706.02515, equations 4 and 5. With `per_channel`, whole channels x[i, j] are dropped.

    >>> from minibatch.models.noise import bind
    >>> layer = AlphaDropout(0.5)
    >>> with bind(layer, lambda name: 7).at(torch.arange(2)):
    ...     layer(torch.zeros(2, 3))
    tensor([[-0.7792, -0.7792,  0.7792],
            [-0.7792,  0.7792,  0.7792]])
    """

    LEAST = -1.7580993408473766  # -λα of SELU, its value far left

    def __init__(self, p: float = 0.5, *, per_channel: bool = False) -> None:
        super().__init__()
        self.p = _probability(p)
        self.per_channel = per_channel

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if self.p == 1.0:
            return x * 0.0
        keep = kept(self, x, self.p, _channels(self, x) if self.per_channel else x.shape)
        a = 1.0 / math.sqrt((1.0 - self.p) * (1.0 + self.p * self.LEAST**2))
        return x.where(keep, self.LEAST) * a - a * self.p * self.LEAST

    def extra_repr(self) -> str:
        return f"p={self.p}" + (", per_channel=True" if self.per_channel else "")


class GaussianNoise(KeyedNoise):
    """Add independent N(0, sigma²) to each element; identity in eval mode. x: floating (n, …); sigma: a deviation.

    >>> layer = GaussianNoise(0.1).eval()
    >>> layer(torch.ones(2))
    tensor([1., 1.])
    """

    draws_normals = True

    def __init__(self, sigma: float) -> None:
        super().__init__()
        if not (sigma >= 0.0 and math.isfinite(sigma)):
            raise ValueError(f"sigma={sigma}: expected a standard deviation, finite and ≥ 0")
        self.sigma = float(sigma)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.sigma == 0.0:
            return x
        noise = self.normals(x)
        return x + (noise * self.sigma).to(x.dtype)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


class NoisyReLU(KeyedNoise):
    """max(0, x + N(0, sigmoid(x))) in train mode, sigmoid(x) being the variance; max(0, x) in eval mode.

    Nair and Hinton 2010, "Rectified linear units improve restricted Boltzmann machines", section 2. The gradient takes
    the noise as given. cuda-convnet2's `nrelu`, "max(0, x) + noise", is ReLU with a GaussianNoise behind it.

    >>> NoisyReLU().eval()(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    draws_normals = True

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x.relu()
        noise = self.normals(x).to(x.dtype)
        return (x + x.detach().sigmoid().sqrt() * noise).relu()


class RReLU(KeyedNoise):
    """x where x ≥ 0, else x times a slope drawn from U(lower, upper) for each element; the mean slope in eval mode.

    Xu et al. 2015, arXiv:1505.00853, section 2.4; torch's nn.RReLU, keyed.

    >>> RReLU(0.1, 0.3).eval()(torch.tensor([-1.0, 2.0]))
    tensor([-0.2000,  2.0000])
    """

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3) -> None:
        super().__init__()
        if not (math.isfinite(lower) and math.isfinite(upper) and lower <= upper):
            raise ValueError(f"lower={lower}, upper={upper}: expected finite slopes, lower ≤ upper")
        self.lower, self.upper = float(lower), float(upper)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.lower == self.upper:
            return torch.nn.functional.leaky_relu(x, (self.lower + self.upper) / 2)
        share = uniforms(self.words(x, math.prod(x.shape[1:]))).view(x.shape)
        slope = (self.lower + (self.upper - self.lower) * share).to(x.dtype)
        return x.where(x >= 0, x * slope)

    def extra_repr(self) -> str:
        return f"lower={self.lower}, upper={self.upper}"


def kept(layer: KeyedNoise, x: Tensor, p: float, shape: tuple[int, ...]) -> Tensor:
    """Which parts of x survive with probability 1 - p: bool of `shape` (n, …), one draw for each of its elements.

    Of a word as a signed number: word ≥ 2^32 · p - 2^31, round(2^32 · p) if that fits.
    """
    # p = 1 - 2^-40 would overflow the threshold: the largest word then still survives, once in 2^32.
    threshold = min(round(p * 2**32), 2**32 - 1) - 2**31
    return (layer.words(x, math.prod(shape[1:])) >= threshold).view(shape)


def _masked(x: Tensor, keep: Tensor, scale: float) -> Tensor:
    if x.dtype in (torch.bfloat16, torch.float16):
        # 1/(1 - p) as a number of 8 or 11 bits would be off by up to 0.2 %, in the mean of every layer.
        return x * keep * scale
    return x * keep.to(x.dtype).mul_(scale)


def _channels(layer: KeyedNoise, x: Tensor) -> tuple[int, ...]:
    if x.ndim < 2:
        raise ValueError(
            f"{type(layer).__name__}(per_channel=True) needs an input (n, channels, …), got shape {tuple(x.shape)}"
        )
    return x.shape[:2] + (1,) * (x.ndim - 2)


def _probability(p: float) -> float:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p={p}: expected a probability, 0 ≤ p ≤ 1")
    return float(p)
