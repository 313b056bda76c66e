"""The norm of each sample's own gradient in a step: of what it alone adds to the objective, before clipping.

Three ways, the first that fits. Each is checked: the gradients of all samples must add up to the step's own.

"vmap"        one vectorised call for many samples (torch.func); for models without data-dependent control flow
"one by one"  a pass forward and back for each sample alone
"together"    one pass forward, and one back for each sample: for models and losses in which samples meet (batch
              statistics, in-batch negatives), where alone they would be something else
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minibatch.models.noise import NoiseKeys
from minibatch.train.batch_statistics import statistics_layers
from minibatch.train.gradient import Gradient, Part
from minibatch.train.guard import Buffers

Way = Literal["vmap", "one by one", "together"]
WAYS: tuple[Way, ...] = ("vmap", "one by one", "together")
CHUNK_BYTES = 1 << 28  # of gradients of single samples at a time
TOLERANCE = {torch.float64: 1e-9}  # of the sum; for other dtypes:
ROUGH = 1e-3


@dataclass(frozen=True, kw_only=True)
class SampleNorms:
    """`norms`: (stream, nominal time) of a sample → the 2-norm of its gradient. way: how they were found.

    error: how far the sum of all gradients is from that of the step, as a share of it; NaN where that is not finite.
    """

    norms: Mapping[tuple[str | None, int], float]
    way: Way
    error: float


def sample_norms(engine: Gradient, parts: Sequence[Part], way: Way | None = None) -> SampleNorms:
    """The gradient norms of all samples of a step whose gradient is in the parameters' `grad`; changes nothing.

    way: this one only; by default the first that gives the step's gradient. Raises RuntimeError where none does.
    """
    model = engine.model
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    whole = {name: p.grad.detach().clone() for name, p in parameters.items() if p.grad is not None}
    tried = []
    with _untouched(engine, parts):
        for each in possible(engine, parts) if way is None else (way,):
            scale = 1.0 / engine.precision.scale
            total = {name: torch.zeros_like(p) for name, p in parameters.items()}
            norms: dict[tuple[str | None, int], float] = {}
            try:
                for part in parts:
                    stream = part.shares[0].term.stream if part.shares else None
                    for time, norm in GIVEN[each](engine, part, parameters, total):
                        norms[stream, time] = norm * scale
            except Exception as problem:
                # What a model cannot do under vmap shows as one of many exceptions; alone and together it must work.
                if way is not None or each == "together":
                    raise
                tried.append(f"{each}: {type(problem).__name__}")
                continue
            error = _distance({name: t * scale for name, t in total.items()}, whole)
            dtype = next(iter(parameters.values())).dtype
            if error != error or error <= TOLERANCE.get(dtype, ROUGH) or way is not None:
                return SampleNorms(norms=norms, way=each, error=error)
            tried.append(f"{each}: off by {error:.2g}")
    raise RuntimeError(
        f"the gradients of single samples do not add up to that of the step ({'; '.join(tried)}): something in the "
        "model or its losses depends on more than the samples, such as a generator or a counter"
    )


def possible(engine: Gradient, parts: Sequence[Part]) -> tuple[Way, ...]:
    """The ways that can be right, the fastest first."""
    meet = any(module.training for module in statistics_layers(engine.model).values())
    meet |= any(share.term.over == "minibatch" for part in parts for share in part.shares)
    meet |= any(part.before_microbatch is not None for part in parts)  # noise that is drawn for a whole microbatch
    if meet:
        return ("together",)
    return WAYS if engine.around is None and not engine.precision.name else WAYS[1:]


Norms = Iterator[tuple[int, float]]


def _vectorised(engine: Gradient, part: Part, parameters: Mapping[str, Tensor], total: dict[str, Tensor]) -> Norms:
    batch, shares = part.batch, [share for share in part.shares if share.total]
    n = batch.num_samples
    if not shares or not n:
        return
    fields = {name: value for name, value in ((name, batch[name]) for name in batch) if isinstance(value, Tensor)}
    seeds = []
    for share in shares:
        if not share.trailing:
            raise RuntimeError("a term has not been computed")
        seeds.append(_seeds(engine, part, share))
    step = _Objective(engine, part, [share.term.loss for share in shares])
    names = list(parameters)

    def objective(values: tuple[Tensor, ...], sample: dict[str, Tensor], time: Tensor, seed: list[Tensor]) -> Tensor:
        given = {f"model.{name}": value for name, value in zip(names, values, strict=True)}
        inputs = ({name: field.unsqueeze(0) for name, field in sample.items()}, time.unsqueeze(0), seed)
        result: Tensor = torch.func.functional_call(step, given, inputs)
        return result

    gradient = torch.func.vmap(torch.func.grad(objective), in_dims=(None, 0, 0, 0), randomness="error")
    size = sum(p.numel() * p.element_size() for p in parameters.values())
    chunk = max(1, CHUNK_BYTES // max(1, size))
    values = tuple(p.detach() for p in parameters.values())
    times = batch.times_tensor()
    for start in range(0, n, chunk):
        stop = min(n, start + chunk)
        sample = {name: field[start:stop] for name, field in fields.items()}
        found = gradient(values, sample, times[start:stop], [seed[start:stop] for seed in seeds])
        squares = torch.zeros(stop - start, dtype=torch.float64, device=times.device)
        for name, each in zip(names, found, strict=True):
            total[name] += each.sum(0)
            squares += torch.linalg.vector_norm(each.reshape(stop - start, -1), dim=1).double().square()
        yield from zip(batch.times[start:stop].tolist(), squares.sqrt().tolist(), strict=True)


def _alone(engine: Gradient, part: Part, parameters: Mapping[str, Tensor], total: dict[str, Tensor]) -> Norms:
    for i in range(part.batch.num_samples):
        yield from _back(engine, part, i, i + 1, parameters, total)


def _together(engine: Gradient, part: Part, parameters: Mapping[str, Tensor], total: dict[str, Tensor]) -> Norms:
    meet = any(share.term.over == "minibatch" for share in part.shares)
    for start, stop in [(0, part.batch.num_samples)] if meet else part.cuts:
        yield from _back(engine, part, start, stop, parameters, total)


GIVEN: Mapping[Way, Callable[[Gradient, Part, Mapping[str, Tensor], dict[str, Tensor]], Norms]] = {
    "vmap": _vectorised,
    "one by one": _alone,
    "together": _together,
}


def _back(
    engine: Gradient, part: Part, start: int, stop: int, parameters: Mapping[str, Tensor], total: dict[str, Tensor]
) -> Norms:
    """The samples [start, stop) forward in one pass, and each of them back."""
    batch = part.batch.part(start, stop)
    chosen = list(parameters.values())
    with engine.contexts(part, batch, start, stop):
        _, roots, seeds = engine.objective(part, batch, start, stop, None, True)
        for i, time in enumerate(batch.times.tolist()):
            if not roots:
                yield time, 0.0
                continue
            own = []
            for seed in seeds:
                mask = torch.zeros_like(seed)
                mask[i] = seed[i]
                own.append(mask)
            found = torch.autograd.grad(roots, chosen, own, retain_graph=i + 1 < stop - start, allow_unused=True)
            square = 0.0
            for name, each in zip(parameters, found, strict=True):
                if each is not None:
                    dense = each.to_dense() if each.is_sparse else each
                    total[name] += dense
                    square += float(torch.linalg.vector_norm(dense.double())) ** 2
            yield time, math.sqrt(square) if square < math.inf else square


class _Objective(nn.Module):
    """What one sample adds to the objective, as a module, so that its parameters can be put in from outside."""

    def __init__(self, engine: Gradient, part: Part, losses: Sequence[Callable[[Any, Any], Tensor]]) -> None:
        super().__init__()
        self.model = engine.model
        self.part = part
        self.losses = losses
        self.keys: NoiseKeys | None = engine.keys

    def forward(self, fields: Mapping[str, Tensor], times: Tensor, seeds: Sequence[Tensor]) -> Tensor:
        if self.keys is None:
            return self._objective(fields, seeds)
        with self.keys.at(times, stream=self.part.stream):
            return self._objective(fields, seeds)

    def _objective(self, fields: Mapping[str, Tensor], seeds: Sequence[Tensor]) -> Tensor:
        batch: Any = _Sample(fields)
        outputs = self.part.forward(self.model, batch)
        pieces = [
            (loss(outputs, batch) * seed.unsqueeze(0)).sum() for loss, seed in zip(self.losses, seeds, strict=True)
        ]
        return torch.stack(pieces).sum()


class _Sample(dict[str, Tensor]):
    """One sample as losses see a minibatch of it; what is not a tensor is missing, and asking for it an error."""

    num_samples = 1


def _seeds(engine: Gradient, part: Part, share: Any) -> Tensor:
    """The weights that the backward pass of a term starts from, for all samples: (n, …)."""
    n = part.batch.num_samples
    with torch.no_grad(), engine.contexts(part, part.batch.part(0, 1), 0, 1):
        one = share.term.loss(part.forward(engine.model, part.batch.part(0, 1)), part.batch.part(0, 1))
    like = torch.zeros((n, *one.shape[1:]), dtype=one.dtype, device=one.device)
    seeds: Tensor = share.seed(like, 0, n, engine.precision.scale)
    return seeds


def _distance(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> float:
    """|one - two| / |two| over all tensors, those that are missing being 0."""
    apart = square = 0.0
    for name, tensor in one.items():
        other = two.get(name)
        other = torch.zeros_like(tensor) if other is None else other.to_dense() if other.is_sparse else other
        apart += float((tensor.double() - other.double()).square().sum())
        square += float(other.double().square().sum())
    if not math.isfinite(square) or not math.isfinite(apart):
        return math.nan
    return math.sqrt(apart / square) if square else math.sqrt(apart)


@contextmanager
def _untouched(engine: Gradient, parts: Sequence[Part]) -> Iterator[None]:
    """Buffers and sums are afterwards as they were."""
    shares = [share for part in parts for share in part.shares]
    before = [(share.numerator, list(share.leaves), list(share.bad_rows)) for share in shares]
    buffers = Buffers(engine.model)
    buffers.keep()
    exact, engine.exact = engine.exact, None
    try:
        yield
    finally:
        engine.exact = exact
        buffers.put_back()
        for share, (numerator, leaves, bad) in zip(shares, before, strict=True):
            share.numerator, share.leaves, share.bad_rows = numerator, leaves, bad
