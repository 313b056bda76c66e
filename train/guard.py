"""Nothing that is not finite ever reaches the weights.

On the CPU the numbers are at hand, and are looked at before the update. Elsewhere looking means waiting for the device,
so where every optimizer is a fused Adam the decision stays there: it skips its update if `found_inf` is 1 (the switch
that loss scaling uses), and the host learns of it at the next log point. Other optimizers cost one wait a step.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minibatch.train.precision import Precision

Policy = Literal["stop", "skip"]
Watch = Literal["host", "wait", "device"]


def watch_for(device: torch.device, optimizers: Sequence[Optimizer], buffers: "Buffers", precision: Precision) -> Watch:
    """Where the finite check of a step is made: "host" on the CPU, on the "device" if possible, else "wait" for it.

    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> watch_for(torch.device("cpu"), [optimizer], Buffers(nn.Identity()), Precision(None, torch.device("cpu")))
    'host'
    """
    if device.type == "cpu":
        return "host"
    # Not SGD: a first step that is skipped leaves its fused form with a momentum buffer that nobody has filled (2.13).
    skips = all(
        type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
        and all(group.get("fused") for group in optimizer.param_groups)
        for optimizer in optimizers
    )
    # A scaled loss is rescaled on the host after an overflow.
    return "device" if skips and not buffers.kept and not precision.scaled else "wait"


class Found:
    """The flag of a run watched on the device: 1 from the first bad step on ("stop"), or in bad steps only ("skip")."""

    def __init__(
        self, policy: Policy, optimizers: Sequence[Optimizer], device: torch.device, *, spikes_end: bool = False
    ) -> None:
        self.policy = policy
        self.spikes_end = spikes_end
        self.ended = torch.zeros((), dtype=torch.bool, device=device)
        self.optimizers = optimizers
        self.flag = torch.zeros((), dtype=torch.float32, device=device)

    def set(self, finite: Tensor, spike: Tensor | None = None) -> None:
        """Tell the optimizers whether to skip the coming update; finite: a bool tensor ()."""
        bad = ~finite
        if self.policy == "stop":
            self.ended = self.ended | bad
        if spike is not None:
            bad = bad | spike
            if self.spikes_end:
                self.ended = self.ended | spike
        self.flag = (self.ended | bad).to(torch.float32)
        for optimizer in self.optimizers:
            optimizer.grad_scale = None  # type: ignore[attr-defined]
            optimizer.found_inf = self.flag  # type: ignore[attr-defined]

    def clear(self) -> None:
        self.flag, self.ended = torch.zeros_like(self.flag), torch.zeros_like(self.ended)


class Buffers:
    """What a forward pass changes besides outputs: the buffers of normalisation layers, copied so as to be put back."""

    def __init__(self, model: nn.Module) -> None:
        self.kept = [
            buffer
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
            for buffer in module.buffers(recurse=False)
        ]
        self._copies = [buffer.clone() for buffer in self.kept]

    def keep(self) -> None:
        if self.kept:
            torch._foreach_copy_(self._copies, self.kept)

    def put_back(self) -> None:
        if self.kept:
            torch._foreach_copy_(self.kept, self._copies)
