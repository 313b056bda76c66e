"""Spikes of the loss or the gradient: found before the weights are touched, and what is done about them.

A value is a spike if it is above the median of the last steps by more than `factor` times their spread. Everything is
a function of the steps so far, computed where the gradient is, so nobody waits for it; what it remembers is part of
checkpoints.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from minibatch.arguments import checked_integer

MAD_TO_DEVIATION = 1.4826  # of a normal distribution


@dataclass(frozen=True, kw_only=True)
class Spikes:
    """What counts as a spike, and what to do: "stop", "skip" the update, or "rollback" by `rollback_steps`.

    of: "loss" (the total) or "grad_norm". A step is a spike if its value is above median + factor · deviation of the
    last `window` steps that were none, deviation = 1.4826 · median |value - median|, at least `least` · |median|; the
    first `warmup` steps never are. rollback_steps: go back to the newest checkpoint at or before so many steps ago, and
    on from there without the samples of these steps and of the spike. most: after so many spikes the run stops.

    >>> Spikes(factor=8.0).action
    'stop'
    """

    of: Literal["loss", "grad_norm"] = "loss"
    action: Literal["stop", "skip", "rollback"] = "stop"
    factor: float = 10.0
    window: int = 100
    warmup: int = 20
    least: float = 0.05
    rollback_steps: int = 0
    most: int = 20

    def __post_init__(self) -> None:
        for name, allowed in (("of", ("loss", "grad_norm")), ("action", ("stop", "skip", "rollback"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"Spikes: {name}={getattr(self, name)!r}, expected one of {allowed}")
        if not self.factor > 0 or not self.least >= 0:
            raise ValueError(f"Spikes: factor={self.factor}, least={self.least}: expected factor > 0 and least ≥ 0")
        for name, least in (("window", 3), ("warmup", 1), ("rollback_steps", 0), ("most", 1)):
            checked_integer(getattr(self, name), f"Spikes: {name}", least=least)
        if self.rollback_steps and self.action != "rollback":
            raise ValueError(
                f"Spikes: rollback_steps={self.rollback_steps} needs action='rollback', got {self.action!r}"
            )


class Detector:
    """Judges the steps of a run, one after the other, on `device`.

    >>> detector = Detector(Spikes(warmup=3, window=3), torch.device("cpu"))
    >>> [bool(detector.judge(torch.tensor(value))) for value in (1.0, 1.1, 0.9, 50.0, 1.0)]
    [False, False, False, True, False]
    """

    def __init__(self, policy: Spikes, device: torch.device, *, on_host: bool | None = None) -> None:
        self.policy = policy
        # On the CPU a list: two sorts of floats cost less than the launches of ten tensor operations.
        self._on_host = device.type == "cpu" if on_host is None else on_host
        self._list = [0.0] * policy.window
        self._values = torch.zeros(0 if self._on_host else policy.window, dtype=torch.float64, device=device)
        self._count = 0

    def judge(self, value: float | Tensor, ended: Tensor | None = None) -> Tensor:
        """Whether `value` is a spike: bool (); if not, it is remembered. NaN is none: others find it.

        ended: bool (), whether the run was over before this step, which is then not remembered.
        """
        known = min(self._count, self.policy.window)
        place = self._count % self.policy.window
        self._count += 1
        if self._on_host:
            return torch.tensor(self._judge_on_host(float(value), known, place, ended is not None and bool(ended)))
        value = torch.as_tensor(value).to(self._values)
        if known == 0:
            self._values[place] = value.nan_to_num(0.0, 0.0, 0.0)
            return torch.zeros_like(value, dtype=torch.bool)
        recent = self._values[:known]
        median = recent.median()
        deviation = MAD_TO_DEVIATION * (recent - median).abs().median()
        limit = median + self.policy.factor * torch.maximum(deviation, self.policy.least * median.abs())
        spike = value > limit if self._count > self.policy.warmup else torch.zeros_like(value, dtype=torch.bool)
        # A spike must not raise the limit for the next one.
        new = torch.where(spike | ~torch.isfinite(value), median, value)
        self._values[place] = new if ended is None else torch.where(ended, self._values[place], new)
        return spike

    def _judge_on_host(self, value: float, known: int, place: int, ended: bool) -> bool:
        """The same with Python's floats."""
        if known == 0:
            self._list[place] = value if math.isfinite(value) else 0.0
            return False
        recent = self._list[:known]
        median = sorted(recent)[(known - 1) // 2]
        deviation = MAD_TO_DEVIATION * sorted([abs(x - median) for x in recent])[(known - 1) // 2]
        limit = median + self.policy.factor * max(deviation, self.policy.least * abs(median))
        spike = self._count > self.policy.warmup and value > limit
        if not ended:
            self._list[place] = median if spike or not math.isfinite(value) else value
        return spike

    def forget(self, steps: int) -> None:
        """The last steps were none: the run had ended before them."""
        self._count -= steps

    def state(self) -> dict[str, int | list[float]]:
        """What a checkpoint holds of it."""
        return {"count": self._count, "values": self._list[:] if self._on_host else self._values.tolist()}

    def restore(self, count: int, values: Sequence[float]) -> None:
        """Take over a state; one of another window begins anew with its last values."""
        window = self.policy.window
        if len(values) != window:
            ordered = (
                [*values[count % len(values) :], *values[: count % len(values)]] if count >= len(values) else values
            )
            last = list(ordered[: min(count, len(values))])[-window:]
            values, count = [*last, *[0.0] * (window - len(last))], len(last)
        if self._on_host:
            self._list[:] = values
        else:
            self._values.copy_(torch.tensor(values, dtype=torch.float64))
        self._count = count
