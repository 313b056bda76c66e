"""A small convolutional net that learns CIFAR-10 fast, and the whitening of image patches that its first layer is.

Shapes: n samples · h, w pixels of an image with 3 colours (32, 32) · w1, w2, w3 channels of the stages · c classes.

    image (n, h, w, 3), 0 … 255
      → scaled, (n, 3, h, w) · whitening: 2×2 patches by 12 eigenvectors and their negatives, fixed    (n, 24, h-1, w-1)
      → stage i: conv 3×3, max pool 2, norm, GELU, conv 3×3, norm, GELU                                (n, wi, …)
      → the largest value of every channel · linear · 1/9                                              (n, c)

After Keller Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498 (airbench94, section 3),
which grew out of David Page's ResNet-9 (2018, "How to train your ResNet") and Tysam Balsam's hlb-CIFAR10 (2023).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from minibatch.models import init

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10, colours from 0 to 1
PATCH = 2
VARIANCE_FLOOR = 5e-4  # added to the eigenvalues of patches: what varies less is not blown up to size 1
LOGIT_SCALE = 1 / 9


class FastConvNet(nn.Module):
    """Logits float (n, c) of images (n, h, w, 3) from 0 to 255, of any dtype; h and w at least 9.

    widths: channels of the three stages. The first layer whitens patches once `whiten` has seen images; until then its
    filters are orthonormal. Gains of the norms stay 1; the filters of the first layer, and these, are not trained.

    >>> net = FastConvNet(widths=(16, 32, 32), classes=10, seed=1)
    >>> net(torch.zeros(5, 32, 32, 3, dtype=torch.uint8)).shape
    torch.Size([5, 10])
    >>> [name for name, _ in net.named_children()]
    ['whitening', 'stage1', 'stage2', 'stage3', 'head']
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        widths: Sequence[int] = (64, 256, 256),
        classes: int = 10,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(widths) != 3:
            raise ValueError(f"widths={tuple(widths)!r}: expected the channels of three stages")
        self.register_buffer("mean", 255.0 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255.0 * torch.tensor(std).view(1, 3, 1, 1))
        patch = 3 * PATCH * PATCH
        self.whitening = skip_init(nn.Conv2d, 3, 2 * patch, PATCH)
        self.stage1 = Stage(2 * patch, widths[0])
        self.stage2 = Stage(widths[0], widths[1])
        self.stage3 = Stage(widths[1], widths[2])
        self.head = skip_init(nn.Linear, widths[2], classes, bias=False)
        init.fill(self, "lecun_normal", seed=seed)
        with torch.no_grad():
            for stage in (self.stage1, self.stage2, self.stage3):
                for conv in (stage.conv1, stage.conv2):
                    # As many filters as channels come in begin as the identity, so that depth costs nothing at first.
                    nn.init.dirac_(conv.weight[: conv.in_channels])
            self.whitening.weight.copy_(_with_negatives(torch.eye(patch)))
        self.whitening.weight.requires_grad_(False)
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        x = F.gelu(self.whitening(scaled(image, self.mean, self.std)))
        x = self.stage3(self.stage2(self.stage1(x)))
        logits: Tensor = self.head(x.amax(dim=(2, 3))) * LOGIT_SCALE
        return logits


class Stage(nn.Module):
    """Halves height and width: (n, i, h, w) → (n, o, h // 2, w // 2)."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv1 = skip_init(nn.Conv2d, channels_in, channels, 3, padding=1, bias=False)
        self.norm1 = _norm(channels)
        self.conv2 = skip_init(nn.Conv2d, channels, channels, 3, padding=1, bias=False)
        self.norm2 = _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


def scaled(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images (n, h, w, 3) as (n, 3, h, w) of the dtype of `mean`, less `mean` and divided by `std`."""
    # Seen with another order of axes, they are what torch calls channels_last: convolutions are fastest in this order.
    return (image.permute(0, 3, 1, 2).to(mean.dtype) - mean) / std


@torch.no_grad()
def whiten(net: nn.Module, images: Tensor) -> None:
    """Set the first layer's filters to those that whiten the patches of `images` (n, h, w, 3), from 0 to 255.

    net: a FastConvNet, or a part of one that has its `whitening`, `mean` and `std`.

    >>> net = FastConvNet(widths=(16, 32, 32), seed=1)
    >>> whiten(net, torch.arange(2 * 9 * 9 * 3).view(2, 9, 9, 3) % 256)
    >>> bool((net.whitening.weight[:12] == -net.whitening.weight[12:]).all())
    True
    """
    mean, std, weight = net.get_buffer("mean"), net.get_buffer("std"), net.get_parameter("whitening.weight")
    pixels = scaled(images.to(mean.device), mean, std)
    filters = whitening_filters(patches_of(pixels.double(), PATCH), floor=VARIANCE_FLOOR)
    weight.copy_(_with_negatives(filters))


def patches_of(images: Tensor, size: int) -> Tensor:
    """All patches of `size` × `size` pixels of images (n, c, h, w): (n · (h - size + 1) · (w - size + 1), c · size²).

    >>> patches_of(torch.arange(9.0).view(1, 1, 3, 3), 2)[0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    found = F.unfold(images, size)  # (n, c · size², places)
    return found.transpose(1, 2).reshape(-1, found.shape[1])


def whitening_filters(patches: Tensor, *, floor: float = 0.0) -> Tensor:
    """Rows v / √(λ + floor), for each eigenvalue λ of Σ patches patchesᵀ / n and its eigenvector v: (f, f).

    patches: (n, f), in the dtype that is computed in. The largest eigenvalue comes first. Applied to patches, as
    rows · patch, each gives mean square λ / (λ + floor), and no two go together. The sign of a row is that which makes
    its largest entry positive. Source: Coates and Ng 2012, "Learning Feature Representations with K-Means", section
    2.2, of patches whose mean is not taken off, as in hlb-CIFAR10.

    >>> filters = whitening_filters(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    >>> (torch.tensor([[2.0, 0.0], [0.0, 1.0]]) @ filters.T).square().mean(0).tolist()
    [1.0, 1.0]
    """
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    rows = vectors.T.flip(0)
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    filters: Tensor = rows * largest.sign() / torch.sqrt(values.flip(0).unsqueeze(1) + floor)
    return filters


def _with_negatives(filters: Tensor) -> Tensor:
    """(f, f) rows as the filters of a convolution, and their negatives behind them: (2 f, 3, 2, 2)."""
    return torch.cat((filters, -filters)).view(-1, 3, PATCH, PATCH)


def _norm(channels: int) -> nn.BatchNorm2d:
    """Normalisation over the samples with a trained shift and no gain; its statistics follow fast, for short runs."""
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm
