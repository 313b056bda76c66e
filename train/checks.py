"""What is checked before a run's first step, so that it does not go wrong in silence after hours."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from minibatch.arguments import checked_integer
from minibatch.train.batch_statistics import POLICIES, statistics_layers
from minibatch.train.clipping import Clip, ClipNorm
from minibatch.train.schedules import size_at
from minibatch.train.terms import Term

if TYPE_CHECKING:
    from minibatch.train.config import RunConfig
    from minibatch.train.trainer import Trainer

Promise = Literal["math", "bits", "data"]
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


def validation_size(given: int | None, trainer: "Trainer | RunConfig") -> int:
    """How many samples are measured at once: as given, or what the run has shown to fit, and to mean the same."""
    if given is not None:
        return checked_integer(given, "validation_size", least=1)
    if any(term.over == "minibatch" for term in trainer.terms):
        return size_at(trainer.minibatch_size, 0)
    if trainer.promise == "bits":  # what is decided by validations must not depend on the microbatch
        return trainer.leaf_size
    return min(1024, trainer.microbatch_size or 1024)


def optional_integer(value: int | None, name: str) -> int | None:
    """An integer ≥ 1, or None."""
    return None if value is None else checked_integer(value, name, least=1)


def checked_clips(clip: Clip | Sequence[Clip] | None, norm: float | None) -> tuple[Clip, ...]:
    """All ways of clipping, in the order they are applied."""
    clips = () if clip is None else tuple(clip) if isinstance(clip, Sequence) else (clip,)
    for one in clips:
        if not callable(one):
            raise TypeError(f"clip={clip!r}: expected values like ClipNorm(1.0), got {one!r}")
    if norm is None:
        return clips
    if not norm > 0:
        raise ValueError(f"clip_grad_norm={norm!r}: expected a number > 0, or None")
    return (*clips, ClipNorm(norm))


def check_promise(model: nn.Module, trainer: "Trainer") -> None:
    """Refuse promises that the layers, the cuts or the sizes of a run cannot keep."""
    promise, policy, microbatch = trainer.promise, trainer.batch_norm, trainer.microbatch_size
    if promise not in ("math", "bits", "data"):
        raise ValueError(f"promise={promise!r}: expected 'math', 'bits' or 'data'")
    if policy is not None and policy not in POLICIES:
        raise ValueError(f"batch_norm={policy!r}: expected one of {', '.join(map(repr, POLICIES))}, or None")
    cut = microbatch is not None and (callable(trainer.minibatch_size) or microbatch < trainer.minibatch_size)
    if (promise == "bits" or policy == "leaf") and microbatch is not None and microbatch < trainer.leaf_size:
        raise ValueError(
            f"microbatch_size={microbatch} is smaller than a leaf of {trainer.leaf_size} samples, which "
            f"{'promise' if promise == 'bits' else 'batch_norm'}={promise if promise == 'bits' else policy!r} computes "
            f"at once: pass leaf_size={microbatch} (other leaves give other results)"
        )
    if policy == "sync" and cut:
        raise ValueError(
            f"batch_norm='sync' normalises by statistics of the whole minibatch, and microbatch_size={microbatch} cuts "
            "it: leave one of them out"
        )
    layers = [name for name, module in statistics_layers(model).items() if module.training]
    if not layers or policy in ("leaf", "frozen") or promise == "data":
        return
    shown = f"{', '.join(layers[:5])}{' …' if layers[5:] else ''}"
    if promise == "bits":
        raise ValueError(
            f"the layers {shown} normalise by statistics over samples, which promise='bits' needs leaf by leaf: pass "
            "batch_norm='leaf' or 'frozen', or use GroupNorm or LayerNorm"
        )
    if cut:
        raise ValueError(
            f"in microbatches of {microbatch} the layers {shown} would use statistics of {microbatch} samples instead "
            "of the minibatch, so that the promise 'math' does not hold: pass batch_norm='leaf' or 'frozen', use "
            "GroupNorm or LayerNorm, or pass promise='data'"
        )


def one_device(model: nn.Module) -> torch.device:
    """The device that all parameters lie on; ValueError if there are several or none."""
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) != 1:
        where: Mapping[Any, int] = {d: sum(p.device == d for p in model.parameters()) for d in devices}
        raise ValueError(f"expected a model with its parameters on one device, got {where or 'no parameters'}")
    return devices.pop()
