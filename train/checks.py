"""What is checked before a run's first step, so that it does not go wrong in silence after hours."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from minibatch.train.terms import Term

Promise = Literal["math", "data"]
RESERVED = ("total_loss",)


def checked_terms(terms: Term | Sequence[Term]) -> tuple[Term, ...]:
    """The terms of a run, at least one, with different names."""
    given = (terms,) if isinstance(terms, Term) else tuple(terms) if isinstance(terms, Sequence) else ()
    if not given or not all(isinstance(term, Term) for term in given):
        raise TypeError(f"terms={terms!r}: expected a Term, or a sequence of at least one")
    names = [term.name for term in given]
    doubled = sorted({name for name in names if names.count(name) > 1 or name in RESERVED})
    if doubled:
        raise ValueError(f"terms need different names, none of them {', '.join(RESERVED)}; got {', '.join(names)}")
    return given


def check_statistics(model: nn.Module, promise: Promise, minibatch_size: int, microbatch_size: int | None) -> None:
    """Refuse the promise "math" where layers use statistics of microbatches instead of the minibatch."""
    if promise not in ("math", "data"):
        raise ValueError(f"promise={promise!r}: expected 'math' or 'data' ('bits' comes in a later version)")
    if promise == "data" or microbatch_size is None or microbatch_size >= minibatch_size:
        return
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    if layers:
        raise ValueError(
            f"in microbatches of {microbatch_size} the layers {', '.join(layers[:5])}{' …' if layers[5:] else ''} "
            f"would use statistics of {microbatch_size} samples instead of {minibatch_size}, so that the promise "
            "'math' does not hold: set them to eval mode, use GroupNorm or LayerNorm, or pass promise='data'"
        )


def one_device(model: nn.Module) -> torch.device:
    """The device that all parameters lie on; ValueError if there are several or none."""
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) != 1:
        where: Mapping[Any, int] = {d: sum(p.device == d for p in model.parameters()) for d in devices}
        raise ValueError(f"expected a model with its parameters on one device, got {where or 'no parameters'}")
    return devices.pop()
