"""What the last bits of a run depend on besides its configuration: in every checkpoint, compared on resume."""

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer


def environment(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    """Builds, device, threads, dtypes and optimizer implementations, ready for JSON.

    >>> environment(nn.Linear(1, 1), [])["dtypes"]
    ['float32']
    """
    parameters = list(model.parameters())
    device = parameters[0].device if parameters else torch.device("cpu")
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in parameters}),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "optimizers": [implementation(optimizer) for optimizer in optimizers],
    }


def implementation(optimizer: Optimizer) -> str:
    """The kind of an optimizer and how it computes: "Adam(foreach)"; equal formulas may differ in the last bits."""
    flags = {
        flag
        for group in optimizer.param_groups
        for flag in ("foreach", "fused", "capturable", "differentiable")
        if group.get(flag)
    }
    return f"{type(optimizer).__name__}({', '.join(sorted(flags)) or 'default'})"
