"""What a network learns, as terms of the engine: "err" is the first, and "acc" only watches."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from minibatch.train import losses, metrics
from minibatch.train.batches import TensorBatch
from minibatch.train.losses import Compared, on
from minibatch.train.presets import Preset
from minibatch.train.terms import Term

Loss = str | Callable[..., Tensor]
Objective = Callable[[Sequence[str]], list[Term]]  # of the names of the fields: inputs, targets, weights

# theanets' names of what has another one here.
ALIASES = {"mae": "l1", "xe": "cross_entropy", "bce": "binary_cross_entropy"}


@dataclass(frozen=True, kw_only=True)
class Fitted(Compared):
    """`function(outputs, targets)` with the targets (n, …) as (n, f) of the outputs' dtype: a loss of a term."""

    def __call__(self, outputs: Tensor, batch: TensorBatch) -> Tensor:
        assert self.target is not None
        return self.function(outputs, batch[self.target].flatten(1).to(outputs.dtype), **self.options)


def loss_function(loss: Loss) -> Callable[..., Tensor]:
    """The loss of a name, or `loss` itself; ValueError with the names there are.

    >>> loss_function("mae").__name__
    'l1'
    """
    if callable(loss):
        return loss
    found = getattr(losses, ALIASES.get(loss, loss), None)
    if not inspect.isfunction(found):
        names = [name for name in vars(losses) if inspect.isfunction(getattr(losses, name))]
        raise ValueError(f"loss={loss!r} is not known; one of {', '.join(sorted([*names, *ALIASES]))}, or a function")
    return found


def classify(fields: Sequence[str], loss: Callable[..., Tensor]) -> list[Term]:
    """Cross entropy (or another loss of logits and labels), and the accuracy."""
    _, label, *weight = fields
    return [
        Term("err", on(loss, label), weight=_one(weight)),
        Term("acc", on(metrics.accuracy, label), weight=_one(weight), coefficient=0.0),
    ]


def fit(fields: Sequence[str], loss: Callable[..., Tensor]) -> list[Term]:
    """A loss of outputs and targets of one shape; with weights, elements count each for itself."""
    _, target, *weight = fields
    elements = weight and "reduce" in inspect.signature(loss).parameters
    options = {"reduce": "none"} if elements else {}
    return [Term("err", Fitted(function=loss, target=target, options=options), weight=_one(weight))]


def reconstruct(fields: Sequence[str], loss: Callable[..., Tensor] = losses.mse) -> list[Term]:
    """A loss of outputs and inputs; targets and weights of the data play no part."""
    return [Term("err", Fitted(function=loss, target=fields[0]))]


def in_system(terms: Sequence[Term], system: Preset | None) -> list[Term]:
    """The terms with the denominators and options that a system has for its losses; those that only watch stay.

    >>> from minibatch.train.presets import preset
    >>> [term.denominator for term in in_system(classify(("x", "y"), losses.cross_entropy), preset("cntk"))]
    [None, 'weights']
    """
    if system is None:
        return list(terms)
    return [system.term(term.name, term.loss, weight=term.weight) if term.coefficient else term for term in terms]


def _one(weight: Sequence[str]) -> str | None:
    return weight[0] if weight else None
