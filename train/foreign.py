"""Noise from elsewhere: layers and functions that draw from torch's global generator, which has no nominal time.

First weights may come from it: it is seeded for them. Layers are known by type, and refused, replaced or allowed before
the first step; functions are noticed because the global generator has moved during it. Where they are allowed, the
generator is seeded for every microbatch, so that no state of it has to be saved.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn

from minibatch import rng
from minibatch.models import noise

ForeignNoise = Literal["refuse", "convert", "allow"]


def check_noise(model: nn.Module, policy: ForeignNoise) -> list[str]:
    """Apply the policy to layers that draw from torch's global generator; the names of those that were replaced.

    Raises ValueError naming them under "refuse".
    """
    if policy not in ("refuse", "convert", "allow"):
        raise ValueError(f"foreign_noise={policy!r}: expected 'refuse', 'convert' or 'allow'")
    if policy == "convert":
        return noise.convert(model)
    found = noise.foreign(model) if policy == "refuse" else {}
    if found:
        layers = "; ".join(f"{name or 'the model itself'}: {what}" for name, what in found.items())
        hints = "".join(f"; {hint}" for hint in noise.advice(model))
        raise ValueError(
            "these layers draw from torch's global generator, so that no two cuts of a minibatch and no resumed run "
            f"would see the same noise: {layers}{hints}. Write them with minibatch.models.noise, or pass "
            "foreign_noise='convert' to have dropout layers replaced in place, or foreign_noise='allow' to have the "
            "global generator seeded in every microbatch: resuming is then exact, but other cuts give other noise"
        )
    return []


def generator_states(device: torch.device) -> list[torch.Tensor]:
    """The states of torch's global generators that a forward pass on `device` could draw from."""
    states = [torch.default_generator.get_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def check_generators(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> None:
    """Raise ValueError if a global generator has moved during the first step."""
    if all(torch.equal(old, new) for old, new in zip(before, after, strict=True)):
        return
    raise ValueError(
        "the forward pass or a loss drew from torch's global generator (F.dropout, torch.rand, a functional noise), "
        "which depends on what was drawn before: use the layers of minibatch.models.noise, or pass "
        "foreign_noise='allow' to have the generator seeded in every microbatch (resuming is then exact, other "
        "microbatch sizes give other noise)"
    )


def seed_generators(key: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of `device` with a 64-bit key; about a microsecond each."""
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(key)


def first_model(make: Callable[..., nn.Module], seed: int) -> nn.Module:
    """The model that `make(seed=…)` returns, its first weights a function of the run's seed alone.

    make: called with 64 bits of the seed. Weights that torch's own layers draw from the global generators are drawn
    from these seeded for them, which then are as before.

    >>> make = lambda seed: nn.Linear(2, 1)
    >>> torch.equal(first_model(make, 7).weight, first_model(make, 7).weight)
    True
    """
    # Only where CUDA is in use already: to fork a generator of a device would begin it there.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        # Another key than the model's own, so that layers drawn in either way never have equal weights.
        torch.manual_seed(rng.key(seed, "init.global"))
        return make(seed=rng.key(seed, "init"))
