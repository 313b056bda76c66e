"""What a step takes from its source or sources: their next minibatches, and for each the terms, inputs and cuts.

A run with one source has one stream without a name; a `JointSource` gives one for each of its sources.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from minibatch import MinibatchSource, rng
from minibatch.batch import Batch
from minibatch.train.batches import Inputs, Samples, TensorBatch, forward_function
from minibatch.train.cuts import leaves, microbatches
from minibatch.train.gradient import Forward, Part
from minibatch.train.joint import JointBatch, JointSource
from minibatch.train.precision import Precision
from minibatch.train.skips import Skip, kept
from minibatch.train.terms import Share, Term, plan

Source = MinibatchSource | JointSource


def whole_units(samples: int, source: Source | None) -> int:
    """What a source is asked for to give `samples` places of nominal time: packed ones give whole blocks."""
    unit = 1
    if isinstance(source, MinibatchSource):
        unit = source.arguments["block"] or source.arguments["lanes"] or 1
    return -(-samples // unit) * unit


Given = Batch | Mapping[str, Any]


class Taken:
    """The samples of one step, by the number of their stream, and the interval [start, stop) of the run's axis."""

    __slots__ = ("batches", "num_samples", "start", "stop")

    def __init__(self, batches: Mapping[int, Batch | Samples], start: int, stop: int, num_samples: int) -> None:
        self.batches = batches
        self.start = start
        self.stop = stop
        self.num_samples = num_samples

    @property
    def from_elsewhere(self) -> bool:
        """Whether the samples are of no source, so that it has not moved over them."""
        return any(isinstance(batch, Samples) for batch in self.batches.values())


