"""Losses over a whole minibatch (in-batch negatives, distances of distributions) under microbatches, exactly.

In two stages: the outputs of all microbatches are computed without graphs and put together; the loss on them gives the
gradient of every output, from which each microbatch, computed once more, goes backward. Noise is keyed to nominal time,
so both passes see the same. Source: Gao et al. 2021, arXiv:2101.06983, section 3.2 ("gradient cache").
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minibatch.train.batches import shapes_of
from minibatch.train.guard import Buffers
from minibatch.train.outputs import tensors_in, with_tensors

if TYPE_CHECKING:
    from minibatch.train.gradient import Gradient, Part


def gradients_of_outputs(gradient: "Gradient", part: "Part", on_host: bool) -> dict[int, Tensor]:
    """The gradients of the model's outputs, by their number in `tensors_in`, of the losses over the whole minibatch.

    The numerators of these losses are added up; gradients of parameters inside the losses are left in their `grad`.
    """
    from minibatch.train.gradient import is_per_sample, wrong_values

    n = part.batch.num_samples
    outputs, whole = outputs_of(gradient, part)
    leaves = [tensor.requires_grad_(tensor.is_floating_point()) for tensor in whole]
    outputs = with_tensors(outputs, leaves)
    roots, seeds = [], []
    for share in part.shares:
        if share.total == 0.0 or share.term.over != "minibatch":
            continue
        values = share.term.loss(outputs, part.batch)
        if not is_per_sample(values, n):
            raise wrong_values(share, values, part.batch, outputs)
        share.count(values, 0, n)
        if values.requires_grad:
            roots.append(values)
            seeds.append(gradient.seed(share, values, 0, n))
            values = values.detach()
        gradient.take(share, values, part.batch, 0, n, on_host)
    if roots:
        torch.autograd.backward(roots, seeds)
    return {number: leaf.grad for number, leaf in enumerate(leaves) if leaf.grad is not None}


@torch.no_grad()
def outputs_of(gradient: "Gradient", part: "Part") -> tuple[Any, list[Tensor]]:
    """The output of one microbatch, for its structure, and the tensors in the outputs of all of them, (n, …) each."""
    buffers = Buffers(gradient.model)  # a pass that is computed again later must not count twice
    pieces: list[list[Tensor]] = []
    outputs = None
    for start, stop in sorted(part.cuts):
        batch = part.batch.part(start, stop)
        with gradient.contexts(part, batch, start, stop):
            outputs = part.forward(gradient.model, batch)
        tensors = tensors_in(outputs)
        for tensor in tensors:
            if not tensor.ndim or tensor.shape[0] != stop - start:
                names = ", ".join(share.term.name for share in part.shares if share.term.over == "minibatch")
                raise ValueError(
                    f"terms over the whole minibatch ({names}) need outputs with samples on the first axis, so that "
                    f"those of microbatches can be put together; got {shapes_of(outputs)} for {stop - start} samples"
                )
        pieces.append(tensors)
    buffers.put_back()
    return outputs, [torch.cat(column).detach() for column in zip(*pieces, strict=True)]
