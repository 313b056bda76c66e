"""The loss of a detector's boxes."""

import torch
from torch import Tensor

from minibatch.train.batches import shapes_of
from minibatch.train.losses.regression import huber


def own_boxes(refinements: Tensor, targets: Tensor, *, labels: Tensor, beta: float = 1.0) -> Tensor:
    """The Huber loss of each region's box as its own class has it, added up over the four numbers: (n, r).

    refinements: floating (n, r, classes, 4), one box per class; targets: (n, r, 4); labels: int64 (n, r), 0 for
    background, whose loss and gradient are 0 (mask it in the term: `present("roi_labels", missing=0)`), 1 + class for
    the others. beta: see `huber`; 1 is Fast R-CNN's, 0.11 HALCON's.
    Source: Girshick 2015, arXiv:1504.08083, equations 2 and 3; HALCON, train_dl_model_batch, "Huber Loss".

    >>> own_boxes(torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 4), labels=torch.tensor([[2, 0]]), beta=1.0)
    tensor([[2., 0.]])
    """
    n, r = labels.shape[:2] if labels.ndim == 2 else (-1, -1)
    if refinements.ndim != 4 or refinements.shape[::3] != (n, 4) or targets.shape != (n, r, 4):
        raise ValueError(
            f"own_boxes needs refinements (n, r, classes, 4), targets (n, r, 4) and labels (n, r), got "
            f"{shapes_of(refinements)}, {shapes_of(targets)} and {shapes_of(labels)}"
        )
    place = (labels - 1).clamp(min=0)[..., None, None].expand(-1, -1, 1, 4)
    own = refinements.gather(2, place).squeeze(2)
    values = huber(own.flatten(0, 1), targets.flatten(0, 1), beta=beta, reduce="sum").view(n, r)
    return torch.where(labels > 0, values, 0.0)
