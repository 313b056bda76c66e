"""What an iteration reports besides losses: shares of units below a level, functions of layers, norms of gradients.

theanets' monitors. Each value is exact over the samples it was measured on: a number per sample, averaged by the
engine as a loss is, with the coefficient 0.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minibatch.models.outputs import modules_matching
from minibatch.train.batches import TensorBatch, shapes_of
from minibatch.train.clipping import norms
from minibatch.train.terms import Term

PLACES = ("out", "pre")  # what a layer gives, and what its activation takes


class Recorder:
    """What chosen layers of a net gave in the forward pass at hand, by "layer:out" and "layer:pre"."""

    def __init__(self) -> None:
        self.recorded: dict[str, Tensor] = {}

    def attach(self, net: nn.Module, key: str) -> list[str]:
        """Record what `key` names, a pattern of layers with ":out" (the default) or ":pre"; the names found."""
        pattern, _, place = key.partition(":")
        place = place or "out"
        if place not in PLACES:
            raise ValueError(f"monitor {key!r}: expected a layer, or layer:out or layer:pre")
        names = []
        for name, layer in modules_matching(net, pattern).items():
            recorded = f"{name}:{place}"
            if place == "out":
                layer.register_forward_hook(self._after(recorded))
            else:
                activation = getattr(layer, "activation", None)
                if not isinstance(activation, nn.Module):
                    raise ValueError(f"monitor {key!r}: {name} has no activation, only {name}:out can be recorded")
                activation.register_forward_pre_hook(self._before(recorded))
            names.append(recorded)
        return names

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            self.recorded[name] = output.detach()

        return hook

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self.recorded[name] = args[0].detach()

        return hook


def share_below(level: float) -> Callable[[Tensor], Tensor]:
    """The share of the units of every sample that are below `level`: units (n, u) → (n,).

    >>> share_below(0.5)(torch.tensor([[0.0, 1.0], [0.0, 0.4]])).tolist()
    [0.5, 1.0]
    """
    return lambda units: (units < level).flatten(1).to(torch.float64).mean(1)


def monitor_terms(net: nn.Module, monitors: Mapping[str, Any]) -> list[Term]:
    """Terms that only watch: {"hid1:out": (0.1, 0.9)} or {"hid1": function of the layer's output (n, u)}.

    A function returns values per sample, (n,) or (n, …). Names are "hid1:out<0.1", and for functions "hid1:out". The
    layers of `net` are hooked from now on.

    >>> from minibatch.models.feedforward import FeedForward
    >>> [term.name for term in monitor_terms(FeedForward((4, 3, 2)), {"hid*": (0.0, 0.5), "out:pre": torch.abs})]
    ['hid1:out<0.0', 'hid1:out<0.5', 'out:pre']
    """
    recorder = Recorder()
    terms = []
    for key, asked in monitors.items():
        for name in recorder.attach(net, key):
            if callable(asked):
                terms.append(_watching(name, recorder, name, asked))
                continue
            levels: Sequence[float] = asked if isinstance(asked, Sequence) else (asked,)
            for level in levels:
                if isinstance(level, bool) or not isinstance(level, int | float):
                    raise TypeError(f"monitor {key!r}: {level!r} is no level; expected numbers, or a function")
                terms.append(_watching(f"{name}<{level}", recorder, name, share_below(level)))
    return terms


def _watching(title: str, recorder: Recorder, name: str, function: Callable[[Tensor], Any]) -> Term:
    def values(outputs: Any, batch: TensorBatch) -> Tensor:
        units = recorder.recorded[name]
        result = function(units)
        if not isinstance(result, Tensor) or result.ndim == 0 or len(result) != len(units):
            raise ValueError(
                f"monitor {title!r}: its function returned {shapes_of(result)} for {shapes_of(units)}; expected values "
                "per sample, (n,) or (n, …)"
            )
        return result.detach().to(torch.float32 if result.is_mps else torch.float64)

    return Term(title, values, denominator="count", coefficient=0.0)


class GradientNorms:
    """The squared 2-norm of every parameter's gradient, averaged over steps: called as the first clip, it changes none.

    names: of the parameters that have gradients, in the engine's order.

    >>> monitor = GradientNorms(["w"])
    >>> monitor([torch.tensor([3.0, 4.0])]); monitor([torch.tensor([1.0])]); monitor.means()
    {'grad(w)': 13.0}
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = [f"grad({name})" for name in names]
        self._sum: Tensor | None = None
        self._steps = 0

    def __call__(
        self, gradients: list[Tensor], norm: float | Tensor | None = None, *, samples: int | None = None
    ) -> None:
        if len(gradients) != len(self.names):
            return  # a step in which some term was absent
        squares = torch.stack(norms(gradients)).double().square()
        self._sum = squares if self._sum is None else self._sum + squares
        self._steps += 1

    def means(self) -> dict[str, float]:
        """The means since the last call, by name; nothing without a step."""
        total, steps, self._sum, self._steps = self._sum, self._steps, None, 0
        if total is None:
            return {}
        return dict(zip(self.names, (total / steps).tolist(), strict=True))
