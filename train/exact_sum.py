"""The sum of gradients over leaves, equal bit for bit in whatever order, grouping or process they are added.

Two float64 numbers for each value (three for float64 gradients) hold exact sums of multiples of fixed powers of two,
see kernels/exact.py: a gradient below 2^18 is rounded to a multiple of 2^-67 (2^-110), once, on its own.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minibatch.kernels import exact
from minibatch.kernels.exact import LIMIT, MAX_SUMMANDS, UNITS

_M = tuple(1.5 * 2.0**52 * unit for unit in UNITS)


class ExactSum:
    """Adds up tensors of the shapes of `parameters`: `add` what their `grad` holds, then `finish` into it.

    A parameter that never had a gradient keeps none. Values that are NaN or not below 2^18 make the sum NaN.

    >>> weight = torch.zeros(1, requires_grad=True)
    >>> total = ExactSum({"weight": weight})
    >>> for gradient in (1e4, 1e-4, -1e4):
    ...     weight.grad = torch.tensor([gradient])
    ...     total.add()
    >>> total.finish()
    >>> weight.grad
    tensor([1.0000e-04])
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = dict(parameters)
        self._sums: dict[str, Tensor] = {}  # (levels, values) of parameters on the CPU and elsewhere
        self._present: set[str] = set()
        self.count = 0

    def add(self, scale: float = 1.0) -> None:
        """Add what is in the `grad` of the parameters, times the power of two `scale`, and set it to None.

        Raises ValueError for sparse and complex gradients and for more than 1,024 summands.
        """
        self.count += 1
        if self.count > MAX_SUMMANDS:
            raise ValueError(
                f"a step of promise='bits' has at most {MAX_SUMMANDS} leaves: choose a larger leaf_size or a smaller "
                "minibatch"
            )
        for name, parameter in self.parameters.items():
            grad = parameter.grad
            if grad is None:
                continue
            if grad.is_complex():
                raise ValueError(f"promise='bits' adds real gradients, {name} has one of {grad.dtype}: keep real parts")
            if grad.is_sparse:
                raise ValueError(f"promise='bits' needs dense gradients, {name} has a sparse one: pass sparse=False")
            parameter.grad = None
            values = grad.reshape(-1)
            if values.dtype not in (torch.float32, torch.float64):
                values = values.float()
            if scale != 1.0:
                values = values.double() * scale
            self._add(name, values.contiguous(), 3 if grad.dtype is torch.float64 else 2)

    def _add(self, name: str, values: Tensor, levels: int) -> None:
        sums = self._sums.get(name)
        if sums is None:
            sums = self._sums[name] = torch.zeros(levels, values.numel(), dtype=torch.float64, device=values.device)
        elif name not in self._present:
            sums.zero_()
        self._present.add(name)
        if values.device.type == "cpu":
            (exact.add_three if levels == 3 else exact.add_two)(values.numpy(), sums.numpy())
        else:
            add_on_device(values, sums)

    def finish(self) -> None:
        """Put the sums into the `grad` of the parameters, rounded once to their dtype, and begin anew."""
        for name, parameter in self.parameters.items():
            if name not in self._present:
                parameter.grad = None
                continue
            sums = self._sums[name]
            total = sums[-1].clone()
            for level in range(len(sums) - 2, -1, -1):
                total = sums[level] + total
            parameter.grad = total.to(parameter.dtype).view(parameter.shape)
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._present.clear()
        self.count = 0


def add_on_device(values: Tensor, sums: Tensor) -> None:
    """What the kernels do, as torch operations: values (n,), sums float64 (levels, n)."""
    rest = values.double()
    rest = rest.where(rest.abs() < LIMIT, torch.nan)
    for level, big in enumerate(_M[: len(sums)]):
        part = (rest + big) - big
        sums[level] += part
        rest = rest - part


def sum_of(values: Sequence[float]) -> float:
    """The exactly rounded sum of host numbers, in whatever order: `math.fsum`, with NaN for what has no sum.

    >>> sum_of([1e308, 1.0, -1e308]), sum_of([float("inf"), float("-inf")])
    (1.0, nan)
    """
    import math

    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return math.nan