class Streams:
    """The streams of a run: made once. inputs: of all streams, or a mapping from their names.

    leaf_size: where it is given, minibatches are cut into leaves, else into microbatches of `microbatch_size`.
    """

    def __init__(
        self,
        source: Source | None,
        terms: Sequence[Term],
        inputs: Inputs | Mapping[str, Inputs],
        precision: Precision,
        *,
        seed: int,
        microbatch_size: int | None,
        leaf_size: int | None,
        device: torch.device,
    ) -> None:
        self.source = source
        self.names: tuple[str | None, ...] = source.names if isinstance(source, JointSource) else (None,)
        self.keys = [0 if name is None else rng.key(seed, f"stream.{name}") for name in self.names]
        self.terms = terms
        self.by_stream = _by_stream(terms, self.names)
        self.forwards: list[Forward] = [
            precision.forward(forward_function(chosen)) for chosen in _one_per_stream(inputs, self.names)
        ]
        self.microbatch_size = microbatch_size
        self.leaf_size = leaf_size
        self.device = device
        self.skips: list[Skip] = []  # intervals of the run's axis whose samples are left out

    def take(self, size: int) -> Taken:
        """The next `size` samples of the source."""
        if self.source is None:
            raise ValueError("this Trainer has no source: give the samples of the step to train_minibatch")
        batch = self.source.next_minibatch(size)
        return self._taken(batch)

    def given(self, given: Given | JointBatch, time: int) -> Taken:
        """The samples of a step that somebody else has chosen."""
        if isinstance(given, Batch | JointBatch):
            return self._taken(given)
        if not isinstance(given, Mapping) or not given:
            raise TypeError(f"expected a Batch, or a mapping from fields to arrays, got {type(given).__name__}")
        if self.names == (None,):
            samples = Samples(given, time=time)
            return Taken({0: samples}, samples.nominal_time, samples.nominal_end, samples.num_samples)
        if set(given) != set(self.names):
            raise ValueError(
                f"expected the samples of every source, {', '.join(map(str, self.names))}; got {list(given)}"
            )
        batches = {number: Samples(given[str(name)], time=time) for number, name in enumerate(self.names)}
        count = sum(batch.num_samples for batch in batches.values())
        return Taken(batches, time, time + count, count)

    def _taken(self, batch: Batch | JointBatch) -> Taken:
        if isinstance(batch, Batch):
            if self.names != (None,):
                raise TypeError("this run has several sources: give a JointBatch, or a mapping from their names")
            batches: dict[int, Batch | Samples] = {0: batch}
        else:
            batches = {number: batch.parts[str(name)] for number, name in enumerate(self.names) if name in batch.parts}
        return Taken(batches, batch.nominal_time, batch.nominal_end, batch.num_samples)

    def parts(self, taken: Taken, nominal_size: int, before: Callable[[int, int], None] | None = None) -> list[Part]:
        """What the gradient of the step is made of; weights and masks are checked here.

        nominal_size: the minibatch size asked for, of all streams together. before: see `Part`.
        """
        parts = []
        for number, samples in taken.batches.items():
            host = TensorBatch(samples)
            if self.skips:
                keep = kept(host.times, self._skips_of(number))
                if keep is not None:
                    host = host.thinned(keep)
            size = self._share_of(number, nominal_size, taken.start)
            shares = [plan(term, host, nominal_size=size, time=taken.start) for term in self.by_stream[number]]
            batch = host if self.device.type == "cpu" else host.on(self.device)
            if self.leaf_size is None:
                cuts = microbatches(host.num_samples, self.microbatch_size)
            else:
                cuts = leaves(host.places, self.leaf_size)
            parts.append(
                Part(
                    batch=batch,
                    shares=shares,
                    forward=self.forwards[number],
                    cuts=cuts,
                    stream=self.keys[number],
                    before_microbatch=before,
                )
            )
        return parts

    def intervals(self, taken: Taken) -> tuple[tuple[str, int, int, int], ...]:
        """Of several sources the name, the interval of its own axis and the number of samples of each; else empty."""
        if len(self.names) == 1:
            return ()
        return tuple(
            (str(self.names[number]), batch.nominal_time, batch.nominal_end, batch.num_samples)
            for number, batch in taken.batches.items()
        )

    def shares_of(self, parts: Sequence[Part]) -> list[Share]:
        """The shares of a step in the order of the run's terms; those of streams without samples are absent."""
        found = [share for part in parts for share in part.shares]
        if len(found) == len(self.terms) and len(self.names) == 1:
            return found
        present = {share.term.name: share for share in found}
        return [present.get(term.name) or Share(term, 0.0, 0.0, False) for term in self.terms]

    def _skips_of(self, number: int) -> list[Skip]:
        """The skips in the nominal times of a stream."""
        if not isinstance(self.source, JointSource):
            return self.skips
        name, source = self.source.names[number], self.source
        stretches = [(source.time_of(name, skip.start), source.time_of(name, skip.stop)) for skip in self.skips]
        return [Skip(start=start, stop=stop) for start, stop in stretches if start < stop]

    def _share_of(self, number: int, nominal_size: int, start: int) -> int:
        """How much of the nominal minibatch size is this stream's."""
        if not isinstance(self.source, JointSource):
            return nominal_size
        name = self.source.names[number]
        return self.source.time_of(name, start + nominal_size) - self.source.time_of(name, start)


def _by_stream(terms: Sequence[Term], names: tuple[str | None, ...]) -> list[tuple[Term, ...]]:
    """The terms of every stream; ValueError for a term of no stream, or a stream without terms."""
    for term in terms:
        if names == (None,) and term.stream is not None:
            raise ValueError(
                f"term {term.name!r} is of the stream {term.stream!r}, but the run has one source without a name: "
                "leave stream= out, or pass a JointSource"
            )
        if term.stream not in names:
            raise ValueError(
                f"term {term.name!r} is of the stream {term.stream!r}; the sources are {', '.join(map(str, names))}: "
                "say with stream= which of them"
            )
    found = [tuple(term for term in terms if term.stream == name) for name in names]
    for name, mine in zip(names, found, strict=True):
        if not mine:
            raise ValueError(f"no term is of the source {name!r}: its samples would be read for nothing")
    return found


def _one_per_stream(inputs: Any, names: tuple[str | None, ...]) -> list[Inputs]:
    if not isinstance(inputs, Mapping):
        return [inputs] * len(names)
    if set(inputs) != set(names):
        raise ValueError(f"inputs are given for {sorted(map(str, inputs))}, the sources are {names}")
    return [inputs[name] for name in names]
