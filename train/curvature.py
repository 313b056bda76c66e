"""Curvature of a step's objective along given directions, by differentiating twice, for optimizers that ask for it.

Such an optimizer has `curvature_due(step)`, `directions(key)` (a tensor r for each of its parameters) and
`take_curvature(products)`, which gets H r. H is the second derivative of what the step minimises without weight
regularizers; where the optimizer's `block_diagonal` is true, only that of each parameter tensor with itself.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minibatch.train.guard import Buffers

if TYPE_CHECKING:
    from minibatch.train.gradient import Gradient, Part


def products_for(optimizer: Any, gradient: "Gradient", parts: Sequence["Part"], key: int) -> bool:
    """Hand `optimizer` the products of curvature and its directions for the step; gradients stay as they are."""
    directions: Mapping[Tensor, Tensor] = optimizer.directions(key)
    parameters = list(directions)
    everyone = list(gradient.model.parameters())
    gradients = [parameter.grad for parameter in everyone]
    kept = [[(share.numerator, list(share.leaves)) for share in part.shares] for part in parts]
    buffers = Buffers(gradient.model)  # these passes are no second update of running statistics
    for parameter in everyone:
        parameter.grad = None
    try:
        for part in parts:
            if part.compares_across_cuts:
                raise ValueError(
                    f"{type(optimizer).__name__} needs second derivatives, which a term over the whole minibatch has "
                    "only where it goes through the model at once: leave out microbatch_size, or use another optimizer"
                )
            for start, stop in part.cuts:
                add_products(optimizer, gradient, part, start, stop, directions)
                if gradient.exact is not None:
                    gradient.exact.add(1.0 / gradient.precision.scale)
        if gradient.exact is not None:
            gradient.exact.finish()
        products = {
            parameter: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in parameters
        }
    finally:
        buffers.put_back()
        for parameter, grad in zip(everyone, gradients, strict=True):
            parameter.grad = grad
        for part, numbers in zip(parts, kept, strict=True):
            for share, (numerator, leaves) in zip(part.shares, numbers, strict=True):
                share.numerator, share.leaves = numerator, leaves
    if gradient.exact is None and gradient.precision.scaled:
        torch._foreach_mul_(list(products.values()), 1.0 / gradient.precision.scale)
    if not all(math.isfinite(n.item()) for n in torch._foreach_norm(list(products.values()))):
        return False
    optimizer.take_curvature(products)
    return True


def add_products(
    optimizer: Any, gradient: "Gradient", part: "Part", start: int, stop: int, directions: Mapping[Tensor, Tensor]
) -> None:
    """Add H r of one microbatch to the `grad` of the parameters."""
    parameters = list(directions)
    batch = part.batch.part(start, stop) if stop - start < part.batch.num_samples else part.batch
    with gradient.contexts(part, batch, start, stop):
        _, roots, seeds = gradient.objective(part, batch, start, stop, None, False)
        if not roots:
            return
        slopes = torch.autograd.grad(roots, parameters, seeds, create_graph=True, allow_unused=True)
        # A slope that depends on no parameter (of a linear model's linear loss) has no second derivative.
        curved = [(p, s) for p, s in zip(parameters, slopes, strict=True) if s is not None and s.requires_grad]
        if getattr(optimizer, "block_diagonal", False):
            products = [
                torch.autograd.grad(slope, parameter, directions[parameter], retain_graph=True, allow_unused=True)[0]
                for parameter, slope in curved
            ]
            found = [(parameter, product) for (parameter, _), product in zip(curved, products, strict=True)]
        else:
            pulls = [directions[parameter] for parameter, _ in curved]
            both = torch.autograd.grad([slope for _, slope in curved], parameters, pulls, allow_unused=True)
            found = list(zip(parameters, both, strict=True))
    for parameter, product in found:
        if product is not None:
            parameter.grad = product if parameter.grad is None else parameter.grad + product
