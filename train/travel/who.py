"""Which rows were in a step, and in which steps a row was: from the ledger's intervals and the axis alone.

No checkpoint is needed and nothing was recorded for it: a step is an interval of nominal time, and what stands there is
a function of data and seed.
"""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minibatch import Dataset, MinibatchSource
from minibatch.arguments import checked_integer
from minibatch.errors import CheckpointError
from minibatch.laying import length_fields
from minibatch.timeline import Holes, holes_of
from minibatch.train.joint import JointSource
from minibatch.train.ledger import LedgerLine
from minibatch.train.skips import Skip, kept
from minibatch.train.streams import whole_units
from minibatch.train.travel.configured import state_of
from minibatch.train.travel.opening import Past, opened

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class StepRows:
    """The rows of one step, in nominal order: all arrays are (n,), n the rows that its interval touches.

    stream: of a joint source, which of its sources this is about; there is one of these for each.
    rows, times: int64; of a sequence the time of its first element, which may lie before the step. sweeps: int64, None
    where several data sets are mixed and each has sweeps of its own. shards, places: the file that the row lies in, and
    its number there (of joined data sets, in the first of them). elements: of a sequence, how many are in this step.
    left_out: "" for a sample; else why there is none: "skipped time", "skipped row" (by skip= of the source), "dropped"
    (by a transform), or "skipped by the run" (as after a rollback: read, but given no weight).
    """

    line: LedgerLine
    stream: str | None
    rows: Integers
    times: Integers
    sweeps: Integers | None
    shards: tuple[str, ...]
    places: Integers
    elements: Integers | None
    left_out: tuple[str, ...]

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which of them gave a sample: bool (n,)."""
        return np.array([not why for why in self.left_out], np.bool_)


@dataclass(frozen=True, kw_only=True)
class Occurrence:
    """One time that a row comes: in which sweep, in which step (None: in none, or in one that is not written yet).

    left_out: as in `StepRows`; a row that a transform drops is not known as such here.
    """

    stream: str | None
    time: int
    sweep: int
    step: int | None
    left_out: str


def who(past: Past | str | os.PathLike[str], first: int, stop: int | None = None) -> Iterator[StepRows]:
    """The rows of step `first`, or of the steps `first` … `stop` - 1 that the ledger has.

    Raises ValueError if there is no such step, CheckpointError if the data are not those of the run.
    """
    past = opened(past)
    first = checked_integer(first, "step", least=1)
    stop = first + 1 if stop is None else stop
    past.ledger.line_at(first)  # which says what there is
    begin = first
    for end in [*past.borders(first, stop - 1), stop - 1]:  # a resume may have changed what is left out, and transforms
        with past.source(begin) as source:
            check_data(past, source)
            axes, skips = axes_of(source), past.skips(begin)
            for line in past.ledger.between(begin, end + 1):
                for axis in axes:
                    yield axis.step(line, skips)
        begin = end + 1


def when_seen(past: Past | str | os.PathLike[str], row: int, *, stream: str | None = None) -> Iterator[Occurrence]:
    """Every time that the axis shows `row` within the steps of the run, in order; errors as those of `who`.

    stream: of a joint source, the one that the row is of. A packed sequence may be in several steps, one occurrence
    each.
    """
    past = opened(past)
    ledger = past.ledger
    last = ledger.last()
    if last is None:
        raise ValueError(f"{ledger.path} has no step yet")
    borders = past.borders(1, last.step)
    with ExitStack() as stack:
        known: dict[int, tuple[Axis, list[Skip]]] = {}

        def at_step(step: int) -> tuple[Axis, list[Skip]]:
            """The axis as the run had it for `step`, and what it left out: a resume may have changed either."""
            part = bisect_left(borders, step)
            if part not in known:
                opened_source = stack.enter_context(past.source(step))
                check_data(past, opened_source)
                axes = {axis.stream: axis for axis in axes_of(opened_source)}
                if stream not in axes:
                    names = ", ".join(map(str, axes))
                    raise ValueError(f"stream {stream!r}: this run has the streams {names}; say which")
                known[part] = axes[stream], past.skips(step)
            return known[part]

        axis = at_step(last.step)[0]
        source, sweep = axis.source, 0
        while (time := source.when(row, sweep)) < axis.interval(last)[1]:
            end = time + int(axis.lengths(np.array([row]))[0])
            line = ledger.line_at_time(axis.run_time(time))
            place = np.array([time])
            then, skips = at_step(last.step if line is None else line.step)
            why = then.reasons(place, np.array([row]))[0] or then.skipped(place, skips)[0]
            yield Occurrence(
                stream=stream, time=time, sweep=sweep, step=None if line is None else line.step, left_out=why
            )
            while axis.cuts_sequences and line is not None and axis.interval(line)[1] < end:
                line = ledger.line_at_time(line.t1)
                if line is not None:
                    yield Occurrence(stream=stream, time=time, sweep=sweep, step=line.step, left_out=why)
            sweep += 1


class Axis:
    """The axis of a source, or of one of those in a joint source, asked for the rows of steps."""

    def __init__(self, source: MinibatchSource, *, stream: str | None = None, joint: JointSource | None = None) -> None:
        self.source = source
        self.stream = stream
        self.joint = joint
        arguments = source.arguments
        names = length_fields(source.dataset, arguments["length_field"])
        self.mode = "rows" if arguments["sequences"] == "whole" and not names else arguments["sequences"]
        self.cuts_sequences = self.mode in ("packed", "truncated")
        self._names = [] if self.mode == "rows" else names
        self._holes: Holes = holes_of(arguments["skip"], len(source.dataset))
        self._sweep = self._sweep_length()

    def interval(self, line: LedgerLine) -> tuple[int, int]:
        """Where the step of a line begins and ends on this axis."""
        if self.joint is None or self.stream is None:
            return line.t0, line.t1
        return self.joint.time_of(self.stream, line.t0), self.joint.time_of(self.stream, line.t1)

    def run_time(self, time: int) -> int:
        """The place on the axis of the run that shows what stands at `time` of this one."""
        if self.joint is None or self.stream is None:
            return time
        stream, joint = self.stream, self.joint
        # The last place before which no more than `time` samples of this stream stand.
        return (
            bisect_right(
                range((time + 1) * sum(joint.ratios.values()) + 1), time, key=lambda t: joint.time_of(stream, t)
            )
            - 1
        )

    def step(self, line: LedgerLine, skips: Sequence[Skip] = ()) -> StepRows:
        """The rows of the step of a line, of a run with `skips` of its own."""
        t0, t1 = self.interval(line)
        samples = line.samples if self.joint is None else None
        rows, times, why = self._by_rows(t0, t1, samples) if self.mode == "rows" else self._by_reading(t0, t1)
        why = tuple(a or b for a, b in zip(why, self.skipped(times, skips), strict=True))
        shards, places = locate(self.source.dataset, rows)
        return StepRows(
            line=line,
            stream=self.stream,
            rows=rows,
            times=times,
            sweeps=None if self._sweep is None else times // self._sweep,
            shards=shards,
            places=places,
            elements=self._elements(t0, t1, rows, times),
            left_out=why,
        )

    def lengths(self, rows: Integers) -> Integers:
        """How many places of nominal time each row takes: int64 (n,)."""
        return self.source.dataset.lengths(rows, self._names) if self._names else np.ones(len(rows), np.int64)

    def reasons(self, times: Integers, rows: Integers) -> tuple[str, ...]:
        """Why each of the given places gives no sample; "" where it does."""
        if not self._holes:
            return ("",) * len(rows)
        row = np.isin(rows, self._holes.rows)
        kept = self._holes.kept(times, rows)
        return tuple("" if k else "skipped row" if r else "skipped time" for k, r in zip(kept, row, strict=True))

    def skipped(self, times: Integers, skips: Sequence[Skip]) -> tuple[str, ...]:
        """Which of the given times the run itself leaves out: why, or ""."""
        if self.joint is not None and self.stream is not None:
            stream, joint = self.stream, self.joint
            bounds = [(joint.time_of(stream, skip.start), joint.time_of(stream, skip.stop)) for skip in skips]
            skips = [Skip(start=start, stop=stop) for start, stop in bounds if start < stop]
        keep = kept(times, skips)
        return ("",) * len(times) if keep is None else tuple("" if k else "skipped by the run" for k in keep)

    def _by_rows(self, t0: int, t1: int, samples: int | None) -> tuple[Integers, Integers, tuple[str, ...]]:
        """Without reading a row, unless a transform has dropped some, or might have."""
        times = np.arange(t0, t1, dtype=np.int64)
        rows = self.source.at(t0, t1 - t0)
        why = self.reasons(times, rows)
        known = sum(not each for each in why)
        if known and known != samples and (samples is not None or self.source.arguments["transforms"]):
            self.source.seek(t0)
            left = set(self.source.next_minibatch(t1 - t0).times.tolist())
            gone = (each or ("" if time in left else "dropped") for each, time in zip(why, times.tolist(), strict=True))
            why = tuple(gone)
        return rows, times, why

    def _by_reading(self, t0: int, t1: int) -> tuple[Integers, Integers, tuple[str, ...]]:
        """Sequences: what the source gives; what is left out of it is not told from what was never there."""
        self.source.seek(t0)
        batch = self.source.next_minibatch(whole_units(t1 - t0, self.source))
        return batch.rows, batch.times, ("",) * len(batch.rows)

    def _elements(self, t0: int, t1: int, rows: Integers, times: Integers) -> Integers | None:
        if self.mode in ("rows", "truncated") or not self._names:
            return None
        ends = times + self.lengths(rows)
        return np.asarray(ends if self.mode == "whole" else np.minimum(ends, t1)) - np.maximum(times, t0)

    def _sweep_length(self) -> int | None:
        """How long a sweep is; None for mixtures, whose sources have their own, and lanes, which overlap them."""
        source = self.source
        if source.sources or self.mode == "truncated":
            return None
        if self.mode == "rows":
            return len(source.dataset)
        return source.when(int(source.order.rows_at(len(source.dataset), 1)[0]), sweep=1)


def axes_of(source: MinibatchSource | JointSource) -> list[Axis]:
    """The axes of a source: one, or one of each stream."""
    if isinstance(source, JointSource):
        return [Axis(each, stream=name, joint=source) for name, each in source.sources.items()]
    return [Axis(source)]


def locate(dataset: Dataset, rows: Integers) -> tuple[tuple[str, ...], Integers]:
    """The shard of each row, and its number in it: file names, int64 (n,).

    Of a view, where its rows are stored; of joined data sets, in the first; of several folders, with the folder.

    >>> import tempfile
    >>> from minibatch import DatasetWriter
    >>> folder = tempfile.mkdtemp()
    >>> with DatasetWriter(folder, chunk_rows=2, shard_rows=4) as writer:
    ...     writer.write({"x": np.arange(10)})
    >>> shards, places = locate(Dataset.open(folder), np.array([5, 0]))
    >>> shards[0] != shards[1], places.tolist()
    (True, [1, 0])
    """
    part = dataset.parts[0]
    stored = dataset.stored_rows(part, rows)
    several = len(part.chunks.places) > 1
    names, sizes = [], []
    for place in part.chunks.places:
        for shard in place.manifest.shards:
            names.append(str(place.folder / shard.file) if several else shard.file)
            sizes.append(shard.rows)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
    which = np.searchsorted(starts, stored, side="right") - 1
    return tuple(names[i] for i in which.tolist()), stored - starts[which]


def check_data(past: Past, source: MinibatchSource | JointSource) -> None:
    """Return if the data, seed and order are those that the run's newest checkpoint names; else CheckpointError."""
    for saved in reversed(past.checkpoints()):
        said: Any = (state_of(saved.path) or {}).get("source")
        if isinstance(source, JointSource):
            theirs = (said or {}).get("sources", {})
            pairs: list[tuple[Any, MinibatchSource]] = [
                (theirs.get(name), each) for name, each in source.sources.items()
            ]
        else:
            pairs = [(said, source)]
        if not all(state and "fingerprint" in state for state, _ in pairs):
            continue
        for state, each in pairs:
            mine = each.get_checkpoint_state()
            names = ("fingerprint", "seed", "order", "order_version")
            unlike = [name for name in names if state.get(name) != mine[name]]
            if unlike:
                sides = (", ".join(f"{name} {side.get(name)}" for name in unlike) for side in (state, mine))
                raise CheckpointError(
                    f"the run {past.folder} read other data: {next(sides)}; {each.dataset.name} has {next(sides)}"
                )
        return
