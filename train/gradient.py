"""The gradient of one whole minibatch, accumulated over microbatches in sum form.

Every microbatch adds coefficient · Σ w·m·loss / D to the gradients, where D belongs to the whole minibatch: so the sum
does not depend on the cut, except for the last bits of floating-point addition. With an `ExactSum`, where the cuts are
leaves of nominal time, it does not depend on their order or grouping in any bit.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from minibatch.models.noise import NoiseKeys
from minibatch.train.batch_statistics import LeafStatistics
from minibatch.train.batches import TensorBatch, shapes_of
from minibatch.train.contrast import gradients_of_outputs
from minibatch.train.cuts import Cuts
from minibatch.train.exact_sum import ExactSum, sum_of
from minibatch.train.outputs import tensors_in
from minibatch.train.precision import Precision
from minibatch.train.terms import Share

Forward = Callable[[nn.Module, TensorBatch], Any]
Roots = tuple[list[Tensor], list[Tensor]]


@dataclass(slots=True)
class Part:
    """What one source gives to a step: its samples, the shares of its terms, and where the samples are cut.

    stream: goes into the keys of noise, so that two sources never share a mask.
    """

    batch: TensorBatch
    shares: Sequence[Share]
    forward: Forward
    cuts: Cuts
    stream: int = 0
    before_microbatch: Callable[[int, int], None] | None = None

    @property
    def compares_across_cuts(self) -> bool:
        """Whether a loss compares samples that go through the model in different microbatches."""
        return len(self.cuts) > 1 and any(share.term.over == "minibatch" and share.total for share in self.shares)


class Gradient:
    """Adds up gradients of steps: made once per run, because it keeps the small tensors that every step needs.

    exact: adds the gradients of leaves; `order` may then rearrange their passes, which changes no bit (a self-check
    tries). around: contexts to run every forward pass in (None or the recording of activations).
    """

    def __init__(
        self,
        model: nn.Module,
        keys: NoiseKeys,
        precision: Precision,
        *,
        exact: ExactSum | None = None,
        statistics: LeafStatistics | None = None,
        around: Callable[[TensorBatch], Any] | None = None,
    ) -> None:
        self.model = model
        self.keys = keys if keys.names else None
        self.precision = precision
        self.exact = exact
        self.statistics = statistics
        self.around = around
        self.order: Callable[[Cuts], Cuts] = list
        self._seeds: dict[tuple[float, torch.Size, torch.dtype], Tensor] = {}

    def add(self, parts: Sequence[Part], *, on_host: bool) -> bool:
        """Put the gradient of a step into the parameters' `grad`, which is None before.

        The numerators of the shares are added up, as floats if `on_host`, else as tensors that nobody waits for. With
        `on_host`, False as soon as a numerator is not finite: the gradient is then incomplete.
        """
        if self.exact is not None:
            self.exact.forget()
        if self.statistics is None:
            complete = self._all_passes(parts, on_host)
        else:
            with self.statistics.of_a_step():
                complete = self._all_passes(parts, on_host)
        for part in parts:
            for share in part.shares:
                share.add_up(sum_of)
        if not complete:
            return False
        if self.exact is not None:
            self.exact.finish()
        elif self.precision.scaled:
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            if grads:
                torch._foreach_mul_(grads, 1.0 / self.precision.scale)
        return not on_host or all(share.is_finite() for part in parts for share in part.shares)

    def _all_passes(self, parts: Sequence[Part], on_host: bool) -> bool:
        for part in parts:
            whole = None
            if part.compares_across_cuts:
                whole = gradients_of_outputs(self, part, on_host)
                self._collect()
            for start, stop in self.order(part.cuts) if self.exact is not None else part.cuts:
                if not self._microbatch(part, start, stop, whole, on_host):
                    return False
                if self.statistics is not None:
                    self.statistics.note(start, stop - start)
                self._collect()
        return True

    def _collect(self) -> None:
        """One summand of the exact sum is in the gradients."""
        if self.exact is not None:
            self.exact.add(1.0 / self.precision.scale)

    def _microbatch(self, part: Part, start: int, stop: int, whole: Mapping[int, Tensor] | None, on_host: bool) -> bool:
        """One pass forward and back. whole: gradients of outputs (by number) that losses over the minibatch gave."""
        batch = part.batch if stop - start == part.batch.num_samples else part.batch.part(start, stop)
        plain = self.keys is None and self.around is None and part.before_microbatch is None
        if plain:
            return self._passes(part, batch, start, stop, whole, on_host)
        # Backward lies inside: with activation checkpointing it runs parts of the forward pass, noise included, again.
        with self.contexts(part, batch, start, stop):
            return self._passes(part, batch, start, stop, whole, on_host)

    def contexts(self, part: Part, batch: TensorBatch, start: int, stop: int) -> ExitStack:
        """What surrounds every pass of a microbatch: keys of noise, recording of activations."""
        stack = ExitStack()
        if part.before_microbatch is not None:
            part.before_microbatch(start, stop)
        if self.keys is not None:
            stack.enter_context(self.keys.at(batch.times_tensor(), stream=part.stream))
        if self.around is not None:
            stack.enter_context(self.around(batch))
        return stack

    def _passes(
        self,
        part: Part,
        batch: TensorBatch,
        start: int,
        stop: int,
        whole: Mapping[int, Tensor] | None,
        on_host: bool,
    ) -> bool:
        finite, roots, seeds = self.objective(part, batch, start, stop, whole, on_host)
        if finite and roots:
            # Backward starts from the values with their weights, so that no sum is part of the graph.
            torch.autograd.backward(roots, seeds)
        return finite

    def objective(
        self,
        part: Part,
        batch: TensorBatch,
        start: int,
        stop: int,
        whole: Mapping[int, Tensor] | None,
        on_host: bool,
    ) -> tuple[bool, list[Tensor], list[Tensor]]:
        """The forward pass and all losses of a microbatch: whether they are finite, and where backward starts."""
        roots: list[Tensor] = []
        seeds: list[Tensor] = []
        finite = True
        outputs = None
        try:
            outputs = part.forward(self.model, batch)
            for share in part.shares:
                if share.total == 0.0 or (whole is not None and share.term.over == "minibatch"):
                    continue
                values = share.term.loss(outputs, batch)
                if not is_per_sample(values, batch.num_samples) or crosses_samples(values, outputs):
                    raise wrong_values(share, values, batch, outputs)
                share.count(values, start, stop)
                if values.requires_grad:  # a term that reaches no parameter is only watched
                    roots.append(values)
                    seeds.append(self.seed(share, values, start, stop))
                    values = values.detach()
                finite &= self.take(share, values, batch, start, stop, on_host)
        except Exception as error:
            error.add_note(f"minibatch: the fields are {shapes_of(batch)}")
            if outputs is not None:
                error.add_note(f"minibatch: the outputs are {shapes_of(outputs)}")
            raise
        if whole:
            for number, tensor in enumerate(tensors_in(outputs)):
                if number in whole and tensor.requires_grad:
                    roots.append(tensor)
                    seeds.append(whole[number][start:stop])
        return finite, roots, seeds

    def take(self, share: Share, values: Tensor, batch: TensorBatch, start: int, stop: int, on_host: bool) -> bool:
        """Add the values of a microbatch to the numerator of its share; False if they are known not to be finite."""
        numerator = share.weighted_sum(values, start, stop)
        if not on_host:
            share.gather(numerator, exact=self.exact is not None)
            return True
        value = numerator.item()
        share.gather(value, exact=self.exact is not None)
        if value - value != 0.0:  # NaN or infinite
            share.bad_rows = nonfinite_rows(values, batch)
            return False
        return True

    def seed(self, share: Share, values: Tensor, start: int, stop: int) -> Tensor:
        """The weights that backward starts from; without weights they are mostly the same from step to step."""
        scale = self.precision.scale
        if share.weights is not None:
            return share.seed(values, start, stop, scale)
        key = (scale * share.coefficient / share.denominator, values.shape, values.dtype)
        seed = self._seeds.get(key)
        if seed is None and values.numel() > 2**16:
            return share.seed(values.detach(), start, stop, scale)
        if seed is None:
            if len(self._seeds) >= 64:
                self._seeds.clear()
            seed = self._seeds[key] = share.seed(values.detach(), start, stop, scale)
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
