"""Region of interest pooling: the maxima of a grid of bins inside each region, whatever the region's size.

Shapes: n images · c channels · h × w cells of the features · r regions of an image · p × q bins.

Source: Girshick 2015, "Fast R-CNN", arXiv:1504.08083, section 2.1 (He et al. 2014, arXiv:1406.4729), with the rounding
of its RoIPoolLayer: corners are rounded to whole cells, both of them belong to the region, and bins that do not divide
it evenly overlap. A bin boundary is floor(i · cells / p), in integers: exact where other implementations round floats.
"""

from typing import Any

import torch
from torch import Tensor


def roi_pool(features_nchw: Tensor, rois_nr4: Tensor, *, size: tuple[int, int], scale: float) -> Tensor:
    """The largest value of every bin of every region: (n, r, c, p, q).

    rois: xmin, ymin, xmax, ymax in pixels of the image; scale: cells per pixel (1/8 for a body of stride 8); size: p
    and q. Parts of a region outside the features count as nothing, and a bin without cells is 0. The gradient of a bin
    goes to its largest cell, of equal ones to the first, row by row; there is none for rois. It is added up in the
    same order on every run, on the CPU and on a GPU.

    The cost of a bin does not depend on its size: maxima over windows of 1, 2, 4 … cells are made once for all.

    >>> features = torch.arange(16.0).view(1, 1, 4, 4)
    >>> roi_pool(features, torch.tensor([[[0.0, 0.0, 3.0, 1.0]]]), size=(1, 2), scale=1.0)
    tensor([[[[[5., 7.]]]]])
    """
    if features_nchw.ndim != 4 or rois_nr4.ndim != 3 or rois_nr4.shape[::2] != (len(features_nchw), 4):
        raise ValueError(
            f"roi_pool needs features (n, c, h, w) and rois (n, r, 4), got {tuple(features_nchw.shape)} and "
            f"{tuple(rois_nr4.shape)}"
        )
    places = bins(rois_nr4, size, scale, *features_nchw.shape[2:])
    if torch.is_grad_enabled() and features_nchw.requires_grad:
        pooled: Tensor = RoiPool.apply(features_nchw, places)  # type: ignore[no-untyped-call]
    else:
        pooled, _ = maxima(features_nchw, places, with_cells=False)
    return pooled.view(*rois_nr4.shape[:2], *size, features_nchw.shape[1]).movedim(-1, 2)


def bins(rois_nr4: Tensor, size: tuple[int, int], scale: float, height: int, width: int) -> Tensor:
    """Top, left, bottom and right of all bins in cells, half-open: int64 (4, n, r · p · q)."""
    corners = rois_nr4.detach().double() * scale
    whole = corners.floor()
    # Halves are rounded up: torch.round would take the even one.
    left, top, right, bottom = (whole + (corners - whole >= 0.5)).long().unbind(-1)
    edges = []
    for first, last, count, limit in ((top, bottom, size[0], height), (left, right, size[1], width)):
        cells = (last - first + 1).clamp(min=1).unsqueeze(-1)
        numbers = torch.arange(count, device=corners.device)
        begins = first.unsqueeze(-1) + (numbers * cells).div(count, rounding_mode="floor")
        ends = first.unsqueeze(-1) - (-(numbers + 1) * cells).div(count, rounding_mode="floor")
        edges.append((begins.clamp(0, limit), ends.clamp(0, limit)))
    (tops, bottoms), (lefts, rights) = edges
    shape = (*rois_nr4.shape[:2], *size)
    rows = (tops.unsqueeze(-1).expand(shape), bottoms.unsqueeze(-1).expand(shape))
    columns = (lefts.unsqueeze(-2).expand(shape), rights.unsqueeze(-2).expand(shape))
    return torch.stack([rows[0], columns[0], rows[1], columns[1]]).flatten(2)


