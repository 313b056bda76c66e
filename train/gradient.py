"""The gradient of one whole minibatch, accumulated over microbatches in sum form.

Every microbatch adds coefficient · Σ w·m·loss / D to the gradients, where D belongs to the whole minibatch: so the sum
does not depend on the cut, except for the last bits of floating-point addition.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from minibatch.models.noise import NoiseKeys
from minibatch.train.batches import TensorBatch, shapes_of
from minibatch.train.terms import Share

Forward = Callable[[nn.Module, TensorBatch], Any]


class Gradient:
    """Adds up gradients of minibatches: made once per run, because it keeps the small tensors that every step needs."""

    def __init__(
        self, model: nn.Module, forward: Forward, keys: NoiseKeys, before_microbatch: Callable[[int, int], None] | None
    ) -> None:
        self.model = model
        self.forward = forward
        self.keys = keys if keys.names else None
        self.before_microbatch = before_microbatch
        self._plain = self.keys is None and before_microbatch is None
        self._seeds: dict[tuple[float, torch.Size, torch.dtype], Tensor] = {}

    def add(self, batch: TensorBatch, shares: Sequence[Share], *, size: int | None, on_host: bool) -> bool:
        """Add the gradient of `batch` to the parameters' `grad`, in microbatches of `size` samples (None: in one).

        The numerators of `shares` are added up, as floats if `on_host`, else as tensors that nobody waits for. With
        `on_host`, False as soon as a numerator is not finite: the gradient is then incomplete.
        """
        n = batch.num_samples
        if size is None or size >= n:
            if self._plain:
                return self._passes(batch, shares, 0, n, on_host)
            return self._microbatch(batch, shares, 0, n, on_host)
        for start in range(0, n, size):
            stop = min(start + size, n)
            if not self._microbatch(batch.part(start, stop), shares, start, stop, on_host):
                return False
        return True

    def _microbatch(self, batch: TensorBatch, shares: Sequence[Share], start: int, stop: int, on_host: bool) -> bool:
        if self.before_microbatch is not None:
            self.before_microbatch(start, stop)
        if self.keys is None:
            return self._passes(batch, shares, start, stop, on_host)
        # Backward lies inside: with activation checkpointing it runs parts of the forward pass, noise included, again.
        with self.keys.at(batch.times_tensor()):
            return self._passes(batch, shares, start, stop, on_host)

    def _passes(self, batch: TensorBatch, shares: Sequence[Share], start: int, stop: int, on_host: bool) -> bool:
        """Forward and backward through the model."""
        roots: list[Tensor] = []
        seeds: list[Tensor] = []
        finite = True
        outputs = None
        try:
            outputs = self.forward(self.model, batch)
            for share in shares:
                if share.total == 0.0:
                    continue
                values = share.term.loss(outputs, batch)
                if not is_per_sample(values, batch.num_samples) or crosses_samples(values, outputs):
                    raise wrong_values(share, values, batch, outputs)
                share.count(values, start, stop)
                if values.requires_grad:  # a term that reaches no parameter is only watched
                    roots.append(values)
                    seeds.append(self._seed(share, values, start, stop))
                    values = values.detach()
                numerator = share.weighted_sum(values, start, stop)
                if on_host:
                    value = numerator.item()
                    share.numerator += value
                    if value - value != 0.0:  # NaN or infinite
                        finite = False
                        share.bad_rows = nonfinite_rows(values, batch)
                else:
                    share.numerator = share.numerator + numerator
        except Exception as error:
            error.add_note(f"minibatch: the fields are {shapes_of(batch)}")
            if outputs is not None:
                error.add_note(f"minibatch: the outputs are {shapes_of(outputs)}")
            raise
        if finite and roots:
            # Backward starts from the values with their weights, so that no sum is part of the graph.
            torch.autograd.backward(roots, seeds)
        return finite

    def _seed(self, share: Share, values: Tensor, start: int, stop: int) -> Tensor:
        """The weights that backward starts from; without weights they are mostly the same from step to step."""
        if share.weights is not None:
            return share.seed(values, start, stop)
        key = (share.coefficient / share.denominator, values.shape, values.dtype)
        seed = self._seeds.get(key)
        if seed is None:
            if len(self._seeds) >= 64:
                self._seeds.clear()
            seed = self._seeds[key] = share.seed(values.detach(), start, stop)
        return seed


def nonfinite_rows(values: Tensor, batch: TensorBatch) -> list[int]:
    """The rows of the data set whose loss is NaN or infinite; empty where only their sum is."""
    bad = ~torch.isfinite(values).reshape(len(values), -1).all(1)
    return [int(row) for row in batch.rows[bad.cpu().numpy()]]


def wrong_values(share: Share, values: object, batch: TensorBatch, outputs: object) -> ValueError:
    """The error for what cannot be the values of a loss on `batch`, with the shapes of everything."""
    n = batch.num_samples
    if isinstance(values, Tensor) and values.ndim == 0:
        advice = ": a loss returns one value per sample, not their mean or sum (in torch: reduction='none')"
    elif isinstance(values, Tensor) and not values.is_floating_point():
        advice = ": losses are floating-point numbers"
    elif crosses_samples(values, outputs):
        advice = (
            ": every output met every target, because (n, 1) and (n,) broadcast to (n, n); give both one shape, as in "
            "outputs.squeeze(1)"
        )
    else:
        advice = ""
    return ValueError(
        f"term {share.term.name!r}: its loss returned {shapes_of(values)}, expected floating-point values of shape "
        f"({n},) or ({n}, …){advice}; the outputs are {shapes_of(outputs)}, the fields {shapes_of(batch)}"
    )


def is_per_sample(values: object, n: int) -> TypeGuard[Tensor]:
    """Whether `values` can be those of a loss on n samples: floating-point, (n,) or (n, …)."""
    return isinstance(values, Tensor) and bool(values.ndim) and values.shape[0] == n and values.is_floating_point()


def crosses_samples(values: object, outputs: object) -> bool:
    """Whether values (n, n) come of outputs (n, 1): the commonest accident of broadcasting, which trains in silence."""
    if not (isinstance(values, Tensor) and isinstance(outputs, Tensor)):
        return False
    n = len(values) if values.ndim else 0
    return n > 1 and tuple(values.shape) == (n, n) and tuple(outputs.shape) == (n, 1)
