"""The filters of a convolution on colours as a picture: shownet.py --show-filters of cuda-convnet2."""

from pathlib import Path

import numpy as np
from torch import Tensor

from minibatch.errors import require


def draw_filters(path: Path, weight: Tensor, columns: int = 16) -> None:
    """Write filters (o, 3, k, k) as PNG, each stretched to its own range (--norm-filters), `columns` in a line."""
    require("matplotlib", "train", "drawing filters")
    from matplotlib.figure import Figure

    filters = weight.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    low = filters.min((1, 2, 3), keepdims=True)
    spread = np.maximum(filters.max((1, 2, 3), keepdims=True) - low, 1e-12)
    count, side = len(filters), filters.shape[1]
    lines = -(-count // columns)
    picture = np.ones((lines * (side + 1) + 1, columns * (side + 1) + 1, 3))
    for number, one in enumerate((filters - low) / spread):
        top, left = (place * (side + 1) + 1 for place in divmod(number, columns))
        picture[top : top + side, left : left + side] = one
    figure = Figure(figsize=(8, 8 * len(picture) / picture.shape[1]))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    axes.imshow(picture, interpolation="nearest")
    figure.savefig(path, dpi=120)
