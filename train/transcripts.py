"""What the outputs of connectionist temporal classification say, read greedily."""

import torch
from torch import Tensor

from minibatch.train.batches import shapes_of


def greedy(logits: Tensor, steps: Tensor, *, blank: int = 0) -> list[list[int]]:
    """The best class of every step, repetitions as one, without blanks: n lists of class numbers.

    logits: (n, time, classes); steps: integers (n,), how many of the steps count. This is the labelling of the best
    path, which need not be the best labelling.
    Source: Graves et al. 2006, Connectionist Temporal Classification, equation 4.

    >>> logits = torch.eye(3)[torch.tensor([[1, 1, 0, 1, 2]])]
    >>> greedy(logits, torch.tensor([5])), greedy(logits, torch.tensor([3]))
    ([[1, 1, 2]], [[1]])
    """
    if logits.ndim != 3 or steps.shape != logits.shape[:1]:
        raise ValueError(f"greedy needs logits (n, time, classes) and steps (n,), got {shapes_of((logits, steps))}")
    best = logits.argmax(2)
    new = torch.ones_like(best, dtype=torch.bool)
    new[:, 1:] = best[:, 1:] != best[:, :-1]
    inside = torch.arange(best.shape[1], device=best.device) < steps[:, None]
    written = new & inside & (best != blank)
    return [each[keep].tolist() for each, keep in zip(best.cpu(), written.cpu(), strict=True)]
