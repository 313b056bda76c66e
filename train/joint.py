"""Several sources trained on jointly, each on its own axis, in exact integer ratios.

Nominal time of the joint axis counts the samples of all sources. Where each source stands at time t is a function of t
alone: with ratios {"a": 4, "b": 1}, every five samples of the joint axis are four of a and one of b, in a fixed
pattern; so minibatches may have any size, and seeking needs no history.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from minibatch import MinibatchSource
from minibatch.arguments import checked_integer
from minibatch.batch import Batch
from minibatch.errors import CheckpointError

MAX_PATTERN = 2**16
STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class JointBatch:
    """A step's minibatches by name of their source, those without samples left out.

    nominal_time, nominal_end: of the joint axis.
    """

    parts: Mapping[str, Batch]
    nominal_time: int
    nominal_end: int

    @property
    def num_samples(self) -> int:
        """The samples of all sources."""
        return sum(batch.num_samples for batch in self.parts.values())

    def __bool__(self) -> bool:
        return self.nominal_end > self.nominal_time


class JointSource:
    """Sources by name, of which every minibatch holds samples in the given ratios.

    ratios: positive integers, at most 65,536 in sum; without them one to one. The axis ends before the first minibatch
    that one of the sources cannot fill. The sources must count exactly (not sequences="whole").

    >>> import tempfile
    >>> import numpy as np
    >>> from minibatch import DatasetWriter
    >>> folders = [tempfile.mkdtemp(), tempfile.mkdtemp()]
    >>> for folder in folders:
    ...     with DatasetWriter(folder) as writer:
    ...         writer.write({"x": np.arange(10)})
    >>> a, b = (MinibatchSource(folder, seed=7) for folder in folders)
    >>> joint = JointSource({"a": a, "b": b}, ratios={"a": 4, "b": 1})
    >>> {name: batch.num_samples for name, batch in joint.next_minibatch(40).parts.items()}
    {'a': 32, 'b': 8}
    """

    def __init__(self, sources: Mapping[str, MinibatchSource], ratios: Mapping[str, int] | None = None) -> None:
        if not isinstance(sources, Mapping) or len(sources) < 2:
            raise ValueError(f"a JointSource joins two or more sources by name, got {sources!r}")
        given = dict.fromkeys(sources, 1) if ratios is None else dict(ratios)
        if set(given) != set(sources):
            raise ValueError(f"ratios are for {sorted(given)}, the sources are {sorted(sources)}")
        self.sources = dict(sources)
        self.names = tuple(self.sources)
        self.ratios = {name: checked_integer(given[name], f"ratios[{name!r}]", least=1) for name in self.names}
        if len({id(source) for source in self.sources.values()}) != len(self.sources):
            raise ValueError("a source cannot be joined with itself: make two of them")
        if sum(self.ratios.values()) > MAX_PATTERN:
            raise ValueError(f"the ratios {self.ratios} sum to more than {MAX_PATTERN:,}: divide them")
        self._places = _pattern(self.ratios)
        self._time = 0
        self._ended = False

    @property
    def nominal_time(self) -> int:
        """Where the next minibatch begins on the joint axis."""
        return self._time

    @property
    def seed(self) -> int:
        """The seed of the first source."""
        return self.sources[self.names[0]].seed

    @property
    def arguments(self) -> dict[str, Any]:
        """What the sources were opened with, for comparison."""
        return {"ratios": self.ratios, **{name: source.arguments for name, source in self.sources.items()}}

    def time_of(self, name: str, nominal_time: int) -> int:
        """Where the source `name` stands when the joint axis stands at `nominal_time`.

        Exact: the times of all sources add up to `nominal_time`.
        """
        whole, rest = divmod(nominal_time, sum(self.ratios.values()))
        return whole * self.ratios[name] + bisect_right(self._places[name], rest - 1)

    def next_minibatch(self, minibatch_size: int) -> JointBatch:
        """The samples in the next `minibatch_size` places of the joint axis, by source; falsy at its end."""
        size = checked_integer(minibatch_size, "minibatch_size", least=0)
        begin, end = self._time, self._time + size
        parts: dict[str, Batch] = {}
        for name, source in self.sources.items():
            start, stop = self.time_of(name, begin), self.time_of(name, end)
            if start == stop:
                continue
            if source.nominal_time != start:
                source.seek(start)
            parts[name] = batch = source.next_minibatch(stop - start)
            if batch.nominal_end < stop:  # this one has ended
                self.seek(begin)
                return JointBatch(parts={}, nominal_time=begin, nominal_end=begin)
            if batch.nominal_end > stop:
                self.seek(begin)
                raise ValueError(
                    f"source {name!r} counts whole sequences and gave {batch.nominal_end - start} samples for "
                    f"{stop - start}: joint sources need exact counts, open it with sequences='rows' or 'packed'"
                )
        self._time = end
        return JointBatch(parts=parts, nominal_time=begin, nominal_end=end)

    def seek(self, nominal_time: int) -> None:
        """Stand at `nominal_time` of the joint axis."""
        self._time = checked_integer(nominal_time, "nominal_time", least=0)
        for name, source in self.sources.items():
            source.seek(self.time_of(name, self._time))

    def get_checkpoint_state(self) -> dict[str, Any]:
        """The joint nominal time and the states of the sources, for JSON."""
        return {
            "joint_version": STATE_VERSION,
            "nominal_time": self._time,
            "ratios": self.ratios,
            "sources": {name: source.get_checkpoint_state() for name, source in self.sources.items()},
        }

    def restore_from_checkpoint(self, state: Mapping[str, Any], override: Sequence[str] = ()) -> None:
        """Take over a state; CheckpointError for other names, or ratios unless "ratios" is in `override`.

        With other ratios the sources go on where the new ratios would have brought them.
        """
        if state.get("joint_version") != STATE_VERSION:
            raise CheckpointError(f"this is no state of a JointSource of version {STATE_VERSION}: {state}")
        if set(state["sources"]) != set(self.names):
            raise CheckpointError(
                f"the checkpoint joins the sources {sorted(state['sources'])}, this run {sorted(self.names)}"
            )
        if state["ratios"] != self.ratios and "ratios" not in override:
            raise CheckpointError(
                f"the checkpoint was made with the ratios {state['ratios']}, this run has {self.ratios}: other samples "
                "would follow; pass override=['ratios'] to go on with the new ones"
            )
        mine = [name for name in override if name != "ratios"]
        for name, source in self.sources.items():
            source.restore_from_checkpoint(state["sources"][name], mine)
        self.seek(state["nominal_time"])

    def close(self) -> None:
        """Close all sources."""
        for source in self.sources.values():
            source.close()

    def __enter__(self) -> "JointSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pattern(ratios: Mapping[str, int]) -> dict[str, list[int]]:
    """Which places of one period each source has: spread evenly, by how far each is behind its share.

    >>> _pattern({"a": 3, "b": 1})
    {'a': [0, 1, 3], 'b': [2]}
    """
    # Place number i of a source is due in the middle of the i-th of `ratio` equal parts of the period.
    due = sorted(
        (Fraction(2 * i + 1, ratio), number, name)
        for number, (name, ratio) in enumerate(ratios.items())
        for i in range(ratio)
    )
    places: dict[str, list[int]] = {name: [] for name in ratios}
    for place, (_, _, name) in enumerate(due):
        places[name].append(place)
    return places
