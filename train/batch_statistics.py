"""Batch normalisation under microbatches: the one layer whose result is not a sum over samples.

| policy | statistics of | promise kept for any cut |
|---|---|---|
| None | whatever goes through the model at once | "math" without microbatches, else only "data" |
| "leaf" | each leaf of nominal time ("ghost batches", Hoffer et al. 2017, arXiv:1705.08741) | "bits" |
| "frozen" | the past: running statistics stay as they are, gains and biases learn | "bits" |
| "sync" | the whole minibatch, which must go through the model at once | "math" |
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

Policy = Literal["leaf", "frozen", "sync"]
POLICIES = ("leaf", "frozen", "sync")


def statistics_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that normalise by statistics over samples, or keep running ones of them, by name."""
    return {name: module for name, module in model.named_modules() if _has_statistics(module)}


def _has_statistics(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return True
    return isinstance(module, nn.modules.instancenorm._InstanceNorm) and bool(module.track_running_stats)


def freeze(model: nn.Module) -> None:
    """Set all batch normalisation of `model` to eval mode: it uses its running statistics and changes them no more."""
    for module in statistics_layers(model).values():
        module.eval()


class LeafStatistics:
    """Running statistics of one step: those of its leaves, merged in nominal order, count as one update.

    Mean and variance within leaves are averaged with the numbers of samples as weights; so a step changes a running
    value once, with the layer's momentum, and not as often as it has leaves.
    """

    def __init__(self, model: nn.Module) -> None:
        self._all: list[Any] = [m for m in statistics_layers(model).values() if m.track_running_stats]
        self._layers: list[Any] = []  # those that learn in the step at hand
        self._momenta: list[float | None] = []
        self._before: list[tuple[Tensor, Tensor, Tensor]] = []
        self._seen: list[list[tuple[int, int, Tensor, Tensor]]] = []
        self._called: set[int] = set()

    @contextmanager
    def of_a_step(self) -> Iterator[None]:
        """Inside, a layer's running statistics are those of the last leaf alone; behind it, those after the step."""
        self._layers = [layer for layer in self._all if layer.training]
        self._momenta = [layer.momentum for layer in self._layers]
        self._before = [
            (layer.running_mean.clone(), layer.running_var.clone(), layer.num_batches_tracked.clone())
            for layer in self._layers
        ]
        self._seen = [[] for _ in self._layers]
        self._called.clear()
        hooks = [layer.register_forward_hook(self._noting(number)) for number, layer in enumerate(self._layers)]
        for layer in self._layers:
            layer.momentum = 1.0
        try:
            yield
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                error.add_note(
                    "minibatch: a leaf of one sample has no variance: with batch_norm='leaf' choose minibatch sizes, "
                    "and ends of the axis, that leave no such leaf (multiples of leaf_size)"
                )
            raise
        finally:
            for hook in hooks:
                hook.remove()
            self._end()

    def _noting(self, number: int) -> Any:
        return lambda module, inputs, outputs: self._called.add(number)

    def note(self, place: int, samples: int) -> None:
        """A leaf at `place` of the step has gone forward and backward."""
        for number in sorted(self._called):
            layer = self._layers[number]
            self._seen[number].append((place, samples, layer.running_mean.clone(), layer.running_var.clone()))
        self._called.clear()

    @torch.no_grad()
    def _end(self) -> None:
        for layer, momentum, before, seen in zip(self._layers, self._momenta, self._before, self._seen, strict=True):
            mean, variance, tracked = before
            layer.momentum = momentum
            if seen:
                tracked = tracked + 1
                seen.sort(key=lambda leaf: leaf[0])
                share = momentum if momentum is not None else 1.0 / float(tracked)
                mean = torch.lerp(mean, _averaged([(n, m) for _, n, m, _ in seen]), share)
                variance = torch.lerp(variance, _averaged([(n, v) for _, n, _, v in seen]), share)
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(variance)
            layer.num_batches_tracked.copy_(tracked)
        self._seen = []


def _averaged(leaves: Sequence[tuple[int, Tensor]]) -> Tensor:
    """The mean of tensors with whole numbers as weights, added in order, in float64."""
    total = torch.zeros_like(leaves[0][1], dtype=torch.float64)
    for samples, values in leaves:
        total += samples * values.double()
    return (total / sum(samples for samples, _ in leaves)).to(leaves[0][1].dtype)
