"""Where a run computes: named in its configuration, found where the run is begun."""

import torch
from torch import nn


def device_of(name: str | None) -> torch.device | None:
    """The device called `name`; "auto" is the first GPU, or the CPU where there is none, None is no wish.

    Raises ValueError where there is no such device.

    >>> device_of("cpu"), device_of(None)
    (device(type='cpu'), None)
    """
    if name is None:
        return None
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={name!r}: torch cannot compute there ({reason}); expected auto, cpu or cuda"
        ) from None
    return device


def placed(model: nn.Module, name: str | None) -> nn.Module:
    """The model, moved to the device called `name`: see `device_of`."""
    device = device_of(name)
    return model if device is None else model.to(device)
