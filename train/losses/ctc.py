"""Connectionist temporal classification: a sequence of labels whose places are not known."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minibatch.ragged import Ragged
from minibatch.train.batches import as_tensor, shapes_of
from minibatch.train.losses.shapes import wide


def ctc(
    logits: Tensor,
    targets: Any,
    *,
    input_lengths: Any = None,
    target_lengths: Any = None,
    blank: int = 0,
    zero_infinity: bool = False,
    per_label: bool = False,
) -> Tensor:
    """-log of the probability that the model writes `targets`, over all alignments: (n,).

    logits: floating (n, time, classes), log-probabilities among them. targets: integers (n, longest) without blanks,
    padded behind target_lengths, or a `Ragged` of n sequences, whose own lengths count. input_lengths: steps of every
    sample, None for all of them; target_lengths: labels of every sample, None for all `longest`: for a field "text" of
    lists `on(ctc, "text", target_lengths=of_batch("text_lengths"))`. Lengths are integers (n,), tensors or arrays; on a
    device torch may copy them to the CPU, which waits: keep them on the CPU where that matters.
    blank: the class that writes nothing. per_label: divided by the number of labels (at least 1), as the `mean` of
    torch's ctc_loss does before it averages.

    A sample with fewer steps than it needs has the loss inf and gradients NaN, also under a mask; zero_infinity makes
    both 0. On the CPU a label that is no class, or is the blank, is a ValueError; on a device this is not checked.
    Source: Graves et al. 2006, Connectionist Temporal Classification, equations 6 to 8; torch.nn.functional.ctc_loss.

    >>> ctc(torch.zeros(1, 2, 3), torch.tensor([[1]]))           # "1-", "-1" and "11" of nine: log 3
    tensor([1.0986])
    """
    if logits.ndim != 3 or not logits.is_floating_point():
        raise ValueError(f"ctc needs floating logits (n, time, classes), got {shapes_of(logits)}")
    n, steps, classes = logits.shape
    if not 0 <= blank < classes:
        raise ValueError(f"ctc: blank={blank}, but the logits {shapes_of(logits)} have the classes 0 to {classes - 1}")
    labels, label_lengths = _labels(targets, target_lengths, n)
    steps_used = _lengths("input_lengths", input_lengths, n, steps)
    if n == 0:
        return wide(logits).sum((1, 2))
    _refuse_classes(labels, label_lengths, classes, blank)
    values = F.ctc_loss(
        torch.log_softmax(wide(logits), 2).transpose(0, 1),
        labels.to(logits.device, non_blocking=True),
        steps_used,
        label_lengths,
        blank=blank,
        reduction="none",
        zero_infinity=zero_infinity,
    )
    return values / label_lengths.to(values).clamp(min=1.0) if per_label else values


def _labels(targets: Any, target_lengths: Any, n: int) -> tuple[Tensor, Tensor]:
    """The labels, end to end or padded, and how many each sample has."""
    if isinstance(targets, Ragged):
        if target_lengths is not None:
            raise ValueError("ctc: targets are a Ragged, which has its own lengths: leave target_lengths out")
        if len(targets) != n or isinstance(targets.values, Ragged) or targets.values.ndim != 1:
            raise ValueError(f"ctc needs a Ragged of {n} sequences of integers, got {targets!r}")
        labels, lengths = as_tensor(targets.values), as_tensor(targets.lengths)
    else:
        if not isinstance(targets, Tensor) or targets.ndim != 2 or len(targets) != n:
            raise ValueError(f"ctc needs targets (n, longest) with n = {n}, or a Ragged, got {shapes_of(targets)}")
        labels = targets
        longest = targets.shape[1]
        lengths = _lengths("target_lengths", target_lengths, n, longest)
    if labels.is_floating_point() or labels.dtype is torch.bool:
        raise ValueError(f"ctc needs integer targets, got {shapes_of(labels)}")
    return labels.long(), lengths


def _lengths(name: str, given: Any, n: int, most: int) -> Tensor:
    """Checked lengths of n samples: int64 (n,); `most` for all of them where none are given."""
    if given is None:
        return torch.full((n,), most)
    lengths = torch.as_tensor(as_tensor(given.lengths if isinstance(given, Ragged) else given))
    if lengths.shape != (n,) or lengths.is_floating_point():
        raise ValueError(f"ctc: {name} are {shapes_of(lengths)}, expected integers ({n},), one per sample")
    if lengths.device.type == "cpu" and n and not 0 <= int(lengths.min()) <= int(lengths.max()) <= most:
        raise ValueError(
            f"ctc: {name} from {int(lengths.min())} to {int(lengths.max())}, but there are {most} places: expected 0 "
            f"to {most}"
        )
    return lengths.long()


def _refuse_classes(labels: Tensor, lengths: Tensor, classes: int, blank: int) -> None:
    """torch reads beyond its arrays where a label is no class: look first, where looking does not wait."""
    if labels.device.type != "cpu" or lengths.device.type != "cpu":
        return
    if labels.ndim == 2:
        labels = labels[torch.arange(labels.shape[1]) < lengths[:, None]]
    bad = (labels < 0) | (labels >= classes) | (labels == blank)
    if bad.any():
        raise ValueError(
            f"ctc: targets have the labels {sorted(set(labels[bad].tolist()))[:10]}; expected classes 0 to "
            f"{classes - 1} other than the blank, {blank} (if these are padding, give target_lengths)"
        )
