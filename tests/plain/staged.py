"""Optimizers one after the other, by hand: each is made anew when its turn comes, as several calls of `train` would."""

from collections.abc import Callable, Sequence

import torch
from torch.optim import Optimizer


def trained_in_turn(
    parameters: Sequence[torch.Tensor],
    makes: Sequence[Callable[[Sequence[torch.Tensor]], Optimizer]],
    borders: Sequence[int],
    *,
    size: int,
    steps: int,
    gradients: Callable[[Sequence[torch.Tensor], int], Sequence[torch.Tensor]],
    rates: Sequence[Callable[[int], float]] | None = None,
) -> None:
    """`steps` steps of `size` samples from nominal time 0. gradients: of the parameters at a nominal time.

    rates: one per stage, of the time since the stage began; else the rates are as they were made.
    """
    begins = [0, *borders]
    stage, optimizer = -1, None
    for step in range(steps):
        time = step * size
        turn = max(i for i, begin in enumerate(begins) if begin <= time)
        if turn != stage:
            stage, optimizer = turn, makes[turn](parameters)
        assert optimizer is not None
        if rates is not None:
            for group in optimizer.param_groups:
                group["lr"] = rates[stage](time - begins[stage])
        for parameter, gradient in zip(parameters, gradients(parameters, time), strict=True):
            parameter.grad = gradient
        optimizer.step()