class RoiPool(torch.autograd.Function):
    """`maxima` of features (n, c, h, w) over bins int64 (4, n, b), with a gradient: (n, b, c)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, places: Tensor) -> Tensor:
        values, cells = maxima(features, places, with_cells=True)
        ctx.save_for_backward(cells)
        ctx.shape = features.shape
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (cells,) = ctx.saved_tensors
        n, c, h, w = ctx.shape
        # One cell more takes what belongs to bins without cells.
        sums = gradients[0].new_zeros(n, c, h * w + 1)
        index, values = cells.long().transpose(1, 2), gradients[0].transpose(1, 2)
        if sums.device.type == "cpu":
            sums.scatter_add_(2, index.contiguous(), values.contiguous())  # one after another along the last axis
        else:
            # Here scatter_add_ would add in any order; this sorts first.
            images = torch.arange(n, device=sums.device).view(n, 1, 1).expand_as(index)
            channels = torch.arange(c, device=sums.device).view(1, c, 1).expand_as(index)
            sums.index_put_((images, channels, index), values, accumulate=True)
        return sums[..., : h * w].reshape(n, c, h, w), None


def maxima(features: Tensor, places: Tensor, *, with_cells: bool) -> tuple[Tensor, Tensor | None]:
    """The largest value of each bin, 0 without cells, and its cell, h · w without: (n, b, c), int32 (n, b, c).

    Rows [t, e) are covered by two windows of 2^k rows, k as large as fits, of which one begins at t and the other ends
    at e; columns likewise. The largest bin is waited for: it says how large windows have to be.
    """
    n, c, h, w = features.shape
    tops, lefts, bottoms, rights = places
    rows, columns = bottoms - tops, rights - lefts
    empty = ((rows <= 0) | (columns <= 0)).unsqueeze(-1)
    down, across = exponents(rows), exponents(columns)
    limits = (int(down.max()), int(across.max())) if down.numel() else (0, 0)
    # (levels of rows, of columns, n, h, w, c), so that the channels of a cell stand together.
    tables = windows(features.movedim(1, -1).contiguous(), limits, with_cells=with_cells)
    flat = [table.flatten(0, 4) for table in tables]
    images = torch.arange(n, device=places.device).unsqueeze(-1)
    level = (down * (limits[1] + 1) + across) * n + images
    best: list[Tensor] = []
    for y in (tops, bottoms - 2**down):
        for x in (lefts, rights - 2**across):
            at = ((level * h + y.clamp(0, h - 1)) * w + x.clamp(0, w - 1)).flatten()
            found = [table.index_select(0, at) for table in flat]
            best = larger(best, found) if best else found
    shape = (*tops.shape, c)
    values = best[0].view(shape).masked_fill(empty, 0.0)
    return values, best[1].view(shape).masked_fill(empty, h * w) if with_cells else None


def windows(features_nhwc: Tensor, limits: tuple[int, int], *, with_cells: bool) -> list[Tensor]:
    """Maxima over windows of 2^i × 2^j cells that begin at each cell: (i, j, n, h, w, c); and their cells, int32."""
    _, h, w, _ = features_nhwc.shape
    one = [features_nhwc]
    if with_cells:
        numbers = torch.arange(h * w, dtype=torch.int32, device=features_nhwc.device).view(1, h, w, 1)
        one.append(numbers.expand_as(features_nhwc))
    rows = doubled(one, limits[0], axis=1)
    both = [doubled(level, limits[1], axis=2) for level in rows]
    return [torch.stack([torch.stack([level[part] for level in row]) for row in both]) for part in range(len(one))]


def doubled(first: list[Tensor], limit: int, *, axis: int) -> list[list[Tensor]]:
    """Windows of 1, 2, 4 … 2^limit cells along `axis`; those that reach over the end take what there is."""
    levels = [first]
    for k in range(limit):
        length = first[0].shape[axis]
        later = (torch.arange(length, device=first[0].device) + 2**k).clamp(max=length - 1)
        levels.append(larger(levels[-1], [part.index_select(axis, later) for part in levels[-1]]))
    return levels


def larger(ones: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    """The larger of two values, and its cell if cells are given: of equal ones the smaller number."""
    if len(ones) == 1:
        return [torch.maximum(ones[0], others[0])]
    (a, cell_a), (b, cell_b) = ones, others
    second = (b > a) | ((b == a) & (cell_b < cell_a))
    return [torch.where(second, b, a), torch.where(second, cell_b, cell_a)]


def exponents(counts: Tensor) -> Tensor:
    """The largest k with 2^k ≤ count, 0 for counts below 1: int64, in the shape of counts.

    >>> exponents(torch.tensor([0, 1, 2, 3, 4, 7, 8]))
    tensor([0, 0, 1, 1, 2, 2, 3])
    """
    powers = 2 ** torch.arange(1, 32, device=counts.device)
    return torch.bucketize(counts, powers, right=True)
