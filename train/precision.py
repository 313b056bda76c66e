"""Mixed precision: which type the model computes in, and the scale that keeps small float16 gradients above zero.

Weights, losses and gradients stay in float32. A scale is a power of two, so that scaling rounds nothing; it is the only
state of a run that depends on its past, and goes into checkpoints.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from minibatch.train.outputs import changed

PrecisionName = Literal["bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_SCALE, LEAST_SCALE, MOST_SCALE = 2.0**16, 1.0, 2.0**24
GROWTH_STEPS = 2000


class Precision:
    """Autocast to `name` around the model, and the loss scale of "fp16".

    The scale halves when a gradient overflows, which skips the update, and doubles after 2,000 steps without:
    Micikevicius et al. 2018, arXiv:1710.03740, section 3.2, with the constants of `torch.amp.GradScaler`.

    >>> precision = Precision("fp16", torch.device("cpu"))
    >>> precision.overflowed(), precision.scale
    (True, 32768.0)
    """

    def __init__(self, name: PrecisionName | None, device: torch.device) -> None:
        if name is not None and name not in DTYPES:
            raise ValueError(f"precision={name!r}: expected 'bf16', 'fp16' or None for that of the parameters")
        self.name = name
        self.device = device
        self.scaled = name == "fp16"
        self.scale = FIRST_SCALE if self.scaled else 1.0
        self.steps_since = 0

    def forward(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call` under autocast, its floating outputs in float32, so that losses lose nothing."""
        if self.name is None:
            return call

        def casting(*arguments: Any) -> Any:
            with self.autocast():
                outputs = call(*arguments)
            return changed(outputs, _single)

        return casting

    def autocast(self) -> AbstractContextManager[Any]:
        if self.name is None:
            return nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.name])

    def overflowed(self) -> bool:
        """A gradient was not finite: halve the scale; False if it cannot be blamed on the scale."""
        self.steps_since = 0
        if not self.scaled or self.scale <= LEAST_SCALE:
            return False
        self.scale /= 2.0
        return True

    def went_well(self) -> None:
        """A step was finite."""
        if not self.scaled:
            return
        self.steps_since += 1
        if self.steps_since >= GROWTH_STEPS:
            self.steps_since = 0
            self.scale = min(self.scale * 2.0, MOST_SCALE)

    def state(self) -> dict[str, float]:
        """What a checkpoint holds of it."""
        return {"scale": self.scale, "steps_since": self.steps_since} if self.scaled else {}

    def restore(self, state: dict[str, float]) -> None:
        """Take over `state` where this run scales, too."""
        if self.scaled and state:
            self.scale, self.steps_since = float(state["scale"]), int(state["steps_since"])


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
