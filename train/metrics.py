"""What is measured on held-out data: exact pairs (numerator, denominator), never means of means.

A metric gives values per sample; over a whole data set, Σ w·m·value and Σ w·m are added in float64, so the result does
not depend on how the data set was cut into minibatches.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from minibatch.train.batches import TensorBatch, shapes_of
from minibatch.train.terms import Column


@dataclass(frozen=True)
class Metric:
    """One measured value: per-sample values (n,) or (n, …) of outputs and batch, averaged with weights and mask.

    >>> Metric("error", lambda outputs, batch: (outputs.argmax(1) != batch["label"])).name
    'error'
    """

    name: str
    values: Callable[[Any, TensorBatch], Tensor]
    _: KW_ONLY
    weight: Column | None = None
    mask: Column | None = None


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the largest logit is that of the label, else 0: float64 (n,), or (n, …) for logits (n, classes, …).

    >>> accuracy(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1]))
    tensor([1., 0.], dtype=torch.float64)
    """
    if logits.ndim < 2 or labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"accuracy needs logits (n, classes, …) and labels (n, …), got {shapes_of(logits)} and {shapes_of(labels)}"
        )
    return (logits.argmax(1) == labels).double()


def error(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the largest logit is not that of the label, else 0: float64 (n,).

    >>> error(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1]))
    tensor([0., 1.], dtype=torch.float64)
    """
    return 1.0 - accuracy(logits, labels)


def top_k(logits: Tensor, labels: Tensor, *, k: int) -> Tensor:
    """1 where the label is among the k largest logits, else 0: float64 (n,); logits (n, classes), labels (n,).

    >>> top_k(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([2]), k=2)
    tensor([1.], dtype=torch.float64)
    """
    if logits.ndim != 2 or not 1 <= k <= logits.shape[1]:
        raise ValueError(f"top_k needs logits (n, classes) and 1 ≤ k ≤ classes, got {shapes_of(logits)} and k={k}")
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(1).to(torch.float64)
