"""The contractive regularizer: how much an activation changes with the input it was computed from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from minibatch.models.noise import signs
from minibatch.train.regularizers.activations import ActivationRegularizer, Recorded, sum_of, wide

Form = Literal["jacobian", "theanets"]


@dataclass(frozen=True, kw_only=True)
class Contractive(ActivationRegularizer):
    """coefficient · Σ (∂h/∂x)² of the modules that match `pattern`: representations that do not move with the input.

    x (n, f) is the first floating tensor that the model is called with, or the output of the module called `of` (for
    inputs that are integers, name the module that makes them floating: an embedding, a conversion). h (n, u) is the
    activation of sample i, which must depend on x_i alone, so not through batch normalisation in train mode.

    form: whose derivatives are the entries e:
        "jacobian"   of every unit: the sum is the squared Frobenius norm of the Jacobian, the mean that over u · f
                     (Rifai et al. 2011, "Contractive auto-encoders", equation 1)
        "theanets"   of the mean of the units, (∂ mean_u(h) / ∂x)²: f entries. theanets 0.7 differentiates the mean over
                     the samples too, which divides everything by n²: for minibatches of n samples its value is that
                     of coefficient / n² and reduce="mean_of_means" here

    samples: None computes the Jacobian exactly, by one backward pass per unit; a number estimates its norm from so many
    products with random signs, E|vᵀJ|² = |J|² (Hutchinson 1990), each by one backward pass. The signs are a function of
    (seed, name, module, nominal time): equal for any cut and resume. Costs: each backward pass is differentiated again
    by the step's own; layers need second derivatives (cuDNN's RNNs and compiled models have none).

    >>> Contractive(coefficient=0.1, pattern="encoder", samples=4).form
    'jacobian'
    """

    default_name: ClassVar[str] = "contractive"
    needs_start: ClassVar[bool] = True

    form: Form = "jacobian"
    samples: int | None = None
    of: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in get_args(Form):
            raise ValueError(f"Contractive: form={self.form!r}, expected 'jacobian' or 'theanets'")
        if self.samples is not None and (self.samples < 1 or self.form == "theanets"):
            raise ValueError(
                f"Contractive: samples={self.samples!r} with form={self.form!r}; expected an integer ≥ 1 or None, and "
                "None for 'theanets', which needs one backward pass anyway"
            )

    def values(self, recorded: Recorded) -> Tensor:
        """The regularizer of each sample, without its coefficient: floating (n,), differentiable.

        Raises ValueError where an activation does not depend on the input.
        """
        inputs = sum(start[0].numel() for start in recorded.starts) if len(recorded.times) else 0
        parts = []
        with torch.enable_grad():
            for name, calls in recorded.activations.items():
                units = torch.cat([call.reshape(len(call), -1) for call in calls], 1)
                squares, entries = self._squares(name, units, recorded)
                parts.append(self.reduced(squares, inputs * entries))
        return self.total(parts)

    def _squares(self, name: str, units: Tensor, recorded: Recorded) -> tuple[Tensor, int]:
        """Σ of squared derivatives of activations (n, u) by sample: (n,), and of how many functions they are."""
        count = units.shape[1]
        if self.form == "theanets":
            return self._of_scalars(name, wide(units).mean(1), recorded.starts), 1
        if self.samples is None:
            return sum_of([self._of_scalars(name, units[:, u], recorded.starts) for u in range(count)]), count
        drawn = []
        for number in range(self.samples):
            key = recorded.key_of(f"{self.name or self.default_name}.{name}.{number}")
            products = (units * signs(key, recorded.times, count).to(units.dtype)).sum(1)
            drawn.append(self._of_scalars(name, products, recorded.starts))
        return sum_of(drawn) / self.samples, count

    def _of_scalars(self, name: str, scalars: Tensor, starts: Sequence[Tensor]) -> Tensor:
        """Σ of the squared derivatives of one scalar per sample, (n,): (n,)."""
        gradients: tuple[Tensor | None, ...] = ()
        if scalars.requires_grad:
            # Samples are independent, so the derivative of the sum holds those of all of them.
            gradients = torch.autograd.grad(
                scalars.sum(), list(starts), create_graph=True, retain_graph=True, allow_unused=True
            )
        found = [wide(g).reshape(len(g), -1).square().sum(1) for g in gradients if g is not None]
        if not found:
            raise ValueError(
                f"{self.name or self.default_name}: the output of module {name!r} does not depend on "
                f"{'the input of the model' if self.of is None else f'the output of module {self.of!r}'}: choose other "
                "modules by pattern=, or another start by of="
            )
        return sum_of(found)
