"""What fits what: the checks and reductions that all losses share."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from minibatch.train.batches import shapes_of

Reduce = Literal["mean", "sum", "none"]


def same_shape(name: str, outputs: Tensor, targets: Tensor) -> None:
    """Refuse outputs and targets of different shapes."""
    # (n, 1) against (n,) would broadcast to (n, n): the oldest silent error of this trade.
    if outputs.shape != targets.shape or outputs.ndim == 0:
        raise ValueError(
            f"{name} needs outputs and targets of one shape (n, …), got {shapes_of(outputs)} and {shapes_of(targets)}"
        )


def per_sample(values: Tensor, reduce: Reduce) -> Tensor:
    """Mean or sum over the elements of every sample: (n,); the elements themselves for "none"."""
    if reduce not in ("mean", "sum", "none"):
        raise ValueError(f"reduce={reduce!r}: expected 'mean', 'sum' or 'none' (over the elements of a sample)")
    if reduce == "none" or values.ndim == 1:
        return values
    return values.flatten(1).mean(1) if reduce == "mean" else values.flatten(1).sum(1)


def wide(values: Tensor) -> Tensor:
    """Half precision as float32, because losses add and take logarithms; integers as float32 too; others as they are.

    >>> wide(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    if values.dtype is torch.float32 or values.dtype is torch.float64:
        return values
    return values.float()


def without_autocast(values: Tensor) -> Any:
    """A context in which matrix products of a loss keep the precision of their arguments, also under autocast."""
    return torch.autocast(values.device.type, enabled=False)


def classes_and_labels(name: str, scores: Tensor, labels: Tensor) -> Tensor:
    """The labels as int64, when scores are floating (n, classes, …) and labels integers (n, …)."""
    shape = scores.shape
    fits = scores.ndim >= 2 and labels.shape == (shape[0], *shape[2:])
    if not fits or not scores.is_floating_point() or labels.is_floating_point():
        raise ValueError(
            f"{name} needs floating logits (n, classes, …) and integer labels (n, …), got "
            f"{shapes_of(scores)} and {shapes_of(labels)}"
        )
    return labels if labels.dtype is torch.int64 else labels.long()


def score_of_label(name: str, scores: Tensor, labels: Tensor) -> Tensor:
    """scores[i, labels[i, …], …]: (n, …).

    A label out of range is a ValueError on the CPU; on a device torch's own assertion stops the process later, because
    a check here would wait for the device.
    """
    try:
        return scores.gather(1, labels.unsqueeze(1)).squeeze(1)
    except (IndexError, RuntimeError) as error:
        refuse_labels(name, labels, scores.shape[1], error)
        raise


def refuse_labels(name: str, labels: Tensor, classes: int, error: Exception | None, missing: int | None = None) -> None:
    """Raise ValueError, with rows and range, if a label is none of 0 … classes - 1 (nor `missing`)."""
    if labels.device.type != "cpu" or not labels.numel():
        return
    bad = (labels < 0) | (labels >= classes)
    if missing is not None:
        bad &= labels != missing
    if bad.any():
        samples = bad.reshape(len(bad), -1).any(1).nonzero().flatten()[:10].tolist()
        raise ValueError(
            f"{name}: labels {sorted(set(labels[bad].tolist()))[:10]} in samples {samples} of the batch; the logits "
            f"have {classes} classes, so labels are 0 to {classes - 1}"
            + (" (missing=… names a label that does not count)" if missing is None else f", or missing={missing}")
        ) from error


def without_missing(labels: Tensor, missing: int | None) -> tuple[Tensor, Tensor | None]:
    """Labels with 0 in place of `missing`, and where they were given; None where all of them are."""
    if missing is None:
        return labels, None
    known = labels != missing
    return labels.where(known, 0), known


def known_targets(targets: Tensor, stand_in: Tensor, missing: float | None) -> tuple[Tensor, Tensor | None]:
    """Targets with `stand_in` in place of `missing` (NaN is one value here), and where they were given.

    What does not count must not be computed with: 0 · NaN is NaN, in the gradient too.
    """
    if missing is None:
        return targets, None
    known = ~targets.isnan() if missing != missing else targets != missing
    return targets.where(known, stand_in.to(targets.dtype)), known


def factors(name: str, numbers: Sequence[float], classes: int, like: Tensor, *, normalize: bool = False) -> Tensor:
    """One factor per class as a tensor (classes,) of the dtype and device of `like`, kept between calls.

    normalize: divided by their sum over the classes. Raises ValueError if there are more or fewer than classes, or
    if one is negative or not finite.
    """
    kept = _kept(tuple(numbers), normalize, like.dtype, like.device)
    if len(kept) != classes:
        raise ValueError(f"{name} has {len(kept)} numbers, the logits {classes} classes")
    return kept


@lru_cache(maxsize=64)
def _kept(numbers: tuple[float, ...], normalize: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Made once: a list that is copied to a device in every step makes every step wait for it.
    with torch.inference_mode(False):  # what validation makes first must be of use to training
        return torch.tensor(checked_factors(numbers, normalize=normalize), dtype=dtype, device=device)


def checked_factors(numbers: Sequence[float], *, normalize: bool = False) -> list[float]:
    """Finite numbers ≥ 0 as floats, divided by their sum if `normalize`."""
    given = [float(number) for number in numbers]
    if not given or not all(0.0 <= number < float("inf") for number in given):
        raise ValueError(f"class weights must be finite and ≥ 0, one per class, got {list(numbers)[:20]}")
    if not normalize:
        return given
    total = sum(given)
    if total == 0.0:
        raise ValueError("class weights that are all 0 cannot be normalized by their sum")
    return [number / total for number in given]


def along_classes(numbers: Tensor, scores: Tensor) -> Tensor:
    """Numbers (classes,) with the axes of scores (n, classes, …)."""
    return numbers.view(1, -1, *[1] * (scores.ndim - 2))


def whole_minibatch(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Mark a loss whose values depend on the other samples: its term needs over="minibatch" (`Compared.over`)."""
    loss.__dict__["over"] = "minibatch"
    return loss
