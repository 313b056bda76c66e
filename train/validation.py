"""Exact values of terms and metrics over a whole data set, in nominal order: sums in float64, one division at the end.

The result depends on the data set, not on how it is cut into minibatches (but for the last bits of the forward pass).
What is no sum over samples is handed to objects of torchmetrics in the same order: see `metrics.Collected`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from minibatch import Dataset, MinibatchSource
from minibatch.timeline import MAX_TIME
from minibatch.train.batches import Inputs, TensorBatch, forward_function
from minibatch.train.eval_mode import eval_mode
from minibatch.train.gradient import crosses_samples, is_per_sample, wrong_values
from minibatch.train.metrics import Collected, Measured, Metric
from minibatch.train.precision import Precision, PrecisionName
from minibatch.train.streams import whole_units
from minibatch.train.terms import Term, plan

Data = MinibatchSource | Dataset | str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Validation(Mapping[str, float | None]):
    """`result[name]` is the mean of a term or metric over the data set, None if it had no samples.

    pairs: numerator and denominator by name; samples: how many were seen; nominal_time, step: of the run, when it was.
    """

    pairs: Mapping[str, tuple[float, float]]
    samples: int
    nominal_time: int = 0
    step: int = 0

    def __getitem__(self, name: str) -> float | None:
        numerator, denominator = self.pairs[name]
        return numerator / denominator if denominator else None

    def __iter__(self) -> Any:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)


def evaluate(
    model: nn.Module,
    data: Data | Mapping[str, Data],
    *,
    inputs: Inputs | Mapping[str, Inputs],
    terms: Sequence[Term] = (),
    metrics: Sequence[Measured] = (),
    minibatch_size: int = 1024,
    precision: PrecisionName | None = None,
) -> Validation:
    """Every term and metric over one sweep of `data`, in eval mode and without gradients; modes are put back after.

    data: a data set, read in its own order; or a source (with transforms, say), of which one sweep is read from time
    0 on, or as much as its limits give; it then stands where it stood. One that counts elements of sequences needs a
    limit, such as max_sweeps=1. precision: of the model's arithmetic, as in `Trainer`.

    A term's value is Σ w·m·loss / Σ w·m, or / Σ m where its denominator is not "weights"; coefficients do not matter.
    Only the values of terms over="minibatch", and of metrics whose sums are floating-point numbers, depend on
    minibatch_size.

    Where a run has several sources, data maps the names of streams to their validation sets: every term and metric is
    measured on that of its `stream`, through the inputs of that stream if `inputs` is a mapping too. What is of a
    stream without a validation set has no value.

    >>> import tempfile
    >>> import numpy as np
    >>> from minibatch import DatasetWriter
    >>> folder = tempfile.mkdtemp()
    >>> with DatasetWriter(folder) as writer:
    ...     writer.write({"x": np.arange(10.0)})
    >>> mean = Metric("mean", lambda outputs, batch: outputs)
    >>> evaluate(nn.Identity(), folder, inputs="x", metrics=[mean], minibatch_size=3)["mean"]
    4.5
    """
    _refuse_equal([each.name for each in (*terms, *metrics)])
    if isinstance(data, Mapping):
        return _of_streams(model, data, inputs, terms, metrics, minibatch_size, precision)
    if isinstance(inputs, Mapping):
        raise TypeError(
            f"inputs are given for the streams {', '.join(inputs)}: give a data set for each of them, as in "
            f"{{{next(iter(inputs), 'name')!r}: …}}, to measure on"
        )
    measured = [_as_mean(term) for term in terms]
    measured += [Term(m.name, m.values, weight=m.weight, mask=m.mask) for m in metrics if isinstance(m, Metric)]
    collected = [m for m in metrics if isinstance(m, Collected)]
    names = [term.name for term in measured]
    parameter = next(model.parameters(), None)
    device = None if parameter is None or parameter.device.type == "cpu" else parameter.device
    forward = Precision(precision, device or torch.device("cpu")).forward(forward_function(inputs))
    states = [(metric, metric.begin(device or torch.device("cpu")), _mask_of(metric)) for metric in collected]
    used: set[str] = set()
    sums: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    denominators = dict.fromkeys(names, 0.0)
    samples = 0
    source = data if isinstance(data, MinibatchSource) else MinibatchSource(data, shuffle=None, sequences="rows")
    end, position = _end_of(source), source.nominal_time
    try:
        source.seek(0)
        with (
            eval_mode(model),
            torch.no_grad(),
        ):  # not inference_mode: what a model caches must still be good for training
            while source.nominal_time < end:
                batch = source.next_minibatch(whole_units(min(minibatch_size, end - source.nominal_time), source))
                if not batch:
                    break
                if not batch.num_samples:
                    continue
                samples += batch.num_samples
                host = TensorBatch(batch)
                n = host.num_samples  # of packed sequences it counts the rows of their arrays
                whole = host if device is None else host.on(device)
                outputs = forward(model, whole)
                for term in measured:
                    share = plan(term, host, nominal_size=minibatch_size, time=0)
                    if not share.absent:
                        values = _as_floating(term.loss(outputs, whole))
                        if not is_per_sample(values, n) or crosses_samples(values, outputs):
                            raise wrong_values(share, values, whole, outputs)
                        share.count(values, 0, n)
                        sums[term.name].append(share.weighted_sum(values, 0, n))
                        denominators[term.name] += share.denominator
                for metric, state, mask in states:
                    share = plan(mask, host, nominal_size=minibatch_size, time=0)
                    if not share.absent:
                        metric.update(state, outputs, whole, share.keep)
                        used.add(metric.name)
            results = {m.name: m.pairs(state) if m.name in used else {m.name: (0.0, 0.0)} for m, state, _ in states}
    finally:
        if isinstance(data, MinibatchSource):
            source.seek(position)  # it may be the one that is trained on
        else:
            source.close()
    # Pairwise, by torch.sum, after one transfer: nothing waited for the device on the way.
    numerators = {name: float(torch.stack(values).sum()) if values else 0.0 for name, values in sums.items()}
    pairs = {name: (numerators[name], denominators[name]) for name in names}
    _refuse_equal([*pairs, *(name for result in results.values() for name in result)])
    for result in results.values():
        pairs.update(result)
    return Validation(pairs=pairs, samples=samples)


def _end_of(source: MinibatchSource) -> int:
    """The nominal time at which the validation on `source` is over, if its axis does not end before."""
    if source.sequences == "rows":
        return len(source.dataset)
    if source.arguments["max_sweeps"] is None and source.arguments["max_samples"] is None:
        raise ValueError(
            f"the validation source counts elements of sequences ({source.sequences!r}) and never ends: open it with "
            "max_sweeps=1, or give the data set itself, which is then read row by row"
        )
    return MAX_TIME


def _of_streams(
    model: nn.Module,
    data: Mapping[str, Data],
    inputs: Inputs | Mapping[str, Inputs],
    terms: Sequence[Term],
    metrics: Sequence[Measured],
    minibatch_size: int,
    precision: PrecisionName | None,
) -> Validation:
    """One validation of every stream, in the order of `data`, and all of their values together."""
    for each in (*terms, *metrics):
        if each.stream is None:
            raise ValueError(
                f"{each.name!r} is of no stream, but there are validation sets of {', '.join(data)}: say with stream= "
                "which of them it is measured on"
            )
    if isinstance(inputs, Mapping) and (unknown := [name for name in data if name not in inputs]):
        raise ValueError(f"there are inputs for {', '.join(inputs)}, but none for {', '.join(unknown)}")
    pairs = {each.name: (0.0, 0.0) for each in (*terms, *metrics) if each.stream not in data}
    samples = 0
    for name, own in data.items():
        result = evaluate(
            model,
            own,
            inputs=inputs[name] if isinstance(inputs, Mapping) else inputs,
            terms=[term for term in terms if term.stream == name],
            metrics=[metric for metric in metrics if metric.stream == name],
            minibatch_size=minibatch_size,
            precision=precision,
        )
        _refuse_equal([*pairs, *result.pairs])
        pairs.update(result.pairs)
        samples += result.samples
    return Validation(pairs=pairs, samples=samples)


def _refuse_equal(names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"terms and metrics need different names, got {', '.join(names)}")


def _mask_of(metric: Collected) -> Term:
    """The mask of a metric as that of a term, whose checks and errors it shares."""
    return Term(metric.name, lambda outputs, batch: outputs, mask=metric.mask)


def _as_mean(term: Term) -> Term:
    denominator = "weights" if term.denominator == "weights" else "count"
    return replace(term, denominator=denominator, coefficient=1.0)


def _as_floating(values: object) -> object:
    """Metrics may count in bools and integers."""
    if isinstance(values, torch.Tensor) and not values.is_floating_point():
        return values.double()
    return values
