"""Boxes as a detector gives them: refined, compared, and thinned out.

Boxes are xmin, ymin, xmax, ymax in pixels, half-open, x to the right and y down.
"""

import math

import torch
from torch import Tensor

MOST_GROWTH = math.log(16.0)  # of a side by one refinement: exp of a wild guess would be infinite


def refined(boxes: Tensor, refinements: Tensor, *, image: tuple[int, int]) -> Tensor:
    """Boxes (…, 4) changed as refinements (…, 4) say and cut to an image of (height, width): (…, 4).

    The centre moves by (r0, r1) · (w, h) / 10, the sides grow by the factors exp(r2 / 5) and exp(r3 / 5), at most 16.
    Source: Girshick et al. 2014, arXiv:1311.2524, appendix C; the factors are the usual 1/0.1 and 1/0.2.

    >>> refined(torch.tensor([0.0, 0.0, 10.0, 20.0]), torch.tensor([1.0, 0.0, 0.0, 0.0]), image=(50, 50))
    tensor([ 1.,  0., 11., 20.])
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    centres = (boxes[..., 2:] + boxes[..., :2]) / 2 + refinements[..., :2] / 10 * sides
    halves = sides * (refinements[..., 2:] / 5).clamp(max=MOST_GROWTH).exp() / 2
    least, most = torch.zeros(4), torch.tensor([image[1], image[0], image[1], image[0]])
    return torch.cat([centres - halves, centres + halves], -1).clamp(least.to(boxes), most.to(boxes))


def overlaps(ones: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 4) with boxes (m, 4): (n, m), 0 for two that have no area.

    >>> overlaps(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
    tensor([[0.3333]])
    """
    low = torch.maximum(ones[:, None, :2], others[None, :, :2])
    high = torch.minimum(ones[:, None, 2:], others[None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1) for boxes in (ones, others)]
    union = areas[0][:, None] + areas[1][None] - common
    return torch.where(union > 0, common / union, 0.0)


def suppressed(boxes: Tensor, scores: Tensor, *, overlap: float) -> Tensor:
    """Non-maximum suppression: which of boxes (d, 4) stay, best scores (d,) first: int64 (k,).

    The best box stays, and those go that overlap it by more than `overlap` (intersection over union); then the best of
    the rest, and so on. Of equal scores the earlier one counts as better.

    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 5.0], [8.0, 8.0, 9.0, 9.0]])
    >>> suppressed(boxes, torch.tensor([0.5, 0.9, 0.2]), overlap=0.5)
    tensor([1, 2])
    """
    order = scores.argsort(descending=True, stable=True)
    too_close = (overlaps(boxes[order], boxes[order]) > overlap).cpu()
    gone = torch.zeros(len(order), dtype=torch.bool)
    kept = []
    for place in range(len(order)):
        if not gone[place]:
            kept.append(place)
            gone |= too_close[place]
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]
