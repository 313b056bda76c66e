"""Equilibrated SGD: the gradient divided by the root mean square of Hessian-vector products."""

from collections.abc import Mapping
from typing import Literal, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from minibatch import rng
from minibatch.train.optimizers.descent import Descent, Group, Shared, States, Tensors, entries, ewma

Curvature = Literal["full", "block"]
Average = Literal["mean", "ewma"]


class ESGD(Descent):
    """p ← p - lr·g / (sqrt(D) + eps), with D the average of (H r)² over random r ~ N(0, 1).

    Somebody has to compute H r, which an engine does in this order, before each `step`:

        if optimizer.curvature_due(step):                         # step: updates so far
            r = optimizer.directions(key)                      # of the run's seed and the step's nominal time
            optimizer.take_curvature(products of the objective's Hessian with r)

    With curvature="full" (Dauphin et al. 2015), H is the whole Hessian: torch.autograd.grad(gradients, parameters, r).
    With "block" (downhill, `block_diagonal` is True), each parameter tensor b has a product of its own, H_bb r_b, from
    torch.autograd.grad(gradient of b, b, r_b): as many backward passes as there are tensors.
    average: "mean" of all so far (the paper), or "ewma" with `halflife` in updates of D (downhill).
    period: steps from one H r to the next; the paper has 20. The first step always has one.
    State: "curvature" (the sum of squares, or their moving average) and "estimates" (int).

    Sources: Dauphin, de Vries and Bengio 2015, arXiv:1502.04390, algorithm 1; downhill's ESGD is curvature="block",
    average="ewma", period=1, eps=1e-8, with eps outside the root as in its code (its text has it inside).

    >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = ESGD([weight], lr=1.0, eps=0.0)
    >>> gradient = torch.tensor([2.0, 200.0]) * weight                       # of w₀² + 100 w₁²
    >>> optimizer.curvature_due(0), list(optimizer.directions(7)[weight].shape)
    (True, [2])
    >>> optimizer.take_curvature({weight: torch.tensor([2.0, 200.0])})       # H r for r = (1, 1)
    >>> weight.grad = gradient.detach()
    >>> optimizer.step()
    >>> weight.data
    tensor([0., 0.])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        *,
        curvature: Curvature = "full",
        average: Average = "mean",
        halflife: float = 14.0,
        period: int = 20,
        eps: float = 1e-4,
        **shared: Unpack[Shared],
    ) -> None:
        if curvature not in ("full", "block"):
            raise ValueError(f"ESGD: curvature={curvature!r}, expected 'full' or 'block'")
        if average not in ("mean", "ewma"):
            raise ValueError(f"ESGD: average={average!r}, expected 'mean' or 'ewma'")
        if isinstance(period, bool) or not isinstance(period, int) or period < 1:
            raise ValueError(f"ESGD: period={period!r}, expected a number of steps ≥ 1")
        self.curvature: Curvature = curvature
        self.period = period
        numbers = {"lr": lr, "halflife": halflife, "eps": eps}
        super().__init__(params, {**numbers, "average": average, "curvature": curvature, "period": period}, **shared)

    @property
    def block_diagonal(self) -> bool:
        """Whether each parameter tensor wants the product with its own block of the Hessian alone."""
        return self.curvature == "block"

    def curvature_due(self, step: int) -> bool:
        """Whether the step after `step` updates needs H r: every `period` steps, and where there is none yet."""
        if step % self.period == 0:
            return True
        return any(
            "curvature" not in self.state[p] for group in self.param_groups for p in group["params"] if p.requires_grad
        )

    def directions(self, key: int) -> dict[Tensor, Tensor]:
        """The random r of every trainable parameter, N(0, 1), as its parameter: functions of `key` (64 bits) alone."""
        result: dict[Tensor, Tensor] = {}
        number = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    normal = rng.normal(rng.absorb(key, number), np.arange(parameter.numel()))
                    tensor = torch.from_numpy(normal).to(parameter.dtype).view(parameter.shape)
                    result[parameter] = tensor.to(parameter.device, non_blocking=True)
                number += 1
        return result

    @torch.no_grad()
    def take_curvature(self, products: Mapping[Tensor, Tensor | None]) -> None:
        """Take H r of every parameter, None where it is 0 because the gradient does not depend on the parameter.

        Only finite products may come here: a NaN would stay in the average. Raises ValueError if one is missing.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                if not parameter.requires_grad:
                    continue
                if parameter not in products:
                    raise ValueError(
                        f"ESGD.take_curvature: no product for a parameter of shape {tuple(parameter.shape)}; give one "
                        "for each of directions, or None where it is 0"
                    )
                self._take(parameter, products[parameter], group)

    def _take(self, parameter: Tensor, product: Tensor | None, group: Group) -> None:
        state = self.state[parameter]
        (curvature,) = entries([state], "curvature", [parameter])
        state["estimates"] = state.get("estimates", 0) + 1
        gain = 1.0
        if group["average"] == "ewma":
            gamma = ewma(group["halflife"])
            curvature.mul_(gamma)
            gain = 1.0 - gamma
        if product is not None:
            curvature.addcmul_(product, product, value=gain)

    def uphill(self, parameters: Tensors, gradients: Tensors, states: States, group: Group) -> Tensors:
        if any("curvature" not in state for state in states):
            raise RuntimeError(
                "ESGD has no curvature yet: before the first step give take_curvature the products of the Hessian with "
                "directions(key). A Trainer does so"
            )
        averages = [state["curvature"] for state in states]
        if group["average"] == "mean":
            averages = list(torch._foreach_div(averages, [float(state["estimates"]) for state in states]))
        roots = list(torch._foreach_sqrt(averages))
        torch._foreach_add_(roots, group["eps"])
        return list(torch._foreach_div(gradients, roots))
