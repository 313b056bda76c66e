"""One loss of a step: per-sample values, a weight, a mask, a denominator and a coefficient.

    L = Σ_terms coefficient · (Σ_i w_i · m_i · loss_i) / D  +  regularizers

D is a number for the whole minibatch, known before the forward pass because weights and masks are columns of the
data; therefore any cut into microbatches (and, later, ranks) gives the same sum. Users write per-sample losses and
never a reduction. A term whose D is 0 in a minibatch is absent: it contributes nothing, its parameters see no gradient.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from minibatch.train.batches import TensorBatch, as_tensor, shapes_of

Loss = Callable[[Any, TensorBatch], Tensor]
Column = str | Callable[[TensorBatch], Any]
DENOMINATORS = ("weights", "count", "nominal")


@dataclass(frozen=True)
class Term:
    """One loss of the step.

    name: how it is reported. loss: a function (outputs, batch) -> values (n,) per sample or (n, …) per element.
    weight, mask: a field's name or a function of the whole minibatch (on the CPU) -> (n,), or per element with the
    leading axes of the values; weights are finite and ≥ 0, masks are bool or 0 and 1. Values of weight or mask 0 are
    left out, whatever they are; their gradients must still be finite (a loss of a missing label must not be inf - inf).

    denominator: what the sum is divided by, always for the whole minibatch:
        "weights"   Σ w·m: a weighted mean; with per-sample weights and per-element values, each element counts w·m
        "count"     Σ m
        "nominal"   the minibatch size asked for, even if the minibatch is short
        a number    this number
        None        nothing: the sum
    coefficient: a number, or a function of nominal time (samples) evaluated at the beginning of the step.

    over: "sample" for a loss whose value of a sample depends on that sample alone; "minibatch" for one that compares
    the samples of a minibatch with each other and must see the outputs of all of them at once, whatever the microbatch.
    stream: which source the term is of, where a run has several.

    >>> term = Term("class", lambda outputs, batch: outputs["loss"], weight="importance", coefficient=0.3)
    >>> term.denominator
    'weights'
    """

    name: str
    loss: Loss
    _: KW_ONLY
    weight: Column | None = None
    mask: Column | None = None
    denominator: str | float | None = "weights"
    coefficient: float | Callable[[int], float] = 1.0
    over: Literal["sample", "minibatch"] = "sample"
    stream: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise ValueError(f"a term needs a name, got {self.name!r}")
        if not callable(self.loss):
            raise TypeError(
                f"term {self.name!r}: loss must be a function (outputs, batch) -> values, got {self.loss!r}"
            )
        d = self.denominator
        if not (d is None or (d in DENOMINATORS if isinstance(d, str) else 0.0 < d < math.inf)):
            raise ValueError(
                f"term {self.name!r}: denominator={d!r}; expected one of {', '.join(map(repr, DENOMINATORS))}, "
                "a finite number > 0, or None for the sum"
            )
        if not callable(self.coefficient) and not math.isfinite(self.coefficient):
            raise ValueError(f"term {self.name!r}: coefficient={self.coefficient!r} is not a finite number")
        if self.over not in ("sample", "minibatch"):
            raise ValueError(f"term {self.name!r}: over={self.over!r}, expected 'sample' or 'minibatch'")
        if self.over == "sample" and getattr(self.loss, "over", "sample") == "minibatch":
            raise ValueError(
                f'term {self.name!r}: its loss compares the samples of a minibatch: write over="minibatch"'
            )


class Share:
    """A term in one minibatch: the weights of its samples, its coefficient, and what the forward pass has added up.

    `numerator` is a float on the CPU and a 0-dim tensor elsewhere; `denominator` is final from the first microbatch on,
    when the values of a sample have been counted.
    """

    __slots__ = (
        "_stretched",
        "bad_rows",
        "coefficient",
        "counted",
        "denominator",
        "keep",
        "leaves",
        "numerator",
        "per_value",
        "term",
        "total",
        "trailing",
        "weights",
    )

    def __init__(self, term: Term, coefficient: float, total: float, per_value: bool) -> None:
        self.term = term
        self.coefficient = coefficient
        self.weights: Tensor | None = None  # (n, …): w·m of the whole minibatch, on the CPU
        self.keep: Tensor | None = None  # where weights are not 0; None if nowhere
        self.total = total  # the denominator, to be multiplied by `trailing` if it counts values
        self.per_value = per_value
        self.trailing = 0  # values per weight: 0 until the first microbatch
        self.denominator = total
        self.counted = total if per_value else 0.0  # what a mean per sample divides by, completed like the denominator
        self.numerator: float | Tensor = 0.0
        self.leaves: list[float | Tensor] = []  # the numerators of leaves, where their order must not matter
        self._stretched: tuple[tuple[int, int, int], Tensor] | None = None
        self.bad_rows: list[int] = []  # whose loss was not finite, where that was seen

    @property
    def absent(self) -> bool:
        return self.total == 0.0

    def count(self, values: Tensor, start: int, stop: int) -> None:
        """Complete the denominator by how many values each sample of [start, stop) has, and check shapes.

        Raises ValueError where weights do not fit the values, or where microbatches differ in values per sample.
        """
        if self.trailing == 1 and values.ndim == 1 and self.weights is None:
            return
        weights = stop - start
        if self.weights is not None:
            shape = (stop - start, *self.weights.shape[1:])
            if values.shape[: len(shape)] != shape:
                raise ValueError(
                    f"term {self.term.name!r}: weight and mask have shape {shape} in this microbatch, the loss "
                    f"{tuple(values.shape)}: they must have the leading axes of the loss"
                )
            weights = math.prod(shape)
        trailing = values.numel() // weights if weights else 1
        if trailing == self.trailing:
            return
        if self.trailing:
            raise ValueError(
                f"term {self.term.name!r}: the loss has {trailing} values per sample in this microbatch (shape "
                f"{tuple(values.shape)}) and {self.trailing} in the one before, so that its denominator is not "
                "defined: give values (n,) per sample, or a mask per element"
            )
        self.trailing = trailing
        self.denominator = self.total * trailing if self.per_value else self.total
        self.counted *= trailing

    def weighted_sum(self, values: Tensor, start: int, stop: int) -> Tensor:
        """Σ w·m·values of the samples [start, stop): a 0-dim tensor, float64 wherever the device has it."""
        dtype = torch.float32 if values.is_mps else torch.float64
        if self.weights is None:
            return values.sum(dtype=dtype)
        weights = self._of(values, start, stop, dtype)
        if self.keep is not None:
            # 0 · inf is NaN: what does not count must not be looked at.
            values = values.where(weights != 0, 0.0)
        return (values * weights).sum(dtype=dtype)

    def gather(self, numerator: float | Tensor, *, exact: bool) -> None:
        """Add the numerator of a microbatch; with `exact`, keep it until `add_up`."""
        if exact:
            self.leaves.append(numerator)
        else:
            self.numerator = self.numerator + numerator

    def add_up(self, sum_of: Callable[[Sequence[float]], float]) -> None:
        """Complete the numerator from those of the leaves, in a way that does not depend on their order."""
        if not self.leaves:
            return
        if isinstance(self.leaves[0], Tensor):
            self.numerator = torch.stack([torch.as_tensor(leaf) for leaf in self.leaves]).sort().values.sum()
        else:
            self.numerator = sum_of([float(leaf) for leaf in self.leaves])
        self.leaves = []

    def is_finite(self) -> bool:
        """Whether a numerator on the host is a finite number."""
        return not isinstance(self.numerator, float) or self.numerator - self.numerator == 0.0

    def seed(self, values: Tensor, start: int, stop: int, loss_scale: float = 1.0) -> Tensor:
        """coefficient · w·m / D of every value: the gradient of the objective with respect to `values`.

        loss_scale: a power of two that everything is multiplied by.
        """
        scale = loss_scale * self.coefficient / self.denominator
        if self.weights is None:
            return torch.full_like(values, scale)
        weights = self._of(values, start, stop, torch.float32 if values.is_mps else torch.float64) * scale
        return weights.to(values.dtype).expand(values.shape)

    def _of(self, values: Tensor, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """The weights of the samples [start, stop) where `values` are, with as many axes; kept for a second use."""
        assert self.weights is not None
        key = (start, stop, values.ndim)
        if self._stretched is None or self._stretched[0] != key:
            stretch = self.weights if stop - start == len(self.weights) else self.weights[start:stop]
            stretch = stretch.to(values.device, dtype, non_blocking=True)
            self._stretched = key, stretch.view(stretch.shape + (1,) * (values.ndim - stretch.ndim))
        return self._stretched[1]


def plan(term: Term, batch: TensorBatch, *, nominal_size: int, time: int) -> Share:
    """The share of `term` in a whole minibatch whose columns are on the CPU, before any forward pass.

    Raises ValueError naming term, field and rows for weights that are NaN, infinite or negative, and for masks that
    are neither bool nor 0 and 1.
    """
    coefficient = term.coefficient
    if callable(coefficient):
        coefficient = float(coefficient(time))
        if not math.isfinite(coefficient):
            raise ValueError(f"term {term.name!r}: its coefficient at nominal time {time} is {coefficient!r}")
    n = batch.num_samples
    if n == 0:
        return Share(term, coefficient, 0.0, False)
    denominator = term.denominator
    if term.weight is None and term.mask is None:
        if denominator == "weights" or denominator == "count":
            return Share(term, coefficient, float(n), True)
        share = Share(term, coefficient, _fixed(denominator, nominal_size), False)
        share.counted = float(n)
        return share

    product, counted, zeros = None, float(n), False
    if term.weight is not None:
        product, zeros = _weights(term, batch)
    if term.mask is not None:
        mask = _mask(term, batch)
        zeros = True
        if product is None:
            product = mask.double()
        else:
            axes = max(product.ndim, mask.ndim)
            product, mask = _with_axes(product, axes), _with_axes(mask, axes)
            try:
                product, mask = product * mask, mask.expand(torch.broadcast_shapes(product.shape, mask.shape))
            except RuntimeError:
                raise ValueError(
                    f"term {term.name!r}: weight has shape {tuple(product.shape)} and mask {tuple(mask.shape)}: one "
                    "must have the leading axes of the other"
                ) from None
        counted = float(mask.sum().item())
    else:
        assert product is not None
        counted = float(product.numel())

    if denominator == "weights":
        share = Share(term, coefficient, product.sum(dtype=torch.float64).item(), True)
    elif denominator == "count":
        share = Share(term, coefficient, counted, True)
    else:
        share = Share(term, coefficient, _fixed(denominator, nominal_size), False)
        share.counted = counted
    share.weights = product.double()
    share.keep = product != 0 if zeros else None
    return share


def _fixed(denominator: str | float | None, nominal_size: int) -> float:
    if denominator is None:
        return 1.0
    return float(nominal_size) if denominator == "nominal" else float(denominator)


def _with_axes(tensor: Tensor, axes: int) -> Tensor:
    return tensor.view(tensor.shape + (1,) * (axes - tensor.ndim))


def _column(term: Term, role: str, batch: TensorBatch) -> Tensor:
    """The weight or mask of every sample: a tensor (n, …) on the CPU."""
    column: Column = getattr(term, role)
    try:
        values = batch[column] if isinstance(column, str) else as_tensor(column(batch))
    except KeyError as error:
        error.add_note(f"minibatch: it is the {role} of term {term.name!r}")
        raise
    if not isinstance(values, Tensor) or values.ndim == 0 or values.shape[0] != batch.num_samples:
        raise ValueError(
            f"term {term.name!r}: {role} {_title(column)} gave {shapes_of(values)}; expected numbers of shape "
            f"({batch.num_samples}, …), one per sample or per element; the fields are {shapes_of(batch)}"
        )
    return values.detach()


def _weights(term: Term, batch: TensorBatch) -> tuple[Tensor, bool]:
    """Checked weights of the whole minibatch, and whether one of them is 0."""
    values = _column(term, "weight", batch)
    if values.is_complex() or not values.numel():
        raise ValueError(
            f"term {term.name!r}: weight {_title(term.weight)} is {shapes_of(values)}; expected real numbers, at least "
            "one per sample"
        )
    if not values.is_floating_point():
        values = values.double()  # torch has little arithmetic for unsigned integers
    least, most = (float(bound) for bound in torch.aminmax(values))
    # A NaN makes both bounds NaN, and every comparison with it false.
    if not (least >= 0.0 and most < math.inf):
        fine = torch.isfinite(values) & (values >= 0)
        rows = batch.rows[(~fine).reshape(len(values), -1).any(1).numpy()]
        shown = values[~fine][:5].tolist()
        raise ValueError(
            f"term {term.name!r}: weight {_title(term.weight)} has values that are NaN, infinite or negative ({shown}"
            f"…) in rows {rows[:10].tolist()}{' …' if len(rows) > 10 else ''} of the data set: expected finite and ≥ 0"
        )
    return values, least == 0.0


def _mask(term: Term, batch: TensorBatch) -> Tensor:
    values = _column(term, "mask", batch)
    if values.dtype == torch.bool:
        return values
    bad = ((values != 0) & (values != 1)).reshape(len(values), -1).any(1)
    if bad.any():
        raise ValueError(
            f"term {term.name!r}: mask {_title(term.mask)} is {values[bad].flatten()[:5].tolist()}… in rows "
            f"{batch.rows[bad.numpy()][:10].tolist()}: a mask is bool, or 0 and 1; use weight= for other numbers"
        )
    return values != 0


def _title(column: Column | None) -> str:
    return f"field {column!r}" if isinstance(column, str) else f"function {getattr(column, '__qualname__', column)}"
