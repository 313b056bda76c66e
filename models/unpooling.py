"""Max pooling that says where the maxima stood, and unpooling that puts values back there: deterministic both ways.

torch's `max_unpool2d`, and the backward pass of `max_pool2d`, add values by index, on a GPU in any order. Windows that
do not overlap need no addition: every pixel lies in one window. So both layers only lay windows side by side and
compare places; the same bits come out on every run, forward and backward.

Shapes: n samples · c channels · h, w pixels · p pixels of a window in each direction.
"""

import torch
from torch import Tensor, nn


class MaxPool(nn.Module):
    """Maxima of windows of p × p pixels that do not overlap, and their places: (n, c, h, w) → two (n, c, h/p, w/p).

    A place is int64, 0 … p·p - 1, row by row in the window; of equal maxima the first one counts. The gradient of a
    maximum goes to its place alone. stride: p, because windows that overlap are refused; h and w are multiples of p.

    >>> pool = MaxPool(2)
    >>> maxima, places = pool(torch.tensor([[[[1.0, 5.0, 0.0, 0.0], [2.0, 3.0, 0.0, 4.0]]]]))
    >>> maxima.flatten().tolist(), places.flatten().tolist()
    ([5.0, 4.0], [1, 3])
    """

    def __init__(self, window: int, *, stride: int | None = None) -> None:
        super().__init__()
        self.window = checked_window("MaxPool", window, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        windows = side_by_side(x, self.window)
        places = windows.detach().argmax(-1)
        # Not by index: the gradient of `gather` is an addition.
        return torch.where(at_places(places, self.window), windows, 0.0).sum(-1), places

    def extra_repr(self) -> str:
        return f"{self.window}"


class Unpool(nn.Module):
    """The values of windows at their places, zeros elsewhere: twice (n, c, h, w) → (n, c, h·p, w·p). CNTK's Unpooling.

    places: as `MaxPool` of the same window gives them. Zeiler et al. 2011, "Adaptive deconvolutional networks for mid
    and high level feature learning", section 2.1, call them switches.

    >>> Unpool(2)(torch.tensor([[[[5.0]]]]), torch.tensor([[[[1]]]]))
    tensor([[[[0., 5.],
              [0., 0.]]]])
    """

    def __init__(self, window: int, *, stride: int | None = None) -> None:
        super().__init__()
        self.window = checked_window("Unpool", window, stride)

    def forward(self, values: Tensor, places: Tensor) -> Tensor:
        if values.ndim != 4 or values.shape != places.shape:
            raise ValueError(
                f"Unpool needs values and places of one shape (n, c, h, w), got {tuple(values.shape)} and "
                f"{tuple(places.shape)}"
            )
        return in_one_piece(torch.where(at_places(places, self.window), values.unsqueeze(-1), 0.0), self.window)

    def extra_repr(self) -> str:
        return f"{self.window}"


def side_by_side(x: Tensor, window: int) -> Tensor:
    """The pixels of each window on an axis of their own: (n, c, h, w) → (n, c, h/p, w/p, p·p)."""
    if x.ndim != 4 or x.shape[2] % window or x.shape[3] % window or not x.numel():
        raise ValueError(
            f"pooling by windows of {window} × {window} needs images (n, c, h, w) with h and w multiples of {window}, "
            f"got {tuple(x.shape)}: pad or crop them before"
        )
    n, c, h, w = x.shape
    cut = x.reshape(n, c, h // window, window, w // window, window)
    return cut.transpose(3, 4).flatten(4)


def in_one_piece(windows: Tensor, window: int) -> Tensor:
    """What `side_by_side` took apart: (n, c, h, w, p·p) → (n, c, h·p, w·p)."""
    n, c, h, w, _ = windows.shape
    return windows.view(n, c, h, w, window, window).transpose(3, 4).reshape(n, c, h * window, w * window)


def at_places(places: Tensor, window: int) -> Tensor:
    """Which pixel of its window each place is: bool (…, p·p), true once."""
    chosen: Tensor = places.unsqueeze(-1) == torch.arange(window * window, device=places.device)
    return chosen


def checked_window(owner: str, window: int, stride: int | None) -> int:
    """The window's size; ValueError if it is none, or if a stride makes windows overlap or leave gaps."""
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ValueError(f"{owner}(window={window!r}): expected a number of pixels, at least 1")
    if stride not in (None, window):
        raise ValueError(
            f"{owner}(window={window}, stride={stride}): windows must lie side by side (stride {window}), because "
            "pixels that several windows share would have to be added up by index, which is not deterministic on a GPU"
        )
    return window
